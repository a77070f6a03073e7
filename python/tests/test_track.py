"""Logs of trainings, and what arrives in trackers: their own packages, without a network."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Scored
from sepo.track import Entry, LogError, copy, logs
from sepo.track.__main__ import main


class Recorder:
    """A tracker that keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[dict[str, float], int]] = []
        self.finished = False

    def log(self, values: dict[str, float], step: int) -> None:
        self.given.append((values, step))

    def finish(self) -> None:
        self.finished = True


def line(step: int, part: str = "train", **values: object) -> str:
    return json.dumps({"step": step, "part": part, **values}) + "\n"


def training(workdir: Path, text: str, fingerprint: str = "a") -> Path:
    folder = workdir / "logs" / "policy"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sepo.json").write_text(json.dumps({"stage": "policy", "fingerprint": fingerprint, "inputs": {"/home/x": ""}}))
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_numbers_have_the_names_of_tensorboard_and_others_are_left_out(tmp_path: Path) -> None:
    folder = training(tmp_path, line(1, loss=0.5, tokens=7, note="x", best=True, worst=None) + line(1, "eval", loss=0.75))
    recorder = Recorder()
    for path in [tmp_path, folder, folder / "metrics.jsonl"]:
        [log] = logs(path)
        assert (log.name, log.settings) == ("policy", {"stage": "policy", "fingerprint": "a"})
    assert copy(log.new(), recorder) == 2
    assert recorder.given == [({"train/loss": 0.5, "train/tokens": 7.0}, 1), ({"eval/loss": 0.75}, 1)]


def test_a_training_that_continues_from_a_checkpoint_repeats_no_step(tmp_path: Path) -> None:
    folder = training(tmp_path, line(1, loss=3.0) + line(2, loss=2.0) + line(3, loss=1.0)[:-4])
    [log] = logs(folder)
    assert [entry.step for entry in log.new()] == [1, 2]
    # Killed after step 3, it went on from the checkpoint of step 1.
    training(tmp_path, line(1, loss=3.0) + line(2, loss=2.0))
    assert log.new() == []
    training(tmp_path, line(1, loss=3.0) + line(2, loss=2.0) + line(3, loss=1.0) + line(3, "eval", loss=4.0))
    assert log.new() == [Entry(3, "train", {"loss": 1.0}), Entry(3, "eval", {"loss": 4.0})]
    training(tmp_path, line(1, loss=9.0), fingerprint="b")
    with pytest.raises(LogError, match="a training with other settings writes here now"):
        log.new()


def test_it_follows_until_the_training_ends(tmp_path: Path) -> None:
    [log] = logs(tmp_path / "logs" / "policy", awaited=True)
    steps: queue.Queue[int] = queue.Queue()
    reader = threading.Thread(target=lambda: [steps.put(entry.step) for entry in log.follow(0.01)])
    reader.start()
    training(tmp_path, line(1, loss=3.0))
    assert steps.get(timeout=10) == 1
    training(tmp_path, line(1, loss=3.0) + line(2, loss=2.0))
    assert steps.get(timeout=10) == 2
    assert reader.is_alive()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "policy.json").write_text("{}")
    reader.join(10)
    assert not reader.is_alive() and steps.empty()


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "gone"), "--to", "mlflow"]) == 1
    assert "gone: neither a metrics.jsonl, nor a workdir" in capsys.readouterr().err
    for text in ["nonsense\n", "[1]\n", '{"step": "1", "part": "train"}\n', '{"part": "train"}\n']:
        [log] = logs(training(tmp_path, line(1) + text))
        with pytest.raises(LogError, match=r"metrics\.jsonl, row 2: not a line that sepo wrote"):
            log.new()
    (tmp_path / "logs" / "other").mkdir()
    (tmp_path / "logs" / "other" / "metrics.jsonl").write_text("")
    with pytest.raises(SystemExit) as usage:
        main([str(tmp_path), "--to", "mlflow", "--follow"])
    assert usage.value.code == 2 and "(other, policy)" in capsys.readouterr().err


def track(folder: Path, path: Path, *words: str, **variables: str) -> str:
    """`python -m sepo.track` in a process without a network worth the name."""
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "sepo.track", str(path.resolve()), *words]
    environment = {**os.environ, **nowhere, **variables, "PYTHONPATH": os.path.abspath("python")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def expected(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """By name, steps and numbers of the program's log."""
    numbers: dict[str, list[tuple[int, float]]] = {}
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        record: dict[str, Any] = json.loads(text)
        for name in record.keys() - {"step", "part"}:
            numbers.setdefault(f"{record['part']}/{name}", []).append((record["step"], float(record[name])))
    return numbers


def test_mlflow(scored: Scored, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    log, store = scored.folder / "logs" / "ref", f"sqlite:///{tmp_path}/runs.db"
    track(tmp_path, log, "--to", "mlflow", "--project", "pairs", MLFLOW_TRACKING_URI=store)
    client = mlflow.MlflowClient(store)
    [run] = client.search_runs([client.get_experiment_by_name("pairs").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["stage"]) == ("ref", "FINISHED", "ref")
    for name, numbers in expected(log).items():
        assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)] == numbers


def records(file: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: a header of 7 bytes, then LevelDB's log in blocks of 32 KiB."""
    at, begun = 7, b""
    while at + 7 <= len(file):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(file[at + 4 : at + 6], "little"), file[at + 6]
        begun += file[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield begun
            begun = b""


def test_wandb(scored: Scored, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    log = scored.folder / "logs" / "ref"
    track(tmp_path, log, "--to", "wandb", "--project", "pairs", WANDB_MODE="offline")
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    from wandb.proto import wandb_internal_pb2

    numbers: dict[str, list[tuple[int, float]]] = {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for name in items.keys() - {name for name in items if name.startswith("_")}:
            numbers.setdefault(name, []).append((int(items["_step"]), float(items[name])))
    assert numbers == expected(log)


def test_trackio(scored: Scored, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    log = scored.folder / "logs" / "ref"
    track(tmp_path, log, "--to", "trackio", "--project", "pairs", TRACKIO_DIR=str(tmp_path / "trackio"))
    import sqlite3

    [database] = (tmp_path / "trackio").glob("pairs*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    numbers: dict[str, list[tuple[int, float]]] = {}
    for name, step, metrics in rows:
        assert name == "ref"
        for key, value in json.loads(metrics).items():
            numbers.setdefault(key, []).append((step, value))
    assert numbers == expected(log)
