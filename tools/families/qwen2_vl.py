"""Writes fixtures/qwen2-vl-tiny and fixtures/qwen2-5-vl-tiny: random Qwen2-VL and Qwen2.5-VL checkpoints in the layout of
the hub, what transformers' models make of prompts with and without the method, and what the processors make of pictures.

    python3 -m venv v && v/bin/pip install torch torchvision 'transformers==5.23.0' safetensors
    OMP_NUM_THREADS=1 v/bin/python tools/families/qwen2_vl.py
"""

import json
from pathlib import Path

import tiny
import torch
from method import attach, both
from safetensors.torch import save_file
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

FIXTURES = Path(__file__).parents[2] / "fixtures"
IMAGE, VIDEO, START, END, PATCH = 291, 292, 293, 294, 4
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part['type'] == 'video' -%}
{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
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
SPECIAL = {
    "<|im_start|>": 1, "<|endoftext|>": 280, "<|im_end|>": 281, "<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO,
    "<|vision_start|>": START, "<|vision_end|>": END,
}  # fmt: skip
FAMILIES = {
    "qwen2-vl-tiny": (Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor, 19),
    "qwen2-5-vl-tiny": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, 23),
}


def model(name):
    config_of, model_of, _, seed = FAMILIES[name]
    text = {
        "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 300, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 281,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {"depth": 3, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if name == "qwen2-vl-tiny":
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "in_channels": 3}
    else:
        vision |= {
            "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 40, "in_channels": 3, "window_size": 16,
            "fullatt_block_indexes": [1], "tokens_per_second": 2,
        }  # fmt: skip
    config = config_of(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=START, vision_end_token_id=END, tie_word_embeddings=False,
    )  # fmt: skip
    made = model_of._from_config(config, attn_implementation="eager").eval().float()
    tiny.fill(made, seed, made.model.language_model, [made.model.visual.merger.mlp[2]])
    attach(made.model.language_model)
    return made


def checkpoint(made, out):
    """In the hub's layout: the decoder's fields at the top, the decoder's and the tower's tensors without `model.`."""
    config = made.config.to_dict()
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    if config["model_type"] == "qwen2_vl":
        # The hub's tower config has both names for the patch's channels.
        config["vision_config"]["in_chans"] = 3
    config = {**text, **config, "architectures": [type(made).__name__]}
    (out / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")
    names = (("model.language_model.", "model."), ("model.visual.", "visual."))

    def renamed(key):
        return next((new + key[len(old) :] for old, new in names if key.startswith(old)), key)

    state = {renamed(k): v.bfloat16().contiguous() for k, v in made.state_dict().items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})


def processor(name, out):
    size = {"shortest_edge": 8 * PATCH**2, "longest_edge": 144 * PATCH**2}
    return FAMILIES[name][2](
        Qwen2VLImageProcessor(patch_size=PATCH, size=size),
        tiny.tokenizer(out),
        Qwen2VLVideoProcessor(patch_size=PATCH, size=size, do_sample_frames=False),
        chat_template=TEMPLATE,
    )


def cases():
    """Name and content of each: pictures whose sides are what the tower takes, and a question."""
    words = ["What?", "Who speaks first?", "Where is the square, left or right?", "Is it red? Yes or no.", "Count them!"]
    sizes = [(16, 24), (16, 16), (8, 24), (24, 16), (24, 32)]
    for i, question in enumerate(words):
        yield f"text-{i}", [], question
        images = [sizes[i]] if i != 3 else [(16, 24), (24, 8)]
        yield f"image-{i}", [("image", tiny.picture(40 + i, h, w)) for h, w in images], question
        h, w = sizes[(i + 2) % 5]
        media = [("video", tiny.clip(60 + i, [5, 2, 7, 4, 3][i], h, w))]
        if i == 4:
            media.append(("image", tiny.picture(80, 16, 16)))
        if i == 3:
            media.append(("video", tiny.clip(81, 2, 16, 8)))
        yield f"video-{i}", media, question


def places(made, ids, grids, seconds):
    """Positions `[3, 1, S]` by the rule of transformers 4.52.3: text goes on after the largest number of the picture
    before it. Later releases count on after its height and width, whatever its time was."""
    rows, i, next_one = [], 0, 0
    grids, seconds = {k: iter(v.tolist()) for k, v in grids.items()}, iter(seconds)
    while i < len(ids):
        if ids[i] not in (IMAGE, VIDEO):
            block = [(next_one,) * 3]
        else:
            t, h, w = next(grids[ids[i]])
            step = next(seconds) * made.config.vision_config.tokens_per_second if seconds_count(made) and ids[i] == VIDEO else 1
            block = [(next_one + int(a * step), next_one + b, next_one + c) for a in range(t) for b in range(h // 2) for c in range(w // 2)]
        rows += block
        i += len(block)
        next_one = 1 + max(map(max, block))
    return torch.tensor(rows).T[:, None].contiguous()


def seconds_count(made):
    return made.config.model_type == "qwen2_5_vl"


def one(name, made, proc, number, media, question):
    """Tensors and metadata of a case; `None` where a greedy choice hangs by a thread."""
    content = [{"type": kind} for kind, _ in media] + [{"type": "text", "text": question}]
    system = {"role": "system", "content": "You are a helpful assistant."}
    text = proc.apply_chat_template([system, {"role": "user", "content": content}], add_generation_prompt=True)
    images = [m for kind, m in media if kind == "image"]
    videos = [m for kind, m in media if kind == "video"]
    extra = {"videos": videos} if videos else {}
    inputs = dict(proc(text=[text], images=images or None, return_tensors="pt", return_mm_token_type_ids=True, **extra))
    types = inputs.pop("mm_token_type_ids")
    inputs.pop("second_per_grid_ts", None)
    stored = {k: v.half() if v.is_floating_point() else v for k, v in inputs.items() if torch.is_tensor(v)}
    if videos and name == "qwen2-5-vl-tiny":
        stored["second_per_grid_ts"] = torch.tensor([[1.0, 2.0][number % 2]] * len(videos))
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()} | {"mm_token_type_ids": types}
    result = {f"input.{k}": v for k, v in stored.items()}
    for i, (_, m) in enumerate(media):
        result[f"picture.{i}"] = torch.from_numpy(m.copy())
    grids = {i: inputs[k] for i, k in ((IMAGE, "image_grid_thw"), (VIDEO, "video_grid_thw")) if k in inputs}
    seconds = inputs.get("second_per_grid_ts", torch.ones(0)).tolist()
    positions = places(made, inputs["input_ids"][0].tolist(), grids, seconds)
    result["position_ids"] = positions[:, 0]
    with torch.no_grad():
        if images:
            y = made.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
            result["image_embeds"] = torch.cat(y.pooler_output)
        if videos:
            y = made.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
            result["video_embeds"] = torch.cat(y.pooler_output)
    meta = {"text": text, "question": question, "kinds": json.dumps([k for k, _ in media])}
    if not both(made, made.model.language_model, inputs, result, meta, positions=positions):
        return None
    return {k: v.contiguous() for k, v in result.items()}, meta


def family(name):
    out = FIXTURES / name
    tiny.write_tokenizer(out, 300, SPECIAL, TEMPLATE)
    made, proc = model(name), processor(name, out)
    checkpoint(made, out)
    size = proc.image_processor.size
    image = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2}
    image |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    for key in ("image_mean", "image_std"):
        image[key] = list(getattr(proc.image_processor, key))
    (out / "preprocessor_config.json").write_text(json.dumps(image, indent=1) + "\n")
    (out / "cases").mkdir(exist_ok=True)
    for number, (case, media, question) in enumerate(cases()):
        tries = (one(name, made, proc, number, media, question + "!" * i) for i in range(9))
        tensors, meta = next(found for found in tries if found)
        save_file(tensors, out / "cases" / f"{case}.safetensors", metadata=meta)
    tiny.manifest(out, "tools/families/qwen2_vl.py")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in FAMILIES:
        family(name)
