"""The aggregation methods by the names that a study file uses.

Common settings: `at` ("parameters" or "features", see `GradientAggregation`), `smooth` (CR-MOGM; share of the
weights of the step before, 0 to below 1). A method that solves a problem solves it itself (`solver: own`, no
further package); `solver: torchjd` takes TorchJD's. A setting out of range raises ConfigError; a solver that
fails, or a batch with labels of too few tasks, TrainingError.

`sdmgrad` is SDMGrad's problem on the step's one batch. Its estimate without bias, and TorchJD's MoDo, want
gradients of two or three independent batches per step, and are not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torchjd.aggregation as torchjd
from torch import Tensor

from taskloom.balancing.aggregation import GradientAggregation
from taskloom.balancing.base import BALANCERS
from taskloom.balancing.checks import check_count, check_number
from taskloom.balancing.method import Drawn, MatrixMethod
from taskloom.balancing.row_balancer import Place
from taskloom.balancing.solvers import Array, Solver, fair
from taskloom.balancing.torchjd_methods import (
    TorchJDAggregator,
    TorchJDWeighting,
    conflict_averse_weighting,
    frank_wolfe_or_exact,
    projector,
    unconflicting_weighting,
)
from taskloom.balancing.weightings import (
    Formula,
    GradVac,
    NashMTL,
    PCGrad,
    aligned,
    conflict_free,
    direction_oriented,
    impartial,
)
from taskloom.errors import ConfigError

_COLUMNS = 1 << 14
"""Columns that a matrix method sees at a time: its intermediate results are no copy of the gradients."""
_WIDE = 1 << 17
"""Columns of a method that goes through the rows one after the other: enough for several threads."""


@BALANCERS.register("upgrad")
def upgrad(at: Place = "parameters", smooth: float = 0.0, solver: Solver = "own") -> GradientAggregation:
    """UPGrad (Quinton and Rey 2024): each mean gradient projected onto the dual cone of all, then summed."""
    weighting = _solved(unconflicting_weighting, "upgrad", solver)
    return GradientAggregation("upgrad", weighting, at=at, smooth=smooth, settings={"solver": solver})


@BALANCERS.register("dualproj")
def dualproj(at: Place = "parameters", smooth: float = 0.0, solver: Solver = "own") -> GradientAggregation:
    """DualProj (Lopez-Paz and Ranzato 2017, equation 11): the mean gradient projected onto the dual cone."""
    weighting = TorchJDWeighting(torchjd.DualProjWeighting(projector=_solved(projector, "dualproj", solver)))
    return GradientAggregation("dualproj", weighting, at=at, smooth=smooth, settings={"solver": solver})


@BALANCERS.register("mgda")
def mgda(at: Place = "parameters", smooth: float = 0.0, solver: Solver = "own") -> GradientAggregation:
    """MGDA (Désidéri 2012): the shortest vector in the hull; `solver: torchjd` takes Frank-Wolfe steps."""
    weighting = _solved(frank_wolfe_or_exact, "mgda", solver)
    return GradientAggregation("mgda", weighting, at=at, smooth=smooth, settings={"solver": solver})


@BALANCERS.register("mgda_ub")
def mgda_ub(smooth: float = 0.0, solver: Solver = "own") -> GradientAggregation:
    """MGDA-UB (Sener and Koltun 2018): MGDA at the shared feature."""
    weighting = _solved(frank_wolfe_or_exact, "mgda_ub", solver)
    return GradientAggregation(
        "mgda_ub", weighting, at="features", smooth=smooth, settings={"solver": solver}
    )


@BALANCERS.register("pcgrad")
def pcgrad(at: Place = "parameters", smooth: float = 0.0) -> GradientAggregation:
    """PCGrad (Yu et al. 2020): the sum of gradients, each freed of its conflicts with the others."""
    return GradientAggregation("pcgrad", PCGrad(), at=at, smooth=smooth)


@BALANCERS.register("cagrad")
def cagrad(
    c: float = 0.5, at: Place = "parameters", smooth: float = 0.0, solver: Solver = "own"
) -> GradientAggregation:
    """CAGrad (Liu et al. 2021): near the mean gradient, best for the worst-off task; c is the radius."""
    c = check_number("balancing.cagrad.c", c, least=0)
    weighting = _solved(partial(conflict_averse_weighting, c), "cagrad", solver)
    settings = {"c": c, "solver": solver}
    return GradientAggregation("cagrad", weighting, at=at, smooth=smooth, settings=settings)


@BALANCERS.register("sdmgrad")
def sdmgrad(lambda_: float = 0.3, at: Place = "parameters", smooth: float = 0.0) -> GradientAggregation:
    """SDMGrad's direction (Xiao et al. 2023): MGDA's problem, drawn towards the mean gradient by `lambda`."""
    lambda_ = check_number("balancing.sdmgrad.lambda", lambda_, least=0)
    weighting = Formula(partial(direction_oriented, regularizer=lambda_))
    return GradientAggregation("sdmgrad", weighting, at=at, smooth=smooth, settings={"lambda": lambda_})


@BALANCERS.register("gradvac")
def gradvac(beta: float = 0.5, at: Place = "parameters", smooth: float = 0.0) -> GradientAggregation:
    """GradVac (Wang et al. 2021): cosines raised to a moving target; beta is the newest cosine's share."""
    beta = check_number("balancing.gradvac.beta", beta, least=0, most=1)
    return GradientAggregation("gradvac", GradVac(beta), at=at, smooth=smooth, settings={"beta": beta})


@BALANCERS.register("imtl_g")
def imtl_g(at: Place = "parameters", smooth: float = 0.0) -> GradientAggregation:
    """IMTL-G (Liu et al. 2021): an update with equal projections on all gradients."""
    return GradientAggregation("imtl_g", Formula(impartial), at=at, smooth=smooth)


@BALANCERS.register("nash_mtl")
def nash_mtl(
    max_norm: float = 1.0, update_every: int = 1, at: Place = "parameters", smooth: float = 0.0
) -> GradientAggregation:
    """Nash-MTL (Navon et al. 2022): the bargaining solution, of a length of at most `max_norm` (0: any)."""
    settings = {
        "max_norm": check_number("balancing.nash_mtl.max_norm", max_norm, least=0),
        "update_every": check_count("balancing.nash_mtl.update_every", update_every),
    }
    weighting = NashMTL(float(max_norm), update_every)
    return GradientAggregation("nash_mtl", weighting, at=at, smooth=smooth, settings=settings)


@BALANCERS.register("fairgrad")
def fairgrad(alpha: float = 1.0, at: Place = "parameters", smooth: float = 0.0) -> GradientAggregation:
    """FairGrad (Ban and Ji 2024): alpha-fair progress, G w = w^(-1 / alpha)."""
    alpha = check_number("balancing.fairgrad.alpha", alpha, above=0)
    weighting = Formula(partial(fair, alpha=alpha))
    return GradientAggregation("fairgrad", weighting, at=at, smooth=smooth, settings={"alpha": alpha})


@BALANCERS.register("aligned_mtl")
def aligned_mtl(
    scale: Literal["min", "median", "rmse"] = "min", at: Place = "parameters", smooth: float = 0.0
) -> GradientAggregation:
    """Aligned-MTL (Senushkin et al. 2023): the mean gradient after all singular values are made equal."""
    if scale not in ("min", "median", "rmse"):
        raise ConfigError(f"balancing.aligned_mtl.scale: min, median or rmse expected, found {scale!r}.")
    weighting = Formula(partial(aligned, scale=scale))
    return GradientAggregation("aligned_mtl", weighting, at=at, smooth=smooth, settings={"scale": scale})


@BALANCERS.register("config")
def config(at: Place = "parameters", smooth: float = 0.0) -> GradientAggregation:
    """ConFIG (Liu et al. 2024): equal cosines with all gradients."""
    return GradientAggregation("config", Formula(conflict_free), at=at, smooth=smooth)


@BALANCERS.register("krum")
def krum(
    byzantine: int = 0, selected: int = 1, at: Place = "parameters", smooth: float = 0.0
) -> GradientAggregation:
    """(Multi-)Krum (Blanchard et al. 2017): the mean of the gradients nearest to the others.

    Needs `byzantine` + 3 tasks in every batch, and no fewer than `selected`.
    """
    byzantine = check_count("balancing.krum.byzantine", byzantine, least=0)
    selected = check_count("balancing.krum.selected", selected)
    weighting = TorchJDWeighting(
        torchjd.KrumWeighting(byzantine, selected), least=max(byzantine + 3, selected)
    )
    settings = {"byzantine": byzantine, "selected": selected}
    return GradientAggregation("krum", weighting, at=at, smooth=smooth, settings=settings)


@BALANCERS.register("pcd")
def pcd(
    tau: float = 0.02, beta: float = 0.999, at: Place = "parameters", smooth: float = 0.0
) -> GradientAggregation:
    """PCD (TorchJD): the first task's gradient, bent until every other makes `tau` of its own progress.

    Needs every task in every batch.
    """
    tau = check_number("balancing.pcd.tau", tau, least=0, most=1)
    beta = check_number("balancing.pcd.beta", beta, least=0, most=0.999999999)
    weighting = TorchJDWeighting(torchjd.PCDWeighting(tau=tau, beta=beta), remembers=True)
    settings = {"tau": tau, "beta": beta}
    return GradientAggregation("pcd", weighting, at=at, smooth=smooth, settings=settings)


@BALANCERS.register("gradient_sum")
def gradient_sum(at: Place = "parameters") -> GradientAggregation:
    """The sum of the gradients: the update of a plain sum, with cosines and conflicts recorded."""
    return GradientAggregation("gradient_sum", Formula(_ones), at=at)


@BALANCERS.register("gradient_mean")
def gradient_mean(at: Place = "parameters") -> GradientAggregation:
    """The mean of the gradients on what is shared; heads follow their own task in full."""
    return GradientAggregation("gradient_mean", Formula(_equal), at=at)


class GradDrop(Drawn, MatrixMethod):
    """GradDrop (Chen et al. 2020, algorithm 1): per number, one sign is kept, drawn by its share.

    The share is kept to 1 / 65,536: random numbers of 16 bits.

    Args:
        leak: Share of every gradient that always passes, 0 to 1.
    """

    def __init__(self, leak: float) -> None:
        super().__init__()
        self.leak = leak

    def aggregate(self, matrix: Tensor, index: Sequence[int]) -> Tensor:
        del index
        update = torch.empty_like(matrix[0])
        for begin in range(0, matrix.shape[1], _WIDE):
            first, *others = matrix[:, begin : begin + _WIDE]
            total, size, room = first.clone(), first.abs(), torch.empty_like(first)
            for row in others:
                total += row
                size += torch.abs(row, out=room)
            # The share of the positive numbers is (1 + total / size) / 2, and of a kept sign all numbers are
            # kept: their sum is (total + size) / 2, that of the negative ones (total - size) / 2.
            signs = torch.addcmul(total, self._drawn(len(first)).to(total), size, value=-1, out=room)
            kept = torch.copysign(size, signs, out=room)
            torch.mul(kept, 0.5 * (1 - self.leak), out=update[begin : begin + _WIDE])
            update[begin : begin + _WIDE].add_(total, alpha=0.5 * (1 + self.leak))
        return update

    def _drawn(self, number: int) -> Tensor:
        """Numbers between -1 and 1, all of 65,536 equally likely: four of a draw, which takes most time here.

        Drawn on the CPU: the same on every device and in every process.
        """
        draws = torch.empty(-(-number // 4), dtype=torch.int64)
        draws.random_(-(2**63), None, generator=self._generator)
        return draws.view(torch.int16)[:number].to(torch.float32).add_(0.5).mul_(2**-15)


@BALANCERS.register("graddrop")
def graddrop(leak: float = 0.0) -> GradientAggregation:
    """GradDrop (Chen et al. 2020): per number of the gradient one sign is kept, drawn by its share."""
    leak = check_number("balancing.graddrop.leak", leak, least=0, most=1)
    return GradientAggregation("graddrop", GradDrop(leak), settings={"leak": leak})


@BALANCERS.register("trimmed_mean")
def trimmed_mean(trim: int = 1) -> GradientAggregation:
    """Trimmed mean (Yin et al. 2018): per number, without the `trim` largest and smallest.

    Needs 2 `trim` + 1 tasks in every batch.
    """
    trim = check_count("balancing.trimmed_mean.trim", trim, least=0)
    method = TorchJDAggregator(torchjd.TrimmedMean(trim_number=trim), by_columns=_COLUMNS, least=2 * trim + 1)
    return GradientAggregation("trimmed_mean", method, settings={"trim": trim})


@BALANCERS.register("excess_mtl")
def excess_mtl(step_size: float = 1.0, warmup: int = 0) -> GradientAggregation:
    """ExcessMTL (He et al. 2024): weights grow with a task's estimated excess risk.

    Keeps the sum of squared gradients, T further copies. Needs every task in every batch.
    """
    step_size = check_number("balancing.excess_mtl.step_size", step_size, above=0)
    warmup = check_count("balancing.excess_mtl.warmup", warmup, least=0)
    method = TorchJDAggregator(torchjd.ExcessMTL(step_size, warmup), remembers=True)
    return GradientAggregation("excess_mtl", method, settings={"step_size": step_size, "warmup": warmup})


def _solved(make: Any, name: str, solver: str) -> Any:
    if solver not in ("own", "torchjd"):
        raise ConfigError(f"balancing.{name}.solver: own or torchjd expected, found {solver!r}.")
    return make(solver)


def _ones(gramian: Array) -> Array:
    return np.ones(len(gramian))


def _equal(gramian: Array) -> Array:
    return np.full(len(gramian), 1 / len(gramian))
