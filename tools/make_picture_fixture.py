#!/usr/bin/env python3
"""Writes fixtures/pictures: small pictures in the forms that people have, and what Pillow makes of them.

    python3 tools/make_picture_fixture.py

`NAME` is a file; in pillow.safetensors `NAME` is its RGB after `ImageOps.exif_transpose`, `NAME.stored` before it where that
differs. Transparent parts of RGBA are put on white, as qwen-vl-utils does; of grey of 16 bits it is the upper byte, where Pillow's
own conversion cuts off at 255. Files that Pillow refuses are in `refused.json`.
"""
import io
import json
import pathlib
import shutil
import struct

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "pictures"
W, H = 40, 28


def picture(seed: int, channels: int = 3) -> np.ndarray:
    """Smooth gradients with edges and a little noise: what decoders disagree on."""
    y, x = np.mgrid[0:H, 0:W]
    rng = np.random.default_rng(seed)
    planes = [(np.sin(x / (3 + c) + seed) + np.cos(y / (2 + c))) * 55 + 128 for c in range(channels)]
    a = np.stack(planes, -1) + rng.normal(0, 3, (H, W, channels))
    a[4:12, 6:20] = [250, 20, 30, 200][:channels]
    a[15:24, 22:36] = [10, 60, 240, 90][:channels]
    return np.clip(a, 0, 255).astype(np.uint8)


def exif(orientation: int) -> bytes:
    e = Image.Exif()
    e[0x0112] = orientation
    return e.tobytes()


def loaded(data: bytes, turn: bool) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.load()
    if turn:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.split()[3])
        image = white
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    files: dict[str, bytes] = {}

    def save(name: str, image: Image.Image, **options) -> None:
        out = io.BytesIO()
        image.save(out, **options)
        files[name] = out.getvalue()

    rgb, rgba = Image.fromarray(picture(1)), Image.fromarray(picture(2, 4), "RGBA")
    grey = Image.fromarray(picture(3, 1)[..., 0])
    for o in range(1, 9):
        save(f"exif{o}.jpg", rgb, format="JPEG", quality=92, subsampling=0, exif=exif(o))
        save(f"exif{o}.png", rgb, format="PNG", exif=exif(o))
        save(f"exif{o}.webp", rgb, format="WEBP", lossless=True, exif=exif(o))
    save("exif6_alpha.png", rgba, format="PNG", exif=exif(6))
    for name, subsampling in [("444", 0), ("422", 1), ("420", 2)]:
        save(f"jpeg_{name}.jpg", rgb, format="JPEG", quality=85, subsampling=subsampling)
    save("progressive.jpg", rgb, format="JPEG", quality=85, subsampling=0, progressive=True)
    save("grey.jpg", grey, format="JPEG", quality=85)
    save("cmyk.jpg", rgb.convert("CMYK"), format="JPEG", quality=92, subsampling=0)
    save("restart.jpg", rgb, format="JPEG", quality=85, subsampling=0, restart_marker_rows=1)
    save("rgb.png", rgb, format="PNG")
    save("rgba.png", rgba, format="PNG")
    save("grey.png", grey, format="PNG")
    save("bits1.png", grey.convert("1"), format="PNG")
    save("palette.png", rgb.quantize(20), format="PNG")
    save("lossless.webp", rgb, format="WEBP", lossless=True)
    save("lossy.webp", rgb, format="WEBP", quality=70)
    save("alpha.webp", rgba, format="WEBP", lossless=True)
    moving = [Image.fromarray(picture(s)) for s in (4, 5, 6)]
    save("moving.gif", moving[0].quantize(64), format="GIF", save_all=True,
         append_images=[m.quantize(64) for m in moving[1:]], duration=80)
    save("moving.webp", moving[0], format="WEBP", save_all=True, append_images=moving[1:], lossless=True, duration=80)
    save("moving.png", moving[0], format="PNG", save_all=True, append_images=moving[1:], duration=80)
    save("profile.png", rgb, format="PNG", icc_profile=b"not a profile at all")
    grey16 = (picture(7, 1)[..., 0].astype(np.uint16) << 8) + 77
    save("grey16.png", Image.fromarray(grey16), format="PNG")
    # Pillow writes no RGB of 16 bits.
    import zlib

    wide = (picture(8).astype(np.uint16) << 8) + 200
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    files["rgb16.png"] = b"\x89PNG\r\n\x1a\n" + b"".join([
        chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])

    refused = []
    for name, cuts in [("jpeg_420.jpg", (1, 2, 300)), ("progressive.jpg", (2, 400)), ("rgb.png", (400,)),
                       ("palette.png", (200,)), ("moving.gif", (1000, 2000)), ("lossless.webp", (40, 300)), ("lossy.webp", (60,))]:
        stem, ending = name.split(".")
        for n in cuts:
            files[f"cut_{stem}_{n}.{ending}"] = files[name][:-n]
    files["garbage_after.jpg"] = files["jpeg_444.jpg"] + b"and more"

    values = {}
    for name, data in files.items():
        (OUT / name).write_bytes(data)
        try:
            upright, stored = loaded(data, True), loaded(data, False)
        except Exception as e:  # what Pillow refuses
            refused.append(name)
            print(f"{name}: {e}")
            continue
        values[name] = upright
        if upright.shape != stored.shape or (upright != stored).any():
            values[f"{name}.stored"] = stored
    save_file(values, OUT / "pillow.safetensors")
    (OUT / "refused.json").write_text(json.dumps(refused, indent=1) + "\n")
    print(f"{len(files)} files, {sum(map(len, files.values()))} bytes, {len(refused)} refused")


if __name__ == "__main__":
    main()
