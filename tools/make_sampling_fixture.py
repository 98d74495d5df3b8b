"""Writes fixtures/sampling.json: what transformers' processors make of random logits under generation_config.json files, and
greedy tokens of two tiny models under a repetition penalty.

    python3 -m venv v && v/bin/pip install torch torchvision 'transformers==5.23.0' safetensors
    OMP_NUM_THREADS=1 v/bin/python tools/make_sampling_fixture.py      # and the same with transformers 4.57.1: one model each
"""

import json
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    Qwen2_5_VLForConditionalGeneration,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
VOCAB = 48
# A file more for each processor, so that each is seen alone and behind those before it.
ALL = {"repetition_penalty": 1.3, "temperature": 0.6, "top_k": 12, "top_p": 0.85, "min_p": 0.15}
FILES = [{"do_sample": True, **dict(list(ALL.items())[:n])} for n in range(len(ALL) + 1)]
FILES += [{"do_sample": True, "top_k": 0, key: value} for key, value in ALL.items() if key != "top_k"]
FILES += [
    {"do_sample": False, "repetition_penalty": 1.3},
    {"do_sample": False},
    {"repetition_penalty": 0.7, "temperature": 0.2},
    {"do_sample": True, "top_k": 1, "top_p": 0.001, "temperature": 0.1, "repetition_penalty": 1.05},
    {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.000001},
    {"do_sample": True, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.0, "temperature": 0.7},
    {"do_sample": True, "top_p": 0.0, "top_k": 500},
    {"do_sample": True, "min_p": 1.0, "temperature": 1.5},
]


def processed():
    """Files, prompts, logits and the probabilities of what can be drawn, or the token where nothing is drawn."""
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **size))
    draw = torch.Generator().manual_seed(5)
    for number, file in enumerate(FILES):
        logits = (3 * torch.randn(VOCAB, generator=draw)).mul(1e3).round().div(1e3)
        if number % 3 == 0:
            # Equals at the border of top-k.
            logits[logits.argsort(descending=True)[8:15]] = 1.75
        prompt = torch.randint(VOCAB, (9,), generator=draw)
        prompt[0] = logits.argmax()
        with tempfile.TemporaryDirectory() as tmp:
            Path(tmp, "generation_config.json").write_text(json.dumps(file))
            config = GenerationConfig.from_pretrained(tmp)
        steps = model._get_logits_processor(
            config, input_ids_seq_length=9, encoder_input_ids=prompt[None], prefix_allowed_tokens_fn=None,
            logits_processor=LogitsProcessorList(),
        )  # fmt: skip
        scores = steps(prompt[None], logits[None].clone())[0]
        case = {"file": file, "prompt": prompt.tolist(), "logits": [round(x, 3) for x in logits.tolist()]}
        if config.do_sample:
            case["probabilities"] = [float(f"{p:.9g}") for p in scores.double().softmax(-1).tolist()]
        else:
            case["token"] = int(scores.argmax())
        yield case


def generated():
    """Tokens of `generate`, whose prompts hold placeholders of pictures too."""
    # Releases from 5 on read the first one's config.json, and place tokens after a picture otherwise than 4.52, which we follow.
    five = int(transformers.__version__.split(".")[0]) >= 5
    for name, of, case in [
        ("qwen3-tiny", AutoModelForCausalLM, "text-0.inputs.safetensors"),
        ("qwen2-5-vl-tiny", Qwen2_5_VLForConditionalGeneration, "image-0.safetensors"),
    ]:
        if five != (name == "qwen3-tiny"):
            yield next(row for row in json.loads((FIXTURES / "sampling.json").read_text())["generated"] if row["model"] == name)
            continue
        file = {"do_sample": False, "repetition_penalty": 1.4}
        model = of.from_pretrained(FIXTURES / name, dtype=torch.float32, attn_implementation="eager").eval()
        model.generation_config = GenerationConfig(**file)
        path = FIXTURES / name / "cases" / case
        inputs = {k.removeprefix("input."): v for k, v in load_file(path).items() if k.startswith("input.") or k in ("input_ids", "attention_mask")}
        inputs = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
        start = inputs["input_ids"].shape[1]
        tokens = {}
        for penalty in (1.0, file["repetition_penalty"]):
            made = model.generate(**inputs, max_new_tokens=16, repetition_penalty=penalty)
            tokens[penalty] = made[0, start:].tolist()
        assert len(set(map(tuple, tokens.values()))) == 2, "the penalty changes nothing here"
        yield {"model": name, "case": path.name, "file": file, "tokens": tokens[file["repetition_penalty"]]}


def main():
    torch.set_num_threads(1)
    lines = lambda items: ",\n  ".join(json.dumps(i) for i in items)
    text = f'{{\n "processed": [\n  {lines(processed())}\n ],\n "generated": [\n  {lines(generated())}\n ]\n}}\n'
    (FIXTURES / "sampling.json").write_text(text)


main()
