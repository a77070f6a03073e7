#!/usr/bin/env python3
"""`sepo` and PyTorch in turn on the same token ids: speed, memory, and how far rewards and masks are from an f64 run.

    python3 benches/peers/run.py --model DIR [--input ROWS] [--pairs 32] [--steps 8] [--rounds 3] [--threads 2]
        [--device cpu --torch-device cpu] [--batch-tokens 4096] [--batch 2] [--name RESULTS]

DIR is a Llama-architecture checkpoint stored in bf16 (its weights are exact in f32, so every program starts from the same numbers).
Needs torch, transformers, pyarrow and numpy, and `cargo build --release`. Writes benches/RESULTS.md and benches/speed.svg,
or what else the name says.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SIDES = ("chosen", "rejected")

PREPARE = """
workdir: {out}
device: {device}
models: {{ base: {{ path: "{model}" }} }}
stages:
  pairs: {{ read: {{ from: "{input}", limit: {pairs} }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base, max_length: 512 }} }}
  oracle:
    train: {{ input: tokens, model: base, objective: {{ dpo: {{}} }}, max_steps: 4, batch_size: 2, learning_rate: 1.0e-4,
              decay: constant, warmup: 0, shuffle_window: 0 }}
  scored: {{ score: {{ input: tokens, oracle: oracle, reference: base }} }}
  keyed: {{ select: {{ input: scored }} }}
  out: {{ write: {{ input: keyed, to: "{out}/scored" }} }}
"""
SCORE = """
workdir: {out}
device: {device}
precision: {precision}
models: {{ oracle: {{ path: "{oracle}" }}, base: {{ path: "{model}" }} }}
stages:
  tokens: {{ read: {{ from: "{tokens}", format: tokens }} }}
  scored: {{ score: {{ input: tokens, oracle: oracle, reference: base, batch_tokens: {batch_tokens} }} }}
  keyed: {{ select: {{ input: scored }} }}
  out: {{ write: {{ input: keyed, to: "{out}/scored" }} }}
"""
TRAIN = """
workdir: {out}
device: {device}
models: {{ base: {{ path: "{model}" }} }}
stages:
  tokens: {{ read: {{ from: "{tokens}", format: tokens }} }}
  policy:
    train: {{ input: tokens, model: base, objective: {objective}, max_steps: {steps}, batch_size: {batch}, learning_rate: 1.0e-5,
              decay: constant, warmup: 0, betas: [0.9, 0.95], shuffle_window: 0, log_every: 1 }}
"""
# As checkpoints are published, so that every precision starts from the same numbers.
TO_BF16 = """
import sys
from safetensors.torch import load_file, save_file
tensors = {name: tensor.bfloat16() for name, tensor in load_file(sys.argv[1]).items()}
save_file(tensors, sys.argv[1], metadata={"format": "pt"})
"""


class Bench:
    def __init__(self, a, folder):
        self.a, self.folder = a, folder
        self.sepo = a.sepo or Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "sepo"

    def run_sepo(self, name, text, **values):
        """Runs a pipeline in a new folder; its report and the peak memory in MiB."""
        out = self.folder / name
        file = self.folder / f"{name}.yaml"
        file.write_text(text.format(out=out, model=self.a.model, device=self.a.device, **values))
        env = {**os.environ, "RAYON_NUM_THREADS": str(self.a.threads)}
        report = self.folder / f"{name}.json"
        with open(report, "w") as stdout:
            process = subprocess.Popen([self.sepo, "run", file, "--fresh", "--json"], env=env, stdout=stdout,
                                       stderr=subprocess.PIPE)
            stderr = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(stderr.decode())
        return json.loads(report.read_text())["stages"], usage.ru_maxrss / 1024

    def run_peer(self, script, *arguments):
        command = [sys.executable, HERE / script, "--threads", self.a.threads, "--device", self.a.torch_device, *arguments]
        done = subprocess.run(map(str, command), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return json.loads(done.stdout)

    def prepare(self):
        self.run_sepo("prepare", PREPARE, input=self.a.input, pairs=self.a.pairs)
        self.tokens = self.folder / "prepare" / "scored"
        self.oracle = self.folder / "prepare" / "models" / "oracle"
        # In a process of its own: the peak that the system reports of a new process begins with that of its parent.
        subprocess.run([sys.executable, "-c", TO_BF16, self.oracle / "model.safetensors"], check=True)

    def score_sepo(self, precision):
        name = f"sepo-{precision}"
        stages, peak = self.run_sepo(name, SCORE, precision=precision, oracle=self.oracle, tokens=self.tokens,
                                     batch_tokens=self.a.batch_tokens)
        pairs = stages["scored"]["rows_in"] / stages["scored"]["seconds"]
        return {"pairs_per_second": pairs, "peak_mib": peak, "rewards": self.folder / name / "scored"}

    def score_peer(self, mode, dtype):
        out = self.folder / f"{mode}-{dtype}.parquet"
        arguments = ["--tokens", self.tokens, "--oracle", self.oracle, "--reference", self.a.model, "--mode", mode,
                     "--dtype", dtype, "--limit", self.a.pairs, "--batch-tokens", self.a.batch_tokens, "--out", out]
        return {**self.run_peer("score.py", *arguments), "rewards": out}

    def train_sepo(self, objective):
        steps, tokens = self.a.steps, self.tokens
        text = {"sepo": "{ sepo: { gamma: 2.0 } }", "dpo": "{ dpo: { beta: 0.1 } }"}[objective]
        stages, peak = self.run_sepo(f"train-{objective}", TRAIN, objective=text, steps=steps, tokens=tokens, batch=self.a.batch)
        log = self.folder / f"train-{objective}" / "logs" / "policy" / "metrics.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        seconds = sum(line["seconds"] for line in lines[1:])
        return {"pairs_per_second": self.a.batch * (steps - 1) / seconds, "peak_mib": peak, "losses": [line["loss"] for line in lines]}

    def train_peer(self, objective):
        return self.run_peer("train.py", "--tokens", self.tokens, "--model", self.a.model, "--loss", objective,
                             "--steps", self.a.steps, "--batch", self.a.batch)


def rewards(path):
    table = ds.dataset(path).to_table(columns=[f"{side}_token_rewards" for side in SIDES])
    return {side: [np.array(row) for row in table[f"{side}_token_rewards"].to_pylist()] for side in SIDES}


def mask(values, side):
    keep = max(1, int(0.3 * len(values) + 0.5))
    order = np.argsort(-values if side == "chosen" else values, kind="stable")
    out = np.zeros(len(values), bool)
    out[order[:keep]] = True
    return out


def accuracy(path, exact):
    """Largest reward difference from the f64 run, and the share of mask positions that agree with it."""
    worst, same, total = 0.0, 0, 0
    for side, rows in rewards(path).items():
        for row, truth in zip(rows, exact[side], strict=True):
            assert row.shape == truth.shape and row.size > 0, f"{path}: {side} has a row of {row.size}, not {truth.size}"
            assert np.isfinite(row - truth).all(), f"{path}: {side} has a reward that is no number"
            worst = max(worst, float(np.abs(row - truth).max()))
            agree = mask(row, side) == mask(truth, side)
            same, total = same + int(agree.sum()), total + len(agree)
    return worst, same / total


def bars(rows):
    """A bar a program: (label, pairs a second, whether it is ours)."""
    widest = max(value for _, value, _ in rows)
    height = 26 * len(rows) + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" font-family="sans-serif" font-size="13">']
    for index, (label, value, ours) in enumerate(rows):
        y, width = 26 * index + 8, 330 * value / widest
        color = "#2563eb" if ours else "#9ca3af"
        out.append(f'<text x="210" y="{y + 14}" text-anchor="end">{label}</text>')
        out.append(f'<rect x="220" y="{y}" width="{width:.0f}" height="18" fill="{color}"/>')
        out.append(f'<text x="{226 + width:.0f}" y="{y + 14}">{value:.2f} pairs/s</text>')
    return "\n".join([*out, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", default=ROOT / "data/quickstart/train.parquet")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="sepo's device")
    parser.add_argument("--torch-device", default="cpu", help="PyTorch's device")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens of a forward pass in scoring")
    parser.add_argument("--batch", type=int, default=2, help="pairs of a training step")
    parser.add_argument("--name", default="RESULTS", help="of the report")
    parser.add_argument("--sepo", help="the program; by default the one that cargo built in release")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(a, Path(folder))
        bench.prepare()
        scoring = {
            "sepo f32": lambda: bench.score_sepo("f32"),
            "sepo bf16x2": lambda: bench.score_sepo("bf16x2"),
            "sepo bf16": lambda: bench.score_sepo("bf16"),
            "PyTorch, official way, f32": lambda: bench.score_peer("official", "float32"),
            "PyTorch, batched, f32": lambda: bench.score_peer("batched", "float32"),
            "PyTorch, batched, bf16": lambda: bench.score_peer("batched", "bfloat16"),
        }
        if a.device != "cpu":
            del scoring["sepo bf16x2"]
        training = {
            "sepo, SePO": lambda: bench.train_sepo("sepo"),
            "PyTorch, SePO": lambda: bench.train_peer("sepo"),
            "sepo, DPO from columns": lambda: bench.train_sepo("dpo"),
            "PyTorch, DPO": lambda: bench.train_peer("dpo"),
        }
        runs = {name: [] for name in [*scoring, *training]}
        for _ in range(a.rounds):
            for name, run in [*scoring.items(), *training.items()]:
                runs[name].append(run())
                print(f"{name}: {runs[name][-1]['pairs_per_second']:.3f} pairs/s, {runs[name][-1]['peak_mib']:.0f} MiB", file=sys.stderr)
        exact = rewards(bench.score_peer("batched", "float64")["rewards"])
        report(a, bench, runs, scoring, training, exact)


def report(a, bench, runs, scoring, training, exact):
    speed = {name: statistics.median(run["pairs_per_second"] for run in rounds) for name, rounds in runs.items()}
    peak = {name: max(run["peak_mib"] for run in rounds) for name, rounds in runs.items()}
    memory = "peak MiB" if a.device == "cpu" else "peak MiB of the host"
    plot = "speed.svg" if a.name == "RESULTS" else f"{a.name}.svg"
    out = [f"# Side by side with PyTorch on `{a.device}`", ""]
    torch = runs["PyTorch, batched, f32"][0]
    out += [f"{platform.processor() or platform.machine()}, {a.threads} threads, PyTorch {torch['torch']}; {a.pairs} pairs, {torch['tokens']} tokens of",
            f"prompts and responses as PyTorch reads them; median of {a.rounds} rounds in turn. `benches/peers/run.py` is the program.", ""]
    out += ["## Scoring: an oracle and its reference", "",
            f"| program | pairs/s | times batched f32 | {memory} | largest reward difference from f64 | masks as in f64 |", "|---|---|---|---|---|---|"]
    for name in scoring:
        worst, same = accuracy(runs[name][-1]["rewards"], exact)
        ratio = speed[name] / speed["PyTorch, batched, f32"]
        out.append(f"| {name} | {speed[name]:.2f} | {ratio:.2f} | {peak[name]:.0f} | {worst:.1e} | {100 * same:.2f} % |")
    out += ["", f"![pairs a second]({plot})", "", f"## Training: steps of {a.batch} pairs", "",
            f"| program | pairs/s | times PyTorch | {memory} |", "|---|---|---|---|"]
    for name in training:
        ratio = speed[name] / speed["PyTorch, SePO" if "SePO" in name else "PyTorch, DPO"]
        out.append(f"| {name} | {speed[name]:.2f} | {ratio:.2f} | {peak[name]:.0f} |")
    for ours, theirs in (("sepo, SePO", "PyTorch, SePO"), ("sepo, DPO from columns", "PyTorch, DPO")):
        pairs = np.array(list(zip(runs[ours][0]["losses"], runs[theirs][0]["losses"], strict=True)))
        assert pairs.size > 0 and np.isfinite(pairs).all(), f"{ours}, {theirs}: losses that are no numbers, or none"
        out += ["", f"Losses of {ours} differ from PyTorch's by at most {max(abs(x - y) / abs(y) for x, y in pairs):.1e} of their value."]
    (ROOT / "benches" / f"{a.name}.md").write_text("\n".join(out) + "\n")
    bar = [(name, speed[name], name.startswith("sepo")) for name in scoring]
    (ROOT / "benches" / plot).write_text(bars(bar))


if __name__ == "__main__":
    main()
