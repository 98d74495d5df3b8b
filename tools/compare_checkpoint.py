#!/usr/bin/env python3
"""Compares OutRo with transformers on a checkpoint and your own media, and prints a table for a report.

    pip install torch torchvision transformers qwen-vl-utils qwen-omni-utils safetensors pillow av librosa
    python tools/compare_checkpoint.py --model Qwen/Qwen2.5-Omni-3B --video my.mp4 "What do you see and hear?"

Runs `outro prepare`, `outro trace` (with OutRo and without) and `outro sinks`, then transformers' processor and model, the method
and the criteria for sinks by hooks (tools/method_hooks.py). docs/compare.md explains the rows. Exit code 1 where a row differs.
"""

import argparse
import gc
import hashlib
import importlib
import importlib.util
import inspect
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# System sentences of the models' cards, which templates of some copies leave out.
SYSTEMS = {
    "vision": "You are a helpful assistant.",
    "omni": "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and visual "
    "inputs, as well as generating text and speech.",
}
# model_type -> the class that answers in text, the first release that has it, how media are read, packages for that.
FAMILIES = {
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", "4.45", "vision", ["qwen_vl_utils"]),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", "4.49", "vision", ["qwen_vl_utils"]),
    "qwen2_5_omni": ("Qwen2_5OmniThinkerForConditionalGeneration", "4.52", "omni", ["qwen_omni_utils"]),
    "qwen2_5_omni_thinker": ("Qwen2_5OmniThinkerForConditionalGeneration", "4.52", "omni", ["qwen_omni_utils"]),
    "qwen3_omni_moe": ("Qwen3OmniMoeThinkerForConditionalGeneration", "4.57", "omni", ["qwen_omni_utils"]),
    "qwen3_omni_moe_thinker": ("Qwen3OmniMoeThinkerForConditionalGeneration", "4.57", "omni", ["qwen_omni_utils"]),
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", "4.57", "template", []),
    "qwen3_vl_moe": ("Qwen3VLMoeForConditionalGeneration", "4.57", "template", []),
    "llava_onevision": ("LlavaOnevisionForConditionalGeneration", "4.45", "template", []),
    "video_llama_3": ("VideoLlama3ForConditionalGeneration", "5.0", "template", []),
    "qwen2": ("Qwen2ForCausalLM", "4.45", "text", []),
    "llama": ("LlamaForCausalLM", "4.45", "text", []),
    "qwen3": ("Qwen3ForCausalLM", "4.51", "text", []),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "4.51", "text", []),
}
# Largest difference of a logit, as a share of the largest logit; transformers' type decides, for OutRo computes in f32.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
REASON = {
    "float32": "both compute in f32: sums in another order",
    "bfloat16": "transformers rounds every activation to 8 bits of mantissa, OutRo computes in f32 on the same weights",
    "float16": "transformers rounds every activation to 11 bits of mantissa, OutRo computes in f32 on the same weights",
}
# Mean difference of normalised pixels and of log-mel values; a step of 255 is 0.015.
PIXELS, MEL = 0.01, 0.01


def stop(problem, what_to_do):
    sys.exit(f"error: {problem}\nhint: {what_to_do}")


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", "-m", required=True, help="a checkpoint directory or a hub id")
    for kind in ("video", "image", "audio"):
        p.add_argument(f"--{kind}", action=Medium, metavar="FILE", help="media in the order of the prompt; may be repeated")
    p.add_argument("question", nargs="?", default="What do you see and hear?")
    p.add_argument("--inputs", type=Path, metavar="FILE", help="prepared inputs (outro prepare --out) instead of media and a question")
    p.add_argument("--system", metavar="TEXT", help="system sentence for both [default: the model's]")
    p.add_argument("--no-audio-in-video", action="store_true", help="leave the sound of videos out, on both sides")
    p.add_argument("--outro", metavar="PROGRAM", help="the outro binary [default: outro of PATH, else target/release/outro]")
    p.add_argument("--dtype", choices=list(TOLERANCE), help="transformers' [default: float32 below 1 billion weights, else bfloat16]")
    p.add_argument("--device", default=None, help="transformers' [default: cuda where there is one, else cpu]")
    p.add_argument("--attention", default="sdpa", choices=["sdpa", "eager", "flash_attention_2"])
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the method, for both")
    p.add_argument("--steps", type=int, default=16, help="greedy tokens")
    p.add_argument("--last", type=int, default=8, help="rows of the prompt whose logits are compared")
    p.add_argument("--no-lab", action="store_true", help="leave out the row of Phi_VLM, which costs OutRo two more passes")
    p.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    p.add_argument("--force", action="store_true", help="go on where memory will be short")
    args = p.parse_args()
    args.media = getattr(args, "media", [])
    if args.inputs and args.media:
        p.error("--inputs has the media; leave --video, --image and --audio out")
    for _, path in args.media:
        if not Path(path).is_file():
            stop(f"{path}: no such file", "check the file's name")
    return args


class Medium(argparse.Action):
    def __call__(self, parser, args, value, option=None):
        args.media = [*getattr(args, "media", []), (self.dest, value)]


def version(text):
    return tuple(int(x) for x in text.split(".")[:2])


def outro_program(given):
    found = given or shutil.which("outro") or str(ROOT / "target" / "release" / "outro")
    if not shutil.which(found):
        stop(f"{found}: there is no outro program", "cargo build --release, or --outro PROGRAM")
    return found


def imports():
    """torch, transformers and safetensors, or what to install."""
    missing = [name for name in ("torch", "transformers", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        stop(f"packages are missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    if hasattr(transformers.utils.logging, "disable_progress_bar"):
        transformers.utils.logging.disable_progress_bar()
    return torch, transformers


def checkpoint(model):
    """The directory; a hub id is fetched into the cache that both programs use."""
    if Path(model).is_dir():
        return Path(model)
    if Path(model).exists() or model.count("/") != 1:
        stop(f"{model}: not a checkpoint directory", "give a directory or a hub id; tools/compare_gguf.py compares GGUF files")
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    kept = ["*.json", "*.jinja", "*.txt", "*.safetensors"]
    return Path(snapshot_download(name, revision=revision or None, allow_patterns=kept))


def family(directory, args, transformers):
    config = json.loads((directory / "config.json").read_text())
    kind = config.get("model_type")
    if kind not in FAMILIES:
        stop(f"config.json: model_type is {kind}, which transformers has no class for", f"known are {', '.join(FAMILIES)}")
    name, since, how, packages = FAMILIES[kind]
    if not hasattr(transformers, name):
        stop(f"transformers {transformers.__version__} has no {name}", f"pip install 'transformers>={since}'")
    if "video_SALMONN2_plus" in config.get("architectures", []):
        problem = "transformers has no class for video-SALMONN 2+'s sound: only text, pictures and silent frames can be compared"
        if any(kind == "audio" or kind == "video" and not args.no_audio_in_video for kind, _ in args.media):
            stop(problem, "--no-audio-in-video, or a prompt without sound; tools/families/video_salmonn2.py checks the sound")
    text = config.get("thinker_config", config)
    text = text.get("text_config", text)
    if "rope_parameters" in text and version(transformers.__version__)[0] < 5:
        stop(
            f"config.json was saved by transformers 5 (rope_parameters); {transformers.__version__} would read it with other frequencies",
            "pip install 'transformers>=5'",
        )
    return config, name, how, packages


def weights(directory, config):
    """Numbers in the tensors that the text model reads, from the headers alone."""
    total, skipped = 0, ("talker.", "token2wav.", "code2wav.")
    for path in sorted(directory.glob("*.safetensors")):
        with open(path, "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__" and not name.startswith(skipped):
                size = 1
                for n in tensor["shape"]:
                    size *= n
                total += size
    return total


def memory_left(torch, device):
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info()[0]
    if Path("/proc/meminfo").exists():
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


class Table:
    """Rows of the report."""

    def __init__(self):
        self.rows = []

    def add(self, name, result, found, allowed=""):
        word = {True: "PASS", False: "DIFFERS", None: "SKIP"}[result]
        self.rows.append({"row": name, "result": word, "found": found, "allowed": allowed})
        print(f"{word:8} {name}: {found}", file=sys.stderr, flush=True)

    def markdown(self, about):
        lines = ["### OutRo beside transformers", ""]
        lines += [f"- {key}: {value}" for key, value in about.items()]
        lines += ["", "| what | result | found | allowed |", "|---|---|---|---|"]
        lines += [f"| {r['row']} | {r['result']} | {r['found']} | {r['allowed']} |" for r in self.rows]
        return "\n".join(lines)


# OutRo's side


class Outro:
    """What `outro` makes of a prompt, through its files."""

    def __init__(self, program, directory, folder, pairs):
        self.program, self.directory, self.folder, self.pairs = program, str(directory), folder, pairs

    def run(self, *arguments):
        line = [self.program, "-q", *map(str, arguments)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            stop(f"{' '.join(line[2:4])} ... failed: {done.stderr.strip()}", "mend this first; the command was " + " ".join(line))
        return done.stdout

    def prepare(self, args, system):
        media = [x for kind, path in args.media for x in (f"--{kind}", path)]
        extra = ["--no-audio-in-video"] if args.no_audio_in_video else []
        extra += ["--system", system] if system is not None else []
        path = self.folder / "inputs.safetensors"
        self.run("prepare", "--model", self.directory, *media, *extra, "--out", path, args.question)
        return path

    def trace(self, inputs, strategy, args):
        path = self.folder / f"{strategy}.safetensors"
        capture, pairs = ("embeds", []) if strategy == "baseline" else ("vbar", self.pairs)
        sets = [x for pair in pairs for x in ("--set", pair)]
        self.run("trace", "--model", self.directory, "--inputs", inputs, "--out", path, "--strategy", strategy, "--steps", args.steps, "--last", args.last, "--capture", capture, *sets)
        return load(path)

    def sinks(self, inputs):
        self.run("sinks", "--model", self.directory, "--inputs", inputs, "--out", self.folder / "lab")
        return json.loads((self.folder / "lab" / "profile.json").read_text())


def load(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as f:
        keys = list(f.keys())
        # Golden files hold results beside their inputs.
        keys = [k for k in keys if k.startswith("input.")] or keys
        return {k.removeprefix("input."): f.get_tensor(k) for k in keys}, f.metadata() or {}


def planes(tensors, patch):
    """LLaVA-OneVision takes pictures whole where `outro prepare` writes rows of patches: [items, parts, 3, height, width]."""
    import torch

    out = dict(tensors)
    for pixels, grid in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
        if grid in out and out[pixels].dim() == 2:
            at, items = 0, []
            for parts, h, w in out.pop(grid).tolist():
                rows = out[pixels][at : at + parts * h * w].reshape(parts, h, w, 3, patch, patch)
                items.append(rows.permute(0, 3, 1, 4, 2, 5).reshape(parts, 3, h * patch, w * patch))
                at += parts * h * w
            out[pixels] = torch.nn.utils.rnn.pad_sequence(items, batch_first=True)
    out.pop("video_second_per_grid", None)
    return out


# transformers' side


def talk(media, question, system, video=None):
    """A conversation; `video` says more about each video, in the words of the Qwen utilities."""
    content = [{"type": kind, kind: path, **((video or {}) if kind == "video" else {})} for kind, path in media]
    content += [{"type": "text", "text": question}]
    first = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return [*first, {"role": "user", "content": content}]


def read_with_what_is_there(video_processor):
    """transformers takes torchcodec or nothing; its other readers take the same frames."""
    from transformers.video_utils import load_video

    backends = {"torchcodec": "torchcodec", "decord": "decord", "av": "pyav"}
    found = [name for package, name in backends.items() if importlib.util.find_spec(package)]
    if not found:
        raise LookupError("pip install av")

    def fetch(files, sample_indices_fn=None):
        if isinstance(files, list):
            return list(zip(*[fetch(x, sample_indices_fn) for x in files]))
        return load_video(files, backend=found[0], sample_indices_fn=sample_indices_fn)

    video_processor.fetch_videos = fetch


def processed(how, directory, args, system, own_media, packages, transformers):
    """What transformers' processor makes of the same media and question, as its family's page shows it."""
    missing = [p for p in packages if args.media and importlib.util.find_spec(p) is None]
    if missing:
        raise LookupError(f"pip install {' '.join(missing).replace('_', '-')}")
    messages = talk(args.media, args.question, system)
    if how == "text":
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        plain = [{"role": m["role"], "content": m["content"][-1]["text"]} for m in messages]
        text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        return dict(tokenizer(text, return_tensors="pt", add_special_tokens=False)), False
    processor = transformers.AutoProcessor.from_pretrained(directory)
    # Older releases look for a processor's own template only.
    template = {"chat_template": processor.chat_template or processor.tokenizer.chat_template}
    if how == "template":
        if any(kind == "video" for kind, _ in args.media):
            read_with_what_is_there(processor.video_processor)
        # Frames as the models' authors take them; releases differ in what they take unasked.
        frames = {"LlavaOnevisionProcessor": {"num_frames": 32}, "VideoLlama3Processor": {"fps": 1, "do_sample_frames": True}}
        more = frames.get(type(processor).__name__, {}) if any(kind == "video" for kind, _ in args.media) else {}
        made = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt", **template, **more)
        return dict(made), False
    from PIL import Image

    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **template)
    text = text[0] if isinstance(text, list) else text
    # Pictures straight to the processor: the utilities would resize them by limits of their own.
    images = [Image.open(path).convert("RGB") for kind, path in args.media if kind == "image"] or None
    video = {"nframes" if k == "frames" else k: v for k, v in own_media.items()}
    if "max_pixels" in video:
        video["min_pixels"] = min(video["max_pixels"], 28 * 28)
    messages = talk([m for m in args.media if m[0] != "image"], args.question, system, video)
    if not args.media:
        return dict(processor(text=[text], return_tensors="pt")), False
    if how == "vision":
        from qwen_vl_utils import process_vision_info

        more = {"return_video_kwargs": True}
        if "image_patch_size" in inspect.signature(process_vision_info).parameters:
            more["image_patch_size"] = processor.image_processor.patch_size
        if version(transformers.__version__)[0] >= 5:
            more["return_video_metadata"] = True
        _, videos, kwargs = process_vision_info(messages, **more)
        if videos and "return_video_metadata" in more:
            videos, kwargs["video_metadata"] = map(list, zip(*videos))
        return dict(processor(text=[text], images=images, videos=videos, return_tensors="pt", **(kwargs if videos else {}))), False
    from qwen_omni_utils import process_mm_info

    joined = not args.no_audio_in_video and any(kind == "video" for kind, _ in args.media)
    try:
        sounds, _, videos = process_mm_info(messages, use_audio_in_video=joined)
    except AssertionError:  # a silent video
        joined = False
        sounds, _, videos = process_mm_info(messages, use_audio_in_video=False)
    made = processor(text=[text], audio=sounds, images=images, videos=videos, return_tensors="pt", padding=True, use_audio_in_video=joined)
    return dict(made), joined


class Theirs:
    """transformers' model with hooks."""

    def __init__(self, name, directory, config, dtype, device, attention, settings, dims, tau, last, modules):
        self.torch, transformers = modules
        from method_hooks import Watch

        kind = getattr(self.torch, dtype)
        key = "dtype" if version(transformers.__version__) >= (4, 56) else "torch_dtype"
        model = getattr(transformers, name).from_pretrained(directory, attn_implementation=attention, **{key: kind})
        self.model = model.eval().to(device)
        # Nothing of the checkpoint's own sampling, and no end: tokens are given.
        self.model.generation_config = transformers.GenerationConfig(pad_token_id=0)
        self.config, self.kind, self.device, self.joined = config, kind, device, False
        self.watch = Watch(self.model, settings, dims, tau, last)
        self.head = getattr(model, "lm_head", None) or model.get_output_embeddings()

    def arguments(self, tensors, joined):
        """Keyword arguments of `generate` from a prepared file or a processor, in this class's names."""
        torch, known = self.torch, inspect.signature(self.model.forward).parameters
        given = {k: v for k, v in tensors.items() if torch.is_tensor(v)}
        for key, other in (("second_per_grid_ts", "video_second_per_grid"), ("video_second_per_grid", "second_per_grid_ts")):
            if other in given and other not in known:
                given[key] = given.pop(other)
        ids = given["input_ids"]
        given.setdefault("attention_mask", torch.ones_like(ids))
        marks = self.marks()
        if "mm_token_type_ids" in known and "mm_token_type_ids" not in given:
            given["mm_token_type_ids"] = sum((number * (ids == marks[kind]).long() for kind, number in (("image", 1), ("video", 2)) if kind in marks), torch.zeros_like(ids))
        # VideoLLaMA3's processor merges patches of frames, not of pictures; its config does not say so.
        for kind, grid, side in (("image", "image_grid_thw", 1), ("video", "video_grid_thw", 2)):
            if f"{kind}_merge_sizes" in known and grid in given:
                given.setdefault(f"{kind}_merge_sizes", torch.full((len(given[grid]),), side))
        given = {k: v for k, v in given.items() if k in known}
        cast = lambda k, v: v.to(self.kind) if v.is_floating_point() and not k.endswith(("_ts", "_per_grid")) else v
        given = {k: cast(k, v).to(self.device) for k, v in given.items()}
        return given | ({"use_audio_in_video": True} if joined and "use_audio_in_video" in known else {})

    def marks(self):
        """Placeholder ids by kind."""
        inner = self.config.get("thinker_config", self.config)
        found = {}
        for kind in ("image", "video", "audio"):
            for key in (f"{kind}_token_id", f"{kind}_token_index"):
                if inner.get(key) is not None:
                    found[kind] = inner[key]
        return found

    def run(self, given, on, forced=None, steps=16):
        """Request, logits of the prompt's last rows, and logits before each token; tokens are `forced` or its own."""
        from transformers import LogitsProcessorList

        torch, start = self.torch, given["input_ids"].shape[1]

        def force(ids, scores):
            token = forced[min(ids.shape[1] - start, len(forced) - 1)]
            return torch.full_like(scores, float("-inf")).index_fill(1, torch.tensor([token], device=scores.device), 0.0)

        request = self.watch.begin(on)
        more = {"logits_processor": LogitsProcessorList([force])} if forced else {}
        with torch.no_grad():
            try:
                out = self.model.generate(
                    **given, **more, max_new_tokens=steps + 1, do_sample=False, return_dict_in_generate=True, output_logits=True
                )
            except (RuntimeError, ValueError, TypeError, IndexError) as e:
                stop(f"transformers' model failed on this prompt: {type(e).__name__}: {e}", "try another release, or a simpler prompt")
            prompt = self.head(request.tail)[0].float().cpu()
        steps_logits = torch.cat([x.float() for x in out.logits]).cpu()
        return request, prompt, steps_logits, out.sequences[0, start:].tolist()


# Comparisons


def inputs_rows(table, ours, theirs, torch):
    rename = lambda d: {k.replace("second_per_grid_ts", "video_second_per_grid"): v for k, v in d.items()}
    ours, theirs = rename(ours), rename(theirs)
    same = True
    for key in ("input_ids", "image_grid_thw", "video_grid_thw", "image_sizes", "video_second_per_grid"):
        a, b = ours.get(key), theirs.get(key)
        if a is None and b is None:
            continue
        if a is None or b is None:
            same = key not in ("input_ids", "image_grid_thw", "video_grid_thw") and same
            table.add(f"inputs: {key}", None, f"only {'OutRo' if b is None else 'transformers'} has it")
            continue
        b = torch.as_tensor(b)
        equal = a.shape == b.shape and bool((a.float() - b.float()).abs().max() < 1e-3)
        found = f"equal, {list(a.shape)}" if equal else f"OutRo {brief(a)}, transformers {brief(b)}"
        table.add(f"inputs: {key}", equal, found, "equal")
        same &= equal
    for key, limit in (("pixel_values", PIXELS), ("pixel_values_videos", PIXELS), ("input_features", MEL)):
        a, b = ours.get(key), theirs.get(key)
        if a is None and b is None:
            continue
        if a is None or b is None:
            table.add(f"inputs: {key}", False, f"only {'OutRo' if b is None else 'transformers'} has it", "both")
            same = False
            continue
        if key == "input_features":
            frames = [d["feature_attention_mask"].sum(1).tolist() for d in (ours, theirs)]
            if frames[0] != frames[1]:
                table.add("inputs: mel frames", False, f"OutRo {frames[0]}, transformers {frames[1]}", "equal")
                same = False
                continue
            longest = max(frames[0])
            a, b = a[..., :longest], b[..., :longest]
        if a.shape != b.shape:
            table.add(f"inputs: {key}", False, f"OutRo {list(a.shape)}, transformers {list(b.shape)}", "equal shapes")
            same = False
            continue
        difference = (a.float() - b.float()).abs()
        mean, most = difference.mean().item(), difference.max().item()
        table.add(f"inputs: {key}", mean <= limit, f"{list(a.shape)}, mean difference {mean:.2g}, largest {most:.2g}", f"mean {limit:g}")
        same &= most == 0
    return same


def brief(x):
    values = x.flatten().tolist()
    return f"{list(x.shape)} {values[:6]}{'...' if len(values) > 6 else ''}"


def close(table, name, ours, theirs, share):
    """Two tensors of the same shape: largest difference beside their scale, smallest cosine of rows."""
    if ours.shape != theirs.shape:
        return table.add(name, False, f"OutRo {list(ours.shape)}, transformers {list(theirs.shape)}", "equal shapes")
    ours, theirs = ours.float(), theirs.float()
    scale, most = theirs.abs().max().item(), (ours - theirs).abs().max().item()
    rows = lambda x: x.reshape(-1, x.shape[-1])
    cosine = (rows(ours) * rows(theirs)).sum(-1) / (rows(ours).norm(dim=-1) * rows(theirs).norm(dim=-1)).clamp_min(1e-30)
    first = (rows(ours).argmax(-1) == rows(theirs).argmax(-1)).sum().item()
    found = f"largest difference {most:.2g} of {scale:.3g}, smallest cosine {cosine.min().item():.6f}, first choices {first} of {len(rows(ours))}"
    return table.add(name, most <= share * scale, found, f"{share:g} of the largest")


def tokens_row(table, name, tokens, logits, share):
    """OutRo's greedy tokens, each against transformers' logits behind the same tokens."""
    for step, token in enumerate(tokens):
        best = int(logits[step].argmax())
        if best != token:
            margin, scale = (logits[step][best] - logits[step][token]).item(), logits[step].abs().max().item()
            found = f"part at {step}: OutRo {token}, transformers {best}, whose logit is larger by {margin:.2g}"
            return table.add(name, margin <= 2 * share * scale, found, f"margin {2 * share * scale:.2g}")
    return table.add(name, True, f"{len(tokens)} equal", "equal where the margin is wider than the tolerance")


def sets_row(table, name, ours, theirs):
    """Positions by layer."""
    clean = lambda d: {int(k): sorted(v) for k, v in d.items() if v}
    ours, theirs = clean(ours), clean(theirs)
    wrong = [k for k in sorted(ours.keys() | theirs.keys()) if ours.get(k) != theirs.get(k)]
    if wrong:
        k = wrong[0]
        found = f"{len(wrong)} layers differ, first {k}: OutRo {ours.get(k, [])}, transformers {theirs.get(k, [])}"
    else:
        positions = sorted({t for rows in theirs.values() for t in rows})
        found = f"equal in {len(theirs)} layers, positions {positions[:8]}{'...' if len(positions) > 8 else ''}" if theirs else "none on either side"
    table.add(name, not wrong, found, "equal")


def main():
    args = arguments()
    program = outro_program(args.outro)
    torch, transformers = imports()
    sys.path.insert(0, str(Path(__file__).parent))
    from method_hooks import Settings

    directory = checkpoint(args.model)
    config, name, how, packages = family(directory, args, transformers)
    numbers = weights(directory, config)
    dtype = args.dtype or ("float32" if numbers < 1e9 else "bfloat16")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    share = TOLERANCE[dtype]
    need, left = numbers * (4 if dtype == "float32" else 2) * 1.1 + 2**30, memory_left(torch, device)
    if left is not None and need > left and not args.force:
        gib = lambda n: f"{n / 2**30:.1f} GiB"
        stop(f"transformers' model needs about {gib(need)} on {device}, {gib(left)} are free", "--dtype bfloat16, another --device, or --force")

    own = json.loads((directory / "outro.json").read_text()) if (directory / "outro.json").exists() else {}
    pairs = dict(pair.split("=", 1) for pair in args.set)
    settings = Settings.of({**own.get("method", {}), **pairs})
    system = args.system if args.system is not None else own.get("system")
    if system is None:
        system = SYSTEMS.get(how)

    table, since = Table(), time.time()
    with tempfile.TemporaryDirectory() as folder:
        outro = Outro(program, directory, Path(folder), args.set)
        prepared = args.inputs or outro.prepare(args, system)
        ours, meta = load(prepared)
        plain, _ = outro.trace(prepared, "baseline", args)
        acted, found = outro.trace(prepared, "outro", args)
        lab = None if args.no_lab else outro.sinks(prepared)
        edition = outro.run("--version").split()[-1]
    dims = lab["one"]["profile"]["dims"] if lab else None
    tau = lab["options"]["tau"] if lab else 20.0

    made, joined = None, False
    if args.inputs:
        table.add("inputs", None, "prepared ones were given")
    else:
        try:
            made, joined = processed(how, directory, args, system, own.get("media", {}), packages, transformers)
        except (LookupError, ImportError, ValueError, TypeError, AttributeError, OSError, RuntimeError, AssertionError) as e:
            text = " ".join(str(e).split())
            table.add("inputs", None, f"transformers' processor failed: {type(e).__name__}: {text[:200]}")
    if config["model_type"] == "llava_onevision":
        ours = planes(ours, config["vision_config"]["patch_size"])
    same = made is not None and inputs_rows(table, ours, made, torch)

    theirs = Theirs(name, directory, config, dtype, device, args.attention, settings, dims, tau, args.last, (torch, transformers))
    given = theirs.arguments(ours, meta.get("use_audio_in_video") == "true")
    tokens = plain["tokens"].tolist()
    request, prompt, steps, _ = theirs.run(given, False, tokens, args.steps)
    if request.positions is None:
        table.add("positions", None, "the model's rotary embedding was not called with positions")
    else:
        equal = plain["position_ids"].shape == request.positions.shape and bool((plain["position_ids"] == request.positions).all())
        largest = request.positions.max().item()
        table.add("positions", equal, f"equal, up to {largest:g}" if equal else f"OutRo up to {plain['position_ids'].max().item():g}, transformers up to {largest:g}", "equal")
    ids = given["input_ids"][0].cpu()
    for kind, mark in theirs.marks().items():
        if f"{kind}_embeds" in plain:
            close(table, f"encoder: {kind}", plain[f"{kind}_embeds"], request.embeds[ids == mark], share)
    close(table, "plain model: logits of the prompt", plain["prefill_logits"], prompt[-len(plain["prefill_logits"]) :], share)
    close(table, "plain model: logits of the answer", plain["decode_logits"], steps[1 : len(tokens) + 1], share)
    tokens_row(table, "plain model: greedy tokens", tokens, steps, share)
    if lab:
        layers = lab["one"]["profile"]["layers"]
        sets_row(table, "plain model: Phi_LLM", {x["layer"]: x["massive"] for x in layers}, request.massive)
        sets_row(table, f"plain model: Phi_VLM, dimensions {dims}", {x["layer"]: x["visual"] for x in layers}, request.visual)

    tokens = acted["tokens"].tolist()
    request, prompt, steps, _ = theirs.run(given, True, tokens, args.steps)
    sets_row(table, "OutRo: sinks", json.loads(found["sinks"]), request.sinks)
    sets_row(table, "OutRo: relaxed rows", json.loads(found["relaxed_at"]), request.relaxed_at)
    shared = [k for k in request.vbar if f"vbar.{k}" in acted]
    if shared:
        close(table, f"OutRo: sinks' values of {len(shared)} layers", torch.stack([acted[f"vbar.{k}"] for k in shared]), torch.stack([request.vbar[k].cpu() for k in shared]), share)
    close(table, "OutRo: logits of the prompt", acted["prefill_logits"], prompt[-len(acted["prefill_logits"]) :], share)
    close(table, "OutRo: logits of the answer", acted["decode_logits"], steps[1 : len(tokens) + 1], share)
    tokens_row(table, "OutRo: greedy tokens", tokens, steps, share)

    if made is not None and not same:
        # From files to tokens, each with its own inputs.
        _, _, steps, own_tokens = theirs.run(theirs.arguments(made, joined), False, None, args.steps)
        tokens = plain["tokens"].tolist()
        alike = next((i for i, (a, b) in enumerate(zip(tokens, own_tokens)) if a != b), len(tokens))
        table.add("plain model, each with its own inputs: greedy tokens", None if alike < len(tokens) else True, f"the first {alike} of {len(tokens)} equal", "for information: inputs differ within their rows")
    del theirs
    gc.collect()

    about = {
        "model": f"{args.model} ({name}, {numbers / 1e9:.3g} billion weights), config.json SHA-256 {hashlib.sha256((directory / 'config.json').read_bytes()).hexdigest()[:16]}",
        "media": ", ".join(f"{kind} {Path(path).name} ({os.path.getsize(path)} bytes)" for kind, path in args.media) or "none",
        "prompt": f"{len(ids)} tokens; {args.steps} greedy tokens",
        "outro": f"{edition}, {' '.join(args.set) or 'settings of the model'}",
        "python": f"transformers {transformers.__version__}, torch {torch.__version__}, {dtype} on {device} ({args.attention}); " + ", ".join(f"{p} {importlib.import_module('importlib.metadata').version(p)}" for p in packages if importlib.util.find_spec(p)),
        "machine": f"{platform.platform()}, {torch.cuda.get_device_name() if device.startswith('cuda') else platform.processor() or platform.machine()}, {os.cpu_count()} CPUs",
        "tolerance": f"{share:g} of the largest logit: {REASON[dtype]}",
        "seconds": f"{time.time() - since:.0f}",
    }
    if args.json:
        print(json.dumps({"about": about, "rows": table.rows}, indent=1))
    else:
        print(table.markdown(about))
    sys.exit(any(r["result"] == "DIFFERS" for r in table.rows))


if __name__ == "__main__":
    main()
