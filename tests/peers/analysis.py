"""Runs every question of docs/analysis.md in DuckDB, polars and pandas and compares the answers.

    python tests/peers/analysis.py SCORED

SCORED is the folder that the quickstart's `write` stage made, with `tokens: true`. Needs duckdb, polars, pandas and pyarrow.
"""

import ast
import math
import os
import pathlib
import re
import sys
import tempfile

import duckdb
import pandas
import polars

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "analysis.md"


def blocks(text):
    return [block for _, block in re.findall(r"^```(sql|python)\n(.*?)^```$", text, re.M | re.S)]


def last_value(code, names):
    """Runs `code`; the value of its last line, which is an expression."""
    *statements, last = ast.parse(code).body
    exec(compile(ast.Module(statements, []), "analysis.md", "exec"), names)
    return eval(compile(ast.Expression(last.value), "analysis.md", "eval"), names)


def rows(answer):
    """An answer of any engine as a list of tuples of plain values."""
    if isinstance(answer, duckdb.DuckDBPyRelation):
        answer = answer.fetchall()
    elif isinstance(answer, polars.DataFrame):
        answer = answer.rows()
    elif isinstance(answer, pandas.DataFrame):
        answer = answer.itertuples(index=False, name=None)
    answer = list(answer)
    if answer and not isinstance(answer[0], (tuple, list)):
        answer = [answer]
    return [tuple(value.item() if hasattr(value, "item") else value for value in row) for row in answer]


def same(one, other):
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return one == other


def agree(one, other):
    return len(one) == len(other) and all(
        len(a) == len(b) and all(map(same, a, b)) for a, b in zip(one, other)
    )


def main():
    scored = pathlib.Path(sys.argv[1]).resolve()
    before, *questions = PAGE.read_text().split("\n## ")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.makedirs("runs/quickstart")
        os.symlink(scored, "runs/quickstart/scored")
        view, imports = blocks(before)
        names = {}
        duckdb.sql(view)
        exec(imports, names)
        wrong = []
        for question in questions:
            title = question.splitlines()[0]
            sql, polars_code, pandas_code = blocks(question)
            answers = {
                "DuckDB": rows(duckdb.sql(sql)),
                "polars": rows(last_value(polars_code, dict(names))),
                "pandas": rows(last_value(pandas_code, dict(names))),
            }
            expected = answers["DuckDB"]
            found = [name for name, answer in answers.items() if not agree(expected, answer)]
            print(f"{'differ' if found or not expected else 'agree '}  {title}  {len(expected)} rows")
            if found or not expected:
                wrong.append(f"{title}: {answers}")
    if wrong or len(questions) < 12:
        sys.exit("\n".join(wrong) or f"only {len(questions)} questions")


main()
