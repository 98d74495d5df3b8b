"""What the generators of tiny checkpoints share: random weights with planted massive activations, a tokenizer of bytes,
pictures."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

FIRST_BYTE = 10
EARLY, LATE = 1, FIRST_BYTE + ord("?")  # ids with a massive activation: from the embedding on, and after layer 1


def fill(model, seed, decoder, outputs, noise=0.02):
    """Random weights, rounded to bf16 so that the file may be half as long. The residual stream stays small, so that
    the median does; `outputs` are the last layers of the towers."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            r = torch.randn(p.shape, generator=draw)
            if p.dim() == 1:
                p.copy_(1 + 0.1 * r if "norm" in name.lower() and name.endswith("weight") else 0.2 * r)
            else:
                # Experts are stored together, [experts, out, in].
                p.copy_(r * (p.shape[-1] if "experts" in name else p[0].numel()) ** -0.5)
        for layer in decoder.layers:
            layer.self_attn.o_proj.weight.mul_(10 * noise)
            down = layer.mlp.experts.down_proj if hasattr(layer.mlp, "experts") else layer.mlp.down_proj.weight
            down.mul_(10 * noise)
        for last in outputs:
            last.weight.mul_(3 * noise)
            last.bias.mul_(noise)
        e = decoder.embed_tokens.weight
        e.mul_(noise)
        e[EARLY, 3], e[EARLY, 17], e[LATE, 9] = 900.0, -300.0, 5.0
        mlp = decoder.layers[1].mlp
        for w in (mlp.gate_proj.weight[0], mlp.up_proj.weight[0], mlp.down_proj.weight[:, 0]):
            w.zero_()
        mlp.gate_proj.weight[0, 9] = mlp.up_proj.weight[0, 9] = 1.0
        mlp.down_proj.weight[21, 0] = 20.0
        for p in model.parameters():
            p.copy_(p.bfloat16().float())


def checkpoint(model, out):
    """config.json and model.safetensors, tied heads left out."""
    config = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    (out / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if config.get("tie_word_embeddings") else set()
    state = {k: v.bfloat16().contiguous() for k, v in model.state_dict().items() if k not in tied}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})


def picture(seed, height, width):
    """Bytes `[height, width, 3]`: waves and noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(x / 5 + y / 13 + seed), 127 + 90 * np.cos(y / 4 - seed), (3 * x + 2 * y) % 256]
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def byte_names():
    """The printable character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(0x100 + i) for i, b in enumerate(rest)}


def write_tokenizer(out, vocab, special, template):
    """One token a byte, and the special ones; `<|im_start|>` is the planted sink, as in real models it is one."""
    out.mkdir(parents=True, exist_ok=True)
    names = {name: FIRST_BYTE + b for b, name in byte_names().items()} | special
    taken = set(names.values())
    names |= {f"<{i}>": i for i in range(vocab) if i not in taken}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": i, "content": c, **flags} for c, i in sorted(special.items(), key=lambda kv: kv[1])],
        "pre_tokenizer": level, "post_processor": level, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": dict(sorted(names.items(), key=lambda kv: kv[1])), "merges": [],
        },
    }  # fmt: skip
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n")
    settings = {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": template}
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    end = [special["<|im_end|>"], special["<|endoftext|>"]]
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": end, "do_sample": False}, indent=1) + "\n")


def tokenizer(out):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"), eos_token="<|im_end|>", pad_token="<|endoftext|>")


def clip(seed, frames, height, width):
    """A moving square on a background that stands still, so that some patches do not change."""
    video = np.repeat(picture(seed, height, width)[None], frames, axis=0)
    for i, frame in enumerate(video):
        frame[3 : 3 + height // 3, 2 + 3 * i : 2 + 3 * i + width // 4] = [250, 30 * i, 90]
    return video


def manifest(out, oracle):
    """What was made with what, and the sums of all files."""
    import hashlib

    import transformers

    files = sorted(p for p in out.rglob("*") if p.is_file() and p.name != "manifest.json")
    content = {
        "oracle": oracle,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__, "dtype": "float32"},
        "tolerance": {
            "logits": "2e-4 absolute: float32 sums in another order",
            "embeddings": "1e-4 absolute",
            "pixels": "5e-4 absolute where the files keep halves, else one step of 255",
            "tokens, ids, positions, sinks, relaxed rows, grids": "equal",
        },
        "sha256": {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    (out / "manifest.json").write_text(json.dumps(content, indent=1) + "\n")
