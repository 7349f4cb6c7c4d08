"""A problem whose right sharing is known: groups of related tasks, one unrelated task, inputs of four forms.

Every row has eight hidden factors. The tasks of a group read one nonlinear feature of two factors, each with
a weight of its own, and a little of a feature of their own; the unrelated task reads factors of its own.
Rows reach a network as a table, as windows, or as images: factors times fixed patterns, plus noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from taskloom import Binary, Labels, Multiclass, Regression, TaskSet, encoders
from taskloom.data.batch import Batch
from taskloom.encoders import Encoder

INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    "mlp": (10,),
    "conv1d": (16, 3),
    "conv2d": (2, 8, 8),
    "lstm": (5, 4),
}
NUM_FACTORS = 8
NUMBERS = (1, 2, 3, 8)


@dataclass
class PlantedRows:
    """A TaskDataset in memory; `relations` holds the names of each group of related tasks."""

    inputs: Tensor
    labels: Labels
    tasks: TaskSet
    relations: tuple[tuple[str, ...], ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    @property
    def groups(self) -> NDArray[np.int64]:
        return np.arange(len(self.inputs)) // 2

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.tensor(indices)
        return Batch(self.inputs[index], self.labels[index], index)


def relations_of(num_tasks: int) -> tuple[tuple[int, ...], ...]:
    """Two groups of related tasks and one unrelated task, as far as the number of tasks goes."""
    if num_tasks < 3:
        return (tuple(range(num_tasks)),)
    half = num_tasks // 2
    first, second, last = range(half), range(half, num_tasks - 1), (num_tasks - 1,)
    return tuple(tuple(group) for group in (first, second, last) if group)


def planted_tasks(num_tasks: int, *, equal: bool = False) -> TaskSet:
    """Regression, binary and three-class tasks by turns; regressions alone where `equal`."""
    kinds: list[Callable[[str], Regression | Binary | Multiclass]] = [
        Regression,
        Binary,
        lambda name: Multiclass(name, 3),
    ]
    return TaskSet(*(kinds[0 if equal else index % 3](f"task_{index}") for index in range(num_tasks)))


def planted(
    kind: str,
    num_tasks: int,
    *,
    num_rows: int = 96,
    seed: int = 0,
    holes: float = 0.1,
    noise: float = 0.1,
    equal: bool = False,
) -> PlantedRows:
    """Draws a data set; patterns and weights are the same for all seeds, rows are not.

    Args:
        kind: A key of `INPUT_SHAPES`.
        num_tasks: T; see `relations_of`.
        num_rows: N.
        seed: Seed of rows, noise and holes.
        holes: Probability that a label is missing.
        noise: Standard deviation of the noise on inputs and scores.
        equal: Whether all tasks are regressions.
    """
    fixed = torch.Generator().manual_seed(1)
    draw = torch.Generator().manual_seed(100 + seed)
    shape = INPUT_SHAPES[kind]
    patterns = torch.randn(NUM_FACTORS, *shape, generator=fixed)
    mixes = 0.5 + torch.rand(num_tasks, generator=fixed)
    factors = torch.randn(num_rows, NUM_FACTORS, generator=draw)
    inputs = torch.tensordot(factors, patterns, dims=1) / NUM_FACTORS**0.5
    inputs = inputs + noise * torch.randn(inputs.shape, generator=draw)
    tasks, relations = planted_tasks(num_tasks, equal=equal), relations_of(num_tasks)
    values, present = {}, {}
    for index, (name, task) in enumerate(tasks.items()):
        group = next(number for number, members in enumerate(relations) if index in members)
        pair = factors[:, 2 * group : 2 * group + 2]
        score = mixes[index] * (pair[:, 0] + pair[:, 1].abs() - 0.8) + 0.1 * factors[:, 6 + index % 2]
        score = score + noise * torch.randn(num_rows, generator=draw)
        if isinstance(task, Regression):
            values[name] = score
        elif isinstance(task, Binary):
            values[name] = (score > 0).long()
        else:
            values[name] = torch.bucketize(score, torch.tensor([-0.5, 0.5]))
        present[name] = torch.rand(num_rows, generator=draw) >= holes
    named = tuple(tuple(tasks.names[index] for index in members) for members in relations)
    return PlantedRows(inputs, Labels(values, present), tasks, named)


class Recurrent(nn.Module):
    """An LSTM over [N, time, channels]: all states as [N, units, time], or the last one as [N, units]."""

    def __init__(self, num_inputs: int, num_units: int, *, last: bool) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(num_inputs, num_units, batch_first=True), last

    def forward(self, windows: Tensor) -> Tensor:
        states: Tensor = self.lstm(windows)[0]
        return states[:, -1] if self.last else states.transpose(1, 2)


class TimeLast(nn.Module):
    """[N, units, time] to [N, time, units]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.transpose(1, 2)


def planted_encoder(kind: str) -> Encoder:
    """A small encoder for the inputs of that kind; the first three have batch norm."""
    shape = INPUT_SHAPES[kind]
    if kind == "mlp":
        return encoders.build("mlp", shape, hidden=[16, 16, 8], norm="batch")
    if kind == "conv1d":
        return encoders.build("conv1d", shape, filters=[8, 8, 8], kernel=3)
    if kind == "conv2d":
        return encoders.from_modules(
            [
                nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
                nn.Sequential(nn.Flatten(), nn.Linear(128, 12), nn.ReLU()),
            ],
            shape,
        )
    return encoders.from_modules(
        [
            Recurrent(shape[1], 12, last=False),
            nn.Sequential(TimeLast(), Recurrent(12, 12, last=True)),
            nn.Sequential(nn.Linear(12, 8), nn.Tanh()),
        ],
        shape,
    )
