"""Wording of numbers and verdicts."""

from __future__ import annotations

import dataclasses
import math

import pytest

from _report import finished_study
from taskloom.report import words
from taskloom.report.model import GainRow
from taskloom.study import statistics


@pytest.mark.parametrize(
    ("value", "metric", "unit", "text"),
    [
        (0.9123, "accuracy", "", "91.2 %"),
        (0.7114, "f1_macro", "", "0.711"),
        (5.614, "mae", "years", "5.61 years"),
        (0.004321, "mae", "m", "0.00432 m"),
        (1234.5, "mse", "years²", "1234 years²"),
        (-0.5, "r2", "", "−0.500"),
        (math.nan, "auc", "", "–"),
    ],
)
def test_value_with_unit(value: float, metric: str, unit: str, text: str) -> None:
    assert words.with_unit(value, metric, unit) == text


def test_a_rounded_zero_has_no_sign() -> None:
    assert words.number(-0.0001, "accuracy", signed=True) == "0.0"
    assert words.number(0.0001, "f1", signed=True) == "0.000"


def test_headline_counts_verdicts_of_chosen_cells_only() -> None:
    assert words.headline(finished_study()) == (
        "Of 3 tasks, each judged in the cell that was best on validation: "
        "1 helped, 1 hurt, 1 with no difference shown."
    )


def test_sentences_say_value_alone_value_shared_gain_and_verdict() -> None:
    data = finished_study()
    age, gender, smiling = (words.task_sentence(data, task) for task in data.tasks)
    assert age == (
        "MAE 5.61 years alone, 5.22 years with cross-stitch <per channel>: "
        "sharing helped, by +0.39 [0.27, 0.52] years (2 of 3 repeats)."
    )
    assert "no difference shown, +0.3 [−0.4, 1.0] points" in gender
    assert "sharing hurt (negative transfer), by −2.0 [−3.1, −0.9] points" in smiling


def test_without_interval_it_says_so() -> None:
    row = finished_study().gain("gender", "c2")
    assert row is not None
    assert words.interval(row, "accuracy") == "−0.2 [no interval]"


@pytest.mark.parametrize(
    ("metric", "low", "gain", "high", "text"),
    [
        ("accuracy", 0.0003, 0.0104, 0.0205, "+1.04 [0.03, 2.05]"),
        ("f1_macro", -0.02, -0.01, -0.00004, "−0.01000 [−0.02000, −0.00004]"),
        ("mae", 0.001, 0.2, 0.399, "+0.200 [0.001, 0.399]"),
        ("accuracy", 0.0006, 0.0104, 0.0203, "+1.0 [0.1, 2.0]"),  # what is no 0 keeps its decimals
        ("accuracy", -0.0003, 0.01, 0.02, "+1.0 [0.0, 2.0]"),  # holds 0: nothing to tell apart
        ("accuracy", 0.0, 0.01, 0.02, "+1.0 [0.0, 2.0]"),
    ],
)
def test_an_interval_that_excludes_0_never_shows_it(
    metric: str, low: float, gain: float, high: float, text: str
) -> None:
    row = GainRow("t", "c", 5.61, 5.0, gain, low, high, 0.04, "helped")
    assert words.interval(row, metric) == text


@pytest.mark.parametrize(("repeats", "said"), [(1, "one"), (2, "2")])
def test_a_study_of_too_few_repeats_says_that_there_are_no_verdicts(repeats: int, said: str) -> None:
    data = dataclasses.replace(finished_study(), num_repeats=repeats)
    wanted = f"3 tasks; no verdicts yet: they need at least 3 repeats, and the study has {said}."
    assert words.headline(data) == wanted
    assert "no verdict, " in words.task_sentence(data, data.tasks[1])
    assert "no difference shown, " in words.task_sentence(finished_study(), data.tasks[1])
    assert words.LEAST_REPEATS == statistics.LEAST_REPEATS


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ("accuracy", "0.0 [−100.0, 100.0]"),
        ("auc", "0.000 [−1.000, 1.000]"),
        ("mae", "0.00 [−9.68, 9.68]"),
    ],
)
def test_an_interval_is_not_wider_than_what_is_possible(metric: str, shown: str) -> None:
    alone = 5.0 if metric == "mae" else 0.6
    row = GainRow("task", "c1", alone, alone, 0.0, -9.681, 9.681, 1.0, "no difference shown")
    assert words.interval(row, metric) == shown
