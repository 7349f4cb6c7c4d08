"""From the Gramian of the tasks' gradients to weights: the methods, without any network.

A weighting sees G [m, m] of the m tasks present in the batch, in double precision on the CPU, and their
places among all T tasks, by which it keeps what it remembers. TorchJD's own classes do the work where they
can; where they need a package for a solver, stop an iteration early, or run Python over tiny tensors, the
same mathematics is solved here exactly and tested against theirs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torchjd.aggregation as torchjd
from torch import nn
from torchjd.linalg import DualConeProjector

from taskloom.balancing.base import Draw
from taskloom.balancing.solvers import (
    Array,
    SolverError,
    conflict_averse,
    factor,
    fair,
    min_norm,
    project_factored,
)
from taskloom.errors import MissingExtraError


class Weighting(ABC):
    """Gives a weight to every gradient from their inner products."""

    def start(self, num_tasks: int, seed: int) -> None:
        """Forgets everything; `seed` decides what is drawn."""
        del num_tasks, seed

    def least_tasks(self, num_tasks: int) -> int:
        """How many of `num_tasks` tasks must be there in every step; 0 unless overridden."""
        del num_tasks
        return 0

    @abstractmethod
    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        """Weights [m] of the gradients in the update.

        Args:
            gramian: Inner products of the gradients [m, m]; not all 0, all finite.
            index: Places of the m tasks among all tasks.

        Raises:
            SolverError: No solution was found; says why.
        """

    def state_dict(self) -> dict[str, Any]:
        """What is remembered from step to step: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave, after `start`."""
        del state


class Formula(Weighting):
    """A weighting without memory: a function of the Gramian."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self._function = function

    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        del index
        return self._function(gramian)


class _Drawn(Weighting):
    """Base of weightings that draw; the same numbers in every process."""

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


class PCGrad(_Drawn):
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


class GradVac(_Drawn):
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
        update_every: Steps from one solution to the next; the weights are kept in between.
    """

    def __init__(self, max_norm: float, update_every: int) -> None:
        self.max_norm, self.update_every = max_norm, update_every
        self._step, self._weights = 0, np.ones(0)

    def start(self, num_tasks: int, seed: int) -> None:
        del seed
        self._step, self._weights = 0, np.ones(num_tasks)

    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        places = list(index)
        if self._step % self.update_every == 0:
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


class TorchJD(Weighting):
    """One of TorchJD's weightings of a Gramian; its memory is saved whole, in `state_dict` or not.

    Args:
        module: The weighting.
        remembers: Whether it keeps a value per task; it then needs every task in every batch.
        least: How many tasks it needs in every batch.
    """

    def __init__(self, module: nn.Module, *, remembers: bool = False, least: int = 0) -> None:
        self.module, self.remembers, self.least = module, remembers, least
        self._num_tasks = 0

    def least_tasks(self, num_tasks: int) -> int:
        return num_tasks if self.remembers else self.least

    def start(self, num_tasks: int, seed: int) -> None:
        del seed
        self._num_tasks = num_tasks
        if self.remembers:
            self.module.reset()  # type: ignore[operator]

    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        if self.remembers and len(index) != self._num_tasks:
            raise SolverError(
                f"it keeps a value per task and needs every task in every batch, but {len(index)} of "
                f"{self._num_tasks} have a label in this one"
            )
        try:
            weights = self.module(torch.from_numpy(gramian))
        except (
            ValueError,
            RuntimeError,
            TypeError,
            AttributeError,
        ) as error:  # what solvers raise in TorchJD
            raise SolverError(" ".join(str(error).split()).rstrip(".")) from error
        array: Array = weights.detach().numpy().astype(np.float64)
        return array

    def state_dict(self) -> dict[str, Any]:
        return module_state(self.module)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        set_module_state(self.module, state)


def module_state(module: nn.Module) -> dict[str, Any]:
    """Everything a TorchJD object remembers: buffers and attributes that stand in no `state_dict`."""
    state: dict[str, Any] = {}
    for name, part in module.named_modules():
        kept = {key: value for key, value in vars(part).items() if _is_state(key, value)}
        kept |= part._buffers
        state[name] = {
            key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in kept.items()
        }
    return state


def set_module_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Takes what `module_state` gave."""
    for name, part in module.named_modules():
        for key, value in state.get(name, {}).items():
            setattr(part, key, value.clone() if isinstance(value, torch.Tensor) else value)


_OF_MODULES = set(vars(nn.Module()))


def _is_state(key: str, value: object) -> bool:
    plain = (torch.Tensor, bool, int, float, str, tuple, list, torch.dtype, torch.device)
    return key not in _OF_MODULES and (value is None or isinstance(value, plain))


class OwnProjector(DualConeProjector):
    """Solves TorchJD's projection by non-negative least squares: exact, and without quadprog.

    The Gramian is divided by its trace and 1e-4 is added to its diagonal, as TorchJD does: gradients that
    are opposed up to rounding would otherwise get weights in the thousands.
    """

    def __call__(self, U: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
        gramian = G.double().numpy()
        regular = gramian / np.trace(gramian) + 1e-4 * np.eye(len(gramian))
        targets = np.atleast_2d(U.double().numpy())
        matrix = factor(regular)
        projected = np.stack([project_factored(target, matrix) for target in targets])
        return torch.from_numpy(projected.reshape(U.shape)).to(G)


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


def conflict_free(gramian: Array) -> Array:
    """ConFIG (Liu et al. 2024, equation 2), from the Gramian alone.

    The direction has equal, positive cosines with all gradients, U^+ 1 with U the unit gradients, which is
    U' (U U')^+ 1; its length is the sum of the gradients' projections on it.
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


def projector(solver: str) -> Any:
    """The projector of UPGrad and DualProj for a setting `solver`.

    Raises:
        MissingExtraError: TorchJD's own was asked for and quadprog is not installed.
    """
    if solver == "own":
        return OwnProjector()
    from torchjd.linalg import QuadprogProjector

    try:
        return QuadprogProjector()
    except ImportError as error:
        raise MissingExtraError("quadprog", "balancing") from error


def conflict_averse_weighting(c: float, solver: str) -> Weighting:
    """CAGrad, solved here or by TorchJD.

    Raises:
        MissingExtraError: TorchJD's own was asked for and cvxpy or clarabel is not installed.
    """
    if solver == "own":
        return Formula(partial(conflict_averse, c=c))
    try:
        return TorchJD(torchjd.CAGradWeighting(c=c))
    except ImportError as error:
        raise MissingExtraError("cvxpy with clarabel", "balancing") from error


def frank_wolfe_or_exact(solver: str) -> Weighting:
    """MGDA: the shortest vector of the hull, exactly, or by TorchJD's 100 Frank-Wolfe steps."""
    return Formula(min_norm) if solver == "own" else TorchJD(torchjd.MGDAWeighting())
