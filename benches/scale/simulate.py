#!/usr/bin/env python3
"""A thousand workers on a million units: the program's rule for taking units (`walk` in src/pipeline/run/materialise.rs), played with
latencies of a store that were measured.

    python3 benches/scale/simulate.py [--latencies benches/scale/overheads.json] [--out FILE.json]

A worker looks whether the next unit of its stretch has a note; does it if not, in about --unit-seconds times its slowness; puts the part,
then the note. Where it meets another worker's note it lists the names after it (one answer), exchanges what is known in
`known.bits`, and goes on at a random one of the units that are left to its knowledge; every 64 units it exchanges, too. Of the
workers 5 % are stragglers, three times as slow. With a probability of 1 % a process dies in the middle of a unit; another one stands
in its place after a back-off and the time to load models. A worker that knows of no unit that is left commits: it reads all
notes, and the parts that were there before it came up, 16 at a time. Answers take the time of a random request among those measured, times --store-factor. Needs numpy.
"""
import argparse
import heapq
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

# Units in one answer of a store: a unit has a note and a part, and an answer 1,000 names.
PAGE = 500
AT_ONCE = 16
OFTEN = 64
START = 60.0


class Store:
    """Latencies drawn from histograms, and how many requests there were in every second."""

    def __init__(self, measured: dict, factor: float, rng: np.random.Generator) -> None:
        self.draws = {kind: self._draw(measured[kind]["within"], factor, rng) for kind in ("GET", "PUT", "LIST")}
        self.drawn = 0
        self.requests: Counter = Counter()
        self.seconds: Counter = Counter()
        # Those for the one object that all workers share.
        self.of_known: Counter = Counter()

    @staticmethod
    def _draw(within: list, factor: float, rng: np.random.Generator) -> list[float]:
        edges = np.array([edge for edge, _ in within])
        counts = np.diff([0, *(count for _, count in within)])
        index = rng.choice(len(edges), size=1 << 16, p=counts / counts.sum())
        lower = np.concatenate([[0], edges[:-1]])
        return (factor * rng.uniform(lower[index], edges[index])).tolist()

    def ask(self, kind: str, at: float, times: int = 1) -> float:
        """Seconds until the last of `times` requests, one after the other, is answered."""
        self.requests[kind] += times
        self.seconds[int(at)] += times
        self.drawn = (self.drawn + 1) & 0xFFFF
        return times * self.draws[kind][self.drawn]


class Worker:
    """The way of one process, and what it knows of units: 1 where one is finished."""

    def __init__(self, known: np.ndarray, rng: np.random.Generator) -> None:
        self.known = known
        self.rng = rng
        self.found = int(known.sum())
        self.at = 0
        self.did = 0

    def jump(self) -> None:
        """To any unit that is left, each as likely as another."""
        for guess in self.rng.integers(len(self.known), size=32):
            if not self.known[guess]:
                self.at = int(guess)
                return
        left = np.flatnonzero(self.known == 0)
        self.at = int(self.rng.choice(left)) if len(left) else -1

    def next(self) -> int:
        """The next unit, or -1 where it knows of none."""
        if self.at < 0 or self.at >= len(self.known) or self.known[self.at]:
            self.jump()
        unit = self.at
        if unit >= 0:
            self.known[unit] = 1
            self.at += 1
        return unit


class World:
    """All workers, and the notes that are there."""

    def __init__(self, arguments: argparse.Namespace, measured: dict) -> None:
        self.rng = np.random.default_rng(arguments.seed)
        self.arguments = arguments
        self.store = Store(measured, arguments.store_factor, self.rng)
        self.noted = np.zeros(arguments.units, np.uint8)
        self.told = np.zeros(arguments.units, np.uint8)
        self.left = arguments.units
        stragglers = self.rng.random(arguments.workers) < arguments.stragglers
        self.slowness = np.where(stragglers, 3.0, 1.0)
        self.counts: Counter = Counter()
        self.done_at = 0.0

    def tell(self, worker: Worker, at: float) -> float:
        """Both sides know what one of them did."""
        seconds = self.store.ask("GET", at) + self.store.ask("PUT", at)
        self.store.of_known[int(at)] += 2
        np.bitwise_or(worker.known, self.told, out=worker.known)
        self.told = worker.known.copy()
        return seconds

    def meet(self, worker: Worker, unit: int, at: float) -> float:
        """At another worker's note."""
        self.counts["met"] += 1
        seconds = self.store.ask("LIST", at)
        window = slice(unit, unit + PAGE)
        np.bitwise_or(worker.known[window], self.noted[window], out=worker.known[window])
        seconds += self.tell(worker, at)
        worker.jump()
        return seconds

    def publish(self, worker: Worker, unit: int, at: float) -> float:
        """The part and the note of `unit`, which is done; when the worker can go on."""
        at += self.store.ask("PUT", at) + self.store.ask("PUT", at)
        if self.noted[unit]:
            self.counts["twice"] += 1
            return at + self.meet(worker, unit, at)
        self.noted[unit] = 1
        self.left -= 1
        self.done_at = max(self.done_at, at)
        worker.did += 1
        return at + self.tell(worker, at) if worker.did % OFTEN == 0 else at

    def take(self, worker: Worker, at: float) -> tuple[int, float]:
        """The next unit without a note, or -1; and when its work can begin."""
        while (unit := worker.next()) >= 0:
            at += self.store.ask("GET", at)
            if not self.noted[unit]:
                # Its rows.
                return unit, at + self.store.ask("GET", at)
            at += self.meet(worker, unit, at)
        return -1, at

    def begin(self, at: float) -> tuple[Worker, float]:
        """A process that comes up and asks what is known."""
        worker = Worker(self.told.copy(), self.rng)
        at += self.arguments.load_seconds + self.store.ask("LIST", at) + self.store.ask("GET", at)
        at += self.tell(worker, at)
        worker.jump()
        return worker, at

    def run(self) -> dict:
        arguments, rng = self.arguments, self.rng
        takes = (rng.lognormal(-0.02, 0.2, 1 << 16) * arguments.unit_seconds).tolist()
        dies = (rng.random(1 << 16) < arguments.failures).tolist()
        workers: list[Worker | None] = [None] * arguments.workers
        # At a time: the worker begins (-1), or has done a unit.
        events = [(START * rng.random(), index, -1) for index in range(arguments.workers)]
        heapq.heapify(events)
        computed, number, first, found = 0.0, 0, float("inf"), 0
        while events:
            at, index, unit = heapq.heappop(events)
            worker = workers[index]
            if worker is None or unit < 0:
                worker, at = self.begin(at)
                workers[index] = worker
            else:
                at = self.publish(worker, unit, at)
            unit, at = self.take(worker, at)
            if unit < 0:
                if at < first:
                    first, found = at, worker.found
                workers[index] = None
                continue
            number = (number + 1) & 0xFFFF
            seconds = takes[number] * self.slowness[index]
            if dies[number]:
                self.counts["died"] += 1
                computed += seconds / 2
                heapq.heappush(events, (at + seconds / 2 + arguments.back_off, index, -1))
            else:
                computed += seconds
                heapq.heappush(events, (at + seconds, index, unit))
        return self.result(computed, first, found)

    def result(self, computed: float, first: float, found: int) -> dict:
        arguments, store, count = self.arguments, self.store, self.arguments.units
        speed = float(np.sum(1 / self.slowness))
        ideal = count * arguments.unit_seconds / speed
        commit = (count + found) * float(np.mean(store.draws["GET"])) / AT_ONCE
        store.requests["GET"] += count + found
        lost = self.counts["died"] * (arguments.unit_seconds / 2 + arguments.load_seconds + arguments.back_off)
        return {
            "workers": arguments.workers,
            "units": count,
            "unit_seconds": arguments.unit_seconds,
            "store_factor": arguments.store_factor,
            "ideal_seconds": round(ideal),
            "all_units_done_seconds": round(self.done_at),
            "first_worker_knows_seconds": round(first),
            "committed_seconds": round(first + commit),
            "makespan_over_ideal": round((first + commit) / ideal, 3),
            "of_that_deaths": round(lost / arguments.workers / ideal, 3),
            "of_that_commit": round(commit / ideal, 3),
            "computed_over_needed": round(computed / (count * arguments.unit_seconds * arguments.workers / speed), 3),
            "units_done_twice": self.counts["twice"],
            "processes_that_died": self.counts["died"],
            "met_another_worker": self.counts["met"],
            "requests_per_unit": round(sum(store.requests.values()) / count, 2),
            "by_kind": {kind: round(number / count, 3) for kind, number in store.requests.items()},
            "mean_requests_a_second": round(sum(store.requests.values()) / self.done_at),
            "busiest_second": max(store.seconds.values()),
            "busiest_second_of_known": max(store.of_known.values()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--workers", type=int, default=1000)
    add("--units", type=int, default=1_000_000)
    add("--unit-seconds", type=float, default=10.0)
    add("--stragglers", type=float, default=0.05)
    add("--failures", type=float, default=0.01)
    add("--load-seconds", type=float, default=30.0)
    add("--back-off", type=float, default=1.0)
    add("--store-factor", type=float, default=1.0)
    add("--seed", type=int, default=1)
    add("--latencies", type=Path, default=Path(__file__).with_name("overheads.json"))
    add("--out", type=Path)
    arguments = parser.parse_args()
    start = time.monotonic()
    result = World(arguments, json.loads(arguments.latencies.read_text())["latencies"]).run()
    print(json.dumps(result, indent=1))
    print(f"simulated in {time.monotonic() - start:.0f} s", file=sys.stderr)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
