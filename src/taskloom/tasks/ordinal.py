"""A number in steps over a stated range, learned as ordered yes/no questions or as classes: ages, grades."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from taskloom.errors import ConfigError
from taskloom.tasks.base import LastLayer
from taskloom.tasks.values import Regression

_MOST_LEVELS = 10_000


@dataclass(frozen=True)
class Ordinal(Regression):
    """One number in steps, `range[0]`, `range[0]` + `step`, ..., `range[1]`: K levels.

    Labels are numbers in the unit, as for a regression, and so are predictions and metrics; what differs is
    how the network learns them:

    - `loss: coral` (default; Cao, Mirjalili and Raschka 2020): K - 1 questions "above level k?". All share
      one weight vector and have a bias each, so logit k is w x + b_k; whatever w is, biases that fall with k
      give probabilities that fall with k. The loss is the binary cross-entropy of every question (equation 4,
      all importances 1), here their mean instead of their sum, so that its size does not grow with K. The
      prediction is `range[0]` plus `step` for every question whose probability is above one half.
    - `loss: dex` (Rothe, Timofte and Van Gool 2018): K classes with softmax and cross-entropy; the prediction
      is the expected value, the sum of probability times level.

    A label between two levels counts as the nearer one, the upper one where both are equally near.

    Args:
        unit: As in `Regression`.
        range: First and last level, in the unit; must be given.
        step: Distance of two levels, in the unit.

    Raises:
        ConfigError: No range, a step that does not divide it, fewer than two levels, or more than 10,000.

    Example:
        >>> age = Ordinal("age", unit="years", range=(21, 24))
        >>> age.width, age.decode(torch.tensor([[2.0, 0.5, -1.0]]))
        (3, tensor([23.]))
    """

    step: float = 1.0

    kind: ClassVar[str] = "ordinal"
    known_losses: ClassVar[tuple[str, ...]] = ("coral", "dex")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.range is None:
            raise ConfigError(
                f"tasks.{self.name}.range: an ordinal task needs [low, high], its first and last level."
            )
        if self.size != 1 or (self.center, self.scale) != (0.0, 1.0) or self.fixed_scale:
            raise ConfigError(
                f"tasks.{self.name}: an ordinal task has one value per row and no center or scale; use "
                "a regression for vectors."
            )
        step = self.step
        if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < math.inf:
            raise ConfigError(f"tasks.{self.name}.step: a number above 0 expected, found {step!r}.")
        low, high = self.range
        steps = (high - low) / step
        if abs(steps - round(steps)) > 1e-6 or not 1 <= round(steps) < _MOST_LEVELS:
            raise ConfigError(
                f"tasks.{self.name}.step: a whole number of steps (1 to {_MOST_LEVELS - 1:,}) from {low:g} "
                f"to {high:g} expected, found {steps:g} of {step:g}."
            )

    @property
    def num_levels(self) -> int:
        """K."""
        low, high = self._ends
        return round((high - low) / self.step) + 1

    @property
    def width(self) -> int:
        return self.num_levels - 1 if self.default_loss == "coral" else self.num_levels

    @property
    def last_layer(self) -> LastLayer:
        return "shared_slope" if self.default_loss == "coral" else "linear"

    def fit(self, values: Tensor) -> Self:  # noqa: ARG002 - levels are not standardised
        """Returns the task as it is: levels need no fitted scale."""
        return self

    def codes(self, values: Tensor) -> Tensor:
        """Position of each value's level, 0..K-1, int64; the nearest end for values outside the range.

        Example:
            >>> Ordinal("age", range=(20, 30), step=5).codes(torch.tensor([20.0, 22.4, 22.5, 30.0]))
            tensor([0, 0, 1, 2])
        """
        low, _ = self._ends
        nearest = ((values - low) / self.step + 0.5).floor()
        return nearest.clamp(0, self.num_levels - 1).long()

    def targets(self, values: Tensor) -> Tensor:
        """What the loss compares outputs with, from values [N].

        Returns:
            coral: [N, K - 1], whether the level is above the k-th (1 or 0). dex: codes [N].
        """
        codes = self.codes(values)
        if self.default_loss == "dex":
            return codes
        return (codes.unsqueeze(-1) > torch.arange(self.width, device=values.device)).to(values.dtype)

    def probabilities(self, output: Tensor) -> Tensor:
        """coral: of being above each level but the last, [N, K - 1]; dex: of each level, [N, K]."""
        return output.sigmoid() if self.default_loss == "coral" else output.softmax(dim=1)

    def decode(self, output: Tensor) -> Tensor:
        low, _ = self._ends
        if self.default_loss == "coral":
            # A probability is above one half where its logit is above 0.
            return low + self.step * (output > 0).sum(dim=1).to(output.dtype)
        levels = torch.arange(self.num_levels, device=output.device, dtype=output.dtype)
        return low + self.step * (output.softmax(dim=1) @ levels)

    @property
    def _ends(self) -> tuple[float, float]:
        assert self.range is not None  # __post_init__ refuses None
        return self.range
