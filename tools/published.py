"""Writes fixtures/published.json: what the processors of transformers 4.57.1 make of made-up pictures under the settings with
which checkpoints are published. The settings are not ours and stay where they are; numbers are written down.

    python tools/published.py FOLDER        # a folder with one directory of configuration files a checkpoint

Text becomes the published special tokens and bytes: the tokenizer has no merges. A row has the grid, the number of prompt tokens,
of placeholders, FNV-1a over the ids, and mean and mean square of the pixels (of the short video and the image).
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from qwen_vl_utils import vision_process
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from transformers.utils import chat_template_utils

ROOT = Path(__file__).parent.parent
QUESTION = "What is this?"
OMNI = ("You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and visual inputs, "
        "as well as generating text and speech.")
PROCESSORS = {
    "qwen2.5-vl-7b": "Qwen2_5_VL", "qwen2.5-vl-3b": "Qwen2_5_VL", "qwen2.5-vl-32b": "Qwen2_5_VL", "qwen2-vl-7b": "Qwen2VL",
    "qwen3-vl-8b": "Qwen3VL", "qwen3-vl-4b": "Qwen3VL", "qwen2.5-omni-7b": "Qwen2_5Omni",
    "qwen2.5-omni-3b": "Qwen2_5Omni", "qwen3-omni-30b": "Qwen3OmniMoe", "llava-ov-0.5b": "LlavaOnevision",
    "llava-ov-7b": "LlavaOnevision",
}
IMAGE, SHORT, LONG = (600, 800), (360, 640, 120, 30.0), (720, 1280, 3600, 30.0)


def letters():
    """The 256 letters of a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def tokenizer(source, folder):
    """tokenizer.json without merges, special tokens at their published ids."""
    added = json.loads((source / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    vocab = {letter: i for i, letter in enumerate(letters())} | {t["content"]: int(i) for i, t in added.items()}
    tokens = [{"id": int(i), **t} for i, t in sorted(added.items(), key=lambda a: int(a[0]))]
    byte = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    made = {"version": "1.0", "added_tokens": tokens, "pre_tokenizer": byte, "decoder": byte, "normalizer": None,
            "post_processor": None, "truncation": None, "padding": None,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(made))


def picture(height, width, step):
    y, x, c = np.meshgrid(range(height), range(width), range(3), indexing="ij")
    return (((x // 7) * 31 + (y // 5) * 17 + c * 60 + step * 13) % 256).astype(np.uint8)


def fnv(ids):
    state = 0xCBF29CE484222325
    for i in ids:
        for byte in int(i).to_bytes(4, "little"):
            state = (state ^ byte) * 0x100000001B3 % 2**64
    return f"{state:016x}"


def utils_frames(height, width, total, fps, factor=28):
    """Frames and their size by the authors' utils."""
    count = vision_process.smart_nframes({}, total_frames=total, video_fps=fps)
    index = torch.linspace(0, total - 1, count).round().long().tolist()
    least, most = 128 * factor**2, 768 * factor**2
    most = max(min(most, 128000 * factor**2 * 0.9 / count * 2), int(least * 1.05))
    return index, vision_process.smart_resize(height, width, factor=factor, min_pixels=least, max_pixels=most)


def row(name, kind, processor, text, ids, grid, pixels, placeholder):
    ids = list(map(int, ids))
    out = {"checkpoint": name, "kind": kind, "grid": list(map(int, grid)), "prompt": len(ids), "placeholders": ids.count(placeholder),
           "fnv": fnv(ids)}
    if pixels is not None:
        if pixels.ndim > 3:  # whole pictures: the tower's convolution leaves out what is less than a patch of 14
            side = pixels.shape[-1] // 14 * 14
            pixels = pixels[..., :side, :side]
        pixels = pixels.double()
        out |= {"mean": round(float(pixels.mean()), 6), "square": round(float((pixels**2).mean()), 6)}
    return out


def conversation(kind, family, system):
    turns = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return turns + [{"role": "user", "content": [{"type": kind, kind: "x"}, {"type": "text", "text": QUESTION}]}]


def measure(source, family):
    name = source.name
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for file in source.glob("*.json"):
            if file.name not in ("config.json", "generation_config.json"):
                shutil.copyfile(file, folder / file.name)
        tokenizer(source, folder)
        fast = "Fast" in (folder / "preprocessor_config.json").read_text()
        own = getattr(transformers, family + "Processor").from_pretrained(folder)
        own.image_processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=fast)
    template = getattr(own, "chat_template", None) or own.tokenizer.chat_template
    config = json.loads((source / "config.json").read_text())
    system = {"Qwen2_5Omni": OMNI, "LlavaOnevision": "", "Qwen3VL": "", "Qwen3OmniMoe": ""}.get(family, "You are a helpful assistant.")
    for kind in ["image", "video", "long"]:
        if (family, kind) == ("Qwen3OmniMoe", "image"):
            continue  # resized by the authors' utils first: fixtures/qwen3-omni-tiny has such pictures
        of = "image" if kind == "image" else "video"
        text = own.apply_chat_template(conversation(of, family, system), chat_template=template, add_generation_prompt=True)
        text = text[0] if isinstance(text, list) else text
        token = own.tokenizer.convert_tokens_to_ids(getattr(own, f"{of}_token"))
        if kind == "image":
            made = own(text=[text], images=[Image.fromarray(picture(*IMAGE, 0))], return_tensors="pt")
            pixels = made["pixel_values"]
            grid = made["image_grid_thw"][0] if "image_grid_thw" in made else [pixels.shape[1], 0, 0]
        else:
            height, width, total, fps = SHORT if kind == "video" else LONG
            if family == "LlavaOnevision":
                count = min(32, total)
                frames = np.stack([picture(height, width, int(i)) for i in np.linspace(0, total - 1, count, dtype=int)])
                if kind == "long":
                    continue
                made = own(text=text, videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="pt")
                pixels = made["pixel_values_videos"]
                grid = [pixels.shape[1], 0, 0]
            elif family == "Qwen3VL":
                from transformers.video_utils import VideoMetadata

                meta = VideoMetadata(total_num_frames=total, fps=fps, duration=total / fps, video_backend="x",
                                     frames_indices=list(range(total)))
                index = own.video_processor.sample_frames(meta, fps=2)
                meta.frames_indices = index.tolist() if hasattr(index, "tolist") else list(index)
                if kind == "video":
                    frames = np.stack([picture(height, width, int(i)) for i in meta.frames_indices])
                    frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
                else:
                    frames = torch.zeros(1, 3, height, width, dtype=torch.uint8).expand(len(meta.frames_indices), -1, -1, -1)
                made = own(text=[text], videos=[frames], video_metadata=[meta], do_sample_frames=False, return_tensors="pt")
                pixels, grid = made["pixel_values_videos"], made["video_grid_thw"][0]
            else:
                index, size = utils_frames(height, width, total, fps)
                if kind == "long":
                    # As many pixels would take gigabytes; the processor looks at each frame alone.
                    made = own(text=[text], videos=[torch.zeros(2, 3, *size)], return_tensors="pt")
                    grid = [len(index) // 2, *made["video_grid_thw"][0].tolist()[1:]]
                    yield {"checkpoint": name, "kind": kind, "grid": grid}
                    continue
                frames = torch.stack([torch.from_numpy(picture(height, width, i)).permute(2, 0, 1) for i in index])
                frames = functional.resize(frames, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True).float()
                made = own(text=[text], videos=[frames], return_tensors="pt")
                pixels, grid = made["pixel_values_videos"], made["video_grid_thw"][0]
        yield row(name, kind, own, text, made["input_ids"][0], grid, None if kind == "long" else pixels, token)


def authors_videollama3(source):
    """The layout of VideoLLaMA3's authors: their template with what their processor passes, a placeholder a frame."""
    settings = json.loads((source / "chat_template.json").read_text())["chat_template"]
    template = chat_template_utils._compile_jinja_template(settings)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer(source, Path(folder))
        own = transformers.PreTrainedTokenizerFast(tokenizer_file=str(Path(folder, "tokenizer.json")))
    token = own.convert_tokens_to_ids("<image>")

    def render(content):
        messages = [{"role": "user", "content": [content, {"type": "text", "text": QUESTION}]}]
        return template.render(messages=messages, add_generation_prompt=True, add_system_prompt=False, image_token="<image>")

    size = transformers.models.qwen2_vl.image_processing_qwen2_vl.smart_resize
    height, width = size(*IMAGE, factor=14, min_pixels=16 * 196, max_pixels=16384 * 196)
    grid = [1, height // 14, width // 14]
    text = render({"type": "image"}).replace("<image>", "<image>" * (grid[1] * grid[2]))
    yield row(source.name, "image", None, text, own(text)["input_ids"], grid, None, token)


folder = Path(sys.argv[1])
rows = []
for name, family in PROCESSORS.items():
    try:
        rows += list(measure(folder / name, family))
        print(name, [r["grid"] for r in rows if r["checkpoint"] == name], flush=True)
    except Exception as e:
        print(name, "FAILED", type(e), str(e)[:300], flush=True)
        if "-k" not in sys.argv:
            raise
for name in ["videollama3-2b", "videollama3-7b"]:
    rows += list(authors_videollama3(folder / name))
text = ",\n ".join(json.dumps(r) for r in rows)
(ROOT / "fixtures/published.json").write_text(f"[\n {text}\n]\n")
print(len(rows), "rows")
