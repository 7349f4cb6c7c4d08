"""What datasets over the rows of a table share: which rows they are, their labels and their groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.tasks import Labels, TaskSet


class RowDataset:
    """Some rows of a larger set; a subclass gathers their inputs.

    Args:
        rows: Which rows these are, [N].
        tasks: What is predicted.
        labels: Labels of all M rows of the larger set.
        groups: Name of the group of each of the M rows; None makes every row its own.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        tasks: TaskSet,
        labels: Labels,
        groups: Sequence[str] | NDArray[Any] | None,
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self._tasks = tasks
        self._labels = labels[torch.from_numpy(self.rows)]
        self.group_names, self._groups = group_codes(groups, self.rows)
        self.table: Any = None
        """The `Table` that the rows come from, where the source knows it."""
        self.table_rows: NDArray[np.int64] | None = None
        """Row of the table of each of the M rows; None where they are the table's own rows."""

    @property
    def tasks(self) -> TaskSet:
        return self._tasks

    @property
    def labels(self) -> Labels:
        """Labels of the N rows."""
        return self._labels

    @property
    def groups(self) -> NDArray[np.int64]:
        """Group of every row, [N], 0..G-1; `group_names[g]` is its name in the table."""
        return self._groups

    def __len__(self) -> int:
        return len(self.rows)


def spread_labels(labels: Labels, rows: Tensor, number: int) -> Labels:
    """Labels of some rows [N] of a larger set as labels of all `number` of them, missing elsewhere.

    Example:
        >>> ages = Labels({"age": torch.tensor([36.0])}, {"age": torch.tensor([True])})
        >>> spread_labels(ages, torch.tensor([1]), 3).present["age"].tolist()
        [False, True, False]
    """

    def wide(tensor: Tensor) -> Tensor:
        whole = tensor.new_zeros(number, *tensor.shape[1:])
        whole[rows] = tensor
        return whole

    return Labels(
        {name: wide(value) for name, value in labels.values.items()},
        {name: wide(value) for name, value in labels.present.items()},
    )


def fingerprints(inputs: Iterable[NDArray[Any]]) -> NDArray[np.bytes_]:
    """Returns a checksum of 16 bytes for each array; 0.0 and -0.0 differ."""
    # Bytes of NumPy's type S lose trailing zeros, which hexadecimal digits do not have.
    digests = [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in inputs]
    return np.array(digests, dtype="S32")


def group_codes(
    groups: Sequence[str] | NDArray[Any] | None, rows: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Returns the names of the groups that `rows` belong to and the code of each row, [N], 0..G-1.

    Args:
        groups: Name of the group of every row of the table; None makes every row a group of its own.
        rows: Rows of the table, [N].

    Example:
        >>> group_codes(["a", "b", "a"], np.array([2, 1, 0]))
        (('a', 'b'), array([0, 1, 0]))
    """
    if groups is None:
        return tuple(str(row) for row in rows), np.arange(len(rows), dtype=np.int64)
    names, codes = np.unique(np.asarray(groups, dtype=object)[rows].astype(str), return_inverse=True)
    return tuple(str(name) for name in names), codes.astype(np.int64)
