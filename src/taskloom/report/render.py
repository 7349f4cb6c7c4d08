"""From `ReportData` to one self-contained HTML page, readable offline."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from taskloom.report import configurations, course, plots, words
from taskloom.report.coupled import coupling_view
from taskloom.report.landmark_points import landmark_views
from taskloom.report.model import GainRow, ReportData, TaskRow
from taskloom.report.subgroups import confusion_views, gallery_views, subgroup_views


@dataclass(frozen=True)
class MatrixCell:
    """One square of the verdict matrix, ready to print."""

    text: str
    value: str
    css: str
    tint: str
    hover: str
    chosen: bool


def render(data: ReportData) -> str:
    """Returns the page as HTML; it loads nothing from anywhere."""
    environment = Environment(
        loader=PackageLoader("taskloom.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    judged = [task for task in data.tasks if not task.auxiliary]
    rows = [data.overall, *judged] if data.overall else judged
    return environment.get_template("report.html.j2").render(
        data=data,
        words=words,
        rows=rows,
        headline=words.headline(data),
        matrix=[(task, baseline_value(data, task), _matrix_row(data, task)) for task in rows],
        sentences=[(task, words.task_sentence(data, task), _verdict(data, task)) for task in rows],
        hurt=hurt_rows(data),
        leakage=leakage_rows(data),
        course=[
            (task, course.figure(data, task), course.table(data.course, data, task))
            for task in judged
            if data.course is not None
        ],
        grid=configurations.grid_view(data),
        curves=[(task, plots.curves(data, task)) for task in data.tasks],
        balancing=[(data.cell(entry.cell), plots.balancing(entry), entry) for entry in data.balancing],
        landmarks=landmark_views(data),
        subgroups=subgroup_views(data),
        confusions=confusion_views(data),
        gallery=gallery_views(data),
        couplings=[coupling_view(data, entry) for entry in data.couplings],
        mixing=[
            (data.cell(entry.cell), plots.mixing_heatmaps(entry), plots.mixing_over_time(entry))
            for entry in data.mixing
        ],
    )


def write(data: ReportData, path: Path) -> Path:
    """Renders to `path`, whole or not at all. Returns the path."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(render(data), encoding="utf-8")
    os.replace(temporary, path)
    return path


def baseline_value(data: ReportData, task: TaskRow) -> str:
    """The task's single-task value with its unit, "–" where no baseline has finished."""
    row = next((gain for gain in data.gains if gain.task == task.name), None)
    return words.with_unit(row.baseline, task.metric, task.unit) if row else "–"


def hurt_rows(data: ReportData) -> list[tuple[TaskRow, GainRow, str]]:
    """Every (task, gain, cell name) with shown negative transfer, the largest relative loss first."""
    tasks = {task.name: task for task in data.tasks}
    rows = [
        (tasks[gain.task], gain, getattr(data.cell(gain.cell), "name", gain.cell))
        for gain in data.gains
        if gain.verdict == "hurt" and gain.task in tasks
    ]
    return sorted(rows, key=lambda row: _relative(row[1]))


def leakage_rows(data: ReportData) -> list[tuple[str, str, str, str, str]]:
    """Task, cell, value where windows straddle, value where none does, difference: ready to print."""
    tasks = {task.name: task for task in data.tasks}
    rows = []
    for row in data.leakage:
        task = tasks[row.task]
        name = getattr(data.cell(row.cell), "name", row.cell) if row.cell else "alone"
        values = [words.with_unit(value, task.metric, task.unit) for value in (row.straddling, row.apart)]
        lost = words.number(row.apart - row.straddling, task.metric, signed=True, like=row.straddling)
        rows.append((task.name, name, *values, lost))
    return [(first, second, third, fourth, fifth) for first, second, third, fourth, fifth in rows]


def _matrix_row(data: ReportData, task: TaskRow) -> list[MatrixCell]:
    return [_matrix_cell(data, task, cell.id, cell.name) for cell in data.cells]


def _matrix_cell(data: ReportData, task: TaskRow, cell_id: str, cell_name: str) -> MatrixCell:
    row = data.gain(task.name, cell_id)
    if row is None:
        return MatrixCell("–", "", "none", "", f"{task.name} was not trained in {cell_name}", chosen=False)
    unit = words.gain_unit(task)
    hover = (
        f"{task.name}, {cell_name}: {words.with_unit(row.value, task.metric, task.unit)} against "
        f"{words.with_unit(row.baseline, task.metric, task.unit)} alone; gain "
        f"{words.interval(row, task.metric)}{' ' + unit if unit else ''}, "
        f"p {words.p_value(row.p_value)} (Holm); "
        f"{row.verdict}{'. ' + row.note if row.note else ''}"
    )
    css = {"helped": "helped", "hurt": "hurt", "no difference shown": "unclear"}[row.verdict]
    return MatrixCell(
        words.interval(row, task.metric),
        words.with_unit(row.value, task.metric, task.unit),
        css,
        _tint(row),
        hover,
        chosen=cell_id == task.chosen_cell,
    )


def _tint(row: GainRow) -> str:
    """Background colour: hue by direction, strength by relative gain; faint where nothing is shown."""
    relative = _relative(row)
    if not math.isfinite(relative):
        return ""
    strength = min(abs(relative) / 0.10, 1.0)  # a change of 10 % of the baseline is full colour
    shown = row.verdict != "no difference shown"
    alpha = 0.25 + 0.45 * strength if shown else 0.10 * strength
    red, green, blue = (0, 114, 178) if relative > 0 else (213, 94, 0)
    return f"background: rgba({red}, {green}, {blue}, {alpha:.2f})"


def _relative(row: GainRow) -> float:
    return row.gain / abs(row.baseline) if row.baseline else math.nan


def _verdict(data: ReportData, task: TaskRow) -> str:
    row = data.gain(task.name, task.chosen_cell)
    return "unclear" if row is None else {"helped": "helped", "hurt": "hurt"}.get(row.verdict, "unclear")
