"""Reading a study's summary: the round trip, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from _report import finished_study
from taskloom.errors import DataError
from taskloom.report import load, render_report


def _summary() -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, float) and math.isnan(value):
            return None
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return {"format": 1, **plain(dataclasses.asdict(finished_study()))}


def _write(folder: Path, summary: dict[str, Any]) -> None:
    (folder / "summary.json").write_text(json.dumps(summary, allow_nan=False), encoding="utf-8")


def test_summary_and_report_data_agree(tmp_path: Path) -> None:
    _write(tmp_path, _summary())
    again = load(tmp_path)
    assert json.dumps(dataclasses.asdict(again)) == json.dumps(dataclasses.asdict(finished_study()))


def test_null_is_an_undefined_number(tmp_path: Path) -> None:
    _write(tmp_path, _summary())
    row = load(tmp_path).gain("gender", "c2")
    assert row is not None
    assert math.isnan(row.low)
    assert "[no interval]" in render_report(tmp_path).read_text(encoding="utf-8")


def test_missing_summary_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no summary\.json there; `taskloom study FILE"):
        load(tmp_path)


def test_cut_summary_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"format": 1,\n "title": "x', encoding="utf-8")
    with pytest.raises(DataError, match=r"summary\.json:2: not valid JSON"):
        render_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_other_version_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, {**_summary(), "format": 7})
    with pytest.raises(DataError, match=r"format 1 expected, found 7"):
        load(tmp_path)
