"""How strongly a term counts at which epoch: coupling on early, wrong predictions hurts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from taskloom.errors import ConfigError

Shape = Literal["linear", "cosine", "step"]


@dataclass(frozen=True)
class WeightSchedule:
    """Weight 0 before `start_epoch`, rising over `ramp_epochs`, then `weight`, and 0 again from `end_epoch`.

    Args:
        weight: The weight once it has risen; 0 or more.
        start_epoch: First epoch, counted from 0, with a weight above 0.
        ramp_epochs: Number of epochs over which it rises; 0 is at once. Epoch start + k, k < ramp, has the
            share (k + 1) / (ramp + 1) of the weight (linear).
        shape: "linear", "cosine" (slow, fast, slow) or "step" (0 until the ramp is over).
        end_epoch: First epoch with weight 0 again; None is never.

    Raises:
        ConfigError: A weight below 0 or not finite, epochs below 0, an end before the start.

    Example:
        >>> schedule = WeightSchedule(2.0, start_epoch=1, ramp_epochs=1)
        >>> [schedule.at(epoch) for epoch in range(4)]
        [0.0, 1.0, 2.0, 2.0]
    """

    weight: float = 1.0
    start_epoch: int = 0
    ramp_epochs: int = 0
    shape: Shape = "linear"
    end_epoch: int | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if not number or not math.isfinite(self.weight) or self.weight < 0:
            raise ConfigError(f"coupling: a weight of 0 or more expected, found {self.weight!r}.")
        for name in ("start_epoch", "ramp_epochs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"coupling: {name} of 0 or more epochs expected, found {value!r}.")
        if self.shape not in get_args(Shape):
            raise ConfigError(f"coupling: shape {self.shape!r} is none of {', '.join(get_args(Shape))}.")
        if self.end_epoch is not None and self.end_epoch <= self.start_epoch:
            raise ConfigError(
                f"coupling: end_epoch above start_epoch {self.start_epoch} expected, found {self.end_epoch}."
            )

    def at(self, epoch: int) -> float:
        """Weight at an epoch, counted from 0."""
        if epoch < self.start_epoch or (self.end_epoch is not None and epoch >= self.end_epoch):
            return 0.0
        risen = epoch - self.start_epoch
        if risen >= self.ramp_epochs:
            return float(self.weight)
        share = (risen + 1) / (self.ramp_epochs + 1)
        match self.shape:
            case "linear":
                return self.weight * share
            case "cosine":
                return self.weight * (1 - math.cos(math.pi * share)) / 2
            case "step":
                return 0.0
