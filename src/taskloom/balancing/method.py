"""What an aggregation method is: weights from the Gramian, or an aggregation of the matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from taskloom.balancing.base import Draw
from taskloom.balancing.solvers import Array


class Method(ABC):  # noqa: B024  what it does is a subclass's
    """What a method remembers from step to step, and how many tasks it needs."""

    def start(self, num_tasks: int, seed: int) -> None:
        """Forgets everything; `seed` decides what is drawn."""
        del num_tasks, seed

    def least_tasks(self, num_tasks: int) -> int:
        """How many of `num_tasks` tasks must be there in every step; 0 unless overridden."""
        del num_tasks
        return 0

    def state_dict(self) -> dict[str, Any]:
        """What is remembered from step to step: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave, after `start`."""
        del state


class Weighting(Method):
    """Gives a weight to every gradient from their inner products."""

    @abstractmethod
    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        """Weights [m] of the gradients in the update.

        Args:
            gramian: Inner products of the gradients [m, m]; not all 0, all finite.
            index: Places of the m tasks among all tasks.

        Raises:
            SolverError: No solution was found; says why.
        """


class MatrixMethod(Method):
    """An aggregation that looks at every number of the gradients, not at their inner products alone."""

    @abstractmethod
    def aggregate(self, matrix: Tensor, index: Sequence[int]) -> Tensor:
        """The update [n] from the gradients [m, n] of the tasks at `index`.

        Raises:
            SolverError: There is none; says why.
        """


class Drawn(Method):
    """Base of methods that draw; the same numbers in every process."""

    def __init__(self) -> None:
        self._generator = Draw()

    def start(self, num_tasks: int, seed: int) -> None:
        del num_tasks
        self._generator.manual_seed(seed)

    def order(self, size: int) -> list[int]:
        """A random order of 0 ... size - 1."""
        return torch.randperm(size, generator=self._generator).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._generator.set_state(state["generator"])
