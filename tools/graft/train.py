"""Trains outro-graft's parts on clips that `outro synth --stream` draws: the ends of the towers, the media tokens' rows and
a low-rank adapter of the decoder's attention. Towers and decoder stay as they are.

    python3 tools/graft/train.py RUN --base base --folder outro-graft --outro target/release/outro --seconds 3600
    python3 tools/graft/train.py RUN ... --check inputs.safetensors trace.safetensors     # net.py = `outro trace`

RUN/state.pt and RUN/log.jsonl are gone on with; RUN/parts.safetensors is for assemble.py. The first `--frozen` steps train
without the adapter. `--folder` is any assembled folder (tokenizer, settings). Every clip is new, so the accuracy in the
log is on clips that were not trained on. Needs torch, safetensors, tokenizers, numpy.
"""

import argparse
import json
import math
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
import assemble  # noqa: E402
import net  # noqa: E402

RANK = 16
TOKENS = {t: assemble.WORDS + i for i, t in enumerate(assemble.MEDIA)}


def clips(outro, folder, seed, first, level):
    """Records of `outro synth --stream`: header, patches, mel or None."""
    command = [outro, "--threads", "1", "--quiet", "synth", "--stream", "--model", str(folder), "--seed", str(seed),
               "--first", str(first), "--videos", str(10**6), "--level", level]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=1 << 22) as child:
        read = lambda *shape: torch.from_numpy(  # noqa: E731
            np.frombuffer(child.stdout.read(4 * math.prod(shape)), np.float32).copy()).reshape(shape)
        try:
            while head := child.stdout.read(4):
                clip = json.loads(child.stdout.read(struct.unpack("<I", head)[0]))
                patches = read(math.prod(clip["grid"]), clip["patch_cols"])
                yield clip, patches, read(clip["mel_bins"], clip["mel_frames"]) if clip["mel_frames"] else None
        finally:
            child.kill()


def prefix(tok, grid, audio):
    """Ids up to the question and their rotary positions [3, P], as a Qwen2.5-Omni thinker has them: two seconds of
    frames, two of sound, and so on; a grid step is a second, 25 positions."""
    (t, h, w), ids, pos, at = grid, [], [], 0

    def words(tokens):
        nonlocal at
        ids.extend(tokens)
        pos.extend([at + i] * 3 for i in range(len(tokens)))
        at += len(tokens)

    def once(name):
        ids.append(TOKENS[name])
        pos.append([at] * 3)

    words(tok.encode("<|im_start|>user\n").ids)
    once("<|vision_bos|>")
    if audio:
        once("<|audio_bos|>")
    at += 1
    start, largest = at, at
    for chunk in range(0, t, 2):
        for s in range(chunk, min(t, chunk + 2)):
            for y in range(h // 2):
                for x in range(w // 2):
                    ids.append(TOKENS["<|VIDEO|>"])
                    pos.append([start + 25 * s, start + y, start + x])
        for a in range(25 * chunk, min(audio, 25 * (chunk + 2))):
            ids.append(TOKENS["<|AUDIO|>"])
            pos.append([start + a] * 3)
    for a in range(25 * (t + t % 2), audio):
        ids.append(TOKENS["<|AUDIO|>"])
        pos.append([start + a] * 3)
    at = max(max(p) for p in pos) + 1
    if audio:
        once("<|audio_eos|>")
    once("<|vision_eos|>")
    at += 1
    return ids, torch.tensor(pos).T, at


def feed(number, queue, args):
    """One process: batches of `batch` questions of one layout each."""
    torch.set_num_threads(1)
    tok = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
    rng = random.Random(args.seed * 1000 + number)
    streams = {v: clips(args.outro, args.folder, args.seed + args.resumed, number * 10**6, v) for v in ("simple", "rich")}
    waiting = {}
    while True:
        clip, patches, mel = next(streams["rich" if rng.random() < args.rich else "simple"])
        key = (tuple(clip["grid"]), clip["mel_frames"])
        asked = [q for q in clip["questions"] if q["task"] != "Open"]
        asked = rng.sample(asked, min(args.questions, len(asked)))
        media, rows = waiting.setdefault(key, ([], []))
        for q in asked:
            before = tok.encode(q["prompt"] + "<|im_end|>\n<|im_start|>assistant\n").ids
            rows.append((len(media), before, tok.encode(q["answer"] + "<|im_end|>").ids, q["task"], q["needs"]))
        media.append((patches, mel))
        if len(rows) < args.batch:
            continue
        del waiting[key]
        width = max(len(b) + len(a) for _, b, a, *_ in rows)
        ids, target = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
        for i, (_, b, a, *_) in enumerate(rows):
            ids[i, : len(b) + len(a)] = torch.tensor(b + a)
            target[i, len(b) - 1: len(b) + len(a) - 1] = torch.tensor(a)
        # What H.264 and AAC change is of this size.
        noise = lambda x: (x + torch.randn_like(x) * rng.random() * args.noise).half()  # noqa: E731
        seen = torch.stack([noise(p) for p, _ in media])
        heard = torch.stack([noise(m) for _, m in media]) if key[1] else None
        queue.put((key, seen, heard, torch.tensor([r[0] for r in rows]), ids, target, [(r[3], r[4]) for r in rows]))


class Graft:
    """Frozen weights on a device, and what is trained."""

    def __init__(self, args):
        device, self.args = args.device, args
        self.dtype = torch.bfloat16 if device == "cuda" else torch.float32
        base = load_file(args.base / "model.safetensors")
        put = lambda x: x.bfloat16().to(device, self.dtype)  # noqa: E731
        self.w = {k.removeprefix("model."): put(v) for k, v in base.items()}
        self.embed = self.w.pop("embed_tokens.weight")
        # A base cut for travel has the rows of some words alone.
        self.w.pop("kept", None)
        self.place = torch.zeros(assemble.ROWS, dtype=torch.long)
        kept = base["kept"].long() if "kept" in base else torch.arange(assemble.WORDS)
        self.place[kept] = torch.arange(len(kept))
        self.place[assemble.WORDS:] = len(kept) + torch.arange(assemble.ROWS - assemble.WORDS)
        self.place = self.place.to(device)
        self.towers = {k.removeprefix("thinker."): v.to(device, torch.float32)
                       for k, v in load_file(assemble.ROOT / "models/outro-tiny/model.safetensors").items()
                       if ".visual." in k or ".audio_tower." in k}
        parts = {k: v.float() for k, v in assemble.first_parts(self.embed.cpu()).items()}
        g = torch.Generator().manual_seed(1)
        for n in range(net.LAYERS):
            for c in "qkvo":
                name = f"layers.{n}.self_attn.{c}_proj"
                out, wide = self.w[f"{name}.weight"].shape
                parts[f"{name}.lora_a"] = torch.randn(RANK, wide, generator=g) / wide**0.5
                parts[f"{name}.lora_b"] = torch.zeros(out, RANK)
        self.parts = {k: torch.nn.Parameter(v.to(device)) for k, v in parts.items()}
        self.tok = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
        self.layouts = {}

    def layout(self, key):
        if key not in self.layouts:
            self.layouts[key] = prefix(self.tok, key[0], key[1] // 4)
        return self.layouts[key]

    def hidden(self, key, seen, heard, owner, ids, lora):
        """Hidden states after the last norm, of the rows' own tokens: [N, L, hidden]."""
        first, pos, after = self.layout(key)
        p, device = self.parts, self.args.device
        end = lambda name, x: F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"]).to(self.dtype)  # noqa: E731
        with torch.no_grad():
            video = net.see(self.towers, seen.float(), key[0])
            audio = None if heard is None else net.listen(self.towers, heard.float())
        table = torch.cat((self.embed, p["rows"].to(self.dtype)))
        first = torch.tensor(first, device=device)
        x = table[self.place[first]].expand(len(seen), -1, -1).clone()
        x[:, first == TOKENS["<|VIDEO|>"]] = end("visual.merger.mlp.2", video)
        if audio is not None:
            x[:, first == TOKENS["<|AUDIO|>"]] = end("audio_tower.proj", audio)
        x = torch.cat((x[owner], table[self.place[ids]]), 1)
        own = (after + torch.arange(ids.shape[1])).expand(3, -1)
        y = net.decode(self.w, x, torch.cat((pos, own), 1).to(device), p if lora else None)
        return y[:, len(first):]


def check(graft, inputs, trace):
    x, want = load_file(inputs), load_file(trace)["prefill_logits"]
    grid = tuple(x["video_grid_thw"][0].tolist())
    key = (grid, int(x["feature_attention_mask"].sum()))
    first, *_ = graft.layout(key)
    ids = x["input_ids"][0]
    assert ids[: len(first)].tolist() == first, "the prompt before the question is another"
    with torch.no_grad():
        y = graft.hidden(key, x["pixel_values_videos"][None], x["input_features"][:, :, : key[1]], torch.tensor([0]),
                         ids[None, len(first):], True)
        got = F.linear(y[0, -len(want):], graft.embed)
    worst = float((got - want[:, : assemble.WORDS]).abs().max())
    print(f"largest difference of a logit: {worst:.2e}")
    assert worst < 5e-4


def train(graft, args, began):
    named = graft.parts
    optimiser = torch.optim.AdamW([
        {"params": [v for k, v in named.items() if "lora" not in k], "peak": args.lr},
        {"params": [v for k, v in named.items() if "lora" in k], "peak": args.lr_adapter}], lr=0.0, betas=(0.9, 0.98),
        weight_decay=0.0)
    step, spent, state = 0, 0.0, args.run / "state.pt"
    if state.exists():
        saved = torch.load(state, map_location=args.device)
        with torch.no_grad():
            for k, v in named.items():
                v.copy_(saved["parts"][k])
        optimiser.load_state_dict(saved["optimiser"])
        step, spent = saved["step"], saved["spent"]
    # Another part of the stream after each start.
    args.resumed = step
    context = mp.get_context("spawn")
    queue = context.Queue(2 * args.workers)
    workers = [context.Process(target=feed, args=(i, queue, args), daemon=True) for i in range(args.workers)]
    for w in workers:
        w.start()

    def save():
        kept = {"parts": {k: v.detach() for k, v in named.items()}, "optimiser": optimiser.state_dict(), "step": step,
                "spent": spent + time.time() - began}
        torch.save(kept, state.with_suffix(".new"))
        state.with_suffix(".new").rename(state)
        save_file({k: v.detach().bfloat16().cpu() for k, v in named.items()}, args.run / "parts.safetensors")

    log, tally, total, since, saved_at = (args.run / "log.jsonl").open("a"), {}, 0.0, time.time(), time.time()
    while (left := args.seconds - (time.time() - began)) > 0 and step < args.steps:
        key, seen, heard, owner, ids, target, kinds = queue.get(timeout=120)
        lora = step >= args.frozen
        # Time is what is short, so the rate falls with it.
        rate = min(1.0, (step + 1) / 50) * min(1.0, left / (args.seconds * args.fall))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        to = lambda x: None if x is None else x.to(args.device, non_blocking=True)  # noqa: E731
        y = graft.hidden(key, to(seen), to(heard), to(owner), to(ids), lora)
        wanted = to(target) >= 0
        logits = F.linear(y[wanted], graft.embed).float()
        gold = graft.place[to(target)[wanted]]
        loss = F.cross_entropy(logits, gold)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimiser.step()
        step += 1
        wrong = torch.zeros(len(ids), device=args.device).index_add_(
            0, wanted.nonzero()[:, 0], (logits.argmax(-1) != gold).float()) > 0
        total += float(loss.detach())
        for (task, needs), bad in zip(kinds, wrong.tolist()):
            for name in (task, f"needs {needs}", "all"):
                got = tally.setdefault(name, [0, 0])
                got[0] += not bad
                got[1] += 1
        if step % args.every == 0:
            row = {"step": step, "seconds": round(spent + time.time() - began, 1), "loss": round(total / args.every, 4),
                   "norm": round(float(norm), 3), "rate": round(rate, 4), "adapter": lora,
                   "questions_per_second": round(tally["all"][1] / (time.time() - since), 1),
                   **{k: round(a / n, 3) for k, (a, n) in sorted(tally.items())}}
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
            tally, total, since = {}, 0.0, time.time()
        if time.time() - saved_at > args.save:
            save()
            saved_at = time.time()
    save()
    for w in workers:
        w.terminate()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path)
    p.add_argument("--base", type=Path, required=True)
    p.add_argument("--folder", type=Path, required=True)
    p.add_argument("--outro", default="target/release/outro")
    p.add_argument("--check", type=Path, nargs=2)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--seconds", type=float, default=3600)
    p.add_argument("--steps", type=int, default=10**9)
    p.add_argument("--frozen", type=int, default=300, help="first steps, without the adapter")
    p.add_argument("--batch", type=int, default=256, help="questions a step")
    p.add_argument("--questions", type=int, default=6, help="of a clip")
    p.add_argument("--workers", type=int, default=14)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--lr-adapter", type=float, default=5e-4)
    p.add_argument("--fall", type=float, default=0.4, help="share of the time in which the rate falls")
    p.add_argument("--noise", type=float, default=0.08)
    p.add_argument("--rich", type=float, default=0.5, help="share of clips of the rich level")
    p.add_argument("--seed", type=int, default=11)
    p.add_argument("--every", type=int, default=20)
    p.add_argument("--save", type=float, default=45)
    args = p.parse_args()
    began = time.time()
    args.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    graft = Graft(args)
    if args.check:
        check(graft, *args.check)
    else:
        train(graft, args, began)


if __name__ == "__main__":
    main()
