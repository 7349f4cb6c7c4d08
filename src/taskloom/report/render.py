"""From `ReportData` to one self-contained HTML page, readable offline."""

from __future__ import annotations

import os
from pathlib import Path

from taskloom.report import configurations, course, plots, words
from taskloom.report.coupled import coupling_view
from taskloom.report.landmark_points import landmark_views
from taskloom.report.matrix import relative_gain, verdict_matrix
from taskloom.report.mixing_words import meaning_of
from taskloom.report.model import GainRow, ReportData, TaskRow
from taskloom.report.pages import fill
from taskloom.report.plain_sums import plain_sum_view
from taskloom.report.subgroups import confusion_views, gallery_views, subgroup_views


def render(data: ReportData) -> str:
    """Returns the page as HTML; it loads nothing from anywhere."""
    judged = [task for task in data.tasks if not task.auxiliary]
    rows = [data.overall, *judged] if data.overall else judged
    shown = [data.improvement, *rows] if data.improvement else rows
    return fill(
        "report.html.j2",
        data=data,
        words=words,
        rows=shown,
        headline=words.headline(data),
        matrix=verdict_matrix(data, shown),
        sentences=[(task, words.task_sentence(data, task), _verdict(data, task)) for task in shown],
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
        plain_sums=[plain_sum_view(data, entry, rows) for entry in data.plain_sums],
        landmarks=landmark_views(data),
        remarks=list(dict.fromkeys(entry.remark for entry in data.balancing if entry.remark)),
        subgroups=subgroup_views(data),
        confusions=confusion_views(data),
        gallery=gallery_views(data),
        couplings=[coupling_view(data, entry) for entry in data.couplings],
        mixing=[
            (
                data.cell(entry.cell),
                meaning_of(entry.architecture).sentence,
                plots.mixing_heatmaps(entry),
                plots.mixing_over_time(entry),
            )
            for entry in data.mixing
        ],
    )


def write(data: ReportData, path: Path) -> Path:
    """Renders to `path`, whole or not at all. Returns the path."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(render(data), encoding="utf-8")
    os.replace(temporary, path)
    return path


def hurt_rows(data: ReportData) -> list[tuple[TaskRow, GainRow, str]]:
    """Every (task, gain, cell name) with shown negative transfer, the largest relative loss first."""
    tasks = {task.name: task for task in data.tasks}
    rows = [
        (tasks[gain.task], gain, getattr(data.cell(gain.cell), "name", gain.cell))
        for gain in data.gains
        if gain.verdict == "hurt" and gain.task in tasks
    ]
    return sorted(rows, key=lambda row: relative_gain(row[1]))


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


def _verdict(data: ReportData, task: TaskRow) -> str:
    row = data.gain(task.name, task.chosen_cell)
    return "unclear" if row is None else {"helped": "helped", "hurt": "hurt"}.get(row.verdict, "unclear")
