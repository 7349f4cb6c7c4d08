"""The terminal's tables print names, units and "[no interval]" as they are, not as markup."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import taskloom as tl
from taskloom.data.feature_rows import FeatureRows
from taskloom.data.tables import TableDataset
from taskloom.terminal import print_verdicts


def summary(low: float | None) -> dict[str, Any]:
    task = {"name": "length [mm]", "kind": "regression", "metric": "mae", "unit": "[mm]"}
    gain = {"task": "length [mm]", "cell": "c1", "baseline": 2.5, "value": 2.5, "gain": 0.0, "low": low}
    return {
        "cells": [{"id": "c1", "name": "hard [red] 1"}],
        "num_repeats": 3,
        "overall": None,
        "tasks": [{**task, "higher_is_better": False, "chosen_cell": "c1", "auxiliary": False}],
        "gains": [
            {**gain, "high": low, "p_value": 1.0, "verdict": "no difference shown", "note": "", "surer": ""}
        ],
        "design": "",
        "failed": [],
        "warnings": [],
    }


@pytest.mark.parametrize("low", [None, math.nan])
def test_brackets_in_verdicts_are_printed(low: float | None, capsys: pytest.CaptureFixture[str]) -> None:
    print_verdicts(summary(low))
    said = " ".join(capsys.readouterr().out.split())
    assert "length [mm] 2.50 [mm] MAE hard [red] 1 2.50 0.00 [no interval] no difference shown" in said


def test_brackets_in_evaluations_are_printed() -> None:
    tasks = tl.TaskSet(tl.Regression("length [/mm]", unit="[mm]"))
    model = tl.sharing.build("single_task", tl.encoders.mlp((2,), hidden=[2]), tasks)
    labels = tl.Labels({"length [/mm]": torch.arange(8.0)}, {"length [/mm]": torch.ones(8, dtype=torch.bool)})
    data = TableDataset(FeatureRows(np.zeros((8, 2), dtype=np.float32)), np.arange(8), tasks, labels)
    text = str(tl.evaluate(model, data))
    assert "length [/mm]" in text
    assert "[mm]" in text.replace("[/mm]", "")
