#!/usr/bin/env python3
"""lacuna's CPU attention beside PyTorch's `scaled_dot_product_attention`, in one run on the same cores.

    pip install torch numpy
    python benches/peers/sdpa.py [--tokens 8192] [--search-tokens 32768] [--rounds 5] [--threads N] [--json FILE]

Builds `peer_times` (the lacuna half) and times both in turn, A/B/A/B, so that a busy machine slows both alike. The best
time of each counts. Causal, head dim 128, 8 query heads, 2 KV heads. GFLOP/s are counted on computed blocks. Absolute
figures of a shared machine prove little; the ratios of one run are what counts.
"""

import argparse
import json
import os
import pathlib
import subprocess
import time

HEADS, HEADS_K, HEAD_DIM = 8, 2, 128
ROOT = pathlib.Path(__file__).resolve().parents[2]


class Lacuna:
    """A `peer_times` process: one call per line."""

    def __init__(self, what, dtype, tokens, env):
        command = ["cargo", "run", "--release", "--quiet", "--example", "peer_times", "--", what, dtype]
        command += [str(n) for n in (tokens, HEADS, HEADS_K, HEAD_DIM)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.about = json.loads(self.process.stdout.readline())

    def __call__(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def torch_call(dtype, tokens):
    """PyTorch's fused CPU kernel with GQA, or its closest form where this version lacks the option."""
    import torch

    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    q = torch.randn(1, HEADS, tokens, HEAD_DIM).to(dtype)
    k, v = (torch.randn(1, HEADS_K, tokens, HEAD_DIM).to(dtype) for _ in range(2))

    def call():
        start = time.perf_counter()
        with torch.no_grad():
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return (time.perf_counter() - start) * 1e3

    return call


def best_of(rounds, *calls):
    """The best time of each call, the calls taken in turn, after one warm-up each."""
    for call in calls:
        call()
    times = [[call() for call in calls] for _ in range(rounds)]
    return [min(column) for column in zip(*times)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--search-tokens", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=pathlib.Path, help="also write the rows to this file")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    env = dict(os.environ, RAYON_NUM_THREADS=str(args.threads))
    subprocess.run(["cargo", "build", "--release", "--quiet", "--example", "peer_times"], cwd=ROOT, check=True)

    dense_flop = lambda tokens: 2 * HEADS * tokens * tokens * HEAD_DIM
    rows = []

    def row(name, ms, flop=None, ratio="", **rest):
        rows.append({"name": name, "ms": round(ms, 2), "ratio": ratio, **rest})
        rate = f"{flop / ms / 1e6:8.0f}" if flop else " " * 8
        print(f"{name:<34}{ms:>11.1f}{rate}  {ratio}", flush=True)

    lacuna = Lacuna("dense", "f32", 256, env)
    print(f"torch {torch.__version__}, lacuna on {lacuna.about['isa']}, {args.threads} threads")
    lacuna.close()
    print(f"{'':<34}{'ms':>11}{'GFLOP/s':>8}")
    for dtype in ("bf16", "f32", "f16"):
        dense = Lacuna("dense", dtype, args.tokens, env)
        sparse = Lacuna("sparse:0.1", dtype, args.tokens, env)
        peer, ours, at_tenth = best_of(args.rounds, torch_call(dtype, args.tokens), dense, sparse)
        flop, density = dense_flop(args.tokens), sparse.about["density"]
        row(f"torch SDPA {dtype} {args.tokens}", peer, flop)
        row(f"lacuna dense {dtype} {args.tokens}", ours, flop, f"{peer / ours:.2f}x torch")
        per_block = at_tenth / density / ours
        note = f"{per_block:.2f}x dense per block, {peer / at_tenth:.1f}x torch"
        row(f"lacuna sparse {density:.1%} {dtype}", at_tenth, flop * density, note)
        dense.close()
        sparse.close()

    tokens = args.search_tokens
    calls = [Lacuna(what, "bf16", tokens, env) for what in ("dense", "flexprefill", "xattention:16", "xattention:8")]
    names = ("lacuna dense", "FlexPrefill search", "XAttention search, stride 16", "XAttention search, stride 8")
    times = best_of(max(2, args.rounds // 2), *calls)
    for name, ms, call in zip(names, times, calls):
        share = "" if call is calls[0] else f"{ms / times[0]:.1%} of dense (keeps {call.about['density']:.0%})"
        row(f"{name} {tokens}", ms, dense_flop(tokens) if call is calls[0] else None, share)
        call.close()

    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "threads": args.threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
