"""The first screen of a study in which a cell failed, and a task's metric has no value: it says so."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from pathlib import Path

import pandas as pd

from _report import finished_study
from _small_study import TEXT, Watcher, read, write_table
from taskloom.report import words
from taskloom.report.matrix import verdict_matrix
from taskloom.report.model import ReportData
from taskloom.report.plots import mixing_heatmaps
from taskloom.report.render import render
from taskloom.report.training_model import Mixing
from taskloom.study.runner import plan_study, run_study


def study() -> ReportData:
    """`gender` has no value in its chosen cell, and no run of the second cell has finished."""
    data = finished_study()
    first, second = data.cells
    none = dict.fromkeys(("baseline", "value", "gain", "low", "high", "p_value"), math.nan)
    gains = [
        dataclasses.replace(gain, **none, verdict="no verdict", note="no repeat has both")
        if gain.task == "gender"
        else gain
        for gain in data.gains
        if gain.cell == first.id
    ]
    unknown = dict.fromkeys(
        ("epochs", "training_seconds", "time_ratio", "parameter_ratio", "memory_ratio"), math.nan
    )
    failed = dataclasses.replace(second, num_done=0, num_parameters=0, peak_memory_bytes=0, **unknown)
    tasks = [dataclasses.replace(task, chosen_cell=first.id) for task in data.tasks]
    return dataclasses.replace(
        data, tasks=tasks, cells=(first, failed), gains=gains, curves=(), mixing=(), configurations=()
    )


def test_what_is_not_judged_is_no_verdict() -> None:
    data = study()
    said = words.headline(data)
    assert "1 not judged, as its metric has no value" in said
    counted = [int(number) for number in re.findall(r"(\d+) (?:helped|hurt|with no|not judged)", said)]
    assert sum(counted) == len(data.tasks)
    gender = data.tasks[1]
    sentence = words.task_sentence(data, gender)
    assert sentence.startswith("not judged, its accuracy has no value")
    assert "no difference" not in sentence


def test_a_cell_without_a_finished_run_says_so() -> None:
    data = study()
    matrix = verdict_matrix(data, data.tasks)
    assert [[square.text for square in row][1] for row in matrix.squares] == [
        "no finished run",
        "no finished run",
        "–",  # smiling is not among that cell's tasks
    ]
    assert matrix.squares[1][0].text == "not judged"
    page = html.unescape(render(data))
    cost = page[page.index("What sharing cost") : page.index("Where it hurt")]
    (row,) = [line for line in cost.splitlines() if "cross-stitch" in line]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row)[-8:] == [*7 * ["–"], "0/3"]
    assert "nan" not in cost


def test_long_names_of_tasks_leave_room_for_the_matrices() -> None:
    """Warnings are errors: matplotlib says so where the panels have no room."""
    tasks = tuple(f"{letter * 30}_of_the_left_and_the_right_hand" for letter in "abc")
    matrices = {f"dense_{n}": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] for n in range(2)}
    drawn = mixing_heatmaps(Mixing("c1", tasks, matrices, architecture="cross_stitch"))
    assert all(f"{task[:9]}…{task[-9:]}" in drawn for task in tasks)


def test_an_auc_of_one_class_is_warned_of_and_not_judged(tmp_path: Path) -> None:
    folder = write_table(tmp_path)
    table = pd.read_csv(folder / "people.csv")
    table["part"] = ["train"] * 60 + ["validation"] * 24 + ["test"] * 36
    table.loc[table.part == "test", "sex"] = "F"
    table.to_csv(folder / "people.csv", index=False)
    text = TEXT.replace("{by: person, test: 0.3, validation: 0.2}", "{by: column, column: part}")
    text = text.replace("sex:  {kind: binary}", "sex:  {kind: binary, metric: auc}")
    text = text.replace(", group: person", "")
    (warning,) = plan_study(read(text=text), folder / "out", data=folder).prepared.facts["warnings"]
    assert warning.startswith("tasks.sex: every label in test is `F`, so that its AUC has no value")
    short = read("repeats=3", "training.epochs=1", text=text)
    outcome = run_study(short, folder / "out", Watcher(), data=folder)
    verdicts = outcome.to_frame().set_index("task").verdict
    assert verdicts["sex"] == "not judged"
    assert verdicts["age"] != "not judged"
