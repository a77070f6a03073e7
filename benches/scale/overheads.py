#!/usr/bin/env python3
"""What a unit of work costs beside its computation: workers on one workdir in SeaweedFS that score next to nothing.

    python3 benches/scale/overheads.py [--units 10000] [--workers 1 4 16] [--sepo PROGRAM] [--out FILE.json]

A unit is a row group of 1,025 rows of which `where` leaves one; oracle and reference are test fixtures of two layers. Requests are
counted by SeaweedFS's S3 gateway (its Prometheus counters), which also measures how long each took. SEPO_WEED names SeaweedFS's
program. Needs pyarrow and `cargo build --release`.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "python/tests"))
from store import Store, seaweedfs  # noqa: E402

# More than half of the rows that a unit of work may have: row groups are not joined.
GROUP = 1025
PIPELINE = f"""
vars: {{ out: null, input: null }}
workdir: ${{out}}
storage: {{ allow_http: true }}
models: {{ a: {{ path: {ROOT}/tests/fixtures/llama-tied }}, b: {{ path: {ROOT}/tests/fixtures/llama-untied }} }}
stages:
  rows: {{ read: {{ from: "${{input}}", format: tokens, where: kept }} }}
  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}
"""


def write_rows(store: Store, units: int) -> str:
    """Rows in `units` row groups, the first of each of which is kept."""
    ids = pa.array([[5, 6]] * GROUP, pa.list_(pa.int32()))
    other = pa.array([[7]] * GROUP, pa.list_(pa.int32()))
    kept = pa.array([row == 0 for row in range(GROUP)])
    group = pa.table({"prompt_ids": ids, "chosen_ids": ids, "rejected_ids": other, "kept": kept})
    path = f"{store.bucket}/rows.parquet"
    with pq.ParquetWriter(path, group.schema, filesystem=store.files()) as writer:
        for _ in range(units):
            writer.write_table(group, row_group_size=GROUP)
    return f"s3://{path}"


def counted(store: Store) -> tuple[Counter, dict[str, list[tuple[float, int]]], Counter]:
    """Requests so far, by kind; how many of each took at most so many seconds; their seconds in all."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{store.metrics}/metrics").read().decode()
    requests: Counter = Counter()
    within: dict[str, Counter] = {}
    seconds: Counter = Counter()
    for name, labels, value in re.findall(r"^SeaweedFS_s3_request_(\w+)\{(.*)\} (\S+)$", page, re.M):
        label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        kind = label.get("type", "?")
        if name == "total":
            requests[kind] += int(float(value))
        elif name == "seconds_bucket" and label["le"] != "+Inf":
            within.setdefault(kind, Counter())[float(label["le"])] += int(float(value))
        elif name == "seconds_sum":
            seconds[kind] += float(value)
    return requests, {kind: sorted(counts.items()) for kind, counts in within.items()}, seconds


def measure(store: Store, rows: str, units: int, workers: int, program: str, folder: Path) -> dict:
    """One run by `workers` processes that start together, and the merge."""
    file = folder / "score.yaml"
    file.write_text(PIPELINE)
    variables = ["--var", f"out=s3://{store.bucket}/run-{workers}-{time.time_ns()}", "--var", f"input={rows}"]
    environment = {**os.environ, **store.environment, "SEPO_CACHE": str(folder / "cache"), "RAYON_NUM_THREADS": "1"}
    before, _, _ = counted(store)
    start = time.monotonic()
    command = [program, "run", str(file), *variables]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(workers)]
    said = [process.communicate()[1] for process in processes]
    for process, text in zip(processes, said, strict=True):
        if process.returncode != 0:
            sys.exit(f"a worker ended with {process.returncode}\n{text}")
    seconds = time.monotonic() - start
    after_run, _, _ = counted(store)
    start = time.monotonic()
    subprocess.run([program, "merge", str(file), *variables], env=environment, check=True, stdout=subprocess.DEVNULL)
    merge = time.monotonic() - start
    done = sum(int(number) for text in said for number in re.findall(r"^scored: (\d+)/\d+ rows in .* done", text, re.M))
    requests = after_run - before
    return {
        "workers": workers,
        "units": units,
        "seconds": round(seconds, 1),
        "units_a_second": round(units / seconds, 1),
        "milliseconds_of_a_worker_per_unit": round(1000 * seconds * workers / units, 1),
        "requests_per_unit": round(requests.total() / units, 2),
        "by_kind": {kind: round(count / units, 3) for kind, count in requests.most_common() if count},
        "units_done_twice": done - units,
        "merge_seconds": round(merge, 1),
        "merge_requests_per_unit": round((counted(store)[0] - after_run).total() / units, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--sepo", default=str(ROOT / "target/release/sepo"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, seaweedfs(os.environ["SEPO_WEED"], Path(name)) as store:
        rows = write_rows(store, arguments.units)
        runs = []
        for workers in arguments.workers:
            runs.append(measure(store, rows, arguments.units, workers, arguments.sepo, Path(name)))
            print(json.dumps(runs[-1]), flush=True)
        _, within, seconds = counted(store)
        if arguments.out:
            latencies = {kind: {"seconds": seconds[kind], "within": counts} for kind, counts in within.items()}
            arguments.out.write_text(json.dumps({"runs": runs, "latencies": latencies}, indent=1) + "\n")


if __name__ == "__main__":
    main()
