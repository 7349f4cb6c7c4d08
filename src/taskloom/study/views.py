"""A dataset seen by some of its tasks: their labels, and in training only the rows that have one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.batch import Batch, TaskDataset
from taskloom.data.mixing_batches import RowMix
from taskloom.tasks import Labels, TaskSet


class TaskRows:
    """Rows of a dataset with the labels of some tasks; nothing is copied.

    Args:
        dataset: The dataset.
        tasks: Names of the tasks kept.
        rows: Positions of the rows kept, [N]; all where None.

    Raises:
        ConfigError: A task that the dataset does not have.
    """

    def __init__(
        self, dataset: TaskDataset, tasks: Sequence[str], rows: NDArray[np.int64] | None = None
    ) -> None:
        self.dataset = dataset
        self._tasks = dataset.tasks.subset(tasks)
        self.rows = np.arange(len(dataset), dtype=np.int64) if rows is None else rows

    @property
    def tasks(self) -> TaskSet:
        return self._tasks

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.dataset.input_shape

    @property
    def labels(self) -> Labels:
        """Labels of the N rows."""
        return self.dataset.labels.subset(self._tasks.names)[torch.from_numpy(self.rows)]

    @property
    def groups(self) -> NDArray[np.int64]:
        """Group of every row, [N], with the codes of the dataset."""
        return self.dataset.groups[self.rows]

    @property
    def mix(self) -> RowMix | None:
        """How batches of these rows are mixed, where they come from several data sets."""
        mix: RowMix | None = getattr(self.dataset, "mix", None)
        return None if mix is None else mix.of(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        positions = np.asarray(indices, dtype=np.int64)
        batch = self.dataset.__getitems__(self.rows[positions].tolist())
        return Batch(batch.inputs, batch.labels.subset(self._tasks.names), torch.from_numpy(positions))


def labelled_rows(dataset: TaskDataset, tasks: Sequence[str]) -> TaskDataset:
    """Returns the rows that have a label of at least one of the tasks.

    A baseline that trained on rows without its label would take smaller steps than somebody who trains that
    task alone ever would.

    Args:
        dataset: The dataset; returned itself where every row counts and every task is wanted.
        tasks: Names of the tasks.
    """
    labels = dataset.labels.subset(tasks)
    there = torch.zeros(len(dataset), dtype=torch.bool)
    for present in labels.present.values():
        there |= present.reshape(len(dataset), -1).any(dim=1)
    if bool(there.all()) and tuple(dataset.tasks.names) == tuple(tasks):
        return dataset
    return TaskRows(dataset, tasks, torch.nonzero(there).squeeze(1).numpy())
