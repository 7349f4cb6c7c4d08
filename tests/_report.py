"""A small finished study as the report sees it: one task helped, one hurt, one undecided."""

from __future__ import annotations

import dataclasses
import math

from taskloom.report.model import (
    CellRow,
    GainRow,
    LabelCount,
    ReportData,
    TaskRow,
    Verdict,
)
from taskloom.report.training_model import Balancing, Curve, Mixing

_HARD, _STITCH = "hard sharing 3 from input", "cross-stitch <per channel>"
_UNCLEAR: Verdict = "no difference shown"


def with_overall() -> ReportData:
    """The finished study, with all tasks judged together as well."""
    data = finished_study()
    together = TaskRow("mean of 3 tasks", "mean", "accuracy", "", higher_is_better=True, chosen_cell="c1")
    gain = GainRow(together.name, "c1", 0.90, 0.92, 0.02, 0.01, 0.03, 0.004, "helped")
    weighed = Balancing(
        "c1", {"age": [0.2, 0.4], "gender": [0.8, 0.6]}, {"age, gender": [0.1, -0.3]}, [0.2, 0.7]
    )
    ends = ("hard sharing: age converged in epoch 4, 6, by repeat.",)
    return dataclasses.replace(
        data, overall=together, gains=(*data.gains, gain), balancing=(weighed,), task_ends=ends
    )


def finished_study() -> ReportData:
    """Three tasks and two cells; `smiling` was not trained in the second cell."""
    tasks = (
        TaskRow("age", "regression", "mae", "years", higher_is_better=False, chosen_cell="c2"),
        TaskRow("gender", "binary", "accuracy", "", higher_is_better=True, chosen_cell="c1"),
        TaskRow("smiling", "binary", "accuracy", "", higher_is_better=True, chosen_cell="c1"),
    )
    names = tuple(task.name for task in tasks)
    cells = (
        CellRow(
            "c1",
            "hard sharing 3 from input",
            names,
            61.0,
            120_000,
            2**28,
            12.0,
            3,
            3,
            "stage 1  all",
            0.4,
            0.5,
            1.1,
        ),
        CellRow(
            "c2",
            "cross-stitch <per channel>",
            names[:2],
            150.0,
            240_000,
            2**29,
            10.5,
            2,
            3,
            "",
            1.04,
            1.0,
            1.3,
        ),
    )
    gains = (
        GainRow("age", "c1", 5.61, 5.5, 0.11, -0.05, 0.27, 0.2, _UNCLEAR),
        GainRow("age", "c2", 5.61, 5.22, 0.39, 0.27, 0.52, 0.001, "helped", note="2 of 3 repeats"),
        GainRow(
            "gender",
            "c1",
            0.912,
            0.915,
            0.003,
            -0.004,
            0.010,
            0.4,
            _UNCLEAR,
            surer="12 repeats would do.",
        ),
        GainRow(
            "gender",
            "c2",
            0.912,
            0.910,
            -0.002,
            math.nan,
            math.nan,
            1.0,
            _UNCLEAR,
            note="one repeat",
        ),
        GainRow("smiling", "c1", 0.881, 0.861, -0.020, -0.031, -0.009, 0.002, "hurt"),
    )
    curves = tuple(
        Curve(task, cell, repeat, [0.5, 0.6 + 0.01 * repeat, 0.7][: 2 + repeat % 2], best_epoch=1)
        for task in names
        for cell in ("", "c1", "c2")
        for repeat in range(3)
    )
    mixing = (
        Mixing(
            "c2",
            names[:2],
            {"conv1": [[0.9, 0.1], [0.2, 0.8]], "conv2": [[0.5, 0.5], [0.4, 0.6]]},
            {"conv1": [[[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.2, 0.8]]]},
        ),
    )
    labels = (
        LabelCount("age", 800, 100, 100, 0.0, "mean 33.1, sd 12.0 years"),
        LabelCount("gender", 800, 100, 100, 0.0, "0: 390, 1: 410"),
        LabelCount("smiling", 400, 60, 60, 0.41, "0: 200, 1: 200"),
    )
    return ReportData(
        title="faces & co",
        created="2026-11-22 10:00",
        tasks=tasks,
        cells=cells,
        gains=gains,
        curves=curves,
        mixing=mixing,
        labels=labels,
        num_repeats=3,
        clusters="1,203 people",
        design="Paired over 3 repeats, clustered by person, Holm over 2 cells.",
        failed=("cross-stitch, repeat 2: the loss became NaN at step 12.",),
        warnings=("1 of 6 runs has not finished.",),
        data_notes=("faces/metadata.csv, 1,000 rows.",),
        environment={"torch": "2.13.0", "device": "cpu"},
        study_file="tasks:\n  age: {kind: regression}\n",
    )
