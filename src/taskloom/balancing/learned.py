"""Weights that are learned with the network: one number per task, an optimiser's business like any other.

Every formula stands here twice, with its slopes written out: in Python's own numbers for a few losses on a
CPU (`weigh_few`), and for arrays and tensors (`weigh`); the tests hold one against the other and against
autograd.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from taskloom.balancing.base import BALANCERS
from taskloom.balancing.checks import check_number
from taskloom.balancing.gradients import add_gradient
from taskloom.balancing.in_parts import InParts
from taskloom.balancing.numbers import (
    Numbers,
    Weighed,
    as_tensor,
    module_of,
    numbers,
    softmax,
    softmax_of_few,
)
from taskloom.balancing.weights import LossWeighting, check_state_tasks
from taskloom.errors import ConfigError
from taskloom.tasks import Landmarks, Regression

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork


class LearnedVector(InParts, LossWeighting):
    """Base of methods that learn one number per task with the network.

    The numbers are the parameter group "balancer": `training.lr_multipliers` can set its rate, and it never
    decays. Where that is the rate and decay of other groups, the optimiser updates them as one.
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

    def _start_late(self, model: MultiTaskNetwork) -> None:
        about = f"was started for {', '.join(self._names)}" if self._names else "was not started"
        raise ConfigError(
            f"balancing.{self.called}: it {about}, and no optimiser could know what it learns about "
            f"{', '.join(self.names_of(model.tasks))}; call balancer.start(model) first, and give the "
            "optimiser balancer.parameters() beside the network's."
        )

    @property
    def vector(self) -> nn.Parameter:
        """What is learned, one number per task, [T]."""
        if self._vector is None:
            raise ConfigError(f"balancing.{self.called}: call start(model) before its parameters are used.")
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

    def weigh_few(self, means: list[float], present: list[bool], index: list[int]) -> Weighed:
        logits = self.vector.tolist()
        weights = softmax_of_few([logits[place] for place in index], present)
        lambda_ = self.lambda_ if any(present) else 0.0
        total, middle, learned = 0.0, 0.0, [0.0] * len(self._names)
        for place, weight, mean in zip(index, weights, means, strict=True):
            total += weight * (mean + lambda_ * weight)
            learned[place] = slope = mean + 2 * lambda_ * weight
            middle += weight * slope
        for place, weight in zip(index, weights, strict=True):
            learned[place] = weight * (learned[place] - middle)
        return Weighed(weights, total, learned)

    def report_state(self) -> dict[str, float]:
        heard = [task not in self._weightless for task in self._names]
        weights = softmax_of_few(self.vector.tolist(), heard)
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

    def weigh_few(self, means: list[float], present: list[bool], index: list[int]) -> Weighed:
        assert self._factors is not None
        factors: list[float] = self._factors.tolist()
        logs: list[float] = self.vector.tolist()
        weights, total, learned = [0.0] * len(index), 0.0, [0.0] * len(logs)
        for number, (place, mean, there) in enumerate(zip(index, means, present, strict=True)):
            if there:
                weights[number] = weight = factors[place] * math.exp(-logs[place])
                total += weight * mean + 0.5 * logs[place]
                learned[place] = 0.5 - weight * mean
        return Weighed(weights, total, learned)

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

    def weigh_few(self, means: list[float], present: list[bool], index: list[int]) -> Weighed:
        logs: list[float] = self.vector.tolist()
        weights, total, learned = [0.0] * len(index), 0.0, [0.0] * len(logs)
        for number, (place, mean, there) in enumerate(zip(index, means, present, strict=True)):
            if there:
                weights[number] = weight = math.exp(logs[place])
                total += weight * mean - logs[place]
                learned[place] = weight * mean - 1.0
        return Weighed(weights, total, learned)

    def report_state(self) -> dict[str, float]:
        weights = self.vector.detach().exp().tolist()
        return {f"weight/{task}": weight for task, weight in zip(self._names, weights, strict=True)}
