#!/usr/bin/env python3
"""Fields of transformers' configuration classes and their defaults, for config.json files that leave fields out.

    python tools/class_defaults.py crates/outro/src/weights/classes.json

adds what the installed transformers knows to the file: run it with each release, the oldest first. Where releases
differ the newest wins, and what differed is printed. Written with 4.46.3, 4.49.0, 4.52.3, 4.57.1 and 5.24.0.
"""

import dataclasses
import inspect
import json
import sys
from pathlib import Path

import transformers

# Classes whose fields a family reads, each with the one that had them in releases that had not yet split it.
CLASSES = {
    "LlamaConfig": None,
    "LlavaOnevisionConfig": None,
    "Qwen2Config": None,
    "Qwen2VLConfig": None,
    "Qwen2VLTextConfig": "Qwen2VLConfig",
    "Qwen2VLVisionConfig": None,
    "Qwen2_5OmniAudioEncoderConfig": None,
    "Qwen2_5OmniTextConfig": None,
    "Qwen2_5OmniThinkerConfig": None,
    "Qwen2_5OmniVisionEncoderConfig": None,
    "Qwen2_5_VLConfig": None,
    "Qwen2_5_VLTextConfig": "Qwen2_5_VLConfig",
    "Qwen2_5_VLVisionConfig": None,
    "Qwen3Config": None,
    "Qwen3MoeConfig": None,
    "Qwen3OmniMoeAudioEncoderConfig": None,
    "Qwen3OmniMoeTextConfig": None,
    "Qwen3OmniMoeThinkerConfig": None,
    "Qwen3OmniMoeVisionEncoderConfig": None,
    "Qwen3VLConfig": None,
    "Qwen3VLTextConfig": None,
    "Qwen3VLVisionConfig": None,
    "Qwen3VLMoeConfig": None,
    "Qwen3VLMoeTextConfig": None,
    "Qwen3VLMoeVisionConfig": None,
    "SiglipVisionConfig": None,
    "VideoLlama3Config": None,
    "VideoLlama3VisionConfig": None,
}

# The head's being tied is written in several places and decided by rules of its own.
LEFT_OUT = {"self", "kwargs", "tie_word_embeddings"}


def find(name):
    for module in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen2_5_omni", "qwen3_omni_moe", "siglip", "video_llama_3", ""):
        try:
            path = f"transformers.models.{module}.configuration_{module}" if module else "transformers"
            found = getattr(__import__(path, fromlist=[name]), name, None)
        except ImportError:
            continue
        if found is not None:
            return found
    return None


def fields(cls):
    """As the class declares them, before it derives one from another."""
    base = transformers.PretrainedConfig
    if dataclasses.is_dataclass(cls):
        inherited = {f.name for f in dataclasses.fields(base)}
        found = {f.name: f.default for f in dataclasses.fields(cls) if f.name not in inherited}
        if "rope_parameters" in found:
            found["rope_theta"] = getattr(cls, "default_theta", None)
    else:
        found = {k: p.default for k, p in inspect.signature(cls.__init__).parameters.items()}
    plain = (bool, int, float, str, list, tuple, type(None))
    return {k: v for k, v in found.items() if k not in LEFT_OUT and isinstance(v, plain)}


def of_text(found):
    """Without what stood beside the text's fields before they had a class of their own."""
    outer = ("image_token_id", "video_token_id", "vision_config")
    return {k: v for k, v in found.items() if k not in outer}


def main():
    path = Path(sys.argv[1])
    table = json.loads(path.read_text()) if path.exists() else {}
    for name, whole in CLASSES.items():
        cls = find(name)
        if whole is None and cls is not None and f"{name[:-6]}TextConfig" in CLASSES and not find(f"{name[:-6]}TextConfig"):
            continue  # Not split yet: all are fields of the text.
        cls = cls or (find(whole) if whole else None)
        if cls is None:
            continue
        known = table.setdefault(name, {})
        found = of_text(fields(cls)) if name.endswith("TextConfig") else fields(cls)
        for key, value in json.loads(json.dumps(found)).items():
            if key in known and known[key] != value:
                print(f"{transformers.__version__}: {name}.{key}: {known[key]} is now {value}")
            known[key] = value
    rows = (f"{json.dumps(name)}: {json.dumps(dict(sorted(table[name].items())))}" for name in sorted(table))
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")


main()
