"""Small data with holes and a small network for the tests of training; importable by spawned processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from taskloom import Binary, Labels, Multiclass, Regression, TaskSet
from taskloom.data.batch import Batch

TASKS = TaskSet(Regression("age", center=1.0, scale=2.0), Binary("gender"), Multiclass("mood", 3))


@dataclass
class TensorRows:
    """A TaskDataset over tensors in memory."""

    inputs: Tensor
    labels: Labels
    groups: NDArray[np.int64]
    tasks: TaskSet = field(default_factory=lambda: TASKS)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.tensor(indices)
        return Batch(self.inputs[index], self.labels[index], index)


def rows_with_holes(num_rows: int, seed: int, holes: float = 0.4) -> TensorRows:
    """Labels that follow from the inputs; each missing with probability `holes`."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_rows, 4, generator=draw)
    values = {
        "age": 1.0 + 2.0 * inputs[:, 0] + inputs[:, 1],
        "gender": (inputs[:, 1] > 0).long(),
        "mood": inputs[:, :3].argmax(dim=1),
    }
    present = {name: torch.rand(num_rows, generator=draw) >= holes for name in values}
    values = {name: torch.where(present[name], value, 0) for name, value in values.items()}
    return TensorRows(inputs, Labels(values, present), np.arange(num_rows) // 3)


@dataclass
class Group:
    name: str
    parameters: list[nn.Parameter]
    lr_multiplier: float = 1.0
    decays: bool = True


class TinyNetwork(nn.Module):
    """The five methods of a MultiTaskNetwork over one shared layer, with dropout and a penalty."""

    def __init__(
        self, tasks: TaskSet = TASKS, seed: int = 0, dropout: float = 0.3, weight: float = 0.01
    ) -> None:
        super().__init__()
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        self.tasks, self.weight = tasks, weight
        self.reversals: dict[str, object] = {}
        self.shared = nn.Linear(4, 8)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({name: nn.Linear(8, task.width) for name, task in tasks.items()})
        torch.set_rng_state(state)

    def features(self, inputs: Tensor) -> Tensor:
        return self.dropout(self.shared(inputs).tanh())

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        features = self.features(inputs)
        return {name: head(features) for name, head in self.heads.items()}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.shared.parameters()

    def task_parameters(self, task: str) -> Iterator[nn.Parameter]:
        return self.heads[task].parameters()

    def penalty(self) -> Tensor:
        return self.weight * self.shared.weight.square().sum()

    def parameter_groups(self) -> list[Group]:
        return [
            Group("shared", list(self.shared.parameters())),
            Group("heads", list(self.heads.parameters()), lr_multiplier=2.0),
        ]

    def set_epoch(self, epoch: int) -> None:
        pass

    def set_step(self, step: int | None) -> None:
        pass

    def mixing_matrices(self) -> dict[str, Tensor]:
        return {"shared": torch.eye(len(self.tasks))}
