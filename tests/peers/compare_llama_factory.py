#!/usr/bin/env python3
"""SePO steps in LLaMA-Factory on what `write: { format: llama_factory }` makes, beside sepo's own: losses step by step.

    python3 tests/peers/compare_llama_factory.py --model DIR --other DIR --input ROWS [--pairs 8] [--sepo PROGRAM]

DIR are two checkpoints of one architecture and tokenizer; the first is the policy and the oracle, the second the reference. Needs
`llamafactory` (with torch, transformers, datasets, trl, peft) and `cargo build --release`. Prints a table; fails where losses differ by
more than 1e-3.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PIPELINE = """
workdir: {out}/run
models: {{ base: {{ path: "{model}" }}, other: {{ path: "{other}" }} }}
stages:
  pairs: {{ read: {{ from: "{input}", limit: {pairs} }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base, max_length: 256 }} }}
  scored: {{ score: {{ input: tokens, oracle: base, reference: other }} }}
  keyed: {{ select: {{ input: scored }} }}
  lf: {{ write: {{ input: keyed, to: "{out}/data", format: llama_factory }} }}
  policy:
    train: {{ input: keyed, model: base, objective: {{ sepo: {{ gamma: 1.0 }} }}, batch_size: 2, epochs: 1, learning_rate: 1.0e-5,
              decay: constant, warmup: 0, betas: [0.9, 0.999], shuffle_window: 0, log_every: 1 }}
"""
TRAIN = """
stage: dpo
pref_loss: simpo
pref_beta: 1.0
simpo_gamma: 0.0
model_name_or_path: {model}
tokenized_path: {out}/data
dataset: none
template: default
finetuning_type: full
do_train: true
output_dir: {out}/lf
overwrite_output_dir: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 1
num_train_epochs: 1
learning_rate: 1.0e-5
lr_scheduler_type: constant
adam_beta2: 0.999
weight_decay: 0.0
disable_shuffling: true
logging_steps: 1
save_strategy: "no"
report_to: none
bf16: false
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--other", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--sepo", default=ROOT / "target/release/sepo")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        values = {"out": out, "model": a.model, "other": a.other, "input": a.input, "pairs": a.pairs}
        (out / "p.yaml").write_text(PIPELINE.format(**values))
        subprocess.run([a.sepo, "run", out / "p.yaml"], check=True)
        (out / "lf.yaml").write_text(TRAIN.format(**values))
        subprocess.run([sys.executable, "-m", "llamafactory.cli", "train", out / "lf.yaml"], check=True)
        log = (out / "run/logs/policy/metrics.jsonl").read_text().splitlines()
        own = [json.loads(line)["loss"] for line in log]
        state = json.loads((out / "lf/trainer_state.json").read_text())["log_history"]
        theirs = [entry["loss"] for entry in state if "loss" in entry]
    assert own and len(own) == len(theirs), (own, theirs)
    print("| step | sepo | LLaMA-Factory | difference |\n|---|---|---|---|")
    for step, (x, y) in enumerate(zip(own, theirs), 1):
        print(f"| {step} | {x:.6f} | {y:.6f} | {abs(x - y):.1e} |")
    worst = max(abs(x - y) for x, y in zip(own, theirs))
    assert worst <= 1e-3, worst


if __name__ == "__main__":
    main()
