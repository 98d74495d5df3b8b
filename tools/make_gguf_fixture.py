#!/usr/bin/env python3
"""Writes fixtures/gguf: four tiny GGUF models of random weights, and what transformers 4.52.3 computes from their dequantised weights.

    python tools/make_gguf_fixture.py            (numpy, torch, transformers, gguf 0.19.0, safetensors)

NAME.gguf is the model, NAME.safetensors holds `input_ids [S]`, `logits [S, vocab]` of one prefill, and for every text of its metadata
(`text.0`, ...) the ids that the transformers tokenizer makes of it (`ids.0`, ...)."""
import pathlib
import numpy as np
import torch
from gguf import GGMLQuantizationType as T, GGUFReader, GGUFWriter, GGML_QUANT_SIZES, TokenType, dequantize, quantize
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
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


def by_class(name, arch, hidden, heads, kv, dim, mlp, layers, experts, vocab):
    """transformers 4.52.3 does not read GGUF files of Qwen3: its model, filled tensor by tensor."""
    sizes = dict(hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv, head_dim=dim, intermediate_size=mlp, vocab_size=vocab,
                 num_hidden_layers=layers, rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=512, tie_word_embeddings=False)
    if arch == "qwen3moe":
        sizes |= dict(num_experts=experts, num_experts_per_tok=2, moe_intermediate_size=mlp, norm_topk_prob=True)
    model = (Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes)) if arch == "qwen3moe" else Qwen3ForCausalLM(Qwen3Config(**sizes))).eval()
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head", "attn_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate"}
    state = {}
    for t in GGUFReader(OUT / f"{name}.gguf").tensors:
        values = torch.from_numpy(np.array(dequantize(t.data, t.tensor_type)).reshape(tuple(reversed(t.shape.tolist()))).copy())
        parts = t.name.removesuffix(".weight").split(".")
        place = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        if parts[-1].endswith("_exps"):
            part = parts[-1].removeprefix("ffn_").removesuffix("_exps")
            state |= {f"{place}mlp.experts.{e}.{part}_proj.weight": v for e, v in enumerate(values)}
        else:
            state[f"{place}{names[parts[-1]]}.weight"] = values
    model.load_state_dict(state, strict=True)
    return model


def make(name, arch, pre, hidden, heads, kv, mlp, layers, kinds, tied, dim=None, experts=0):
    writer = GGUFWriter(OUT / f"{name}.gguf", arch)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    dim = dim or hidden // heads
    if arch.startswith("qwen3"):
        writer.add_key_length(dim)
        writer.add_value_length(dim)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(mlp)
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
        if arch.startswith("qwen3"):
            vector(p + "attn_q_norm.weight", dim, 1.0)
            vector(p + "attn_k_norm.weight", dim, 1.0)
        shapes = {"gate": (mlp, hidden), "up": (mlp, hidden), "down": (hidden, mlp)}
        if experts:
            add(p + "ffn_gate_inp.weight", (experts, hidden), T.F32)
            for part, (rows, columns) in shapes.items():
                together = blocks((experts * rows, columns), kinds[part])
                writer.add_tensor(f"{p}ffn_{part}_exps.weight", together.reshape(experts, rows, -1), raw_dtype=kinds[part])
        else:
            for part, shape in shapes.items():
                add(f"{p}ffn_{part}.weight", shape, kinds[part])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    if arch.startswith("qwen3"):
        model = by_class(name, arch, hidden, heads, kv, dim, mlp, layers, experts, len(tokens))
    else:
        model = AutoModelForCausalLM.from_pretrained(OUT, gguf_file=f"{name}.gguf", torch_dtype=torch.float32).eval()
    # Qwen3's tokenizer is Qwen2's.
    tokenizer = AutoTokenizer.from_pretrained(OUT, gguf_file=("qwen2-tiny" if arch.startswith("qwen3") else name) + ".gguf")
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
make("qwen3-tiny", "qwen3", "qwen2", 64, 4, 2, 96, 2, tied=False, dim=32, kinds=dict(
    embed=T.Q8_0, q=T.Q8_0, k=T.Q4_1, v=T.Q5_0, o=T.Q8_0, gate=T.Q5_1, up=T.Q8_0, down=T.Q4_0, head=T.F16))
make("qwen3moe-tiny", "qwen3moe", "qwen2", 256, 4, 2, 256, 1, tied=False, dim=32, experts=4, kinds=dict(
    embed=T.Q4_0, q=T.Q4_0, k=T.Q4_0, v=T.Q4_0, o=T.Q4_0, gate=T.Q4_K, up=T.Q5_0, down=T.Q6_K, head=T.Q4_0))
