"""Tables that `taskloom init` refuses: every mistake is one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from _drafts import ROWS, people
from taskloom.cli import app
from taskloom.errors import ConfigError, DataError
from taskloom.study.draft import draft_study


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _init(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)


def _write(change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(people()).to_csv("people.csv", index=False)


@pytest.mark.parametrize(
    ("change", "tasks", "message"),
    [
        (
            lambda f: f,
            ["il", "score"],
            "people.csv: no column `il`, which `--tasks` needs. Did you mean `ill`",
        ),
        (lambda f: f, ["ill", "x-*"], "people.csv: no column `x-*`, which `--tasks` needs."),
        (
            lambda f: f.assign(k=1),
            ["ill", "k"],
            "column `k` cannot be a task: it holds `1` wherever it is not ",
        ),
        (lambda f: f.assign(k=""), ["ill", "k"], "column `k` cannot be a task: it is blank in all 200 rows"),
        (
            lambda f: f.assign(k=[f"t{row}" for row in range(ROWS)]),
            ["ill", "k"],
            "column `k` cannot be a task: it is text of 200 different values in 200 rows, such as `t0`",
        ),
        (
            lambda f: f.assign(k=["12a", *map(str, range(1, ROWS))]),
            ["ill", "k"],
            "people.csv:2: column `k`: a number expected, found `12a`",
        ),
        (
            lambda f: f.assign(k=pd.date_range("2011-01-01", periods=ROWS).strftime("%d.%m.%Y")),
            ["ill", "k"],
            "column `k` cannot be a task: it holds dates, such as `",
        ),
        (lambda f: f[["ill", "score"]], ["ill", "score"], "no input is left to predict the tasks from"),
        (lambda f: f[:1], ["ill", "score"], "people.csv: 1 row, which is too few to train"),
        (lambda f: f.rename(columns={"a": "b "}), ["ill", "score"], "people.csv:1: column `b` stands twice"),
    ],
)
def test_bad_tables(
    here: Path, change: Callable[[pd.DataFrame], pd.DataFrame], tasks: list[str], message: str
) -> None:
    _write(change)
    with pytest.raises(DataError) as error:
        draft_study("people.csv", tasks)
    assert message in str(error.value)
    assert str(error.value).count("\n") == 0


def test_nothing_there(here: Path) -> None:
    result = _init("peple.csv")
    assert result.exit_code == 2
    expected = "peple.csv: a table (CSV, TSV or Parquet), or a folder of images or recordings with one, exp"
    assert result.stderr.startswith(expected)


def test_one_task_shares_with_nothing(here: Path) -> None:
    _write(lambda frame: frame)
    with pytest.raises(ConfigError, match="two columns or more expected, as tasks share with each other"):
        draft_study("people.csv", ["ill"])


@pytest.mark.parametrize("text", [b"", b"a,b,c\n", "grün,b\n1,2\n".encode("cp1252"), b"\x00\x01"])
def test_unreadable_tables_are_one_sentence(here: Path, text: bytes) -> None:
    Path("people.csv").write_bytes(text)
    for arguments in (["people.csv"], ["people.csv", "--tasks", "a,b"]):
        result = _init(*arguments)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert result.stderr.startswith("people.csv")
