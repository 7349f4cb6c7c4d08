"""Many configurations of the same families side by side, as chapter 5 of thesis 000 looks at them.

Everything here describes: it counts and draws means over repeats of test values. What may be said of a single
cell is its verdict, in the matrix.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from taskloom.report import words
from taskloom.report.model import GainRow, ReportData, TaskRow
from taskloom.report.plots import BASELINE, PALETTE, STYLE, svg

LEAST_CONFIGURATIONS = 4
_LINES = {"input": "-", "output": "--"}
_MOST_BESIDE = 4
"""Boxes whose names have room beside each other; names of more stand upright."""
_LETTERS = 60
"""Letters that have room below a panel, in all."""
_MOST_LINES = 3


@dataclass(frozen=True)
class Point:
    """One configuration and what a task reached in it."""

    family: str
    depth: int
    end: str
    tasks: tuple[str, ...]
    row: GainRow


@dataclass(frozen=True)
class GridView:
    """What the section shows.

    Args:
        counts: Per task and family: task, metric, family, improved of all, share, helped, hurt.
        sentences: Which end was better in how many pairs.
        bars: Shares of configurations that improve each task, as SVG.
        figures: Per task, its panels as SVG.
    """

    counts: Sequence[tuple[str, str, str, str, str, int, int]]
    sentences: Sequence[str]
    bars: str
    figures: Sequence[tuple[TaskRow, str]]


Groups = dict[str, list[Point]]


def grid_view(data: ReportData) -> GridView | None:
    """The section, or None where a study has not the shape for it: several depths or ends, several cells."""
    judged = [task for task in data.tasks if not task.auxiliary]
    found = {task.name: _points(data, task) for task in judged}
    alone = _alone([point for each in found.values() for point in each])
    points = {task: [point for point in each if point.family not in alone] for task, each in found.items()}
    everything = [point for each in points.values() for point in each]
    shaped = any(_has_depths(each) or _both_ends(each) for each in points.values())
    if len({(p.family, p.depth, p.end, p.tasks) for p in everything}) < LEAST_CONFIGURATIONS or not shaped:
        return None
    return GridView(
        [line for task in judged for line in _counts(task, points[task.name])],
        [line for task in judged for line in _end_sentences(task, points[task.name])],
        _bars([task for task in judged if points[task.name]], points),
        [(task, _figure(task, points[task.name])) for task in judged if points[task.name]],
    )


def _points(data: ReportData, task: TaskRow) -> list[Point]:
    """The task's configurations that have finished."""
    found = []
    for each in data.configurations:
        row, cell = data.gain(task.name, each.cell), data.cell(each.cell)
        if row is not None and cell is not None and np.isfinite(row.value):
            found.append(Point(each.family, each.depth, each.end, cell.tasks, row))
    return found


def _grouped(points: Sequence[Point], key: Callable[[Point], str]) -> Groups:
    found: Groups = {}
    for point in points:
        found.setdefault(key(point), []).append(point)
    return found


def _once(points: Sequence[Point]) -> list[Point]:
    """Every cell once: the same network, all stages shared, stands at both ends."""
    return list({point.row.cell: point for point in reversed(points)}.values())[::-1]


def _families(points: Sequence[Point]) -> Groups:
    return _grouped(points, lambda point: point.family)


def _alone(points: Sequence[Point]) -> set[str]:
    """Families of one configuration: a single cell shows nothing of depths, ends or tasks."""
    return {
        family
        for family, each in _families(points).items()
        if len({(point.depth, point.end, point.tasks) for point in each}) == 1
    }


def _has_depths(points: Sequence[Point]) -> bool:
    return any(len({point.depth for point in each}) > 1 for each in _families(points).values())


def _both_ends(points: Sequence[Point]) -> bool:
    return any(len({point.end for point in each}) > 1 for each in _families(points).values())


# -- numbers


def _counts(task: TaskRow, points: Sequence[Point]) -> list[tuple[str, str, str, str, str, int, int]]:
    """Configurations that improve the task (figures 5.2, 5.9), by family."""
    lines = []
    for family, each in _families(_once(points)).items():
        improved = sum(point.row.gain > 0 for point in each)
        verdicts = [point.row.verdict for point in each]
        lines.append(
            (
                task.name,
                words.metric_name(task.metric),
                family,
                f"{improved} of {len(each)}",
                f"{100 * improved / len(each):.0f} %",
                verdicts.count("helped"),
                verdicts.count("hurt"),
            )
        )
    return lines


def _end_sentences(task: TaskRow, points: Sequence[Point]) -> list[str]:
    """Pairs that differ in the end alone (figures 5.3 to 5.5, 5.10 to 5.12)."""
    lines = []
    for family, each in _families(points).items():
        ends = {end: {(p.depth, p.tasks): p.row for p in each if p.end == end} for end in ("input", "output")}
        pairs = [
            (row.gain, other.gain)
            for place, row in ends["input"].items()
            if (other := ends["output"].get(place)) is not None and other.cell != row.cell
        ]
        if not pairs:
            continue
        better = sum(first > second for first, second in pairs)
        mean = float(np.mean([first - second for first, second in pairs]))
        unit = words.gain_unit(task)
        change = words.number(mean, task.metric, signed=True, like=each[0].row.baseline)
        lines.append(
            f"{task.name}, {family}: from the input better than from the output in {better} of {len(pairs)} "
            f"pairs of the same tasks and number; on average {change}{' ' + unit if unit else ''} "
            f"({words.metric_name(task.metric)}, positive is better from the input)."
        )
    return lines


# -- figures


def _bars(tasks: Sequence[TaskRow], points: dict[str, list[Point]]) -> str:
    """Share of configurations that improve each task, a bar per family (figure 5.16)."""
    families = list(dict.fromkeys(point.family for task in tasks for point in points[task.name]))
    names = [textwrap.fill(family, 44) for family in families]
    lines = [line for name in names for line in name.split("\n")]
    with rc_context(STYLE):
        # Room for the names beside the bars: as many inches as their letters and lines take.
        size = (0.8 + 1.3 * len(tasks) + 0.075 * max(map(len, lines)), max(2.6, 0.6 + 0.16 * len(lines)))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        width = 0.8 / max(1, len(families))
        for number, family in enumerate(families):
            label: str | None = names[number]
            for place, task in enumerate(tasks):
                mine = [point for point in _once(points[task.name]) if point.family == family]
                if mine:
                    share = 100 * sum(point.row.gain > 0 for point in mine) / len(mine)
                    axes.bar(
                        place + (number - (len(families) - 1) / 2) * width,
                        share,
                        width * 0.9,
                        color=PALETTE[number % len(PALETTE)],
                        label=label,
                    )
                    label = None  # a family has one entry in the legend
        axes.set_xticks(range(len(tasks)), [task.name for task in tasks])
        axes.set_ylim(0, 100)
        axes.set_ylabel("% of configurations\nbetter than alone")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg(figure, "Share of configurations that improve each task, by family")


def _figure(task: TaskRow, points: Sequence[Point]) -> str:
    """Both ends, depth, families and groups of tasks, as many of them as there are. Returns SVG."""
    panels: list[tuple[str, Callable[[Axes], None]]] = []
    boxes: list[Groups] = []
    if _both_ends(points):
        ends = _grouped(points, lambda point: f"{point.family}\nfrom {point.end}")
        boxes.append(ends)
        panels.append(("both ends", lambda axes: _boxes(axes, ends)))
    if _has_depths(points):
        panels.append(("stages or units", lambda axes: _depth_curves(axes, points)))
    families = _families(_once(points))
    if len(families) > 1:
        boxes.append(families)
        panels.append(("families", lambda axes: _boxes(axes, families)))
    groups = _grouped(
        _once(points), lambda point: "\n".join(["with", *(n for n in point.tasks if n != task.name)])
    )
    if len(groups) > 1:
        boxes.append(groups)
        panels.append(("trained together", lambda axes: _boxes(axes, groups)))
    baseline = points[0].row.baseline
    upright = [name for each in boxes if _stand_upright(each) for name in each]
    with rc_context(STYLE):
        height = 3.2 + 0.05 * min(48, max(map(len, upright), default=0))
        figure = Figure(figsize=(3.4 * len(panels), height), layout="constrained")
        for axes, (title, draw) in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
        ):
            draw(axes)
            axes.axhline(baseline, color=BASELINE, linestyle=":", linewidth=1.2)
            axes.set_title(title, fontsize=9)
        figure.axes[0].set_ylabel(f"{words.metric_name(task.metric)}, test")
        return svg(figure, f"{task.name} in all configurations; the dotted line is the task alone")


def _boxes(axes: Axes, groups: Groups) -> None:
    """A box of the configurations' values per group, and the values themselves."""
    for place, (name, points) in enumerate(groups.items()):
        del name
        values = np.array([point.row.value for point in points])
        colour = PALETTE[place % len(PALETTE)]
        axes.boxplot(
            values,
            positions=[place],
            widths=0.55,
            showfliers=False,
            medianprops={"color": colour, "linewidth": 1.6},
        )
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(place + spread, values, ".", color=colour, markersize=3, alpha=0.7)
    upright = _stand_upright(groups)
    names = [
        textwrap.fill(name.replace("\n", " "), 48) if upright else _beside(name, groups) for name in groups
    ]
    axes.set_xticks(range(len(groups)), names, fontsize=6 if upright else 7)
    if upright:
        axes.tick_params(axis="x", rotation=90)


def _stand_upright(groups: Groups) -> bool:
    """Whether the names under boxes stand upright: there are many, or they have no room beside each other."""
    lines = [_beside(name, groups).split("\n") for name in groups]
    too_long = any(len(each) > _MOST_LINES or max(map(len, each)) > _room(groups) for each in lines)
    return len(groups) > _MOST_BESIDE or too_long


def _beside(name: str, groups: Groups) -> str:
    """A name on short lines, beside the others."""
    wrapped = [textwrap.fill(line, _room(groups), break_long_words=False) for line in name.split("\n")]
    return "\n".join(wrapped)


def _room(groups: Groups) -> int:
    return _LETTERS // max(1, len(groups))


def _depth_curves(axes: Axes, points: Sequence[Point]) -> None:
    """Mean over the groups of tasks by depth, a line per family and end (figures 5.6-5.8, 5.20-5.22)."""
    for number, (family, mine) in enumerate(_families(points).items()):
        for end in ("input", "output"):
            there = [point for point in mine if point.end == end]
            depths = sorted({point.depth for point in there})
            if not depths:
                continue
            means = [float(np.mean([p.row.value for p in there if p.depth == depth])) for depth in depths]
            colour = PALETTE[number % len(PALETTE)]
            axes.plot(
                depths,
                means,
                _LINES[end],
                marker="o",
                markersize=3,
                color=colour,
                label=textwrap.fill(f"{family} from {end}", 44),
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    # as short as handles are by default, a dashed line looks like a whole one
    axes.legend(frameon=False, fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.12), handlelength=4)
