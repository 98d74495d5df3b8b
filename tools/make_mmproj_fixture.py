#!/usr/bin/env python3
"""Writes fixtures/mmproj: the tiny checkpoints of fixtures/ as llama.cpp's converter writes such models, the language model in one GGUF
file (or parts of one), the towers in another (mmproj).

    python tools/make_mmproj_fixture.py [FOLDER...]  (numpy, gguf 0.19.0, safetensors, torch for bf16)

Tensors have the numbers of the checkpoints, so answers are the same. Two things have no place in these files: layers without experts
among others with (layers 1 and 4 of qwen3-omni-tiny and qwen3-vl-moe-tiny get those of layer 0 here), and `n_window_infer` (800 here)."""
import json
import pathlib
import re
import shutil
import sys

import numpy as np
import torch
from gguf import GGMLQuantizationType as T, GGUFWriter, TokenType, quantize
from safetensors.torch import load_file

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
OUT = FIXTURES / "mmproj"

LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps", "mlp.experts.up_proj": "ffn_up_exps", "mlp.experts.down_proj": "ffn_down_exps",
}
BLOCK = {
    "norm1": "ln1", "norm2": "ln2", "attn.proj": "attn_out", "attn.qkv": "attn_qkv", "attn.q": "attn_q", "attn.k": "attn_k", "attn.v": "attn_v",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "mlp.linear_fc1": "ffn_up", "mlp.linear_fc2": "ffn_down",
}
VISION = {
    "pos_embed": "v.position_embd", "merger.ln_q": "v.post_ln", "merger.norm": "v.post_ln", "merger.mlp.0": "mm.0", "merger.mlp.2": "mm.2",
    "merger.linear_fc1": "mm.0", "merger.linear_fc2": "mm.2",
}
AUDIO = {
    "conv1": "a.conv1d.1", "conv2": "a.conv1d.2", "conv2d1": "a.conv2d.1", "conv2d2": "a.conv2d.2", "conv2d3": "a.conv2d.3",
    "conv_out": "a.conv_out", "ln_post": "a.post_ln", "proj": "mm.a.fc", "proj1": "mm.a.mlp.1", "proj2": "mm.a.mlp.2",
}
HEARING = {
    "self_attn_layer_norm": "ln1", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out", "final_layer_norm": "ln2", "fc1": "ffn_up", "fc2": "ffn_down",
}


def stem(name):
    return name.rsplit(".", 1)


def text_name(name):
    """Of the decoder's tensors; None of others."""
    name = re.sub(r"experts\.\d+\.", "experts.", name)
    name, kind = stem(re.sub(r"^(thinker\.)?(model\.)?(language_model\.)?", "", name))
    whole = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}.get(name)
    if whole:
        return f"{whole}.{kind}"
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
    return f"blk.{layer[1]}.{LAYER[layer[2]]}.{kind}" if layer else None


def tower_names(name, deep):
    """The file's name of a tower's tensor."""
    inner, kind = stem(re.sub(r"^(thinker\.)?(model\.)?", "", name))
    if inner.startswith("audio_tower."):
        inner = inner.removeprefix("audio_tower.")
        if inner in AUDIO:
            return f"{AUDIO[inner]}.{kind}"
        layer = re.fullmatch(r"layers\.(\d+)\.(.+)", inner)
        return f"a.blk.{layer[1]}.{HEARING[layer[2]]}.{kind}" if layer else None
    inner = inner.removeprefix("visual.")
    if inner in VISION:
        return f"{VISION[inner]}.{kind}"
    merger = re.fullmatch(r"(?:deepstack_merger_list|merger_list)\.(\d+)\.(.+)", inner)
    if merger:
        part = {"norm": "norm", "ln_q": "norm", "linear_fc1": "fc1", "mlp.0": "fc1", "linear_fc2": "fc2", "mlp.2": "fc2"}[merger[2]]
        return f"v.deepstack.{deep[int(merger[1])]}.{part}.{kind}"
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", inner)
    return f"v.blk.{block[1]}.{BLOCK[block[2]]}.{kind}"


def add(writer, name, value, kind):
    """Matrices in the wanted type where their rows are whole blocks of it, vectors in f32; convolutions of sounds are f16 as a rule."""
    value = value.float().numpy()
    if value.ndim < 2 or re.search(r"position_embd|ffn_gate_inp", name) or min(value.shape[1:], default=1) == 1:
        kind = T.F32
    if kind == T.Q8_0 and value.shape[-1] % 32:
        kind = T.F16
    if kind in (T.F32, T.F16):
        writer.add_tensor(name, value.astype(np.float16 if kind == T.F16 else np.float32))
    else:
        writer.add_tensor(name, quantize(value, kind), raw_dtype=kind)


def tokens(writer, source):
    """The tokenizer. These have no merges and a file must: one makes an unused token."""
    file = json.loads((source / "tokenizer.json").read_text())
    names = {i: n for n, i in file["model"]["vocab"].items()} | {t["id"]: t["content"] for t in file["added_tokens"]}
    special = {t["id"] for t in file["added_tokens"]}
    unused = next(i for i in names if names[i] == f"<{i}>" and i not in special)
    names[unused] = "<" + str(unused)[0]
    listed = [names[i] for i in range(max(names) + 1)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(listed)
    writer.add_token_types([TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(listed))])
    writer.add_token_merges([f"< {listed[unused][1]}"])
    writer.add_eos_token_id(listed.index("<|im_end|>"))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    if settings.get("chat_template"):
        writer.add_chat_template(settings["chat_template"])


def apart(state):
    """Experts that a checkpoint keeps in two tensors of a layer, by columns, each with matrices of its own."""
    out = {}
    for name, value in state.items():
        prefix, found, part = name.partition("mlp.experts.")
        if not found or part not in ("gate_up_proj", "down_proj"):
            out[name] = value
            continue
        for i, expert in enumerate(value):
            halves = expert.T.chunk(2) if part == "gate_up_proj" else [expert.T]
            for half, called in zip(halves, ["gate_proj", "up_proj"] if part == "gate_up_proj" else ["down_proj"]):
                out[f"{prefix}mlp.experts.{i}.{called}.weight"] = half.contiguous()
    return out


def language(path, arch, source, config, state, kind, parts=1, deep=None):
    per = -(-len([n for n in state if text_name(n)]) // parts) if parts > 1 else 0
    writer = GGUFWriter(path, arch, split_max_tensors=per, small_first_shard=False)
    writer.add_type("model")
    writer.add_name(path.stem)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta"))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
    if count := config.get("num_experts") or config.get("num_local_experts"):
        writer.add_expert_count(count)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if deep is not None:
        writer.add_uint32(f"{arch}.n_deepstack_layers", deep)
    tokens(writer, source)
    experts = {}
    for name, value in sorted(state.items()):
        one = re.fullmatch(r"(.*mlp\.experts)\.(\d+)\.(\w+_proj\.weight)", name)
        if one:
            experts.setdefault(f"{one[1]}.{one[3]}", {})[int(one[2])] = value
        elif place := text_name(name):
            add(writer, place, value, kind)
    for name, values in experts.items():
        add(writer, text_name(name), torch.stack([values[i] for i in sorted(values)]), kind)
    close(writer)


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def towers(path, projectors, vision, audio, source, state, kind, out):
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    processor = json.loads((source / "preprocessor_config.json").read_text())
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_audio_encoder", audio is not None)
    for key, name in projectors.items():
        writer.add_string(key, name)
    width = vision.get("embed_dim") or vision["hidden_size"]
    for key, n in {
        "image_size": 560, "patch_size": vision["patch_size"], "embedding_length": width, "block_count": vision["depth"],
        "feed_forward_length": vision.get("intermediate_size") or int(width * vision["mlp_ratio"]), "projection_dim": out,
        "attention.head_count": vision["num_heads"], "spatial_merge_size": vision["spatial_merge_size"],
    }.items():  # fmt: skip
        writer.add_uint32(f"clip.vision.{key}", n)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", processor["image_mean"])
    writer.add_array("clip.vision.image_std", processor["image_std"])
    size = processor.get("size", {})
    if (least := processor.get("min_pixels") or size.get("shortest_edge")) and path.parent.name != "qwen2.5-omni":
        writer.add_uint32("clip.vision.image_min_pixels", least)
        writer.add_uint32("clip.vision.image_max_pixels", processor.get("max_pixels") or size["longest_edge"])
    deep = vision.get("deepstack_visual_indexes")
    if deep:
        writer.add_array("clip.vision.is_deepstack_layers", [i in deep for i in range(vision["depth"])])
        writer.add_bool("clip.use_gelu", True)
    elif "fullatt_block_indexes" in vision:
        full = vision["fullatt_block_indexes"]
        every = full[0] + 1
        if full == list(range(every - 1, vision["depth"], every)):
            writer.add_uint32("clip.vision.n_wa_pattern", every)
        else:
            writer.add_array("clip.vision.wa_layer_indexes", full)
        if vision["window_size"] != 112:
            writer.add_uint32("clip.vision.window_size", vision["window_size"])
        writer.add_bool("clip.use_silu", True)
    if audio:
        for key, n in {
            "num_mel_bins": audio["num_mel_bins"], "embedding_length": audio["d_model"], "block_count": audio["encoder_layers"],
            "feed_forward_length": audio["encoder_ffn_dim"], "projection_dim": out, "attention.head_count": audio["encoder_attention_heads"],
        }.items():  # fmt: skip
            writer.add_uint32(f"clip.audio.{key}", n)
        writer.add_float32("clip.audio.attention.layer_norm_epsilon", 1e-5)
    for name, value in sorted(state.items()):
        if text_name(name) or "audio_bos_eos" in name:
            continue
        if name.endswith("patch_embed.proj.weight"):
            for time in range(2):
                add(writer, "v.patch_embd.weight" + (".1" if time else ""), value[:, :, time], kind)
        elif name.endswith("patch_embed.proj.bias"):
            add(writer, "v.patch_embd.bias", value, kind)
        elif ".attn.qkv." in name and not deep:
            for part, third in zip("qkv", value.chunk(3)):
                add(writer, tower_names(name, deep).replace("attn_qkv", f"attn_{part}"), third, kind)
        elif re.search(r"audio_tower\.conv(\d|2d\d)\.", name):
            place = tower_names(name, deep)
            if name.endswith("bias"):
                # As the converter has them, behind the dimensions that they are added to.
                value = value[:, None] if "conv1d" in place else value[:, None, None]
            add(writer, place, value, T.F32 if kind == T.F32 and "conv1d" in place else T.F16 if value.ndim > 3 or "weight" in place else kind)
        elif place := tower_names(name, deep):
            add(writer, place, value, kind)
    if audio:
        # Sinusoids, which the model makes itself.
        writer.add_tensor("a.position_embd.weight", np.zeros((4, audio["d_model"]), np.float32))
    close(writer)


def main():
    wanted = sys.argv[1:]
    if not wanted:
        shutil.rmtree(OUT, ignore_errors=True)
    # Folder, checkpoint, architecture, projectors, type of the language model, its parts, types of the towers.
    plain = "clip.projector_type"
    both = {"clip.vision.projector_type": "qwen3vl_merger", "clip.audio.projector_type": "qwen3a"}
    for folder, source, arch, projectors, kind, parts, kinds in [
        ("qwen2.5-omni", "omni-tiny", "qwen2vl", {plain: "qwen2.5o"}, T.F32, 3, [T.F32]),
        ("qwen2-vl", "qwen2-vl-tiny", "qwen2vl", {plain: "qwen2vl_merger"}, T.BF16, 1, [T.BF16, T.Q8_0]),
        ("qwen2.5-vl", "qwen2-5-vl-tiny", "qwen2vl", {plain: "qwen2.5vl_merger"}, T.BF16, 1, [T.F32]),
        ("qwen3-vl", "qwen3-vl-tiny", "qwen3vl", {plain: "qwen3vl_merger"}, T.BF16, 1, [T.BF16]),
        ("qwen3-vl-moe", "qwen3-vl-moe-tiny", "qwen3vlmoe", {plain: "qwen3vl_merger"}, T.BF16, 1, [T.BF16]),
        ("qwen3-omni", "qwen3-omni-tiny", "qwen3vlmoe", both, T.BF16, 1, [T.BF16]),
    ]:
        if wanted and folder not in wanted:
            continue
        out, source = OUT / folder, FIXTURES / source
        out.mkdir(parents=True, exist_ok=True)
        config = json.loads((source / "config.json").read_text())
        config = config.get("thinker_config", config)
        state = apart(load_file(source / "model.safetensors"))
        text, vision, audio = config.get("text_config", config), config["vision_config"], config.get("audio_config")
        if text.get("mlp_only_layers"):
            top = "thinker.model." if audio else "model.language_model."
            layer = lambda i: f"{top}layers.{i}.mlp."
            for i in text["mlp_only_layers"]:
                state = {k: v for k, v in state.items() if not k.startswith(layer(i))}
                state |= {k.replace(layer(0), layer(i)): v for k, v in state.items() if k.startswith(layer(0))}
        deep = vision.get("deepstack_visual_indexes")
        name = folder.title().replace("Vl", "VL").replace("Moe", "MoE")
        listed = None if deep is None else 0 if audio else len(deep)
        language(out / f"{name}-tiny-{kind.name}.gguf", arch, source, text, state, kind, parts, listed)
        for kind in kinds:
            towers(out / f"mmproj-{name}-tiny-{kind.name}.gguf", projectors, vision, audio, source, state, kind, text["hidden_size"])
    for path in sorted(OUT.rglob("*.gguf")):
        print(path.relative_to(OUT), path.stat().st_size)


main()
