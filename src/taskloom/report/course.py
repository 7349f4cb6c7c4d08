"""Metrics by epoch, smoothed by local regression, and the last epochs: as the figures of thesis 002."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from taskloom.report import words
from taskloom.report.model import ReportData, TaskRow
from taskloom.report.plots import BASELINE, PALETTE, STYLE, svg
from taskloom.report.smoothing import loess
from taskloom.report.training_model import Course, Settled, Trajectory

_LINES = ("-", "--", ":")


def figure(data: ReportData, task: TaskRow) -> str:
    """Upper row: all epochs as points, LOESS curves. Lower row: the last epochs with straight lines.

    One column per metric. Returns SVG, or "" where the task has no course.
    """
    course = data.course
    mine = [each for each in course.trajectories if each.task == task.name] if course else []
    if course is None or not mine:
        return ""
    metrics = list(dict.fromkeys(each.metric for each in mine))
    with rc_context(STYLE):
        drawn = Figure(figsize=(3.3 * len(metrics), 5.6), layout="constrained")
        grid = drawn.subplots(2, len(metrics), squeeze=False)
        for column, metric in enumerate(metrics):
            for number, each in enumerate([each for each in mine if each.metric == metric]):
                name = "alone" if each.cell == "" else getattr(data.cell(each.cell), "name", each.cell)
                # The baseline is grey, whether or not it is there.
                place = number if each.cell == "" else number - (mine[0].cell == "")
                colour = BASELINE if each.cell == "" else PALETTE[place % len(PALETTE)]
                line = _LINES[(place // len(PALETTE)) % len(_LINES)] if each.cell else "-"
                label = name if column == 0 else None
                _draw_all(grid[0, column], each, course.span, colour, line, label)
                _draw_last(grid[1, column], each, course.last_epochs, colour, line)
            grid[0, column].set_title(f"{words.metric_name(metric)}, {mine[0].part}", fontsize=9)
            grid[1, column].set_title(f"last {course.last_epochs} epochs", fontsize=9)
            for axes in grid[:, column]:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            grid[1, column].set_xlabel("epoch")
        drawn.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=4)
        return svg(drawn, f"Metrics of {task.name} by epoch, smoothed")


def table(course: Course, data: ReportData, task: TaskRow) -> tuple[list[str], list[list[str]]]:
    """The last epochs in numbers: names of the metrics, and one row of texts per cell."""
    rows = [row for row in course.settled if row.task == task.name]
    metrics = list(rows[0].values) if rows else []
    return [words.heading(metric, task.unit if metric == task.metric else "") for metric in metrics], [
        [
            "alone" if row.cell == "" else getattr(data.cell(row.cell), "name", row.cell),
            *(_value(row, metric) for metric in metrics),
            words.duration(row.seconds),
            "" if math.isnan(row.overhead) else f"{100 * row.overhead:+.1f} %".replace("-", words.MINUS),
            f"{row.num_parameters:,}",
        ]
        for row in rows
    ]


def _value(row: Settled, metric: str) -> str:
    """ "0.711 ± 0.004 (seeds ± 0.010)"."""
    value = row.values[metric]
    mean = value["mean"]
    text = words.number(mean, metric)
    if not math.isnan(value["over_epochs"]):
        text += f" ± {words.number(value['over_epochs'], metric, like=mean, further=1)}"
    if not math.isnan(value["over_repeats"]):
        text += f" (seeds ± {words.number(value['over_repeats'], metric, like=mean, further=1)})"
    return text


def _draw_all(axes: Axes, course: Trajectory, span: float, colour: str, line: str, label: str | None) -> None:
    epochs, values = _points(course.runs)
    axes.plot(epochs, values, ".", color=colour, markersize=2, alpha=0.35)
    places = np.unique(epochs)
    axes.plot(places, loess(epochs, values, span=span), line, color=colour, linewidth=1.6, label=label)


def _draw_last(axes: Axes, course: Trajectory, last_epochs: int, colour: str, line: str) -> None:
    epochs, values = _points(course.runs, last_epochs)
    axes.plot(epochs, values, ".", color=colour, markersize=3, alpha=0.6)
    there = np.isfinite(values)
    if len(np.unique(epochs[there])) > 1:
        slope, level = np.polyfit(epochs[there], values[there], 1)
        ends = np.array([epochs[there].min(), epochs[there].max()])
        axes.plot(ends, level + slope * ends, line, color=colour, linewidth=1.4)


def _points(runs: Sequence[Sequence[float]], last: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, from 1, and values of all runs, one after the other."""
    epochs = [np.arange(1, len(run) + 1, dtype=np.float64)[-last if last else 0 :] for run in runs]
    values = [np.asarray(run, dtype=np.float64)[-last if last else 0 :] for run in runs]
    return np.concatenate(epochs), np.concatenate(values)
