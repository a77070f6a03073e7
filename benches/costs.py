#!/usr/bin/env python3
"""What every method costs for equal pairs: seconds and peak memory of its training, the oracle's and the reference's share apart.

    python3 benches/costs.py --model DIR --input PAIRS [--pairs 16] [--batch 4] [--sepo PROGRAM]

DIR is a chat model's folder, PAIRS a preference dataset. The pairs are tokenized, scored (the model as oracle and as reference)
and selected once. Then every method trains on the same scored rows, a process each, whose peak memory is what the system says of
it. Needs nothing beside Python and `cargo build --release`. Writes benches/COSTS.md.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """
workdir: {out}
models: {{ base: {{ path: "{model}" }}, oracle: {{ path: "{oracle}" }} }}
stages:
"""
SCORE = """
  pairs: {{ read: {{ from: "{input}", limit: {pairs} }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base, max_length: 1024 }} }}
  scored: {{ score: {{ input: tokens, reference: base{judge} }} }}
"""
KEEP = """
  kept: {{ write: {{ input: scored, to: "{rows}" }} }}
"""
KEEP_KEYED = """
  keyed: {{ select: {{ input: scored }} }}
  kept: {{ write: {{ input: keyed, to: "{rows}" }} }}
"""
TRAIN = """
  rows: {{ read: {{ from: "{rows}", format: tokens }} }}
  policy:
    train: {{ input: rows, model: base{live}, objective: {{ {objective} }}, batch_size: {batch}, learning_rate: 1.0e-6 }}
"""
# The objective, what its authors' code needs beside the policy, and what is scored before for it here.
METHODS = {
    "sepo, 30 % key tokens": ("sepo: { gamma: 2.0 }", "both"),
    "simpo": ("simpo: {}", "nothing"),
    "rrhf": ("rrhf: {}", "nothing"),
    "dpo": ("dpo: {}", "reference"),
    "ipo": ("ipo: {}", "reference"),
    "d2po": ("d2po: { base: { dpo: {} } }", "reference"),
    "t_reg": ("t_reg: {}", "both"),
    "tgdpo": ("tgdpo: {}", "both"),
    "tis_dpo": ("tis_dpo: {}", "both"),
    "tbpo_q": ("tbpo_q: {}", "reference"),
    "tbpo_a": ("tbpo_a: {}", "live"),
    "tdpo1": ("tdpo1: {}", "live"),
    "tdpo2": ("tdpo2: {}", "live"),
}


def run(a, folder, name, stages, **values):
    """The report of a pipeline's run, and its process's peak in MiB."""
    file = folder / f"{name}.yaml"
    file.write_text((HEAD + stages).format(out=folder / name, model=a.model, **values))
    process = subprocess.Popen([a.sepo, "run", file, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    report = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{name}: `sepo run` failed; run it by hand: {file}")
    return json.loads(report)["stages"], usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--sepo", default=target / "release" / "sepo")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        given = {"input": a.input, "pairs": a.pairs, "batch": a.batch, "oracle": a.model, "live": ""}
        first, first_peak = run(a, folder, "reference", SCORE + KEEP, judge="", rows=folder / "reference-rows", **given)
        # An oracle is another model, trained with DPO on what the reference said.
        run(a, folder, "oracle", TRAIN, objective="dpo: {}", rows=folder / "reference-rows", **given)
        given["oracle"] = folder / "oracle" / "models" / "policy"
        rows = folder / "all-rows"
        both, both_peak = run(a, folder, "both", SCORE + KEEP_KEYED, judge=", oracle: oracle", rows=rows, **given)
        scoring = {"nothing": 0.0, "reference": first["scored"]["seconds"], "live": 0.0, "both": both["scored"]["seconds"]}
        out = []
        for name, (objective, needs) in METHODS.items():
            given["live"] = ", reference: base" if needs == "live" else ""
            stages, peak = run(a, folder, name.split(",")[0], TRAIN, rows=rows, objective=objective, **given)
            policy = stages["policy"]
            print(f"{name}: {policy['seconds']:.1f} s, {peak:.0f} MiB", file=sys.stderr)
            out.append((name, scoring[needs], policy["seconds"], policy["metrics"]["gflop"], peak))
    lines = [
        "# What the methods cost",
        "",
        f"{a.pairs} pairs in steps of {a.batch}, f32; `benches/costs.py` is the program and says what is counted. Scoring is done once, whatever",
        "is trained on it; methods with a live reference run it in every step instead.",
        "",
        f"Scoring peaks at {first_peak:.0f} MiB with one model, {both_peak:.0f} MiB with two.",
        "",
        "| method | scoring before, s | training, s | to sepo's | TFLOP | peak of the training, MiB |",
        "|---|---|---|---|---|---|",
    ]
    base = out[0][2]
    for name, before, seconds, gflop, peak in out:
        lines.append(f"| {name} | {before:.1f} | {seconds:.1f} | {seconds / base:.2f} | {gflop / 1000:.2f} | {peak:.0f} |")
    (ROOT / "benches" / "COSTS.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
