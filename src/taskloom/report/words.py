"""Numbers and sentences for people: the same wording on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from taskloom.report.model import GainRow, ReportData, TaskRow
from taskloom.wording import counted

METRIC_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "f1_macro": "F1 macro",
    "f1_weighted": "F1 weighted",
    "f1_micro": "F1 micro",
    "auc": "AUC",
    "afa": "AFA",
    "mae": "MAE",
    "mse": "MSE",
    "rmse": "RMSE",
    "r2": "R²",
    "ccc": "concordance",
    "landmark_error": "landmark error",
    "failure_rate": "failure rate",
    "failure_rate_5": "failure rate at 5 %",
    "failure_rate_10": "failure rate at 10 %",
}
_PERCENT = {"accuracy", "balanced_accuracy", "failure_rate", "failure_rate_5", "failure_rate_10"}
_SHARES = _PERCENT | {"f1", "f1_macro", "f1_weighted", "f1_micro", "auc", "afa"}
"""Metrics from 0 to 1: no difference of two is larger than 1."""
MINUS = "−"
LEAST_REPEATS = 3
"""With fewer repeats a study gives no verdict, as `taskloom.study.statistics` has it."""
_MOST_FURTHER_DECIMALS = 9
_MOST_COUNTS = 6
"""Tasks of which a sentence gives one number each."""


def metric_name(metric: str) -> str:
    """Name of a metric as people write it."""
    return METRIC_NAMES.get(metric, metric)


def heading(metric: str, unit: str = "") -> str:
    """A metric's name over a column of its values, with their unit.

    >>> heading("accuracy"), heading("mae", "years"), heading("auc")
    ('accuracy (%)', 'MAE (years)', 'AUC')
    """
    shown = "%" if metric in _PERCENT else unit if metric in ("mae", "rmse") else ""
    return metric_name(metric) + (f" ({shown})" if shown else "")


def number(
    value: float, metric: str, *, signed: bool = False, like: float | None = None, further: int = 0
) -> str:
    """A metric's value without its unit: percentages of shares, three digits otherwise.

    Args:
        value: The value, or a difference of two.
        metric: Which metric.
        signed: Whether a plus is written.
        like: A value whose number of decimals is taken over, so that a difference shows as many as its parts.
        further: Decimals beyond those.

    >>> number(0.9123, "accuracy"), number(-0.02, "f1_macro", signed=True), number(5.614, "mae")
    ('91.2', '−0.020', '5.61')
    """
    if not math.isfinite(value):
        return "–"
    if metric in _PERCENT:
        text = f"{100 * abs(value):.{1 + further}f}"
    elif metric in ("mae", "mse", "rmse"):
        text = f"{abs(value):.{_decimals(value if like is None else like) + further}f}"
    else:
        text = f"{abs(value):.{3 + further}f}"
    zero = not text.strip("0.")
    sign = "" if zero else MINUS if value < 0 else "+" if signed else ""
    return sign + text


def with_unit(value: float, metric: str, unit: str = "") -> str:
    """A metric's value with its unit.

    >>> with_unit(0.9123, "accuracy"), with_unit(5.614, "mae", "years")
    ('91.2 %', '5.61 years')
    """
    text = number(value, metric)
    if text == "–":
        return text
    if metric in _PERCENT:
        return f"{text} %"
    return f"{text} {unit}" if unit and metric in ("mae", "rmse") else text


def interval(row: GainRow, metric: str) -> str:
    """The gain with its interval, signed: "+0.39 [0.27, 0.52]".

    An interval that excludes 0 must not read as one that touches it: all three numbers get as many more
    decimals as its bounds need. Few repeats give intervals wider than what is possible: they are cut there.
    """
    if not math.isfinite(row.gain):
        return "–"
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return f"{number(row.gain, metric, signed=True, like=row.baseline)} [no interval]"
    most = 1.0 if metric in _SHARES else math.inf
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
    if task.metric in _PERCENT:
        return "points"
    return task.unit if task.metric in ("mae", "rmse") else ""


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


def _decimals(value: float) -> int:
    """Decimals that show three digits of `value`."""
    if value == 0 or not math.isfinite(value):
        return 2
    return min(max(2 - math.floor(math.log10(abs(value))), 0), 6)


def _further_decimals(bounds: Sequence[float], metric: str, like: float) -> int:
    """How many decimals more show that none of `bounds` is 0."""
    for further in range(_MOST_FURTHER_DECIMALS):
        if all(number(bound, metric, like=like, further=further).strip(f"0.{MINUS}") for bound in bounds):
            return further
    return _MOST_FURTHER_DECIMALS
