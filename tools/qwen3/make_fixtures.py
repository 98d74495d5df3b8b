"""Tiny random checkpoints of the Qwen3 families in the layout of the real ones, and what must come out of them:

    OMP_NUM_THREADS=1 python3 tools/qwen3/make_fixtures.py [FAMILY ...]

writes fixtures/FAMILY-tiny (all families without an argument). transformers 5.23.0, torch on CPU, float32, one thread. Weights,
patches and spectrograms are numbers that bf16 holds exactly. Keys of the files: fixtures/README.md.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

import families
import oracle

torch.set_num_threads(1)
OUT = Path(__file__).resolve().parents[2] / "fixtures"
STEPS = 5
MODES = {
    "baseline": None,
    "outro": {},
    "outro-release-decode": {"decode": "release"},
    "rotation-only": {"relax": False},
    "relaxation-only": {"rotate": False},
    "always-relax": {"once": False},
    "gamma-half-layers-2-to-6": {"gamma": 0.5, "start_layer": 2, "end_layer": 7},
}


def narrow(t):
    return t.bfloat16().contiguous() if t.is_floating_point() else t.contiguous()


def run(model, kw, positions):
    """Prefill and greedy decoding under given positions [3, S]."""
    cache, n = DynamicCache(), kw["input_ids"].shape[1]
    at = lambda p: p[:, None] if model.multimodal else p[0][None]
    with torch.no_grad():
        logits = model(**kw, position_ids=at(positions), past_key_values=cache, use_cache=True).logits[0]
        tokens, steps = [int(logits[-1].argmax())], []
        for i in range(STEPS):
            here = (positions.max() + 1 + i).expand(3, 1)
            y = model(input_ids=torch.tensor([[tokens[-1]]]), attention_mask=torch.ones(1, n + i + 1, dtype=torch.long),
                      position_ids=at(here), past_key_values=cache, use_cache=True)
            steps.append(y.logits[0, -1])
            tokens.append(int(steps[-1].argmax()))
    return logits, torch.stack(steps), torch.tensor(tokens[:STEPS])


def case(family, name, kind, kw, out):
    meta = {"kind": kind, "use_audio_in_video": str(bool(kw.get("use_audio_in_video"))).lower()}
    stored = {k: narrow(v) for k, v in kw.items() if torch.is_tensor(v) and k != "mm_token_type_ids"}
    save_file(stored, out / f"{name}.inputs.safetensors", metadata=meta)
    kw = {k: v.bfloat16().float() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in kw.items()}
    untouched = family.model()
    positions = family.positions(untouched, kw).float()
    with torch.no_grad():
        own = untouched(**kw).logits[0]
    for mode, settings in MODES.items():
        if name != f"{kind}-0" and mode not in ("baseline", "outro") or kind not in ("text", "audio-in-video") and mode not in ("baseline", "outro"):
            continue
        model = family.model()
        method = oracle.attach(family.decoder(model), settings)
        logits, steps, tokens = run(model, kw, positions)
        t = {"position_ids": positions, "prefill_logits_last": logits[-3:], "decode_logits": steps, "tokens": tokens}
        meta = {"kind": kind, "mode": mode, "settings": json.dumps(settings)}
        if method is None:
            worst = (logits - own).abs().max()
            assert worst < 2e-5, (name, "the oracle's attention is not the model's", worst)
            t |= family.embeds(model, kw)
        else:
            text = lambda d: json.dumps({str(k): v for k, v in sorted(d.items())})
            meta |= {"sinks": text(method.sinks), "relaxed_at": text(method.relaxed_at)}
            for layer in list(method.outputs)[:3]:
                t[f"head_outputs.{layer}.last"] = method.outputs[layer][-2:]
            t |= {f"vbar.{layer}": v[:: family.group] for layer, v in method.vbar.items()}
        save_file({k: v.contiguous() for k, v in t.items()}, out / f"{name}.{mode}.safetensors", metadata=meta)
        if mode == "outro":
            print(name, "prompt", kw["input_ids"].shape[1], "sinks", {k: v for k, v in method.sinks.items() if v}, "relaxed", method.relaxed_at)


def make(name):
    family = families.ALL[name]
    root = OUT / f"{name}-tiny"
    cases = root / "cases"
    cases.mkdir(parents=True, exist_ok=True)
    for old in cases.glob("*"):
        old.unlink()
    family.save(root)
    weights = load_file(root / "model.safetensors")
    save_file({k: narrow(v) for k, v in weights.items()}, root / "model.safetensors", metadata={"format": "pt"})
    for kind in family.kinds:
        for i in range(5):
            case(family, f"{kind}-{i}", kind, family.prompt(kind, i), cases)
    family.more(root)
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "manifest.json")
    manifest = {
        "oracle": "tools/qwen3 on transformers",
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "dtype": "float32, one thread"},
        "command": f"python3 tools/qwen3/make_fixtures.py {name}",
        "tolerance": {
            "logits": "2e-4 absolute: float32 sums in another order",
            "embeddings and head outputs": "1e-4 absolute",
            "tokens, sinks, positions, relaxed layers": "equal",
        },
        "sha256": {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


for name in sys.argv[1:] or families.ALL:
    make(name)
