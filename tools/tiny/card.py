"""Tables of the model card from the reports of `outro eval run`.

    python3 tools/tiny/card.py --plain A.jsonl B.jsonl --sound A.jsonl B.jsonl \\
        --picture A.jsonl B.jsonl [--rich A.jsonl B.jsonl] [--sweep A.jsonl B.jsonl]

Each pair is the log of AVHBench's and of Daily-Omni's questions about one set; `--sound` and `--picture` are runs with
`--ablate`. Markdown goes to stdout.
"""

import argparse
import json
from math import comb
from pathlib import Path


def rows(files):
    """Every answer, its id made unique over the files."""
    out, names = [], []
    for f in files:
        head, *lines = [json.loads(x) for x in Path(f).read_text().splitlines()]
        # A log that has grown has several headers; the last one counts.
        head = [head, *(r for r in lines if "outro_eval" in r)][-1]
        lines = [r for r in lines if "outro_eval" not in r]
        names = [s["name"] for s in head["strategies"]]
        out += [dict(r, id=f"{head['task']}/{r['id']}", benchmark=head["task"]) for r in lines]
    return names, out


def share(answers):
    answers = list(answers)
    return f"{sum(answers)} of {len(answers)} = {100 * sum(answers) / max(1, len(answers)):.1f} %"


def by(rows, key):
    groups = {}
    for r in rows:
        groups.setdefault(r[key], []).append(r["right"])
    return groups


def mcnemar(gained, lost):
    n = gained + lost
    return min(1.0, 2 * sum(comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("plain", "sound", "picture", "rich", "sweep"):
        p.add_argument(f"--{name}", nargs="*", default=[])
    args = p.parse_args()
    base = lambda files: [r for r in rows(files)[1] if r["strategy"] == "baseline"]  # noqa: E731
    plain, sound, picture = base(args.plain), base(args.sound), base(args.picture)
    if plain:
        print("| task | plain model |\n|---|---|")
        for task, right in sorted(by(plain, "category").items()):
            print(f"| {task} | {share(right)} |")
        print(f"| all | {share(r['right'] for r in plain)} |\n")
        print("| questions on | all inputs | without sound | black frames |\n|---|---|---|---|")
        for needs, right in sorted(by(plain, "needs").items()):
            print(f"| {needs} | {share(right)} | {share(by(sound, 'needs').get(needs, []))} "
                  f"| {share(by(picture, 'needs').get(needs, []))} |")
        print()
    if args.rich:
        print("| task, rich level | plain model |\n|---|---|")
        rich = base(args.rich)
        for task, right in sorted(by(rich, "category").items()):
            print(f"| {task} | {share(right)} |")
        print(f"| all | {share(r['right'] for r in rich)} |\n")
    if args.sweep:
        names, all_rows = rows(args.sweep)
        right = {n: {r["id"]: r["right"] for r in all_rows if r["strategy"] == n} for n in names}
        plain = right["baseline"]
        print("| strategy | right | gained | lost | McNemar p |\n|---|---|---|---|---|")
        for n in names:
            gained = sum(ok and not plain[i] for i, ok in right[n].items())
            lost = sum(plain[i] and not ok for i, ok in right[n].items())
            p = "" if n == "baseline" else f"{mcnemar(gained, lost):.3f}"
            print(f"| `{n}` | {share(right[n].values())} | {gained} | {lost} | {p} |")


if __name__ == "__main__":
    main()
