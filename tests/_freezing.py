"""Networks over the rows of `_training`, and a watch on what moves, for the tests of freezing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import taskloom as tl
from _training import TASKS, rows_with_holes
from taskloom.sharing import MultiTaskNetwork
from taskloom.tasks import TaskSet
from taskloom.training import Callback, TrainingState

TRAIN, VALIDATION = rows_with_holes(90, seed=1), rows_with_holes(60, seed=2)

PLANS: dict[str, tuple[str, dict[str, Any]]] = {
    "hard sharing from the input": ("hard_sharing", {"stages": 2}),
    "hard sharing from the output": ("hard_sharing", {"stages": 1, "from": "output"}),
    "cross-stitch everywhere": ("cross_stitch", {}),
    "cross-stitch after the first": ("cross_stitch", {"after": [1]}),
    "soft sharing": ("soft_sharing", {"tie": "l2", "weight": 0.1}),
}


def network(
    name: str, *, tasks: TaskSet = TASKS, norm: str | None = "batch", dropout: float = 0.2
) -> MultiTaskNetwork:
    """One of `PLANS` on three layers with batch norm and dropout, always with the same start."""
    architecture, settings = PLANS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = tl.encoders.mlp((4,), hidden=[8, 8, 6], dropout=dropout, norm=norm)
        return tl.sharing.build(architecture, encoder, tasks, **settings)


class Script(Callback):
    """Puts losses of a table in place of those measured; before the callback that reads them.

    Args:
        table: Per task one loss per epoch.
    """

    def __init__(self, table: Mapping[str, list[float | None]]) -> None:
        self.table = table

    def epoch_end(self, state: TrainingState) -> None:
        record = state.history.epochs[-1]
        record.validation_loss = {task: losses[record.epoch - 1] for task, losses in self.table.items()}


class Watch(Callback):
    """Keeps weights, predictions on validation and the optimiser's parameters after every epoch."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.predictions: list[dict[str, Tensor]] = []
        self.optimised: list[set[str]] = []
        self.with_state: list[set[str]] = []

    def epoch_end(self, state: TrainingState) -> None:
        model = state.model
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
        self.weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        self.optimised.append({names.get(id(parameter), "balancer") for parameter in groups})
        self.with_state.append(
            {names.get(id(p), "balancer") for p in state.optimizer.state if isinstance(p, Tensor)}
        )
        modes = {module: module.training for module in model.modules()}
        model.eval()
        with torch.no_grad():
            self.predictions.append(model(VALIDATION.inputs))
        for module, mode in modes.items():
            module.training = mode


def changed(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> set[str]:
    """Names of the entries that differ in any bit."""
    return {name for name in first if not torch.equal(first[name], second[name])}
