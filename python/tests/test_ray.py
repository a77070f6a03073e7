"""Many workers on a cluster whose nodes die and join: the rows of a run on one machine, each once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

import sepo
from cluster import Nodes, ancestors, cluster, environment_of, ray, stopped
from conftest import REPOSITORY
from store import Store

# More than half of the rows that a unit of work may have: every row group is a unit.
UNIT = 1040

# Seconds after which something hangs, also on a machine that compiles for many others meanwhile.
PATIENCE = 1800.0

PIPELINE = f"""
vars: {{ out: null, input: null }}
workdir: ${{out}}
storage: {{ allow_http: true }}
models:
  a: {{ path: {REPOSITORY}/tests/fixtures/llama-tied }}
  b: {{ path: {REPOSITORY}/tests/fixtures/llama-untied }}
stages:
  rows: {{ read: {{ from: "${{input}}", format: tokens }} }}
  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}
  keyed: {{ select: {{ input: scored }} }}
  out: {{ write: {{ input: keyed, to: "${{out}}/scored" }} }}
"""


def pairs(units: int, tokens: int) -> pa.Table:
    """Pairs of `tokens` tokens of prompt and responses; every one has a prompt of its own."""
    rows = units * UNIT

    def ids(seed: int) -> pa.Array:
        lists = [[(7 * row + seed * at * at) % 90 + 3 for at in range(tokens)] for row in range(rows)]
        return pa.array(lists, pa.list_(pa.int32()))

    columns = {"prompt_ids": ids(1), "chosen_ids": ids(2), "rejected_ids": ids(5)}
    return pa.table({"row_id": pa.array([f"row {row}" for row in range(rows)]), **columns})


@pytest.fixture
def workplace(store: Store, tmp_path: Path) -> Callable[[int, int], tuple[Path, dict[str, str], pa.Table]]:
    """A pipeline on pairs in the store, and the rows that a run on this machine makes of them."""

    def make(units: int, tokens: int) -> tuple[Path, dict[str, str], pa.Table]:
        table = pairs(units, tokens)
        place = f"{store.bucket}/{tmp_path.name}"
        pq.write_table(table, f"{place}/pairs.parquet", filesystem=store.files(), row_group_size=UNIT)
        pq.write_table(table, tmp_path / "pairs.parquet", row_group_size=UNIT)
        file = tmp_path / "score.yaml"
        file.write_text(PIPELINE)
        local = [sepo.program(), "run", file, "--var", f"out={tmp_path}/local", "--var", f"input={tmp_path}/pairs.parquet"]
        subprocess.run(local, check=True, stdout=subprocess.DEVNULL)
        variables = {"input": f"s3://{place}/pairs.parquet", "out": f"s3://{place}/run"}
        return file, variables, pq.read_table(tmp_path / "local/scored")

    return make


def command(nodes: Nodes, file: Path, variables: dict[str, str], *more: str) -> subprocess.Popen[str]:
    given = [argument for name, value in variables.items() for argument in ("--var", f"{name}={value}")]
    arguments = ["run", str(file), "--address", nodes.address, *given, *more]
    # A group of its own, so that a test can stop it and nothing else.
    return subprocess.Popen(
        [sys.executable, "-m", "sepo.ray", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


def until(what: Callable[[], object], driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > deadline or driver.poll() not in (None, -signal.SIGKILL):
            driver.terminate()
            raise AssertionError(f"waited in vain; the driver said: {driver.communicate()}")
        time.sleep(0.1)


def notes(store: Store, variables: dict[str, str]) -> int:
    """Units that are finished."""
    folder = variables["out"].removeprefix("s3://") + "/data"
    files = store.files().get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    return sum(bool(re.fullmatch(r"part-\d+\.json", file.base_name)) for file in files)


def makers(store: Store, variables: dict[str, str]) -> set[str]:
    """The marks of the processes whose parts count."""
    folder = variables["out"].removeprefix("s3://") + "/data"
    found = store.files().get_file_info(fs.FileSelector(folder, recursive=True))
    (manifest,) = (file.path for file in found if file.base_name == "manifest.json")
    with store.files().open_input_file(manifest) as file:
        parts = json.load(file)["parts"]
    return {part["name"].removesuffix(".parquet").rsplit("-", 1)[1] for part in parts}


def finished(driver: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, err
    return out, err


def same_rows(store: Store, variables: dict[str, str], expected: pa.Table) -> None:
    scored = pq.read_table(variables["out"].removeprefix("s3://") + "/scored", filesystem=store.files())
    ids = scored.column("row_id").to_pylist()
    assert len(ids) == len(set(ids)) == expected.num_rows
    assert scored.equals(expected)


@pytest.fixture(scope="module")
def nodes(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes, as many as after every test."""
    cache = str(tmp_path_factory.mktemp("cache"))
    with cluster(3, {**store.environment, "SEPO_CACHE": cache, "PYTHONPATH": str(REPOSITORY / "python")}) as made:
        yield made


@pytest.mark.parametrize(
    ("units", "tokens"),
    [pytest.param(40, 12, id="short"), *(pytest.param(240, 24, marks=pytest.mark.slow, id=f"long {n}") for n in (1, 2, 3))],
)
def test_a_node_dies_and_one_joins(store: Store, nodes: Nodes, workplace, units: int, tokens: int) -> None:
    file, variables, expected = workplace(units, tokens)
    driver = command(nodes, file, variables)
    until(lambda: len(nodes.programs()) == 3 and notes(store, variables) >= units // 10, driver)
    workers = nodes.programs()
    # Each has the one accelerator of its node, as Ray numbers them, and the CPU that it was given.
    seen = [environment_of(worker) for worker in workers]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["0", "0", "0"]
    assert [one["RAYON_NUM_THREADS"] for one in seen] == ["1", "1", "1"]
    victim, *others = workers
    # While the others stand still, each can add no more than the note that it had just sent.
    with stopped(others):
        before = notes(store, variables)
        until(lambda: notes(store, variables) > before + len(others), driver)
        nodes.kill(victim)
        done = notes(store, variables)
        assert done < units, "all was done before the node died"
        raylet = nodes.add()
        until(lambda: any(raylet in ancestors(worker) for worker in nodes.programs()), driver)
        until(lambda: notes(store, variables) > done, driver)
    out, err = finished(driver)
    assert "is started again in " in err
    assert re.search(rf"(scored|out): [\d,]+/{units * UNIT:,} rows", err), err
    assert f"{units * UNIT}" in out
    same_rows(store, variables, expected)
    # Parts of the first three, of which one died, and of the one that joined.
    assert len(makers(store, variables)) == 4
    assert not nodes.programs()


def test_a_driver_dies_and_is_started_again(store: Store, nodes: Nodes, workplace) -> None:
    file, variables, expected = workplace(40, 12)
    driver = command(nodes, file, variables, "--workers", "2")
    until(lambda: len(nodes.programs()) == 2 and notes(store, variables) >= 4, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    until(lambda: not nodes.programs(), driver)
    assert notes(store, variables) < 40
    finished(command(nodes, file, variables))
    same_rows(store, variables, expected)


def test_a_worker_that_was_asked_to_stop_comes_back(store: Store, nodes: Nodes, workplace) -> None:
    file, variables, expected = workplace(40, 12)
    driver = command(nodes, file, variables, "--workers", "1")
    until(lambda: notes(store, variables) >= 4, driver)
    (worker,) = nodes.programs()
    os.kill(worker, signal.SIGTERM)
    _, err = finished(driver)
    assert "is started again in " in err
    same_rows(store, variables, expected)


def test_what_every_worker_would_fail_with_ends_the_run(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(PIPELINE.replace("oracle: a", "oracle: c"))
    driver = command(nodes, file, {"input": "s3://bucket/none", "out": "s3://bucket/none"})
    _, err = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 78
    assert "wrong.yaml:" in err and "`c`" in err, err


def test_a_dataset_of_ray_comes_back_scored(store: Store, nodes: Nodes, workplace, tmp_path: Path) -> None:
    import sepo.ray

    file, _, expected = workplace(3, 8)
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        dataset = ray.data.from_arrow(pq.read_table(tmp_path / "pairs.parquet"))
        scored = sepo.ray.score(dataset, file, at=f"s3://{store.bucket}/{tmp_path.name}/ray")
        table = pa.concat_tables(ray.get(scored.to_arrow_refs())).select(expected.column_names)
    finally:
        ray.shutdown()
    assert table.sort_by("row_id").equals(expected.sort_by("row_id").cast(table.schema))


def test_progress_is_among_rays_metrics(store: Store, nodes: Nodes, workplace) -> None:
    file, variables, _ = workplace(40, 12)
    driver = command(nodes, file, variables)
    ports = [node["MetricsExportPort"] for node in _alive(nodes)]

    def shown() -> bool:
        pages = [urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode() for port in ports]
        return any(re.search(r'ray_sepo_rows_total\{.*stage="scored".*\} 41600', page) for page in pages)

    until(shown, driver)
    finished(driver)


def _alive(nodes: Nodes) -> list[dict]:
    ray.init(address=nodes.address, log_to_driver=False)
    alive = [node for node in ray.nodes() if node["Alive"]]
    ray.shutdown()
    return alive
