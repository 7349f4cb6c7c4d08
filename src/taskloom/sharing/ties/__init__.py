"""Ties: penalties that pull the copies of a stage together, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from taskloom.errors import ConfigError, did_you_mean
from taskloom.registry import Registry
from taskloom.sharing.ties.tie import Tie, matching_weights
from taskloom.sharing.ties.trace_norm import TraceNorm, matrix_trace_norm, tucker_trace_norm

TIES: Registry[Callable[..., Tie]] = Registry("tie")
"""Classes or functions `(weight=..., **settings) -> Tie`."""

TIES.register("trace_norm")(TraceNorm)


@TIES.register("l2")
class L2(Tie):
    """Squared Frobenius distances between the copies of each weight, summed over all pairs of copies.

    Args:
        weight: Factor.

    Example:
        >>> L2(weight=1.0).measure([torch.zeros(1, 2), torch.ones(1, 2)]).item()
        2.0
    """

    def __init__(self, weight: float = 0.001) -> None:
        super().__init__(weight)

    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        # sum over pairs of |w_s - w_t|^2 = T * sum over t of |w_t - mean|^2, without the T^2 differences.
        mean = sum(weights[1:], start=weights[0]) / len(weights)
        return len(weights) * sum(
            ((weight - mean).square().sum() for weight in weights), start=mean.new_zeros(())
        )


def build(name: str, **settings: Any) -> Tie:
    """Builds a tie by its registered name.

    Raises:
        ConfigError: Unknown tie, unknown setting, or a setting out of range.

    Example:
        >>> build("trace_norm", weight=0.01)
        TraceNorm(weight=0.01)
    """
    make = TIES[name]
    known = list(inspect.signature(make).parameters)
    for setting in settings:
        if setting not in known:
            raise ConfigError(
                f"`{setting}` is not a setting of tie {name}.{did_you_mean(setting, known)} "
                f"Settings: {', '.join(known)}."
            )
    return make(**settings)


__all__ = [
    "L2",
    "TIES",
    "Tie",
    "TraceNorm",
    "build",
    "matching_weights",
    "matrix_trace_norm",
    "tucker_trace_norm",
]
