"""The method, and the two criteria for sinks, on text decoders of transformers by hooks alone: an oracle for
tools/compare_checkpoint.py.

It needs no class of its own and no attention function: whatever the release (4.52 to 5), the attention implementation, the
device and the type, a decoder layer has `v_proj` and `o_proj`, and its module a function that turns queries and keys by their
positions. What the output projection gets is replaced; all else is transformers'. Batch size 1, no padding.
"""

import math
import sys
from dataclasses import dataclass, field

import torch


@dataclass
class Settings:
    """Released values; the names are those of `outro trace --set`."""

    gamma: float = 3.0
    temperature: float = 0.1
    abs_threshold: float = 100.0
    median_multiple: float = 1000.0
    start_layer: int = 0
    end_layer: int | None = None
    interval: int | None = None
    layers: list | None = None
    once: bool = True
    rotate: bool = True
    relax: bool = True
    rescale: bool = True

    @staticmethod
    def of(values):
        """From names and values as a model's outro.json or a command line has them."""
        made = Settings()
        for key, value in values.items():
            if key not in Settings.__dataclass_fields__:
                raise SystemExit(f"error: the setting {key} is not known to this script; leave it out")
            kind = type(getattr(made, key))
            if isinstance(value, str):
                if key == "layers":
                    value = [int(x) for x in value.split(",")]
                elif kind is bool:
                    value = {"true": True, "false": False}[value]
                else:
                    value = float(value) if kind is float else int(value)
            setattr(made, key, value)
        return made


@dataclass
class Request:
    """What one prompt leaves behind: layer -> positions, or a tensor."""

    sinks: dict = field(default_factory=dict)
    relaxed_at: dict = field(default_factory=dict)
    vbar: dict = field(default_factory=dict)
    massive: dict = field(default_factory=dict)
    visual: dict = field(default_factory=dict)
    tops: dict = field(default_factory=dict)
    positions: torch.Tensor | None = None
    embeds: torch.Tensor | None = None
    tail: torch.Tensor | None = None
    union: set = field(default_factory=set)


def find_decoder(model):
    """The module with the text decoder's layers."""
    for module in model.modules():
        layers = getattr(module, "layers", None)
        if layers is not None and hasattr(module, "embed_tokens") and len(layers) and hasattr(getattr(layers[0], "self_attn", None), "o_proj"):
            return module
    raise SystemExit(f"error: no text decoder was found in {type(model).__name__}; its layers need self_attn.o_proj")


class Watch:
    """Hooks on a model. `begin` starts a request; then run the model, prompt first, then token by token."""

    def __init__(self, model, settings, dims=None, tau=20.0, last=8):
        self.decoder = find_decoder(model)
        self.settings, self.dims, self.tau, self.last = settings, dims, tau, last
        self.count = len(self.decoder.layers)
        s = settings
        self.end = self.count - 2 if s.end_layer is None else s.end_layer
        self.at = s.layers if s.layers is not None else range(0, self.count, s.interval or max(1, self.count // 7))
        self.request, self.on, self.turned, self.values = Request(), False, None, None
        attention = self.decoder.layers[0].self_attn
        self.size = attention.head_dim
        home = sys.modules[type(attention).__module__]
        names = [n for n in vars(home) if n.startswith("apply_") and "rotary" in n and not n.endswith(("_vision", "_flashatt"))]
        if not names:
            raise SystemExit(f"error: {home.__name__} turns queries in a way that this script does not know")
        for name in names:
            setattr(home, name, self._recorded(getattr(home, name)))
        for index, layer in enumerate(self.decoder.layers):
            layer.register_forward_pre_hook(self._enters(index), with_kwargs=True)
            layer.self_attn.v_proj.register_forward_hook(self._value)
            layer.self_attn.o_proj.register_forward_pre_hook(self._leaves(index))
        self.decoder.rotary_emb.register_forward_pre_hook(self._places, with_kwargs=True)
        self.decoder.norm.register_forward_hook(self._ends)

    def begin(self, on):
        self.request, self.on = Request(), on
        return self.request

    def _recorded(self, function):
        def turn(q, k, *args, **kwargs):
            self.turned = function(q, k, *args, **kwargs)
            return self.turned

        return turn

    def _places(self, module, args, kwargs):
        places = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        if self.request.positions is None and places.shape[-1] > 1:
            places = places[:, 0] if places.dim() == 3 else places[:1]
            self.request.positions = places[-3:].expand(3, -1).float().cpu()

    def _ends(self, module, args, output):
        if self.request.tail is None:
            self.request.tail = output[:, -self.last :].detach()

    def _enters(self, index):
        def look(module, args, kwargs):
            x = (args[0] if args else kwargs["hidden_states"])[0].detach().float()
            if len(x) < 2:
                return
            r, s = self.request, self.settings
            if index == 0:
                r.embeds = x.cpu()
            size = x.abs()
            least = max(s.abs_threshold, s.median_multiple * float(size.flatten().kthvalue((size.numel() + 1) // 2).values))
            most = size.amax(dim=1)
            r.massive[index] = (most >= least).nonzero().flatten().tolist()
            r.tops[index] = (most.max().item(), least)
            if self.dims:
                share = size[:, self.dims].amax(dim=1) / x.pow(2).mean(dim=1).sqrt().clamp_min(1e-30)
                r.visual[index] = (share >= self.tau).nonzero().flatten().tolist()
            if s.start_layer <= index < self.end:
                r.sinks[index] = r.massive[index]

        return look

    def _value(self, module, args, output):
        self.values = output[0].detach().float().unflatten(-1, (-1, self.size)).transpose(0, 1)

    def _leaves(self, index):
        def act(module, args):
            flat = args[0]
            # [1, S, H * D] or [S, H * D]; heads first.
            o = flat.reshape(-1, flat.shape[-1]).float().unflatten(-1, (-1, self.size)).transpose(0, 1)
            changed = self._method(index, o)
            if changed is None:
                return None
            return (changed.transpose(0, 1).flatten(1).to(flat.dtype).reshape(flat.shape),)

        return act

    def _method(self, index, o):
        r, s = self.request, self.settings
        prompt = o.shape[1] > 1
        sinks = r.sinks.get(index, [])
        group = o.shape[0] // self.values.shape[0]
        if prompt:
            self._check(index, o, group)
            r.union.update(sinks)
        if not self.on:
            return None
        changed = None
        if prompt and sinks:
            r.vbar[index] = self.values[:, sinks].mean(dim=1)
            done = {t for rows in r.relaxed_at.values() for t in rows}
            fresh = [t for t in sinks if not (s.once and t in done)]
            if s.relax and fresh and index in self.at:
                q, k = (t[0].float() for t in self.turned)
                keys, values = (t.repeat_interleave(group, dim=0) for t in (k, self.values))
                weights = torch.softmax(q[:, fresh] @ keys.mT / math.sqrt(self.size), dim=-1)
                o = changed = o.index_copy(1, torch.tensor(fresh, device=o.device), weights @ values)
                r.relaxed_at[index] = fresh
        if s.rotate and index in r.vbar:
            turned = self._rotated(o, r.vbar[index].repeat_interleave(group, dim=0)[:, None])
            if prompt:
                still = torch.tensor(sorted(r.union), device=o.device)
                turned = turned.index_copy(1, still, o[:, still])
            changed = turned
        return changed

    def _rotated(self, o, along):
        s = self.settings
        dot, length = (o * along).sum(-1, keepdim=True), o.norm(dim=-1, keepdim=True)
        cosine = dot / (length * along.norm(dim=-1, keepdim=True)).clamp_min(1e-12)
        gate = torch.tanh(cosine.clamp_min(0) / s.temperature)
        turned = o + gate * s.gamma * dot.abs() / (along.pow(2).sum(-1, keepdim=True) + 1e-8) * along
        return turned * (length / (turned.norm(dim=-1, keepdim=True) + 1e-8)) if s.rescale else turned

    def _check(self, index, o, group):
        """What was recorded must be what this layer attended with: its last row again, from queries, keys and values."""
        q, k = (t[0].float() for t in self.turned)
        keys, values = (t.repeat_interleave(group, dim=0) for t in (k, self.values))
        again = torch.softmax(q[:, -1:] @ keys.mT / math.sqrt(self.size), dim=-1) @ values
        if (again - o[:, -1:]).abs().max() > 0.05 * o[:, -1:].abs().max() + 1e-3:
            raise SystemExit(f"error: layer {index} of this model attends in a way that this script does not know")
