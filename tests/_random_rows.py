"""Random rows of any shape with three kinds of labels, in memory, for tests that train on them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

import taskloom as tl
from taskloom.data.batch import Batch

RANDOM_TASKS = tl.TaskSet(tl.Regression("age"), tl.Binary("smiles"), tl.Multiclass("place", 3))


class RandomRows:
    """A `TaskDataset` of random inputs and labels, a share of them missing.

    Args:
        shape: Of one input.
        seed: Of all numbers.
        num_rows: Number of rows.
        missing: Share of the labels that are missing.
    """

    def __init__(
        self, shape: tuple[int, ...], seed: int, *, num_rows: int = 24, missing: float = 0.3
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.tasks, self.input_shape = RANDOM_TASKS, shape
        self.inputs = torch.rand(num_rows, *shape, generator=draw)
        values = {
            "age": torch.randn(num_rows, generator=draw),
            "smiles": torch.randint(2, (num_rows,), generator=draw),
            "place": torch.randint(3, (num_rows,), generator=draw),
        }
        present = {task: torch.rand(num_rows, generator=draw) >= missing for task in values}
        self.labels = tl.Labels(values, present)
        self.seen: list[list[int]] = []
        """The rows of every batch, in the order in which they were asked for."""

    @property
    def groups(self) -> NDArray[np.int64]:
        return np.arange(len(self))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: list[int]) -> Batch:
        self.seen.append(list(indices))
        index = torch.tensor(indices)
        return Batch(self.inputs[index], self.labels[index], index)
