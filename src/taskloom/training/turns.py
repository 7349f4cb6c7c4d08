"""Training by turns: each set of parameters learns from its own part of the rows, in every batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from taskloom.data.batch import Batch, TaskDataset
from taskloom.sharing.changing import TakesTurns

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork


class Turns:
    """Divides batches for a network whose parameters are trained by turns; passes them on for any other.

    Rows of one group (a person, a recording) stay on one side, so that no set of parameters sees near copies
    of what the other learns from; with fewer groups than sides rows are divided one by one. The division
    follows from the seed and is the same in every epoch.

    Args:
        model: The network.
        rows: The training rows, for their groups.
        seed: Decides which groups go where.
    """

    def __init__(self, model: MultiTaskNetwork, rows: TaskDataset, seed: int) -> None:
        self.model, self.rows, self.seed = model, rows, seed
        self._sides: dict[int, Tensor] = {}

    def of(self, batch: Batch) -> Iterator[tuple[Batch, Sequence[nn.Parameter]]]:
        """The batch, or its part for each turn, and the parameters that are left alone in it.

        A part of a single row is left out: batch normalisation cannot run on it.
        """
        sets = self.model.turns() if isinstance(self.model, TakesTurns) else ()
        if len(sets) < 2:
            yield batch, ()
            return
        sides = self.sides(len(sets))[batch.index]
        for number in range(len(sets)):
            rows = (sides == number).nonzero().flatten()
            if len(rows) < 2:
                continue
            there = rows.to(batch.inputs.device)
            others = [p for other, own in enumerate(sets) if other != number for p in own]
            yield Batch(batch.inputs[there], batch.labels[there], batch.index[rows]), others

    def sides(self, number: int) -> Tensor:
        """For every row, whose turn it serves: 0..number-1, [N]."""
        if number not in self._sides:
            draw = np.random.default_rng(self.seed)
            names, of_row = np.unique(self.rows.groups, return_inverse=True)
            if len(names) < number:
                of_row = np.arange(len(self.rows))
            sides = np.empty(int(of_row.max()) + 1, dtype=np.int64)
            sides[draw.permutation(len(sides))] = np.arange(len(sides)) % number
            self._sides[number] = torch.from_numpy(sides[of_row])
        return self._sides[number]
