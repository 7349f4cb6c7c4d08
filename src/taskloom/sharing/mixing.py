"""Cross-stitch units: after a stage, every task goes on with a linear combination of all copies' outputs.

What a unit learns and how it begins; the product itself is in `mixing_kernel`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing.mixing_kernel import mix

__all__ = [
    "CrossStitch",
    "MixingUnit",
    "Per",
    "Start",
    "among_all",
    "check_per",
    "check_start",
    "mix",
    "start_matrix",
]

Per = Literal["layer", "channel"]
Start = Literal["identity", "uniform", "equal"] | Mapping[str, float]


class MixingUnit(nn.Module, ABC):
    """What stands after a mixed stage: takes the T copies' outputs and gives every task its combination."""

    @property
    def has_own_rows(self) -> bool:
        """Whether each output has parameters of its own, which make no other output.

        In the last unit they are then their task's alone, and an adversarial task's learn to predict it.
        """
        return False

    @abstractmethod
    def matrix(self) -> Tensor:
        """The mixing matrix, [T, T] or [C, T, T]; row = receiving task, column = donor."""

    @abstractmethod
    def forward(self, copies: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Mixes T tensors [N, C, ...] of one shape; returns T tensors of that shape, in the same order."""


class CrossStitch(MixingUnit):
    """Mixes the outputs of the T copies of a stage: x'_i = sum over j of alpha[i, j] x_j.

    Source: Misra et al. 2016, equation 1; thesis 002 section 3.1.4 (per layer), paper 004 equation 3 and
    section 5.2 (per channel).

    Args:
        num_tasks: T, the number of copies.
        per: "layer", one matrix for the whole tensor, or "channel", one for each channel (axis 1).
        num_channels: C; needed where `per` is "channel".
        start: How alpha begins. "identity": no task hears another (thesis 002). {"same": s, "other": o}: s on
            the diagonal and o divided over the T - 1 others (paper 004: 0.9 and 0.1). "equal": 1/T
            everywhere. "uniform": each element drawn from [0, 1] (thesis 000, section 4.1.2).

    Gradients are those of the formula, dL / d alpha[i, j] = sum of dL / dx'_i x_j; thesis 000, section 4.1.2,
    prints those of alpha_AB and alpha_BA the other way round. It also gives units a learning rate a
    magnitude above the usual, but no number for its own networks: `lr_multiplier` of the plan, 1 by default.

    Attributes:
        alpha: [T, T], or [C, T, T] per channel; row = receiving task, column = donor.

    Raises:
        ConfigError: A setting that is not one of these.

    Example:
        >>> unit = CrossStitch(2, start={"same": 0.9, "other": 0.1})
        >>> [x.tolist() for x in unit([torch.ones(1, 2), torch.zeros(1, 2)])]
        [[[0.8999999761581421, 0.8999999761581421]], [[0.10000000149011612, 0.10000000149011612]]]
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        per: Per = "layer",
        num_channels: int | None = None,
        start: Start = "identity",
    ) -> None:
        super().__init__()
        check_per(per)
        check_start(start)
        if num_tasks < 1:
            raise ConfigError(f"cross-stitch: at least 1 task expected, found {num_tasks}.")
        if per == "channel" and (num_channels is None or num_channels < 1):
            raise ConfigError(
                f"cross-stitch per channel needs the number of channels (at least 1), found {num_channels}."
            )
        self.num_tasks, self.per, self.start = num_tasks, per, start
        self.num_channels = num_channels if per == "channel" else None
        shape = (num_tasks, num_tasks) if per == "layer" else (num_channels or 0, num_tasks, num_tasks)
        self.alpha = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets alpha to its start (drawn anew where the start is "uniform")."""
        with torch.no_grad():
            if self.start == "uniform":
                self.alpha.uniform_(0.0, 1.0)
            else:
                self.alpha.copy_(start_matrix(self.num_tasks, self.start))

    def matrix(self) -> Tensor:
        return self.alpha

    @property
    def has_own_rows(self) -> bool:
        return True

    def forward(self, copies: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Mixes T tensors [N, C, ...] of one shape; returns T tensors of that shape, in the same order."""
        shapes = [tuple(copy.shape) for copy in copies]
        if len(copies) != self.num_tasks or any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"{self.num_tasks} tensors of one shape expected, found shapes {shapes}")
        if self.num_channels is not None and (len(shapes[0]) < 2 or shapes[0][1] != self.num_channels):
            raise ValueError(f"{self.num_channels} channels on axis 1 expected, found shape {shapes[0]}")
        return mix(self.alpha, copies)

    def extra_repr(self) -> str:
        channels = "" if self.num_channels is None else f", num_channels={self.num_channels}"
        return f"{self.num_tasks}, per={self.per!r}{channels}, start={self.start!r}"


def among_all(matrix: Tensor, places: Sequence[int], number: int) -> Tensor:
    """A mixing matrix among that of all tasks, zeros for those that it does not mix.

    Args:
        matrix: [R, R] or [C, R, R].
        places: Places of its R tasks among all.
        number: T.

    Returns:
        [T, T] or [C, T, T].

    Example:
        >>> among_all(torch.ones(1, 1), [1], 2).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    if len(places) == number:
        return matrix
    whole = matrix.new_zeros(*matrix.shape[:-2], number, number)
    whole[..., torch.tensor(places)[:, None], places] = matrix
    return whole


def start_matrix(num_tasks: int, start: Start) -> Tensor:
    """The [T, T] matrix of a start that is not drawn, in float64."""
    if start == "identity":
        return torch.eye(num_tasks, dtype=torch.float64)
    if start == "equal":
        return torch.full((num_tasks, num_tasks), 1.0 / num_tasks, dtype=torch.float64)
    assert isinstance(start, Mapping)
    other = float(start["other"]) / max(1, num_tasks - 1)
    matrix = torch.full((num_tasks, num_tasks), other, dtype=torch.float64)
    return matrix.fill_diagonal_(float(start["same"]))


def check_per(per: object) -> None:
    """Raises ConfigError where `per` is not "layer" or "channel"."""
    if per not in ("layer", "channel"):
        raise ConfigError(f"cross-stitch: per must be layer or channel, found {per!r}.")


def check_start(start: object) -> None:
    """Raises ConfigError where `start` is no start of a cross-stitch unit."""
    if isinstance(start, Mapping):
        numbers = all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
            for v in start.values()
        )
        if set(start) == {"same", "other"} and numbers:
            return
    elif start in ("identity", "uniform", "equal"):
        return
    raise ConfigError(
        "cross-stitch: start must be identity, equal, uniform or {same: a number, other: a number}, "
        f"found {start!r}."
    )
