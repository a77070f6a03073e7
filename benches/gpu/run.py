#!/usr/bin/env python3
"""`sepo` beside PyTorch on a GPU, on random weights in the shapes of published models. Started by run.sh, which checks parity first.

    python3 benches/gpu/run.py --sepo PROGRAM --models DIR --shapes 1b 8b --out benches/GPU.md
    python3 benches/gpu/run.py --sepo PROGRAM --models DIR --shapes tiny --device libtorch --torch-device cpu --pairs 8 --steps 3 --out T

Every line of the table is one process. Scoring is of an oracle and a reference; a step trains 16 pairs; the reference's log-probabilities
for DPO are computed before its steps and not timed. Adapters have rank 16, on all projections. Device memory is the most that
`nvidia-smi` saw for sepo, and the most that PyTorch had allocated for PyTorch, whose reserve comes on top. The operations of a pass and of a
step are timed by the ignored test `profile::operations` (tests/it/profile.rs), with the device waited for around each.
"""
import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
PEERS = HERE.parent / "peers"

SCORE = """
workdir: "{out}"
device: {device}
precision: {precision}
models: {{ oracle: {{ path: "{models}/oracle" }}, base: {{ path: "{models}/reference" }} }}
stages:
  tokens: {{ read: {{ from: "{models}/tokens.parquet", format: tokens, limit: {pairs} }} }}
  scored: {{ score: {{ input: tokens, oracle: oracle, reference: base, batch_tokens: {batch_tokens} }} }}
  keyed: {{ select: {{ input: scored }} }}
  out: {{ write: {{ input: keyed, to: "{out}/scored" }} }}
"""
TRAIN = """
workdir: "{out}"
device: {device}
models: {{ base: {{ path: "{models}/reference" }} }}
stages:
  tokens: {{ read: {{ from: "{models}/tokens.parquet", format: tokens, limit: {rows} }} }}
  policy:
    train: {{ input: tokens, model: base, objective: {objective}, max_steps: {steps}, batch_size: {batch}, {more}
              learning_rate: 1.0e-5, decay: constant, warmup: 0, betas: [0.9, 0.95], shuffle_window: 0, log_every: 1,
              batch_tokens: {batch_tokens}, precision: {precision} }}
"""
GENERATE = """
workdir: "{out}"
device: {device}
precision: bf16
models: {{ base: {{ path: "{models}/reference" }} }}
stages:
  tokens: {{ read: {{ from: "{models}/tokens.parquet", format: tokens, limit: {prompts} }} }}
  answers: {{ generate: {{ input: tokens, model: base, max_tokens: {new}, temperature: 0, stop_ids: [], batch_tokens: 200000 }} }}
"""
RANK = 16
OBJECTIVES = {"sepo": "{ sepo: { gamma: 2.0 } }", "dpo": "{ dpo: {} }"}


class Watch:
    """The most device memory in use while a process runs, in MiB; none without an NVIDIA GPU."""

    def __init__(self):
        self.most, self.over = None, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self):
        while shutil.which("nvidia-smi") and not self.over.is_set():
            query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
            used = subprocess.run(query, capture_output=True, text=True).stdout.split()
            self.most = max([self.most or 0, *map(int, used[:1])])
            time.sleep(0.2)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Bench:
    def __init__(self, a, models, folder):
        self.a, self.models, self.folder = a, models, folder

    def sepo(self, name, text, **values):
        """Runs a pipeline in a new folder; its stages and the most device memory."""
        out = self.folder / name
        file = self.folder / f"{name}.yaml"
        file.write_text(text.format(out=out, models=self.models, device=self.a.device, **values))
        with Watch() as watch:
            done = subprocess.run([self.a.sepo, "run", file, "--fresh", "--json"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(done.stdout)["stages"], watch.most

    def peer(self, script, *arguments):
        command = [sys.executable, PEERS / script, "--device", self.a.torch_device, "--threads", os.cpu_count(), *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(done.stdout)

    def score_sepo(self, precision):
        name = f"score-{precision}"
        stages, most = self.sepo(name, SCORE, precision=precision, pairs=self.a.pairs, batch_tokens=self.a.batch_tokens)
        scored = stages["scored"]
        speed = scored["rows_in"] / scored["seconds"]
        return {"speed": speed, "memory": most, "load": scored.get("load_seconds"), "rewards": self.folder / name / "scored"}

    def score_peer(self, dtype, *more):
        out = self.folder / f"{dtype}{''.join(more)}.parquet"
        found = self.peer(
            "score.py", "--tokens", self.models / "tokens.parquet", "--oracle", self.models / "oracle", "--reference",
            self.models / "reference", "--dtype", dtype, "--limit", self.a.pairs, "--batch-tokens", self.a.batch_tokens, "--out",
            out, *more,
        )
        return {"speed": found["pairs_per_second"], "memory": found["device_mib"], "rewards": out}

    def train_sepo(self, precision, more="", loss="sepo"):
        name = "-".join(["train", loss, precision, *"".join(x if x.isalnum() else " " for x in more).split()])
        steps, batch = self.a.steps, self.a.batch
        values = {"precision": precision, "more": more, "steps": steps, "batch": batch, "rows": steps * batch}
        _, most = self.sepo(name, TRAIN, batch_tokens=self.a.batch_tokens, objective=OBJECTIVES[loss], **values)
        text = (self.folder / name / "logs" / "policy" / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        # The first two steps set things up.
        timed = lines[2:] or lines
        speed = self.a.batch * len(timed) / sum(line["seconds"] for line in timed)
        return {"speed": speed, "memory": most, "losses": [line["loss"] for line in lines]}

    def train_peer(self, *more):
        found = self.peer(
            "train.py", "--tokens", self.models / "tokens.parquet", "--model", self.models / "reference", "--steps", self.a.steps,
            "--batch", self.a.batch, "--micro", min(4, self.a.batch), *more,
        )
        return {"speed": found["pairs_per_second"], "memory": found["device_mib"], "losses": found["losses"]}

    def generate_sepo(self):
        stages, most = self.sepo("generate", GENERATE, prompts=self.a.prompts, new=self.a.new)
        answers = stages["answers"]
        return {"speed": answers["metrics"]["answer_tokens"] / answers["seconds"], "memory": most}

    def profile(self, lora, kernels):
        """The tables of tests/it/profile.rs: operations of a scoring pass and of a training step, by time; without `kernels` those of
        LibTorch compute what kernels of sepo would."""
        out = self.folder / "profile.md"
        wanted = {"model": str(self.models / "reference"), "device": self.a.device, "precision": "bf16", "lora": lora,
                  "tokens": self.a.profile_tokens, "out": str(out)}
        command = [self.a.profile, "--ignored", "--exact", "profile::operations"]
        env = {**os.environ, "SEPO_PROFILE": json.dumps(wanted), "SEPO_CUDA_KERNELS": str(int(kernels))}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stdout + done.stderr)[-2000:])
        return {"speed": "done", "text": out.read_text()}

    def generate_peer(self):
        found = self.peer(
            "generate.py", "--tokens", self.models / "tokens.parquet", "--model", self.models / "reference", "--limit", self.a.prompts,
            "--new", self.a.new,
        )
        return {"speed": found["tokens_per_second"], "memory": found["device_mib"]}


def agreement(one, other):
    """The share of key-token positions that two files of rewards agree on, as benches/peers/run.py counts it."""
    spec = importlib.util.spec_from_file_location("peers", PEERS / "run.py")
    peers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peers)
    return peers.accuracy(one, peers.rewards(other))[1]


def attempt(name, run, start, limit):
    """The result of `run`, or why there is none: a run that fails must not cost the others."""
    if time.perf_counter() - start > limit:
        return {"failed": "no time left"}
    began = time.perf_counter()
    try:
        found = run()
    except Exception as error:
        found = {"failed": str(error).strip().splitlines()[-1][:160] if str(error).strip() else type(error).__name__}
    print(f"{name}: {found.get('speed', found.get('failed'))} ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)
    return found


def rows(title, runs, yardstick, found, extra, unit="pairs"):
    base = found[yardstick].get("speed")
    out = [f"### {title}", "", f"| program | {unit}/s | times {yardstick} | device memory, GiB | {extra[0]} |", "|---|---|---|---|---|"]
    for name in runs:
        run = found[name]
        if "failed" in run:
            out.append(f"| {name} | {run['failed']} | | | |")
            continue
        ratio = f"{run['speed'] / base:.2f}" if base else ""
        memory = f"{run['memory'] / 1024:.1f}" if run["memory"] else ""
        out.append(f"| {name} | {run['speed']:.2f} | {ratio} | {memory} | {extra[1](name)} |")
    return [*out, ""]


def compare(a, shape, folder, start):
    models = a.models / shape
    if not (models / "tokens.parquet").exists():
        make = [sys.executable, HERE / "models.py", models, "--shape", shape, "--device", a.torch_device]
        subprocess.run(list(map(str, make)), check=True)
    bench = Bench(a, models, folder)
    has_liger = importlib.util.find_spec("liger_kernel") is not None and a.torch_device != "cpu"
    scoring = {
        "sepo bf16": lambda: bench.score_sepo("bf16"),
        "PyTorch bf16": lambda: bench.score_peer("bfloat16"),
        "PyTorch bf16, liger": lambda: bench.score_peer("bfloat16", "--liger"),
        "sepo f32": lambda: bench.score_sepo("f32"),
        "PyTorch f32": lambda: bench.score_peer("float32"),
    }
    whole = {
        "sepo bf16": lambda: bench.train_sepo("bf16"),
        "PyTorch autocast": lambda: bench.train_peer("--autocast"),
        "PyTorch autocast, liger": lambda: bench.train_peer("--autocast", "--liger"),
        "sepo bf16, DPO": lambda: bench.train_sepo("bf16", loss="dpo"),
        "PyTorch autocast, DPO": lambda: bench.train_peer("--autocast", "--loss", "dpo"),
        "sepo bf16, memory: low": lambda: bench.train_sepo("bf16", "memory: low,"),
        "PyTorch autocast, checkpointed": lambda: bench.train_peer("--autocast", "--checkpoint"),
        "sepo f32": lambda: bench.train_sepo("f32"),
    }
    adapters = {
        "sepo bf16, LoRA, memory: low": lambda: bench.train_sepo("bf16", f"memory: low, lora: {{ r: {RANK} }},"),
        "PyTorch autocast, peft, checkpointed": lambda: bench.train_peer("--autocast", "--checkpoint", "--lora", RANK),
        "sepo bf16, LoRA": lambda: bench.train_sepo("bf16", f"lora: {{ r: {RANK} }},"),
        "PyTorch autocast, peft": lambda: bench.train_peer("--autocast", "--lora", RANK),
    }
    generation = {"sepo bf16": bench.generate_sepo, "transformers bf16": bench.generate_peer}
    training = {"8b": adapters, "tiny": whole | adapters}.get(shape, whole)
    if not has_liger:
        scoring, training = ({k: v for k, v in runs.items() if "liger" not in k} for runs in (scoring, training))
    # The shortest runs, before time is up. Without CUDA no kernel of sepo runs.
    rank, kernels = RANK if shape == "8b" else 0, {"Operations of sepo": True, "Operations of sepo without its kernels": False}
    titles = list(kernels)[: 2 if "cuda" in a.device else 1] if a.profile else []
    tables = {title: attempt(f"{shape} {title}", lambda: bench.profile(rank, kernels[title]), start, a.limit) for title in titles}
    found = {f"score {name}": attempt(f"{shape} score {name}", run, start, a.limit) for name, run in scoring.items()}
    found |= {f"train {name}": attempt(f"{shape} train {name}", run, start, a.limit) for name, run in training.items()}
    found |= {f"generate {name}": attempt(f"{shape} generate {name}", run, start, a.limit) for name, run in generation.items()}
    exact = found["score sepo f32"].get("rewards")
    masks = lambda name: f"{100 * agreement(found[f'score {name}']['rewards'], exact):.2f} %" if exact else ""
    losses = lambda name: " ".join(f"{loss:.4f}" for loss in found[f"train {name}"]["losses"][:4])
    part = lambda kind: {name.removeprefix(f"{kind} "): run for name, run in found.items() if name.startswith(kind)}
    first = "PyTorch autocast" if shape != "8b" else "PyTorch autocast, peft, checkpointed"
    out = [f"## Shape {shape}", ""]
    out += rows("Scoring", scoring, "PyTorch bf16", part("score"), ("masks as sepo's f32", masks))
    load = found["score sepo bf16"].get("load")
    out += [f"Both models were loaded in {load:.1f} s (bf16).", ""] if load else []
    out += rows(f"Steps of {a.batch} pairs, SePO where nothing else is said", training, first, part("train"), ("first losses", losses))
    title = f"Generation: {a.prompts} answers of {a.new} tokens"
    out += rows(title, generation, "transformers bf16", part("generate"), ("", lambda _: ""), "tokens")
    for title, run in tables.items():
        out += [f"### {title}", "", run.get("text") or run["failed"], ""]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sepo", required=True, type=Path)
    parser.add_argument("--profile", type=Path, help="the program of sepo's tests in tests/it, for the tables of operations")
    parser.add_argument("--profile-tokens", type=int, default=8192, help="tokens of the pass and the step in these tables")
    parser.add_argument("--models", required=True, type=Path, help="where checkpoints are, or are made")
    parser.add_argument("--shapes", nargs="+", default=["1b", "8b"])
    parser.add_argument("--device", default="libtorch:cuda:0", help="sepo's device")
    parser.add_argument("--torch-device", default="cuda", help="PyTorch's device")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--prompts", type=int, default=256, help="prompts that are answered")
    parser.add_argument("--new", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--limit", type=float, default=420, help="seconds after which no run begins")
    parser.add_argument("--out", required=True, type=Path)
    a = parser.parse_args()
    a.sepo, a.profile = a.sepo.resolve(), a.profile and a.profile.resolve()
    import torch

    name = torch.cuda.get_device_name() if a.torch_device != "cpu" else platform.processor() or platform.machine()
    out = [f"# Side by side with PyTorch on `{a.device}`", "", f"{name}, PyTorch {torch.__version__}; {a.pairs} pairs scored with",
           f"{a.batch_tokens} tokens a pass, {a.steps} steps. Made by `benches/gpu/run.sh`, one run of everything.", ""]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for shape in a.shapes:
            at = Path(folder) / shape
            at.mkdir()
            out += compare(a, shape, at, start)
            a.out.write_text("\n".join(out))
    print("\n".join(out))


if __name__ == "__main__":
    main()
