"""The report's sections by class and subgroup: read from a summary, and as text ready to print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from taskloom.report import words
from taskloom.report.model import ReportData
from taskloom.report.subgroup_model import Confusion, Estimate, Gap, Mistake, Subgroup, SubgroupTable

_PERCENT_METRICS = ("accuracy",)


# -- from a summary


def read_table(row: Mapping[str, Any]) -> SubgroupTable:
    """One entry of the summary's `subgroups`."""
    subgroups = [
        Subgroup(
            entry["name"],
            entry["labels"],
            read_estimate(entry["alone"]),
            read_estimate(entry["shared"]),
            read_estimate(entry["gain"]),
        )
        for entry in row["subgroups"]
    ]
    return SubgroupTable(
        task=row["task"],
        metric=row["metric"],
        unit=row["unit"],
        higher_is_better=row["higher_is_better"],
        by=row["by"],
        own=row["own"],
        cell=row["cell"],
        subgroups=subgroups,
        alone=_gap(row["gaps"]["alone"]),
        shared=_gap(row["gaps"]["shared"]),
        change=_gap(row["gaps"]["change"]),
    )


def read_confusion(row: Mapping[str, Any]) -> Confusion:
    """One entry of the summary's `confusions`."""
    return Confusion(**row)


def read_mistake(row: Mapping[str, Any]) -> Mistake:
    """One entry of the summary's `gallery`."""
    return Mistake(**row)


def read_estimate(row: Mapping[str, float | None] | None) -> Estimate | None:
    """A value with its bounds, null as NaN."""
    if row is None:
        return None
    value, low, high = (math.nan if row[key] is None else float(row[key]) for key in ("value", "low", "high"))  # type: ignore[arg-type]
    return Estimate(value, low, high)


def _gap(row: Mapping[str, Any] | None) -> Gap | None:
    found = read_estimate(row)
    return None if row is None or found is None else Gap(row["best"], row["worst"], found)


# -- for the page

_MOST_OPEN = 16
"""Tables of subgroups that a page shows at once: four tasks by the classes of all four."""


@dataclass(frozen=True)
class SubgroupView:
    """One table, ready to print.

    Args:
        title: "age by ethnicity".
        metric: What is shown.
        cell: Name of the cell.
        rows: Lines of (subgroup, labels, alone, shared, gain, css class).
        sentences: On the gaps, the most important first.
    """

    title: str
    metric: str
    cell: str
    rows: list[tuple[str, str, str, str, str, str]]
    sentences: list[str]


@dataclass(frozen=True)
class SubgroupsOfTask:
    """All tables of one task.

    Args:
        task: The task.
        open: Tables that are shown at once.
        folded: Tables that a click shows, where there are many.
    """

    task: str
    open: list[SubgroupView]
    folded: list[SubgroupView]


def subgroup_views(data: ReportData) -> list[SubgroupsOfTask]:
    """The tables of subgroups by task; of a task with many, those by other tasks' classes are folded."""
    by_task: dict[str, list[SubgroupTable]] = {}
    for table in data.subgroups:
        by_task.setdefault(table.task, []).append(table)
    many = len(data.subgroups) > _MOST_OPEN
    return [
        SubgroupsOfTask(
            task,
            [_view(data, table) for table in tables if table.own or not many],
            [_view(data, table) for table in tables if many and not table.own],
        )
        for task, tables in by_task.items()
    ]


def _view(data: ReportData, table: SubgroupTable) -> SubgroupView:
    cell = data.cell(table.cell)
    unit = "points" if table.metric in _PERCENT_METRICS else table.unit
    rows = [
        (
            entry.name,
            f"{entry.labels:,}",
            _value(entry.alone, table),
            _value(entry.shared, table),
            _difference(entry.gain, table, entry.alone),
            colour_class(entry.gain),
        )
        for entry in table.subgroups
    ]
    return SubgroupView(
        title=f"{table.task} by its own classes" if table.own else f"{table.task} by {table.by}",
        metric=words.metric_name(table.metric) + (f" ({table.unit})" if table.unit else ""),
        cell=cell.name if cell else "",
        rows=rows,
        sentences=_sentences(table, unit),
    )


def _value(found: Estimate | None, table: SubgroupTable) -> str:
    if found is None:
        return "–"
    value = words.with_unit(found.value, table.metric)
    bounds = [words.number(bound, table.metric, like=found.value) for bound in (found.low, found.high)]
    return value if "–" in bounds else f"{value} [{bounds[0]}, {bounds[1]}]"


def _difference(found: Estimate | None, table: SubgroupTable, like: Estimate | None) -> str:
    if found is None:
        return "–"
    size = math.nan if like is None else like.value
    text = [
        words.number(number, table.metric, signed=signed, like=size)
        for number, signed in ((found.value, True), (found.low, False), (found.high, False))
    ]
    return f"{text[0]} [{text[1]}, {text[2]}]" if math.isfinite(found.low) else f"{text[0]} [no interval]"


def colour_class(found: Estimate | None) -> str:
    """ "helped", "hurt" or "unclear": whether the interval of a gain leaves out 0."""
    if found is None or not math.isfinite(found.low):
        return "unclear"
    return "helped" if found.low > 0 else "hurt" if found.high < 0 else "unclear"


def _sentences(table: SubgroupTable, unit: str) -> list[str]:
    said = []
    for who, gap in (("Alone", table.alone), ("With sharing", table.shared)):
        if gap is None:
            continue
        unlike = " (no difference shown)" if gap.difference.low <= 0 else ""
        if gap.difference.value == 0 and not math.isfinite(gap.difference.low):
            said.append(f"{who}: none is better than another [no interval].")
            continue
        said.append(
            f"{who}: {gap.best} is best, {gap.worst} worst, {_plain(gap, table)}{_after(unit)} apart{unlike}."
        )
    if table.change is not None:
        gap, change = table.change, table.change.difference
        if change.high < 0:
            verdict = "sharing brings them nearer"
        elif change.low > 0:
            verdict = "sharing moves them further apart"
        else:
            verdict = "no change by sharing is shown"
        said.append(
            f"Between {gap.best} and {gap.worst}, {verdict}: {_plain(gap, table, signed=True)}{_after(unit)}."
        )
    return said


def _after(unit: str) -> str:
    return f" {unit}" if unit else ""


def _typical(table: SubgroupTable) -> float | None:
    """A value of the table, whose number of decimals differences have too."""
    first = table.subgroups[0]
    shown = first.alone or first.shared
    return shown.value if shown is not None and math.isfinite(shown.value) else None


def _plain(gap: Gap, table: SubgroupTable, *, signed: bool = False) -> str:
    found = gap.difference
    text = [
        words.number(number, table.metric, signed=sign, like=_typical(table))
        for number, sign in ((found.value, signed), (found.low, False), (found.high, False))
    ]
    return f"{text[0]} [{text[1]}, {text[2]}]" if math.isfinite(found.low) else f"{text[0]} [no interval]"


@dataclass(frozen=True)
class ConfusionView:
    """Two matrices side by side.

    Args:
        task: The task.
        classes: Its classes.
        matrices: Per network its name and lines of (true class, cells); a cell is (count, share of its line
            as text, background).
    """

    task: str
    classes: Sequence[str]
    matrices: list[tuple[str, list[tuple[str, list[tuple[str, str, str]]]]]]


def confusion_views(data: ReportData) -> list[ConfusionView]:
    """Every task's confusion matrices."""
    views = []
    for entry in data.confusions:
        cell = data.cell(entry.cell)
        sides = (("alone", entry.alone), (cell.name if cell else "shared", entry.shared))
        views.append(
            ConfusionView(
                entry.task,
                entry.classes,
                [(name, _matrix(entry.classes, counts)) for name, counts in sides if counts is not None],
            )
        )
    return views


def _matrix(
    classes: Sequence[str], counts: Sequence[Sequence[float]]
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    lines = []
    for number, (name, line) in enumerate(zip(classes, counts, strict=True)):
        total = sum(line)
        cells = []
        for column, count in enumerate(line):
            share = count / total if total else 0.0
            colour = "0, 114, 178" if column == number else "213, 94, 0"
            text = f"{100 * share:.0f} %" if total else "–"
            cells.append((f"{count:,.0f}", text, f"background: rgba({colour}, {0.6 * share:.2f})"))
        lines.append((name, cells))
    return lines


def gallery_views(data: ReportData) -> list[tuple[str, str, list[Mistake]]]:
    """Per task its name, the network's name and its mistakes, the worst first."""
    found = []
    for (task, cell), mistakes in groupby(data.gallery, key=lambda entry: (entry.task, entry.cell)):
        row = data.cell(cell)
        found.append((task, row.name if row else "alone", list(mistakes)))
    return found
