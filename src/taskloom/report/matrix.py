"""The verdict matrix: tasks against ways of sharing, laid out so that it can be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from taskloom.report import words
from taskloom.report.model import CellRow, GainRow, ReportData, TaskRow

MOST_CELLS_ACROSS = 5
"""As many ways of sharing stand side by side on the width of a page."""


@dataclass(frozen=True)
class MatrixCell:
    """One square of the verdict matrix, ready to print."""

    text: str
    value: str
    css: str
    tint: str
    hover: str
    chosen: bool


@dataclass(frozen=True)
class VerdictMatrix:
    """Every task in every cell, ready to print.

    Args:
        tasks: Down, or across where `cells_down`.
        alone: What every task reaches alone.
        cells: Across, or down where `cells_down`.
        squares: [task][cell].
        beside: Name of what the cells are compared with.
        cells_down: Whether cells stand below each other: a page is longer than it is wide.
    """

    tasks: Sequence[TaskRow]
    alone: Sequence[str]
    cells: Sequence[CellRow]
    squares: Sequence[Sequence[MatrixCell]]
    beside: str = "alone"

    @property
    def cells_down(self) -> bool:
        return len(self.cells) > max(MOST_CELLS_ACROSS, len(self.tasks))

    @property
    def goes_on_to_the_right(self) -> bool:
        """Whether the columns are more than fit on a page; the first two stay where they are."""
        return (len(self.tasks) if self.cells_down else len(self.cells)) > MOST_CELLS_ACROSS


def verdict_matrix(data: ReportData, tasks: Sequence[TaskRow], beside: str = "alone") -> VerdictMatrix:
    """Every one of `tasks` in every cell of `data`, whose gains are over what `beside` names."""
    squares = [[_matrix_cell(data, task, cell, beside) for cell in data.cells] for task in tasks]
    return VerdictMatrix(tasks, [baseline_value(data, task) for task in tasks], data.cells, squares, beside)


def baseline_value(data: ReportData, task: TaskRow) -> str:
    """What the task's gains are over, with its unit; "–" where nothing has finished."""
    if task.metric == "delta_m":
        return ""  # differences only
    row = next((gain for gain in data.gains if gain.task == task.name), None)
    return words.with_unit(row.baseline, task.metric, task.unit) if row else "–"


def _matrix_cell(data: ReportData, task: TaskRow, cell: CellRow, beside: str) -> MatrixCell:
    row = data.gain(task.name, cell.id)
    if row is None:
        ended = cell.num_done > 0 or task.name not in cell.tasks
        why = (
            f"{task.name} was not trained in {cell.name}" if ended else f"no run of {cell.name} has finished"
        )
        return MatrixCell("–" if ended else "no finished run", "", "none", "", why, chosen=False)
    chosen = cell.id == task.chosen_cell
    differences_only = task.metric == "delta_m"
    value = "" if differences_only else words.with_unit(row.value, task.metric, task.unit)
    if words.outcome(row) == "not judged":
        hover = f"{task.name}, {cell.name}: not judged{'. ' + row.note if row.note else ''}"
        return MatrixCell("not judged", value, "unclear", "", hover, chosen=chosen)
    told, unit = words.interval(row, task.metric), words.gain_unit(task)
    against = words.with_unit(row.baseline, task.metric, task.unit)
    compared = "" if differences_only else f"{value} against {against} {beside}; "
    hover = (
        f"{task.name}, {cell.name}: {compared}gain "
        f"{told}{' ' + unit if unit else ''}, p {words.p_value(row.p_value)} (Holm); "
        f"{row.verdict}{'. ' + row.note if row.note else ''}"
    )
    css = {"helped": "helped", "hurt": "hurt"}.get(row.verdict, "unclear")
    tint = _tint(row, row.gain / 100 if differences_only else relative_gain(row))
    return MatrixCell(f"{told} %" if differences_only else told, value, css, tint, hover, chosen=chosen)


def _tint(row: GainRow, relative: float) -> str:
    """Background colour: hue by direction, strength by relative gain; faint where nothing is shown."""
    if not math.isfinite(relative):
        return ""
    strength = min(abs(relative) / 0.10, 1.0)  # a change of 10 % of the baseline is full colour
    shown = row.verdict in ("helped", "hurt")
    alpha = 0.25 + 0.45 * strength if shown else 0.10 * strength
    red, green, blue = (0, 114, 178) if relative > 0 else (213, 94, 0)
    return f"background: rgba({red}, {green}, {blue}, {alpha:.2f})"


def relative_gain(row: GainRow) -> float:
    """The gain as a share of what the task reaches alone; NaN where that is 0."""
    return row.gain / abs(row.baseline) if row.baseline else math.nan
