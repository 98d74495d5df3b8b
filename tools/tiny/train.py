"""Trains outro-tiny on clips that `outro synth --stream` draws without end.

    python3 tools/tiny/train.py RUN --outro target/debug/outro --steps 6000          # go on where RUN stopped
    python3 tools/tiny/train.py RUN --outro target/debug/outro --export models/outro-tiny
    python3 tools/tiny/train.py RUN --check                                          # batched form = transformers

Every clip is new, so the running accuracy in RUN/log.jsonl is measured on clips that were not yet trained on. A run is
resumed with its optimiser, its place in the stream and its schedule. Needs torch, transformers 4.52.3, safetensors,
tokenizers.
"""

import argparse
import json
import math
import queue
import random
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
import model as tiny  # noqa: E402


def clips(outro, folder, seed, first, count, level):
    """Records of `outro synth --stream`."""
    command = [outro, "--threads", "1", "--quiet", "synth", "--stream", "--model", str(folder), "--seed", str(seed),
               "--first", str(first), "--videos", str(count), "--level", level]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=1 << 22) as child:
        try:
            while head := child.stdout.read(4):
                clip = json.loads(child.stdout.read(struct.unpack("<I", head)[0]))
                t, h, w = clip["grid"]
                shape = (t * h * w, clip["patch_cols"])
                read = lambda n: np.frombuffer(child.stdout.read(4 * n), np.float32)  # noqa: E731
                clip["patches"] = torch.from_numpy(read(shape[0] * shape[1]).copy()).reshape(shape)
                clip["mel"] = None
                if clip["mel_frames"]:
                    mel = read(clip["mel_bins"] * clip["mel_frames"]).copy()
                    clip["mel"] = torch.from_numpy(mel).reshape(clip["mel_bins"], clip["mel_frames"])
                yield clip
        finally:
            child.kill()


class Prompts:
    """Prompts of one checkpoint folder: ids before the question, around it, and rotary positions."""

    def __init__(self, folder, cfg):
        self.tok, self.cfg = Tokenizer.from_file(str(folder / "tokenizer.json")), cfg
        self.ids = {t: self.tok.token_to_id(t) for t in tiny.SPECIAL}
        self.encode = lambda text: self.tok.encode(text).ids

    def prefix(self, grid, audio):
        """Ids up to the question: two seconds of frames, two of sound, and so on."""
        t, h, w = grid
        i, frame = self.ids, h * w // 4
        video = [i["<|VIDEO|>"]] * (t * frame)
        out = self.encode("<|im_start|>user\n") + [i["<|vision_bos|>"]]
        if audio:
            per = self.cfg.seconds_per_chunk
            out.append(i["<|audio_bos|>"])
            while video or audio:
                n = min(audio, per * self.cfg.position_id_per_seconds)
                out += video[: per * frame] + [i["<|AUDIO|>"]] * n
                video, audio = video[per * frame:], audio - n
            out.append(i["<|audio_eos|>"])
        else:
            out += video
        return out + [i["<|vision_eos|>"]]

    def question(self, q):
        """Ids of question and answer, and where the answer starts."""
        before = self.encode(q["prompt"] + "<|im_end|>\n<|im_start|>assistant\n")
        return before + self.encode(q["answer"] + "<|im_end|>"), len(before)


def positions(thinker, ids, grid, mel_frames):
    """[3, S] as transformers computes them."""
    lens = torch.tensor([mel_frames]) if mel_frames else None
    pos, _ = thinker.get_rope_index(
        torch.tensor([ids]), video_grid_thw=torch.tensor([grid]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        use_audio_in_video=bool(mel_frames), audio_seqlens=lens, second_per_grids=torch.tensor([1.0]))
    return pos[:, 0]


class Batcher:
    """Clips of one layout, with a choice of their questions, as tensors."""

    def __init__(self, prompts, thinker, per_clip, seed, noise, letters=1.0, free=0.3, focus=()):
        self.prompts, self.thinker, self.per_clip, self.noise = prompts, thinker, per_clip, noise
        self.letters, self.free, self.focus = letters, free, focus
        self.marks = {i for t, i in prompts.tok.get_vocab().items() if "?" in t}
        self.rng, self.layouts = random.Random(seed), {}

    def layout(self, clip):
        key = (tuple(clip["grid"]), clip["mel_frames"])
        if key not in self.layouts:
            audio = key[1] // 4
            ids = self.prompts.prefix(key[0], audio)
            self.layouts[key] = torch.tensor(ids), positions(self.thinker, ids, key[0], key[1])
        return self.layouts[key]

    def pick(self, questions):
        described = [q for q in questions if q["task"] == "Open" and q["needs"] == "both"]
        rest = [q for q in questions if not (q["task"] == "Open" and q["needs"] == "both")]
        rest = [q for q in rest if "\nA. " not in q["prompt"] or self.rng.random() < self.letters]
        self.rng.shuffle(rest)
        # Free answers are long and teach perception; scored forms come first.
        rest.sort(key=lambda q: q["task"] == "Open" and self.rng.random() >= self.free)
        rest.sort(key=lambda q: q["task"] not in self.focus)
        return described + rest[: self.per_clip - len(described)]

    def mark(self, tokens):
        """Place of the question mark."""
        return next(i for i, t in enumerate(tokens) if t in self.marks)

    def make(self, batch):
        ids, pos = self.layout(batch[0])
        pixels = torch.stack([c["patches"] for c in batch])
        mel = torch.stack([c["mel"] for c in batch]) if batch[0]["mel_frames"] else None
        if self.noise:
            # What H.264 and AAC change is of this size.
            pixels = pixels + torch.randn_like(pixels) * torch.rand(len(batch), 1, 1) * self.noise
            mel = mel if mel is None else mel + torch.randn_like(mel) * torch.rand(len(batch), 1, 1) * self.noise
        asked = [(n, q, *self.prompts.question(q)) for n, c in enumerate(batch) for q in self.pick(c["questions"])]
        asked.sort(key=lambda a: len(a[2]))
        groups, tasks = [], []
        # Questions of about one length together: less padding to compute.
        cuts = [len(asked) * i // 4 for i in range(5)]
        for part in (asked[a:b] for a, b in zip(cuts, cuts[1:]) if a < b):
            width = max(len(a[2]) for a in part) - 1
            rows = torch.full((len(part), width + 1), self.prompts.ids["<|endoftext|>"])
            target = torch.full((len(part), width), -100)
            for r, (_, _, tokens, start) in enumerate(part):
                rows[r, : len(tokens)] = torch.tensor(tokens)
                target[r, start - 1: len(tokens) - 1] = torch.tensor(tokens[start:])
            # Free questions have no mark: 0.
            places = [0 if a[1]["task"] == "Open" else self.mark(a[2]) for a in part]
            meanings = torch.stack([tiny.Probes.meaning(a[1], batch[a[0]]["scene"]) for a in part])
            groups.append((rows[:, :-1], torch.tensor([a[0] for a in part]), target, (torch.tensor(places), meanings)))
            tasks += [a[1]["task"] for a in part]
        labels = [torch.stack(x) for x in zip(*(tiny.Probes.labels(c) for c in batch))]
        return ids, pos, pixels, mel, groups, tasks, labels


def embed(thinker, ids, pixels, mel, grid):
    """Prefix embeddings [B, P, hidden] with the media in their places, and the media's alone."""
    cfg = thinker.config
    x = thinker.model.embed_tokens(ids).expand(pixels.shape[0], -1, -1).clone()
    x[:, ids == cfg.video_token_index] = seen = tiny.see(thinker.visual, pixels, grid)
    heard = None
    if mel is not None:
        x[:, ids == cfg.audio_token_index] = heard = tiny.listen(thinker.audio_tower, mel)
    return x, seen, heard


def losses(logits, groups, long):
    """Mean loss of every answer, and whether all its tokens are right."""
    each, right = [], []
    for out, (_, _, target, *_) in zip(logits, groups):
        wanted = target >= 0
        loss = F.cross_entropy(out[wanted], target[wanted], reduction="none")
        row = wanted.nonzero()[:, 0]
        count = wanted.sum(1)
        mean = torch.zeros(len(count)).index_add(0, row, loss) / count
        each.append(mean * torch.where(count > 2, long, 1.0))
        right.append(((out.argmax(-1) == target) | ~wanted).all(1))
    return torch.cat(each), torch.cat(right)


def check(folder, outro):
    """The batched form against transformers, on clips of both layouts."""
    cfg = tiny.load_config(folder)
    torch.manual_seed(1)
    thinker = tiny.build(cfg).eval()
    prompts, worst = Prompts(folder, cfg), 0.0
    maker = Batcher(prompts, thinker, 4, 0, 0.0)
    packed = tiny.Packed(thinker)
    for clip in clips(outro, folder, 99, 0, 24, "simple"):
        with torch.no_grad():
            ids, pos, pixels, mel, groups, *_ = maker.make([clip])
            logits = packed.forward(embed(thinker, ids, pixels, mel, clip["grid"])[0], pos, [g[:2] for g in groups])
            for out, (rows, *_) in zip(logits, groups):
                for got, row in zip(out, rows):
                    whole = torch.cat((ids, row))[None]
                    more = {}
                    if mel is not None:
                        more = {"input_features": mel, "feature_attention_mask": torch.ones(1, clip["mel_frames"], dtype=torch.long)}
                    want = thinker(input_ids=whole, attention_mask=torch.ones_like(whole), pixel_values_videos=pixels[0],
                                   video_grid_thw=torch.tensor([clip["grid"]]), use_audio_in_video=mel is not None,
                                   video_second_per_grid=torch.tensor([1.0]), **more).logits[0, len(ids):]
                    worst = max(worst, float((got - want).abs().max()))
    print(f"largest difference of a logit: {worst:.2e}")
    assert worst < 1e-4


def start(run, args):
    """A folder with configuration and tokenizer, from the words of the world."""
    folder = run / "folder"
    if not (folder / "config.json").exists():
        # The stream needs a model's settings to draw tensors, and the tokenizer needs the stream's words.
        tok = tiny.tokenizer(["<|im_end|>"])
        tiny.write_folder(folder, tok, tiny.config({t: tok.token_to_id(t) for t in tiny.SPECIAL}))
        texts = []
        for level in ("simple", "rich"):
            for clip in clips(args.outro, folder, 1, 0, 400, level):
                texts += [q["prompt"] + "\n" + q["answer"] for q in clip["questions"]]
        texts += ["Yes", "No", "system user assistant\n"] * 50
        tok = tiny.tokenizer(texts)
        cfg = tiny.config({t: tok.token_to_id(t) for t in tiny.SPECIAL})
        cfg.text_config.vocab_size = tiny.VOCAB
        tiny.write_folder(folder, tok, cfg)
    return folder


def train(rank, run, folder, args):
    if args.workers > 1:
        # One thread each: ops this small do not spread over threads well.
        torch.set_num_threads(1)
        meet = run / "meet"
        dist.init_process_group("gloo", init_method=f"file://{meet.resolve()}", rank=rank, world_size=args.workers)
    cfg = tiny.load_config(folder)
    torch.manual_seed(args.seed)
    thinker = tiny.build(cfg)
    packed, prompts = tiny.Packed(thinker), Prompts(folder, cfg)
    probes = tiny.Probes(cfg.text_config.hidden_size)
    trained = [*thinker.parameters(), *probes.parameters()]
    decay, plain = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    optimiser = torch.optim.AdamW([{"params": decay, "weight_decay": args.decay}, {"params": plain, "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.98), fused=True)
    step = seen = 0
    state = run / "state.pt"
    if state.exists():
        saved = torch.load(state)
        grown = thinker.load_state_dict(saved["model"], strict=False).missing_keys
        for name, p in thinker.named_parameters():
            # A run may go on with more layers: they start by changing nothing.
            if name in grown and ("o_proj" in name or "down_proj" in name):
                torch.nn.init.zeros_(p)
        probes.load_state_dict({k: v for k, v in saved["probes"].items() if k in probes.state_dict()}, strict=False)
        if not grown and saved["probes"].keys() == probes.state_dict().keys():
            optimiser.load_state_dict(saved["optimiser"])
        step, seen = saved["step"], saved["seen"]
    if rank == 0:
        print(f"{sum(p.numel() for p in thinker.parameters()) / 1e6:.2f} M parameters, step {step}, {seen} clips seen", flush=True)
    batches = queue.Queue(4)

    def feed():
        maker = Batcher(prompts, thinker, args.questions, args.seed + step + rank, args.noise, args.letters, args.free, args.focus)
        choose, index, kept, waiting = random.Random(args.seed + seen + rank), seen, [], {}
        # Every worker has its own part of the stream.
        first = rank * 10**7 + seen
        streams = {level: clips(args.outro, folder, args.seed, first, 10**6 - 1, level) for level in ("simple", "rich")}
        while True:
            # A clip comes up `--repeat` times, with other questions and noise.
            if len(kept) < 64 or choose.random() * args.repeat < 1:
                clip = next(streams["rich" if choose.random() < args.rich else "simple"])
                index += 1
                kept.append(clip)
                if len(kept) > 2000:
                    kept.pop(choose.randrange(len(kept)))
            else:
                clip = kept[choose.randrange(len(kept))]
            key = (tuple(clip["grid"]), clip["mel_frames"])
            waiting.setdefault(key, []).append(clip)
            if len(waiting[key]) == args.batch:
                batches.put((index, maker.make(waiting.pop(key)), key[0]))

    threading.Thread(target=feed, daemon=True).start()
    log = (run / "log.jsonl").open("a") if rank == 0 else None

    def share():
        """Mean gradients of all workers."""
        if args.workers > 1:
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
            dist.all_reduce(flat)
            for p, g in zip(trained, (flat / args.workers).split([p.numel() for p in trained])):
                p.grad = g.view_as(p)

    tally, since, total_loss, probe_loss, deep_loss, means_loss = {}, time.time(), 0.0, 0.0, 0.0, 0.0

    opened = [0.0, 0]

    def save():
        kept = {"model": thinker.state_dict(), "probes": probes.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "seen": seen}
        torch.save(kept, state.with_suffix(".part"))
        state.with_suffix(".part").rename(state)

    while step < args.steps:
        warm = min(1.0, (step + 1) / args.warmup)
        fall = max(0.0, (step - args.steps * args.hold) / (args.steps * (1 - args.hold)))
        rate = args.lr * warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, fall))))
        for group in optimiser.param_groups:
            group["lr"] = rate
        seen, (ids, pos, pixels, mel, groups, tasks, labels), grid = batches.get()
        x, saw, heard = embed(thinker, ids, pixels, mel, grid)
        probed = probes.towers(saw, heard, labels)
        if step < args.look:
            # Looking and listening alone, first.
            (probed * 10).backward()
            share()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            if step % args.every == 0 and rank == 0:
                print(json.dumps({"step": step, "probes": round(float(probed.detach()), 4)}), flush=True)
            continue
        each, right = losses(packed.forward(x, pos, [g[:2] for g in groups]), groups, args.long)
        deep = probes.decoder(packed.early, packed.late, ids == cfg.audio_token_index, labels)
        means = probes.questions(packed.cued, packed.asked, groups)
        answers = each * torch.tensor([2.0 if t in args.focus else 1.0 for t in tasks])
        (answers.mean() + probed + args.deep * deep + 3 * means).backward()
        means_loss += float(means.detach())
        deep_loss += float(deep.detach())
        share()
        probe_loss += float(probed.detach())
        torch.nn.utils.clip_grad_norm_(thinker.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        total_loss += float(each.detach().mean())
        # Of a free answer the mean loss tells more than its first word.
        open_loss = [float(e) / args.long for e, t in zip(each.detach(), tasks) if t == "Open"]
        opened[0] += sum(open_loss)
        opened[1] += len(open_loss)
        for task, ok in zip(tasks, right.tolist()):
            got = tally.setdefault(task, [0, 0])
            got[0] += ok
            got[1] += 1
        if step % args.every == 0 and rank == 0:
            row = {"step": step, "clips": seen, "lr": round(rate, 6), "loss": round(total_loss / args.every, 4), "probes": round(probe_loss / args.every, 4), "deep": round(deep_loss / args.every, 4),
                   "means": round(means_loss / args.every, 4),
                   "clips_per_second": round(args.workers * args.batch * args.every / (time.time() - since), 1),
                   "open_loss": round(opened[0] / max(1, opened[1]), 4),
                   **{t: round(a / n, 3) for t, (a, n) in sorted(tally.items()) if t != "Open"}}
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
            tally, since, total_loss, probe_loss, deep_loss, means_loss = {}, time.time(), 0.0, 0.0, 0.0, 0.0
            opened = [0.0, 0]
        if step % args.save == 0 and rank == 0:
            save()
    if rank == 0:
        save()


def export(run, out):
    """bf16 weights and everything around them."""
    folder = run / "folder"
    weights = torch.load(run / "state.pt")["model"]
    out.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if not (file.name == "outro.json" and (out / file.name).exists()):
            (out / file.name).write_bytes(file.read_bytes())
    # Constant tables are made at load, as in the published checkpoints.
    kept = {f"thinker.{k}": v.to(torch.bfloat16).contiguous() for k, v in weights.items() if "positional_embedding" not in k}
    save_file(kept, str(out / "model.safetensors"), metadata={"format": "pt"})
    print(f"{out}: {len(kept)} tensors, {sum(v.numel() for v in kept.values()) / 1e6:.2f} M parameters")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path)
    p.add_argument("--outro", default="target/debug/outro")
    p.add_argument("--check", action="store_true")
    p.add_argument("--export", type=Path)
    p.add_argument("--steps", type=int, default=6000)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--questions", type=int, default=7)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--decay", type=float, default=0.02)
    p.add_argument("--warmup", type=int, default=200)
    p.add_argument("--hold", type=float, default=0.5, help="share of the steps before the rate falls")
    p.add_argument("--noise", type=float, default=0.08)
    p.add_argument("--rich", type=float, default=0.0, help="share of clips of the rich level")
    p.add_argument("--workers", type=int, default=1, help="processes of one thread that share gradients")
    p.add_argument("--repeat", type=float, default=1.0, help="how often a clip comes up")
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--every", type=int, default=50)
    p.add_argument("--save", type=int, default=250)
    p.add_argument("--letters", type=float, default=1.0, help="share of the questions with options that are asked")
    p.add_argument("--free", type=float, default=0.3, help="chance of a free question to be chosen like the others")
    p.add_argument("--long", type=float, default=3.0, help="weight of free answers, which hold more to learn than a letter")
    p.add_argument("--deep", type=float, default=3.0, help="weight of the decoder's probes")
    p.add_argument("--focus", action="append", default=[], metavar="TASK", help="always asked, and of twice the weight")
    p.add_argument("--look", type=int, default=400, help="first steps, for the towers alone")
    args = p.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    if args.check:
        check(start(args.run, args), args.outro)
    elif args.export:
        export(args.run, args.export)
    else:
        folder = start(args.run, args)
        (args.run / "meet").unlink(missing_ok=True)
        if args.workers > 1:
            mp.spawn(train, (args.run, folder, args), args.workers)
        else:
            train(0, args.run, folder, args)


if __name__ == "__main__":
    main()
