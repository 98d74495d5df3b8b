#!/usr/bin/env python3
"""Writes fixtures/rope.json: what transformers makes of rotary scaling.

`frequencies`: inverse frequencies and attention factors over a grid of settings. `logits`: the tiny checkpoints of
fixtures/ with each scaling in config.json: the prompt's last row, and two decoded tokens with the cache, 48 logits each.
Tried with transformers 4.57.1 and 5.24.0, which agree; the file is by 5.24.0.
"""

import copy
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures"

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Settings, the sequence's length, and what else config.json says.
GRID = [
    ({"rope_type": "linear", "factor": 2.5}, None, {}),
    (LLAMA3, None, {}),
    ({**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 1024}, None, {"rope_theta": 10000.0, "head_dim": 64}),
    ({"rope_type": "dynamic", "factor": 2.0}, 4096, {}),
    ({"rope_type": "dynamic", "factor": 2.0}, 40960, {}),
    ({"rope_type": "dynamic", "factor": 4.0}, 100001, {"rope_theta": 10000.0, "head_dim": 64}),
    (YARN, None, {}),
    ({**YARN, "original_max_position_embeddings": None}, None, {}),
    ({**YARN, "original_max_position_embeddings": 4096}, None, {"rope_theta": 10000.0, "head_dim": 64}),
    ({**YARN, "attention_factor": 0.75}, None, {}),
    ({**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, None, {}),
    ({**YARN, "mscale": 0.707, "mscale_all_dim": 0.707, "factor": 40.0}, None, {}),
    ({**YARN, "mscale": 2.0}, None, {}),
    ({**YARN, "beta_fast": 16, "beta_slow": 2}, None, {}),
    ({**YARN, "beta_fast": 4.0, "beta_slow": 3.9}, None, {"head_dim": 16}),
    ({**YARN, "truncate": False}, None, {}),
    ({**YARN, "truncate": False, "factor": 1.0}, None, {"head_dim": 32}),
    ({**YARN, "factor": 1.5, "original_max_position_embeddings": 64}, None, {"head_dim": 16}),
    ({**YARN, "original_max_position_embeddings": 6}, None, {"head_dim": 16}),
]

# Checkpoints with each kind of decoder.
CHECKPOINTS = ["qwen2-5-vl-tiny", "qwen3-vl-tiny", "qwen3-tiny", "llava-onevision-tiny", "omni-tiny"]
# Settings, and how long the context says it is.
LOGITS = [
    ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 24),
    ({"rope_type": "dynamic", "factor": 3.0}, 24),
    ({"rope_type": "linear", "factor": 2.0}, 24),
    ({**LLAMA3, "original_max_position_embeddings": 64}, 512),
]
IDS = [(7 * i * i + 3 * i + 1) % 256 + 10 for i in range(40)]
SHOWN = 48


def without_none(settings):
    return {k: v for k, v in settings.items() if v is not None}


def frequencies():
    for settings, length, more in GRID:
        fields = {
            "hidden_size": 512,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "rope_theta": 1000000.0,
            "max_position_embeddings": 32768,
            "rope_scaling": without_none(settings),
            **more,
        }
        config = LlamaConfig(**copy.deepcopy(fields))
        made = ROPE_INIT_FUNCTIONS[settings["rope_type"]](config, torch.device("cpu"), seq_len=length)
        # Nine digits are a float32.
        numbers = [float(f"{x:.9g}") for x in made[0].tolist()]
        yield {"config": fields, "length": length, "frequencies": numbers, "attention_factor": made[1]}


def decoder_config(config):
    for inner in ("thinker_config", "text_config"):
        config = config.get(inner, config)
    return config


def load(name, settings, context):
    path = FIXTURES / name
    written = json.loads((path / "config.json").read_text())
    text = decoder_config(written)
    old = text.pop("rope_parameters", None) or text.get("rope_scaling") or {}
    text["rope_scaling"] = {**{k: v for k, v in old.items() if k.startswith("mrope")}, **settings}
    # Where both releases look for it.
    text.setdefault("rope_theta", old.get("rope_theta"))
    text["max_position_embeddings"] = context
    config = AutoConfig.for_model(**copy.deepcopy(written))
    config = getattr(config, "thinker_config", config)
    name = config.architectures[0] if config.architectures else None
    name = "Qwen2_5OmniThinkerForConditionalGeneration" if written["model_type"] == "qwen2_5_omni" else name
    model = getattr(transformers, name)(config)
    from safetensors.torch import load_file

    state = {k.removeprefix("thinker."): v.float() for k, v in load_file(path / "model.safetensors").items()}
    return model.float().eval(), state, {k: text[k] for k in ("rope_scaling", "rope_theta", "max_position_embeddings")}


def put(model, path, state):
    """Weights by the class's own renaming of published names."""
    import tempfile

    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as tmp:
        save_file(state, Path(tmp) / "model.safetensors", metadata={"format": "pt"})
        model.config.save_pretrained(tmp)
        loaded, info = type(model).from_pretrained(tmp, config=model.config, output_loading_info=True, dtype=torch.float32)
    missing = [k for k in info["missing_keys"] if "lm_head" not in k]
    assert not missing, (path, missing)
    return loaded.eval()


def logits():
    for name in CHECKPOINTS:
        for settings, context in LOGITS:
            model, state, written = load(name, settings, context)
            model = put(model, name, state)
            with torch.no_grad():
                out = model(input_ids=torch.tensor([IDS]), use_cache=True)
                rows = [out.logits[0, -1]]
                for step, token in enumerate((20, 77)):
                    at = torch.full((1, 1), len(IDS) + step)
                    more = {}
                    if name in ("qwen2-5-vl-tiny", "qwen3-vl-tiny", "omni-tiny"):
                        more["position_ids"] = at.expand(3, 1, 1)
                    out = model(
                        input_ids=torch.tensor([[token]]),
                        past_key_values=out.past_key_values,
                        cache_position=at[0],
                        use_cache=True,
                        **more,
                    )
                    rows.append(out.logits[0, -1])
            rows = [[float(f"{x:.7g}") for x in row[:SHOWN].tolist()] for row in rows]
            yield {"checkpoint": name, "config": written, "logits": rows}


def main():
    torch.set_num_threads(1)
    made = {
        "transformers": transformers.__version__,
        "frequencies": list(frequencies()),
        "ids": IDS,
        "decoded": [20, 77],
        "logits": list(logits()),
    }
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES / "rope.json"
    rows = []
    for key, value in made.items():
        items = value if isinstance(value, list) and isinstance(value[0], dict) else None
        text = "[\n" + ",\n".join(map(json.dumps, items)) + "\n]" if items else json.dumps(value)
        rows.append(f"{json.dumps(key)}: {text}")
    out.write_text("{\n" + ",\n".join(rows) + "\n}\n")


main()
