"""Sentences of reports and of the terminal that must agree with the study and with its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import taskloom as tl
from _small_study import TEXT, read, write_table
from taskloom.report.course import _value
from taskloom.report.subgroup_model import Estimate, Gap, Subgroup, SubgroupTable
from taskloom.report.subgroups import _sentences
from taskloom.report.training_model import Settled
from taskloom.study.advice import what_would_help
from taskloom.study.design import design_sentence, same_folds
from taskloom.study.runner import plan_study
from taskloom.study.statistics import Scores, compare
from taskloom.terminal import _beside

TASKS = tl.TaskSet(tl.Binary("sex"))


def facts(repeats: int, **split: Any) -> dict[str, Any]:
    cells = [{"id": "c", "tasks": ["sex"]}]
    return {
        "cells": cells,
        "repeats": repeats,
        "test_over_train": 1 / 3,
        "split": split,
        "clusters": "9 people",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (facts(5, redraw=True), "the split is drawn anew in each of 5 repeats, and"),
        (facts(4, folds=4), "the 4 repeats test on the 4 folds of a split in turn, and"),
        (
            facts(8, folds=4),
            "on the 4 folds of a split in turn, the same each time round, and count as 4, and",
        ),
        (
            facts(8, folds=4, redraw=True),
            "on the 4 folds of a split in turn, which is drawn anew each time round, and",
        ),
    ],
)
def test_folds_are_not_said_to_be_drawn_anew(given: dict[str, Any], said: str) -> None:
    assert said in design_sentence(given, TASKS, [])


def test_further_repeats_of_the_same_folds_are_not_advised() -> None:
    alone = Scores({0: 0.80, 1: 0.82, 2: 0.81, 3: 0.80})
    shared = Scores({0: 0.84, 1: 0.80, 2: 0.85, 3: 0.86})
    gain = compare("sex", "accuracy", alone, {"c": shared}, test_over_train=1 / 3)["c"]
    free = what_would_help(gain)
    assert free.repeats is not None
    assert free.repeats > 4
    assert "redraw:" not in free.text
    assert same_folds(facts(4, folds=4)) == 4
    assert same_folds(facts(4, folds=4, redraw=True)) is None
    told = what_would_help(gain, same_folds=4)
    assert f"about {free.repeats} repeats of folds drawn anew (`redraw: true`) instead of 4" in told.text


def test_only_a_redrawn_split_is_a_source_of_doubt() -> None:
    alone, shared = Scores({0: 0.80, 1: 0.82, 2: 0.81}), Scores({0: 0.84, 1: 0.80, 2: 0.85})
    fixed = compare("sex", "accuracy", alone, {"c": shared})["c"]
    redrawn = compare("sex", "accuracy", alone, {"c": shared}, test_over_train=0.1)["c"]
    assert "split" not in what_would_help(fixed).text
    assert "draw of the split" in what_would_help(redrawn).text


@pytest.mark.parametrize(
    ("metric", "unit", "ends"),
    [("accuracy", "points", " points."), ("mae", "", "]."), ("mae", "years", " years.")],
)
def test_a_change_of_a_gap_has_its_unit(metric: str, unit: str, ends: str) -> None:
    found = Estimate(0.2, -0.1, 0.5)
    table = SubgroupTable(
        "t", metric, "", True, "sex", False, "c", [Subgroup("F", 30, found, found, found)],
        None, None, Gap("F", "M", found),
    )  # fmt: skip
    (sentence,) = _sentences(table, unit)
    assert sentence.startswith("Between F and M, no change by sharing is shown: +")
    assert sentence.endswith(ends)


def test_half_widths_have_one_decimal_more_than_their_mean() -> None:
    value = {"mean": 5.972, "over_epochs": 0.53812, "over_repeats": 0.0123}
    row = Settled("age", "", "test", 3, {"mae": value}, 1.0, np.nan, 10)
    assert _value(row, "mae") == "5.97 ± 0.538 (seeds ± 0.012)"


def test_a_cell_of_one_task_is_warned_of(tmp_path: Path) -> None:
    text = TEXT + "    tasks: [[age], [age, sex]]\n"
    warnings = plan_study(read(text=text), tmp_path / "out", data=write_table(tmp_path)).prepared.facts[
        "warnings"
    ]
    (warning,) = warnings
    assert warning == (
        "people.yaml:11: cells[1] trains age only: nothing is shared, and its gain says nothing about "
        "sharing; give it two tasks or more."
    )


def test_what_is_trained_alone_is_not_said_to_be_trained_beside() -> None:
    row = {"task": "mood", "role": "auxiliary", "metric": "accuracy", "unit": "", "value": 0.696}
    rows = [{**row, "cell": cell} for cell in ("alone", "trunk")]
    lines = _beside({"auxiliary": rows, "cells": [{"name": "trunk"}]})
    assert lines == [
        "mood: 69.6 % accuracy alone (auxiliary, not judged)",
        "mood: 69.6 % accuracy in trunk (auxiliary: trained beside, not judged)",
    ]
