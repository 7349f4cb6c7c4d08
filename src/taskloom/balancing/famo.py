"""FAMO: all losses fall at an equal rate, from their values alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from taskloom.balancing.base import BALANCERS
from taskloom.balancing.checks import check_number
from taskloom.balancing.numbers import Numbers, Weighed, at_least, module_of, numbers, softmax, softmax_of_few
from taskloom.balancing.weights import LossWeighting, check_state_tasks

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork

_TINY = 1e-8
_BETAS = (0.9, 0.999)
"""Shares of the moments before in those of a step, as in Adam."""
_OF_FAMO = ("logits", "before", "seen", "steps", "moments")


_Moved = tuple[list[float], list[float], list[float], list[float]]


class _Few(NamedTuple):
    """What FAMO remembers, while its losses are few: lists, [T] each."""

    logits: list[float]
    steps: list[float]
    means: list[float]
    squares: list[float]
    before: list[float]
    seen: list[bool]


@BALANCERS.register("famo")
class FAMO(LossWeighting):
    """FAMO (Liu et al. 2023, algorithm 1): all losses fall at an equal rate, from their values alone.

    total = c sum over tasks of z_i log(L_i), z = softmax(w), c = 1 / sum(z_i / L_i) as a constant. w follows
    d_i = log L_i(before) - log L_i(after an update) by Adam: gradient of z times d, plus `weight_decay` w.

    The losses "after" are those of the next batch, which cost nothing; the official code runs the same
    batch a second time, a forward pass more per step. Batch noise in d is averaged out by Adam. A task
    absent in either batch has no d, and its w rests; so does that of a task whose loss is NaN or infinite:
    the total shows it, and nothing remembers it.

    Args:
        lr: Learning rate for w, above 0.
        weight_decay: Pulls w to 0; 0 or more.
    """

    def __init__(self, lr: float = 0.025, weight_decay: float = 1e-3) -> None:
        super().__init__()
        self.lr = check_number("balancing.famo.lr", lr, above=0)
        self.weight_decay = check_number("balancing.famo.weight_decay", weight_decay, least=0)
        self._clear(0, torch.device("cpu"))

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._clear(len(self._names), next(iter(model.parameters())).device)

    def _clear(self, num_tasks: int, device: torch.device) -> None:
        zeros = torch.zeros(num_tasks, dtype=torch.float64, device=device)
        # Steps, too, are counted per task: an absent one rests.
        self._logits, self._before, self._steps = (numbers(zeros.clone()) for _ in range(3))
        self._moments = numbers(torch.stack([zeros, zeros]))
        self._rates = numbers(1 - zeros.new_tensor(_BETAS)[:, None])
        self._powers = numbers(zeros.new_tensor([[1.0], [2.0]]))
        self._seen = numbers(zeros > 0)
        self._few: _Few | None = None  # what is remembered, in place of the arrays

    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        self._as_arrays()
        module = module_of(means)
        means = self.joint(means)
        if len(index) == len(self._names):
            return Weighed(self._follow_losses(means, present, module))
        # Tasks without a loss in this call are absent ones.
        all_means, all_present = module.zeros_like(self._logits), module.zeros_like(self._seen)
        all_means[index], all_present[index] = means, present
        return Weighed(self._follow_losses(all_means, all_present, module)[index])

    def weigh_few(self, means: list[float], present: list[bool], index: list[int]) -> Weighed:
        # Copies: where something fails, what is remembered is as it was.
        few = self._few or self._as_few()
        before, seen = list(few.before), list(few.seen)
        means = [max(mean, 0.0) + _TINY for mean in means]
        fallen, there = dict[int, float](), [False] * len(before)
        for place, mean, is_there in zip(index, means, present, strict=True):
            there[place] = is_there
            if is_there and math.isfinite(mean):
                log = math.log(mean)
                if seen[place]:
                    fallen[place] = before[place] - log
                before[place], seen[place] = log, True
        state = self._followed_by_few(few, fallen)
        shares, slopes = softmax_of_few(state[0], there), [0.0] * len(index)
        for number, place in enumerate(index):
            if there[place]:
                slopes[number] = shares[place] / means[number]
        total = max(sum(slopes), _TINY)
        self._few = _Few(*state, before, seen)
        return Weighed([slope / total for slope in slopes])

    def _followed_by_few(self, few: _Few, fallen: Mapping[int, float]) -> _Moved:
        """The logits, steps and moments after `follow`, given d by the places of the tasks it is known of."""
        logits, steps, means, squares = list(few[0]), list(few[1]), list(few[2]), list(few[3])
        shares = softmax_of_few(logits, [place in fallen for place in range(len(logits))])
        middle = sum(shares[place] * value for place, value in fallen.items())
        first, second = 1 - _BETAS[0], 1 - _BETAS[1]
        for place, value in fallen.items():
            gradient = shares[place] * (value - middle) + self.weight_decay * logits[place]
            steps[place] += 1.0
            means[place] += first * (gradient - means[place])
            squares[place] += second * (gradient * gradient - squares[place])
            mean = means[place] / (1 - _BETAS[0] ** steps[place])
            square = squares[place] / (1 - _BETAS[1] ** steps[place])
            logits[place] -= self.lr * mean / (math.sqrt(square) + _TINY)
        return logits, steps, means, squares

    def _as_few(self) -> _Few:
        rows = (self._logits, self._steps, *self._moments, self._before, self._seen)
        return _Few(*(row.tolist() for row in rows))

    def _as_arrays(self) -> None:
        """Puts what lists remember into the arrays."""
        if self._few is not None:
            few, self._few = self._few, None
            self._logits, self._steps = np.array(few.logits), np.array(few.steps)
            self._moments = np.array([few.means, few.squares])
            self._before, self._seen = np.array(few.before), np.array(few.seen)

    def _follow_losses(self, means: Numbers, present: Numbers, module: Any) -> Numbers:
        """The weights [T] of this step, once w has followed how the losses [T] fell."""
        kept = at_least(means, 0.0) + _TINY
        known = present & module.isfinite(kept)
        logs = module.log(module.where(known, kept, 1.0))
        self.follow(self._before - logs, known & self._seen)
        self._before = module.where(known, logs, self._before)
        self._seen = self._seen | known
        slopes = softmax(self._logits, present) * present / kept
        return slopes / at_least(slopes.sum(), _TINY)

    def follow(self, fallen: Numbers, measured: Numbers) -> None:
        """One step of Adam on w.

        Args:
            fallen: d_i, by how much the logarithm of each loss fell, [T].
            measured: For which tasks it is known, bool [T].
        """
        self._as_arrays()
        module = module_of(fallen)
        shares = softmax(self._logits, measured) * measured
        fallen = fallen * measured
        gradient = shares * (fallen - shares @ fallen) + self.weight_decay * self._logits
        # An absent task counts with a rate of 0 in all that follows: what is kept of it stays as it is.
        self._steps = self._steps + measured
        newest = gradient**self._powers  # itself, and its square
        self._moments = self._moments + self._rates * measured * (newest - self._moments)
        mean, square = self._moments / (1 - (1 - self._rates) ** at_least(self._steps, 1.0))
        self._logits = self._logits - self.lr * measured * mean / (module.sqrt(square) + _TINY)

    def report_state(self) -> dict[str, float]:
        self._as_arrays()
        heard = [task not in self._weightless for task in self._names]
        shares = softmax_of_few(self._logits.tolist(), heard)
        return {f"weight/{task}": share for task, share in zip(self._names, shares, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        self._as_arrays()
        state = {name: torch.as_tensor(getattr(self, f"_{name}")).clone() for name in _OF_FAMO}
        return {"tasks": list(self._names), **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._names = check_state_tasks(self, state, self._names)
        device, self._few = torch.as_tensor(self._logits).device, None
        for name in _OF_FAMO:
            setattr(self, f"_{name}", numbers(state[name].clone().to(device)))
