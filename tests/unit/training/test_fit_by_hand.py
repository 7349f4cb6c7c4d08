"""`fit` moves every architecture as a loop written by hand with PyTorch's plain optimiser does.

What makes `fit` fast (fused updates, filters that lie channels last, joined groups and batches, kernels that
take several copies) must not show in a single weight.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import taskloom as tl
from _architecture_table import SETTINGS
from taskloom.data.batch import Batch
from taskloom.encoders import build
from taskloom.training import Callback, TrainingState

TASKS = tl.TaskSet(tl.Regression("age"), tl.Binary("smiles"), tl.Multiclass("place", 3))
SHAPES = {"vgg5": (3, 32, 32), "opportunity_cnn": (64, 10)}
ROWS, BATCH, RATE = 24, 8, 0.02
CHANGES_IN_TRAINING = {"adaptive_branching", "adashare"}  # by the epoch, which `fit` tells them


class Rows:
    """Rows with holes; `seen` is the order in which they were asked for."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.tasks, self.input_shape = TASKS, shape
        self.inputs = torch.rand(ROWS, *shape, generator=draw)
        values = {
            "age": torch.randn(ROWS, generator=draw),
            "smiles": torch.randint(2, (ROWS,), generator=draw),
            "place": torch.randint(3, (ROWS,), generator=draw),
        }
        present = {task: torch.rand(ROWS, generator=draw) > 0.3 for task in values}
        self.labels = tl.Labels(values, present)
        self.seen: list[list[int]] = []

    @property
    def groups(self) -> NDArray[np.int64]:
        return np.arange(ROWS)

    def __len__(self) -> int:
        return ROWS

    def __getitems__(self, indices: list[int]) -> Batch:
        self.seen.append(list(indices))
        index = torch.tensor(indices)
        return Batch(self.inputs[index], self.labels[index], index)


class Last(Callback):
    """The state after the epoch, before the best one is put back."""

    def epoch_end(self, state: TrainingState) -> None:
        self.state = {key: tensor.clone() for key, tensor in state.model.state_dict().items()}


@pytest.mark.parametrize("name", ["vgg5", "opportunity_cnn"])
@pytest.mark.parametrize("architecture", sorted(set(SETTINGS) - CHANGES_IN_TRAINING))
def test_fit_is_a_plain_loop(architecture: str, name: str) -> None:
    torch.manual_seed(0)
    head: dict[str, Any] = {"head": {"hidden": [6]}} if architecture == "multilinear_relationship" else {}
    encoder = build(name, SHAPES[name])
    network = tl.sharing.ARCHITECTURES[architecture](encoder, TASKS, **SETTINGS[architecture], **head)
    by_hand = copy.deepcopy(network)
    rows, last = Rows(SHAPES[name], 1), Last()
    optimizer = {"sgd": {"lr": RATE, "momentum": 0.9, "weight_decay": 0.0}}
    settings: dict[str, Any] = {"epochs": 1, "batch": BATCH, "optimizer": optimizer, "device": "cpu"}
    tl.fit(network, rows, Rows(SHAPES[name], 2), seed=1, callbacks=[last], **settings)

    order = rows.seen[: ROWS // BATCH]
    assert sorted(row for batch in order for row in batch) == list(range(ROWS))
    groups = [
        {"params": list(group.parameters), "lr": RATE * group.lr_multiplier}
        for group in by_hand.parameter_groups()
    ]
    plain = torch.optim.SGD(groups, momentum=0.9, foreach=False, fused=False)
    torch.manual_seed(1)
    by_hand.train()
    for step, indices in enumerate(order):
        batch = rows.__getitems__(indices)
        by_hand.set_step(step)
        losses = tl.losses.per_task(by_hand(batch.inputs), batch.labels, TASKS)
        plain.zero_grad()
        (sum(loss.mean for loss in losses.values()) + by_hand.penalty()).backward()
        plain.step()
    for key, expected in by_hand.state_dict().items():
        torch.testing.assert_close(last.state[key], expected, rtol=1e-5, atol=1e-6)
