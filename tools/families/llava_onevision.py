"""Writes fixtures/llava-onevision-tiny: a random LLaVA-OneVision checkpoint in the layout of the hub, what transformers'
model makes of prompts with and without the method, and what transformers' processor makes of small pictures.

    python3 -m venv v && v/bin/pip install torch torchvision 'transformers==5.23.0' safetensors
    OMP_NUM_THREADS=1 v/bin/python tools/families/llava_onevision.py
"""

import json
from pathlib import Path

import tiny
import torch
from method import attach, both
from safetensors.torch import save_file
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor
from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor
from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor

OUT = Path(__file__).parents[2] / "fixtures" / "llava-onevision-tiny"
IMAGE, VIDEO, PATCH, SIDE = 291, 292, 4, 20
GRIDS = [[20 * a, 20 * b] for a in (1, 2, 3) for b in (1, 2, 3)]
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + ' ' }}
{%- for part in message['content'] | selectattr('type', 'equalto', 'image') -%}
{{ '<image>\\n' }}
{%- endfor -%}
{%- for part in message['content'] | selectattr('type', 'equalto', 'video') -%}
{{ '<video>\\n' }}
{%- endfor -%}
{%- for part in message['content'] | selectattr('type', 'equalto', 'text') -%}
{% if message['role'] == 'assistant' %}{% generation %}{{ '\\n' + part['text'] }}{% endgeneration %}{% else %}{{ '\\n' + part['text'] }}{% endif %}
{%- endfor -%}
{{ '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
SPECIAL = {"<|im_start|>": 1, "<|endoftext|>": 280, "<|im_end|>": 281, "<image>": IMAGE, "<video>": VIDEO}


def model():
    text = {
        "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 300, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 281,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 40, "patch_size": PATCH, "image_size": SIDE, "vision_use_head": False,
    }  # fmt: skip
    config = LlavaOnevisionConfig(
        text_config=text, vision_config=vision, image_token_index=IMAGE, video_token_index=VIDEO,
        image_token_id=IMAGE, video_token_id=VIDEO, vision_aspect_ratio="anyres_max_4", image_grid_pinpoints=GRIDS,
        tie_word_embeddings=False,
    )  # fmt: skip
    made = LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation="eager").eval().float()
    inner = made.model
    tiny.fill(made, 29, inner.language_model, [inner.multi_modal_projector.linear_2])
    with torch.no_grad():
        inner.image_newline.copy_((inner.image_newline * 0.1).bfloat16().float())
    attach(inner.language_model)
    return made


def checkpoint(made):
    config = made.config.to_dict()
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"]["rope_theta"] = rope["rope_theta"]
    config |= {"architectures": [type(made).__name__], "image_token_index": IMAGE, "video_token_index": VIDEO}
    (OUT / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")
    names = [
        ("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
        ("model.vision_tower.", "vision_tower.vision_model."), ("model.", ""),
    ]  # fmt: skip

    def renamed(key):
        return next((new + key[len(old) :] for old, new in names if key.startswith(old)), key)

    state = {renamed(k): v.bfloat16().contiguous() for k, v in made.state_dict().items()}
    save_file(state, OUT / "model.safetensors", metadata={"format": "pt"})


def processor():
    size = {"height": SIDE, "width": SIDE}
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=GRIDS),
        tiny.tokenizer(OUT),
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(SIDE // PATCH) ** 2, vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4", chat_template=TEMPLATE,
    )  # fmt: skip


def cases():
    """Name and content of each: pictures, and a question."""
    words = ["What?", "Who speaks first?", "Where is the square, left or right?", "Is it red? Yes or no.", "Count them!"]
    sizes = [(20, 20), (37, 52), (18, 66), (0, 0), (61, 44)]
    for i, question in enumerate(words):
        yield f"text-{i}", [], question
        images = [sizes[i]] if i != 3 else [(24, 33), (31, 17)]
        yield f"image-{i}", [("image", tiny.picture(40 + i, h, w)) for h, w in images], question
        media = [("video", tiny.clip(60 + i, [5, 2, 7, 1, 3][i], 26 + 3 * i, 50 - 5 * i))]
        if i == 4:
            media.append(("image", tiny.picture(80, 25, 41)))
        yield f"video-{i}", media, question


def one(made, proc, media, question):
    """Tensors and metadata of a case; `None` where a greedy choice hangs by a thread."""
    content = [{"type": kind} for kind, _ in media] + [{"type": "text", "text": question}]
    text = proc.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [m for kind, m in media if kind == "image"]
    videos = [m for kind, m in media if kind == "video"]
    extra = {"videos": videos} if videos else {}
    inputs = dict(proc(text=[text], images=[images] if images else None, return_tensors="pt", **extra))
    stored = {k: v.half() if v.is_floating_point() else v for k, v in inputs.items() if torch.is_tensor(v)}
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
    result = {f"input.{k}": v for k, v in stored.items()}
    for i, (_, m) in enumerate(media):
        result[f"picture.{i}"] = torch.from_numpy(m.copy())
    with torch.no_grad():
        if images:
            about = {k: inputs[k] for k in ("image_sizes", "batch_num_images") if k in inputs}
            y = made.get_image_features(inputs["pixel_values"], vision_aspect_ratio="anyres_max_4", **about)
            result["image_embeds"] = torch.cat(list(y.pooler_output))
        if videos:
            y = made.get_video_features(inputs["pixel_values_videos"]).pooler_output
            result["video_embeds"] = torch.cat(list(y))
    meta = {"text": text, "question": question, "kinds": json.dumps([k for k, _ in media])}
    if not both(made, made.model.language_model, inputs, result, meta):
        return None
    return {k: v.contiguous() for k, v in result.items()}, meta


torch.set_num_threads(1)
tiny.write_tokenizer(OUT, 300, SPECIAL, TEMPLATE)
made, proc = model(), processor()
checkpoint(made)
about = {"image_grid_pinpoints": GRIDS, "size": {"height": SIDE, "width": SIDE}, "image_processor_type": "LlavaOnevisionImageProcessor"}
about |= {key: list(getattr(proc.image_processor, key)) for key in ("image_mean", "image_std")}
(OUT / "preprocessor_config.json").write_text(json.dumps(about, indent=1) + "\n")
(OUT / "cases").mkdir(exist_ok=True)
for case, media, question in cases():
    tries = (one(made, proc, media, question + "!" * i) for i in range(9))
    tensors, meta = next(found for found in tries if found)
    save_file(tensors, OUT / "cases" / f"{case}.safetensors", metadata=meta)
tiny.manifest(OUT, "tools/families/llava_onevision.py")
