"""TorchJD's methods and solvers inside ours: called with what they expect, their memory saved whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torchjd.aggregation as torchjd
from torch import Tensor, nn
from torchjd.linalg import DualConeProjector

from taskloom.balancing.method import MatrixMethod, Method, Weighting
from taskloom.balancing.solvers import (
    Array,
    SolverError,
    conflict_averse,
    factor,
    min_norm,
    project_factored,
    regular,
    unconflicting,
)
from taskloom.balancing.weightings import Formula
from taskloom.errors import MissingExtraError


class TorchJDMethod(Method):
    """One of TorchJD's modules; its memory is saved whole, in `state_dict` or not.

    Args:
        module: A weighting or an aggregator.
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

    def call(self, given: Tensor, index: Sequence[int]) -> Tensor:
        """What the module makes of a Gramian or a matrix of the tasks at `index`.

        Raises:
            SolverError: Fewer tasks are heard in the batch than it needs, or it failed.
        """
        least = self.least_tasks(self._num_tasks)
        if len(index) < least:
            needs = (
                "keeps a value per task and needs every task" if self.remembers else f"needs {least} tasks"
            )
            raise SolverError(
                f"it {needs} in every batch, but {len(index)} of {self._num_tasks} have a label in this one "
                "and are heard; use larger batches (`training.drop_last` leaves a small last one out), or "
                "another method"
            )
        try:
            found: Tensor = self.module(given)
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:  # what TorchJD's solvers raise
            raise SolverError(" ".join(str(error).split()).rstrip(".")) from error
        return found

    def state_dict(self) -> dict[str, Any]:
        return module_state(self.module)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        set_module_state(self.module, state)


class TorchJDWeighting(TorchJDMethod, Weighting):
    """One of TorchJD's weightings of a Gramian."""

    def weights(self, gramian: Array, index: Sequence[int]) -> Array:
        array: Array = self.call(torch.from_numpy(gramian), index).detach().numpy().astype(np.float64)
        return array


class TorchJDAggregator(TorchJDMethod, MatrixMethod):
    """One of TorchJD's aggregators of a matrix.

    Args:
        module: The aggregator.
        by_columns: Columns that it sees at a time, where it aggregates every column by itself; None: all.
        remembers: Whether it keeps something per task; it then needs every task in every batch.
        least: How many tasks it needs in every batch.
    """

    def __init__(
        self, module: nn.Module, *, by_columns: int | None = None, remembers: bool = False, least: int = 0
    ) -> None:
        super().__init__(module, remembers=remembers, least=least)
        self.by_columns = by_columns

    def aggregate(self, matrix: Tensor, index: Sequence[int]) -> Tensor:
        update = torch.empty_like(matrix[0])
        width = self.by_columns or matrix.shape[1]
        for begin in range(0, matrix.shape[1], width):
            update[begin : begin + width] = self.call(matrix[:, begin : begin + width], index)
        return update


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

    The Gramian is made `regular` first, as TorchJD does it.
    """

    def __call__(self, U: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
        targets = np.atleast_2d(U.double().numpy())
        matrix = factor(regular(G.double().numpy()))
        projected = np.stack([project_factored(target, matrix) for target in targets])
        return torch.from_numpy(projected.reshape(U.shape)).to(G)


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


def unconflicting_weighting(solver: str) -> Weighting:
    """UPGrad, solved here or by TorchJD; raises as `projector` does."""
    if solver == "own":
        return Formula(unconflicting)
    return TorchJDWeighting(torchjd.UPGradWeighting(projector=projector(solver)))


def conflict_averse_weighting(c: float, solver: str) -> Weighting:
    """CAGrad, solved here or by TorchJD.

    Raises:
        MissingExtraError: TorchJD's own was asked for and cvxpy or clarabel is not installed.
    """
    if solver == "own":
        return Formula(partial(conflict_averse, c=c))
    try:
        return TorchJDWeighting(torchjd.CAGradWeighting(c=c))
    except ImportError as error:
        raise MissingExtraError("cvxpy with clarabel", "balancing") from error


def frank_wolfe_or_exact(solver: str) -> Weighting:
    """MGDA: the shortest vector of the hull, exactly, or by TorchJD's 100 Frank-Wolfe steps."""
    return Formula(min_norm) if solver == "own" else TorchJDWeighting(torchjd.MGDAWeighting())
