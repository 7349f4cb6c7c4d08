"""A dataset with other labels: the same rows, inputs and groups; nothing is copied but the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.batch import Batch, TaskDataset
from taskloom.tasks import Labels, TaskSet


class Relabelled:
    """Rows of a dataset with labels and tasks of their own.

    Args:
        dataset: Gives inputs and groups.
        labels: Labels of its N rows, in place of its own.
        tasks: Tasks of these labels; the dataset's where None.

    Raises:
        ValueError: Labels of another number of rows.

    Example:
        >>> from taskloom.data.feature_rows import FeatureRows
        >>> from taskloom.data.tables import TableDataset
        >>> tasks = TaskSet(tl.Binary("sex", ("F", "M")))
        >>> labels = Labels({"sex": torch.tensor([0, 1])}, {"sex": torch.tensor([True, True])})
        >>> rows = TableDataset(FeatureRows(np.eye(2, dtype=np.float32)), np.arange(2), tasks, labels)
        >>> fewer = Labels(labels.values, {"sex": torch.tensor([True, False])})
        >>> Relabelled(rows, fewer).__getitems__([1]).labels.counts()
        {'sex': 0}
    """

    def __init__(self, dataset: TaskDataset, labels: Labels, tasks: TaskSet | None = None) -> None:
        if len(labels) != len(dataset):
            raise ValueError(f"labels of {len(dataset)} rows expected, found {len(labels)}")
        self.dataset, self._labels = dataset, labels
        self._tasks = dataset.tasks if tasks is None else tasks

    @property
    def tasks(self) -> TaskSet:
        return self._tasks

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.dataset.input_shape

    @property
    def labels(self) -> Labels:
        return self._labels

    @property
    def groups(self) -> NDArray[np.int64]:
        return self.dataset.groups

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        batch = self.dataset.__getitems__(indices)
        rows = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        return Batch(batch.inputs, self._labels[rows], rows)

    def __getattr__(self, name: str) -> Any:
        # What else a dataset knows of its rows (groups, fingerprints, mixed batches) stays true.
        if name.startswith("_") or name == "dataset":  # while it is unpickled there is no dataset yet
            raise AttributeError(name)
        return getattr(self.dataset, name)


def original(dataset: Any) -> Any:
    """The dataset behind views with other labels."""
    while isinstance(dataset, Relabelled):
        dataset = dataset.dataset
    return dataset
