#!/usr/bin/env python3
"""Writes fixtures/gguf: two tiny GGUF models of random weights, and what transformers 4.52.3 computes from their dequantised weights.

    python tools/make_gguf_fixture.py            (numpy, torch, transformers, gguf 0.19.0, safetensors)

NAME.gguf is the model, NAME.safetensors holds `input_ids [S]`, `logits [S, vocab]` of one prefill, and for every text of its metadata
(`text.0`, ...) the ids that the transformers tokenizer makes of it (`ids.0`, ...)."""
import pathlib
import numpy as np
import torch
from gguf import GGMLQuantizationType as T, GGUFWriter, GGML_QUANT_SIZES, TokenType, quantize
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures/gguf"
LETTERS = [c for _, c in sorted(bytes_to_unicode().items())]
MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ a", "e r", "1 2", "12 3", "o n", "Ġ s", "Ċ Ċ"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = ["the other thing, in 1234 ways", "<|im_start|>user\nDon't\n\nstop  <|im_end|>", "Grüße 日本 😀 I'LL 12.5"]
TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
rng = np.random.default_rng(11)


def blocks(shape, kind):
    """Random weights of about the size 0.05 in a layout."""
    if kind in (T.Q4_K, T.Q5_K, T.Q6_K):
        # The Python package does not make these; any bits with sensible scales are weights too.
        length, size = GGML_QUANT_SIZES[kind]
        n = shape[0] * shape[1] // length
        raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
        if kind == T.Q6_K:
            raw[:, 208:] = np.full(n, 2.5e-5, np.float16).view(np.uint8).reshape(-1, 2)
        else:
            steps = 16 if kind == T.Q4_K else 32
            raw[:, :2] = np.full(n, 0.006 / steps, np.float16).view(np.uint8).reshape(-1, 2)
            raw[:, 2:4] = np.full(n, 0.003, np.float16).view(np.uint8).reshape(-1, 2)
        return raw.reshape(shape[0], -1)
    x = (rng.standard_normal(shape) * 0.05).astype(np.float32)
    if kind == T.F32:
        return x
    return x.astype(np.float16) if kind == T.F16 else quantize(x, kind)


def make(name, arch, pre, hidden, heads, kv, mlp, layers, kinds, tied):
    writer = GGUFWriter(OUT / f"{name}.gguf", arch)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    dim = hidden // heads
    if arch == "llama":
        writer.add_rope_dimension_count(dim)
    made = [m.replace(" ", "") for m in MERGES]
    tokens = SPECIAL + LETTERS + made
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    def add(tensor, shape, kind):
        writer.add_tensor(tensor, blocks(shape, kind), raw_dtype=kind)

    def vector(tensor, n, around):
        writer.add_tensor(tensor, (around + 0.1 * rng.standard_normal(n)).astype(np.float32))

    add("token_embd.weight", (len(tokens), hidden), kinds["embed"])
    vector("output_norm.weight", hidden, 1.0)
    if not tied:
        add("output.weight", (len(tokens), hidden), kinds["head"])
    for i in range(layers):
        p = f"blk.{i}."
        vector(p + "attn_norm.weight", hidden, 1.0)
        vector(p + "ffn_norm.weight", hidden, 1.0)
        for part, rows in [("q", heads * dim), ("k", kv * dim), ("v", kv * dim)]:
            add(f"{p}attn_{part}.weight", (rows, hidden), kinds[part])
            if arch == "qwen2":
                vector(f"{p}attn_{part}.bias", rows, 0.0)
        add(p + "attn_output.weight", (hidden, heads * dim), kinds["o"])
        add(p + "ffn_gate.weight", (mlp, hidden), kinds["gate"])
        add(p + "ffn_up.weight", (mlp, hidden), kinds["up"])
        add(p + "ffn_down.weight", (hidden, mlp), kinds["down"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    model = AutoModelForCausalLM.from_pretrained(OUT, gguf_file=f"{name}.gguf", torch_dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(OUT, gguf_file=f"{name}.gguf")
    if pre == "smollm":
        # transformers' reader of GGUF files does not know this kind; SmolLM2's own tokenizer.json has these two.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    ids = torch.from_numpy(rng.integers(0, len(tokens), 40))
    ids[0] = 1
    with torch.inference_mode():
        logits = model(ids[None]).logits[0]
    out = {"input_ids": ids, "logits": logits.contiguous()}
    for i, text in enumerate(TEXTS):
        out[f"ids.{i}"] = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    save_file(out, OUT / f"{name}.safetensors", metadata={f"text.{i}": t for i, t in enumerate(TEXTS)})
    print(name, (OUT / f"{name}.gguf").stat().st_size, "largest logit", logits.abs().max().item())


make("llama-tiny", "llama", "smollm", 64, 4, 2, 96, 2, tied=True, kinds=dict(
    embed=T.Q8_0, q=T.Q4_0, k=T.Q5_0, v=T.Q4_1, o=T.Q5_1, gate=T.Q8_0, up=T.F16, down=T.BF16))
make("qwen2-tiny", "qwen2", "qwen2", 256, 4, 1, 256, 1, tied=False, kinds=dict(
    embed=T.Q5_0, q=T.Q4_K, k=T.Q5_K, v=T.Q6_K, o=T.Q4_K, gate=T.Q5_K, up=T.Q4_K, down=T.Q6_K, head=T.Q6_K))
