#!/usr/bin/env python3
"""`lacuna generate` beside Hugging Face transformers: prefill and decode rates of one model, in one run.

    pip install torch transformers
    python benches/peers/transformers_generate.py [--model benches/configs/llama_1b] [--tokens 4k 32k] [--new-tokens 64]
        [--attn dense flexprefill] [--rounds 3] [--device auto] [--dtype bf16] [--compile] [--json FILE]

Both run the model of a config.json with random weights: transformers with PyTorch's `scaled_dot_product_attention`, lacuna
with `--load-format dummy`. Weights and prompts differ, which changes no dense rate; what a pattern keeps of random text says
nothing about text. Prefill is the whole prompt and the logits of its last token; decode is one token at a time, the
likeliest next, at the end of that prompt. Both sides take turns, A/B/A/B, and each of their runs is warmed up; the best of
each counts. Absolute figures of a shared machine prove little; the ratios of one run are what counts.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tokens(text):
    """16k is 16384, as on lacuna's command line."""
    return int(text[:-1]) * 1024 if text[-1] in "kK" else int(text)


def output_of(*command):
    """What a command prints, or None where there is none such."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


class Lacuna:
    """The `lacuna` program: one process per round, which runs the first pattern once more than asked to warm up."""

    def __init__(self, program, args):
        self.command = [str(program), "generate", "--model", str(args.model), "--load-format", "dummy"]
        self.command += ["--dtype", args.dtype, "--device", args.device, "--max-new-tokens", str(args.new_tokens)]
        self.command += ["--ignore-eos", "--json"]
        self.attn = args.attn
        self.env = dict(os.environ, RAYON_NUM_THREADS=str(args.threads))

    def __call__(self, length):
        """(prefill, decode) in tokens per second, by name of the row."""
        command = [*self.command, "--prompt-tokens", str(length)]
        for attn in [self.attn[0], *self.attn]:
            command += ["--attn", attn]
        done = subprocess.run(command, env=self.env, text=True, stdout=subprocess.PIPE)
        if done.returncode != 0:
            raise SystemExit(f"failed: {' '.join(command)}")
        answers = json.loads(done.stdout)["answers"][1:]
        rates = lambda answer: (answer["prefill_tokens_per_second"], answer["decode_tokens_per_second"])
        return {f"lacuna {attn}": rates(answer) for attn, answer in zip(self.attn, answers)}


class Transformers:
    """The same model in this process, weights in memory from the first round on."""

    def __init__(self, args):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        self.torch, self.args = torch, args
        dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[args.dtype]
        config = AutoConfig.from_pretrained(args.model)
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        with torch.device(args.device):
            self.model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
        torch.set_default_dtype(default)
        self.config = config
        # The prefill stays as it is; a step of one token is compiled to a CUDA graph.
        self.step = torch.compile(self.model, mode="reduce-overhead", fullgraph=True) if args.compile else self.model
        self.warm = set()

    def synchronize(self):
        if self.args.device != "cpu":
            self.torch.cuda.synchronize()

    def cache(self, length):
        from transformers import DynamicCache, StaticCache

        if self.args.compile:
            return StaticCache(config=self.config, max_cache_len=length + self.args.new_tokens)
        return DynamicCache(config=self.config)

    def run(self, length):
        """Seconds of the prefill and of each step after it."""
        torch, device = self.torch, self.args.device
        prompt = torch.randint(self.config.vocab_size, (1, length), device=device)
        cache = self.cache(length)
        self.synchronize()
        start = time.perf_counter()
        logits = self.model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token = logits[:, -1].argmax(-1, keepdim=True)
        token.tolist()
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for step in range(self.args.new_tokens - 1):
            position = torch.tensor([[length + step]], device=device)
            logits = self.step(token, past_key_values=cache, position_ids=position, use_cache=True).logits
            # The graph's own memory is written again by the next step.
            token = logits[:, -1].argmax(-1, keepdim=True).clone()
            # As a program that prints each token does.
            token.tolist()
        return prefill, (time.perf_counter() - start) / (self.args.new_tokens - 1)

    def __call__(self, length):
        with self.torch.no_grad():
            if length not in self.warm:
                self.run(length)
                self.warm.add(length)
            prefill, step = self.run(length)
        name = "transformers, compiled" if self.args.compile else "transformers"
        return {name: (length / prefill, 1 / step)}


def compare(sides, length, rounds):
    """The best (prefill, decode) of each row, the sides taken in turn."""
    best = {}
    for _ in range(rounds):
        for side in sides:
            for name, rates in side(length).items():
                best[name] = tuple(map(max, best.get(name, (0, 0)), rates))
    return best


def about(args, torch, transformers):
    """What the figures were measured with."""
    if args.device == "cpu":
        gpu, driver = None, None
    else:
        gpu = torch.cuda.get_device_name(args.device)
        driver = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")
    commit = output_of("git", "rev-parse", "HEAD")
    return {
        "gpu": gpu,
        "driver": driver,
        "cpu": platform.processor() or platform.machine(),
        "threads": args.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit and commit + ("-dirty" if output_of("git", "status", "--porcelain") else ""),
        "model": str(args.model),
        "dtype": args.dtype,
        "new_tokens": args.new_tokens,
        "rounds": args.rounds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "benches/configs/llama_1b", metavar="DIR")
    parser.add_argument("--tokens", type=tokens, nargs="+", default=[4096, 32768], help="lengths of the prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens to generate, at least 2")
    parser.add_argument("--attn", nargs="+", default=["dense"], metavar="PATTERN", help="of lacuna's prefill")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto", help="cuda, cuda:N or cpu; auto: cuda where there is one")
    parser.add_argument("--dtype", choices=["bf16", "f16", "f32"], default="bf16")
    parser.add_argument("--compile", action="store_true", help="compile transformers' decode step, with a static cache")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--lacuna", type=pathlib.Path, help="the program; unless given it is built")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the rows to this file")
    args = parser.parse_args()
    if args.new_tokens < 2:
        parser.error("--new-tokens must be at least 2: the first comes from the prefill")

    import torch
    import transformers

    torch.set_num_threads(args.threads)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    program = args.lacuna
    if program is None:
        build = ["cargo", "build", "--release", "--quiet", "--package", "lacuna-runner"]
        subprocess.run(build, cwd=ROOT, check=True)
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target"))
        program = ROOT / target / "release/lacuna"

    facts = about(args, torch, transformers)
    where = f"{facts['gpu']}, driver {facts['driver']}" if facts["gpu"] else f"{facts['cpu']}, {args.threads} threads"
    print(f"{args.model.name}, {args.dtype}: torch {torch.__version__}, transformers {transformers.__version__}; {where}")
    print(f"{'tokens/s':<42}{'prefill':>10}{'ratio':>8}{'decode':>10}{'ratio':>8}")
    # The peer first: its memory is taken before the other side looks how much there is.
    sides = [Transformers(args), Lacuna(program, args)]
    rows = []
    for length in args.tokens:
        best = compare(sides, length, args.rounds)
        peer = next(iter(best.values()))
        for name, rates in best.items():
            ratios = [rate / base for rate, base in zip(rates, peer)]
            row = {"name": name, "tokens": length, "prefill_tokens_per_second": rates[0]}
            row |= {"decode_tokens_per_second": rates[1], "prefill_ratio": ratios[0], "decode_ratio": ratios[1]}
            rows.append(row)
            cells = "".join(f"{rate:>10,.1f}{ratio:>7.2f}x" for rate, ratio in zip(rates, ratios))
            print(f"{f'{name}, {length}':<42}{cells}", flush=True)

    if args.json:
        args.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
