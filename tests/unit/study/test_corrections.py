"""What a report says Holm's correction is over: the cells that were tested on the task, not the study's."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pandas as pd

from _report import with_overall
from _small_study import TEXT, run, write_table
from taskloom.report.load import render_report
from taskloom.report.model import CellRow, GainRow, PlainSum
from taskloom.report.plain_sums import plain_sum_view
from taskloom.report.words import corrected_over
from taskloom.study.design import design_sentence
from taskloom.study.verdict_table import remarks
from taskloom.tasks import Regression, TaskSet

BEFORE = (
    TEXT[: TEXT.index("  - hard_sharing")]
    .replace("epochs: 3", "epochs: 1")
    .replace("repeats: 2", "repeats: 3")
)
THREE = BEFORE.replace("  sex: ", "  tall: {kind: regression, column: a}\n  sex: ")
SETS = "  - hard_sharing: {stages: 1}\n    tasks: [[age, sex], [age, tall], [age, tall, sex]]\n"


def test_sets_of_tasks_have_numbers_of_their_own(tmp_path: Path) -> None:
    outcome = run(write_table(tmp_path), text=THREE + SETS)
    rows = outcome.summary["gains"]
    tested = {task: sum(row["task"] == task for row in rows) for task in ("age", "tall", "sex")}
    assert tested == {"age": 3, "tall": 2, "sex": 2}
    told = "after Holm over the cells of each task (age 3, tall 2, sex 2), which holds for each of the 3"
    assert f"{told} tasks by itself." in outcome.summary["design"]
    assert "(age 3, tall 2, sex 2)" in render_report(tmp_path / "out").read_text(encoding="utf-8")


def test_a_cell_without_spread_is_not_counted_beside_a_plain_sum() -> None:
    data = with_overall()
    cells = [CellRow(f"m{i}", f"way {i}", ("age",), 1.0, 1, 1, 1.0, 3, 3) for i in range(3)]
    gain = GainRow("age", "m0", 5.5, 5.4, 0.1, -0.1, 0.3, 0.2, "no difference shown")
    untested = dataclasses.replace(gain, cell="m2", low=math.nan, high=math.nan, p_value=math.nan)
    entry = PlainSum("c1", [gain, dataclasses.replace(gain, cell="m1"), untested])
    rows = [task for task in data.tasks if task.name == "age"]
    view = plain_sum_view(dataclasses.replace(data, cells=[*data.cells, *cells]), entry, rows)
    assert view.correction == "Holm over 2 cells of this table"  # three stand there
    assert len(view.matrix.cells) == 3


def test_what_must_be_known_of_a_gain_stands_below_the_verdicts(tmp_path: Path) -> None:
    table = pd.read_csv(write_table(tmp_path) / "people.csv")
    table["part"] = ["test" if row < 4 else "validation" if row < 28 else "train" for row in range(120)]
    table.to_csv(tmp_path / "people.csv", index=False)  # one person in test
    text = BEFORE.replace("by: person, test: 0.3, validation: 0.2", "by: column, column: part")
    outcome = run(tmp_path, text=text + "  - hard_sharing: {stages: 1}\n")
    told = "age, sex: one group in test: the interval says nothing about other test data"
    assert told in str(outcome).splitlines()
    assert f"<p>{told}</p>" in outcome._repr_html_()
    few = {**outcome.summary, "num_repeats": 2}
    for gain in few["gains"]:
        gain["note"] = "a verdict needs 3 repeats, there are 2; paired on 2 of 3 repeats"
    (note,) = remarks(few)[: -1 - len(few["failed"]) - len(few["warnings"])]
    assert note == "age, sex: paired on 2 of 3 repeats"


def test_many_tasks_have_the_least_and_the_most() -> None:
    many = {f"task {number}": number for number in range(2, 12)}
    assert corrected_over(many, of="of each task") == "Holm over the cells of each task (2 to 11 of them)"
    assert corrected_over({"age": 1}, of="of this table") == "Holm over 1 cell of this table"


def test_a_single_cell_is_not_corrected() -> None:
    for number, told in ((1, "verdicts at the 5 % level."), (2, "after Holm over 2 cells of each task.")):
        facts = {
            "cells": [{"tasks": ["age"]}] * number,
            "repeats": 3,
            "clusters": 30,
            "test_over_train": None,
        }
        assert design_sentence(facts, TaskSet(Regression("age")), []).endswith(told)
