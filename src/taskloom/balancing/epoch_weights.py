"""Weights that stand for an epoch: what the methods of `epochs` and `entering` have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from taskloom.balancing.base import EpochValues
from taskloom.balancing.numbers import Numbers, Weighed, as_tensor, numbers
from taskloom.balancing.weights import LossWeighting, check_state_tasks

if TYPE_CHECKING:
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork

Values = dict[str, float]


class EpochWeights(LossWeighting):
    """Base: total = sum of w_i L_i with weights that stand for an epoch; subclasses give `next_weights`."""

    def __init__(self) -> None:
        super().__init__()
        self._weights: Values = {}
        self._used: Values = {}
        self._epoch = 0
        self._as_tensor: Tensor | None = None
        self._tasks_in_tensor: list[str] = []

    @abstractmethod
    def next_weights(
        self, train_loss: EpochValues, validation_metrics: Mapping[str, EpochValues] | None
    ) -> Values:
        """Weights per task for the epoch after the one that just ended (`self._epoch`)."""

    def first_weights(self) -> Values:
        """Weights per task of the first epoch; 1 unless overridden."""
        return dict.fromkeys(self._names, 1.0)

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._epoch, self._used = 0, {}
        self._set(self.first_weights())

    def epoch_end(
        self, train_loss: EpochValues, validation_metrics: Mapping[str, EpochValues] | None = None
    ) -> None:
        self._epoch += 1
        self._used = dict(self._weights)
        self._set(self.next_weights(train_loss, validation_metrics))

    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        del present
        given = torch.tensor([self._weights[self._names[place]] for place in index], dtype=torch.float64)
        return Weighed(numbers(given.to(means.device) if isinstance(means, Tensor) else given))

    def _weighed(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork
    ) -> tuple[Tensor, Tensor, Weighed]:
        # Weights that stand for an epoch need no look at the losses: one product, as a plain sum.
        if list(losses) != self._tasks_in_tensor or self._as_tensor is None:
            _, _, weighed = super()._weighed(losses, model)
            like = next(iter(losses.values())).sum
            self._tasks_in_tensor, self._as_tensor = list(losses), as_tensor(weighed.weights, like)
        counts = torch.stack([loss.count for loss in losses.values()])
        sums = torch.stack([loss.sum for loss in losses.values()])
        return sums, self._as_tensor / counts.clamp(min=1), Weighed(self._as_tensor)

    def accumulate(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self._names != self.names_of(model.tasks):
            self.start(model)
        sums, slopes, _ = self._weighed(losses, model)
        total = sums @ slopes
        self.backpropagate(total if beside is None else total + beside)

    def report_state(self) -> dict[str, float]:
        return {f"weight/{task}": weight for task, weight in (self._used or self._weights).items()}

    @property
    def _heard_names(self) -> list[str]:
        """What has a weight above 0 in itself: the others say nothing, and nothing goes by their losses."""
        return [name for name in self._names if name not in self._weightless]

    def trains(self, task: str) -> bool:
        return (self._used or self._weights).get(task, 1.0) > 0

    def state_dict(self) -> dict[str, Any]:
        return {"tasks": list(self._names), "epoch": self._epoch, "weights": dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._names = check_state_tasks(self, state, self._names)
        self._epoch = state["epoch"]
        self._set(dict(state["weights"]))

    def _set(self, weights: Values) -> None:
        self._weights, self._as_tensor = weights, None


def falling(now: float | None, before: float | None) -> float:
    """now / before; 1 where one of them is unknown or 0."""
    if now is None or before is None or before == 0 or not math.isfinite(now / before):
        return 1.0
    return now / before
