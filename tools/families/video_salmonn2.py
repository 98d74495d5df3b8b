"""Writes fixtures/video-salmonn2-tiny: a random video-SALMONN 2+ checkpoint in the layout of its authors' full
checkpoints, and what it makes of prompts with and without the method.

Qwen2.5-VL and Whisper's encoder are transformers'; the windowed Q-Former, the order of sound and frames and the positions
are written out here from the authors' public code (bytedance/video-SALMONN-2, bytedance/SALMONN).

    python3 -m venv v && v/bin/pip install torch torchvision 'transformers==5.23.0' safetensors
    OMP_NUM_THREADS=1 v/bin/python tools/families/video_salmonn2.py
"""

import json
from pathlib import Path

import numpy as np
import tiny
import torch
from method import attach, both
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, WhisperConfig, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

OUT = Path(__file__).parents[2] / "fixtures" / "video-salmonn2-tiny"
IMAGE, VIDEO, START, END, AUDIO, PATCH = 291, 292, 293, 294, 295, 4
SPECIAL = {
    "<|im_start|>": 1, "<|endoftext|>": 280, "<|im_end|>": 281, "<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO,
    "<|vision_start|>": START, "<|vision_end|>": END, "<|audio_pad|>": AUDIO,
}  # fmt: skip
FRAMES, WINDOW, QUERIES, WIDTH = 40, 5, 2, 24
QFORMER = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40,
    "layer_norm_eps": 1e-12, "encoder_width": 32, "query_length": QUERIES, "cross_attention_freq": 1,
    "add_cross_attention": True, "hidden_act": "gelu",
}  # fmt: skip
SOUND = {
    "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 40, "num_mel_bins": 128,
    "max_source_positions": FRAMES // 2,
}  # fmt: skip


class Attention(nn.Module):
    """BERT's, with its output projection and norm."""

    def __init__(self, inner):
        super().__init__()
        self.self, self.output = nn.Module(), nn.Module()
        self.self.query = nn.Linear(WIDTH, WIDTH)
        self.self.key, self.self.value = nn.Linear(inner, WIDTH), nn.Linear(inner, WIDTH)
        self.output.dense, self.output.LayerNorm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x, y):
        q, k, v = (f(z).unflatten(-1, (2, -1)).transpose(1, 2) for f, z in ((self.self.query, x), (self.self.key, y), (self.self.value, y)))
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
        return self.output.LayerNorm(self.output.dense((weights @ v).transpose(1, 2).flatten(2)) + x)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.crossattention = Attention(WIDTH), Attention(32)
        self.intermediate_query, self.output_query = nn.Module(), nn.Module()
        self.intermediate_query.dense = nn.Linear(WIDTH, 40)
        self.output_query.dense, self.output_query.LayerNorm = nn.Linear(40, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x, y):
        x = self.crossattention(self.attention(x, x), y)
        wide = nn.functional.gelu(self.intermediate_query.dense(x))
        return self.output_query.LayerNorm(self.output_query.dense(wide) + x)


class Audio(WhisperEncoder):
    def __init__(self):
        config = WhisperConfig(**SOUND)
        config._attn_implementation = "eager"
        super().__init__(config)
        self.qformer = nn.Module()
        self.qformer.bert = bert = nn.Module()
        bert.embeddings, bert.encoder = nn.Module(), nn.Module()
        bert.embeddings.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)
        bert.encoder.layer = nn.ModuleList([Layer() for _ in range(2)])
        self.q_tokens = nn.Parameter(torch.zeros(1, QUERIES, WIDTH))
        self.audio_proj = nn.Linear(WIDTH, 64)

    def tokens(self, mel):
        """`[segments, 128, FRAMES]` to rows of the decoder."""
        x = super().forward(mel).last_hidden_state
        windows = x.unflatten(1, (-1, WINDOW)).flatten(0, 1)
        q = self.qformer.bert.embeddings.LayerNorm(self.q_tokens.expand(len(windows), -1, -1))
        for layer in self.qformer.bert.encoder.layer:
            q = layer(q, windows)
        return self.audio_proj(q).flatten(0, 1)


class Whole(nn.Module):
    def __init__(self, vl, audio):
        super().__init__()
        self.vl, self.audio = vl, audio

    def embeds(self, ids, pixel_values=None, image_grid_thw=None, pixel_values_videos=None, video_grid_thw=None, mel=None):
        x = self.vl.get_input_embeddings()(ids).clone()
        found = {}
        if pixel_values is not None:
            found[IMAGE] = torch.cat(self.vl.get_image_features(pixel_values, image_grid_thw).pooler_output)
        if pixel_values_videos is not None:
            found[VIDEO] = torch.cat(self.vl.get_video_features(pixel_values_videos, video_grid_thw).pooler_output)
        if mel is not None:
            found[AUDIO] = self.audio.tokens(mel)
        for token, rows in found.items():
            x[ids == token] = rows
        return x, found


def model():
    text = {
        "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 300, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 281,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {
        "depth": 3, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 40, "in_channels": 3, "window_size": 16,
        "fullatt_block_indexes": [1], "tokens_per_second": 2,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=START, vision_end_token_id=END, tie_word_embeddings=False,
    )  # fmt: skip
    vl = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager")
    made = Whole(vl, Audio()).eval().float()
    tiny.fill(made, 29, vl.model.language_model, [vl.model.visual.merger.mlp[2], made.audio.audio_proj])
    attach(vl.model.language_model)
    return made


def checkpoint(made):
    config = made.vl.config.to_dict()
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    window = WINDOW * 30 / 1500
    sound = SOUND | {"second_per_window": window, "second_stride": window, "qformer_config": QFORMER}
    config = {**text, **config, "architectures": ["video_SALMONN2_plus"], "audio_config": sound, "audio_token_id": AUDIO}
    (OUT / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")
    names = (("vl.model.language_model.", "model."), ("vl.model.visual.", "visual."), ("vl.", ""))

    def renamed(key):
        return next((new + key[len(old) :] for old, new in names if key.startswith(old)), key)

    state = {renamed(k): v.bfloat16().contiguous() for k, v in made.state_dict().items()}
    save_file(state, OUT / "model.safetensors", metadata={"format": "pt"})


def order(step_tokens, steps, sound):
    """A video's placeholders: after each step's the step's share of the sound's, larger shares first."""
    ids = []
    for i in range(steps):
        ids += [VIDEO] * step_tokens + [AUDIO] * (sound // steps + (i < sound % steps))
    return ids


def places(ids, grids, seconds, sounds):
    """Positions `[3, S]` by the authors' get_rope_index."""
    rows, i, videos, audios, images = [], 0, 0, 0, 0
    media = [k for k, token in enumerate(ids) if token in (IMAGE, VIDEO, AUDIO)]
    next_one = 0
    while i < len(ids):
        if ids[i] in (IMAGE, VIDEO):
            image = ids[i] == IMAGE
            t, h, w = grids[ids[i]][images if image else videos]
            step = 0.0 if image else seconds[videos] * 2
            cells = [(next_one + int(a * step), next_one + b, next_one + c) for a in range(t) for b in range(h // 2) for c in range(w // 2)]
            heard = [(next_one + k, next_one, next_one + k) for k in range(sounds[videos])] if sounds and not image else []
            block = ids[i : i + len(cells) + len(heard)]
            a, b = iter(cells), iter(heard)
            block = [next(b) if token == AUDIO else next(a) for token in block]
            images, videos = images + image, videos + (not image)
            timed = bool(heard)
        elif ids[i] == AUDIO:
            block = [(next_one + k, next_one + k, next_one) for k in range(sounds[audios])]
            audios, timed = audios + 1, True
        else:
            block, timed = [(next_one,) * 3], False
        rows += block
        i += len(block)
        # The text behind the last block of sound goes on after its times, whatever its rows and columns are.
        last = timed and not any(k >= i for k in media)
        next_one = 1 + (max(p[0] for p in block) if last else max(map(max, block)))
    return torch.tensor(rows).T.contiguous()


def cases():
    """Name, kinds and pictures or lengths of sound in segments, and a question."""
    words = ["What?", "Who speaks first?", "Where is the square, left or right?", "Is it red? Yes or no.", "Count them!"]
    sizes = [(16, 24), (16, 16), (8, 24), (24, 16), (24, 32)]
    for i, question in enumerate(words):
        h, w = sizes[i]
        clip = tiny.clip(60 + i, [5, 2, 7, 4, 3][i], *sizes[(i + 2) % 5])
        yield f"text-{i}", [], question
        yield f"image-{i}", [("image", tiny.picture(40 + i, h, w))], question
        yield f"video-{i}", [("video", clip)], question
        yield f"audio-{i}", [("audio", 1 + i % 2)] if i != 3 else [("audio", 1), ("audio", 1)], question
        yield f"audio-in-video-{i}", [("video", clip), ("audio", 1 + (i == 2))], question


def one(made, decoder, pictures, films, draw, number, name, media, question):
    """Tensors and metadata of a case; `None` where a greedy choice hangs by a thread."""
    per_segment = FRAMES // 2 // WINDOW * QUERIES
    letters = lambda s: [tiny.FIRST_BYTE + b for b in s.encode()]
    joined = [k for k, _ in media] == ["video", "audio"]
    ids = [1] + letters("user\n")
    kinds, sounds, grids, seconds, stored = {}, [], {IMAGE: [], VIDEO: []}, [], {}
    for kind, m in media:
        kinds.setdefault(kind, []).append(m)
    if "image" in kinds:
        made_of = pictures(kinds["image"], return_tensors="pt")
        stored |= {"pixel_values": made_of["pixel_values"].half(), "image_grid_thw": made_of["image_grid_thw"]}
        grids[IMAGE] = made_of["image_grid_thw"].tolist()
    if "video" in kinds:
        made_of = films(kinds["video"], return_tensors="pt")
        stored |= {"pixel_values_videos": made_of["pixel_values_videos"].half(), "video_grid_thw": made_of["video_grid_thw"]}
        grids[VIDEO] = made_of["video_grid_thw"].tolist()
        seconds = [[1.0, 0.7, 2.5][number % 3]]
        stored["second_per_grid_ts"] = torch.tensor(seconds)
    if "audio" in kinds:
        sounds = [n * per_segment for n in kinds["audio"]]
        longest = max(kinds["audio"]) * FRAMES
        mel = torch.zeros(len(sounds), 128, longest)
        mask = torch.zeros(len(sounds), longest, dtype=torch.long)
        for k, n in enumerate(kinds["audio"]):
            mel[k, :, : n * FRAMES] = 0.5 * torch.randn(128, n * FRAMES, generator=draw)
            mask[k, : n * FRAMES] = 1
        stored |= {"input_features": mel.half(), "feature_attention_mask": mask}
    shares = iter(sounds)
    for kind, _ in media:
        if kind == "audio" and joined:
            continue
        t, h, w = grids[IMAGE if kind == "image" else VIDEO][0] if kind != "audio" else (0, 0, 0)
        inner = [AUDIO] * next(shares) if kind == "audio" else [IMAGE] * (h * w // 4) if kind == "image" else order(h * w // 4, t, next(shares) if joined else 0)
        ids += [START] + inner + [END] + letters("\n")
    ids += letters(question) + [281] + letters("\n") + [1] + letters("assistant\n")
    stored |= {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
    pieces = [inputs["input_features"][k, :, : n * FRAMES] for k, n in enumerate(kinds.get("audio", []))]
    segments = torch.cat([p.unflatten(1, (-1, FRAMES)).transpose(0, 1) for p in pieces]) if pieces else None
    given = {k: v for k, v in inputs.items() if "pixel" in k or "grid_thw" in k} | {"mel": segments}
    positions = places(ids, grids, seconds, sounds)
    out = {f"input.{k}": v for k, v in stored.items()} | {"position_ids": positions}
    with torch.no_grad():
        _, found = made.embeds(inputs["input_ids"], **given)
    for token, key in ((IMAGE, "image_embeds"), (VIDEO, "video_embeds"), (AUDIO, "audio_embeds")):
        if token in found:
            out[key] = found[token]

    def ask(input_ids, attention_mask, **kw):
        first = input_ids.shape[1] > 1
        x, _ = made.embeds(input_ids, **(given if first else {}))
        return made.vl(inputs_embeds=x, attention_mask=attention_mask, **kw)

    meta = {"kinds": json.dumps([k for k, _ in media]), "question": question, "use_audio_in_video": str(joined).lower()}
    shown = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    if not both(ask, decoder, shown, out, meta, positions=positions[:, None]):
        return None
    return {k: v.contiguous() for k, v in out.items()}, meta


def arithmetic():
    """Frames, sizes and seconds of a grid step by the authors' dataset code with the settings of their inference script, and
    spectrograms in segments (of one second here)."""
    rows = []
    for total in [1, 3, 15, 16, 17, 40, 161, 450, 899, 2302, 5403, 100003]:
        for rate in [7.5, 23.976023976023978, 25.0, 29.97002997002997]:
            length = total / rate
            wanted = min(max(round(length / 0.1), 16), 768)
            taken = np.unique(np.linspace(0, total - 1, wanted, dtype=int))
            most = 61250 if len(taken) >= 768 else 0.95 * 768 / len(taken) * 61250
            sizes = [list(smart_resize(h, w, 28, 4 * 28 * 28, most)) for h, w in [(240, 320), (1080, 1920), (4000, 100), (64, 64)]]
            spread = [int(taken[k]) for k in range(0, len(taken), max(1, len(taken) // 40))] + [int(taken[-1])]
            rows.append([total, rate, len(taken), spread, sizes, 2 / (len(taken) / length)])
    (OUT / "arithmetic.json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")
    t = np.arange(25000) / 16000
    samples = (20000 * np.sin(2 * np.pi * 300 * t) * np.exp(-3 * t)).astype(np.int16)
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=1)
    parts = [samples[k : k + 16000].astype(np.float32) / 32768 for k in range(0, len(samples), 16000)]
    mel = [extractor(p, sampling_rate=16000, padding="max_length", return_tensors="pt")["input_features"][0] for p in parts]
    save_file({"samples": torch.from_numpy(samples), "mel": torch.stack(mel).half()}, OUT / "mel.safetensors")


def main():
    torch.set_num_threads(1)
    tiny.write_tokenizer(OUT, 300, SPECIAL, None)
    made = model()
    checkpoint(made)
    size = {"shortest_edge": 8 * PATCH**2, "longest_edge": 144 * PATCH**2}
    pictures = Qwen2VLImageProcessor(patch_size=PATCH, size=size)
    films = Qwen2VLVideoProcessor(patch_size=PATCH, size=size, do_sample_frames=False)
    image = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 8 * PATCH**2, "max_pixels": 144 * PATCH**2}
    (OUT / "preprocessor_config.json").write_text(json.dumps(image, indent=1) + "\n")
    (OUT / "cases").mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(3)
    decoder = made.vl.model.language_model
    for number, (name, media, question) in enumerate(cases()):
        tries = (one(made, decoder, pictures, films, draw, number, name, media, question + "!" * i) for i in range(9))
        tensors, meta = next(found for found in tries if found)
        save_file(tensors, OUT / "cases" / f"{name}.safetensors", metadata=meta)
    arithmetic()
    tiny.manifest(OUT, "tools/families/video_salmonn2.py")


if __name__ == "__main__":
    main()
