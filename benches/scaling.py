#!/usr/bin/env python3
"""How `sepo` scales: sequences of 128, 512 and 2,048 tokens, 1 and 2 threads; scoring in every precision, and training.

    python3 benches/scaling.py --model DIR [--tokens 16384] [--sepo PROGRAM]

DIR is a checkpoint stored in bf16. Rows are random ids: half a sequence is prompt, and both responses are the other half. Needs
pyarrow and numpy, and `cargo build --release`. Writes benches/SCALING.md.

Operations are those of the products (src/model/cost.rs). Where a longer sequence runs at no fewer GFLOP/s, its tokens take
longer by what attention asks for, and by nothing else. The peak is that of one product in the layers' width, as `sepo plan` measures it.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
LENGTHS = (128, 512, 2048)
PIPELINE = """
workdir: {out}
precision: {precision}
models: {{ base: {{ path: "{model}" }} }}
stages:
  tokens: {{ read: {{ from: "{rows}", format: tokens }} }}
  work: {stage}
"""
SCORE = "{ score: { input: tokens, reference: base } }"
TRAIN = """
    train: {{ input: tokens, model: base, objective: {{ simpo: {{}} }}, batch_size: {batch}, max_steps: 2, learning_rate: 1.0e-6, memory: {memory} }}"""


def rows(path, length, tokens):
    """Pairs of random ids, of `tokens` tokens in all."""
    dice = np.random.default_rng(length)
    count, half = max(2, tokens * 2 // (3 * length)), length // 2
    lists = lambda: pa.array([dice.integers(100, 40000, half, dtype=np.int32) for _ in range(count)])
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    pq.write_table(pa.table({name: lists() for name in names}), path)
    return count


def measure(a, folder, name, threads, **values):
    """Tokens a second, GFLOP/s and the GFLOP/s of one product, of stage `work`."""
    file = folder / f"{name}.yaml"
    file.write_text(PIPELINE.format(out=folder / name, model=a.model, **values))
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    command = lambda *words: subprocess.run([a.sepo, *words], env=env, check=True, capture_output=True, text=True).stdout
    plan = command("plan", file)
    peak = float(re.search(r"products at (\d+) GFLOP/s", plan).group(1))
    stage = json.loads(command("run", file, "--fresh", "--json"))["stages"]["work"]
    metrics, seconds = stage["metrics"], stage["seconds"]
    print(f"{name}: {metrics['tokens'] / seconds:.0f} tokens/s, {metrics['gflop'] / seconds:.0f} of {peak:.0f} GFLOP/s", file=sys.stderr)
    return metrics["tokens"] / seconds, metrics["gflop"] / seconds, peak, metrics["gflop"] / metrics["tokens"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=16384)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--sepo", default=target / "release" / "sepo")
    a = parser.parse_args()
    out = ["# How it scales", "", "One model, one pass over the same random rows each; `benches/scaling.py` is the program and says what is counted.", ""]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        works = {f"score, {precision}": (precision, SCORE) for precision in ("f32", "bf16x2", "bf16")}
        works |= {f"train, memory {memory}": ("f32", memory) for memory in ("normal", "low")}
        got = {}
        for length in LENGTHS:
            data = folder / f"{length}.parquet"
            count = rows(data, length, a.tokens)
            for work, (precision, stage) in works.items():
                if work.startswith("train"):
                    stage = TRAIN.format(memory=stage, batch=max(1, count // 4))
                for threads in (1, 2):
                    # Training is measured on two threads alone; one takes twice as long and says nothing new.
                    if threads == 2 or work.startswith("score"):
                        name = f"{work}, {length}, {threads}".replace(", ", "-").replace(" ", "-")
                        got[work, length, threads] = measure(a, folder, name, threads, precision=precision, rows=data, stage=stage)
    out += ["| work | tokens of a sequence | MFLOP a token | tokens/s | GFLOP/s | share of a product's | 2 threads to 1 |", "|---|---|---|---|---|---|---|"]
    for work in works:
        for length in LENGTHS:
            speed, gflops, peak, cost = got[work, length, 2]
            single = got.get((work, length, 1))
            faster = f"{speed / single[0]:.2f}" if single else ""
            out.append(f"| {work} | {length} | {1000 * cost:.0f} | {speed:.0f} | {gflops:.0f} | {100 * gflops / peak:.0f} % | {faster} |")
    (ROOT / "benches" / "SCALING.md").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
