"""What outro-tiny's towers make of its own world, and how far other media are from that.

    python3 tools/tiny/domain.py --outro target/release/outro fit --out models/outro-tiny/domain.safetensors
    python3 tools/tiny/domain.py --outro target/release/outro judge --domain models/outro-tiny/domain.safetensors FILE...

`fit` draws clips of both levels by `outro synth`, codes every third of them anew in another size, rate and quality, and takes
each clip's video, its sound and one of its frames through `outro prepare` and `outro trace --capture embeds`. Of the tokens of
the clips of one seed it writes mean and whitening matrix; the limit is 1.25 times the largest distance among the clips of
another seed. `judge` says how far files are; a folder of `outro synth` stands for its clips. Needs numpy, safetensors, ffmpeg.
The form of the file is in crates/outro/src/domain.rs.
"""

import argparse
import json
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ABOUT = ("outro-tiny is a demonstration model and knows nothing but clips of coloured shapes on a dark ground with four kinds of "
         "sound (outro demo shows one)")
# Added to every variance, as a share of their mean: a direction in which nothing varies must not decide alone.
RIDGE = 1e-4
MARGIN = 1.25
KINDS = ("image", "video", "audio")
VIDEO, IMAGE, AUDIO = ("--video", "--image", "--audio")
FLAGS = {".png": IMAGE, ".jpg": IMAGE, ".jpeg": IMAGE, ".wav": AUDIO, ".mp3": AUDIO, ".m4a": AUDIO, ".flac": AUDIO, ".ogg": AUDIO}
# Other codings of a clip: side, frames a second, quality, bit rate of the sound.
CODINGS = [(336, 30, 28, "64k"), (240, 12, 23, "96k"), (120, 24, 33, "48k")]


def run(*line):
    subprocess.run([str(x) for x in line], check=True, capture_output=True, text=True)


def embeds(args, flag, file):
    """Tokens by kind, [tokens, hidden]."""
    with tempfile.TemporaryDirectory() as d:
        inputs, out = Path(d) / "in.safetensors", Path(d) / "out.safetensors"
        run(args.outro, "prepare", "--model", args.model, flag, file, "x", "--out", inputs, "--quiet")
        run(args.outro, "trace", "--model", args.model, "--inputs", inputs, "--out", out, "--capture", "embeds",
            "--strategy", "baseline", "--quiet")
        found = load_file(out)
    return {k: found[f"{k}_embeds"].astype(np.float64) for k in KINDS if f"{k}_embeds" in found}


def clips(args, root, seed, count):
    """Clips of both levels, every third coded anew."""
    files = []
    for level in ("simple", "rich"):
        folder = root / f"{level}-{seed}"
        run(args.outro, "synth", "--out", folder, "--videos", count, "--seed", seed, "--level", level)
        files += sorted((folder / "avhbench/videos").glob("*.mp4"))
    for i in range(0, len(files), 3):
        side, fps, crf, rate = CODINGS[i // 3 % len(CODINGS)]
        other = files[i].with_suffix(".other.mp4")
        run("ffmpeg", "-v", "error", "-y", "-i", files[i], "-vf", f"scale={side}:{side},fps={fps}", "-crf", crf, "-b:a", rate, other)
        files[i] = other
    return files


def looks(args, file):
    """A clip's video with its sound, and a frame of it."""
    frame = file.with_suffix(".png")
    run("ffmpeg", "-v", "error", "-y", "-ss", 1 + file.stat().st_size % 3, "-i", file, "-frames:v", 1, frame)
    return embeds(args, VIDEO, file) | embeds(args, IMAGE, frame)


def whiten(tokens):
    mean = tokens.mean(0)
    values, vectors = np.linalg.eigh(np.cov(tokens.T))
    return mean, (vectors / np.sqrt(values + RIDGE * values.mean())).T


def distance(mean, whiten, tokens):
    return float(np.sqrt((((tokens - mean) @ whiten.T) ** 2).mean(1)).mean())


def several(args, work):
    with ThreadPoolExecutor(args.workers) as pool:
        return list(pool.map(lambda w: w(), work))


def fit(args):
    with tempfile.TemporaryDirectory() as d:
        groups = []
        for seed in args.seeds:
            files = clips(args, Path(d), seed, args.clips)
            groups.append(several(args, [lambda f=f: looks(args, f) for f in files]))
    tensors, metadata = {}, {"about": ABOUT}
    for kind in KINDS:
        mean, matrix = whiten(np.concatenate([x[kind] for x in groups[0] if kind in x]))
        others = [distance(mean, matrix, x[kind]) for x in groups[1] if kind in x]
        limit = MARGIN * max(others)
        tensors |= {f"{kind}.mean": mean.astype(np.float32), f"{kind}.whiten": np.ascontiguousarray(matrix, np.float32)}
        metadata[f"limit.{kind}"] = f"{limit:.3f}"
        print(f"{kind}: {len(others)} of another seed, {min(others):.2f} to {max(others):.2f}, limit {limit:.2f}")
    save_file(tensors, args.out, metadata)


def judge(args):
    with safe_open(args.domain, "np") as file:
        limits = {k: float(v) for k, v in file.metadata().items() if k.startswith("limit.")}
        tensors = {k: file.get_tensor(k).astype(np.float64) for k in file.keys()}
    files = []
    for path in args.files:
        files += sorted((path / "avhbench/videos").glob("*.mp4")) if path.is_dir() else [path]

    def one(path):
        found = embeds(args, FLAGS.get(path.suffix, VIDEO), path)
        return {k: distance(tensors[f"{k}.mean"], tensors[f"{k}.whiten"], x) for k, x in found.items()}

    rows = several(args, [lambda f=f: one(f) for f in files])
    for path, found in zip(files, rows):
        far = [k for k, v in found.items() if v >= limits[f"limit.{k}"]]
        print(json.dumps({"file": path.name, "distance": {k: round(v, 3) for k, v in found.items()}, "far": far}))
    print(f"{sum(any(v >= limits[f'limit.{k}'] for k, v in r.items()) for r in rows)} of {len(rows)} are unlike the domain")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outro", required=True)
    parser.add_argument("--model", default="models/outro-tiny")
    parser.add_argument("--workers", type=int, default=2)
    parts = parser.add_subparsers(required=True)
    p = parts.add_parser("fit")
    p.add_argument("--out", required=True)
    p.add_argument("--clips", type=int, default=300)
    p.add_argument("--seeds", type=int, nargs=2, default=[101, 102])
    p.set_defaults(do=fit)
    p = parts.add_parser("judge")
    p.add_argument("--domain", required=True)
    p.add_argument("files", type=Path, nargs="+")
    p.set_defaults(do=judge)
    args = parser.parse_args()
    args.do(args)
