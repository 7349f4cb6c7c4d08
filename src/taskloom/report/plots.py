"""Plots as inline SVG, drawn by matplotlib without a window; text stays text, so that it can be searched."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from taskloom.coupling.heatmap import draw_heatmap
from taskloom.coupling.relatedness import Between, Kind, Relatedness
from taskloom.report.coupling_model import CouplingRow
from taskloom.report.mixing_words import meaning_of
from taskloom.report.model import ReportData, TaskRow
from taskloom.report.training_model import Balancing, Curve, Mixing
from taskloom.report.words import MINUS, metric_name

# Okabe and Ito's colours, told apart by colour-blind readers; the baseline is always dark grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#000000")
BASELINE = "#555555"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "taskloom",  # the same data give the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}
MAX_CURVE_CELLS = 6
_LINE = 36
"""Letters of a name that have room beside a figure; of those below an axis, half of them."""


def curves(data: ReportData, task: TaskRow) -> str:
    """Validation metric over epochs: thin lines are repeats, thick ones their mean over running repeats.

    Shows the baseline, the chosen cell and the best others, up to `MAX_CURVE_CELLS` cells, lest the lines
    hide each other. Returns SVG, or "" where there is no curve.
    """
    by_cell: dict[str, list[Curve]] = {}
    for curve in data.curves:
        if curve.task == task.name:
            by_cell.setdefault(curve.cell, []).append(curve)
    if not by_cell:
        return ""
    shown = ["", *_cells_to_show(task, by_cell)]
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.0), layout="constrained")
        axes = figure.subplots()
        for cell in shown:
            if cell not in by_cell:
                continue
            name = "alone" if cell == "" else textwrap.fill(getattr(data.cell(cell), "name", cell), _LINE)
            colour = BASELINE if cell == "" else PALETTE[(shown.index(cell) - 1) % len(PALETTE)]
            _draw_runs(axes, by_cell[cell], name, colour)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{metric_name(task.metric)}, validation" + (f" ({task.unit})" if task.unit else ""))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, 0.5 + max(len(curve.values) for runs in by_cell.values() for curve in runs))
        figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=2)
        return svg(figure, f"Validation curves of {task.name}")


def mixing_heatmaps(
    mixing: Mixing,
    named: str | None = None,
    about: str | None = None,
) -> str:
    """The mixing matrices of one cell by depth; what their entries mean depends on its architecture. SVG."""
    meaning = meaning_of(mixing.architecture)
    named = meaning.place if named is None else named
    about = f"Mixing matrices by depth. {meaning.sentence}" if about is None else about
    names, count = list(mixing.matrices), len(mixing.matrices)
    size = max(1.5, 0.42 * len(mixing.tasks) + 0.9)
    with rc_context(STYLE):
        figure = Figure(figsize=(min(size * count + 0.8, 14), size + 0.9), layout="constrained")
        panels = figure.subplots(1, count, squeeze=False)[0]
        limit = max(float(np.abs(np.asarray(matrix)).max()) for matrix in mixing.matrices.values()) or 1.0
        for index, (axes, name) in enumerate(zip(panels, names, strict=True)):
            matrix = np.asarray(mixing.matrices[name], dtype=float)
            _draw_heatmap(axes, matrix, mixing.tasks, limit, with_rows=index == 0)
            axes.set_title(named.format(name), fontsize=9)
        return svg(figure, about)


def mixing_over_time(mixing: Mixing) -> str:
    """Own share (mean diagonal) and foreign share (mean of the rest) by stage over epochs. Returns SVG, or ""
    where nothing changes.
    """
    series: Mapping[str, Sequence[Sequence[Sequence[float]]]] = mixing.over_time
    if not series or max(len(epochs) for epochs in series.values()) < 2 or len(mixing.tasks) < 2:
        return ""
    if all(np.ptp(np.asarray(epochs, dtype=float), axis=0).max() == 0 for epochs in series.values()):
        return ""
    meaning = meaning_of(mixing.architecture)
    with rc_context(STYLE):
        figure = Figure(figsize=(6.2, 2.5), layout="constrained")
        axes = figure.subplots()
        for index, (stage, epochs) in enumerate(series.items()):
            stack = np.asarray(epochs, dtype=float)
            own = np.trace(stack, axis1=1, axis2=2) / stack.shape[1]
            foreign = (stack.sum(axis=(1, 2)) - own * stack.shape[1]) / (
                stack.shape[1] * (stack.shape[1] - 1)
            )
            colour = PALETTE[index % len(PALETTE)]
            epochs_axis = np.arange(1, len(stack) + 1)
            axes.plot(epochs_axis, own, color=colour, label=f"{stage}: {meaning.same}")
            axes.plot(epochs_axis, foreign, color=colour, linestyle="--", label=f"{stage}: {meaning.other}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.set_ylabel(meaning.axis)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg(figure, "Mixing weights over time, first repeat")


def relatedness(entry: CouplingRow) -> str:
    """The table of a coupling; grey is unknown. Returns SVG."""
    table = Relatedness(
        tuple(entry.classes),
        tuple(entry.attributes),
        np.asarray(entry.values, dtype=np.float64),
        cast(Kind, entry.kind),
        cast(Between, entry.between),
        entry.source,
        empty_classes=_without_attributes(entry),
    )
    with rc_context(STYLE):
        return svg(draw_heatmap(table), f"Relatedness from {entry.source}: rows are given, columns follow")


def _without_attributes(entry: CouplingRow) -> tuple[str, ...]:
    return tuple(
        name
        for name, row in zip(entry.classes, entry.values, strict=True)
        if entry.between != "attribute_attribute" and all(value == 0 for value in row)
    )


def balancing(entry: Balancing) -> str:
    """Weights per task, cosines between the tasks' gradients, reversal over epochs, a panel each. SVG."""
    panels = [
        (title, series)
        for title, series in (
            ("weight", entry.weights),
            ("cosine of gradients", entry.cosines),
            ("share of conflicts", {"all pairs": entry.conflict_rate} if len(entry.conflict_rate) else {}),
            ("gradient reversal λ", entry.reversal),
        )
        if series
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(panels), 3.0), layout="constrained")
        for axes, (title, series) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for index, (name, values) in enumerate(series.items()):
                colour = PALETTE[index % len(PALETTE)]
                style = ("-", "--", ":")[index // len(PALETTE) % 3]
                epochs = np.arange(1, len(values) + 1)
                label = textwrap.fill(name, _LINE)
                axes.plot(epochs, values, color=colour, linestyle=style, linewidth=1.4, label=label)
            axes.set_ylim(*_frame(title, series))
            if entry.frozen is not None:
                axes.axvline(entry.frozen + 0.5, color="#777777", linestyle=":", linewidth=1.0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.set_xlabel("epoch")
            axes.set_title(title, fontsize=9)
            if len(series) <= 2 * len(PALETTE):  # dozens of pairs have no colours of their own
                axes.legend(
                    frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.22)
                )
        return svg(figure, "What the balancer did over the epochs, first repeat")


def _frame(title: str, series: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Limits of the axis of values: all there can be of cosines and shares, weights from 0 on."""
    if title == "cosine of gradients":
        return -1.05, 1.05
    if title == "share of conflicts":
        return -0.02, 1.02
    values = [value for row in series.values() for value in row if np.isfinite(value)]
    span = max(0.0, *values) - min(0.0, *values) if values else 1.0
    return min(0.0, *values, 0.0) - 0.02 * span, max(0.0, *values, 0.0) + 0.05 * span + 1e-9


def _cells_to_show(task: TaskRow, by_cell: Mapping[str, Sequence[Curve]]) -> list[str]:
    """The chosen cell first, then by mean value at the kept epoch."""

    def kept(cell: str) -> float:
        values = [curve.values[curve.best_epoch] for curve in by_cell[cell] if len(curve.values)]
        mean = float(np.mean(values)) if values else float("-inf")
        return mean if task.higher_is_better else -mean

    others = sorted((cell for cell in by_cell if cell not in ("", task.chosen_cell)), key=kept, reverse=True)
    chosen = [task.chosen_cell] if task.chosen_cell in by_cell and task.chosen_cell else []
    return (chosen + others)[:MAX_CURVE_CELLS]


def _draw_runs(axes: Axes, runs: Sequence[Curve], name: str, colour: str) -> None:
    length = max(len(run.values) for run in runs)
    stacked = np.full((len(runs), length), np.nan)
    for row, run in enumerate(runs):
        stacked[row, : len(run.values)] = run.values
        axes.plot(np.arange(1, len(run.values) + 1), run.values, color=colour, linewidth=0.6, alpha=0.45)
        if 0 <= run.best_epoch < len(run.values):
            axes.plot(run.best_epoch + 1, run.values[run.best_epoch], ".", color=colour, markersize=4)
    # Only epochs that some run reached have a column, so that no mean is taken over nothing.
    counts = np.isfinite(stacked).sum(axis=0)
    mean = np.divide(np.nansum(stacked, axis=0), counts, out=np.full(length, np.nan), where=counts > 0)
    # Past the shortest run a mean would compare other runs than before: it ends there.
    shortest = min(len(run.values) for run in runs)
    axes.plot(np.arange(1, shortest + 1), mean[:shortest], color=colour, linewidth=1.8, label=name)


def _draw_heatmap(
    axes: Axes, matrix: np.ndarray, tasks: Sequence[str], limit: float, *, with_rows: bool
) -> None:
    axes.pcolormesh(
        np.arange(-0.5, len(matrix)),
        np.arange(-0.5, len(matrix)),
        matrix,
        cmap="RdBu",
        vmin=-limit,
        vmax=limit,
    )
    axes.set_aspect("equal")
    axes.invert_yaxis()
    names = [_cut(name) for name in tasks]
    axes.set_xticks(range(len(tasks)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(tasks)), names if with_rows else [""] * len(tasks), fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(tasks) <= 8:
        for row in range(matrix.shape[0]):
            for column in range(matrix.shape[1]):
                strong = abs(matrix[row, column]) > 0.6 * limit
                axes.text(
                    column,
                    row,
                    _two_decimals(matrix[row, column]),
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="white" if strong else "#222222",
                )


def _cut(name: str) -> str:
    """A name that has room below an axis: its beginning and its end."""
    half = _LINE // 4
    return name if len(name) <= 2 * half + 1 else f"{name[:half]}…{name[-half:]}"


def _two_decimals(value: float) -> str:
    """A number with a true minus, and no minus before what is rounded to zero."""
    text = f"{abs(value):.2f}"
    return f"{MINUS}{text}" if value < 0 and text != "0.00" else text


def svg(figure: Figure, description: str) -> str:
    """The figure as an SVG element: no XML header, no date, described for screen readers."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None, "Creator": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    escaped = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg", f'<svg role="img" aria-label="{escaped}"', 1)
