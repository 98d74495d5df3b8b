"""Writes fixtures/qwen3-omni-tiny: a random Qwen3-Omni thinker in the layout of the published checkpoints, what
transformers' model makes of prompts with and without the method, and the prompts that its processor makes.

    python3 -m venv v && v/bin/pip install torch torchvision 'transformers==5.23.0' safetensors qwen-omni-utils==0.0.8
    OMP_NUM_THREADS=1 v/bin/python tools/families/qwen3_omni.py
"""

import json
from pathlib import Path

import numpy as np
import tiny
import torch
from method import attach, both
from qwen3_vl import TEXT, VISION, features, older
from safetensors.torch import save_file
from transformers import Qwen3OmniMoeProcessor, Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

OUT = Path(__file__).parents[2] / "fixtures" / "qwen3-omni-tiny"
IMAGE, VIDEO, START, END, AUDIO, HEAR, HEARD, PATCH = 291, 292, 293, 294, 295, 296, 297, 4
SPECIAL = {
    "<|im_start|>": 1, "<|endoftext|>": 280, "<|im_end|>": 281, "<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO,
    "<|vision_start|>": START, "<|vision_end|>": END, "<|audio_pad|>": AUDIO, "<|audio_start|>": HEAR, "<|audio_end|>": HEARD,
}  # fmt: skip
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{{ part['text'] }}
{%- elif part['type'] == 'audio' -%}
{{ '<|audio_start|><|audio_pad|><|audio_end|>' }}
{%- else -%}
{{ '<|vision_start|><|' + part['type'] + '_pad|><|vision_end|>' }}
{%- endif -%}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
EXPERTS = {
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [1, 4],
}  # fmt: skip
SIZE = {"shortest_edge": 8 * PATCH**2, "longest_edge": 144 * PATCH**2}
# 100 mel frames a chunk, as the published model: its processor's formula holds for no other. Two chunks see each other.
SOUND = {
    "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 40, "num_mel_bins": 128,
    "max_source_positions": 60, "n_window": 50, "n_window_infer": 200, "conv_chunksize": 500, "output_dim": 64,
    "downsample_hidden_size": 6,
}  # fmt: skip


def model():
    config = Qwen3OmniMoeThinkerConfig(
        text_config={**TEXT, **EXPERTS}, vision_config=VISION, audio_config=SOUND, image_token_id=IMAGE, video_token_id=VIDEO,
        audio_token_id=AUDIO, audio_start_token_id=HEAR, audio_end_token_id=HEARD, vision_start_token_id=START,
        vision_end_token_id=END, position_id_per_seconds=13, tie_word_embeddings=False,
    )  # fmt: skip
    made = Qwen3OmniMoeThinkerForConditionalGeneration._from_config(config, attn_implementation="eager").eval().float()
    visual, audio = made.model.visual, made.model.audio_tower
    last = [m.mlp[2] for m in [visual.merger, *visual.merger_list]] + [audio.proj2]
    tiny.fill(made, 41, made.model.language_model, last)
    attach(made.model.language_model)
    return made


def checkpoint(made):
    """In the published layout: a thinker, an expert a tensor."""
    tiny.checkpoint(made, OUT)
    thinker = json.loads((OUT / "config.json").read_text())
    text = thinker["text_config"]
    text |= older(text.pop("rope_parameters"))
    text["num_experts"] = EXPERTS["num_experts"]
    config = {"architectures": ["Qwen3OmniMoeForConditionalGeneration"], "model_type": "qwen3_omni_moe", "thinker_config": thinker}
    (OUT / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    state = {}
    for key, value in made.state_dict().items():
        key = "thinker." + key.removeprefix("model.").replace("language_model.", "model.")
        value = value.bfloat16().contiguous()
        if key.endswith("experts.gate_up_proj"):
            for e, both in enumerate(value):
                for name, half in zip(("gate_proj", "up_proj"), both.chunk(2)):
                    state[key.replace("gate_up_proj", f"{e}.{name}.weight")] = half.contiguous()
        elif key.endswith("experts.down_proj"):
            state |= {key.replace("down_proj", f"{e}.down_proj.weight"): v.contiguous() for e, v in enumerate(value)}
        else:
            state[key] = value
    save_file(state, OUT / "model.safetensors", metadata={"format": "pt"})


def processor():
    tokens = tiny.tokenizer(OUT)
    for name, spelled in (
        ("image", "<|image_pad|>"), ("video", "<|video_pad|>"), ("audio", "<|audio_pad|>"), ("vision_bos", "<|vision_start|>"),
        ("vision_eos", "<|vision_end|>"), ("audio_bos", "<|audio_start|>"), ("audio_eos", "<|audio_end|>"),
    ):  # fmt: skip
        setattr(tokens, f"{name}_token", spelled)
        setattr(tokens, f"{name}_token_id", SPECIAL[spelled])
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return Qwen3OmniMoeProcessor(
        Qwen2VLImageProcessor(patch_size=PATCH, size=SIZE, **half),
        Qwen2VLVideoProcessor(patch_size=PATCH, size=SIZE, do_sample_frames=False, **half),
        WhisperFeatureExtractor(feature_size=128),
        tokens,
        chat_template=TEMPLATE,
    )


def twice():
    """Sizes after qwen-omni-utils' resize and the processor's: of an image, and of a frame of a video."""
    from qwen_omni_utils.v2_5 import vision_process as utils

    rows = []
    for height, width in [(30, 150), (56, 56), (90, 130), (250, 230), (360, 640), (480, 270), (1080, 1920), (2160, 3840), (60, 3000)]:
        first = utils.smart_resize(height, width)
        image = smart_resize(*first, 32, 3136, 12845056)
        for frames in (4, 100, 768):
            total = utils.VIDEO_TOTAL_PIXELS / frames * utils.FRAME_FACTOR
            most = max(min(utils.VIDEO_MAX_PIXELS, total), int(utils.VIDEO_MIN_PIXELS * 1.05))
            first = utils.smart_resize(height, width, min_pixels=utils.VIDEO_MIN_PIXELS, max_pixels=most)
            rows.append([height, width, frames, list(image), list(smart_resize(*first, 32, 128 * 1024, 768 * 1024))])
    (OUT / "sizes.json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")


def resized_twice():
    """A picture through qwen-omni-utils, which makes its sides multiples of 28, and then the processor, with patches of the
    published size."""
    from PIL import Image
    from qwen_omni_utils.v2_5 import vision_process as utils

    picture = tiny.picture(70, 60, 95)
    height, width = utils.smart_resize(60, 95)
    limits = {"shortest_edge": 3136, "longest_edge": 12845056}
    made = Qwen2VLImageProcessor(patch_size=16, size=limits, image_mean=[0.5] * 3, image_std=[0.5] * 3)(
        images=[Image.fromarray(picture).resize((width, height))], return_tensors="pt"
    )
    out = {"picture.0": torch.from_numpy(picture), "pixels": made["pixel_values"].half(), "grid": made["image_grid_thw"]}
    save_file(out, OUT / "picture.safetensors")


def sound(seed, samples):
    t = np.arange(samples) / 16000
    wave = 0.4 * np.sin(2 * np.pi * (200 + 90 * seed) * t) * np.exp(-2 * t) + 0.02 * np.random.default_rng(seed).normal(size=samples)
    return (np.clip(wave, -1, 1) * 32767).astype(np.int16)


def extracted():
    """Spectrograms of two sounds that are given together: the shorter one is filled up."""
    sounds = [sound(1, 2561), sound(2, 5000)]
    waves = [s.astype(np.float32) / 32768 for s in sounds]
    made = WhisperFeatureExtractor(feature_size=128)(waves, sampling_rate=16000, padding=True, truncation=False, return_attention_mask=True, return_tensors="pt")
    out = {f"samples.{i}": torch.from_numpy(s) for i, s in enumerate(sounds)}
    save_file(out | {"mel": made["input_features"].half(), "mask": made["attention_mask"].long()}, OUT / "mel.safetensors")


def cases():
    """Name and content of each: pictures whose sides are what the tower takes, samples of sound, and a question."""
    words = ["What?", "Who speaks first?", "Where is the square, left or right?", "Is it red? Yes or no.", "Count them!"]
    sizes = [(16, 24), (16, 16), (8, 24), (24, 16), (24, 32)]
    lengths = [9000, 3100, 16000, 20810, 40033]
    for i, question in enumerate(words):
        h, w = sizes[(i + 2) % 5]
        clip = tiny.clip(60 + i, [5, 2, 7, 4, 3][i], h, w)
        yield f"text-{i}", [], question
        images = [sizes[i]] if i != 3 else [(16, 24), (24, 8)]
        yield f"image-{i}", [("image", tiny.picture(40 + i, h, w)) for h, w in images], question
        yield f"video-{i}", [("video", clip)] + ([("image", tiny.picture(80, 16, 16))] if i == 4 else []), question
        yield f"audio-{i}", [("audio", sound(i, lengths[i]))] + ([("audio", sound(9, 25000))] if i == 1 else []), question
        more = [("image", tiny.picture(81, 16, 16))] if i == 2 else []
        yield f"audio-in-video-{i}", [("video", clip), ("audio", sound(5 + i, lengths[4 - i]))] + more, question


def one(made, proc, fps, name, media, question):
    """Tensors and metadata of a case; `None` where a greedy choice hangs by a thread."""
    joined = "audio-in-video" in name
    shown = [m for m in media if not (joined and m[0] == "audio")]
    content = [{"type": kind} for kind, _ in shown] + [{"type": "text", "text": question}]
    text = proc.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images, videos, sounds = ([m for k, m in media if k == kind] for kind in ("image", "video", "audio"))
    extra = {"videos": videos, "videos_kwargs": {"fps": fps, "size": SIZE}} if videos else {}
    if joined:
        extra |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    waves = [s.astype(np.float32) / 32768 for s in sounds]
    inputs = dict(proc(text=[text], images=images or None, audio=waves or None, return_tensors="pt", **extra))
    inputs.pop("num_audio_tokens", None)
    stored = {k: torch.as_tensor(v) for k, v in inputs.items() if k != "mm_token_type_ids"}
    stored = {k: v.half() if v.is_floating_point() and "second" not in k else v for k, v in stored.items()}
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
    out = {f"input.{k}": v for k, v in stored.items()}
    if name in ("audio-3", "audio-in-video-1"):
        out["samples"] = torch.from_numpy(sounds[0])
    lengths = inputs["feature_attention_mask"].sum(1) if sounds else None
    positions, _ = made.get_rope_index(
        inputs["input_ids"], inputs.get("image_grid_thw"), inputs.get("video_grid_thw"), inputs["attention_mask"], joined,
        lengths, inputs.get("video_second_per_grid"),
    )  # fmt: skip
    out["position_ids"] = positions[:, 0].float()
    features(made, inputs, out)
    if sounds:
        with torch.no_grad():
            out["audio_embeds"] = made.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"]).last_hidden_state
    meta = {"question": question, "kinds": json.dumps([k for k, _ in shown]), "use_audio_in_video": str(joined).lower()}
    given = {**inputs, "use_audio_in_video": joined}
    if not both(made, made.model.language_model, given, out, meta, positions=positions):
        return None
    return {k: v.contiguous() for k, v in out.items()}, meta


def main():
    torch.set_num_threads(1)
    tiny.write_tokenizer(OUT, 300, SPECIAL, TEMPLATE)
    made, proc = model(), processor()
    checkpoint(made)
    image = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 8 * PATCH**2, "max_pixels": 144 * PATCH**2}
    (OUT / "preprocessor_config.json").write_text(json.dumps(image | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, indent=1) + "\n")
    (OUT / "cases").mkdir(exist_ok=True)
    for number, (name, media, question) in enumerate(cases()):
        tries = (one(made, proc, [2.0, 1.5, 0.7][number % 3], name, media, question + "!" * i) for i in range(9))
        tensors, meta = next(found for found in tries if found)
        save_file(tensors, OUT / "cases" / f"{name}.safetensors", metadata=meta)
    twice()
    extracted()
    resized_twice()
    tiny.manifest(OUT, "tools/families/qwen3_omni.py")


if __name__ == "__main__":
    main()
