"""Keeps the workers of a job running until its result is there.

Workers have no fixed shares and this process has no state that matters: whatever dies, what is finished lies in the
workdir, and any process of `sepo run` goes on from there. So a worker that is lost is replaced, and a driver that is lost
is started again with the same command.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.metrics import Counter

from ._job import Job
from ._view import Line, View
from ._worker import Outcome, Progress, Worker

_LOOK = 0.5
_STOPPING = 15.0
_LONGEST_PAUSE = 60.0
# A store kept failing; asked to stop, as a node is that goes away.
_AGAIN = (75, 130)
# The command line or the pipeline file is wrong, for every worker alike.
_HOPELESS = (2, 78)

State = Literal["waiting", "running", "restarting", "failed"]


@dataclass(frozen=True)
class Workers:
    """How many workers there are and what each of them holds of its node."""

    count: int | None = None
    """None: as many as the cluster has room for, more when nodes join."""
    gpus: float = 1.0
    cpus: float = 1.0
    restarts: int = 20
    """Restarts in a row, without a row done in between, after which a worker is given up."""

    def room(self) -> int:
        """Workers that fit into the cluster as it is now, node by node."""
        if self.count is not None:
            return self.count
        wants = [(name, want) for name, want in (("GPU", self.gpus), ("CPU", self.cpus)) if want > 0]
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(min(int(node.get(name, 0) // want) for name, want in wants) if wants else 1 for node in nodes)


class Failed(RuntimeError):
    """The program failed on the workers.

    Attributes
    ----------
    code
        Its exit code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class _Slot:
    """The place of one worker, whose actor changes."""

    number: int
    state: State = "waiting"
    actor: Any = None
    run: Any = None
    asked: Any = None
    progress: Progress = field(default_factory=Progress)
    earlier: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    in_a_row: int = 0
    again_at: float = 0.0
    last: Outcome | None = None

    def line(self) -> Line:
        earlier = self.earlier.get(self.progress.stage, 0)
        return Line(self.number, self.state, self.restarts, self.progress, earlier)


class Driver:
    """One run of `job`."""

    def __init__(self, job: Job, workers: Workers) -> None:
        self._job = job
        self._workers = workers
        self._slots: list[_Slot] = []
        self._view = View()
        self._restarts = Counter("sepo_restarts", description="Workers that were started again.", tag_keys=("worker",))

    def run(self) -> str:
        """Runs the job on the cluster that Ray is connected to; what ``sepo merge`` says of it.

        Raises
        ------
        Failed
            All workers failed, or one did with what every worker would fail with.
        """
        with self._stopping():
            while self._turn("run") is None:
                if self._slots and all(slot.state == "failed" for slot in self._slots):
                    raise self._failure()
        self._slots = [_Slot(number=0)]
        with self._stopping():
            while (merged := self._turn("merge")) is None:
                if self._slots[0].state == "failed":
                    raise self._failure()
        return merged.result

    def _turn(self, word: str) -> Outcome | None:
        """Starts what is to be started and looks once; the outcome of a worker that came to the end."""
        if word == "run":
            room = self._workers.room()
            self._slots += [_Slot(number) for number in range(len(self._slots) + 1, room + 1)]
            if not self._slots:
                self._view.say("the cluster has no room for a worker yet: no node has what one needs")
        for slot in self._slots:
            if slot.actor is None and slot.state != "failed" and time.monotonic() >= slot.again_at:
                self._start(slot, word)
        runs = {slot.run: slot for slot in self._slots if slot.run is not None}
        ready = _ready(list(runs), _LOOK)
        self._ask()
        self._view.show([slot.line() for slot in self._slots])
        ended = [(runs[run], self._outcome(runs[run])) for run in ready]
        for slot, outcome in ended:
            self._end(slot, outcome)
        return next((outcome for _, outcome in ended if outcome is not None and outcome.code == 0), None)

    def _start(self, slot: _Slot, word: str) -> None:
        workers = self._workers
        options = {"num_cpus": workers.cpus, "num_gpus": workers.gpus, "max_concurrency": 4}
        actor = ray.remote(Worker).options(**options, max_restarts=0, scheduling_strategy="SPREAD")
        slot.actor = actor.remote(self._job, slot.number)
        slot.run, slot.asked = slot.actor.run.remote(word), slot.actor.progress.remote()
        slot.state = "waiting"

    def _ask(self) -> None:
        """Takes up what workers said of their progress and asks those again that have answered."""
        asked = {slot.asked: slot for slot in self._slots if slot.asked is not None}
        for answer in _ready(list(asked), 0):
            slot = asked[answer]
            try:
                slot.progress = ray.get(answer)
                slot.state, slot.asked = "running", slot.actor.progress.remote()
            except RayError:
                # Its run fails, too.
                slot.asked = None

    def _outcome(self, slot: _Slot) -> Outcome | None:
        """How the process of `slot` ended; none where its actor or node was lost."""
        try:
            outcome: Outcome = ray.get(slot.run)
            slot.progress = ray.get(slot.actor.progress.remote(), timeout=_STOPPING)
        except GetTimeoutError:
            pass
        except RayError as error:
            self._view.say(f"worker {slot.number} was lost: {type(error).__name__}")
            return None
        return outcome

    def _end(self, slot: _Slot, outcome: Outcome | None) -> None:
        ray.kill(slot.actor)
        slot.actor = slot.run = slot.asked = None
        slot.last = outcome
        if outcome is not None:
            for line in outcome.said.splitlines():
                self._view.say(line)
            if outcome.code == 0:
                return
            if outcome.code in _HOPELESS:
                raise self._failure()
        worked = slot.progress.done
        slot.earlier[slot.progress.stage] = slot.earlier.get(slot.progress.stage, 0) + worked
        slot.progress = Progress(node=slot.progress.node, stage=slot.progress.stage, total=slot.progress.total)
        slot.in_a_row = 1 if worked else slot.in_a_row + 1
        may_pass = outcome is None or outcome.code in _AGAIN or outcome.code < 0
        if not may_pass or slot.in_a_row > self._workers.restarts:
            slot.state = "failed"
            return
        # Workers that a store turned away come back one by one.
        pause = min(_LONGEST_PAUSE, 2.0 ** (slot.in_a_row - 1)) * random.uniform(0.5, 1.5)
        slot.state, slot.again_at = "restarting", time.monotonic() + pause
        slot.restarts += 1
        self._restarts.inc(tags={"worker": str(slot.number)})
        self._view.say(f"worker {slot.number} is started again in {pause:.0f} s, restart {slot.restarts}")

    def _failure(self) -> Failed:
        """What to say of workers of which none goes on."""
        last = [slot.last for slot in self._slots if slot.last is not None]
        if not last:
            return Failed(75, "all workers were lost, again and again; run the same command to go on")
        worst = max(last, key=lambda outcome: (outcome.code in _HOPELESS, outcome.code not in _AGAIN))
        why = worst.said.splitlines()[-1].removeprefix("error: ") if worst.said else f"exit code {worst.code}, without a word"
        return Failed(worst.code if worst.code > 0 else 1, f"no worker can go on: {why}")

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """At the end, whatever it is: nobody works on."""
        try:
            yield
        finally:
            self._view.show([slot.line() for slot in self._slots], now=True)
            running = [slot for slot in self._slots if slot.actor is not None]
            for slot in running:
                slot.actor.stop.remote()
            runs = [slot.run for slot in running if slot.state == "running"]
            deadline = time.monotonic() + _STOPPING
            while runs and time.monotonic() < deadline:
                runs = [run for run in runs if run not in _ready(runs, _LOOK)]
            for slot in running:
                ray.kill(slot.actor)


def _ready(answers: list[Any], patience: float) -> list[Any]:
    """Those of `answers` that are there; waits at most `patience` seconds for a first one."""
    if not answers:
        time.sleep(patience)
        return []
    first, rest = ray.wait(answers, timeout=patience)
    return [*first, *(ray.wait(rest, num_returns=len(rest), timeout=0)[0] if rest else [])]
