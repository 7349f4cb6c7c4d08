"""Families of a grid of configurations: named in words by what they differ in, and drawn however many."""

from __future__ import annotations

import dataclasses
import re

import pytest

from _report import finished_study
from _small_study import TEXT, read
from taskloom.report.configurations import grid_view
from taskloom.report.model import CellRow, Configuration, GainRow
from taskloom.study.cells import expand_cells
from taskloom.study.configurations import configuration_rows


@pytest.mark.parametrize(
    ("cells", "families"),
    [
        (["hard_sharing: {stages: [1, 2], from: [input, output]}"], {"hard sharing"}),
        (
            ["hard_sharing: {stages: [1, 2]}", "hard_sharing: {stages: 1}\n    balancing: pcgrad"],
            {"hard sharing", "hard sharing, pcgrad"},
        ),
        (
            [
                "hard_sharing: {stages: 1}\n    balancing: {learned_weights: {lambda: [0.01, 1]}}",
                "hard_sharing: {stages: 1}\n    callbacks: [{early_freeze: {patience: 2}}]",
                "hard_sharing: {stages: 1, read_out: {sex: 1}}",
            ],
            {
                "hard sharing, learned weights lambda 0.01",
                "hard sharing, learned weights lambda 1",
                "hard sharing, early freeze patience 2",
                "hard sharing, read out sex 1",
            },
        ),
        (
            ["cross_stitch: {units: 1, per: [layer, channel]}", "cross_stitch: {units: 2}"],
            {"cross-stitch, per layer", "cross-stitch, per channel", "cross-stitch"},
        ),
        (
            ["hard_sharing: {stages: 1}", "hard_sharing: {stages: 2}\n    training: {epochs: 7}"],
            {"hard sharing, epochs 3", "hard sharing, epochs 7"},
        ),
    ],
)
def test_families_are_named_by_what_they_differ_in(cells: list[str], families: set[str]) -> None:
    study = read(text=TEXT.partition("cells:")[0] + "cells:\n" + "".join(f"  - {cell}\n" for cell in cells))
    rows = configuration_rows(expand_cells(study))
    assert {row["family"] for row in rows} == families


def test_every_family_stands_in_the_legend_and_long_names_have_room() -> None:
    """A family without a cell on the first task, among a dozen of long names; warnings are errors."""
    data = finished_study()
    first, second = [task.name for task in data.tasks][:2]
    families = [f"hard sharing, learned weights lambda {n}, early freeze patience {n}" for n in range(12)]
    cells, gains, rows = [], [], []
    for number, family in enumerate(families):
        for depth, tasks in ((1, (first, second)), (2, (second,))):
            if number == 11:
                tasks = (second,)
            cell = f"{number}-{depth}"
            cells.append(CellRow(cell, cell, tasks, 1.0, 1, 1, 1.0, 3, 3))
            rows.append(Configuration(cell, family, depth, "input"))
            gains += [GainRow(task, cell, 1.0, 2.0, 1.0, 0.5, 1.5, 0.5, "helped") for task in tasks]
    view = grid_view(
        dataclasses.replace(data, cells=cells, gains=gains, configurations=rows, curves=(), mixing=())
    )
    assert view is not None
    legend = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", view.bars))
    assert all(f"lambda {number}," in legend for number in range(12))


def test_a_coupling_is_named_as_cells_name_it() -> None:
    """By its source, and by what differs between coupled cells; not by every setting that it has."""
    text = TEXT.replace("regression, unit: years", "binary").partition("cells:")[0] + (
        "cells:\n"
        "  - hard_sharing: {stages: 1}\n"
        "  - hard_sharing: {stages: [1, 2]}\n"
        "    coupling: {relatedness: from_labels}\n"
    )
    rows = configuration_rows(expand_cells(read(text=text)))
    assert [row["family"] for row in rows] == ["hard sharing", *2 * ["hard sharing, coupling from labels"]]


def test_a_family_of_one_cell_is_not_drawn_as_a_grid() -> None:
    """The study file of EXPERIENCE.md: nine depths and ends, and two cells that stand for themselves."""
    data = finished_study()
    task = data.tasks[0].name
    places = [("hard sharing", depth, end) for depth in (1, 2, 3) for end in ("input", "output")]
    places += [("hard sharing, learned weights lambda 0.1, early freeze patience 5", 2, "input")]
    cells = [CellRow(f"{n}", f"{n}", (task,), 1.0, 1, 1, 1.0, 3, 3) for n in range(len(places))]
    gains = [GainRow(task, cell.id, 1.0, 2.0, 1.0, 0.5, 1.5, 0.5, "helped") for cell in cells]
    rows = [Configuration(cell.id, *place) for cell, place in zip(cells, places, strict=True)]
    view = grid_view(
        dataclasses.replace(data, cells=cells, gains=gains, configurations=rows, curves=(), mixing=())
    )
    assert view is not None
    assert [(line[2], line[3]) for line in view.counts if line[0] == task] == [("hard sharing", "6 of 6")]


def test_three_families_of_long_names_have_room_below_their_boxes() -> None:
    """Beside each other such names lie over one another and squeeze the panels; warnings are errors."""
    data = finished_study()
    task = data.tasks[0].name
    families = ["hard sharing", *(f"hard sharing, learned weights {n}, early freeze patience" for n in "abc")]
    places = [(family, depth, end) for family in families for depth in (1, 2) for end in ("input", "output")]
    cells = [CellRow(f"{n}", f"{n}", (task,), 1.0, 1, 1, 1.0, 3, 3) for n in range(len(places))]
    gains = [GainRow(task, cell.id, 1.0, 2.0, 1.0, 0.5, 1.5, 0.5, "helped") for cell in cells]
    rows = [Configuration(cell.id, *place) for cell, place in zip(cells, places, strict=True)]
    view = grid_view(
        dataclasses.replace(data, cells=cells, gains=gains, configurations=rows, curves=(), mixing=())
    )
    assert view is not None
    figure = next(svg for row, svg in view.figures if row.name == task)
    names = [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", figure) if "patience" in text]
    assert names
    assert len(re.findall(r"rotate\(-90", figure)) >= len(families)
