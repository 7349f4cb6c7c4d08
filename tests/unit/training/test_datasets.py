"""What is handed to `fit` and `evaluate` is a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

import taskloom as tl
from taskloom.data.batch import DataSplits
from taskloom.errors import ConfigError


@pytest.fixture
def data(tmp_path: Path) -> DataSplits:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    frame["age"] = 40 + 5 * frame.a
    frame["mood"] = np.where(frame.b > 0, "good", "bad")
    frame.to_csv(tmp_path / "people.csv", index=False)
    return tl.data.table(tmp_path / "people.csv", {"age": {"kind": "regression"}, "mood": {"kind": "binary"}})


def network(tasks: tl.TaskSet) -> Any:
    return tl.sharing.hard_sharing(tl.encoders.mlp((2,), hidden=[3]), tasks, stages=1)


def test_a_network_built_with_the_loaded_tasks_is_trained(data: DataSplits) -> None:
    assert tl.fit(network(data.tasks), data.train, data.validation, epochs=1, device="cpu").finished


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (np.zeros((4, 2)), "ndarray without `tasks`"),
        ([1, 2], "list without `tasks`"),
        (TensorDataset(torch.zeros(4, 2)), "TensorDataset without `tasks`"),
        (None, "NoneType without `tasks`"),
    ],
)
def test_what_is_no_data_set_is_refused_in_words(data: DataSplits, wrong: Any, found: str) -> None:
    model = network(data.tasks)
    for act in (
        lambda: tl.evaluate(model, wrong),
        lambda: tl.fit(model, wrong, data.validation, epochs=1, device="cpu"),
        lambda: tl.fit(model, data.train, wrong, epochs=1, device="cpu"),
    ):
        with pytest.raises(ConfigError, match=f"a data set of taskloom expected .* found {found}"):
            act()
