"""What the gradients of an epoch had to do with each other: weights, cosines, conflicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taskloom.balancing.solvers import Array

_STEPS_TOGETHER = 256


class Conflicts:
    """Adds up, over the steps since the last report, what pairs of tasks did.

    Args:
        names: The tasks, in the order of the indices.

    Example:
        >>> conflicts = Conflicts(("age", "gender"))
        >>> conflicts.add(np.array([[1.0, -1.0], [-1.0, 4.0]]), [0, 1])
        >>> conflicts.report()
        {'cosine/age/gender': -0.5, 'conflicts/age/gender': 1.0, 'conflict_rate': 1.0}
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._waiting: list[Array] = []
        self._waiting_index: list[int] = []
        self._clear()

    def add(self, gramian: Array, index: Sequence[int]) -> None:
        """Takes the Gramian [m, m] of the tasks at `index`; a zero gradient has no cosine."""
        # Many steps are counted together: one by one they would cost a small network as much as a layer.
        if list(index) != self._waiting_index or len(self._waiting) == _STEPS_TOGETHER:
            self._count()
            self._waiting_index = list(index)
        self._waiting.append(gramian)

    def _count(self) -> None:
        """Counts the Gramians that wait, all of the same tasks."""
        if not self._waiting:
            return
        gramians, index = np.stack(self._waiting), self._waiting_index
        self._waiting = []
        norms = np.sqrt(np.clip(np.diagonal(gramians, axis1=1, axis2=2), 0.0, None))
        scale = norms[:, :, None] * norms[:, None, :]
        there = scale > 0
        cosines = np.divide(gramians, scale, out=np.zeros_like(gramians), where=there)
        grid = np.ix_(index, index)
        self._cosines[grid] += cosines.sum(0)
        self._steps[grid] += there.sum(0)
        self._negative[grid] += (cosines < 0).sum(0)

    def add_weights(self, weights: Array, index: Sequence[int]) -> None:
        """Takes the weights [m] of one step."""
        places = tuple(index)
        if places not in self._waiting_weights:
            self._waiting_weights[places] = (0, np.zeros(len(places)))
        steps, total = self._waiting_weights[places]
        total += weights
        self._waiting_weights[places] = (steps + 1, total)

    def report(self) -> dict[str, float]:
        """Means since the last report (see `Balancer.report_state`), without what never occurred."""
        self._count()
        for places, (steps, total) in self._waiting_weights.items():
            self._weights[list(places)] += total
            self._weighed[list(places)] += steps
        found = {
            f"weight/{task}": float(self._weights[i] / self._weighed[i])
            for i, task in enumerate(self.names)
            if self._weighed[i]
        }
        pairs = [(i, j) for i in range(len(self.names)) for j in range(i + 1, len(self.names))]
        pairs = [pair for pair in pairs if self._steps[pair]]
        for kind, table in (("cosine", self._cosines), ("conflicts", self._negative)):
            for i, j in pairs:
                found[f"{kind}/{self.names[i]}/{self.names[j]}"] = float(table[i, j] / self._steps[i, j])
        if pairs:
            negative = sum(self._negative[pair] for pair in pairs)
            found["conflict_rate"] = float(negative / sum(self._steps[pair] for pair in pairs))
        self._clear()
        return found

    def _clear(self) -> None:
        size = len(self.names)
        self._cosines, self._negative, self._steps = (np.zeros((size, size)) for _ in range(3))
        self._weights, self._weighed = np.zeros(size), np.zeros(size)
        self._waiting, self._waiting_index = [], []
        self._waiting_weights: dict[tuple[int, ...], tuple[int, Array]] = {}
