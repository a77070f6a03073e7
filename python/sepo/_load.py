"""Datasets that `sepo run` wrote, as the tables that trainers read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    import datasets
    import polars


@overload
def load(
    path: str | os.PathLike[str], *, columns: Sequence[str] | None = ..., to: Literal["datasets"] = ...
) -> datasets.Dataset: ...


@overload
def load(
    path: str | os.PathLike[str], *, columns: Sequence[str] | None = ..., to: Literal["polars"]
) -> polars.DataFrame: ...


def load(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    to: Literal["datasets", "polars"] = "datasets",
) -> Any:
    """The rows of a scored dataset; a list per response stays a list, of its own length in every row.

    Parameters
    ----------
    path
        A Parquet file, a folder of them (what a `write` stage made), or a pattern with ``*``; local, or a URL that
        `datasets` (through fsspec) or `polars` reads.
    columns
        The columns to read; all of them by default.
    to
        ``"datasets"``: a ``datasets.Dataset``, memory-mapped from the cache of `datasets`.
        ``"polars"``: a ``polars.DataFrame`` in memory.

    Returns
    -------
    datasets.Dataset or polars.DataFrame
        Rows in the order of the files.

    Raises
    ------
    FileNotFoundError
        No Parquet file is there.
    """
    files = _files(os.fspath(path))
    names = None if columns is None else list(columns)
    if to == "polars":
        import polars

        return polars.read_parquet(files, columns=names)
    import datasets

    return datasets.Dataset.from_parquet(files, columns=names)


def _files(path: str) -> str | list[str]:
    """The Parquet files that `path` means: a list of local ones, a pattern for those in a store."""
    pattern = path if path.endswith(".parquet") or "*" in path else path.rstrip("/") + "/*.parquet"
    if "://" in path:
        return pattern
    from glob import glob

    files = sorted(glob(pattern)) if "*" in pattern else [pattern]
    if not files or not os.path.exists(files[0]):
        raise FileNotFoundError(f"{pattern}: no Parquet file is there")
    return files
