"""Numbers and sentences for people: the same wording on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from taskloom.metrics.texts import (
    METRIC_NAMES,
    MINUS,
    PERCENT,
    SHARES,
    UNITS,
    heading,
    metric_name,
    number,
    with_unit,
)
from taskloom.report.model import GainRow, ReportData, TaskRow
from taskloom.wording import counted

__all__ = [
    "LEAST_REPEATS",
    "METRIC_NAMES",
    "MINUS",
    "corrected_over",
    "duration",
    "gain_unit",
    "heading",
    "headline",
    "interval",
    "metric_name",
    "number",
    "of_improvement",
    "outcome",
    "p_value",
    "ratio",
    "task_sentence",
    "with_unit",
]

LEAST_REPEATS = 3
"""With fewer repeats a study gives no verdict, as `taskloom.study.statistics` has it."""
_MOST_FURTHER_DECIMALS = 9
_MOST_COUNTS = 6
"""Tasks of which a sentence gives one number each."""


def interval(row: GainRow, metric: str) -> str:
    """The gain with its interval, signed: "+0.39 [0.27, 0.52]".

    An interval that excludes 0 must not read as one that touches it: all three numbers get as many more
    decimals as its bounds need. Few repeats give intervals wider than what is possible: they are cut there.
    """
    if not math.isfinite(row.gain):
        return "–"
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return f"{number(row.gain, metric, signed=True, like=row.baseline)} [no interval]"
    most = 1.0 if metric in SHARES else math.inf
    bounds = (max(row.low, -most), min(row.high, most))
    further = _further_decimals(bounds, metric, row.baseline) if row.low > 0 or row.high < 0 else 0
    gain = number(row.gain, metric, signed=True, like=row.baseline, further=further)
    low, high = (number(bound, metric, like=row.baseline, further=further) for bound in bounds)
    return f"{gain} [{low}, {high}]"


def p_value(value: float) -> str:
    """A p-value with its relation.

    >>> p_value(0.0123), p_value(0.00002)
    ('= 0.012', '< 0.001')
    """
    if not math.isfinite(value):
        return "not known"
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def corrected_over(tested: Mapping[str, int], *, of: str) -> str:
    """Over how many cells Holm's correction of each task's verdicts is, in words.

    Args:
        tested: Per task, how many of its cells were tested.
        of: What the numbers are of where they are the same for all tasks.

    >>> corrected_over({"age": 3, "sex": 3}, of="of each task")
    'Holm over 3 cells of each task'
    >>> corrected_over({"age": 3, "sex": 2}, of="of each task")
    'Holm over the cells of each task (age 3, sex 2)'
    """
    numbers = sorted(set(tested.values()))
    if len(numbers) == 1:
        return f"Holm over {counted(numbers[0], 'cell')} {of}"
    if len(tested) > _MOST_COUNTS:
        return f"Holm over the cells of each task ({numbers[0]} to {numbers[-1]} of them)"
    return f"Holm over the cells of each task ({', '.join(f'{task} {n}' for task, n in tested.items())})"


def gain_unit(task: TaskRow) -> str:
    """Unit of a difference of the task's metric."""
    if task.metric in PERCENT:
        return "points"
    return task.unit if task.metric in UNITS else ""


def of_improvement(improvement: Mapping[str, Any] | None) -> list[str]:
    """What the relative gain is over and what it leaves out, one sentence; none where there is none.

    Args:
        improvement: What `summary.json` has under this name.

    >>> of_improvement({"task": {"name": "average relative gain, 2 tasks"}, "left_out": ["x (R² near 0)"]})
    ['average relative gain, 2 tasks (Δm): the gain of each task in % ... the tasks; without x (R² near 0)']
    """
    if not improvement:
        return []
    without = f"; without {'; '.join(improvement['left_out'])}" if improvement["left_out"] else ""
    told = "the gain of each task in % of its value alone, averaged over the tasks"
    return [f"{improvement['task']['name']} (Δm): {told}{without}"]


def outcome(row: GainRow) -> str:
    """What may be said of a task in a cell: the verdict, or that there is nothing to judge."""
    return row.verdict if math.isfinite(row.gain) else "not judged"


def task_sentence(data: ReportData, task: TaskRow) -> str:
    """One sentence: what alone gives, what the cell chosen on validation gives, and the verdict."""
    row = data.gain(task.name, task.chosen_cell) if task.chosen_cell else None
    cell = data.cell(task.chosen_cell)
    if row is None or cell is None:
        return f"{task.name}: no finished cell to compare with training alone yet."
    note = f" ({row.note})" if row.note else ""
    if outcome(row) == "not judged":
        return (
            f"not judged, its {metric_name(task.metric)} has no value alone, with {cell.name}, or both{note}."
        )
    if task.metric == "delta_m":
        change = f"{interval(row, task.metric)} %"
        return f"with {cell.name} tasks gain {change} of their values alone on average: {row.verdict}{note}."
    alone = with_unit(row.baseline, task.metric, task.unit)
    shared = with_unit(row.value, task.metric, task.unit)
    unit = gain_unit(task)
    change = f"{interval(row, task.metric)}{' ' + unit if unit else ''}"
    shown = row.verdict if data.num_repeats >= LEAST_REPEATS else "no verdict"
    ending = {
        "helped": f"sharing helped, by {change}",
        "hurt": f"sharing hurt (negative transfer), by {change}",
    }.get(row.verdict, f"{shown}, {change}")
    # The value before the name: many names end with a number, "trace norm 0.001".
    return f"{metric_name(task.metric)} {alone} alone, {shared} with {cell.name}: {ending}{note}."


def headline(data: ReportData) -> str:
    """The whole study in one sentence."""
    judged = [task for task in data.tasks if not task.auxiliary]
    verdicts = [
        outcome(row) for task in judged if (row := data.gain(task.name, task.chosen_cell)) is not None
    ]
    parts = [
        f"{verdicts.count(verdict)} {word}"
        for verdict, word in (
            ("helped", "helped"),
            ("hurt", "hurt"),
            ("no difference shown", "with no difference shown"),
            ("no verdict", f"with fewer than {LEAST_REPEATS} finished repeats and so without a verdict"),
            ("not judged", "not judged, as its metric has no value"),
        )
        if verdict in verdicts
    ]
    tasks = counted(len(judged), "task")
    if not parts:
        return f"{tasks}; no verdict yet."
    if data.num_repeats < LEAST_REPEATS:
        return (
            f"{tasks}; no verdicts yet: they need at least {LEAST_REPEATS} repeats, and the study has "
            f"{'one' if data.num_repeats == 1 else data.num_repeats}."
        )
    each = f"Of {tasks}, each judged in the cell that was best on validation: {', '.join(parts)}."
    return each + _together(data)


def _together(data: ReportData) -> str:
    """What holds on average over all judged tasks, where that can be said."""
    row = data.gain(data.overall.name, data.overall.chosen_cell) if data.overall else None
    if row is None or data.overall is None:
        return ""
    outcome = {"helped": "sharing helped", "hurt": "sharing hurt"}.get(row.verdict, "no difference was shown")
    change = f"{metric_name(data.overall.metric)} {interval(row, data.overall.metric)}"
    return f" On average over them {outcome}: {change}."


def duration(seconds: float) -> str:
    """A time in the largest fitting unit.

    >>> duration(0.5), duration(75), duration(7200)
    ('0.5 s', '1.2 min', '2.0 h')
    """
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def ratio(value: float) -> str:
    """A cost relative to training alone: "0.52 ×"."""
    return f"{value:.2f} ×" if math.isfinite(value) else "–"


def _further_decimals(bounds: Sequence[float], metric: str, like: float) -> int:
    """How many decimals more show that none of `bounds` is 0."""
    for further in range(_MOST_FURTHER_DECIMALS):
        if all(number(bound, metric, like=like, further=further).strip(f"0.{MINUS}") for bound in bounds):
            return further
    return _MOST_FURTHER_DECIMALS
