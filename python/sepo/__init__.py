"""Scored preference data for trainers: `load` reads what `sepo run` wrote, `collator` pads it to batches.

The package installs the program `sepo` too; `program` finds it. `sepo.ray` runs it on a Ray cluster, `sepo.track` sends the metrics of
trainings to experiment trackers.
"""

from ._collate import Batch, Collator, collator
from ._load import load
from ._program import program

__all__ = ["Batch", "Collator", "collator", "load", "program"]
