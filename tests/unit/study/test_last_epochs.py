"""Thesis 002's tables by its own figures: overhead of training time, means over the last epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

import taskloom as tl
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.last_epochs import METRICS_SHOWN, course
from taskloom.study.results import RunRecord
from taskloom.study.verdicts import by_cell_and_task

VALENCE_AROUSAL = tl.TaskSet(tl.Binary("valence"), tl.Binary("arousal"))
WITH_AUXILIARY = tl.TaskSet(
    tl.Multiclass("ML_Both_Arms", 3), tl.Multiclass("Locomotion", 3, role="auxiliary", weight=0.5)
)


def run(
    cell: str,
    tasks: Sequence[str],
    hours: float,
    accuracies: Sequence[float | None] = (0.5, 0.6),
    repeat: int = 0,
    part: str = "test",
) -> RunRecord:
    values = [{task: dict.fromkeys(METRICS_SHOWN, value) for task in tasks} for value in accuracies]
    epochs = [{"test_metrics": one if part == "test" else {}, "validation_metrics": one} for one in values]
    return RunRecord(
        id=f"{cell}{'-'.join(tasks)}{repeat}",
        cell=cell,
        cell_name=cell,
        tasks=tuple(tasks),
        repeat=repeat,
        seed=repeat,
        status="done",
        seconds_training=3600 * hours,
        num_parameters=10,
        history={"epochs": epochs},
    )


def settled(tasks: tl.TaskSet, records: Sequence[RunRecord], last_epochs: int = 10) -> dict[Any, Any]:
    cells = [{"id": cell} for cell in dict.fromkeys(r.cell for r in records) if cell != SINGLE_TASK]
    facts = {"report": {"last_epochs": last_epochs, "loess_span": 0.75}, "cells": cells}
    found = course(tasks, facts, by_cell_and_task(records))
    assert found is not None
    return {(row["cell"], row["task"]): row for row in found["settled"]}


@pytest.mark.parametrize(("hours", "percent"), [(5.622, 8.80), (22.386, 333.25), (12.039, 132.99)])
def test_overhead_of_table_4_2_is_over_the_average_of_both_tasks_alone(hours: float, percent: float) -> None:
    alone = [run(SINGLE_TASK, ["valence"], 5.0), run(SINGLE_TASK, ["arousal"], 2 * 5.167 - 5.0)]
    rows = settled(VALENCE_AROUSAL, [*alone, run("shared", ["valence", "arousal"], hours)])
    for task in VALENCE_AROUSAL:
        assert 100 * rows["shared", task]["overhead"] == pytest.approx(percent, abs=0.02)
        assert np.isnan(rows["", task]["overhead"])


@pytest.mark.parametrize(
    ("hours", "percent"), [(2.166, 4.06), (2.299, 10.47), (4.019, 93.11), (4.513, 116.82)]
)
def test_overhead_of_table_4_1_is_over_the_main_task_alone(hours: float, percent: float) -> None:
    records = [
        run(SINGLE_TASK, ["ML_Both_Arms"], 2.081),
        run(SINGLE_TASK, ["Locomotion"], 100.0),  # trained alone too, and no part of the comparison
        run("shared", ["ML_Both_Arms", "Locomotion"], hours),
    ]
    rows = settled(WITH_AUXILIARY, records)
    assert 100 * rows["shared", "ML_Both_Arms"]["overhead"] == pytest.approx(percent, abs=0.06)
    assert ("shared", "Locomotion") not in rows


def test_times_are_means_over_repeats() -> None:
    records = [
        run(SINGLE_TASK, [task], hours, repeat=r)
        for task in VALENCE_AROUSAL
        for r, hours in enumerate((1, 3))
    ]
    records += [run("shared", ["valence", "arousal"], hours, repeat=r) for r, hours in enumerate((2, 4))]
    row = settled(VALENCE_AROUSAL, records)["shared", "valence"]
    assert (row["seconds"], row["overhead"]) == (3 * 3600, pytest.approx(3 / 2 - 1))


def test_the_mean_of_the_last_epochs_and_its_t_interval() -> None:
    draw = np.random.default_rng(0)
    curve = draw.uniform(0.6, 0.8, 50)
    records = [run(SINGLE_TASK, [task], 1.0, curve.tolist()) for task in VALENCE_AROUSAL]
    found = settled(VALENCE_AROUSAL, records)["", "valence"]
    assert (found["part"], found["repeats"]) == ("test", 1)
    low, high = stats.t.interval(0.95, 9, loc=curve[-10:].mean(), scale=stats.sem(curve[-10:]))
    assert found["values"]["accuracy"]["mean"] == pytest.approx(curve[-10:].mean())
    assert found["values"]["accuracy"]["over_epochs"] == pytest.approx((high - low) / 2)
    assert np.isnan(found["values"]["accuracy"]["over_repeats"])  # one repeat says nothing about another


def test_over_epochs_and_over_repeats_are_two_intervals() -> None:
    draw = np.random.default_rng(1)
    curves = draw.uniform(0.5, 0.9, (4, 12)) + np.array([0.0, 0.01, 0.02, 0.05])[:, None]
    records = [
        run(SINGLE_TASK, [task], 1.0, curve.tolist(), repeat, part="validation")
        for task in VALENCE_AROUSAL
        for repeat, curve in enumerate(curves)
    ]
    found = settled(VALENCE_AROUSAL, records, last_epochs=5)["", "arousal"]
    assert found["part"] == "validation"  # without curves of the test rows
    last = curves[:, -5:]
    for name, values in (("over_epochs", last.mean(axis=0)), ("over_repeats", last.mean(axis=1))):
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        assert found["values"]["accuracy"][name] == pytest.approx(half)
    assert found["values"]["accuracy"]["mean"] == pytest.approx(last.mean())


def test_epochs_without_a_value_and_short_trainings() -> None:
    records = [run(SINGLE_TASK, [task], 1.0, [None, 0.4, None, 0.6]) for task in VALENCE_AROUSAL]
    found = settled(VALENCE_AROUSAL, records)["", "valence"]["values"]["accuracy"]
    assert found["mean"] == pytest.approx(0.5)
    assert (
        settled(VALENCE_AROUSAL, records, last_epochs=2)["", "valence"]["values"]["accuracy"]["mean"] == 0.6
    )
