"""Scoring for those who live in Ray Data: a dataset in, a scored one out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyarrow import fs

if TYPE_CHECKING:
    import ray.data

    from ._driver import Workers

_WRITTEN = "written.json"


def score(
    dataset: ray.data.Dataset,
    pipeline: str | os.PathLike[str],
    *,
    at: str,
    variables: Mapping[str, str] | None = None,
    workers: Workers | None = None,
    environment: Sequence[str] = (),
) -> ray.data.Dataset:
    """Scores the pairs of `dataset` by a pipeline file with the variables ``input`` and ``out``.

    Parameters
    ----------
    dataset
        Pairs in a form that the pipeline's `read` stage takes.
    pipeline
        A file such as pipelines/score.yaml: it reads ``${input}``, works in ``${out}`` and writes ``${out}/scored``.
    at
        A folder or URL that all nodes reach. The rows go to ``<at>/input``, once: a second call with the same `at` goes
        on where the first one stopped, and does not look at `dataset`.
    variables
        Further variables of the file, such as ``oracle`` and ``reference``.
    workers, environment
        As in `run`.

    Returns
    -------
    ray.data.Dataset
        The rows of ``<at>/run/scored``, which it reads lazily.
    """
    import ray.data
    from ray.data import SaveMode

    from . import run

    at = at.rstrip("/")
    store, folder = fs.FileSystem.from_uri(at if "://" in at else os.path.abspath(at))
    done = f"{folder}/{_WRITTEN}"
    if store.get_file_info(done).type == fs.FileType.NotFound:
        dataset.write_parquet(f"{folder}/input", filesystem=store, mode=SaveMode.OVERWRITE)
        with store.open_output_stream(done) as out:
            out.write(json.dumps({"columns": dataset.columns()}).encode())
    variables = {**(variables or {}), "input": f"{at}/input", "out": f"{at}/run"}
    run(pipeline, variables=variables, workers=workers, environment=environment)
    return ray.data.read_parquet(f"{folder}/run/scored", filesystem=store)
