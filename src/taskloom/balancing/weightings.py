"""From the Gramian of the tasks' gradients to weights: the methods, without any network.

A weighting sees G [m, m] of the m tasks present in the batch, in double precision on the CPU, and their
places among all T tasks, by which it keeps what it remembers. TorchJD's own classes do the work where they
can; where they need a package for a solver, stop an iteration early, or run Python over tiny tensors, the
same mathematics is solved here exactly and tested against theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torchjd.aggregation as torchjd

from taskloom.balancing.method import Drawn, Weighting
from taskloom.balancing.solvers import Array, SolverError, fair, min_norm


class Formula(Weighting):
    """A weighting without memory: a function of the Gramian."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self._function = function

    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        del index
        return self._function(gramian)


class PCGrad(Drawn, Weighting):
    """Gradient surgery (Yu et al. 2020, algorithm 1): the sum of gradients, each projected off conflicts.

    Each gradient g_i loses, for every other g_j in a random order, its component along g_j where their
    inner product is negative.
    """

    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        del index
        rows = gramian.tolist()
        total = np.zeros(len(rows))
        for i in range(len(rows)):
            order = self.order(len(rows))  # drawn as TorchJD draws it, i included
            if min(rows[i]) >= 0.0:  # no conflict to begin with, and so none after
                total[i] += 1.0
                continue
            coefficients = np.zeros(len(rows))
            coefficients[i] = 1.0
            for j in order:
                if j == i:
                    continue
                inner = float(gramian[j] @ coefficients)
                if inner < 0.0:
                    coefficients[j] -= inner / rows[j][j]
            total += coefficients
        return total


class GradVac(Drawn, Weighting):
    """Gradient vaccine (Wang et al. 2021): cosines are raised to a moving target per pair of tasks.

    Args:
        beta: Share of the newest cosine in the target, 0 to 1.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self._targets = np.zeros((0, 0))

    def start(self, num_tasks: int, seed: int) -> None:
        super().start(num_tasks, seed)
        self._targets = np.zeros((num_tasks, num_tasks))

    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        size = len(gramian)
        gramian = gramian / np.trace(gramian)  # or the constants below would count with small gradients
        norms = np.sqrt(np.clip(np.diag(gramian), 0.0, None))
        total = np.zeros(size)
        for i in range(size):
            coefficients = np.eye(size)[i]
            inner = gramian[i].copy()  # of the modified g_i with every g_j
            others = [j for j in range(size) if j != i]
            for place in self.order(size - 1):
                j = others[place]
                norm = math.sqrt(max(float(inner @ coefficients), 0.0))
                cosine = float(inner[j]) / (norm * norms[j] + 1e-8)
                target = self._targets[index[i], index[j]]
                if cosine < target:
                    sine, target_sine = (math.sqrt(max(1 - value * value, 0.0)) for value in (cosine, target))
                    raised = norm * (target * sine - cosine * target_sine) / (norms[j] * target_sine + 1e-8)
                    coefficients[j] += raised
                    inner += raised * gramian[j]
                self._targets[index[i], index[j]] = (1 - self.beta) * target + self.beta * cosine
            total += coefficients
        return total

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "targets": torch.from_numpy(self._targets.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._targets = state["targets"].numpy().copy()


class NashMTL(Weighting):
    """Nash bargaining (Navon et al. 2022): w with (G w)_i = 1 / w_i, and the length of J' w at most max_norm.

    TorchJD and the official code linearise the problem for the ECOS solver and keep the weights of the step
    before where it fails; here Newton's method finds the solution, and where there is none, that is said.

    Args:
        max_norm: Largest length of the update; 0 sets no limit. G enters divided by its Frobenius norm.
        update_every: Steps from one solution to the next; the weights are kept in between, unless a task is
            there that has none yet.
    """

    def __init__(self, max_norm: float, update_every: int) -> None:
        self.max_norm, self.update_every = max_norm, update_every
        self._step, self._weights = 0, np.ones(0)

    def start(self, num_tasks: int, seed: int) -> None:
        del seed
        self._step, self._weights = 0, np.full(num_tasks, np.nan)

    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        places = list(index)
        if self._step % self.update_every == 0 or np.isnan(self._weights[places]).any():
            self._weights[places] = fair(gramian / np.linalg.norm(gramian))
        self._step += 1
        weights = self._weights[places]
        length = math.sqrt(max(float(weights @ gramian @ weights), 0.0))
        if self.max_norm > 0 and length > self.max_norm:
            weights = weights * (self.max_norm / length)
        return weights

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "weights": torch.from_numpy(self._weights.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step, self._weights = state["step"], state["weights"].numpy().copy()


class Smoothed(Weighting):
    """CR-MOGM (Zhou et al. 2022): lambda_k = alpha lambda_(k-1) + (1 - alpha) w_k over the steps k.

    Args:
        inner: The weighting that is smoothed.
        alpha: Share of the weights of the step before, 0 to below 1. A task's first step has its own weight.
    """

    def __init__(self, inner: Weighting, alpha: float) -> None:
        self.inner, self.alpha = inner, alpha
        self._average = np.zeros(0)

    def start(self, num_tasks: int, seed: int) -> None:
        self.inner.start(num_tasks, seed)
        self._average = np.full(num_tasks, np.nan)

    def least_tasks(self, num_tasks: int) -> int:
        return self.inner.least_tasks(num_tasks)

    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        new, places = self.inner.weights(gramian, index), list(index)
        before = self._average[places]
        before = np.where(np.isnan(before), new, before)
        self._average[places] = self.alpha * before + (1 - self.alpha) * new
        smoothed: Array = self._average[places]
        return smoothed

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "average": torch.from_numpy(self._average.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self._average = state["average"].numpy().copy()


def impartial(gramian: Array) -> Array:
    """IMTL-G (Liu et al. 2021, section 3.1; pseudo-inverse as in Quinton and Rey 2024): w ~ G^+ ||g||, sum 1.

    The update has equal projections on all gradients. That its weights sum to 1 is the paper's choice, and it
    can turn the update around: where w ~ sums to less than 0, every loss rises, in the paper's code as here.

    Raises:
        SolverError: The weights sum to 0, so that they cannot be scaled to 1.
    """
    weights: Array = torchjd.IMTLGWeighting()(torch.from_numpy(gramian / np.trace(gramian))).numpy()
    if not weights.any():
        raise SolverError("there is no solution: the weights of equal projections sum to 0")
    return weights


def direction_oriented(gramian: Array, regularizer: float) -> Array:
    """SDMGrad's problem (Xiao et al. 2023) on one batch, solved: near the mean, best for all.

    With g0 the mean gradient and g_w = J' w, w on the simplex makes g_w + lambda g0 shortest, and the update
    is that over 1 + lambda: MGDA's at lambda 0, the mean gradient as lambda grows. As the weights sum to 1,
    it is the shortest vector in the hull of the gradients g_i + lambda g0.

    Args:
        gramian: G [m, m].
        regularizer: lambda.

    Example:
        >>> direction_oriented(np.array([[1.0, 0.0], [0.0, 4.0]]), 0.5).round(6)  # MGDA's, within 1/6 and 5/6
        array([0.8, 0.2])
        >>> direction_oriented(np.array([[1.0, 0.0], [0.0, 4.0]]), 3.0).round(6)
        array([0.625, 0.375])
    """
    size = len(gramian)
    with_mean = gramian.mean(axis=1)
    shift = regularizer * (with_mean[:, None] + with_mean[None]) + regularizer**2 * with_mean.mean()
    weights: Array = (min_norm(gramian + shift) + regularizer / size) / (1 + regularizer)
    return weights


def conflict_free(gramian: Array) -> Array:
    """ConFIG (Liu et al. 2024, equation 2), from the Gramian alone.

    The direction has equal, positive cosines with all gradients, U^+ 1 with U the unit gradients, which is
    U' (U U')^+ 1; its length is the sum of the gradients' projections on it.

    Raises:
        SolverError: There is no such direction (two gradients that are opposed).

    Example:
        >>> conflict_free(np.array([[4.0, 0.0], [0.0, 1.0]])).round(6)  # lengths 2 and 1, update (1.5, 1.5)
        array([0.75, 1.5 ])
    """
    norms = np.sqrt(np.clip(np.diag(gramian), 0.0, None))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    cosines = gramian * np.outer(inverse, inverse)
    of_units = np.linalg.pinv(cosines, rcond=1e-6, hermitian=True) @ np.ones(len(gramian))
    weights = of_units * inverse
    length = math.sqrt(max(float(weights @ gramian @ weights), 0.0))
    if length <= 1e-12 * norms.max():
        raise SolverError("there is no direction of equal cosines with all gradients")
    unit = weights / length
    scaled: Array = float((gramian @ unit).sum()) * unit
    return scaled


def aligned(gramian: Array, scale: Literal["min", "median", "rmse"]) -> Array:
    """Aligned-MTL (Senushkin et al. 2023, equation 12): the mean gradient, all singular values made equal.

    With G = V diag(l) V' the balanced gradients are sigma V diag(l^-1/2) V' J, where sigma^2 is the smallest
    eigenvalue (the paper), the median (the lower of two) or the mean. Eigenvalues that are rounding are left
    out.

    Example:
        >>> aligned(np.array([[4.0, 0.0], [0.0, 1.0]]), "min")  # gradients of lengths 2 and 1 become 1 and 1
        array([0.25, 0.5 ])
    """
    size = len(gramian)
    values, vectors = np.linalg.eigh(gramian)
    kept = values > values[-1] * size * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    if not len(values):
        return np.full(size, 1 / size)
    squared = {"min": values[0], "median": values[(len(values) - 1) // 2], "rmse": values.mean()}[scale]
    weights: Array = math.sqrt(squared) * (vectors @ (vectors.mean(axis=0) / np.sqrt(values)))
    return weights
