"""Times a GGUF file in llama.cpp through llama-cpp-python.

    python3 benches/peers/llama_peer.py model.gguf --prompt-tokens 512 --new-tokens 16

Prints one JSON object: seconds of prefill and of a decode step (median). Needs llama-cpp-python, best built from source
(`pip install llama-cpp-python --no-binary llama-cpp-python`), so that it uses this processor's instructions.
"""

import argparse
import json
import os
import time

import llama_cpp


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--prompt-tokens", type=int, default=512)
    p.add_argument("--new-tokens", type=int, default=16)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    args = p.parse_args()
    n = args.prompt_tokens
    llm = llama_cpp.Llama(args.model, n_ctx=n + args.new_tokens + 8, n_batch=max(n, 512), n_ubatch=512,
                          n_threads=args.threads, n_threads_batch=args.threads, flash_attn=True, verbose=False)
    llm.eval([1] * 8)
    llm.reset()
    since = time.perf_counter()
    llm.eval([5 + i % 1000 for i in range(n)])
    prefill = time.perf_counter() - since
    steps = []
    for i in range(args.new_tokens):
        since = time.perf_counter()
        llm.eval([5 + i])
        steps.append(time.perf_counter() - since)
    print(json.dumps({"llama_cpp_python": llama_cpp.__version__, "threads": args.threads,
                      "system": llama_cpp.llama_print_system_info().decode(), "prefill": prefill, "decode": sorted(steps)[len(steps) // 2]}))


if __name__ == "__main__":
    main()
