"""Measures what an hour of video costs: time and memory of `outro prepare`, against ffmpeg decoding the pictures once.

    cargo build --release -p outro-cli
    python3 tools/long_video.py target/release/outro --work /tmp/long

Prints both figures and exits with 1 where one is over its limit. Memory is that of outro and all of its child processes together, looked at
ten times a second; the tensors that are kept are the file that it writes. Linux only.
"""
import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
FRAMES = 768
# Above the kept tensors; of ffmpeg's own time.
MEMORY, TIME = 1.0, 1.2


def resident(pid):
    """Bytes of a process and of its children. Pages of files are the page cache's."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += resident(child)
    except (OSError, ValueError):
        pass  # it has just ended
    return total


def timed(command):
    """Seconds, those of the processors, peak memory, what was said."""
    def processors():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    began, before, peak = time.monotonic(), processors(), 0
    with subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        while child.poll() is None:
            peak = max(peak, resident(child.pid))
            time.sleep(0.1)
        said = child.stderr.read().decode()
    if child.returncode != 0:
        sys.exit(f"{command[0]}: {said[-500:]}")
    return time.monotonic() - began, processors() - before, peak, said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("outro")
    parser.add_argument("--work", default="/tmp/outro-long-video")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    minute, video = work / "minute.mp4", work / f"{args.minutes}.mp4"
    ffmpeg = ["ffmpeg", "-v", "error", "-nostdin", "-y"]
    if not video.exists():
        sources = ["-f", "lavfi", "-i", "testsrc2=s=640x360:r=30:d=60", "-f", "lavfi", "-i", "sine=f=440:r=44100:d=60"]
        subprocess.run([*ffmpeg, *sources, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:a", "aac", minute], check=True)
        subprocess.run([*ffmpeg, "-stream_loop", str(args.minutes - 1), "-i", minute, "-c", "copy", video], check=True)
    # The tiny checkpoint, but with room for so many tokens.
    model = work / "model"
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir()
    for file in (ROOT / "fixtures/omni-tiny").iterdir():
        if file.is_file():
            shutil.copy(file, model)
    config = json.loads((model / "config.json").read_text())

    def roomy(node):
        for key, value in node.items():
            if key == "max_position_embeddings":
                node[key] = 1 << 20
            elif isinstance(value, dict):
                roomy(value)

    roomy(config)
    (model / "config.json").write_text(json.dumps(config))
    out = work / "prepared.safetensors"
    decode = [*ffmpeg, "-i", video, "-map", "0:v:0", "-f", "null", "-"]
    asked = [args.outro, "prepare", "--model", model, "--decoder", "ffmpeg", "--video", video, "--frames", FRAMES, "--out", out, "What happens?"]
    # In turn, so that what else the machine does falls on both.
    pairs = []
    for _ in range(args.rounds):
        once, work, _, _ = timed(decode)
        took, ours, peak, said = timed(asked)
        pairs.append((took / once, took, once, peak))
        print(f"{took:.1f} s, ffmpeg {once:.1f} s: {took / once:.2f}; processors {ours:.1f} s, {work:.1f} s: {ours / work:.2f}", flush=True)
    peak = max(p[3] for p in pairs)
    ratio, took, once, _ = sorted(pairs)[len(pairs) // 2]
    kept = out.stat().st_size
    above = (peak - kept) / GIB
    print(f"{args.minutes} minutes of 640 x 360 at 30 frames/s, {FRAMES} frames: {said.strip()}")
    print(f"time: {took:.1f} s, ffmpeg decoding it once {once:.1f} s: {ratio:.2f}, the median of {len(pairs)} (at most {TIME})")
    print(f"memory: peak {peak / GIB:.2f} GiB, kept {kept / GIB:.2f} GiB, above it {above:.2f} GiB (at most {MEMORY})")
    out.unlink()
    sys.exit(1 if ratio > TIME or above > MEMORY else 0)


if __name__ == "__main__":
    main()
