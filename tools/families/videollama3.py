"""Writes fixtures/videollama3-tiny: a random VideoLLaMA3 checkpoint, what transformers' model makes of prompts with
and without the method, and what transformers' processor makes of small pictures.

    python3 -m venv v && v/bin/pip install torch torchvision 'transformers==5.23.0' safetensors
    OMP_NUM_THREADS=1 v/bin/python tools/families/videollama3.py
"""

import json
from pathlib import Path

import tiny
import torch
from method import attach, both
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize
from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration, VideoLlama3Processor
from transformers.models.video_llama_3.image_processing_video_llama_3 import VideoLlama3ImageProcessor
from transformers.models.video_llama_3.video_processing_video_llama_3 import VideoLlama3VideoProcessor, smart_resize
from transformers.video_utils import VideoMetadata

OUT = Path(__file__).parents[2] / "fixtures" / "videollama3-tiny"
IMAGE, VIDEO, PATCH = 291, 292, 4
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{ '<|image_pad|>\\n' }}
{%- elif part['type'] == 'video' -%}
{{ '<|video_pad|>\\n' }}
{%- else -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
SPECIAL = {"<|im_start|>": 1, "<|endoftext|>": 280, "<|im_end|>": 281, "<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO}


def model():
    text = {
        "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 300, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 281,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40,
        "patch_size": PATCH, "num_channels": 3, "layer_norm_eps": 1e-6,
    }  # fmt: skip
    config = VideoLlama3Config(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO, tie_word_embeddings=False
    )
    made = VideoLlama3ForConditionalGeneration._from_config(config, attn_implementation="eager").eval().float()
    inner = made.model
    tiny.fill(made, 17, inner.language_model, [inner.projector.readout[2]])
    attach(inner.language_model)
    return made


def processor():
    return VideoLlama3Processor(
        VideoLlama3ImageProcessor(patch_size=PATCH, min_pixels=16 * PATCH**2, max_pixels=64 * PATCH**2),
        tiny.tokenizer(OUT),
        VideoLlama3VideoProcessor(patch_size=PATCH, min_pixels=16 * PATCH**2, max_pixels=128 * PATCH**2),
        chat_template=TEMPLATE,
    )


def arithmetic():
    """Frames that are taken and sizes that are made, of clips and pictures of many lengths and shapes."""
    taken, sizes = [], []
    full = VideoLlama3VideoProcessor()
    for total in [4, 5, 7, 29, 30, 31, 90, 100, 179, 180, 181, 301, 450, 899, 1798, 4500, 5403, 5411, 17999, 100003]:
        for rate in [1.0, 7.5, 23.976023976023978, 25.0, 29.97002997002997, 30.0, 59.94]:
            about = VideoMetadata(total_num_frames=total, fps=rate, duration=total / rate)
            taken.append([total, rate, full.sample_frames(about, fps=1).tolist()])
    for height, width in [(1, 150), (9, 13), (20, 20), (56, 56), (90, 130), (360, 640), (480, 270), (1080, 1920), (2160, 3840), (60, 9000)]:
        for frames, factor, least, most in [(1, 14, 3136, 3211264), (8, 28, 12544, 12845056), (180, 28, 12544, 12845056), (30, 28, 100352, 602112)]:
            sizes.append([height, width, frames, factor, least, most, list(smart_resize(height, width, factor, least, most // frames))])
    resized = {}
    for i, ((h, w), to) in enumerate([((45, 65), (28, 42)), ((13, 25), (28, 56)), ((50, 30), (24, 18))]):
        made = tiny.picture(90 + i, h, w)
        turned = torch.from_numpy(made).permute(2, 0, 1)
        done = resize(turned, list(to), interpolation=InterpolationMode.BICUBIC, antialias=True)
        resized |= {f"picture.{i}": torch.from_numpy(made), f"resized.{i}": done.permute(1, 2, 0).contiguous()}
    save_file(resized, OUT / "resize.safetensors")
    (OUT / "arithmetic.json").write_text(json.dumps({"frames": taken, "sizes": sizes}, separators=(",", ":")) + "\n")


def cases():
    """Name and content of each: pictures, and a question."""
    words = ["What?", "Who speaks first?", "Where is the square, left or right?", "Is it red? Yes or no.", "Count them!"]
    for i, question in enumerate(words):
        yield f"text-{i}", [], question
        images = [(24 + 5 * i, 40 - 6 * i)] if i != 3 else [(20, 33), (31, 17)]
        yield f"image-{i}", [("image", tiny.picture(40 + i, h, w)) for h, w in images], question
        frames = [5, 2, 7, 1, 3][i]
        media = [("video", tiny.clip(60 + i, frames, 26 + 3 * i, 50 - 5 * i))]
        if i == 4:
            media.append(("image", tiny.picture(80, 25, 25)))
        yield f"video-{i}", media, question


def main():
    torch.set_num_threads(1)
    tiny.write_tokenizer(OUT, 300, SPECIAL, TEMPLATE)
    made, proc = model(), processor()
    tiny.checkpoint(made, OUT)
    proc.image_processor.save_pretrained(OUT)
    video = proc.video_processor.to_dict()
    (OUT / "video_preprocessor_config.json").write_text(json.dumps(video, indent=1, default=str))
    (OUT / "cases").mkdir(exist_ok=True)
    rates = [25.0, 3.0, 10.0, 30.0, 7.5]
    for number, (name, media, question) in enumerate(cases()):
        content = [{"type": kind} for kind, _ in media] + [{"type": "text", "text": question}]
        text = proc.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        images = [m for kind, m in media if kind == "image"]
        videos = [m for kind, m in media if kind == "video"]
        rate = rates[number % 5]
        about = [
            {"total_num_frames": 9 * len(v), "fps": rate, "frames_indices": [9 * i for i in range(len(v))]} for v in videos
        ]
        extra = {"videos": videos, "video_metadata": about} if videos else {}
        inputs = dict(proc(text=[text], images=images or None, return_tensors="pt", **extra))
        stored = {k: v.half() if v.is_floating_point() else v for k, v in inputs.items() if torch.is_tensor(v)}
        inputs = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
        out = {f"input.{k}": v for k, v in stored.items()}
        for i, (kind, m) in enumerate(media):
            out[f"picture.{i}"] = torch.from_numpy(m.copy())
        with torch.no_grad():
            if images:
                y = made.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], image_merge_sizes=inputs["image_merge_sizes"])
                out["image_embeds"] = torch.cat(y.pooler_output)
            if videos:
                y = made.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], video_merge_sizes=inputs["video_merge_sizes"])
                out["video_embeds"] = torch.cat(y.pooler_output)[inputs["video_compression_mask"]]
        meta = {"text": text, "question": question, "kinds": json.dumps([k for k, _ in media]), "rate": str(rate)}
        assert both(made, made.model.language_model, inputs, out, meta), f"{name}: a greedy choice hangs by a thread"
        save_file({k: v.contiguous() for k, v in out.items()}, OUT / "cases" / f"{name}.safetensors", metadata=meta)
    arithmetic()
    tiny.manifest(OUT, "tools/families/videollama3.py")


main()
