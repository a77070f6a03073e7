"""`sepo run` on a Ray cluster, with workers that may die: `run`, `score`, and ``python -m sepo.ray``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import ray

from ._dataset import score
from ._driver import Driver, Failed, Workers
from ._job import Job

__all__ = ["Failed", "Workers", "run", "score"]


def run(
    pipeline: str | os.PathLike[str],
    *,
    variables: Mapping[str, str] | None = None,
    workers: Workers | None = None,
    environment: Sequence[str] = (),
) -> str:
    """Runs a pipeline file with many workers on the cluster that ``ray.init`` connected to.

    Parameters
    ----------
    pipeline
        The file; every node gets its text. Its workdir and its inputs must be reached from all nodes.
    variables
        Variables of the file.
    workers
        How many, and what each holds of its node. By default one for each GPU, or, in a cluster without, for each CPU.
    environment
        Names of environment variables of this process that the workers get, such as ``AWS_ACCESS_KEY_ID``, where nodes
        have no credentials of their own.

    Returns
    -------
    str
        The summary of ``sepo merge``.

    Raises
    ------
    Failed
        The program failed on all workers.
    """
    return Driver(Job.of(pipeline, variables or {}, environment), workers or default_workers()).run()


def default_workers(
    count: int | None = None, gpus: float | None = None, cpus: float | None = None, restarts: int = 20
) -> Workers:
    """`Workers` with what a cluster suggests in place of None: a GPU each, if there is one, and a CPU."""
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) > 0 else 0.0
    return Workers(count, gpus, 1.0 if cpus is None else cpus, restarts)
