"""outro against transformers on outro-tiny: logits of prepared inputs, and the answers to a whole set.

    python3 tools/tiny/parity.py SET --outro target/debug/outro --model models/outro-tiny --rows RUN.jsonl...

SET is a folder of `outro synth`; each RUN.jsonl is a log of `outro eval run` on it. Logits: for some questions `outro
prepare` and `outro trace` are run and compared with transformers in f32 on the same tensors. Answers: every question of
the logs is answered by transformers, greedily, from the patches and mel that `outro prepare` wrote for its video, and
compared with the baseline's reply. Needs torch, transformers 4.52.3, safetensors, tokenizers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
import model as tiny  # noqa: E402


def load(folder):
    thinker = tiny.build(tiny.load_config(folder)).eval()
    weights = {k.removeprefix("thinker."): v.float() for k, v in load_file(folder / "model.safetensors").items()}
    missing, unexpected = thinker.load_state_dict(weights, strict=False)
    assert not unexpected and all("positional_embedding" in m for m in missing), (missing, unexpected)
    return thinker


def kwargs(file):
    x = load_file(file)
    out = {k: x[k] for k in ("input_ids", "attention_mask") if k in x}
    if "pixel_values_videos" in x:
        out |= {"pixel_values_videos": x["pixel_values_videos"], "video_grid_thw": x["video_grid_thw"],
                "video_second_per_grid": x["video_second_per_grid"]}
    if "input_features" in x:
        out |= {"input_features": x["input_features"], "feature_attention_mask": x["feature_attention_mask"],
                "use_audio_in_video": True}
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("set", type=Path)
    p.add_argument("--outro", default="target/debug/outro")
    p.add_argument("--model", type=Path, default=Path("models/outro-tiny"))
    p.add_argument("--rows", type=Path, nargs="*", default=[])
    p.add_argument("--logits", type=int, default=20, help="questions whose logits are compared")
    args = p.parse_args()
    thinker, tok = load(args.model), Tokenizer.from_file(str(args.model / "tokenizer.json"))
    end = tok.token_to_id("<|im_end|>")
    rows = [json.loads(line) for f in args.rows for line in f.read_text().splitlines()]
    rows = [r for r in rows if r.get("strategy") == "baseline"]
    asked = json.loads((args.set / "avhbench/QA.json").read_text())
    prompts = [(r["video_id"], r["text"] + " Answer yes or no.") for r in asked]
    temp = Path(tempfile.mkdtemp())

    def prepare(video, question):
        out = temp / "inputs.safetensors"
        clip = args.set / "avhbench/videos" / f"{video}.mp4"
        subprocess.run([args.outro, "--quiet", "prepare", "--model", str(args.model), "--video", str(clip), "--out",
                        str(out), question], check=True)
        return out

    worst = 0.0
    for video, question in prompts[:: max(1, len(prompts) // args.logits)][: args.logits]:
        inputs, out = prepare(video, question), temp / "trace.safetensors"
        subprocess.run([args.outro, "--quiet", "trace", "--model", str(args.model), "--inputs", str(inputs), "--out",
                        str(out), "--strategy", "baseline", "--steps", "1", "--last", "8"], check=True)
        with torch.no_grad():
            want = thinker(**kwargs(inputs)).logits[0, -8:]
        worst = max(worst, float((load_file(out)["prefill_logits"] - want).abs().max()))
    print(f"logits of {args.logits} prompts: largest difference {worst:.2e}")
    assert worst < 2e-4
    same = total = 0
    different, ready = [], (None, None, None)
    for row in sorted(rows, key=lambda r: r["video"]):
        video = Path(row["video"]).stem.removesuffix("_video")
        if ready[0] != video:
            inputs = kwargs(prepare(video, "?"))
            ids = inputs.pop("input_ids")
            inputs.pop("attention_mask")
            ready = video, ids[0, : len(ids[0]) - len(tok.encode("?<|im_end|>\n<|im_start|>assistant\n").ids)], inputs
        text = tok.encode(row["question"] + "<|im_end|>\n<|im_start|>assistant\n").ids
        ids, reply = torch.cat((ready[1], torch.tensor(text))), []
        while len(reply) < 8:
            with torch.no_grad():
                x = thinker(input_ids=ids[None], attention_mask=torch.ones_like(ids[None]), **ready[2]).logits[0, -1]
            if int(x.argmax()) == end:
                break
            reply.append(int(x.argmax()))
            ids = torch.cat((ids, x.argmax()[None]))
        total += 1
        if tok.decode(reply).strip() == row["reply"].strip():
            same += 1
        else:
            top = x.topk(2).values
            different.append((row["id"], row["reply"], tok.decode(reply), float(top[0] - top[1])))
    if total:
        print(f"answers: {same} of {total} the same")
        for d in different:
            print("  different:", d)
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
