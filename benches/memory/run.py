#!/usr/bin/env python3
"""What a run takes of memory, whatever the dataset's size.

    pip install pyarrow==26.0.1
    python benches/memory/run.py stream --gib 5 --sepo target/release/sepo --folder /tmp/memory
    python benches/memory/run.py score --sepo target/release/sepo --folder /tmp/memory

`stream` makes scored Parquet files of so many GiB, a fifth of them in one row group of one file, and sends them through
read, where, select and write. `score` scores 10,000 to 2,000,000 rows with a tiny model. Both print the peak of the
resident memory, which the operating system counts. Everything is made in the folder; delete it afterwards.
"""
import argparse
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GIB = 1 << 30
TOKENS = 200


def lists(values, length):
    offsets = pa.array(np.arange(0, len(values) + 1, length, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values))


def batch(random, rows, first):
    """Scored rows of random ids and rewards, and a text that no compression makes small: about 8.6 kB each."""
    letters = random.integers(97, 123, rows * 4000, dtype=np.uint8)
    offsets = pa.py_buffer(np.arange(0, rows * 4000 + 1, 4000, dtype=np.int32))
    columns = {
        "row_id": pa.array(np.arange(first, first + rows)),
        "text": pa.StringArray.from_buffers(rows, offsets, pa.py_buffer(letters)),
        "score": pa.array(random.integers(0, 10, rows)),
        "prompt_ids": lists(random.integers(0, 30000, rows * TOKENS, dtype=np.int32), TOKENS),
    }
    for side in ("chosen", "rejected"):
        columns[f"{side}_ids"] = lists(random.integers(0, 30000, rows * TOKENS, dtype=np.int32), TOKENS)
        columns[f"{side}_token_rewards"] = lists(random.standard_normal(rows * TOKENS, dtype=np.float32), TOKENS)
    return pa.table(columns)


def make_scored(folder, gib):
    folder.mkdir(parents=True)
    random, first, file = np.random.default_rng(1), 0, 0
    while sum(path.stat().st_size for path in folder.iterdir()) < 0.8 * gib * GIB:
        rows = 60_000
        pq.write_table(batch(random, rows, first), folder / f"{file:03}.parquet", row_group_size=5_000)
        first, file = first + rows, file + 1
    rows, tables = int(0.2 * gib * GIB / 6600), []
    while sum(table.num_rows for table in tables) < rows:
        tables.append(batch(random, 10_000, first))
        first += 10_000
    # pyarrow caps row groups at 64 Mi rows, so that this is one.
    pq.write_table(pa.concat_tables(tables), folder / "one_group.parquet", row_group_size=1 << 26)
    size = sum(path.stat().st_size for path in folder.iterdir())
    groups = [pq.ParquetFile(path).num_row_groups for path in sorted(folder.iterdir())]
    print(f"{size / GIB:.2f} GiB, {first} rows, row groups of the files: {groups}")


def make_ids(path, rows):
    random, length = np.random.default_rng(2), 4
    columns = {"row_id": pa.array(np.arange(rows))}
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        columns[name] = lists(random.integers(6, 48, rows * length, dtype=np.int32), length)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=100_000)


def apart(make, *arguments):
    """Makes data in a process of its own: the peak that the system reports of a new process begins with that of its parent."""
    process = multiprocessing.get_context("spawn").Process(target=make, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the data could not be made")


def measured(sepo, pipeline):
    """Seconds and peak MiB of a run."""
    start = time.monotonic()
    process = subprocess.Popen([sepo, "run", pipeline], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{pipeline}: status {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def stream(arguments):
    folder = arguments.folder
    if not (folder / "scored").exists():
        apart(make_scored, folder / "scored", arguments.gib)
    pipeline = folder / "stream.yaml"
    pipeline.write_text(f"""workdir: {folder}/run
stages:
  rows: {{ read: {{ from: {folder}/scored, where: "score > 1" }} }}
  keyed: {{ select: {{ input: rows }} }}
  out: {{ write: {{ input: keyed, to: {folder}/out }} }}
""")
    seconds, peak = measured(arguments.sepo, pipeline)
    print(f"read, where, select, write: {seconds:.0f} s, peak {peak:.0f} MiB")


def score(arguments):
    folder = arguments.folder
    for rows in (10_000, 100_000, 400_000, 1_000_000, 2_000_000):
        apart(make_ids, folder / f"ids-{rows}" / "rows.parquet", rows)
        pipeline, fixtures = folder / f"score-{rows}.yaml", REPOSITORY / "tests/fixtures"
        pipeline.write_text(f"""workdir: {folder}/run-{rows}
models: {{ a: {{ path: {fixtures}/llama-tied }}, b: {{ path: {fixtures}/llama-untied }} }}
stages:
  rows: {{ read: {{ from: {folder}/ids-{rows} }} }}
  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}
  out: {{ write: {{ input: scored, to: {folder}/out-{rows} }} }}
""")
        seconds, peak = measured(arguments.sepo, pipeline)
        print(f"{rows} rows scored: {seconds:.0f} s, peak {peak:.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["stream", "score"])
    parser.add_argument("--sepo", default="sepo")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--gib", type=float, default=5)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    {"stream": stream, "score": score}[arguments.what](arguments)


if __name__ == "__main__":
    main()
