"""All workers in one view: a table that is drawn anew on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ._worker import Progress

_PAUSE = {True: 1.0, False: 10.0}


@dataclass(frozen=True)
class Line:
    """What is to be said of a worker."""

    number: int
    state: str
    restarts: int
    progress: Progress
    earlier: int
    """Rows that earlier processes of the worker did of the same stage."""

    @property
    def done(self) -> int:
        return self.earlier + self.progress.done

    def text(self) -> str:
        progress = self.progress
        rate = progress.done / progress.seconds if progress.seconds > 0 else 0.0
        did = f"{progress.stage}: {self.done:,} {progress.unit}, {rate:,.1f} a second" if progress.stage else ""
        again = f", restarted {self.restarts} times" if self.restarts else ""
        return f"  worker {self.number:<4} {progress.node:<15} {self.state}{again}  {did}"


class View:
    """Writes to stderr, at most once in a while."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._said = float("-inf")
        self._drawn = 0
        self._messages: set[str] = set()

    def show(self, lines: Sequence[Line], *, now: bool = False) -> None:
        """Shows where everybody is."""
        if not now and time.monotonic() - self._said < _PAUSE[self._terminal]:
            return
        self._said = time.monotonic()
        texts = [_summary(lines, self._said - self._start)]
        if self._terminal:
            texts += [line.text() for line in lines]
            self._clear()
            self._drawn = len(texts)
        print("\n".join(texts), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A message; what many workers say alike is said once."""
        if not text or text in self._messages:
            return
        self._messages.add(text)
        self._clear()
        print(text, file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="", file=sys.stderr)
        self._drawn = 0


def _summary(lines: Sequence[Line], seconds: float) -> str:
    states: dict[str, int] = {}
    for line in lines:
        states[line.state] = states.get(line.state, 0) + 1
    workers = ", ".join(f"{count} {state}" for state, count in states.items())
    stages: dict[str, list[Line]] = {}
    for line in lines:
        if line.progress.stage:
            stages.setdefault(line.progress.stage, []).append(line)
    did = []
    for stage, group in stages.items():
        total = max((line.progress.total or 0 for line in group), default=0)
        of = f"/{total:,}" if total else ""
        did.append(f"{stage}: {sum(line.done for line in group):,}{of} {group[0].progress.unit}")
    return f"{seconds:.0f} s: {'; '.join([f'workers: {workers}', *did])}"
