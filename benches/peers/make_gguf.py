"""Writes a GGUF text model of random blocks in a published size: for timing, its words mean nothing.

    python3 benches/peers/make_gguf.py out.gguf --shape qwen2.5-3b --layers 6 --kind q4_k_m

`q4_k_m` is llama.cpp's mixture: Q6_K for the output head and for half of the v and down projections, Q4_K for the rest.
Needs gguf and numpy.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

SHAPES = json.loads((Path(__file__).parents[2] / "crates/outro/src/shapes.json").read_text())


def blocks(kind, rows, cols, rng):
    """Random blocks whose scales keep the weights at about 1 / sqrt(cols)."""
    size, length = {T.Q8_0: (34, 32), T.Q4_K: (144, 256), T.Q6_K: (210, 256)}[kind]
    n = rows * cols // length
    out = np.resize(rng.integers(0, 256, (4099, size), dtype=np.uint8), (n, size)).copy()
    d = np.float16(1.0 / cols**0.5 / {T.Q8_0: 127, T.Q4_K: 15 * 40, T.Q6_K: 32 * 80}[kind])
    half = np.frombuffer(d.tobytes(), np.uint8)
    if kind == T.Q6_K:
        out[:, 208:210] = half
    else:
        out[:, :2] = half
    if kind == T.Q4_K:
        out[:, 2:4] = np.frombuffer(np.float16(float(d) * 7).tobytes(), np.uint8)
    return out.reshape(rows, -1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path)
    p.add_argument("--shape", default="qwen2.5-3b", choices=SHAPES)
    p.add_argument("--layers", type=int, default=0)
    p.add_argument("--kind", default="q8_0", choices=["q8_0", "q4_k_m"])
    args = p.parse_args()
    c = SHAPES[args.shape]
    arch, layers = c["model_type"], args.layers or c["num_hidden_layers"]
    hidden, heads, kv, inter, vocab = (c[k] for k in ["hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"])
    dim = c.get("head_dim", hidden // heads)
    w = gguf.GGUFWriter(args.out, arch)
    w.add_block_count(layers)
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(inter)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_rope_freq_base(c["rope_theta"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list([f"t{i}" for i in range(vocab)])
    w.add_token_types([1] * vocab)
    w.add_token_merges(["t 0"])
    w.add_eos_token_id(1)
    rng = np.random.default_rng(1)
    small = T.Q8_0 if args.kind == "q8_0" else T.Q4_K
    better = T.Q8_0 if args.kind == "q8_0" else T.Q6_K

    def matrix(name, kind, rows, cols):
        w.add_tensor(name, blocks(kind, rows, cols, rng), raw_dtype=kind)

    matrix("token_embd.weight", small, vocab, hidden)
    matrix("output.weight", better, vocab, hidden)
    w.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for i in range(layers):
        b, more = f"blk.{i}.", better if i % 2 == 0 else small
        w.add_tensor(b + "attn_norm.weight", np.ones(hidden, np.float32))
        w.add_tensor(b + "ffn_norm.weight", np.ones(hidden, np.float32))
        for name, rows, cols, kind in [
            ("attn_q", heads * dim, hidden, small), ("attn_k", kv * dim, hidden, small), ("attn_v", kv * dim, hidden, more),
            ("attn_output", hidden, heads * dim, small), ("ffn_gate", inter, hidden, small), ("ffn_up", inter, hidden, small),
            ("ffn_down", hidden, inter, more)]:
            matrix(f"{b}{name}.weight", kind, rows, cols)
            if arch == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                w.add_tensor(f"{b}{name}.bias", np.zeros(rows, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
