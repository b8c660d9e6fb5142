#!/usr/bin/env python3
"""Compares chaski with llama.cpp on the same weights and prints a Markdown table.

  parity.py --llama 'COMMAND' --text FILE F16.gguf [F16.gguf ...] [--chunks 20] [--work DIR] [-t N]

COMMAND runs a tool of llama.cpp by name, e.g. a wrapper script, or `env` when the tools are on PATH.
For each GGUF file (F16 weights) it
  1. converts it with chaski to f16 and q8,
  2. measures perplexity over CHUNKS chunks of 512 tokens with both (llama-perplexity, chaski eval),
  3. has both score 20 texts of 128 tokens, the last 64 positions of each, with the right token
     forced at every step, and compares the likeliest tokens.
The bounds that docs/parity.md states are checked: exit status 1 if one is missed.
Needs nothing but Python's standard library.
"""
import argparse
import json
import re
import shlex
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

TEXTS, POSITIONS = 20, 64


def run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        sys.exit(f"failed ({done.returncode}): {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def ppl(text: str) -> tuple[float, float]:
    found = re.search(r"PPL = ([0-9.]+) \+/- ([0-9.]+)", text)
    if not found:
        sys.exit(f"no perplexity in:\n{text[-2000:]}")
    return float(found[1]), float(found[2])


def logits_file(path: Path):
    """llama-perplexity's base file: the tokens of each chunk and log-probabilities per position."""
    data = path.read_bytes()
    if data[:8] != b"_logits_":
        sys.exit(f"{path} is no logits file")
    n_ctx, n_vocab, n_chunk = struct.unpack_from("<iii", data, 8)
    tokens = struct.unpack_from(f"<{n_ctx * n_chunk}i", data, 20)
    at, scored = 20 + 4 * len(tokens), n_ctx - 1 - n_ctx // 2
    for chunk in range(n_chunk):
        rows = []
        for _ in range(scored):
            scale, low = struct.unpack_from("<ff", data, at)
            codes = memoryview(data)[at + 8:at + 8 + 2 * n_vocab].cast("H")
            best = sorted(range(n_vocab), key=codes.__getitem__)[-2:]
            rows.append([(t, scale * codes[t] + low) for t in reversed(best)])
            at += row_bytes(n_vocab)
        yield list(tokens[chunk * n_ctx:(chunk + 1) * n_ctx]), rows


def row_bytes(n_vocab: int) -> int:
    return 2 * (2 * ((n_vocab + 1) // 2) + 4)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("gguf", nargs="+", type=Path)
    p.add_argument("--llama", required=True)
    p.add_argument("--chaski", default="target/release/chaski")
    p.add_argument("--score", default="target/release/examples/score_tokens")
    p.add_argument("--text", required=True)
    p.add_argument("--chunks", type=int, default=20)
    p.add_argument("--work", type=Path)
    p.add_argument("-t", "--threads", default="2")
    args = p.parse_args()
    llama, failed = shlex.split(args.llama), False
    work = args.work or Path(tempfile.mkdtemp(prefix="parity-"))
    work.mkdir(parents=True, exist_ok=True)
    print("| model | weights | llama.cpp PPL | chaski PPL | difference | same top token | where not: llama.cpp's two best at most |")
    print("|---|---|---|---|---|---|---|")
    for gguf in args.gguf:
        common = ["-m", gguf, "-f", args.text, "-t", args.threads]
        theirs, error = ppl(run(*llama, "llama-perplexity", *common, "--chunks", args.chunks))
        base = work / f"{gguf.stem}.logits"
        run(*llama, "llama-perplexity", *common, "-c", 2 * POSITIONS, "--chunks", TEXTS,
            "--kl-divergence-base", base)
        for quant, bound in (("f16", 0.002), ("q8", 0.01)):
            ours_file = work / f"{gguf.stem}-{quant}.chaski"
            run(args.chaski, "convert", gguf, "--quant", quant, "-o", ours_file, "--force", "-q")
            ours, _ = ppl(run(args.chaski, "eval", ours_file, "--text", args.text, "--chunks", args.chunks,
                              "-t", args.threads, "-q"))
            difference = ours / theirs - 1
            top, gap = "", ""
            if quant == "f16":
                same, worst, n = same_top(args.score, ours_file, base)
                top, gap = f"{100 * same / n:.2f} % of {n}", f"{worst:.4f}"
                failed |= same < 0.99 * n or worst > 0.1
            failed |= abs(difference) > bound
            print(f"| {gguf.stem} | {quant} | {theirs:.4f} ± {error:.4f} | {ours:.4f} | {100 * difference:+.3f} % | {top} | {gap} |",
                  flush=True)
    print("a bound is missed" if failed else "all bounds are met")
    return int(failed)


def same_top(score: str, model: Path, base: Path) -> tuple[int, float, int]:
    texts = list(logits_file(base))
    lines = "".join(json.dumps(tokens) + "\n" for tokens, _ in texts)
    done = subprocess.run([score, model], input=lines, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{score} failed:\n{done.stderr}")
    same, worst, n = 0, 0.0, 0
    for (tokens, rows), line in zip(texts, done.stdout.splitlines(), strict=True):
        ours = json.loads(line)[len(tokens) // 2:]
        for want, got in zip(rows, ours):
            n += 1
            if got == want[0][0]:
                same += 1
            else:
                worst = max(worst, want[0][1] - want[1][1])
    return same, worst, n


if __name__ == "__main__":
    sys.exit(main())
