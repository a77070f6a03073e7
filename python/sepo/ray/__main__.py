"""``python -m sepo.ray run score.yaml``."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType
from typing import NoReturn

import ray

from . import default_workers, run
from ._driver import Failed


def _count(text: str) -> int | None:
    if text == "auto":
        return None
    count = int(text)
    if count < 1:
        raise ValueError
    return count


_count.__name__ = "number of workers"


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: give NAME=VALUE")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sepo.ray", description="sepo on a Ray cluster")
    words = parser.add_subparsers(required=True, metavar="COMMAND")
    command = words.add_parser("run", help="run a pipeline file with many workers, until its result is there")
    add = command.add_argument
    add("file", help="the pipeline file; its workdir and inputs must be reached from all nodes")
    add("--address", default="auto", help="the cluster: auto (RAY_ADDRESS, or one on this machine), host:port, local")
    add("--workers", type=_count, default=None, metavar="N|auto", help="default: auto, as many as the cluster has room for")
    add("--gpus-per-worker", type=float, metavar="G", help="default: 1 where the cluster has GPUs, else 0")
    add("--cpus-per-worker", type=float, metavar="C", help="default: 1; also the threads of a worker")
    add("--restarts", type=int, default=20, metavar="N", help="of one worker, without a row done in between; default: 20")
    add("--var", type=_assignment, action="append", default=[], metavar="NAME=VALUE", help="a variable of the file")
    add("--env", action="append", default=[], metavar="NAME", help="a variable of this environment that workers get")
    return parser


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """The command line; its exit code is that of `sepo`."""
    arguments = _parser().parse_args()
    try:
        # Workers write into the one view, not beside it.
        ray.init(address=arguments.address, log_to_driver=False, configure_logging=False)
        signal.signal(signal.SIGTERM, _interrupt)
        workers = default_workers(
            arguments.workers, arguments.gpus_per_worker, arguments.cpus_per_worker, arguments.restarts
        )
        result = run(arguments.file, variables=dict(arguments.var), workers=workers, environment=arguments.env)
        print(result, end="")
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    except Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return failed.code
    except (ConnectionError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
