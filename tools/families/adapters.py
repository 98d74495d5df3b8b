"""Writes fixtures/adapters: LoRA adapters of tiny checkpoints, saved by peft, and what the adapted models compute in float32 without
merging.

    python3 -m venv v && v/bin/pip install torch torchvision 'transformers==5.24.0' 'peft==0.21.2' safetensors
    OMP_NUM_THREADS=1 v/bin/python tools/families/adapters.py

NAME holds the adapter, NAME.safetensors a case of its base as in the base's `cases/`."""

import json
import shutil
from pathlib import Path

import qwen2_vl
import torch
import video_salmonn2
from method import attach, both
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FIXTURES = Path(__file__).parents[2] / "fixtures"
OUT = FIXTURES / "adapters"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def vision():
    made = qwen2_vl.model("qwen2-5-vl-tiny")
    state = load_file(FIXTURES / "qwen2-5-vl-tiny/model.safetensors")
    names = (("model.", "model.language_model."), ("visual.", "model.visual."))
    renamed = {next((new + k[len(old) :] for old, new in names if k.startswith(old)), k): v.float() for k, v in state.items()}
    made.load_state_dict(renamed)
    return made, made.model.language_model, FIXTURES / "qwen2-5-vl-tiny/cases/video-0.safetensors"


def text():
    made = AutoModelForCausalLM.from_pretrained(FIXTURES / "qwen3-tiny", dtype=torch.float32, attn_implementation="eager").eval()
    attach(made.model)
    return made, made.model, FIXTURES / "qwen3-tiny/cases/text-1.inputs.safetensors"


class Salmonn(torch.nn.Module):
    """video-SALMONN 2+ with its parts under the authors' names."""

    def __init__(self, whole):
        super().__init__()
        self.model, self.visual = whole.vl.model.language_model, whole.vl.model.visual
        self.audio, self.lm_head = whole.audio, whole.vl.lm_head


@torch.no_grad()
def salmonn(name, seed):
    """An adapter as the authors' train_qwen.py makes and saves one: Whisper's layers are taken out while peft looks for modules, and
    merger, Q-Former and projection are saved whole."""
    made = video_salmonn2.model()
    names = (("model.", "vl.model.language_model."), ("visual.", "vl.model.visual."), ("lm_head.", "vl.lm_head."))
    state = load_file(FIXTURES / "video-salmonn2-tiny/model.safetensors")
    made.load_state_dict({next((new + k[len(old) :] for old, new in names if k.startswith(old)), k): v.float() for k, v in state.items()})
    shell, layers = Salmonn(made), made.audio.layers
    del made.audio.layers
    saved = ["visual.merger", "audio.qformer", "audio.q_tokens", "audio.audio_proj"]
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj"], "modules_to_save": saved}
    model = get_peft_model(shell, LoraConfig(**settings))
    made.audio.layers = layers
    draw(model, seed)
    model.peft_config["default"].base_model_name_or_path = "output/audio_align"
    model.save_pretrained(OUT / name)
    (OUT / name / "README.md").unlink(missing_ok=True)
    path = FIXTURES / "video-salmonn2-tiny/cases/audio-in-video-2.safetensors"
    stored = load_file(path)
    with safe_open(path, "pt") as f:
        meta = {k: v for k, v in f.metadata().items() if k not in ("sinks", "relaxed")}
    tensors = {k: v for k, v in stored.items() if k.startswith("input") or k == "position_ids"}
    inputs = {k.removeprefix("input."): v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    frames = video_salmonn2.FRAMES
    mel = inputs["input_features"][0].unflatten(1, (-1, frames)).transpose(0, 1)
    given = {k: v for k, v in inputs.items() if "pixel" in k or "grid_thw" in k} | {"mel": mel}

    def ask(input_ids, attention_mask, **kw):
        x, _ = made.embeds(input_ids, **(given if input_ids.shape[1] > 1 else {}))
        return made.vl(inputs_embeds=x, attention_mask=attention_mask, **kw)

    shown = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    assert both(ask, made.vl.model.language_model, shown, tensors, meta, positions=tensors["position_ids"][:, None])
    save_file({k: v.contiguous() for k, v in tensors.items()}, OUT / f"{name}.safetensors", metadata=meta)


def case(made, decoder, path, out):
    """What the model makes of a case of its base."""
    stored = load_file(path)
    inputs = {k.removeprefix("input."): v for k, v in stored.items() if k.startswith("input") and "second_per" not in k}
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    if inputs["input_ids"].dim() == 1:
        inputs = {k: v[None] for k, v in inputs.items()}
    positions = stored["position_ids"][:, None] if "pixel_values_videos" in inputs else None
    tensors = {k: v for k, v in stored.items() if k.startswith("input")}
    meta = {}
    assert both(made, decoder, inputs, tensors, meta, positions=positions)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out, metadata=meta)


def draw(model, seed):
    """Random values for what an adapter changes."""
    random = torch.Generator().manual_seed(seed)
    for key, p in sorted(model.named_parameters()):
        if "lora_" in key:
            p.copy_(torch.randn(p.shape, generator=random) * (0.3 if "lora_A" in key else 0.02))
        elif "modules_to_save" in key:
            p.mul_(1 + 0.1 * torch.randn(p.shape, generator=random))


@torch.no_grad()
def adapter(name, base, seed, **settings):
    """A random adapter, and the case."""
    made, decoder, path = base()
    saved = settings.get("modules_to_save") or []
    model = get_peft_model(made, LoraConfig(**settings))
    draw(model, seed)
    config = model.peft_config["default"]
    config.base_model_name_or_path = str(path.parents[1].name)
    model.save_pretrained(OUT / name)
    (OUT / name / "README.md").unlink(missing_ok=True)
    case(made, decoder, path, OUT / f"{name}.safetensors")
    return saved


@torch.no_grad()
def together(name, first, second, weight):
    """Two adapters, the first with a weight, merged by the definition."""
    made, decoder, path = vision()
    state = dict(made.named_parameters())
    for of, times in ((first, weight), (second, 1.0)):
        config = json.loads((OUT / of / "adapter_config.json").read_text())
        tensors = load_file(OUT / of / "adapter_model.safetensors")
        for key, a in tensors.items():
            if key.endswith("lora_A.weight"):
                b = tensors[key.replace("lora_A", "lora_B")]
                module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                state[f"{module}.weight"].add_(times * config["lora_alpha"] / a.shape[0] * b @ a)
    case(made, decoder, path, OUT / f"{name}.safetensors")


def older(name, of):
    """The same adapter as releases of transformers before 4.52 name the model's parts."""
    shutil.copytree(OUT / of, OUT / name, dirs_exist_ok=True)
    tensors = load_file(OUT / of / "adapter_model.safetensors")
    names = (("model.language_model.", "model."), ("model.visual.", "visual."))
    wrap = "base_model.model."

    def renamed(key):
        plain = key.removeprefix(wrap)
        return wrap + next((new + plain[len(old) :] for old, new in names if plain.startswith(old)), plain)

    save_file({renamed(k): v for k, v in tensors.items()}, OUT / name / "adapter_model.safetensors", metadata={"format": "pt"})


def main():
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    # A list matches ends of names: the vision tower's MLP too.
    adapter("vision", vision, 5, r=4, lora_alpha=16, target_modules=[*LINEAR, "qkv"])
    older("vision-older", "vision")
    adapter(
        "patterns", vision, 6, r=4, lora_alpha=8, use_rslora=True, rank_pattern={"layers.0.self_attn.q_proj": 2},
        alpha_pattern={"layers.1.*_proj": 3, "v_proj": 7}, target_modules=["q_proj", "v_proj", "proj", "k_proj"], modules_to_save=["lm_head", "ln_q"],
    )  # fmt: skip
    adapter("second", vision, 7, r=3, lora_alpha=3, target_modules=["q_proj", "o_proj"])
    together("two", "vision", "second", 0.5)
    adapter("text", text, 8, r=5, lora_alpha=10, target_modules=LINEAR, task_type="CAUSAL_LM")
    salmonn("salmonn", 9)


if __name__ == "__main__":
    main()
