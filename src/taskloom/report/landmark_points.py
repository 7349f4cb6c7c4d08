"""The report's section on single landmarks: read from a summary, and as text ready to print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskloom.report import words
from taskloom.report.model import ReportData
from taskloom.report.subgroup_model import Estimate, LandmarkPoint, LandmarkTable
from taskloom.report.subgroups import colour_class, read_estimate

Cell = tuple[str, str, str]
"""Text alone, text with sharing, css class of the second."""


def read_landmarks(row: Mapping[str, Any]) -> LandmarkTable:
    """One entry of the summary's `landmarks`."""
    points = [
        LandmarkPoint(
            entry["name"],
            entry["labels"],
            {
                measure: (
                    read_estimate(found["alone"]),
                    read_estimate(found["shared"]),
                    read_estimate(found["gain"]),
                )
                for measure, found in entry["measures"].items()
            },
        )
        for entry in row["points"]
    ]
    return LandmarkTable(row["task"], row["cell"], row["reference"], points)


@dataclass(frozen=True)
class LandmarkView:
    """One table, ready to print.

    Args:
        task: The task.
        reference: What errors are divided by.
        cell: Name of the cell.
        measures: Names of the measures.
        rows: Per landmark its name, the number of labels and a `Cell` per measure.
    """

    task: str
    reference: str
    cell: str
    measures: list[str]
    rows: list[tuple[str, str, list[Cell]]]


def landmark_views(data: ReportData) -> list[LandmarkView]:
    """Every table of landmarks."""
    return [_view(data, table) for table in data.landmarks]


def _view(data: ReportData, table: LandmarkTable) -> LandmarkView:
    cell = data.cell(table.cell)
    names = list(table.points[0].measures)
    rows = [
        (
            point.name,
            f"{point.labels:,}",
            [_cell(name, *point.measures[name]) for name in names],
        )
        for point in table.points
    ]
    measures = [words.metric_name(name) for name in names]
    return LandmarkView(table.task, table.reference, cell.name if cell else "", measures, rows)


def _cell(measure: str, alone: Estimate | None, shared: Estimate | None, gain: Estimate | None) -> Cell:
    return _value(measure, alone), _value(measure, shared), colour_class(gain)


def _value(measure: str, found: Estimate | None) -> str:
    if found is None:
        return "–"
    value = _share(found.value, measure)
    bounds = [_share(bound, measure) for bound in (found.low, found.high)]
    return value if "–" in bounds else f"{value} [{bounds[0]}, {bounds[1]}]"


def _share(value: float, measure: str) -> str:
    """Errors as people write them here, in percent of the length: 4.12."""
    return words.number(value, "accuracy", further=1 if measure == "landmark_error" else 0)
