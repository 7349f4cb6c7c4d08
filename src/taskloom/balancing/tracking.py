"""Methods that keep a moving average of every task's gradient: MoCo and DB-MTL.

Both keep one further copy of the shared parameters per task. A task without a label in a batch keeps its
average as it is and has no part in the update.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from taskloom.balancing.aggregation import GradientAggregation
from taskloom.balancing.base import BALANCERS
from taskloom.balancing.checks import check_number
from taskloom.balancing.gradients import combine, gramian
from taskloom.balancing.method import MatrixMethod
from taskloom.balancing.solvers import Array
from taskloom.errors import ConfigError
from taskloom.losses import SumCount

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork

_SMALL = 1e-8
"""Added to losses before the logarithm, as in the authors' code."""


class Tracking(MatrixMethod):
    """Keeps y_t <- y_t + b (g_t - y_t) per task, from y_t = 0; a subclass says what b is at its k-th step."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._tracked: Tensor | None = None

    def start(self, num_tasks: int, seed: int) -> None:
        del seed
        self._steps, self._tracked = [0] * num_tasks, None

    def track(self, matrix: Tensor, index: Sequence[int]) -> Tensor:
        """Takes gradients [m, n] of the tasks at `index` in; returns the averages of these tasks [m, n]."""
        if self._tracked is None or self._tracked.shape[1] != matrix.shape[1]:  # the network has changed
            self._tracked = matrix.new_zeros(len(self._steps), matrix.shape[1])
            self._steps = [0] * len(self._steps)
        self._tracked = self._tracked.to(matrix)
        for row, task in zip(matrix, index, strict=True):
            self._steps[task] += 1
            self._tracked[task].lerp_(row, self.share(self._steps[task]))
        return self._tracked if list(index) == list(range(len(self._steps))) else self._tracked[list(index)]

    @abstractmethod
    def share(self, step: int) -> float:
        """Share of the newest gradient at a task's so many-th step."""

    def state_dict(self) -> dict[str, Any]:
        kept = None if self._tracked is None else self._tracked.clone()
        return {"steps": list(self._steps), "tracked": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = state["tracked"]
        self._steps, self._tracked = list(state["steps"]), None if kept is None else kept.clone()


class MoCo(Tracking):
    """MoCo (Fernando et al. 2023, algorithm 1): weights follow the tracked gradients, which lose their noise.

        y_t <- y_t - beta_k (y_t - g_t)
        w   <- projection of w - gamma_k (Y Y' + rho I) w onto the simplex
        update: sum over t of w_t y_t

    where beta_k and gamma_k are beta and gamma over k^decay. Of tasks that are not in a batch the weights
    stay as they are, and the others share what is left of the simplex; in the update they sum to 1.

    Args:
        beta, gamma, rho, decay: See above.
    """

    def __init__(self, beta: float, gamma: float, rho: float, decay: float) -> None:
        super().__init__()
        self.beta, self.gamma, self.rho, self.decay = beta, gamma, rho, decay
        self._step, self._weights = 0, np.zeros(0)

    def start(self, num_tasks: int, seed: int) -> None:
        super().start(num_tasks, seed)
        self._step, self._weights = 0, np.full(num_tasks, 1 / num_tasks)

    def share(self, step: int) -> float:
        return self.beta / math.pow(step, self.decay)

    def aggregate(self, matrix: Tensor, index: Sequence[int]) -> Tensor:
        tracked, places = self.track(matrix, index), list(index)
        self._step += 1
        weights = self._weights[places]
        total = float(weights.sum())
        if total > 0:
            slope = gramian(tracked) @ weights + self.rho * weights
            gamma = self.gamma / math.pow(self._step, self.decay)
            weights = onto_simplex(weights - gamma * slope, total)
            self._weights[places] = weights
        return combine(weights / total if total > 0 else np.full(len(places), 1 / len(places)), tracked)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "step": self._step,
            "weights": torch.from_numpy(self._weights.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._step, self._weights = state["step"], state["weights"].numpy().copy()


class EqualLengths(Tracking):
    """DB-MTL's balance of gradients (Lin et al. 2023): all averages as long as the longest.

        update: sum over t of (max over s of ||y_s||) / ||y_t|| y_t

    Args:
        beta: Share of the average before, 0 to below 1.
        decay: At a task's k-th step it is beta / k^decay.
    """

    def __init__(self, beta: float, decay: float) -> None:
        super().__init__()
        self.beta, self.decay = beta, decay

    def share(self, step: int) -> float:
        return 1 - self.beta / math.pow(step, self.decay)

    def aggregate(self, matrix: Tensor, index: Sequence[int]) -> Tensor:
        tracked = self.track(matrix, index)
        lengths = np.sqrt(np.clip(np.diag(gramian(tracked)), 0.0, None))
        factors = np.divide(lengths.max(), lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return combine(factors, tracked)


class DualBalancing(GradientAggregation):
    """DB-MTL: every loss by its logarithm, and the gradients of the logarithms by `EqualLengths`.

    The gradient of log(L + 1e-8) is that of L over L + 1e-8, with L the mean loss of the joined batch.
    """

    def check_parts(self) -> None:
        raise ConfigError(
            f"balancing.{self.name} cannot take a batch in parts: it takes logarithms of the losses of the "
            "whole batch, which are known with its last part; use a smaller batch, or another method."
        )

    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        means = torch.stack([loss.mean.detach() for loss in losses.values()])
        means = self.processes.mean(means) if self.processes.count > 1 else means
        # A task of weight 0 has a loss of 0, whose logarithm says nothing.
        weighty = [name not in model.tasks or model.tasks[name].weight != 0 for name in losses]
        counted = torch.stack([loss.count > 0 for loss in losses.values()])
        there = counted & torch.tensor(weighty, device=counted.device)
        logs = torch.where(there, (means + _SMALL).log(), 0.0)
        # A loss below 0 has no logarithm: its factor is no number, and so the step is refused by its name.
        factors = torch.where(there, torch.where(means < 0, torch.nan, 1 / (means + _SMALL)), 1.0)
        scaled = {
            task: SumCount(loss.sum * factor, loss.count)
            for (task, loss), factor in zip(losses.items(), factors.unbind(), strict=True)
        }
        super().backward(scaled, model, beside)
        assert self.total is not None
        followed = torch.stack([loss.mean.detach() for loss in scaled.values()]).sum()
        self.total = self.total - followed + logs.sum()


def onto_simplex(values: Array, total: float = 1.0) -> Array:
    """The nearest point whose numbers are 0 or more and sum to `total` (Duchi et al. 2008, figure 1).

    Args:
        values: [m].
        total: Above 0.

    Example:
        >>> onto_simplex(np.array([0.75, 0.5, -1.0])).tolist()
        [0.625, 0.375, 0.0]
    """
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - total) / np.arange(1, len(values) + 1)
    last = int(np.nonzero(falling > excess)[0][-1])
    projected: Array = np.clip(values - excess[last], 0.0, None)
    return projected


@BALANCERS.register("moco")
def moco(beta: float = 0.5, gamma: float = 0.1, rho: float = 0.0, decay: float = 0.5) -> GradientAggregation:
    """MoCo (Fernando et al. 2023): MGDA's weights by small steps, on moving averages of the gradients.

    `beta` is the newest gradient's share, `gamma` the step of the weights, `rho` draws them together; both
    fall with the steps to the power of `decay`. Keeps T further copies of what is shared.
    """
    beta = check_number("balancing.moco.beta", beta, above=0, most=1)
    gamma = check_number("balancing.moco.gamma", gamma, above=0)
    rho = check_number("balancing.moco.rho", rho, least=0)
    decay = check_number("balancing.moco.decay", decay, least=0)
    settings = {"beta": beta, "gamma": gamma, "rho": rho, "decay": decay}
    return GradientAggregation("moco", MoCo(beta, gamma, rho, decay), settings=settings)


@BALANCERS.register("db_mtl")
def db_mtl(beta: float = 0.9, decay: float = 0.0) -> GradientAggregation:
    """DB-MTL (Lin et al. 2023): logarithms of the losses, moving averages of their gradients, made as long.

    `beta` is the share of the average before, which falls with the steps to the power of `decay`. Keeps T
    further copies of what is shared. Losses of 0 or more.
    """
    beta = check_number("balancing.db_mtl.beta", beta, least=0, most=0.999999)
    decay = check_number("balancing.db_mtl.decay", decay, least=0)
    settings = {"beta": beta, "decay": decay}
    return DualBalancing("db_mtl", EqualLengths(beta, decay), settings=settings)
