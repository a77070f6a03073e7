"""``metrics.jsonl`` while a training writes it, and after a killed training continued."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_METRICS = "metrics.jsonl"


class LogError(Exception):
    """A log that cannot be read, with the file and what to do."""


@dataclass(frozen=True)
class Entry:
    """A line of the log: the numbers of `part` (``train`` or ``eval``) at an optimizer step."""

    step: int
    part: str
    values: dict[str, float]

    def named(self) -> dict[str, float]:
        """The numbers under the names that TensorBoard shows: ``train/loss``."""
        return {f"{self.part}/{name}": value for name, value in self.values.items()}


@dataclass
class Log:
    """The log of one training.

    A training that was killed takes its log up to its last checkpoint and continues from there, so that the file may become shorter and
    repeat steps. A step that was read is not read again.
    """

    folder: Path
    _settings: dict[str, str] | None = field(default=None, init=False)
    _last: dict[str, int] = field(default_factory=dict, init=False)

    @property
    def file(self) -> Path:
        return self.folder / _METRICS

    @property
    def name(self) -> str:
        """The training's name: the id of its stage, in a sweep with a fingerprint."""
        return self.folder.name

    @property
    def settings(self) -> dict[str, str]:
        """What `sepo` recorded beside the log: the stage and the fingerprint of its settings and inputs."""
        try:
            record = json.loads((self.folder / "sepo.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return {key: str(record[key]) for key in ("stage", "fingerprint") if key in record}

    def new(self) -> list[Entry]:
        """The entries since the last call, in the order of the file.

        Raises
        ------
        LogError
            A line that is no entry, or the log of another training in the same place.
        """
        try:
            lines = self.file.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        # The last line may be on its way.
        whole = [line for line in lines if line.endswith(b"\n")]
        if not whole:
            return []
        settings = self.settings
        if self._settings is not None and settings != self._settings:
            raise LogError(f"{self.file}: a training with other settings writes here now; start again to track it")
        self._settings = settings
        entries = []
        for number, line in enumerate(whole, 1):
            entry = self._entry(number, line)
            if entry.step > self._last.get(entry.part, -1):
                self._last[entry.part] = entry.step
                entries.append(entry)
        return entries

    def _entry(self, number: int, line: bytes) -> Entry:
        try:
            record = json.loads(line)
            step, part = record.pop("step"), record.pop("part")
            if not isinstance(step, int) or not isinstance(part, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LogError(f"{self.file}, row {number}: not a line that sepo wrote") from None
        numbers = {name: float(value) for name, value in record.items() if _is_number(value)}
        return Entry(step, part, numbers)

    def is_finished(self) -> bool:
        """Whether the training ended: its workdir has a record of the result that is not older than the log."""
        result = self.folder.parent.parent / "results" / f"{self.name}.json"
        try:
            return result.stat().st_mtime_ns >= self.file.stat().st_mtime_ns
        except FileNotFoundError:
            return False

    def follow(self, interval: float) -> Iterator[Entry]:
        """All entries up to the end of the training, which is looked at every `interval` seconds."""
        while True:
            # In this order: what was written before the end is read after it.
            finished = self.is_finished()
            yield from self.new()
            if finished:
                return
            time.sleep(interval)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def logs(path: Path, *, awaited: bool = False) -> list[Log]:
    """The logs that `path` means: a ``metrics.jsonl``, the folder of one, or a workdir with several.

    Parameters
    ----------
    awaited
        Whether the folder of one log may be made later.

    Raises
    ------
    LogError
        No log is there.
    """
    if path.name == _METRICS:
        path = path.parent
    if (path / _METRICS).is_file() or (awaited and path.parent.name == "logs"):
        return [Log(path)]
    found = sorted(file.parent for file in (path / "logs").glob(f"*/{_METRICS}"))
    if not found:
        raise LogError(f"{path}: neither a {_METRICS}, nor a workdir with logs/STAGE/{_METRICS}")
    return [Log(folder) for folder in found]
