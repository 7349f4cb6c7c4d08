"""`fit` moves every architecture as a loop written by hand with PyTorch's plain optimiser does.

What makes `fit` fast (fused updates, filters that lie channels last, joined groups and batches, kernels that
take several copies) must not show in a single weight.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import taskloom as tl
from _architecture_table import SETTINGS
from _random_rows import RANDOM_TASKS, RandomRows
from taskloom.encoders import build
from taskloom.training import Callback, TrainingState

SHAPES = {"vgg5": (3, 32, 32), "opportunity_cnn": (64, 10)}
BATCH, RATE = 8, 0.02
CHANGES_IN_TRAINING = {
    "adaptive_branching",
    "adashare",
    "learning_to_branch",
}  # by the epoch, which `fit` tells them


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
    network = tl.sharing.ARCHITECTURES[architecture](encoder, RANDOM_TASKS, **SETTINGS[architecture], **head)
    by_hand = copy.deepcopy(network)
    rows, last = RandomRows(SHAPES[name], 1), Last()
    optimizer = {"sgd": {"lr": RATE, "momentum": 0.9, "weight_decay": 0.0}}
    settings: dict[str, Any] = {"epochs": 1, "batch": BATCH, "optimizer": optimizer, "device": "cpu"}
    tl.fit(network, rows, RandomRows(SHAPES[name], 2), seed=1, callbacks=[last], **settings)

    order = rows.seen[: len(rows) // BATCH]
    assert sorted(row for batch in order for row in batch) == list(range(len(rows)))
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
        losses = tl.losses.per_task(by_hand(batch.inputs), batch.labels, RANDOM_TASKS)
        plain.zero_grad()
        (sum(loss.mean for loss in losses.values()) + by_hand.penalty()).backward()
        plain.step()
    for key, expected in by_hand.state_dict().items():
        torch.testing.assert_close(last.state[key], expected, rtol=1e-5, atol=1e-6)
