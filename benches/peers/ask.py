"""The same question about the same file, whole processes in alternation: `outro ask` on its default model, and the usual
transformers program (processor, qwen-omni-utils, generate) on the same checkpoint.

    python3 benches/peers/ask.py --outro target/debug/outro --video fixtures/shapes.mp4 "How many shapes appear?"

Needs torch, transformers 4.52.3, qwen-omni-utils and a video reader for it (decord or torchvision).
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models/outro-tiny"


def transformers(video, question):
    """What the model card of Qwen2.5-Omni does, on this checkpoint."""
    sys.path.insert(0, str(ROOT / "tools/tiny"))
    import parity
    import torch
    from qwen_omni_utils import process_mm_info
    from transformers import Qwen2_5OmniProcessor

    processor = Qwen2_5OmniProcessor.from_pretrained(TINY)
    thinker = parity.load(TINY)
    talk = [{"role": "user", "content": [{"type": "video", "video": video, "min_pixels": 784, "max_pixels": 7056}, {"type": "text", "text": question}]}]
    text = "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|>" + question + "<|im_end|>\n<|im_start|>assistant\n"
    audios, images, videos = process_mm_info(talk, use_audio_in_video=True)
    inputs = processor(text=text, audio=audios, images=images, videos=videos, return_tensors="pt", padding=True, use_audio_in_video=True, min_pixels=784, max_pixels=7056)
    with torch.inference_mode():
        out = thinker.generate(**inputs, use_audio_in_video=True, max_new_tokens=64, do_sample=False, eos_token_id=processor.tokenizer.eos_token_id)
    print(processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))


def timed(command):
    since = time.perf_counter()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=os.environ | {"TRANSFORMERS_VERBOSITY": "error"})
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - since, done.stdout.strip().splitlines()[-1]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("question")
    p.add_argument("--video", required=True)
    p.add_argument("--outro", default=ROOT / "target/debug/outro")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child:
        return transformers(args.video, args.question)
    commands = {
        "outro ask": [args.outro, "--quiet", "ask", "--video", args.video, args.question],
        "outro ask --strategy baseline": [args.outro, "--quiet", "ask", "--strategy", "baseline", "--video", args.video, args.question],
        "transformers": [sys.executable, __file__, "--child", "--video", args.video, args.question],
    }
    times, answers = {n: [] for n in commands}, {}
    for _ in range(args.rounds):
        for name, command in commands.items():
            s, answers[name] = timed(command)
            times[name].append(s)
    medians = {n: sorted(t)[len(t) // 2] for n, t in times.items()}
    print("| whole process | seconds (all rounds) | times outro ask | answer |\n|---|---|---|---|")
    for name, t in times.items():
        all_rounds = ", ".join(f"{x:.2f}" for x in t)
        print(f"| {name} | {medians[name]:.3f} ({all_rounds}) | {medians[name] / medians['outro ask']:.1f} | {answers[name]} |")


if __name__ == "__main__":
    main()
