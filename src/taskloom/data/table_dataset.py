"""The dataset over feature rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.batch import Batch
from taskloom.data.feature_rows import FeatureRows
from taskloom.data.row_dataset import RowDataset, fingerprints
from taskloom.tasks import Labels, TaskSet


class TableDataset(RowDataset):
    """Rows of a table: features [N, F] float32 and labels with holes.

    Args:
        features: Features of all rows of the table, M >= N; shared by the three parts of a split.
        rows: Which rows of the table these are, [N].
        tasks: What is predicted.
        labels: Labels of all M rows of the table.
        groups: Name of the group (person, molecule) of each of the M rows; None makes every row its own.

    Raises:
        ValueError: Features, labels or groups of different lengths, or rows outside the table.

    Example:
        >>> from taskloom.tasks import Regression
        >>> tasks = TaskSet(Regression("age"))
        >>> ages = Labels({"age": torch.tensor([36.0, 41.0])}, {"age": torch.tensor([True, True])})
        >>> features = FeatureRows(np.eye(2, dtype=np.float32))
        >>> dataset = TableDataset(features, np.array([1]), tasks, ages)
        >>> batch = dataset.__getitems__([0])
        >>> batch.inputs, batch.labels.values["age"]
        (tensor([[0., 1.]]), tensor([41.]))
    """

    def __init__(
        self,
        features: FeatureRows,
        rows: NDArray[np.int64],
        tasks: TaskSet,
        labels: Labels,
        groups: Sequence[str] | NDArray[Any] | None = None,
    ) -> None:
        lengths = {len(features), len(labels)} | ({len(groups)} if groups is not None else set())
        if len(lengths) > 1:
            raise ValueError(f"features, labels and groups differ in their number of rows: {sorted(lengths)}")
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(features):
            raise ValueError(f"rows outside 0..{len(features) - 1}: {rows.min()}..{rows.max()}")
        super().__init__(rows, tasks, labels, groups)
        self.features = features

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(F,)."""
        return (self.features.num_features,)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Gathers rows `indices` (0..N-1) in one indexed read: inputs [B, F] float32."""
        index = np.asarray(indices, dtype=np.int64)
        positions = torch.from_numpy(index)
        return Batch(
            torch.from_numpy(self.features.gather(self.rows[index])), self._labels[positions], positions
        )

    def fingerprints(self) -> NDArray[np.bytes_]:
        """Checksum of every row's features, [N]: equal rows have equal ones."""
        return fingerprints(self.features.array[row] for row in self.rows)
