"""From a study's `summary.json` to the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from taskloom.errors import DataError
from taskloom.report.coupling_model import Agreement, CoupledLabel, CoupledTask, CouplingRow
from taskloom.report.landmark_points import read_landmarks
from taskloom.report.model import (
    AuxiliaryRow,
    BaselineRow,
    CellRow,
    Configuration,
    GainRow,
    LabelCount,
    Leakage,
    PlainSum,
    ReportData,
    TaskRow,
)
from taskloom.report.render import write
from taskloom.report.subgroups import read_confusion, read_mistake, read_table
from taskloom.report.training_model import Balancing, Course, Curve, Mixing, Settled, Trajectory
from taskloom.report.words import of_improvement

SUMMARY_FORMAT = 1
Row = TypeVar("Row")


def load(folder: Path) -> ReportData:
    """Reads what a study found.

    Args:
        folder: The study's folder, with `summary.json`.

    Raises:
        DataError: There is no summary, it is cut off, or it is of another version.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise DataError(f"{folder}: no summary.json there; `taskloom study FILE --out {folder}` writes it.")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}); run the study again, nothing is retrained."
        ) from error
    if not isinstance(summary, dict) or summary.get("format") != SUMMARY_FORMAT:
        found = summary.get("format") if isinstance(summary, dict) else type(summary).__name__
        raise DataError(
            f"{path}: a summary of format {SUMMARY_FORMAT} expected, found {found}; run the study again with "
            "this version of taskloom."
        )
    return from_summary(summary)


def from_summary(summary: Mapping[str, Any]) -> ReportData:
    """Builds the page's data from the content of `summary.json`."""
    overall = summary.get("overall") or {"task": None, "gains": []}
    improvement = summary.get("improvement") or {"task": None, "gains": []}
    return ReportData(
        title=summary["title"],
        created=summary["created"],
        tasks=[_row(TaskRow, row) for row in summary["tasks"]],
        cells=[_row(CellRow, {**row, "tasks": tuple(row["tasks"])}) for row in summary["cells"]],
        gains=[gain_row(row) for row in (*summary["gains"], *overall["gains"], *improvement["gains"])],
        curves=[_row(Curve, {**row, "values": _numbers(row["values"])}) for row in summary["curves"]],
        mixing=[_row(Mixing, {**row, "tasks": tuple(row["tasks"])}) for row in summary["mixing"]],
        labels=[_row(LabelCount, row) for row in summary["labels"]],
        num_repeats=summary["num_repeats"],
        clusters=summary["clusters"],
        design=summary["design"],
        failed=summary["failed"],
        warnings=summary["warnings"],
        data_notes=summary["data_notes"],
        environment=summary["environment"],
        study_file=summary["study_file"],
        overall=_row(TaskRow, overall["task"]) if overall["task"] else None,
        improvement=_row(TaskRow, improvement["task"]) if improvement["task"] else None,
        improvement_of=of_improvement(summary.get("improvement")),
        balancing=[_balancing(row) for row in summary.get("balancing", ())],
        plain_sums=[
            PlainSum(row["cell"], [gain_row(gain) for gain in row["gains"]])
            for row in summary.get("plain_sums", ())
        ],
        task_ends=summary.get("task_ends", ()),
        couplings=[_coupling(row) for row in summary.get("couplings", ())],
        course=_course(summary.get("course")),
        leakage=[_row(Leakage, row) for row in summary.get("leakage", ())],
        auxiliary=[_row(AuxiliaryRow, row) for row in summary.get("auxiliary", ())],
        baselines=[_row(BaselineRow, row) for row in summary.get("baselines", ())],
        configurations=[_row(Configuration, row) for row in summary.get("configurations", ())],
        landmarks=[read_landmarks(row) for row in summary.get("landmarks", ())],
        subgroups=[read_table(row) for row in summary.get("subgroups", ())],
        confusions=[read_confusion(row) for row in summary.get("confusions", ())],
        gallery=[read_mistake(row) for row in summary.get("gallery", ())],
    )


def render_report(folder: Path) -> Path:
    """Writes `report.html` beside the study's `summary.json`. Returns its path.

    Raises:
        DataError: See `load`.
    """
    return write(load(folder), folder / "report.html")


def _coupling(row: Mapping[str, Any]) -> CouplingRow:
    found = {side: None if one is None else _row(Agreement, one) for side, one in row["consistency"].items()}
    plain = {key: value for key, value in row.items() if key != "consistency"}
    tables = {key: [_numbers(line) for line in row[key]] for key in ("values", "low", "high")}
    return _row(
        CouplingRow,
        {
            **plain,
            **tables,
            "tasks": [_row(CoupledTask, _renamed(one)) for one in row["tasks"]],
            "labels": [_row(CoupledLabel, _renamed(one)) for one in row["labels"]],
        },
        alone=found["alone"],
        without=found["without"],
        coupled=found["with"],
    )


def _renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    """`with`, a word of Python's, as `coupled`."""
    return {("coupled" if key == "with" else key): value for key, value in row.items()}


def gain_row(values: Mapping[str, Any]) -> GainRow:
    """A gain of `summary.json`, null for an undefined number.

    Example:
        >>> row = {"task": "age", "cell": "a", "baseline": 5.0, "value": 5.0, "gain": 0.0, "p_value": 1.0}
        >>> gain_row({**row, "low": None, "high": None, "verdict": "no difference shown"}).low
        nan
    """
    return _row(GainRow, values)


def _row(kind: type[Row], values: Mapping[str, Any], **further: Any) -> Row:
    """A row in which null, JSON's word for an undefined number, is NaN again; `further` is as it is."""
    return kind(**{key: math.nan if value is None else value for key, value in values.items()}, **further)


def _balancing(row: Mapping[str, Any]) -> Balancing:
    return Balancing(
        row["cell"],
        {name: _numbers(values) for name, values in row["weights"].items()},
        {name: _numbers(values) for name, values in row["cosines"].items()},
        _numbers(row["conflict_rate"]),
        row.get("frozen"),
        row.get("note", ""),
        row.get("remark", ""),
        {name: _numbers(values) for name, values in row.get("reversal", {}).items()},
    )


def _course(values: Mapping[str, Any] | None) -> Course | None:
    if values is None:
        return None
    trajectories = [
        _row(Trajectory, {**row, "runs": [_numbers(run) for run in row["runs"]]})
        for row in values["trajectories"]
    ]
    settled = [
        _row(Settled, {**row, "values": {name: _undefined(each) for name, each in row["values"].items()}})
        for row in values["settled"]
    ]
    return Course(values["last_epochs"], values["loess_span"], trajectories, settled)


def _undefined(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def _numbers(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
