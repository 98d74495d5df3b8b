"""The method on text decoders of transformers 5, float32, one prompt at a time: an oracle for tests.

transformers lets a program register its own attention function; this one is the causal one written out, with the
method's steps (sections 1 to 4 of docs/method.md) between the weighted sum and the output projection. So it fits every
decoder whose attention goes through that table and nothing about a family stands here.
"""

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

GAMMA, TEMPERATURE, ABSOLUTE, TIMES_MEDIAN = 3.0, 0.1, 100.0, 1000.0
NAME = "outro_oracle"


@dataclass
class State:
    """What one request knows; `on` is off for the plain model."""

    layers: int
    on: bool
    sinks: dict = field(default_factory=dict)
    relaxed: dict = field(default_factory=dict)
    direction: dict = field(default_factory=dict)
    met: set = field(default_factory=set)
    done: set = field(default_factory=set)

    def look(self, layer, x):
        """Sinks of a layer, from the rows that enter it."""
        if self.on and x.shape[1] > 1 and layer < self.layers - 2:
            size = x[0].abs()
            least = max(ABSOLUTE, TIMES_MEDIAN * float(size.flatten().median()))
            rows = (size.max(dim=1).values >= least).nonzero().flatten().tolist()
            if rows:
                self.sinks[layer] = rows
                self.met.update(rows)

    def act(self, layer, q, k, v, o):
        """`q, o [H, new, D]`, `k, v [H, all, D]` with the key/value heads repeated."""
        if not self.on:
            return o
        sinks = self.sinks.get(layer, [])
        if q.shape[1] > 1 and sinks:
            self.direction[layer] = v[:, sinks].mean(dim=1)
            fresh = [t for t in sinks if t not in self.done]
            if fresh and layer % max(1, self.layers // 7) == 0:
                o = o.clone()
                o[:, fresh] = torch.softmax(q[:, fresh] @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
                self.done.update(fresh)
                self.relaxed[layer] = fresh
        if layer not in self.direction:
            return o
        along = self.direction[layer][:, None]
        dot = (o * along).sum(dim=-1, keepdim=True)
        length = o.norm(dim=-1, keepdim=True)
        cosine = dot / (length * along.norm(dim=-1, keepdim=True)).clamp_min(1e-12)
        gate = torch.tanh(cosine.relu() / TEMPERATURE)
        turned = o + gate * GAMMA * dot.abs() / ((along * along).sum(dim=-1, keepdim=True) + 1e-8) * along
        turned = turned * (length / (turned.norm(dim=-1, keepdim=True) + 1e-8))
        if q.shape[1] > 1:
            turned[:, sorted(self.met)] = o[:, sorted(self.met)]
        return turned


_state = None


def _attention(module, query, key, value, mask, scaling, **_):
    q, k, v = query[0], key[0], value[0]
    k, v = (t.repeat_interleave(q.shape[0] // t.shape[0], dim=0) for t in (k, v))
    new, every = q.shape[1], k.shape[1]
    ahead = torch.ones(new, every, dtype=torch.bool).triu(every - new + 1)
    scores = (q @ k.mT * scaling).masked_fill(ahead, float("-inf"))
    o = _state.act(module.layer_idx, q, k, v, torch.softmax(scores, dim=-1) @ v)
    return o.transpose(0, 1)[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)


def attach(decoder):
    """Prepares a text decoder (the module with `layers`); `begin` starts each request."""
    decoder.config._attn_implementation = NAME
    for index, layer in enumerate(decoder.layers):
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, i=index: _state.look(i, args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    return decoder


def begin(decoder, on):
    global _state
    _state = State(len(decoder.layers), on)
    return _state


@torch.no_grad()
def run(model, decoder, inputs, on, steps=4, rows=2, positions=None):
    """Prefill and greedy steps: the prompt's last rows of logits, then each step's; tokens; sinks; relaxed rows.
    `positions [3, 1, S]` are those of a decoder whose rotary embedding has three axes."""
    from transformers import DynamicCache

    state, cache = begin(decoder, on), DynamicCache(config=decoder.config)
    n = inputs["input_ids"].shape[1]
    place = {} if positions is None else {"position_ids": positions}
    y = model(**inputs, **place, past_key_values=cache, use_cache=True).logits[0]
    logits, tokens = [y[-rows:]], []
    for i in range(steps):
        tokens.append(int(logits[-1][-1].argmax()))
        last = torch.tensor([[tokens[-1]]])
        mask = torch.ones(1, n + i + 1, dtype=torch.long)
        if positions is not None:
            place = {"position_ids": torch.full((3, 1, 1), positions.max().item() + 1 + i, dtype=positions.dtype)}
        y = model(input_ids=last, attention_mask=mask, **place, past_key_values=cache, use_cache=True)
        logits.append(y.logits[0])
    return torch.cat(logits).contiguous(), torch.tensor(tokens), state


@contextmanager
def rotary_positions(decoder):
    """The positions `[1, S]` of each pass, as the decoder's rotary embedding gets them."""
    seen = []

    def look(_, args, kwargs):
        seen.append(kwargs["position_ids"] if "position_ids" in kwargs else args[1])

    handle = decoder.rotary_emb.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def both(model, decoder, inputs, out, meta, positions=None):
    """What comes without the method and with it, into a case's tensors and metadata; False where a greedy choice hangs by a
    thread. Positions of one axis are those that the rotary embedding was given, once for each axis of ours."""
    for mode in ("baseline", "outro"):
        with rotary_positions(decoder) as seen:
            logits, tokens, state = run(model, decoder, inputs, mode == "outro", positions=positions)
        if positions is None:
            out["position_ids"] = seen[0].expand(3, -1).contiguous()
        out[f"{mode}.logits"], out[f"{mode}.tokens"] = logits, tokens
        best = logits[1:].topk(2).values
        if (best[:, 0] - best[:, 1]).min() < 1e-3:
            return False
    meta["sinks"], meta["relaxed"] = json.dumps(state.sinks), json.dumps(state.relaxed)
    assert state.relaxed
    return True
