"""The tiny models: sizes, planted massive activations, prompts."""

import json

import torch
import transformers as tf

VOCAB, HIDDEN, LAYERS = 300, 32, 14
EARLY, LATE = 1, 5  # a massive activation from the embedding on; one after layer 3
DECODER = dict(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
               head_dim=16, intermediate_size=48, max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=False)
EXPERTS = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[3, 6])
ROPE = {"rope_theta": 1e6, "rope_type": "default"}
LATE_LAYER = 3  # dense everywhere


def fill(model, decoder, seed, small=()):
    """Random weights, exact in bf16; norms near 1, a small residual stream so that the median stays low, and the two tokens."""
    g = torch.Generator().manual_seed(seed)
    noise = 0.02
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            x = torch.randn(p.shape, generator=g)
            if "norm" in name or "ln_" in name:
                x = 0.1 * x + (1 if name.endswith("weight") else 0)
            elif p.dim() == 1:
                x = 0.2 * x
            elif "pos_embed" not in name:
                # Experts are stored together, [experts, out, in].
                x = x * (p.shape[-1] if "experts" in name else p[0].numel()) ** -0.5
            p.copy_(x)
        for layer in decoder.layers:
            layer.self_attn.o_proj.weight.mul_(noise * 10)
            (layer.mlp.experts.down_proj if hasattr(layer.mlp, "experts") else layer.mlp.down_proj.weight).mul_(noise * 10)
        for linear in small:
            linear.weight.mul_(noise * 3)
            linear.bias.mul_(noise)
        e = decoder.embed_tokens.weight
        e.mul_(noise)
        e[EARLY, 3], e[EARLY, 17], e[LATE, 9] = 900.0, -300.0, 5.0
        late = decoder.layers[LATE_LAYER].mlp
        late.gate_proj.weight[0].zero_(), late.up_proj.weight[0].zero_(), late.down_proj.weight[:, 0].zero_()
        late.gate_proj.weight[0, 9] = late.up_proj.weight[0, 9] = 1.0 / decoder.layers[LATE_LAYER].post_attention_layernorm.weight[9]
        late.down_proj.weight[21, 0] = 20.0
        for p in model.parameters():
            p.copy_(p.bfloat16().float())
    return model.eval().float()


def words(seed, n):
    g = torch.Generator().manual_seed(seed)
    return (10 + torch.randint(0, 250, (n,), generator=g)).tolist()


def around(seed, body):
    """A prompt with the media in `body`: sink at the start, one late in the text, or one of them, or none."""
    start = EARLY if seed != 3 else 20
    late = [LATE] if seed != 4 else [21]
    ids = [start] + words(100 + seed, 4 + seed) + body + words(200 + seed, 5) + late + words(300 + seed, 7)
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}


class Text:
    kinds = ("text",)
    group = 2

    def __init__(self, make, config, seed):
        self.make, self.config, self.seed = make, config, seed

    def model(self):
        model = self.make._from_config(self.config(), attn_implementation="eager")
        model.multimodal = False
        return fill(model, self.decoder(model), self.seed)

    def decoder(self, model):
        return model.model

    def save(self, root):
        self.model().save_pretrained(root)
        (root / "generation_config.json").unlink(missing_ok=True)

    def prompt(self, kind, i):
        return around(i, words(400 + i, 3 * i))

    def positions(self, model, kw):
        return torch.arange(kw["input_ids"].shape[1]).expand(3, -1)

    def embeds(self, model, kw):
        return {}

    def more(self, root):
        pass


ALL = {
    "qwen3": Text(tf.Qwen3ForCausalLM, lambda: tf.Qwen3Config(**DECODER, rope_parameters=ROPE), 11),
    "qwen3-moe": Text(tf.Qwen3MoeForCausalLM, lambda: tf.Qwen3MoeConfig(**DECODER, **EXPERTS, rope_parameters=ROPE), 12),
}
