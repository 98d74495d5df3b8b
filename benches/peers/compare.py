"""Runs `outro bench` and its peers on the same shapes, one after the other in alternation, and prints a Markdown table of
medians and ratios (how many times faster OutRo is).

    python3 benches/peers/compare.py --outro target/debug/outro decoder --shape qwen2.5-omni-3b --layers 6 --prompt-tokens 2000
    python3 benches/peers/compare.py --outro target/debug/outro towers --shape qwen2.5-omni-3b --frames 16 --audio-seconds 30
    python3 benches/peers/compare.py --outro target/debug/outro gguf model.gguf --prompt-tokens 512

Nothing else should run on the machine meanwhile. Peers that cannot be run are left out, with the reason.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} {command[1]}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout[done.stdout.index("{"):])


def ours(args, *more):
    command = [args.outro, "bench", "--json", "--rounds", 1, *more]
    r = run(command)
    out = {"prefill": r["rows"][0]["prefill"]["seconds"], "decode": r["rows"][0]["decode"]["seconds"]}
    return out | {k: r[k]["seconds"] for k in ("vision", "audio") if r[k]}


def median(xs):
    return sorted(xs)[len(xs) // 2]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--outro", type=Path, default=Path("target/debug/outro"))
    p.add_argument("--rounds", type=int, default=3)
    sub = p.add_subparsers(dest="what", required=True)
    for what in ("decoder", "towers"):
        s = sub.add_parser(what)
        s.add_argument("--shape", default="qwen2.5-omni-3b")
        s.add_argument("--layers", type=int, default=6)
        s.add_argument("--prompt-tokens", type=int, default=2000)
        s.add_argument("--new-tokens", type=int, default=16)
        s.add_argument("--frames", type=int, default=16)
        s.add_argument("--audio-seconds", type=int, default=30)
    s = sub.add_parser("gguf")
    s.add_argument("model")
    s.add_argument("--prompt-tokens", type=int, default=512)
    s.add_argument("--new-tokens", type=int, default=16)
    args = p.parse_args()
    size = ["--prompt-tokens", getattr(args, "prompt_tokens", 0), "--new-tokens", args.new_tokens]
    torch = [sys.executable, HERE / "torch_peer.py"]
    if args.what == "decoder":
        shape = ["--shape", args.shape, "--layers", args.layers, *size]
        peers = {
            "outro bf16": lambda: ours(args, *shape),
            "outro bf16, reduced": lambda: ours(args, *shape, "--activations", "reduced"),
            "torch bf16": lambda: run([*torch, *shape, "--dtype", "bf16"]),
            "torch f32": lambda: run([*torch, *shape, "--dtype", "f32"]),
        }
    elif args.what == "towers":
        shape = ["--shape", args.shape, "--frames", args.frames, "--audio-seconds", args.audio_seconds]
        small = ["--layers", 1, "--prompt-tokens", 8, "--new-tokens", 1]
        peers = {
            "outro bf16": lambda: ours(args, *shape, *small),
            "outro bf16, reduced": lambda: ours(args, *shape, *small, "--activations", "reduced"),
            "torch bf16": lambda: run([*torch, *shape, "--dtype", "bf16"]),
            "torch f32": lambda: run([*torch, *shape, "--dtype", "f32"]),
        }
    else:
        model = ["--model", args.model, *size]
        peers = {
            "outro f32 activations": lambda: ours(args, *model),
            "outro, reduced": lambda: ours(args, *model, "--activations", "reduced"),
            "llama.cpp": lambda: run([sys.executable, HERE / "llama_peer.py", args.model, *size]),
        }
    times = {}
    for i in range(args.rounds):
        names = list(peers)
        for name in names[i % len(names):] + names[: i % len(names)]:
            try:
                for key, s in peers[name]().items():
                    if key in ("prefill", "decode", "vision", "audio") and not (args.what == "towers" and key in ("prefill", "decode")):
                        times.setdefault(key, {}).setdefault(name, []).append(s)
            except (RuntimeError, OSError, ValueError) as e:
                print(f"{name}: {e}", file=sys.stderr)
                del peers[name]
    for key, by in times.items():
        best = {n: median(t) for n, t in by.items()}
        mine = [n for n in best if n.startswith("outro")]
        print(f"\n| {key} | seconds (all rounds) |" + "".join(f" {m} is |" for m in mine))
        print("|---|---|" + "---|" * len(mine))
        for n, t in best.items():
            ratios = "".join(f" {t / best[m]:.2f}x |" for m in mine)
            print(f"| {n} | {t:.4f} ({', '.join(f'{x:.4f}' for x in by[n])}) |{ratios}")


if __name__ == "__main__":
    main()
