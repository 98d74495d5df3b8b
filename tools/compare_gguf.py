#!/usr/bin/env python3
"""Compares `outro` on a GGUF file with transformers on the dequantised weights, both with f32 activations.

    python tools/compare_gguf.py target/release/outro model.gguf [prompts] [threads]

Needs torch, transformers, gguf, safetensors. For each prompt: token ids of the chat prompt, largest difference of any logit of the
prompt (last 64 rows), greedy tokens of 32 steps. Where the tokens part, the margin between the two candidates is printed.
Exit code 1 where ids differ, a logit differs by more than 2e-2, or tokens part at a larger margin than twice that."""
import json, pathlib, subprocess, sys, tempfile
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "What is the capital of France?",
    "Write a Rust function that reverses a string.",
    "Explain in two sentences why the sky is blue.",
    "List five animals that can't fly: birds excluded!",
    "Translate to German: The weather is nice today, isn't it?",
    "Compute 1234 + 5678 and show each step.",
    "def fib(n):\n    # complete this function\n",
    "Nenne drei Städte in Österreich – und ihre Flüsse. 😀",
    "Summarise: " + "The quick brown fox jumps over the lazy dog near the river bank. " * 12,
    "   Odd   spacing\t\tand\n\n\nnewlines; 100,000.55 numbers 2024-05-06?",
]
STEPS, LAST, TOLERANCE = 32, 64, 2e-2
binary, path = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
count = int(sys.argv[3]) if len(sys.argv) > 3 else len(PROMPTS)
threads = sys.argv[4] if len(sys.argv) > 4 else "1"
torch.set_num_threads(int(threads))
tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, torch_dtype=torch.float32).eval()
bad = 0
with tempfile.TemporaryDirectory() as tmp:
    tmp = pathlib.Path(tmp)
    for prompt in PROMPTS[:count]:
        (tmp / "in").unlink(missing_ok=True)
        (tmp / "out").unlink(missing_ok=True)
        common = [binary, "-q", "--threads", threads]
        subprocess.run([*common, "prepare", "--model", path, "--out", tmp / "in", prompt], check=True)
        subprocess.run([*common, "trace", "--model", path, "--inputs", tmp / "in", "--out", tmp / "out", "--strategy", "baseline",
                        "--steps", str(STEPS), "--last", str(LAST)], check=True)
        with safe_open(tmp / "in", "pt") as f:
            ids = f.get_tensor("input_ids")
        with safe_open(tmp / "out", "pt") as f:
            ours, tokens = f.get_tensor("prefill_logits"), f.get_tensor("tokens").tolist()
        theirs_ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
        same_ids = ids[0].tolist() == theirs_ids
        with torch.inference_mode():
            out = model(ids, use_cache=True)
            difference = (out.logits[0, -LAST:] - ours).abs().max().item()
            parted, logits, cache = None, out.logits[0, -1], out.past_key_values
            for step, token in enumerate(tokens):
                best = logits.argmax().item()
                if best != token:
                    parted = (step, (logits[best] - logits[token]).item())
                    break
                out = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
                logits, cache = out.logits[0, -1], out.past_key_values
        failed = not same_ids or difference > TOLERANCE or (parted is not None and parted[1] > 2 * TOLERANCE)
        bad += failed
        print(json.dumps({"prompt": prompt[:40], "tokens": ids.shape[1], "same_ids": same_ids, "logits_scale": round(ours.abs().max().item(), 2),
                          "largest_difference": difference, "greedy_parts_at": parted, "ok": not failed}), flush=True)
        if not same_ids:
            print("  ours  ", ids[0].tolist()[-40:], "\n  theirs", theirs_ids[-40:])
sys.exit(bad > 0)
