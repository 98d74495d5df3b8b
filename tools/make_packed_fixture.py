"""Writes fixtures/packed: tiny random checkpoints packed as quantisers pack them, and what transformers' models make of a
prompt on the same numbers dequantised in float32, with the method and without it.

    python3 -m venv v && v/bin/pip install torch 'transformers==5.24.0' safetensors 'compressed-tensors==0.20.*' 'bitsandbytes==0.50.*' 'mlx[cpu]==0.32.*'
    OMP_NUM_THREADS=1 v/bin/python tools/make_packed_fixture.py [NAME ...]

compressed-tensors, bitsandbytes and mlx pack with their own code; AWQ, GPTQ and Qwen's FP8 are written out.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/families"))
import tiny  # noqa: E402
from method import attach, both  # noqa: E402

OUT = ROOT / "fixtures/packed"
torch.set_num_threads(1)


# The models.


def text_model(intermediate, seed):
    """A Qwen3 decoder; `intermediate` is the inner size of the last matrix of the MLP."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        hidden_size=128 if intermediate == 160 else 64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=intermediate, vocab_size=80, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    made = Qwen3ForCausalLM._from_config(config, attn_implementation="eager").eval().float()
    tiny.fill(made, seed, made.model, [])
    attach(made.model)
    return made, made.model, {}


def moe_model(_, seed):
    """A Qwen3 decoder with experts."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=32, intermediate_size=96, mlp_only_layers=[1], vocab_size=80,
        max_position_embeddings=512, tie_word_embeddings=False, norm_topk_prob=True, decoder_sparse_step=1,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    made = Qwen3MoeForCausalLM._from_config(config, attn_implementation="eager").eval().float()
    tiny.fill(made, seed, made.model, [])
    attach(made.model)
    return made, made.model, {}


def vision_model(intermediate, seed):
    """A Qwen2.5-VL with the special ids and patches of fixtures/qwen2-5-vl-tiny."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": intermediate, "vocab_size": 300, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 281,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {
        "depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_size": 32,
        "out_hidden_size": 64, "intermediate_size": 40, "in_channels": 3, "window_size": 16, "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=291, video_token_id=292, vision_start_token_id=293,
        vision_end_token_id=294, tie_word_embeddings=False,
    )  # fmt: skip
    made = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager").eval().float()
    tiny.fill(made, seed, made.model.language_model, [made.model.visual.merger.mlp[2]])
    attach(made.model.language_model)
    return made, made.model.language_model, {"model.language_model.": "model.", "model.visual.": "visual."}


def hub_state(made, names):
    """Tensors by their names on the hub; experts apart."""
    state = {}
    for key, value in made.state_dict().items():
        for old, new in names.items():
            if key.startswith(old):
                key = new + key[len(old) :]
                break
        if key.endswith("experts.gate_up_proj"):
            for i, expert in enumerate(value):
                gate, up = expert.chunk(2)
                state[key.replace("gate_up_proj", f"{i}.gate_proj.weight")] = gate.clone()
                state[key.replace("gate_up_proj", f"{i}.up_proj.weight")] = up.clone()
        elif key.endswith("experts.down_proj"):
            for i, expert in enumerate(value):
                state[key.replace("down_proj", f"{i}.down_proj.weight")] = expert.clone()
        else:
            state[key] = value.clone()
    return state


def put_back(made, names, state):
    """The reverse of `hub_state`, into the model."""
    own = made.state_dict()
    with torch.no_grad():
        for key, value in own.items():
            hub = next((new + key[len(old) :] for old, new in names.items() if key.startswith(old)), key)
            if hub.endswith("experts.gate_up_proj"):
                one = lambda i, part: state[hub.replace("gate_up_proj", f"{i}.{part}_proj.weight")]
                value.copy_(torch.stack([torch.cat([one(i, "gate"), one(i, "up")]) for i in range(len(value))]))
            elif hub.endswith("experts.down_proj"):
                value.copy_(torch.stack([state[hub.replace("down_proj", f"{i}.down_proj.weight")] for i in range(len(value))]))
            else:
                value.copy_(state[hub])


def config_of(made):
    """config.json as the hub has it, as far as it matters."""
    config = made.config.to_dict()
    if "text_config" in config:
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        text |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
        config = {**text, **config}
    return config | {"architectures": [type(made).__name__]}


# Numbers.


def rtn(w, bits, groups, dtype, symmetric):
    """Codes `[N, K]`, scales `[N, G]` in `dtype`, zero points `[N, G]`: rounded to the nearest. `groups [K]`."""
    n, count, most = len(w), int(groups.max()) + 1, 2**bits - 1
    scales, zeros = torch.empty(n, count), torch.empty(n, count)
    for g in range(count):
        part = w[:, groups == g]
        low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if symmetric:
            scales[:, g] = part.abs().amax(1) / (2 ** (bits - 1) - 1)
            zeros[:, g] = 2 ** (bits - 1)
        else:
            scales[:, g] = (high - low) / most
            zeros[:, g] = (-low / scales[:, g].clamp(min=1e-6)).round().clamp(1, most)
    scales = scales.clamp(min=1e-4).to(dtype)
    s, z = scales.float()[:, groups], zeros[:, groups]
    q = (w / s + z).round().clamp(0, most)
    return q.int(), scales, zeros.int(), (q - z) * s


def words(q, bits, places=None):
    """Codes along the last axis in words of 32 bits, the first in the lowest bits; `places`: the nibble of each."""
    per = 32 // bits
    q = q.long().reshape(*q.shape[:-1], -1, per)
    shifts = torch.tensor(places or range(per)) * bits
    packed = (q << shifts).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


def in_groups(k, size):
    return torch.arange(k) // size


# The layouts: a matrix's tensors, and the numbers that they are.

AWQ = [0, 4, 1, 5, 2, 6, 3, 7]


def awq(group):
    def pack(stem, w):
        q, s, z, wide = rtn(w, 4, in_groups(w.shape[1], group), torch.float16, False)
        return {"qweight": words(q.T, 4, AWQ), "qzeros": words(z.T, 4, AWQ), "scales": s.T}, wide

    return pack


def gptq(bits, group, symmetric, act_order, v2):
    def pack(stem, w):
        k = w.shape[1]
        g = in_groups(k, group or k)
        if act_order:
            g = g[torch.randperm(k, generator=torch.Generator().manual_seed(k + len(stem)))]
        q, s, z, wide = rtn(w, bits, g, torch.float16, symmetric)
        stored = z if v2 else z - 1
        return {"qweight": words(q, bits).T, "qzeros": words(stored.T, bits),
                "scales": s.T, "g_idx": g.int()}, wide  # fmt: skip

    return pack


def compressed_words(bits, group, symmetric, dtype, act_order=False):
    from compressed_tensors.compressors import pack_to_int32

    def pack(stem, w):
        k = w.shape[1]
        g = in_groups(k, group or k)
        if act_order:
            g = g[torch.randperm(k, generator=torch.Generator().manual_seed(k + len(stem)))]
        q, s, z, wide = rtn(w, bits, g, dtype, symmetric)
        middle = 2 ** (bits - 1)
        out = {"weight_packed": pack_to_int32((q - middle).to(torch.int8), bits), "weight_scale": s, "weight_shape": torch.tensor(w.shape)}
        if not symmetric:
            out["weight_zero_point"] = pack_to_int32((z - middle).to(torch.int8), bits, packed_dim=0).contiguous()
        if act_order:
            out["weight_g_idx"] = g.int()
        return out, wide

    return pack


def eight_bits(float_, block, dtype, scale="weight_scale", asymmetric=False):
    """`block`: "tensor", "channel" or a pair of sizes."""

    def pack(stem, w):
        n, k = w.shape
        high, across = {"tensor": (n, k), "channel": (1, k)}.get(block, block)
        rows, cols = torch.arange(n) // high, torch.arange(k) // across
        s = torch.zeros(int(rows.max()) + 1, int(cols.max()) + 1)
        z = torch.zeros_like(s)
        for i in range(s.shape[0]):
            for j in range(s.shape[1]):
                part = w[rows == i][:, cols == j]
                s[i, j] = part.abs().max() / (448 if float_ else 127)
                if asymmetric:
                    s[i, j] = (part.max() - part.min()) / 255
                    z[i, j] = (-128 - part.min() / s[i, j].to(dtype).float()).round().clamp(-128, 127)
        s = s.clamp(min=1e-5).to(dtype)
        each, zero = s.float()[rows][:, cols], z[rows][:, cols]
        q = (w / each).to(torch.float8_e4m3fn) if float_ else (w / each + zero).round().clamp(-128, 127).to(torch.int8)
        out = {"weight": q, scale: s.reshape(1) if block == "tensor" else s}
        if asymmetric:
            out["weight_zero_point"] = z.to(torch.int8)
        return out, (q.float() - zero) * each

    return pack


def bnb4(kind, nested):
    import bitsandbytes.functional as F

    def pack(stem, w):
        packed, state = F.quantize_4bit(w.bfloat16(), blocksize=64, compress_statistics=nested, quant_type=kind)
        out = {f"weight.{k}" if k != "weight" else k: v for k, v in state.as_dict(packed=True).items()}
        absmax = state.absmax
        if nested:
            inner = state.state2
            absmax = inner.code[state.absmax.long()] * inner.absmax.repeat_interleave(inner.blocksize)[: len(absmax)] + state.offset
        flat = packed.flatten().long()
        q = torch.stack([flat >> 4, flat & 15], 1).flatten()[: w.numel()]
        wide = (state.code[q] * absmax.repeat_interleave(64)[: w.numel()]).reshape(w.shape)
        own = F.dequantize_4bit(packed, state).float()
        if w.shape[1] % 64 == 0:
            assert (own - wide).abs().max() <= 2**-8 * wide.abs().max(), stem
        return {"weight": packed, **out}, wide

    return pack


def bnb8(stem, w):
    import bitsandbytes.functional as F

    q, scb, _ = F.int8_vectorwise_quant(w.half())
    wide = q.float() * (scb.float() / 127)[:, None]
    return {"weight": q, "SCB": scb.float(), "weight_format": torch.tensor(0, dtype=torch.uint8)}, wide


def mlx(bits, group):
    import mlx.core as mx
    import numpy as np

    def pack(stem, w):
        q, s, b = mx.quantize(mx.array(w.numpy()).astype(mx.bfloat16), group_size=group, bits=bits)
        wide = mx.dequantize(q, s.astype(mx.float32), b.astype(mx.float32), group_size=group, bits=bits)
        narrow = lambda x: torch.from_numpy(np.array(x.astype(mx.float32))).bfloat16()
        wide = torch.from_numpy(np.array(wide))
        codes = torch.from_numpy(np.array(q).view(np.int32)).view(torch.uint32)
        return {"weight": codes, "scales": narrow(s), "biases": narrow(b)}, wide

    return pack


# What is made.


def ct(fmt, **weights):
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": None, "actorder": None, "dynamic": False} | weights
    group = {"targets": ["Linear"], "format": None, "weights": weights, "input_activations": None, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": fmt, "config_groups": {"group_0": group}, "ignore": ["lm_head", "re:.*visual.*"], "kv_cache_scheme": None, "quantization_status": "compressed"}  # fmt: skip


def gptq_config(**more):
    return {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True, "checkpoint_format": "gptq", "lm_head": False, "meta": {"quantizer": "fixture"}} | more  # fmt: skip


BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
AWQ_CONFIG = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm", "modules_to_not_convert": ["visual"]}
BNB4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_quant_storage": "uint8", "llm_int8_skip_modules": ["visual", "lm_head"]}
MLX = {"group_size": 32, "bits": 4, "mode": "affine"}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "ignored_layers": ["lm_head"]}
# Model, inner size, how matrices are packed, what config.json says, in what plain tensors are stored.
MADE = {
    "awq-text": (text_model, 160, awq(32), AWQ_CONFIG, F16),
    "awq-vision": (vision_model, 96, awq(32), AWQ_CONFIG, F16),
    "gptq-order": (text_model, 160, gptq(4, 128, False, True, False), gptq_config(desc_act=True, sym=False), F16),
    "gptq-v2-vision": (vision_model, 96, gptq(4, 32, False, False, True), gptq_config(group_size=32, sym=False, checkpoint_format="gptq_v2"), F16),
    "gptq-8": (text_model, 96, gptq(8, 0, True, False, False), gptq_config(bits=8, group_size=-1), F16),
    "ct-w4-zeros": (vision_model, 96, compressed_words(4, 32, False, BF16), ct("pack-quantized", symmetric=False, group_size=32), BF16),
    "ct-w4-channel": (text_model, 75, compressed_words(4, None, False, BF16), ct("pack-quantized", symmetric=False, strategy="channel"), BF16),
    "ct-w4-order": (text_model, 96, compressed_words(4, 32, True, BF16, True), ct("pack-quantized", group_size=32, actorder="group"), BF16),
    "ct-w8": (text_model, 96, compressed_words(8, 32, True, F16), ct("pack-quantized", num_bits=8, group_size=32), F16),
    "ct-experts": (moe_model, 0, compressed_words(4, 32, True, BF16), ct("pack-quantized", group_size=32), BF16),
    "ct-int8": (text_model, 75, eight_bits(False, "channel", BF16), ct("int-quantized", num_bits=8, strategy="channel"), BF16),
    "ct-naive": (text_model, 96, eight_bits(False, (1, 32), BF16, asymmetric=True), ct("naive-quantized", num_bits=8, symmetric=False, group_size=32), BF16),
    "ct-fp8": (vision_model, 96, eight_bits(True, "channel", BF16), ct("float-quantized", num_bits=8, type="float", strategy="channel"), BF16),
    "ct-fp8-block": (text_model, 96, eight_bits(True, (48, 32), F32), ct("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[48, 32]), BF16),
    "fp8-block": (text_model, 160, eight_bits(True, (128, 128), BF16, "weight_scale_inv"), FP8 | {"weight_block_size": [128, 128]}, BF16),
    "fp8-tensor": (text_model, 75, eight_bits(True, "tensor", F32), FP8, BF16),
    "bnb-nf4": (vision_model, 96, bnb4("nf4", True), BNB4, BF16),
    "bnb-fp4": (text_model, 75, bnb4("fp4", False), BNB4 | {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}, BF16),
    "bnb-int8": (text_model, 96, bnb8, {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"]}, F16),
    "mlx-4": (vision_model, 96, mlx(4, 32), MLX, BF16),
    "mlx-experts": (moe_model, 0, mlx(4, 32), MLX, BF16),
    "mlx-8": (text_model, 128, mlx(8, 64), {"group_size": 64, "bits": 8}, BF16),
}  # fmt: skip


def is_packed(name, key, value):
    if value.dim() != 2 or not key.endswith(".weight"):
        return False
    if name.startswith("mlx"):
        return value.shape[1] % (32 if "experts" in key else 64) == 0
    return ".layers." in key and key.endswith("_proj.weight")


def stacked(file):
    """Experts as MLX keeps them: those of a layer in one tensor."""
    together, pattern = {}, re.compile(r"(.*)\.experts\.(\d+)\.(.*)")
    for key, value in file.items():
        found = pattern.fullmatch(key)
        if found:
            together.setdefault(f"{found[1]}.switch_mlp.{found[3]}", {})[int(found[2])] = value
        else:
            together[key] = value
    return {k: torch.stack([v[i] for i in sorted(v)]) if isinstance(v, dict) else v for k, v in together.items()}


def save(name, made, names, pack, says, dtype, out):
    """The checkpoint; the model gets its numbers."""
    state, file, wide = hub_state(made, names), {}, {}
    for key, value in state.items():
        stem = key.removesuffix(".weight")
        if is_packed(name, key, value):
            parts, wide[key] = pack(stem, value)
            file |= {f"{stem}.{part}": tensor.contiguous() for part, tensor in parts.items()}
        else:
            file[key] = value.to(dtype).contiguous()
            wide[key] = file[key].float()
    config = config_of(made)
    if name.startswith("mlx"):
        config |= {"quantization": says, "quantization_config": says}
        file = stacked(file)
        if "vision_config" in config:
            turned = {}
            for key, value in file.items():
                if key == "visual.patch_embed.proj.weight":
                    value = value.permute(0, 2, 3, 4, 1).contiguous()
                for old, new in (("visual.", "vision_tower."), ("model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")):
                    if key.startswith(old):
                        key = new + key[len(old) :]
                        break
                turned[key] = value
            file = turned
    else:
        config["quantization_config"] = says
    (out / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")
    save_file(file, out / "model.safetensors", metadata={"format": "mlx" if name.startswith("mlx") else "pt"})
    put_back(made, names, wide)


def prompts(model_of):
    """Inputs, stored and given, and positions."""
    if model_of is not vision_model:
        for seed in range(20):
            ids = torch.randint(10, 70, (1, 14), generator=torch.Generator().manual_seed(seed))
            ids[0, 0], ids[0, 9] = tiny.EARLY, tiny.LATE
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, None
        return
    for number in (1, 0, 2, 4, 3):
        with safe_open(ROOT / f"fixtures/qwen2-5-vl-tiny/cases/image-{number}.safetensors", "pt") as f:
            inputs = {k.removeprefix("input."): f.get_tensor(k) for k in f.keys() if k.startswith("input.")}
            yield inputs, f.get_tensor("position_ids")[:, None]


def make(name):
    model_of, inner, pack, says, dtype = MADE[name]
    out = OUT / name
    out.mkdir(parents=True, exist_ok=True)
    made, decoder, names = model_of(inner, 31 + len(name))
    save(name, made, names, pack, says, dtype, out)
    for stored, positions in prompts(model_of):
        result, meta = {f"input.{k}": v for k, v in stored.items()}, {}
        inputs = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
        if positions is not None:
            ids = inputs["input_ids"]
            inputs["mm_token_type_ids"] = (ids == 291).int() + 2 * (ids == 292).int()
            result["position_ids"] = positions[:, 0]
        if both(made, decoder, inputs, result, meta, positions=positions):
            save_file({k: v.contiguous() for k, v in result.items()}, out / "case.safetensors", metadata=meta)
            size = sum(p.stat().st_size for p in out.iterdir())
            print(name, size, "sinks", re.sub(r"\s", "", meta["sinks"]))
            return
    raise SystemExit(f"{name}: every prompt's greedy choice hangs by a thread")


if __name__ == "__main__":
    names = sys.argv[1:] or MADE
    if not sys.argv[1:]:
        shutil.rmtree(OUT, ignore_errors=True)
    for name in names:
        make(name)
