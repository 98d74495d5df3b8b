"""Writes fixtures/qwen3-vl-moe-tiny: as qwen3_vl.py, with experts in all layers of the decoder but two. They are stored as in the published
checkpoints, `[experts, in, out]`, all of a layer together.

    OMP_NUM_THREADS=1 v/bin/python tools/families/qwen3_vl_moe.py
"""

import json
from pathlib import Path

import qwen3_vl as dense
import tiny
import torch
from method import attach
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

OUT = Path(__file__).parents[2] / "fixtures" / "qwen3-vl-moe-tiny"
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1, "mlp_only_layers": [1, 4]}


def model():
    config = Qwen3VLMoeConfig(
        text_config=dense.TEXT | EXPERTS, vision_config=dense.VISION, image_token_id=dense.IMAGE, video_token_id=dense.VIDEO,
        vision_start_token_id=dense.START, vision_end_token_id=dense.END, tie_word_embeddings=False,
    )  # fmt: skip
    made = Qwen3VLMoeForConditionalGeneration._from_config(config, attn_implementation="eager").eval().float()
    visual = made.model.visual
    last = [m.linear_fc2 for m in [visual.merger, *visual.deepstack_merger_list]]
    tiny.fill(made, 41, made.model.language_model, last)
    attach(made.model.language_model)
    return made


def checkpoint(made):
    tiny.checkpoint(made, OUT)
    config = json.loads((OUT / "config.json").read_text())
    text = config["text_config"]
    text |= dense.older(text.pop("rope_parameters"))
    (OUT / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    state = load_file(OUT / "model.safetensors")
    state = {k: v.mT.contiguous() if ".experts." in k else v for k, v in state.items()}
    save_file(state, OUT / "model.safetensors", metadata={"format": "pt"})


def main():
    torch.set_num_threads(1)
    dense.OUT = OUT
    dense.model, dense.checkpoint, dense.arithmetic = model, checkpoint, lambda: None
    dense.main()
    tiny.manifest(OUT, "tools/families/qwen3_vl_moe.py")


if __name__ == "__main__":
    main()
