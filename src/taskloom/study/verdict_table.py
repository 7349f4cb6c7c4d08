"""The verdict per task, in the cell that was best on validation: for a terminal, a notebook, a program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from taskloom.report import words
from taskloom.report.load import gain_row
from taskloom.report.model import TaskRow

HEADINGS = ("task", "alone", "chosen on validation", "test", "gain, 95 % interval", "verdict")
_COLOURS = {"helped": "green", "hurt": "firebrick"}


@dataclass(frozen=True)
class VerdictRow:
    """What a study says of one task.

    Args:
        task, metric, unit: The task, the metric it is judged by, and that metric's unit.
        alone, test: Mean test metric of the task alone, and in the cell chosen on validation; NaN of the
            relative gain of all tasks (`delta_m`), which has differences only.
        cell: Name of that cell, "" where none has finished.
        gain, low, high: Paired gain over training alone with its 95 % interval; positive is better.
        p_value: Two-sided, adjusted for the cells of the task.
        verdict: helped, hurt, "no difference shown", "no verdict" (too few repeats) or "not judged" (the
            metric has no value).
        texts: The row as it is printed, one text for each of `HEADINGS`.
    """

    task: str
    metric: str
    unit: str
    alone: float
    cell: str
    test: float
    gain: float
    low: float
    high: float
    p_value: float
    verdict: str
    texts: tuple[str, ...]


def verdict_rows(summary: Mapping[str, Any]) -> list[VerdictRow]:
    """The verdicts of a summary, by the report's wording; the mean of the tasks and their relative gain last.

    Args:
        summary: What `summary.json` holds.
    """
    names = {cell["id"]: cell["name"] for cell in summary["cells"]}
    unshown = "no difference shown" if summary["num_repeats"] >= words.LEAST_REPEATS else "no verdict"
    together = [found for found in (summary["overall"], summary.get("improvement")) if found]
    of_means = [gain for found in together for gain in found["gains"]]
    gains = {(gain["task"], gain["cell"]): gain for gain in (*summary["gains"], *of_means)}
    judged = [entry for entry in summary["tasks"] if not entry["auxiliary"]]
    rows = []
    for entry in (*judged, *(found["task"] for found in together)):
        task = TaskRow(**entry)
        gain = gains.get((task.name, task.chosen_cell))
        rows.append(_without_cell(task) if gain is None else _row(task, gain, names, unshown))
    return rows


def as_text(summary: Mapping[str, Any]) -> str:
    """The verdicts as a table of text, with how they were made and what to know beside them."""
    rows = [HEADINGS, *(row.texts for row in verdict_rows(summary))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, *remarks(summary)])


def as_html(summary: Mapping[str, Any]) -> str:
    """The same for a notebook."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in HEADINGS)
    body = "".join(_html_row(row) for row in verdict_rows(summary))
    beside = "".join(f"<p>{escape(remark)}</p>" for remark in remarks(summary))
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{beside}"


def as_frame(summary: Mapping[str, Any]) -> pd.DataFrame:
    """The same as numbers, one row per task."""
    columns = [name for name in VerdictRow.__dataclass_fields__ if name != "texts"]
    rows = [{name: getattr(row, name) for name in columns} for row in verdict_rows(summary)]
    return pd.DataFrame(rows, columns=columns)


def _row(task: TaskRow, values: Mapping[str, Any], names: Mapping[str, str], unshown: str) -> VerdictRow:
    row = gain_row(values)
    verdict = unshown if row.verdict == "no difference shown" else words.outcome(row)
    alone = f"{words.with_unit(row.baseline, task.metric, task.unit)} {words.metric_name(task.metric)}"
    gain = words.interval(row, task.metric)
    if task.metric == "delta_m":
        alone, gain = words.metric_name(task.metric), f"{gain} %"
    texts = (task.name, alone, names[row.cell], words.number(row.value, task.metric), gain, verdict)
    numbers = (row.gain, row.low, row.high, row.p_value)
    return VerdictRow(
        task.name, task.metric, task.unit, row.baseline, names[row.cell], row.value, *numbers, verdict, texts
    )


def _without_cell(task: TaskRow) -> VerdictRow:
    texts = (task.name, "–", "no finished cell to compare with", "", "", "")
    none = (math.nan,) * 5
    return VerdictRow(task.name, task.metric, task.unit, math.nan, "", *none, "no verdict", texts)


def _html_row(row: VerdictRow) -> str:
    *first, verdict = row.texts
    colour = f' style="color: {_COLOURS[verdict]}"' if verdict in _COLOURS else ""
    cells = "".join(f"<td>{escape(text)}</td>" for text in first)
    return f"<tr>{cells}<td{colour}>{escape(verdict)}</td></tr>"


def remarks(summary: Mapping[str, Any]) -> Sequence[str]:
    """How the verdicts were made, what to know beside them, what failed: a sentence each."""
    return [*_notes(summary), summary["design"], *summary["failed"], *summary["warnings"]]


def _notes(summary: Mapping[str, Any]) -> list[str]:
    """What must be known of the gains that are shown, once for all tasks of which it is true."""
    together = [found for found in (summary["overall"], summary.get("improvement")) if found]
    of_means = [gain for found in together for gain in found["gains"]]
    notes = {(gain["task"], gain["cell"]): gain["note"] for gain in (*summary["gains"], *of_means)}
    tasks = [task for task in summary["tasks"] if not task["auxiliary"]]
    shown = [(task["name"], task["chosen_cell"]) for task in (*tasks, *(found["task"] for found in together))]
    of: dict[str, list[str]] = {}
    for place in shown:
        for note in filter(None, notes.get(place, "").split("; ")):
            # Of a study with too few repeats the design says it of all tasks.
            if summary["num_repeats"] >= words.LEAST_REPEATS or not note.startswith("a verdict needs"):
                of.setdefault(note, []).append(place[0])
    lines = [f"{', '.join(names)}: {note}" for note, names in of.items()]
    return [*lines, *words.of_improvement(summary.get("improvement"))]
