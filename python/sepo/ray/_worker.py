"""A Ray actor that runs the program on its node and says how far it is."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import threading
from collections import deque
from dataclasses import dataclass, replace

import ray
from ray.util.metrics import Gauge

from .._program import program
from ._job import Job

# A plain line of progress, as the program writes it where stderr is no terminal.
_PROGRESS = re.compile(r"(?P<stage>[^:]+): (?P<done>\d+)(?:/(?P<total>\d+))? (?P<unit>[a-z]+) in (?P<seconds>[\d.]+) s")
_LAST_LINES = 20
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Progress:
    """How far a worker is in its present stage."""

    node: str = ""
    stage: str = ""
    unit: str = "rows"
    done: int = 0
    total: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a process of the program ended."""

    code: int
    """Its exit code; below 0, the signal that ended it."""
    said: str
    """The last lines of its stderr, without progress."""
    result: str
    """Its stdout."""


class Worker:
    """Runs one process at a time. `run` blocks; the other methods are called beside it."""

    def __init__(self, job: Job, number: int) -> None:
        self._job = job
        self._progress = Progress(node=ray.util.get_node_ip_address())
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._stopped = False
        tags = {"worker": str(number), "pipeline": os.path.basename(job.path)}
        self._gauges = {
            name: Gauge(f"sepo_{name}", description=text, tag_keys=("worker", "pipeline", "stage"))
            for name, text in [
                ("rows", "Rows that a worker did of its present stage."),
                ("rows_total", "Rows that the present stage has in all."),
                ("seconds", "Seconds since a worker began its present stage."),
            ]
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags(tags)

    def run(self, word: str) -> Outcome:
        """``sepo <word>`` from its begin to its end."""
        job = self._job
        environment = {**os.environ, **job.environment}
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
        if cpus >= 1:
            environment.setdefault("RAYON_NUM_THREADS", str(int(cpus)))
        with self._lock:
            if self._stopped:
                return Outcome(130, "", "")
            process = subprocess.Popen(
                job.command(program(), word),
                cwd=job.folder if os.path.isdir(job.folder) else None,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                preexec_fn=_die_with_parent,
            )
            self._process = process
        last: deque[str] = deque(maxlen=_LAST_LINES)
        reader = threading.Thread(target=self._read, args=(process, last))
        reader.start()
        assert process.stdout is not None
        result = process.stdout.read()
        code = process.wait()
        reader.join()
        return Outcome(code, "\n".join(last), result)

    def progress(self) -> Progress:
        """How far the process is."""
        return self._progress

    def pid(self) -> int | None:
        """The process, if one runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def stop(self) -> None:
        """Asks the process to stop: it finishes nothing more, and what it finished stays."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()

    def _read(self, process: subprocess.Popen[str], last: deque[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            found = _PROGRESS.match(line)
            if found is None:
                last.append(line.rstrip("\n"))
                continue
            total = found["total"]
            self._progress = replace(
                self._progress,
                stage=found["stage"],
                unit=found["unit"],
                done=int(found["done"]),
                total=None if total is None else int(total),
                seconds=float(found["seconds"]),
            )
            self._measure()

    def _measure(self) -> None:
        progress = self._progress
        values = {"rows": progress.done, "rows_total": progress.total, "seconds": progress.seconds}
        for name, value in values.items():
            if value is not None:
                self._gauges[name].set(float(value), {"stage": progress.stage})


def _die_with_parent() -> None:
    """In the new process: a worker that Ray kills takes it along, so that it holds no accelerator that Ray gives away."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
