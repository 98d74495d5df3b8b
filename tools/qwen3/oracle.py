"""The method on Qwen3-style decoders of transformers 5.23, for golden values: eager float32, one prompt, state in one object.

`attach(decoder, settings)` puts an attention of its own into every layer: softmax over all keys, written down as the formula
stands. With `settings=None` it is the plain model, which make_fixtures.py compares with the untouched one.
"""

import sys

import torch

DEFAULTS = dict(gamma=3.0, temperature=0.1, abs_threshold=100.0, median_multiple=1000.0, start_layer=0, end_layer=None,
                interval=None, once=True, rotate=True, relax=True, rescale=True, decode="paper")


class Method:
    """What one request knows: sinks by layer, their mean values, who was relaxed where."""

    def __init__(self, settings, config):
        self.s = {**DEFAULTS, **settings}
        n = config.num_hidden_layers
        self.end = n - 2 if self.s["end_layer"] is None else self.s["end_layer"]
        self.interval = self.s["interval"] or max(1, n // 7)
        self.sinks, self.vbar, self.relaxed_at, self.outputs = {}, {}, {}, {}
        self.done, self.known = set(), set()

    def look(self, layer, x):
        """Section 1; x is [S, hidden]."""
        if self.s["start_layer"] <= layer < self.end:
            sizes = x.abs()
            bound = max(self.s["abs_threshold"], self.s["median_multiple"] * sizes.median().item())
            self.sinks[layer] = [t for t in range(len(x)) if sizes[t].max() >= bound]

    def act(self, layer, q, k, v, o, prefill):
        """Sections 2 to 4; q and o are [H, new, D], k and v [H, all, D] with key/value heads repeated."""
        sinks = self.sinks.get(layer, [])
        if not sinks:
            return o
        if prefill:
            self.known |= set(sinks)
            self.vbar[layer] = v[:, sinks].mean(1)
            fresh = [t for t in sinks if not (self.s["once"] and t in self.done)]
            if self.s["relax"] and fresh and layer % self.interval == 0:
                o = o.clone()
                o[:, fresh] = torch.softmax(q[:, fresh] @ k.mT / q.shape[-1] ** 0.5, -1) @ v
                self.done |= set(fresh)
                self.relaxed_at[layer] = fresh
        if self.s["rotate"]:
            rows = [t for t in range(o.shape[1]) if not self.spared(t, sinks, prefill)]
            o = o.clone()
            o[:, rows] = self.turn(o[:, rows], self.vbar[layer][:, None])
        if prefill:
            self.outputs[layer] = o.transpose(0, 1)
        return o

    def spared(self, row, sinks, prefill):
        if prefill:
            return row in self.known
        return self.s["decode"] == "release" and 0 in sinks

    def turn(self, o, v):
        dot = (o * v).sum(-1, keepdim=True)
        length, size = o.norm(dim=-1, keepdim=True), v.norm(dim=-1, keepdim=True)
        cos = dot / (length * size).clamp_min(1e-24)
        gate = torch.tanh(cos.relu() / self.s["temperature"])
        out = o + gate * self.s["gamma"] * dot.abs() / (size**2 + 1e-8) * v
        return out * length / (out.norm(dim=-1, keepdim=True) + 1e-8) if self.s["rescale"] else out


def attach(decoder, settings):
    """Replaces the attention of `decoder` (a Qwen3*TextModel); returns the Method, or None."""
    config = decoder.config
    method = None if settings is None else Method(settings, config)
    for index, layer in enumerate(decoder.layers):
        layer.self_attn.forward = attention(layer.self_attn, config, index, method)
        if method is not None:
            def look(_, args, kwargs, index=index):
                x = args[0] if args else kwargs["hidden_states"]
                if x.shape[1] > 1:
                    method.look(index, x[0])
            layer.register_forward_pre_hook(look, with_kwargs=True)
    return method


def attention(attn, config, index, method):
    rotate = sys.modules[type(attn).__module__].apply_rotary_pos_emb
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim

    def forward(hidden_states, position_embeddings=None, past_key_values=None, **_):
        n = hidden_states.shape[1]
        q, k, v = (p(hidden_states).view(1, n, -1, dim) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
        q, k = rotate(attn.q_norm(q).transpose(1, 2), attn.k_norm(k).transpose(1, 2), *position_embeddings)
        k, v = past_key_values.update(k, v.transpose(1, 2), index)
        q, k, v = q[0], *(x[0].repeat_interleave(heads // kv_heads, 0) for x in (k, v))
        later = torch.ones(n, k.shape[1], dtype=torch.bool).triu(k.shape[1] - n + 1)
        o = torch.softmax((q @ k.mT / dim**0.5).masked_fill(later, -torch.inf), -1) @ v
        if method is not None:
            o = method.act(index, q, k, v, o, n > 1)
        return attn.o_proj(o.transpose(0, 1).reshape(1, n, -1)), None

    return forward
