"""The module on a dataset that the program wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import sepo
from conftest import REPOSITORY, Scored


def test_lists_are_as_the_program_wrote_them(scored: Scored) -> None:
    table = pq.read_table(scored.rows)
    rows = sepo.load(scored.rows)
    assert rows.num_rows == table.num_rows == 96
    assert rows.column_names == table.column_names
    assert rows.to_list() == table.to_pylist()
    frame = sepo.load(scored.rows, to="polars")
    assert frame.to_dicts() == table.to_pylist()
    names = ["row_id", "chosen_key_mask"]
    assert sepo.load(scored.rows / "*.parquet", columns=names).column_names == names
    assert sepo.load(next(scored.rows.glob("*.parquet")), columns=names, to="polars").columns == names


def test_a_folder_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no Parquet file is there"):
        sepo.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet: no Parquet file is there"):
        sepo.load(tmp_path / "gone.parquet", to="polars")


def test_types_are_complete() -> None:
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml"]
    checked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
