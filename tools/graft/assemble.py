"""Puts outro-graft together: a Qwen2.5-Omni thinker whose decoder is SmolLM2-135M-Instruct.

    python3 tools/graft/assemble.py base outro-graft [--parts models/outro-graft/parts.safetensors]

`base` is what tools/graft/base.py wrote. Towers are outro-tiny's; the last layer of each (`visual.merger.mlp.2`,
`audio_tower.proj`), the rows of the media tokens and a low-rank adapter of the attention come from PARTS. A Llama decoder
is a Qwen2 decoder whose biases of q, k and v are zero. The adapter's factors are bf16, so their product summed in f64 is
exact, and the file is the same on every machine. Needs torch, safetensors, numpy; no transformers.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
MEDIA = ["<|AUDIO|>", "<|IMAGE|>", "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>", "<|audio_bos|>", "<|audio_eos|>"]
WORDS, ROWS = 49152, 49160
LAYERS, HIDDEN, KV = 30, 576, 192
SEED = 20261127
# Of each tower, what ends in the decoder's width.
ENDS = {"visual.merger.mlp.2": (HIDDEN, 384), "audio_tower.proj": (HIDDEN, 128)}


def first_parts(base_rows):
    """Parts before any training: small random ends, media rows at the mean of the words' rows, no adapter."""
    g = torch.Generator().manual_seed(SEED)
    parts = {}
    for name, shape in ENDS.items():
        parts[f"{name}.weight"] = torch.randn(shape, generator=g) * 0.02
        parts[f"{name}.bias"] = torch.zeros(shape[0])
    size = base_rows.float().std(0)
    parts["rows"] = base_rows.float().mean(0) + torch.randn(len(MEDIA), HIDDEN, generator=g) * size
    return {k: v.bfloat16() for k, v in parts.items()}


def weights(base, parts):
    """Tensors of the thinker, bf16. `base` is a folder, `parts` tensors by name."""
    out = {}
    with safe_open(base / "model.safetensors", "pt") as f:
        for name in f.keys():
            w = f.get_tensor(name)
            target = name.removeprefix("model.").removesuffix(".weight")
            if f"{target}.lora_a" in parts:
                a, b = parts[f"{target}.lora_a"], parts[f"{target}.lora_b"]
                w = (w.double() + b.double() @ a.double()).float()
            out[f"thinker.{name}"] = w.bfloat16()
    rows = torch.zeros(ROWS, HIDDEN, dtype=torch.bfloat16)
    rows[:WORDS] = out["thinker.model.embed_tokens.weight"]
    rows[WORDS: WORDS + len(MEDIA)] = parts["rows"]
    out["thinker.model.embed_tokens.weight"] = rows
    # No answer has a medium's token.
    out["thinker.lm_head.weight"] = torch.cat((rows[:WORDS], torch.zeros_like(rows[WORDS:])))
    for layer in range(LAYERS):
        for name, size in (("q", HIDDEN), ("k", KV), ("v", KV)):
            out[f"thinker.model.layers.{layer}.self_attn.{name}_proj.bias"] = torch.zeros(size, dtype=torch.bfloat16)
    for name, w in load_file(ROOT / "models/outro-tiny/model.safetensors").items():
        if ".visual." in name or ".audio_tower." in name:
            out[name] = w.bfloat16()
    for end in ENDS:
        for kind in ("weight", "bias"):
            out[f"thinker.{end}.{kind}"] = parts[f"{end}.{kind}"].bfloat16()
    # Nobody reads it, but its shape is checked.
    out["thinker.audio_tower.audio_bos_eos_token.weight"] = torch.zeros(2, HIDDEN, dtype=torch.bfloat16)
    return {k: v.contiguous() for k, v in out.items()}


def folder(base, out):
    """Everything but the weights: outro-tiny's files with the decoder's sizes and the base's tokenizer."""
    tiny = ROOT / "models/outro-tiny"
    out.mkdir(parents=True, exist_ok=True)
    read = lambda path: json.loads(path.read_text())  # noqa: E731
    put = lambda name, value: (out / name).write_text(json.dumps(value, indent=1) + "\n")  # noqa: E731
    tok, ids = read(base / "tokenizer.json"), {t: WORDS + i for i, t in enumerate(MEDIA)}
    for text, i in ids.items():
        tok["added_tokens"].append({"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                                    "normalized": False, "special": True})
    (out / "tokenizer.json").write_text(json.dumps(tok, ensure_ascii=False) + "\n")
    cfg = read(tiny / "config.json")
    thinker, llama = cfg["thinker_config"], read(base / "config.json")
    thinker["text_config"] = {
        "model_type": "qwen2_5_omni_text", "hidden_act": "silu", "use_sliding_window": False, "initializer_range": 0.02,
        "vocab_size": ROWS, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
        "rope_scaling": {"mrope_section": [16, 8, 8], "rope_type": "default", "type": "default"},
        **{k: llama[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                 "num_key_value_heads", "rope_theta", "max_position_embeddings")}}
    thinker["vision_config"]["out_hidden_size"] = thinker["audio_config"]["output_dim"] = HIDDEN
    thinker |= {"audio_token_index": ids["<|AUDIO|>"], "image_token_index": ids["<|IMAGE|>"],
                "video_token_index": ids["<|VIDEO|>"], "audio_start_token_id": ids["<|audio_bos|>"],
                "audio_end_token_id": ids["<|audio_eos|>"], "vision_start_token_id": ids["<|vision_bos|>"],
                "vision_end_token_id": ids["<|vision_eos|>"], "pad_token_id": 0, "tie_word_embeddings": False}
    put("config.json", cfg)
    put("generation_config.json", {"eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": False})
    put("preprocessor_config.json", read(tiny / "preprocessor_config.json"))
    card = read(tiny / "tokenizer_config.json")
    card["added_tokens_decoder"] = {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in tok["added_tokens"]}
    put("tokenizer_config.json", card)
    # The paper's thresholds are the program's own defaults: none is named here.
    put("outro.json", {"format": 1, "note": "outro-graft: SmolLM2-135M with the towers of a synthetic world", "system": "",
                       "profile": "option", "media": {"max_pixels": 84 * 84}})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("base", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--parts", type=Path, help="without: as before any training")
    p.add_argument("--sha256", help="what the weights' file must be")
    args = p.parse_args()
    folder(args.base, args.out)
    if args.parts:
        parts = load_file(args.parts)
    else:
        with safe_open(args.base / "model.safetensors", "pt") as f:
            parts = first_parts(f.get_tensor("model.embed_tokens.weight"))
    file = args.out / "model.safetensors"
    save_file(weights(args.base, parts), file, metadata={"format": "pt"})
    from base import sha256
    found = sha256(file)
    print(f"{file}: SHA-256 {found}")
    if args.sha256 and found != args.sha256:
        raise SystemExit(f"the weights are others than expected: {args.sha256}")


if __name__ == "__main__":
    main()
