"""Times one shape in transformers with random weights: a text decoder's prefill and decode, or a tower.

    python3 benches/peers/torch_peer.py --shape qwen2.5-omni-3b --layers 6 --dtype bf16 --prompt-tokens 2000 --new-tokens 16

Prints one JSON object: seconds of prefill, of a decode step (median), of the towers. Needs torch and transformers 4.52.3.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import transformers
from transformers.models.qwen2_5_omni import configuration_qwen2_5_omni as omni
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni_model

SHAPES = json.loads((Path(__file__).parents[2] / "crates/outro/src/shapes.json").read_text())


def filled(build, dtype):
    """A module on the CPU without the slow initialisation."""
    torch.set_default_dtype(dtype)
    with torch.device("meta"):
        module = build()
    module = module.to_empty(device="cpu").eval()
    for name, p in module.named_parameters():
        if p.ndim == 1:
            p.data.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            p.data.uniform_(-0.5 / p.shape[-1] ** 0.5, 0.5 / p.shape[-1] ** 0.5)
    for name, b in module.named_buffers():
        # Rotary frequencies are made at construction; on "meta" they were not.
        if "inv_freq" in name:
            n = b.numel()
            b.copy_(1.0 / (10000.0 ** (torch.arange(n, dtype=torch.float32) / n)))
        elif "positional" in name:
            b.zero_()
    torch.set_default_dtype(torch.float32)
    return module


def seconds(f):
    since = time.perf_counter()
    f()
    return time.perf_counter() - since


def median(xs):
    return sorted(xs)[len(xs) // 2]


def decoder(shape, args, dtype):
    text = SHAPES[shape]
    text = text.get("thinker_config", {}).get("text_config", text)
    keys = ["hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size", "max_position_embeddings", "rope_theta", "rms_norm_eps"]
    keys += [k for k in ("head_dim", "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob") if k in text]
    name = {"llama": "Llama", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"}.get(text.get("model_type"), "Qwen2")
    config = getattr(transformers, f"{name}Config")(
        **{k: text[k] for k in keys}, num_hidden_layers=args.layers or text["num_hidden_layers"], tie_word_embeddings=False)
    config._attn_implementation = "sdpa"
    model = filled(lambda: getattr(transformers, f"{name}ForCausalLM")(config), dtype)
    ids = torch.randint(0, 1000, (1, args.prompt_tokens))
    with torch.inference_mode():
        state = {}

        def prefill():
            out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            state["cache"] = out.past_key_values

        model(input_ids=ids[:, :8], use_cache=True)
        took = seconds(prefill)
        steps = []
        for i in range(args.new_tokens):
            token = torch.tensor([[i]])
            steps.append(seconds(lambda: model(input_ids=token, past_key_values=state["cache"], use_cache=True)))
    return {"prefill": took, "decode": median(steps)}


def towers(shape, args, dtype):
    thinker, out = SHAPES[shape].get("thinker_config", SHAPES[shape]), {}
    with torch.inference_mode():
        if args.frames:
            v = dict(thinker["vision_config"])
            config = omni.Qwen2_5OmniVisionEncoderConfig(**v)
            config._attn_implementation = "sdpa"
            tower = filled(lambda: omni_model.Qwen2_5OmniVisionEncoder._from_config(config), dtype)
            side = 448 // v["patch_size"]
            grid = torch.tensor([[args.frames // 2, side, side]])
            pixels = torch.rand(int(grid.prod()), 3 * 2 * v["patch_size"] ** 2, dtype=dtype)
            out["vision"] = seconds(lambda: tower(pixels, grid_thw=grid))
        if args.audio_seconds:
            config = omni.Qwen2_5OmniAudioEncoderConfig(**thinker["audio_config"])
            config._attn_implementation = "sdpa"
            tower = filled(lambda: omni_model.Qwen2_5OmniAudioEncoder._from_config(config), dtype)
            frames = args.audio_seconds * 100
            mel, lens = torch.rand(thinker["audio_config"]["num_mel_bins"], frames, dtype=dtype), torch.tensor([frames])
            out["audio"] = seconds(lambda: tower(mel, feature_lens=lens, aftercnn_lens=(lens - 1) // 2 + 1))
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", default="qwen2.5-omni-3b", choices=SHAPES)
    p.add_argument("--dtype", default="bf16", choices=["bf16", "f32"])
    p.add_argument("--layers", type=int, default=0)
    p.add_argument("--prompt-tokens", type=int, default=0)
    p.add_argument("--new-tokens", type=int, default=16)
    p.add_argument("--frames", type=int, default=0)
    p.add_argument("--audio-seconds", type=int, default=0)
    p.add_argument("--threads", type=int, default=0)
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    out = {"torch": torch.__version__, "threads": torch.get_num_threads(), "dtype": args.dtype}
    if args.prompt_tokens:
        out |= decoder(args.shape, args, dtype)
    out |= towers(args.shape, args, dtype)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
