"""``python -m sepo.track runs/first --to wandb``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ._log import Log, LogError, logs
from ._trackers import TRACKERS, copy


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sepo.track", description="metrics of trainings in an experiment tracker")
    add = parser.add_argument
    add("path", type=Path, help="a workdir, a folder logs/STAGE of one, or its metrics.jsonl")
    add("--to", required=True, choices=sorted(TRACKERS), help="the tracker, whose Python package must be installed")
    add("--project", default="sepo", help="the tracker's project or experiment; default: sepo")
    add("--name", help="name of the run, with one training; default: the training's stage")
    add("--follow", action="store_true", help="wait for more until the training ends")
    add("--interval", type=float, default=5.0, metavar="SECONDS", help="between two looks at the log; default: 5")
    return parser


def _track(log: Log, arguments: argparse.Namespace) -> None:
    tracker = TRACKERS[arguments.to](arguments.project, arguments.name or log.name, log.settings)
    try:
        count = copy(log.follow(arguments.interval) if arguments.follow else log.new(), tracker)
    finally:
        tracker.finish()
    print(f"{log.file}: {count} entries to {arguments.to}, project {arguments.project}", file=sys.stderr)


def main(words: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 1 failed, 2 usage, 130 interrupted."""
    parser = _parser()
    arguments = parser.parse_args(words)
    try:
        found = logs(arguments.path, awaited=arguments.follow)
        if len(found) > 1 and (arguments.follow or arguments.name is not None):
            names = ", ".join(log.name for log in found)
            parser.error(f"--follow and --name are for one training: give {arguments.path}/logs/STAGE ({names})")
        for log in found:
            _track(log, arguments)
    except LogError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install {arguments.to}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
