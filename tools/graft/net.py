"""outro-graft as functions of tensors, for training: towers, decoder, low-rank adapter. No transformers, any device.

`train.py --check` holds this to the logits of `outro trace`.
"""

import math

import torch
import torch.nn.functional as F

HEADS, KV_HEADS, HEAD_DIM, LAYERS = 9, 3, 64, 30
SECTIONS = [16, 8, 8]
THETA, EPS = 100000.0, 1e-5


def rms(x, w, eps):
    y = x.float()
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * w


def heads(x, n):
    return x.unflatten(-1, (n, -1)).transpose(-3, -2)


def turn(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def see(p, pixels, grid):
    """Patches [B, t * h * w, columns] to what enters the merger's last layer, [B, tokens, 384]. Frames of one window."""
    lin = lambda n, x: F.linear(x, p[f"visual.{n}.weight"], p.get(f"visual.{n}.bias"))  # noqa: E731
    (t, h, w), batch = grid, pixels.shape[0]
    x = (pixels @ p["visual.patch_embed.proj.weight"].flatten(1).T).reshape(batch * t, h * w, -1)
    rows, cols = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    order = lambda a: a.reshape(h // 2, 2, w // 2, 2).transpose(1, 2).flatten()  # noqa: E731
    inv = 10000.0 ** (-torch.arange(0, 12, 2).float() / 12)
    angles = torch.cat([order(a)[:, None] * inv for a in (rows, cols)], -1).to(x.device)
    angles = torch.cat((angles, angles), -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    for n in range(3):
        b = f"blocks.{n}"
        y = rms(x, p[f"visual.{b}.norm1.weight"], 1e-6)
        q, k, v = (heads(lin(f"{b}.attn.{c}", y), 4) for c in "qkv")
        o = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v)
        x = x + lin(f"{b}.attn.proj", o.transpose(1, 2).flatten(2))
        y = rms(x, p[f"visual.{b}.norm2.weight"], 1e-6)
        x = x + lin(f"{b}.mlp.down_proj", F.silu(lin(f"{b}.mlp.gate_proj", y)) * lin(f"{b}.mlp.up_proj", y))
    x = rms(x, p["visual.merger.ln_q.weight"], 1e-6).reshape(batch, t * h * w // 4, -1)
    return F.gelu(lin("merger.mlp.0", x))


def listen(p, mel):
    """Mel [B, bins, frames] to what enters the tower's last layer, [B, tokens, 128]."""
    lin = lambda n, x: F.linear(x, p[f"audio_tower.{n}.weight"], p.get(f"audio_tower.{n}.bias"))  # noqa: E731
    norm = lambda n, x: F.layer_norm(x, x.shape[-1:], p[f"audio_tower.{n}.weight"], p[f"audio_tower.{n}.bias"])  # noqa: E731
    conv = lambda n, x, s: F.gelu(F.conv1d(x, p[f"audio_tower.conv{n}.weight"], p[f"audio_tower.conv{n}.bias"], s, 1))  # noqa: E731
    done = []
    inv = torch.exp(-math.log(10000.0) / 63 * torch.arange(64))
    for part in mel.split(200, 2):
        x = conv(2, conv(1, part, 1), 2).transpose(1, 2)
        angle = torch.arange(x.shape[1])[:, None] * inv
        x = x + torch.cat((angle.sin(), angle.cos()), 1).to(x)
        for n in range(2):
            a, y = f"layers.{n}.self_attn", norm(f"layers.{n}.self_attn_layer_norm", x)
            q, k, v = (heads(lin(f"{a}.{c}_proj", y), 4) for c in "qkv")
            x = x + lin(f"{a}.out_proj", F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            y = norm(f"layers.{n}.final_layer_norm", x)
            x = x + lin(f"layers.{n}.fc2", F.gelu(lin(f"layers.{n}.fc1", y)))
        done.append(x)
    x = F.avg_pool1d(torch.cat(done, 1).transpose(1, 2), 2, 2).transpose(1, 2)
    return norm("ln_post", x)


def rope(positions, dtype):
    """Positions [3, S] to cos and sin [S, head_dim]."""
    inv = THETA ** (-torch.arange(0, HEAD_DIM, 2, device=positions.device).float() / HEAD_DIM)
    parts = (positions.float()[..., None] * inv).split(SECTIONS, -1)
    angles = torch.cat([part[i] for i, part in enumerate(parts)], -1)
    angles = torch.cat((angles, angles), -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def decode(w, x, positions, adapter=None):
    """Embeddings [B, S, hidden] through all layers and the last norm. `adapter`: factors by name, or None."""
    cos, sin = rope(positions, x.dtype)

    def linear(name, x):
        y = F.linear(x, w[f"{name}.weight"])
        if adapter is not None and f"{name}.lora_a" in adapter:
            y = y + F.linear(F.linear(x, adapter[f"{name}.lora_a"].to(x.dtype)), adapter[f"{name}.lora_b"].to(x.dtype))
        return y

    for n in range(LAYERS):
        a = f"layers.{n}.self_attn"
        y = rms(x, w[f"layers.{n}.input_layernorm.weight"], EPS)
        q, k, v = (heads(linear(f"{a}.{c}_proj", y), m) for c, m in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)))
        k, v = (z.repeat_interleave(HEADS // KV_HEADS, 1) for z in (turn(k, cos, sin), v))
        o = F.scaled_dot_product_attention(turn(q, cos, sin), k, v, is_causal=True)
        x = x + linear(f"{a}.o_proj", o.transpose(1, 2).flatten(2))
        y = rms(x, w[f"layers.{n}.post_attention_layernorm.weight"], EPS)
        m = f"layers.{n}.mlp"
        x = x + linear(f"{m}.down_proj", F.silu(linear(f"{m}.gate_proj", y)) * linear(f"{m}.up_proj", y))
    return rms(x, w["norm.weight"], EPS)
