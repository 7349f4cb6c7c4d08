"""Distances between the copies of a stage: L2 and L1, summed over all pairs of copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from taskloom.sharing.ties.tie import Tie, stacked_rows


class L2(Tie):
    """Squared Frobenius distances between the copies: sum over pairs s < t of ||W_s - W_t||^2.

    For two copies it is the L2 loss of paper 004 (section 3.3, before equation 7), which thesis 000 (section
    3.2.2) names as soft parameter sharing.

    Args:
        weight: Factor.

    Raises:
        ConfigError: A weight below 0.

    Example:
        >>> L2(weight=1.0).measure([torch.zeros(1, 2), torch.ones(1, 2)]).item()
        2.0
    """

    def __init__(self, weight: float = 0.001) -> None:
        super().__init__(weight)

    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        # sum over pairs of |w_s - w_t|^2 = T * sum over t of |w_t - mean|^2, without the T^2 differences.
        rows = stacked_rows(weights)
        return len(rows) * (rows - rows.mean(dim=0)).square().sum()


class L1(Tie):
    """Absolute differences between the copies: sum over pairs s < t of |W_s - W_t|, over all entries.

    Unlike L2 it makes single entries of the copies exactly equal and leaves others apart. Where entries are
    equal the subgradient is 0.

    Args:
        weight: Factor.

    Raises:
        ConfigError: A weight below 0.

    Example:
        >>> L1(weight=1.0).measure([torch.zeros(1, 2), torch.tensor([[1.0, -2.0]])]).item()
        3.0
    """

    def __init__(self, weight: float = 0.001) -> None:
        super().__init__(weight)

    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        value = _PairwiseL1.apply(stacked_rows(weights))  # type: ignore[no-untyped-call]
        assert isinstance(value, Tensor)
        return value


class _PairwiseL1(torch.autograd.Function):
    """Value and subgradient at once: autograd would keep T (T - 1) / 2 differences of the size of a copy."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        value, subgradient = rows.new_zeros(()), torch.zeros_like(rows)
        for first in range(len(rows) - 1):
            for second in range(first + 1, len(rows)):
                difference = rows[first] - rows[second]
                value += difference.abs().sum()
                sign = difference.sign_()
                subgradient[first] += sign
                subgradient[second] -= sign
        ctx.save_for_backward(subgradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (subgradient,) = ctx.saved_tensors
        gradient: Tensor = upstream * subgradient
        return gradient
