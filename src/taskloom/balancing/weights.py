"""Weights on the losses: one sum, one backward pass.

Fixed weights, learned ones, and those drawn at random. A task without a label in the batch adds nothing, and
what is learned about it stays as it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from taskloom.balancing.base import (
    BALANCERS,
    Balancer,
    Draw,
    check_gradients,
    check_known,
    check_names,
    check_number,
    check_per_task,
)
from taskloom.balancing.gradients import add_gradient
from taskloom.balancing.in_parts import InParts
from taskloom.balancing.numbers import Numbers, Weighed, as_tensor, at_least, module_of, numbers, softmax
from taskloom.errors import ConfigError
from taskloom.tasks import Landmarks, Regression, TaskSet

if TYPE_CHECKING:
    from taskloom.losses import SumCount
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
        self._places: tuple[tuple[str, ...], list[int]] = ((), [])

    @abstractmethod
    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        """What is minimised, without the penalty, and its slopes.

        Args:
            means: Mean losses [K] of this process, 0 where absent.
            present: Which tasks have a label in the (joined) batch, bool [K].
            index: Place of each of the K tasks among all tasks.
        """

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._tasks, self._names = model.tasks, self.names_of(model.tasks)
        self._places = ((), [])

    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self._tasks is not model.tasks and self._names != self.names_of(model.tasks):
            self.start(model)
        self._tasks = model.tasks
        check_gradients(losses, model)
        followed, weighed = self._weighed(losses, model)
        total = followed.detach() if weighed.total is None else as_tensor(weighed.total, followed)
        for term in (model.penalty(),) if beside is None else (model.penalty(), beside):
            total = total + term.detach()
            if term.requires_grad:  # the 0 of a network without ties needs no node of the graph
                followed = followed + term
        self.total = total
        if followed.requires_grad:
            self.backpropagate(followed)
        if weighed.slope is not None:
            self._learn(weighed.slope)

    def _learn(self, slope: Numbers) -> None:
        """Takes the slope of the total in what is learned; of those that learn something."""
        raise NotImplementedError(f"{type(self).__name__} gave a slope and learns nothing")

    def _weighed(self, losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> tuple[Tensor, Weighed]:
        """A scalar whose gradient in the losses is that of the total, and the weights it has."""
        del model
        check_known(losses, self._names)
        tasks = tuple(losses)
        if tasks != self._places[0]:
            self._places = (tasks, [self._names.index(task) for task in tasks])
        sums = torch.stack([loss.sum for loss in losses.values()])
        counts = numbers(torch.stack([loss.count for loss in losses.values()]))
        divisors = at_least(counts, 1.0)
        with np.errstate(all="ignore"):  # what is not finite is told by the total, as with tensors
            weighed = self.weigh(numbers(sums) / divisors, counts > 0, self._places[1])
        return sums @ as_tensor(weighed.weights / divisors, sums), weighed

    def joint(self, means: Numbers) -> Numbers:
        """The mean losses [K] of the joined batch."""
        if self.processes.count == 1:
            return means
        return numbers(self.processes.mean(torch.as_tensor(means)))


class LearnedVector(InParts, LossWeighting):
    """Base of methods that learn one number per task with the network.

    The numbers are an optimiser group of their own, "balancer": `training.lr_multipliers` can set its rate.
    """

    def __init__(self) -> None:
        super().__init__()
        self._vector: nn.Parameter | None = None

    def first_vector(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """The numbers before the first step, [T]; zeros unless overridden."""
        del generator
        return torch.zeros(num_tasks)

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        values = self.first_vector(len(self._names), torch.Generator().manual_seed(seed))
        self._vector = nn.Parameter(values.to(next(iter(model.parameters())).device))

    @property
    def vector(self) -> nn.Parameter:
        """What is learned, one number per task, [T]."""
        if self._vector is None:
            raise ConfigError(f"{type(self).__name__}: call start(model) before its parameters are used.")
        return self._vector

    def parameters(self) -> Iterable[nn.Parameter]:
        return () if self._vector is None else (self._vector,)

    def state_dict(self) -> dict[str, Any]:
        if self._vector is None:
            return {}
        return {"tasks": list(self._names), "vector": self._vector.detach().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not state:
            return
        self._names = check_state_tasks(self, state, self._names)
        if self._vector is None:
            self._vector = nn.Parameter(state["vector"].clone())
        with torch.no_grad():
            self._vector.copy_(state["vector"])

    def _picked(self, index: list[int]) -> Numbers:
        """The learned numbers of the tasks at `index`, [K]."""
        values = numbers(self.vector)
        return values if len(index) == len(values) else values[index]

    def _placed(self, slopes: Numbers, index: list[int]) -> Numbers:
        """Slopes [K] of the tasks at `index` among those of all, [T]; 0 for the others."""
        if len(index) == len(self.vector):
            return slopes
        placed = module_of(slopes).zeros_like(numbers(self.vector))
        placed[index] = slopes
        return placed

    def _learn(self, slope: Numbers) -> None:
        # The total is linear in the losses, so the mean over processes is the slope of the joined batch.
        gradient = self.processes.mean(self.scale(as_tensor(slope, self.vector)))
        add_gradient(self.vector, gradient)


@BALANCERS.register("learned_weights")
class LearnedWeights(LearnedVector):
    """Loss weights learned with the network (thesis 001, equation 3.5).

    total = sum over tasks of w_i L_i + lambda ||w||^2, with w_i > 0 and sum w_i = 1. The thesis passes the
    losses through a linear layer without bias, starts it at random and states the sum; here w = softmax(z),
    z starts so that w is uniform over the simplex, and gradient descent moves z. Over the tasks present in a
    batch w is the softmax of their z alone: a loss that was not measured neither has a weight nor moves it.

    Where the minimum is. For given losses the best w is the projection of -L / (2 lambda) onto the simplex:
    w_i = max(0, (mu - L_i) / (2 lambda)). All tasks keep a weight only while lambda exceeds half the sum
    over j of (max L - L_j); below that, the largest losses get none, and as lambda goes to 0 all weight goes
    to the *smallest* loss: the method then prefers the task that is easy or measured in small units. With
    lambda = 0.1 and two tasks that happens once their losses differ by 0.2. A large lambda gives 1 / T
    each. How fast w gets there is the learning rate's business (`training.lr_multipliers.balancer`);
    the weights of every epoch are recorded.

    Args:
        lambda_: Factor on ||w||^2, 0 or more; `lambda` in a study file. The thesis found 0.1 best of 0.001
            to 1.
        start: "random" (uniform over the simplex, from the run's seed) or "equal" (1 / T).

    Raises:
        ConfigError: lambda below 0, an unknown start.

    Example:
        >>> LearnedWeights(lambda_=0.1, start="equal").lambda_
        0.1
    """

    def __init__(
        self,
        lambda_: float = 0.1,
        start: Literal["random", "equal"] = "random",
    ) -> None:
        super().__init__()
        self.lambda_ = check_number("balancing.learned_weights.lambda", lambda_, least=0)
        if start not in ("random", "equal"):
            raise ConfigError(f"balancing.learned_weights.start: random or equal expected, found {start!r}.")
        self.begin = start

    def first_vector(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        if self.begin == "equal":
            return torch.zeros(num_tasks)
        # Exponential variables over their sum are uniform on the simplex.
        weights = -torch.log(1 - torch.rand(num_tasks, generator=generator))
        return torch.log(weights.clamp(min=1e-6))

    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        weights = softmax(self._picked(index), present)
        lambda_ = self.lambda_ * present.any()
        total = weights @ means + lambda_ * (weights @ weights)
        slopes = means + 2 * lambda_ * weights  # in the weights; through the softmax to what is learned
        return Weighed(weights, total, self._placed(weights * (slopes - weights @ slopes), index))

    def report_state(self) -> dict[str, float]:
        weights = self.vector.detach().softmax(0).tolist()
        return {f"weight/{task}": weight for task, weight in zip(self._names, weights, strict=True)}


@BALANCERS.register("uncertainty")
class Uncertainty(LearnedVector):
    """Homoscedastic uncertainty (Kendall, Gal and Cipolla 2018, equations 7 and 10).

    total = sum over tasks of c_i exp(-s_i) L_i + s_i / 2, where s_i = log sigma_i^2 is learned and c_i is
    1/2 for squared errors (regression, landmarks with loss mse) and 1 for every other loss. The optimum
    for a given loss is s_i = log(2 c_i L_i): the weighted losses become equal.
    """

    def __init__(self) -> None:
        super().__init__()
        self._factors: Tensor | None = None
        self._factor_numbers: Numbers | None = None

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        squared = [
            isinstance(task, Regression | Landmarks) and task.default_loss == "mse"
            for task in model.tasks.values()
        ] + [False] * (len(self._names) - len(model.tasks))
        self._factors = self.vector.new_tensor([0.5 if is_squared else 1.0 for is_squared in squared])
        self._factor_numbers = None

    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        assert self._factors is not None
        if self._factor_numbers is None:
            self._factor_numbers = numbers(self._factors)
        factors = self._factor_numbers
        if len(index) != len(factors):
            factors = factors[index]
        logs = self._picked(index)
        weights = present * factors * module_of(logs).exp(-logs)
        weighted = weights * means
        slope = self._placed(0.5 * present - weighted, index)
        return Weighed(weights, (weighted + 0.5 * present * logs).sum(), slope)

    def report_state(self) -> dict[str, float]:
        assert self._factors is not None
        weights = (self._factors * (-self.vector.detach()).exp()).tolist()
        return {f"weight/{task}": weight for task, weight in zip(self._names, weights, strict=True)}


@BALANCERS.register("imtl_l")
class ImpartialLosses(LearnedVector):
    """IMTL-L (Liu et al. 2021, section 3.2): total = sum over tasks of exp(s_i) L_i - s_i, s_i learned.

    The optimum for a given loss is exp(s_i) = 1 / L_i: every weighted loss becomes 1.
    """

    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        logs = self._picked(index)
        weights = present * module_of(logs).exp(logs)
        weighted = weights * means
        slope = self._placed(weighted - 1.0 * present, index)
        return Weighed(weights, (weighted - present * logs).sum(), slope)

    def report_state(self) -> dict[str, float]:
        weights = self.vector.detach().exp().tolist()
        return {f"weight/{task}": weight for task, weight in zip(self._names, weights, strict=True)}


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
            f"{type(balancer).__name__}: the saved state is about {', '.join(kept)}, the run about "
            f"{', '.join(names)}; train with resume=False."
        )
    return kept
