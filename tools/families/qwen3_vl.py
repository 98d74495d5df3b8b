"""Writes fixtures/qwen3-vl-tiny: a random Qwen3-VL checkpoint, what transformers' model makes of prompts with and without
the method, and what transformers' processor makes of small pictures.

    python3 -m venv v && v/bin/pip install torch torchvision 'transformers==5.23.0' safetensors
    OMP_NUM_THREADS=1 v/bin/python tools/families/qwen3_vl.py
"""

import json
from pathlib import Path

import tiny
import torch
from method import attach, both
from safetensors.torch import save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize
from transformers.video_utils import VideoMetadata

OUT = Path(__file__).parents[2] / "fixtures" / "qwen3-vl-tiny"
IMAGE, VIDEO, START, END, PATCH = 291, 292, 293, 294, 4
SPECIAL = {
    "<|im_start|>": 1, "<|endoftext|>": 280, "<|im_end|>": 281, "<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO,
    "<|vision_start|>": START, "<|vision_end|>": END,
}  # fmt: skip
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{{ part['text'] }}
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
TEXT = {
    "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20,
    "intermediate_size": 48, "vocab_size": 300, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 281,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 3, 3], "mrope_interleaved": True},
}  # fmt: skip
VISION = {
    "depth": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 40, "in_channels": 3, "patch_size": PATCH,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64, "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0, 2],
}  # fmt: skip


def model():
    config = Qwen3VLConfig(
        text_config=TEXT, vision_config=VISION, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=START, vision_end_token_id=END, tie_word_embeddings=False,
    )  # fmt: skip
    made = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="eager").eval().float()
    visual = made.model.visual
    last = [m.linear_fc2 for m in [visual.merger, *visual.deepstack_merger_list]]
    tiny.fill(made, 37, made.model.language_model, last)
    attach(made.model.language_model)
    return made


def older(rope):
    """The fields of the published files, from those of this release."""
    scaling = {"mrope_interleaved": True, "mrope_section": rope["mrope_section"], "rope_type": "default"}
    return {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}


def checkpoint(made):
    tiny.checkpoint(made, OUT)
    config = json.loads((OUT / "config.json").read_text())
    config["text_config"] |= older(config["text_config"].pop("rope_parameters"))
    (OUT / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def processor():
    size = lambda least, most: {"shortest_edge": least * PATCH**2, "longest_edge": most * PATCH**2}
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(patch_size=PATCH, size=size(16, 96), image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tiny.tokenizer(OUT),
        Qwen3VLVideoProcessor(patch_size=PATCH, size=size(48, 300), cap_pixels_per_frame=False),
        chat_template=TEMPLATE,
    )


def arithmetic():
    """Frames that are taken and sizes that are made, of clips and pictures of many lengths and shapes."""
    taken, sizes = [], []
    full = Qwen3VLVideoProcessor(cap_pixels_per_frame=False)
    for total in [2, 3, 4, 5, 7, 29, 30, 31, 90, 100, 179, 301, 450, 899, 1798, 4500, 5403, 17999, 100003]:
        for rate in [1.0, 7.5, 23.976023976023978, 25.0, 29.97002997002997, 30.0, 59.94]:
            about = VideoMetadata(total_num_frames=total, fps=rate, duration=total / rate)
            taken.append([total, rate, full.sample_frames(about, fps=2).tolist()])
    for height, width in [(2, 150), (9, 13), (20, 20), (56, 56), (90, 130), (360, 640), (480, 270), (1080, 1920), (2160, 3840), (60, 9000)]:
        for frames, factor, least, most in [(2, 32, 131072, 786432), (8, 32, 4096, 25165824), (255, 32, 131072, 786432), (31, 32, 131072, 25165824), (5, 8, 768, 4800)]:
            sizes.append([height, width, frames, factor, least, most, list(smart_resize(frames, height, width, 2, factor, least, most))])
    (OUT / "arithmetic.json").write_text(json.dumps({"frames": taken, "sizes": sizes}, separators=(",", ":")) + "\n")


def cases():
    """Name and content of each: pictures, and a question."""
    words = ["What?", "Who speaks first?", "Where is the square, left or right?", "Is it red? Yes or no.", "Count them!"]
    for i, question in enumerate(words):
        yield f"text-{i}", [], question
        images = [(24 + 5 * i, 40 - 6 * i)] if i != 3 else [(20, 33), (31, 17)]
        yield f"image-{i}", [("image", tiny.picture(40 + i, h, w)) for h, w in images], question
        frames = [5, 2, 7, 4, 3][i]
        media = [("video", tiny.clip(60 + i, frames, 26 + 3 * i, 50 - 5 * i))]
        if i == 4:
            media.append(("image", tiny.picture(80, 25, 25)))
        yield f"video-{i}", media, question


@torch.no_grad()
def features(made, inputs, out):
    """What the tower makes of pictures: tokens, and what is added to them behind the decoder's first layers."""
    deep = []
    for kind, get, pixels in (("image", made.get_image_features, "pixel_values"), ("video", made.get_video_features, "pixel_values_videos")):
        if pixels in inputs:
            y = get(inputs[pixels], inputs[f"{kind}_grid_thw"])
            out[f"{kind}_embeds"] = torch.cat(y.pooler_output)
            deep.append([torch.cat(f) for f in y.deepstack_features])
    for i, parts in enumerate(zip(*deep)):
        out[f"deepstack.{i}"] = torch.cat(parts)


def one(made, proc, rate, media, question):
    """Tensors and metadata of a case; `None` where a greedy choice hangs by a thread."""
    content = [{"type": kind} for kind, _ in media] + [{"type": "text", "text": question}]
    text = proc.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images, videos = ([m for k, m in media if k == kind] for kind in ("image", "video"))
    about = [{"total_num_frames": 9 * len(v), "fps": rate, "frames_indices": [9 * i for i in range(len(v))]} for v in videos]
    extra = {"videos": videos, "video_metadata": about, "do_sample_frames": False} if videos else {}
    # Until 5.0 the processor replaced the video's placeholder together with its delimiters; now they would stand twice.
    bare = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
    inputs = dict(proc(text=[bare], images=images or None, return_tensors="pt", **extra))
    kinds = inputs.pop("mm_token_type_ids")
    stored = {k: v.half() if v.is_floating_point() else v for k, v in inputs.items() if torch.is_tensor(v)}
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
    out = {f"input.{k}": v for k, v in stored.items()}
    for i, (kind, m) in enumerate(media):
        out[f"picture.{i}"] = torch.from_numpy(m.copy())
    grids = {k: v for k, v in inputs.items() if "grid" in k}
    positions, _ = made.model.get_rope_index(inputs["input_ids"], kinds, attention_mask=inputs["attention_mask"], **grids)
    out["position_ids"] = positions[:, 0]
    features(made, inputs, out)
    meta = {"text": text, "question": question, "kinds": json.dumps([k for k, _ in media]), "rate": str(rate)}
    if not both(made, made.model.language_model, inputs, out, meta, positions=positions):
        return None
    return {k: v.contiguous() for k, v in out.items()}, meta


def main():
    torch.set_num_threads(1)
    tiny.write_tokenizer(OUT, 300, SPECIAL, TEMPLATE)
    made, proc = model(), processor()
    checkpoint(made)
    proc.image_processor.save_pretrained(OUT)
    video = proc.video_processor.to_dict()
    (OUT / "video_preprocessor_config.json").write_text(json.dumps(video, indent=1, default=str))
    (OUT / "cases").mkdir(exist_ok=True)
    rates = [25.0, 3.0, 10.0, 30.0, 7.5]
    for number, (name, media, question) in enumerate(cases()):
        tries = (one(made, proc, rates[number % 5], media, question + "!" * i) for i in range(9))
        tensors, meta = next(found for found in tries if found)
        save_file(tensors, OUT / "cases" / f"{name}.safetensors", metadata=meta)
    arithmetic()
    tiny.manifest(OUT, "tools/families/qwen3_vl.py")


if __name__ == "__main__":
    main()
