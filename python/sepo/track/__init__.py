"""Metrics of trainings in experiment trackers: ``python -m sepo.track runs/first --to wandb``.

`sepo` writes ``metrics.jsonl`` and TensorBoard events. This program reads ``metrics.jsonl`` and speaks a tracker's own client, which
is installed beside it: nothing of a tracker's file formats or protocols is in `sepo`.
"""

from __future__ import annotations

from ._log import Entry, Log, LogError, logs
from ._trackers import TRACKERS, Tracker, copy

__all__ = ["TRACKERS", "Entry", "Log", "LogError", "Tracker", "copy", "logs"]
