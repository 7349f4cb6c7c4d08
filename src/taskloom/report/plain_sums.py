"""The report's section on ways of balancing beside the plain sum of the losses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from taskloom.report import words
from taskloom.report.matrix import VerdictMatrix, verdict_matrix
from taskloom.report.model import PlainSum, ReportData, TaskRow

_MOST_NAMED = 5
"""Cells that a sentence names; of more it says how many."""


@dataclass(frozen=True)
class PlainSumView:
    """What balancing did in cells that differ in nothing else.

    Args:
        name: Name of the cell with the plain sum.
        correction: Over how many cells verdicts are corrected.
        sentences: What was shown, for the mean of the tasks and for single tasks.
        matrix: Tasks in every other cell, gains over the plain sum.
    """

    name: str
    correction: str
    sentences: list[str]
    matrix: VerdictMatrix


def plain_sum_view(data: ReportData, entry: PlainSum, rows: Sequence[TaskRow]) -> PlainSumView:
    """Says what was shown beside one plain sum.

    Args:
        data: The report's data.
        entry: The plain sum and the gains over it.
        rows: The judged tasks, their mean first where there is one.
    """
    cell = data.cell(entry.cell)
    name = cell.name if cell else entry.cell
    compared = {gain.cell for gain in entry.gains}
    tasks = {gain.task for gain in entry.gains}
    beside = replace(data, gains=entry.gains, cells=[cell for cell in data.cells if cell.id in compared])
    shown = [row for row in rows if row.name in tasks]
    tested = Counter(gain.task for gain in entry.gains if math.isfinite(gain.p_value))
    return PlainSumView(
        name,
        words.corrected_over({row.name: tested[row.name] for row in shown}, of="of this table"),
        [_sentence(beside, row) for row in shown],
        verdict_matrix(beside, shown, f"with {name}"),
    )


def _sentence(beside: ReportData, task: TaskRow) -> str:
    """One task, or the mean: which cells helped and hurt."""
    parts = []
    for verdict in ("helped", "hurt"):
        found = [
            (cell.name, gain)
            for cell in beside.cells
            if (gain := beside.gain(task.name, cell.id)) is not None and gain.verdict == verdict
        ]
        if not found:
            continue
        found.sort(key=lambda pair: abs(pair[1].gain), reverse=True)
        named = [f"{name} ({words.interval(gain, task.metric)})" for name, gain in found[:_MOST_NAMED]]
        more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        parts.append(f"{verdict} by {', '.join(named)}{more}")
    count = sum(beside.gain(task.name, cell.id) is not None for cell in beside.cells)
    if not parts:
        ways = "the other way of balancing" if count == 1 else f"any of {count} other ways of balancing"
        return f"{task.name}: no difference shown with {ways}."
    return f"{task.name}: {'; '.join(parts)}."
