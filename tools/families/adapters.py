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
from method import attach, both
from peft import LoraConfig, get_peft_model
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


@torch.no_grad()
def adapter(name, base, seed, **settings):
    """A random adapter, and the case."""
    made, decoder, path = base()
    saved = settings.get("modules_to_save") or []
    model = get_peft_model(made, LoraConfig(**settings))
    draw = torch.Generator().manual_seed(seed)
    for key, p in sorted(model.named_parameters()):
        if "lora_" in key:
            p.copy_(torch.randn(p.shape, generator=draw) * (0.3 if "lora_A" in key else 0.02))
        elif "modules_to_save" in key:
            p.mul_(1 + 0.1 * torch.randn(p.shape, generator=draw))
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


main()
