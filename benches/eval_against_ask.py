#!/usr/bin/env python3
"""`outro eval run` against asking one question after the other with `outro ask`, on the synthetic benchmark with the default
model: seconds a question, alternating, and the ratio. Where videos have one question each, and where they have all of theirs.

    python3 benches/eval_against_ask.py --outro target/debug/outro --videos 12 --rounds 3
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path


def seconds(command):
    since = time.perf_counter()
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return time.perf_counter() - since


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--outro", default="target/debug/outro")
    p.add_argument("--videos", type=int, default=12)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--strategy", default="baseline", choices=["baseline", "outro"])
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        seconds([a.outro, "synth", "--out", work / "world", "--videos", a.videos, "--seed", 11])
        data = work / "world" / "avhbench"
        rows = json.loads((data / "QA.json").read_text())
        first = {}
        for row in rows:
            first.setdefault(row["video_id"], row)
        for name, questions in (("one question a video", list(first.values())), (f"{len(rows) / len(first):.1f} questions a video", rows)):
            set_dir = work / f"set{len(questions)}"
            set_dir.mkdir()
            (set_dir / "QA.json").write_text(json.dumps(questions))
            (set_dir / "videos").symlink_to(data / "videos")
            ask, run = [], []
            for i in range(a.rounds):
                log = work / f"{len(questions)}-{i}.jsonl"
                run.append(seconds([a.outro, "eval", "run", "avhbench", "--data", set_dir, "--out", log, "--model", "outro-tiny",
                                    "--strategy", a.strategy, "--quiet"]) / len(questions))
                ask.append(sum(
                    seconds([a.outro, "ask", "--model", "outro-tiny", "--strategy", a.strategy, "--max-new-tokens", 8, "--quiet",
                             "--video", data / "videos" / f"{q['video_id']}.mp4", q["text"] + " Answer yes or no."])
                    for q in questions) / len(questions))
            ratio = statistics.median(x / y for x, y in zip(ask, run))
            ms = lambda all_: f"{statistics.median(all_) * 1e3:.0f} ms ({', '.join(f'{x * 1e3:.0f}' for x in all_)})"
            print(f"| {name} | {len(questions)} | {ms(ask)} | {ms(run)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
