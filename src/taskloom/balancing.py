"""Many losses to one update: a balancer turns the losses per task into gradients of the parameters.

`WeightedSum` is the plain form. A method that needs gradients per task (PCGrad, MGDA) or learns its
weights is another `Balancer`: it may keep state and parameters, and it finds the seam between shared and task
parameters on the model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError, did_you_mean
from taskloom.registry import Registry
from taskloom.tasks import TaskSet

if TYPE_CHECKING:  # a balancer only calls methods of both: importing them would be for the type checker alone
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork


class Balancer(ABC):
    """Adds to `.grad` of the parameters what one step should follow.

    In one's own loop: `optimizer.zero_grad(); balancer.backward(losses, model); optimizer.step()`.

    Attributes:
        backpropagate: Called in place of `Tensor.backward`, with the same arguments. Training sets it where
            gradients must be scaled (16-bit precision) or are shared between processes.
        total: The value whose gradient the last `backward` added, a detached scalar; None before the first.
    """

    def __init__(self) -> None:
        self.backpropagate: Callable[..., None] = _backward
        self.total: Tensor | None = None

    @abstractmethod
    def backward(self, losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> None:
        """Adds the gradients of all losses and of `model.penalty()`.

        Args:
            losses: Per task, sum and count of its loss over the batch. A task with count 0 adds nothing.
            model: The network that gave the predictions.

        Several processes: each loss reaches `backward` so scaled that the mean of the gradients over
        processes is the gradient of the joined batch; a balancer need not know.
        """

    def weight(self, task: str) -> float:
        """Weight of the task in the sum that decides the best epoch on validation; 1 unless overridden."""
        del task
        return 1.0

    def parameters(self) -> Iterable[nn.Parameter]:
        """What the balancer itself learns; training adds it to the optimiser."""
        return ()

    def check_tasks(self, tasks: TaskSet) -> None:
        """Called once before training. Raises ConfigError if the balancer names a task that is not there."""
        del tasks

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        if state:
            raise ConfigError(
                f"{type(self).__name__} keeps no state, but the checkpoint holds {', '.join(state)}; "
                "it was written with another balancer."
            )


BALANCERS: Registry[Callable[..., Balancer]] = Registry("balancer")
"""Balancers by name; each entry is called with the settings of its name."""


@BALANCERS.register("weighted_sum")
class WeightedSum(Balancer):
    """The plain form: total = sum over tasks of weight * mean loss of the present labels, + penalty.

    A task without labels in the batch has mean 0 and a zero gradient.

    Args:
        weights: Weight per task, 0 or more; 1 for every task that is not named.

    Raises:
        ConfigError: A weight that is negative or not a number; a task that the model does not have
            (at `check_tasks` or the first `backward`).

    Example:
        >>> balancer = WeightedSum({"age": 2.0})
        >>> balancer.weight("age"), balancer.weight("gender")
        (2.0, 1.0)
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = dict(weights or {})
        self._checked_tasks: TaskSet | None = None
        for task, weight in self.weights.items():
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not number or not math.isfinite(weight) or weight < 0:
                raise ConfigError(
                    f"balancing.weights.{task}: a number of 0 or more expected, found {weight!r}."
                )

    def weight(self, task: str) -> float:
        return float(self.weights.get(task, 1.0))

    def check_tasks(self, tasks: TaskSet) -> None:
        for task in self.weights:
            if task not in tasks:
                raise ConfigError(
                    f"balancing.weights.{task}: there is no such task.{did_you_mean(task, tasks)} "
                    f"Tasks: {', '.join(tasks)}."
                )
        self._checked_tasks = tasks

    def backward(self, losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> None:
        if self.weights and self._checked_tasks is not model.tasks:
            self.check_tasks(model.tasks)
        total = self.sum(losses) + model.penalty()
        self.total = total.detach()
        self.backpropagate(total)

    def sum(self, losses: Mapping[str, SumCount]) -> Tensor:
        """Weighted sum of the mean losses, a scalar, without the penalty."""
        # One stack and one dot product: a dozen tasks cost no more small operations than one.
        means = torch.stack([loss.sum for loss in losses.values()])
        means = means / torch.stack([loss.count for loss in losses.values()]).clamp(min=1)
        if not self.weights:
            return means.sum()
        return means @ means.new_tensor([self.weight(task) for task in losses])


def _backward(total: Tensor, **options: Any) -> None:
    total.backward(**options)  # type: ignore[no-untyped-call]
