"""Compares media prepared by `outro prepare` with the Python pipeline of the reference.

    pip install torch torchvision transformers==4.52.3 qwen-omni-utils==0.0.8 decord librosa safetensors
    outro prepare --model DIR --video FILE "Q" --out prepared.safetensors
    FORCE_QWENVL_VIDEO_READER=decord python tools/compare_media.py FILE prepared.safetensors

Prints the mean and largest difference of the patches (normalised scale) and of the log-mel.
"""
import sys

import numpy as np
from qwen_omni_utils import process_mm_info
from safetensors.numpy import load_file
from transformers import Qwen2VLImageProcessor, WhisperFeatureExtractor


def reference(path):
    talk = [{"role": "user", "content": [{"type": "video", "video": path}]}]
    try:
        sounds, _, videos = process_mm_info(talk, use_audio_in_video=True)
    except AssertionError:  # a silent video
        sounds, _, videos = process_mm_info(talk, use_audio_in_video=False)
    pixels = Qwen2VLImageProcessor(min_pixels=3136, max_pixels=12845056)(images=None, videos=[videos[0]], return_tensors="np")
    out = {"pixel_values_videos": pixels["pixel_values_videos"]}
    if sounds:
        extractor = WhisperFeatureExtractor(
            feature_size=128, sampling_rate=16000, hop_length=160, n_fft=400, chunk_length=300, return_attention_mask=True
        )
        mel = extractor(sounds[0], sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="np")
        out["input_features"] = mel["input_features"][:, :, : int(mel["attention_mask"].sum())]
    return out


def main():
    path, prepared = sys.argv[1:]
    ours = load_file(prepared)
    for key, theirs in reference(path).items():
        if key not in ours or ours[key].shape != theirs.shape:
            sys.exit(f"{key}: ours {getattr(ours.get(key), 'shape', None)}, theirs {theirs.shape}")
        difference = np.abs(ours[key] - theirs)
        print(f"{key}: mean {difference.mean():.5f}, largest {difference.max():.4f}")


main()
