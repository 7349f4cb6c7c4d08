"""Configurations side by side: counts, pairs and means against naive loops; shown where there is a grid."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from _report import finished_study
from taskloom.report import configurations
from taskloom.report.configurations import grid_view
from taskloom.report.model import CellRow, Configuration, GainRow, ReportData, TaskRow, Verdict
from taskloom.report.render import render

TASKS = ("age", "sex", "race")
SETS = [pair for size in (2, 3) for pair in itertools.combinations(TASKS, size)]
VERDICTS: tuple[Verdict, ...] = ("helped", "hurt", "no difference shown")
FAMILIES = ("hard sharing", "cross-stitch")


def grid(depths: int = 5, ends: tuple[str, ...] = ("input", "output")) -> ReportData:
    """Thesis 000's grid with drawn values: 4 sets of tasks, `depths` depths, both ends, two families."""
    rng = np.random.default_rng(0)
    tasks = [
        TaskRow(name, "regression", "mse", "years", higher_is_better=False)
        if name == "age"
        else TaskRow(name, "binary", "accuracy", "", higher_is_better=True)
        for name in TASKS
    ]
    baseline = {"age": 88.0, "sex": 0.88, "race": 0.78}
    cells, gains, rows = [], [], []
    for number, (family, names, depth, end) in enumerate(
        itertools.product(FAMILIES, SETS, range(1, depths + 1), ends)
    ):
        cell = f"c{number}"
        cells.append(CellRow(cell, cell, names, 1.0, 1, 1, 1.0, 3, 3))
        rows.append(Configuration(cell, family, depth, end))
        for name in names:
            gain = float(rng.normal(0.5, 5)) if name == "age" else float(rng.normal(0.0, 0.01))
            value = baseline[name] - gain if name == "age" else baseline[name] + gain
            verdict = VERDICTS[number % 7 % 3]
            gains.append(GainRow(name, cell, baseline[name], value, gain, gain - 1, gain + 1, 0.5, verdict))
    return dataclasses.replace(
        finished_study(), tasks=tasks, cells=cells, gains=gains, configurations=rows, curves=(), mixing=()
    )


def values(data: ReportData, task: str, **wanted: object) -> list[GainRow]:
    found = []
    for each in data.configurations:
        cell, row = data.cell(each.cell), data.gain(task, each.cell)
        about = {**dataclasses.asdict(each), "tasks": cell.tasks if cell else ()}
        if row is not None and all(about[key] == value for key, value in wanted.items()):
            found.append(row)
    return found


def test_counts_equal_a_loop() -> None:
    data = grid()
    view = grid_view(data)
    assert view is not None
    assert [(line[0], line[2]) for line in view.counts] == list(itertools.product(TASKS, FAMILIES))
    for task, _, family, improved, share, helped, hurt in view.counts:
        rows = values(data, task, family=family)
        assert len(rows) == 30  # three of the four sets hold a task, 5 depths, 2 ends
        better = sum(row.gain > 0 for row in rows)
        assert improved == f"{better} of 30"
        assert share == f"{100 * better / 30:.0f} %"
        assert helped == sum(row.verdict == "helped" for row in rows)
        assert hurt == sum(row.verdict == "hurt" for row in rows)


def test_ends_are_compared_in_pairs() -> None:
    data = grid()
    view = grid_view(data)
    assert view is not None
    assert len(view.sentences) == 6
    first = values(data, "sex", family="cross-stitch", end="input")
    second = values(data, "sex", family="cross-stitch", end="output")
    pairs = list(zip(first, second, strict=True))  # the grid's order: ends vary fastest
    better = sum(one.gain > other.gain for one, other in pairs)
    mean = 100 * np.mean([one.gain - other.gain for one, other in pairs])
    (line,) = [line for line in view.sentences if line.startswith("sex, cross-stitch")]
    assert f"in {better} of 15 pairs" in line
    assert f"on average {mean:+.1f} points".replace("-", "−") in line


def test_depth_curves_are_means_over_sets_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = grid()
    drawn: dict[str, tuple[list[float], list[float]]] = {}
    original = configurations.svg

    def look(figure: object, description: str) -> str:
        if description.startswith("age in"):
            axes = {each.get_title(): each for each in figure.axes}  # type: ignore[attr-defined]
            assert list(axes) == ["both ends", "stages or units", "families", "trained together"]
            for line in axes["stages or units"].get_lines():
                drawn[line.get_label()] = (list(line.get_xdata()), list(line.get_ydata()))
            assert [text.get_text() for text in axes["trained together"].get_xticklabels()] == [
                "with\nsex", "with\nrace", "with\nsex\nrace",
            ]  # fmt: skip
            for each in axes.values():  # every panel has the baseline
                assert any(set(line.get_ydata()) == {88.0} for line in each.get_lines())
        return original(figure, description)  # type: ignore[arg-type]

    monkeypatch.setattr(configurations, "svg", look)
    assert grid_view(data) is not None
    for family, end in itertools.product(FAMILIES, ("input", "output")):
        depths, means = drawn[f"{family} from {end}"]
        assert depths == [1, 2, 3, 4, 5]
        for depth, mean in zip(depths, means, strict=True):
            rows = values(data, "age", family=family, end=end, depth=depth)
            assert mean == pytest.approx(np.mean([row.value for row in rows]))


def test_the_page_has_the_section_where_the_study_has_the_shape() -> None:
    page = render(grid())
    assert "Configurations side by side" in page
    assert "age in all configurations; the dotted line is the task alone" in page
    assert "Configurations side by side" not in render(finished_study())
    few = grid(depths=1, ends=("input",))
    assert grid_view(few) is None  # one number, one end: nothing to set side by side
    assert grid_view(dataclasses.replace(grid(), gains=())) is None


def test_unfinished_configurations_are_left_out() -> None:
    data = grid()
    missing = {each.cell for each in data.configurations if each.end == "output" and each.depth == 2}
    partial = dataclasses.replace(data, gains=[row for row in data.gains if row.cell not in missing])
    view = grid_view(partial)
    assert view is not None
    assert all("of 27" in line[3] for line in view.counts)
    assert all("of 12 pairs" in line for line in view.sentences)
