#!/usr/bin/env python3
"""DPO steps in TRL on what `write: { format: trl }` makes, and SFT steps on key tokens on what `format: axolotl` makes, beside sepo's own:
losses step by step.

    python3 tests/peers/compare_trl.py --model DIR --other DIR --input ROWS [--pairs 8] [--sepo PROGRAM]

DIR are two checkpoints of one architecture and tokenizer, with a chat template: the policy, and another one for rewards. Needs `trl` (with torch, transformers, datasets) and `cargo build --release`. TRL is unmodified; rows
stay in their order (`train_sampling_strategy="sequential"`). Prints two tables; fails where losses differ by more than 1e-3.
"""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import datasets
import transformers
import trl

ROOT = Path(__file__).parent.parent.parent
STEPS = "batch_size: 2, epochs: 1, learning_rate: 1.0e-5, decay: constant, warmup: 0, betas: [0.9, 0.999], shuffle_window: 0, log_every: 1"
PIPELINE = """
workdir: {out}/run
models: {{ base: {{ path: "{model}" }}, other: {{ path: "{other}" }} }}
stages:
  pairs: {{ read: {{ from: "{input}", limit: {pairs} }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base, max_length: 8192 }} }}
  scored: {{ score: {{ input: tokens, oracle: base, reference: other }} }}
  keyed: {{ select: {{ input: scored, rule: random, chosen: {{ top: 1.0 }}, rejected: {{ bottom: 1.0 }} }} }}
  trl: {{ write: {{ input: pairs, to: "{out}/pairs", format: trl }} }}
  axolotl: {{ write: {{ input: keyed, to: "{out}/labels", format: axolotl }} }}
  dpo: {{ train: {{ input: tokens, model: base, objective: {{ dpo: {{ beta: 0.1 }} }}, {steps} }} }}
  sft: {{ train: {{ input: keyed, model: base, objective: {{ sft: {{}} }}, {steps} }} }}
"""


def settings(config, out, **more):
    return config(output_dir=str(out), per_device_train_batch_size=2, num_train_epochs=1, learning_rate=1e-5,
                  lr_scheduler_type="constant", weight_decay=0.0, logging_steps=1, save_strategy="no", report_to="none", bf16=False,
                  fp16=False, gradient_checkpointing=False, max_length=None, train_sampling_strategy="sequential", use_cpu=True, **more)


def losses(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def compare(name, out, theirs):
    own = [json.loads(line)["loss"] for line in (out / f"run/logs/{name}/metrics.jsonl").read_text().splitlines()]
    assert own and len(own) == len(theirs), (own, theirs)
    print(f"{name}\n\n| step | sepo | TRL | difference |\n|---|---|---|---|")
    for step, (x, y) in enumerate(zip(own, theirs), 1):
        print(f"| {step} | {x:.6f} | {y:.6f} | {abs(x - y):.1e} |")
    worst = max(abs(x - y) for x, y in zip(own, theirs))
    assert worst <= 1e-3, worst


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
        (out / "p.yaml").write_text(PIPELINE.format(out=out, model=a.model, other=a.other, input=a.input, pairs=a.pairs, steps=STEPS))
        subprocess.run([a.sepo, "run", out / "p.yaml"], check=True)
        load = lambda name: datasets.load_dataset("parquet", data_files=str(out / name / "*.parquet"), split="train")
        model = lambda: transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype="float32")
        tokenizer = transformers.AutoTokenizer.from_pretrained(a.model)
        dpo = trl.DPOTrainer(model=model(), ref_model=model(), args=settings(trl.DPOConfig, out / "dpo", beta=0.1),
                             train_dataset=load("pairs"), processing_class=tokenizer)
        compare("dpo", out, losses(dpo))
        sft = trl.SFTTrainer(model=model(), args=settings(trl.SFTConfig, out / "sft"), train_dataset=load("labels"),
                             processing_class=tokenizer)
        compare("sft", out, losses(sft))


if __name__ == "__main__":
    main()
