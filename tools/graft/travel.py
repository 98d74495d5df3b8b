"""The base in few bytes, for a machine without network: layers as the wheel's own Q4_1 blocks, rows of the words that the
world has, in pieces of a given size.

    python3 tools/graft/travel.py pack wheel.gguf base outro-graft carry --outro outro --bytes 19000000
    python3 tools/graft/travel.py open carry base        # bf16 numbers of the same tensors, with `kept`, the words' ids

`pack` needs gguf besides torch and safetensors.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, load_file, save, save_file

sys.path.insert(0, str(Path(__file__).parent))
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def opened(raw):
    """Q4_1 blocks [rows, blocks * 20] as numbers."""
    blocks = np.ascontiguousarray(raw).reshape(raw.shape[0], -1, 20)
    d, m = (np.ascontiguousarray(blocks[..., a:a + 2]).view(np.float16).astype(np.float32) for a in (0, 2))
    codes = np.concatenate((blocks[..., 4:] & 15, blocks[..., 4:] >> 4), -1)
    return torch.from_numpy((codes * d + m).reshape(raw.shape[0], -1))


def pack(gguf, base, folder, out, outro, size):
    from gguf import GGUFReader
    from tokenizers import Tokenizer
    from train import clips
    base, tensors = load_file(Path(base) / "model.safetensors"), {}
    for t in GGUFReader(gguf).tensors:
        if not t.name.startswith("blk."):
            continue
        _, layer, name, _ = t.name.split(".")
        target, raw = f"model.layers.{layer}.{NAMES[name]}.weight", np.array(t.data)
        if raw.dtype != np.uint8 or raw.shape[-1] * 32 != base[target].shape[-1] * 20:
            tensors[target] = base[target].bfloat16()
            continue
        if name in ("attn_q", "attn_k"):
            # llama.cpp's order of rows.
            raw = raw.reshape(-1, 32, 2, raw.shape[1]).swapaxes(1, 2).reshape(raw.shape)
        assert torch.equal(opened(raw), base[target]), target
        tensors[target] = torch.from_numpy(np.ascontiguousarray(raw))
    tok = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    ids = set(range(17)) | set(tok.encode("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\nYes No yes no A B C D").ids)
    for level in ("simple", "rich"):
        for clip, *_ in itertools.islice(clips(outro, folder, 1, 0, level), 300):
            for q in clip["questions"]:
                ids |= set(tok.encode(q["prompt"] + "<|im_end|>\n<|im_start|>assistant\n" + q["answer"] + "<|im_end|>").ids)
                ids |= set(tok.encode(q["answer"]).ids)
    kept = torch.tensor(sorted(ids))
    tensors |= {"kept": kept.int(), "model.embed_tokens.weight": base["model.embed_tokens.weight"][kept].bfloat16(),
                "model.norm.weight": base["model.norm.weight"].bfloat16()}
    data = save(tensors)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for i, start in enumerate(range(0, len(data), size)):
        (out / f"base.{i:02}").write_bytes(data[start:start + size])
    print(f"{len(data)} bytes, {len(kept)} words")


def unpack(carry, out):
    data = load(b"".join(f.read_bytes() for f in sorted(Path(carry).glob("base.??"))))
    Path(out).mkdir(parents=True, exist_ok=True)
    save_file({k: opened(v.numpy()).bfloat16() if v.dtype == torch.uint8 else v for k, v in data.items()},
              Path(out) / "model.safetensors")


if __name__ == "__main__":
    if sys.argv[1] == "pack":
        *paths, _, outro, _, size = sys.argv[2:]
        pack(*paths, outro, int(size))
    else:
        unpack(*sys.argv[2:4])
