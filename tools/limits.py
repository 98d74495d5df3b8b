"""Writes fixtures/limits.json: grids of frames that the processors of transformers make of videos, under limits that stand in
the files in which releases write them. Frames go through the sizes of qwen-vl-utils (qwen-omni-utils has the same) first.

    python tools/limits.py RELEASE=PYTHON ...        # PYTHON is an interpreter with that release of transformers
    python tools/limits.py                           # what this interpreter's release makes of them, to stdout

A row is [family, files, limits, height, width, frames, grid's height and width]. Rows on which releases do not agree are an error, but for what 4.52.3
cannot read: limits in `size`, and processors in one file.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SIZES = [(720, 1280, 8), (480, 640, 4), (1080, 1920, 60), (360, 640, 240), (64, 64, 4), (2000, 300, 20)]
LIMITS = [(3136, 12845056), (3136, 200704), (50176, 100352), (200704, 400000), (1204224, 1806336)]
COMMON = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "image_processor_type": "Qwen2VLImageProcessor"}
EAR = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "sampling_rate": 16000, "hop_length": 160,
       "n_fft": 400, "chunk_length": 300}
NAMES = {"image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>", "vision_bos_token": "<|vision_bos|>",
         "vision_eos_token": "<|vision_eos|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}


def layouts(least, most):
    pixels = {**COMMON, "min_pixels": least, "max_pixels": most}
    size = {**COMMON, "size": {"shortest_edge": least, "longest_edge": most}}
    video = {"video_processor_type": "Qwen2VLVideoProcessor"}
    pixels |= EAR
    wide = {**COMMON, **EAR, "min_pixels": 3136, "max_pixels": 12845056}
    image, both, one = "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"
    yield "image", {image: pixels}, True
    yield "video", {image: wide, both: {**pixels, **video}}, True
    yield "size", {image: wide, both: {**size, **video}}, False
    yield "one", {one: {"image_processor": wide, "video_processor": {**size, **video}, "feature_extractor": EAR}}, False


def first_size(height, width, frames):
    try:
        from qwen_vl_utils.vision_process import smart_resize
    except ImportError:
        from qwen_omni_utils.v2_5.vision_process import smart_resize

    least, most, all_frames = 128 * 784, 768 * 784, 128000 * 784 * 0.9
    most = max(min(most, all_frames / frames * 2), int(least * 1.05))
    return smart_resize(height, width, factor=28, min_pixels=least, max_pixels=most)


def processors(folder, files):
    for file, content in files.items():
        Path(folder, file).write_text(json.dumps(content))
    yield "qwen2_5_vl", transformers.Qwen2VLVideoProcessor.from_pretrained(folder), {}
    tiny = ROOT / "fixtures/omni-tiny"
    shutil.copy(tiny / "tokenizer.json", folder)
    settings = json.loads((tiny / "tokenizer_config.json").read_text()) | {"extra_special_tokens": NAMES}
    Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))
    text = {"text": ["<|vision_bos|><|VIDEO|><|vision_eos|>"]}
    yield "qwen2_5_omni", transformers.Qwen2_5OmniProcessor.from_pretrained(folder), text


def measure():
    old = transformers.__version__.startswith("4.52")
    rows = []
    for limits in LIMITS:
        for name, files, known in layouts(*limits):
            if old and not known:
                continue
            with tempfile.TemporaryDirectory() as folder:
                for family, processor, text in processors(folder, files):
                    for height, width, frames in SIZES:
                        # How many frames there are matters to the utils only.
                        pictures = torch.zeros(2, 3, *first_size(height, width, frames))
                        made = processor(videos=[pictures], return_tensors="pt", **text)
                        grid = made["video_grid_thw"][0].tolist()
                        rows.append([family, name, list(limits), height, width, frames, grid[1:]])
    return rows


if len(sys.argv) == 1:
    import torch
    import transformers

    print(json.dumps(measure()))
    sys.exit()
merged = {}
for argument in sys.argv[1:]:
    release, python = argument.split("=", 1)
    out = subprocess.run([python, __file__], capture_output=True, text=True, check=True).stdout
    for row in json.loads(out.splitlines()[-1]):
        key = json.dumps(row[:-1])
        if merged.setdefault(key, row)[-1] != row[-1]:
            raise SystemExit(f"{release} makes {row}, another release {merged[key]}")
rows = sorted(merged.values(), key=json.dumps)
text = ",\n ".join(json.dumps(row) for row in rows)
(ROOT / "fixtures/limits.json").write_text(f"[\n {text}\n]\n")
print(len(rows), "rows")
