"""outro-tiny: its configuration, its tokenizer, and a batched forward pass over transformers' own modules.

The parameters live in transformers' Qwen2_5OmniThinkerForConditionalGeneration, so the checkpoint is canonical. Its
forward takes one layout of prompt at a time; here many clips of one layout run together, and all questions about a clip
share the keys and values of its media. `train.py --check` holds both forms to the same logits.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|AUDIO|>", "<|IMAGE|>", "<|VIDEO|>", "<|vision_bos|>",
           "<|vision_eos|>", "<|audio_bos|>", "<|audio_eos|>"]
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif content['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif content['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
VOCAB = 640
MAX_PIXELS = 84 * 84


def tokenizer(texts):
    """A byte-level BPE in Qwen's form, with a token for every word of the world."""
    tok = Tokenizer(BPE())
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in SPECIAL]
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, min_frequency=2, special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tok


def config(ids):
    """Of `ids`, the ids of the special tokens."""
    return Qwen2_5OmniThinkerConfig(
        text_config=dict(hidden_size=128, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
                         intermediate_size=384, vocab_size=VOCAB, max_position_embeddings=8192, rope_theta=10000.0,
                         rope_scaling={"mrope_section": [8, 4, 4], "rope_type": "default", "type": "default"},
                         rms_norm_eps=1e-6, tie_word_embeddings=False, use_sliding_window=False),
        vision_config=dict(depth=3, hidden_size=96, intermediate_size=256, num_heads=4, patch_size=14,
                           spatial_merge_size=2, temporal_patch_size=2, window_size=112, fullatt_block_indexes=[2],
                           out_hidden_size=128, tokens_per_second=25),
        audio_config=dict(encoder_layers=2, d_model=128, encoder_attention_heads=4, encoder_ffn_dim=256,
                          num_mel_bins=128, output_dim=128, n_window=100, max_source_positions=1500),
        audio_token_index=ids["<|AUDIO|>"], image_token_index=ids["<|IMAGE|>"], video_token_index=ids["<|VIDEO|>"],
        audio_start_token_id=ids["<|audio_bos|>"], audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=ids["<|vision_bos|>"], vision_end_token_id=ids["<|vision_eos|>"],
        pad_token_id=ids["<|endoftext|>"], position_id_per_seconds=25, seconds_per_chunk=2, initializer_range=0.02)


def write_folder(out: Path, tok: Tokenizer, cfg):
    """Everything of a checkpoint but its weights."""
    out.mkdir(parents=True, exist_ok=True)
    ids = {t: tok.token_to_id(t) for t in SPECIAL}
    # Defaults of the library's version are left out; what the model is, is what differs from them and its sizes.
    full = {"architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", "enable_audio_output": False,
            "thinker_config": cfg.to_dict()}

    def put(name, value):
        (out / name).write_text(json.dumps(value, indent=1, default=str) + "\n")

    put("config.json", full)
    put("generation_config.json", {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
                                   "pad_token_id": ids["<|endoftext|>"], "do_sample": False})
    put("preprocessor_config.json", {
        "processor_class": "Qwen2_5OmniProcessor", "image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 784,
        "max_pixels": MAX_PIXELS, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "sampling_rate": 16000,
        "hop_length": 160, "n_fft": 400, "chunk_length": 300, "n_samples": 4800000, "nb_max_frames": 30000,
        "padding_side": "right", "padding_value": 0.0, "dither": 0.0, "return_attention_mask": True})
    added = {str(i): {"content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                      "special": True} for t, i in ids.items()}
    # By these names the processor of transformers finds them.
    named = {"image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
             "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
             "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
    put("tokenizer_config.json", {
        "tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "add_prefix_space": False,
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
        **named, "extra_special_tokens": named, "model_max_length": 8192, "chat_template": TEMPLATE})
    tok.save(str(out / "tokenizer.json"))
    put("outro.json", {"format": 1, "system": "", "profile": "option", "media": {"max_pixels": MAX_PIXELS}})


def load_config(folder: Path):
    return Qwen2_5OmniThinkerConfig(**json.loads((folder / "config.json").read_text())["thinker_config"])


def build(cfg, attention="sdpa"):
    return omni.Qwen2_5OmniThinkerForConditionalGeneration._from_config(cfg, attn_implementation=attention).float()


def heads(x, n):
    return x.unflatten(-1, (n, -1)).transpose(-3, -2)


def see(visual, pixels, grid):
    """Patches [B, t * h * w, columns] to tokens [B, t * h * w / 4, hidden]. Frames of at most one window."""
    batch, cfg = pixels.shape[0], visual.config
    t, h, w = grid
    w0 = visual.patch_embed.proj.weight
    x = (pixels @ w0.flatten(1).T).reshape(batch * t, h * w, -1)
    angles = visual.rot_pos_emb(torch.tensor([[1, h, w]]))
    cos, sin = (f(torch.cat((angles, angles), -1))[None, None] for f in (torch.cos, torch.sin))

    def turn(q):
        a, b = q.chunk(2, -1)
        return q * cos + torch.cat((-b, a), -1) * sin

    for block in visual.blocks:
        y, a = block.norm1(x), block.attn
        q, k, v = (heads(f(y), cfg.num_heads) for f in (a.q, a.k, a.v))
        o = F.scaled_dot_product_attention(turn(q), turn(k), v)
        x = x + a.proj(o.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    x = visual.merger(x.reshape(batch * t * h * w, -1))
    return x.reshape(batch, t * h * w // 4, -1)


def listen(tower, mel):
    """Mel [B, bins, frames] to tokens."""
    batch, frames = mel.shape[0], mel.shape[2]
    chunk, n = tower.n_window * 2, tower.config.encoder_attention_heads
    whole = frames // chunk * chunk
    parts = []
    if whole:
        parts.append(mel[..., :whole].unflatten(2, (-1, chunk)).transpose(1, 2).flatten(0, 1))
    if whole < frames:
        parts.append(mel[..., whole:])
    done = []
    for x in parts:
        x = F.gelu(tower.conv1(x))
        x = F.gelu(tower.conv2(x)).transpose(1, 2)
        x = x + tower.positional_embedding.positional_embedding[: x.shape[1]]
        for layer in tower.layers:
            a, y = layer.self_attn, layer.self_attn_layer_norm(x)
            q, k, v = (heads(f(y), n) for f in (a.q_proj, a.k_proj, a.v_proj))
            o = F.scaled_dot_product_attention(q, k, v)
            x = x + a.out_proj(o.transpose(1, 2).flatten(2))
            x = x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))
        done.append(x.reshape(batch, -1, x.shape[-1]))
    x = torch.cat(done, 1)
    x = tower.avg_pooler(x.transpose(1, 2)).transpose(1, 2)
    return tower.proj(tower.ln_post(x))


class Probes(torch.nn.Module):
    """Linear readers of activations, for training alone. Of the towers' tokens: what shape and colour a patch shows, what
    sound a 40 ms token is part of. Of the decoder: which object appeared in the second of a sound token (after layer 2),
    at the last token before the question, what appeared and sounded in every second (after layer 4), and, at a question's
    mark, the seconds in which what it names is there (after layers 5 and 6) and the words of its right option (after
    layer 6). Their losses teach seeing, hearing, binding by time and looking up long before the answers alone would."""

    SHAPES = ["circle", "square", "triangle", "star"]
    COLOURS = ["red", "green", "blue", "yellow", "white", "purple"]
    SOUNDS = ["beep", "knock", "chirp", "hiss"]

    def __init__(self, hidden):
        super().__init__()
        self.see, self.hear = torch.nn.Linear(hidden, 11), torch.nn.Linear(hidden, 5)
        self.bind, self.sum = torch.nn.Linear(hidden, 11), torch.nn.Linear(hidden, 4 * 16)
        self.means, self.where = torch.nn.Linear(hidden, 22), torch.nn.Linear(hidden, 4)

    @classmethod
    def labels(cls, clip, side=168, fps=24):
        """[video tokens, 11], [audio tokens, 5], [audio tokens, 11] and [4 * 16], of 0 and 1."""
        t, h, w = clip["grid"]
        h, w, scene = h // 2, w // 2, clip["scene"]
        seen = torch.zeros(t, h, w, 11)
        for i, number in enumerate(clip["frames"]):
            time = number / fps
            for o in scene["objects"]:
                deed = o["deed"] if isinstance(o["deed"], dict) else {}
                if time < o["enters"] or time >= deed.get("leaves", {}).get("at", 99):
                    continue
                change = deed.get("changes", {"at": 99})
                colour = change["to"] if time >= change["at"] else o["colour"]
                way = min(1.0, (time - o["enters"]) / 0.8)
                x, y = (a + (b - a) * way for a, b in zip(*o["path"]))
                cell = seen[i // 2, min(h - 1, int(y * h / side)), min(w - 1, int(x * w / side))]
                cell[cls.SHAPES.index(o["shape"])] = cell[4 + cls.COLOURS.index(colour)] = 1
                cell[10] = max(cell[10], float(o["big"]))
        tokens = clip["mel_frames"] // 4
        heard = torch.zeros(tokens, 5)
        for n in scene["noises"] if tokens else []:
            first, last = int(n["at"] * 25), min(tokens, int((n["at"] + n["seconds"]) * 25) + 1)
            heard[first:last, cls.SOUNDS.index(n["sound"])] = 1
            heard[first:last, 4] = float(n["loud"])
        slots = torch.zeros(4, 16)
        for o in scene["objects"]:
            row = slots[o["slot"]]
            row[cls.SHAPES.index(o["shape"])] = row[4 + cls.COLOURS.index(o["colour"])] = 1
            row[10] = float(o["big"])
        bound = slots[(torch.arange(tokens) / 25).long().clamp(max=3), :11]
        for n in scene["noises"]:
            slots[n["slot"], 11 + cls.SOUNDS.index(n["sound"])] = 1
            slots[n["slot"], 15] = float(n["loud"])
        return seen.flatten(0, 2), heard, bound, slots.flatten()

    def towers(self, seen, heard, labels):
        loss = F.binary_cross_entropy_with_logits(self.see(seen), labels[0])
        if heard is not None:
            loss = loss + F.binary_cross_entropy_with_logits(self.hear(heard), labels[1])
        return loss

    def decoder(self, early, late, audio, labels):
        """`early`, `late` [B, P, hidden] after layers 2 and 4, `audio` which rows are sound tokens."""
        loss = F.binary_cross_entropy_with_logits(self.sum(late[:, -1]), labels[3])
        if audio.any():
            loss = loss + F.binary_cross_entropy_with_logits(self.bind(early[:, audio]), labels[2])
        return loss

    @classmethod
    def meaning(cls, question, scene):
        """[22]: the words of the right option (18), and the seconds in which what the question names is there (4)."""
        words, text = cls.COLOURS + cls.SHAPES + cls.SOUNDS + ["1", "2", "3", "4"], question["prompt"].split("\n")[0]
        text = text.replace("?", " ? ")
        out = torch.zeros(22)
        for word in question["answer"].split() if "\nA. " in question["prompt"] else []:
            if word in words:
                out[words.index(word)] = 1
        colour = [c for c in cls.COLOURS if f" {c} " in text]
        shape = [s for s in cls.SHAPES if f" {s} " in text]
        sound = [s for s in cls.SOUNDS if f" {s} " in text]
        if "making" in text:
            sound, shape = [cls.SOUNDS[cls.SHAPES.index(s)] for s in shape], []
        slots = [n["slot"] for n in scene["noises"] if n["sound"] in sound]
        if colour or shape:
            slots += [o["slot"] for o in scene["objects"]
                      if o["shape"] in (shape or [o["shape"]]) and o["colour"] in (colour or [o["colour"]])]
        for slot in slots:
            out[18 + slot] = 1
        return out

    def questions(self, early, asked, groups):
        """`early` and `asked` after layers 5 and 6; a group's fourth element is (places [N], meanings [N, 22])."""
        pick = lambda x: torch.cat([rows[torch.arange(len(g[3][0])), g[3][0]] for rows, g in zip(x, groups)])  # noqa: E731
        known = torch.cat([g[3][0] for g in groups]) > 0
        wanted = torch.cat([g[3][1] for g in groups])[known]
        loss = F.binary_cross_entropy_with_logits(self.means(pick(asked)[known]), wanted)
        return loss + 0.5 * F.binary_cross_entropy_with_logits(self.where(pick(early)[known]), wanted[:, 18:])


class Packed:
    """The decoder over prefixes [B, P] and groups of questions, each about one of the prefixes."""

    def __init__(self, thinker):
        self.thinker, self.text = thinker, thinker.model
        c = thinker.config.text_config
        self.q_heads, self.kv_heads, self.sections = c.num_attention_heads, c.num_key_value_heads, c.rope_scaling["mrope_section"]
        dim = c.hidden_size // c.num_attention_heads
        self.inv = 1.0 / (c.rope_theta ** (torch.arange(0, dim, 2).float() / dim))

    def rope(self, positions):
        """Positions [3, n] to cos and sin [n, head_dim]."""
        angles = positions.float()[..., None] * self.inv
        parts = angles.split(self.sections, dim=-1)
        mixed = torch.cat([p[i % 3] for i, p in enumerate(parts)], -1)
        mixed = torch.cat((mixed, mixed), -1)
        return mixed.cos(), mixed.sin()

    def forward(self, prefix, positions, groups):
        """`self.early` and `self.late` are the prefix after layers 2 and 4, `self.cued` and
        `self.asked` the questions after layers 5 and 6. `prefix` [B, P, hidden] with `positions` [3, P]; `groups` of (ids [N, L], owner [N]). Logits [N, L, vocab] of
        each group. Questions go on where the prefix ends, at the next positions."""
        batch, length = prefix.shape[:2]
        start = int(positions.max()) + 1
        turns, states, masks = [self.rope(positions)], [prefix], []
        for ids, _ in groups:
            n = ids.shape[1]
            turns.append(self.rope((start + torch.arange(n)).expand(3, n)))
            states.append(self.text.embed_tokens(ids))
            masks.append(torch.ones(n, length + n, dtype=torch.bool).tril(length))
        group = self.q_heads // self.kv_heads

        def turn(x, cs):
            a, b = x.chunk(2, -1)
            return x * cs[0] + torch.cat((-b, a), -1) * cs[1]

        for number, layer in enumerate(self.text.layers):
            last = number + 1 == len(self.text.layers)
            sizes = [s.shape[0] * s.shape[1] for s in states]
            rows = torch.cat([s.flatten(0, 1) for s in states])
            y, a = layer.input_layernorm(rows), layer.self_attn
            outs = []
            qkv = [f(y).split(sizes) for f in (a.q_proj, a.k_proj, a.v_proj)]
            for i, (state, cs) in enumerate(zip(states, turns)):
                shape = state.shape[:2]
                q = turn(heads(qkv[0][i].unflatten(0, shape), self.q_heads), cs)
                k = turn(heads(qkv[1][i].unflatten(0, shape), self.kv_heads), cs)
                v = heads(qkv[2][i].unflatten(0, shape), self.kv_heads)
                if i == 0:
                    first = (k, v)
                    mask = None
                else:
                    owner = groups[i - 1][1]
                    k, v = (torch.cat((f[owner], own), 2) for f, own in zip(first, (k, v)))
                    mask = masks[i - 1]
                k, v = (x.repeat_interleave(group, 1) for x in (k, v))
                o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
                outs.append(o.transpose(1, 2).flatten(2).flatten(0, 1))
            if last:
                # Nothing reads the prefix after its last keys and values.
                rows, outs, states, sizes = rows[sizes[0]:], outs[1:], states[1:], sizes[1:]
            rows = rows + a.o_proj(torch.cat(outs))
            rows = rows + layer.mlp(layer.post_attention_layernorm(rows))
            states = [r.unflatten(0, s.shape[:2]) for r, s in zip(rows.split(sizes), states)]
            if number == 1:
                self.early = states[0]
            if number == 3:
                self.late = states[0]
            if number == 4:
                self.cued = states[1:]
            if number == 5:
                self.asked = states[1:]
        logits = self.thinker.lm_head(self.text.norm(torch.cat([s.flatten(0, 1) for s in states])))
        return [r.unflatten(0, s.shape[:2]) for r, s in zip(logits.split(sizes), states)]
