"""Writes fuzz/corpus: small files of every kind that is fuzzed, whole and damaged. Needs ffmpeg.

    python tools/fuzz_corpus.py
"""

import json
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORPUS = ROOT / "fuzz/corpus"


def put(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def damaged(target, name, data):
    """The file, cut off, and with a byte changed in its first half."""
    put(target, name, data)
    put(target, name + "-cut", data[: len(data) * 2 // 3])
    for place in (len(data) // 7, len(data) // 3):
        put(target, f"{name}-{place}", data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])


def ffmpeg(name, *words):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        subprocess.run(["ffmpeg", "-v", "error", "-y", *words, str(path)], check=True)
        return path.read_bytes()


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(pairs, tensors):
    """A GGUF file of strings, u32 and f32, and tensors without data."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, value in pairs.items():
        kind = {str: 8, int: 4, float: 6}[type(value)]
        body = string(value) if kind == 8 else struct.pack("<I" if kind == 4 else "<f", value)
        out += string(key) + struct.pack("<I", kind) + body
    for name, shape in tensors:
        out += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}QIQ", *shape, 0, 0)
    return out + bytes(-len(out) % 32)


shutil.rmtree(CORPUS, ignore_errors=True)
qwen2 = {"general.architecture": "qwen2", "qwen2.block_count": 1, "qwen2.context_length": 64, "qwen2.embedding_length": 8,
         "qwen2.feed_forward_length": 16, "qwen2.attention.head_count": 2, "qwen2.attention.head_count_kv": 1,
         "qwen2.attention.layer_norm_rms_epsilon": 1e-6, "qwen2.rope.freq_base": 1e4}
damaged("gguf", "header", gguf(qwen2, [("token_embd.weight", [8, 4]), ("output_norm.weight", [8])]))
put("gguf", "huge-shape", gguf(qwen2, [("token_embd.weight", [2**40, 2**40])]))
put("gguf", "huge-count", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60))

tensor = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
head = json.dumps(tensor).encode()
damaged("safetensors", "one", struct.pack("<Q", len(head)) + head + bytes(16))
put("safetensors", "huge-header", struct.pack("<Q", 2**62) + head)
put("safetensors", "huge-shape", struct.pack("<Q", 70) + json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]}}).ljust(70).encode())

for family in ["omni-tiny", "qwen3-omni-tiny", "llava-onevision-tiny"]:
    config = json.loads((ROOT / "fixtures" / family / "config.json").read_text())
    small = json.dumps(config, separators=(",", ":"))
    damaged("config", family, small.encode())
put("config", "deep", "[" * 2000)
put("config", "numbers", '{"model_type": "qwen2", "hidden_size": 1e400, "num_hidden_layers": -1}')

def replaced(target, folder, name, config, weights):
    """A directory of fixtures: its configuration and the header of its weights, damaged."""
    place = ROOT / "fixtures" / folder / name
    says = json.dumps(json.loads((place / config).read_text()), separators=(",", ":")).encode()
    holds = (place / weights).read_bytes()
    head = holds[8 : 8 + struct.unpack("<Q", holds[:8])[0]]
    for which, data in (("config", says), ("header", head)):
        start = f"{name}\n{which}\n".encode()
        put(target, f"{name}-{which}-cut", start + data[: len(data) * 2 // 3])
        for place in (len(data) // 3, len(data) // 2, len(data) * 3 // 4):
            put(target, f"{name}-{which}-{place}", start + data[:place] + bytes([data[place] ^ 7]) + data[place + 1 :])


for name in ["awq-text", "gptq-order", "ct-w4-order", "ct-fp8-block", "bnb-nf4", "bnb-int8", "mlx-experts"]:
    replaced("packed", "packed", name, "config.json", "model.safetensors")
replaced("adapter", "adapters", "text", "adapter_config.json", "adapter_model.safetensors")
replaced("adapter", "adapters", "vision", "adapter_config.json", "adapter_model.safetensors")

processor = (ROOT / "fixtures/omni-tiny/preprocessor_config.json").read_bytes()
damaged("processor", "omni", processor)
put("processor", "zero", '{"patch_size": 0, "merge_size": 0, "min_pixels": -1, "max_pixels": 0}')

put("template", "chatml", "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{{ c.text }}{% endfor %}<|im_end|>\n{% endfor %}")
put("template", "endless", "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}")
put("template", "itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")
put("template", "wrong", "{{ messages[0].content[99].text.split(none) }}")
put("template", "wide", "{{ 'x' * 999999999 }}")

lavfi = ["-f", "lavfi", "-i", "testsrc=size=32x32:rate=5:duration=0.6", "-f", "lavfi", "-i", "sine=duration=0.6"]
damaged("mp4", "h264-aac", ffmpeg("a.mp4", *lavfi, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "24k", "-ar", "16000"))
damaged("mp4", "fragmented", ffmpeg("a.mp4", *lavfi, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-an", "-movflags", "frag_keyframe+empty_moov"))
sine = ["-f", "lavfi", "-i", "sine=duration=0.05:sample_rate=8000"]
for name, words in [("pcm.wav", []), ("float.wav", ["-c:a", "pcm_f32le"]), ("adpcm.wav", ["-c:a", "adpcm_ms"]), ("sound.flac", []), ("sound.ogg", ["-c:a", "libvorbis"])]:
    damaged("wav", name, ffmpeg(name, *sine, *words))

header = {"outro_eval": 1, "version": "0", "task": "avhbench", "questions_sha256": "", "questions": 1, "profile": "p", "profile_sha256": "", "parser": "outro-2",
          "readout": "text", "model": "m", "weights": "f32", "strategies": [], "ablation": "none", "media": None, "max_new_tokens": 4}
damaged("log", "header", (json.dumps(header) + "\n" + '{"id": "1"}\n').encode())
put("log", "not-json", "hello\n{}\n")
print(sum(1 for _ in CORPUS.rglob("*") if _.is_file()), "files")
