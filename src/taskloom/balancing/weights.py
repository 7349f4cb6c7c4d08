"""Weights on the losses: one sum, one backward pass.

Fixed weights, equal ones, and those drawn at random; the base of all methods that weigh losses. A task
without a label in the batch adds nothing, and what is learned about it stays as it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from taskloom.balancing.base import BALANCERS, Balancer, Draw
from taskloom.balancing.checks import check_gradients, check_known, check_names, check_number, check_per_task
from taskloom.balancing.in_parts import InParts
from taskloom.balancing.numbers import FEW, Numbers, Weighed, as_tensor, at_least, numbers, softmax
from taskloom.errors import ConfigError
from taskloom.losses import SumCount
from taskloom.tasks import TaskSet

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork

_WEIGHTS = "balancing.weighted_sum.weights"


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
        self.weights = check_per_task(_WEIGHTS, {} if weights is None else weights)
        self._checked_tasks: TaskSet | None = None
        for task, weight in self.weights.items():
            check_number(f"{_WEIGHTS}.{task}", weight, least=0)

    def weight(self, task: str) -> float:
        return float(self.weights.get(task, 1.0))

    def trains(self, task: str) -> bool:
        return self.weight(task) > 0

    def check_tasks(self, tasks: TaskSet) -> None:
        check_names(_WEIGHTS, self.weights, self.names_of(tasks))
        self._checked_tasks = tasks

    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self.weights and self._checked_tasks is not model.tasks:
            self.check_tasks(model.tasks)
        check_gradients(losses, model)
        total = self.sum(losses) + model.penalty()
        if beside is not None:
            total = total + beside
        self.total = total.detach()
        self.backpropagate(total)

    def accumulate(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        check_gradients(losses, model)
        total = self.sum(losses)
        self.backpropagate(total if beside is None else total + beside)

    def sum(self, losses: Mapping[str, SumCount]) -> Tensor:
        """Weighted sum of the mean losses, a scalar, without the penalty."""
        # One stack and one dot product: a dozen tasks cost no more small operations than one.
        means = torch.stack([loss.sum for loss in losses.values()])
        means = means / torch.stack([loss.count for loss in losses.values()]).clamp(min=1)
        if not self.weights:
            return means.sum()
        return means @ means.new_tensor([self.weight(task) for task in losses])

    def report_state(self) -> dict[str, float]:
        names = self.names_of(self._checked_tasks) if self._checked_tasks else self.weights
        return {f"weight/{task}": self.weight(task) for task in names}


class LossWeighting(Balancer):
    """Base of methods whose total is a function of the mean losses; subclasses give `weigh`."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: TaskSet | None = None
        self._names: tuple[str, ...] = ()
        self._weightless: frozenset[str] = frozenset()
        self._places: tuple[tuple[str, ...], list[int]] = ((), [])

    @abstractmethod
    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        """What is minimised, without the penalty, and its slopes.

        Args:
            means: Mean losses [K] of this process, 0 where absent.
            present: Which tasks have a label in the (joined) batch, bool [K].
            index: Place of each of the K tasks among all tasks.
        """

    def weigh_few(self, means: list[float], present: list[bool], index: list[int]) -> Weighed | None:
        """`weigh` of a few losses on a CPU in Python's own numbers, with lists; None: as arrays instead.

        Raises:
            ArithmeticError, ValueError: A loss is no finite number; nothing has been changed.
        """
        del means, present, index
        return None

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._names = self.names_of(model.tasks)
        self._places = ((), [])
        self._take_tasks(model.tasks)

    def _start_late(self, model: MultiTaskNetwork) -> None:
        """Begins with the first losses, where nobody has called `start`."""
        self.start(model)

    def _take_tasks(self, tasks: TaskSet) -> None:
        """Remembers whose losses they are; a task of weight 0 counts as absent: it says nothing."""
        self._tasks = tasks
        self._weightless = frozenset(name for name, task in tasks.items() if task.weight == 0)

    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self._tasks is not model.tasks:
            if self._names != self.names_of(model.tasks):
                self._start_late(model)
            self._take_tasks(model.tasks)
        check_gradients(losses, model)
        sums, slopes, weighed = self._weighed(losses, model)
        total = sums.detach() @ slopes if weighed.total is None else weighed.total
        if isinstance(total, Tensor):
            total = total.to(sums.dtype)
        terms = [model.penalty()] if beside is None else [model.penalty(), beside]
        for term in terms:
            total = term.detach() + total
        self.total = total
        added = [term for term in terms if term.requires_grad]
        if added:
            followed = sums @ slopes
            for term in added:
                followed = followed + term
            self.backpropagate(followed)
        elif sums.requires_grad:
            # The slopes are known: no product has to be made for autograd to take apart again.
            self.backpropagate(sums, gradient=slopes)
        if weighed.slope is not None:
            self._learn(weighed.slope)

    def _learn(self, slope: Numbers) -> None:
        """Takes the slope of the total in what is learned; of those that learn something."""
        raise NotImplementedError(f"{type(self).__name__} gave a slope and learns nothing")

    def _weighed(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork
    ) -> tuple[Tensor, Tensor, Weighed]:
        """The sums of the losses [K], the slope of the total in each, and what was made of the means."""
        del model
        check_known(losses, self._names)
        if self._weightless:
            losses = {
                name: SumCount(loss.sum, loss.count * 0) if name in self._weightless else loss
                for name, loss in losses.items()
            }
        tasks = tuple(losses)
        if tasks != self._places[0]:
            self._places = (tasks, [self._names.index(task) for task in tasks])
        sums = torch.stack([loss.sum for loss in losses.values()])
        if sums.is_cpu and len(tasks) <= FEW and self.processes.count == 1:
            counts_of_few = [float(loss.count) for loss in losses.values()]
            values = sums.tolist()
            means = [value / max(count, 1.0) for value, count in zip(values, counts_of_few, strict=True)]
            try:
                weighed = self.weigh_few(means, [count > 0 for count in counts_of_few], self._places[1])
            except (ArithmeticError, ValueError):
                weighed = None  # infinity or no number, with which arrays go on
            if weighed is not None:
                if weighed.total is None:
                    total = sum(weight * mean for weight, mean in zip(weighed.weights, means, strict=True))
                    weighed = weighed._replace(total=total)
                pairs = zip(weighed.weights, counts_of_few, strict=True)
                return sums, as_tensor([weight / max(count, 1.0) for weight, count in pairs], sums), weighed
        counts = numbers(torch.stack([loss.count for loss in losses.values()]))
        divisors = at_least(counts, 1.0)
        with np.errstate(all="ignore"):  # what is not finite is told by the total, as with tensors
            weighed = self.weigh(numbers(sums) / divisors, counts > 0, self._places[1])
        return sums, as_tensor(weighed.weights / divisors, sums), weighed

    def joint(self, means: Numbers) -> Numbers:
        """The mean losses [K] of the joined batch."""
        if self.processes.count == 1:
            return means
        return numbers(self.processes.mean(torch.as_tensor(means)))


@BALANCERS.register("mean")
class MeanLoss(InParts, LossWeighting):
    """The mean over the tasks present in the batch of their mean losses (thesis 001's "average loss")."""

    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        del means, index
        return Weighed(present / at_least(present.sum(), 1.0))


@BALANCERS.register("random_weights")
class RandomWeights(InParts, LossWeighting):
    """Random loss weighting (Lin et al. 2022, algorithm 2): new weights softmax(normal) at every step.

    The weights over the tasks present sum to 1. Drawn from the run's seed, the same in every process.
    """

    def __init__(self) -> None:
        super().__init__()
        self._generator = Draw()

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._generator.manual_seed(seed)

    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        del means
        drawn = torch.randn(len(self._names), generator=self._generator)[index]
        on = present.device if isinstance(present, Tensor) else "cpu"
        return Weighed(softmax(numbers(drawn.to(on)), present) * present)

    def accumulate(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        drawn_from = self._generator.get_state()
        super().accumulate(losses, model, beside)
        self._generator.set_state(drawn_from)  # all parts of a batch have the same weights

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._generator.set_state(state["generator"])


def check_state_tasks(
    balancer: Balancer, state: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[str, ...]:
    """The tasks that a balancer's saved state is about.

    Raises:
        ConfigError: They are not the tasks the balancer was started with.
    """
    kept = tuple(state["tasks"])
    if names and kept != names:
        raise ConfigError(
            f"balancing.{balancer.called}: the saved state is about {', '.join(kept)}, the run about "
            f"{', '.join(names)}; train with resume=False."
        )
    return kept
