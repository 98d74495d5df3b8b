#!/usr/bin/env python3
"""Writes fixtures/quant/blocks.bin: blocks of random bits in every layout that OutRo reads, and what the Python package
`gguf` (0.19.0) makes of them. Needs numpy and gguf. Layout order as `QuantType::ALL`; 8 rows of 256 elements each."""
import pathlib
import numpy as np
from gguf import GGMLQuantizationType as T, GGML_QUANT_SIZES, dequantize

rng = np.random.default_rng(7)
# Where half-precision numbers stand in a block: random bits there would be infinities.
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
          T.Q2_K: [80, 82], T.Q3_K: [108], T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: []}
out = b""
for kind, halves in HALVES.items():
    length, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (8 * 256 // length, size), dtype=np.uint8)
    for at in halves:
        d = (rng.standard_normal(len(blocks)) * 0.01).astype(np.float16)
        blocks[:, at : at + 2] = d.view(np.uint8).reshape(-1, 2)
    if kind == T.MXFP4:
        # Powers of two that are neither 0 nor infinite; the smallest two are no normal numbers.
        blocks[:, 0] = np.concatenate([[0, 1, 2], rng.integers(90, 160, len(blocks) - 3)])
    wide = dequantize(blocks.reshape(8, -1), kind)
    assert wide.shape == (8, 256) and wide.dtype == np.float32 and np.isfinite(wide).all()
    out += blocks.tobytes() + wide.astype("<f4").tobytes()
path = pathlib.Path(__file__).resolve().parent.parent / "fixtures/quant/blocks.bin"
path.write_bytes(out)
print(path.name, len(out))
