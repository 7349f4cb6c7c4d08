"""Coupling terms in the training loop: which act in an epoch, and where they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taskloom.coupling import Coupling
from taskloom.losses import SumCount
from taskloom.tasks import Labels, TaskSet

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork


class CoupledLosses:
    """The terms of a coupling over a run; without a coupling there are none.

    A task that has stopped learning goes on teaching by its labels and its predictions, which are held fixed;
    a term that teaches nobody any more is left out.

    Args:
        coupling: The coupling, or None.
        tasks: The network's tasks.

    Attributes:
        names: Terms that act in the running epoch.
        balanced: Terms that the balancer takes as tasks; all of the coupling's or none.
    """

    def __init__(self, coupling: Coupling | None, tasks: TaskSet) -> None:
        self._coupling, self._tasks = coupling, tasks
        self._epoch = 0
        self._learning: tuple[str, ...] | None = None
        self.names: tuple[str, ...] = ()
        self.balanced = coupling.names if coupling is not None and coupling.as_tasks else ()

    def begin(self, epoch: int, active: Sequence[str]) -> None:
        """Begins an epoch.

        Args:
            epoch: Its number, from 1; a coupling's schedules count from 0.
            active: Tasks that still learn.
        """
        if self._coupling is None:
            return
        self._epoch = epoch - 1
        self._learning = None if len(active) == len(self._tasks) else tuple(active)
        self.names = self._coupling.teaching(self._epoch, self._learning)

    def heard(self, active: Sequence[str]) -> tuple[str, ...]:
        """Coupled tasks that have stopped, as long as some other coupled task learns from them."""
        if self._coupling is None or not any(task in active for task in self._coupling.tasks):
            return ()
        return tuple(task for task in self._coupling.tasks if task not in active)

    def terms(self, predictions: Mapping[str, Tensor], labels: Labels) -> dict[str, SumCount]:
        """The terms of a batch, in the order of `names`, their weights in their sums."""
        assert self._coupling is not None
        return self._coupling.terms(predictions, labels, self._tasks, self._epoch, self._learning)

    def parted(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork
    ) -> tuple[dict[str, SumCount], MultiTaskNetwork, Tensor | None]:
        """Arguments of `Balancer.backward`: what it balances, the network, and what is added beside it."""
        if self.balanced:
            return dict(losses), model, None
        tasks = {name: loss for name, loss in losses.items() if name not in self.names}
        terms = [losses[name].mean for name in self.names]
        return tasks, model, torch.stack(terms).sum()


def without_rows(terms: Mapping[str, SumCount]) -> dict[str, SumCount]:
    """Terms of a process that has no row of the batch: nothing is counted, the gradient is 0."""
    return {name: SumCount(term.sum * 0, term.count * 0) for name, term in terms.items()}
