"""Softmax gates over experts, and the experts' outputs combined by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError

GateInput = Literal["flat", "pooled"]

_MOMENTUM = 0.1
"""Share of a batch in the running mean of a gate; that of batch norm."""


class Gate(nn.Module):
    """Softmax weights over K experts: g(x) = softmax(W x), or softmax(W x + b) with a bias.

    Source: Ma et al. 2018, equation 7 (no bias).

    Args:
        input_shape: Shape of one row of x.
        num_experts: K, at least 2.
        gate_input: "flat": x is the whole row, as in the paper; "pooled": the mean over all axes but the
            first (the channels).
        bias: Whether there is a b.

    Attributes:
        mean: Running mean of the weights over batches in training mode, [K]; a buffer.

    Example:
        >>> Gate((4,), 3)(torch.zeros(2, 4)).tolist()[0] == [1 / 3] * 3
        False
        >>> Gate((4, 5), 3, gate_input="pooled")(torch.randn(2, 4, 5)).sum(1).allclose(torch.ones(2))
        True
    """

    mean: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        num_experts: int,
        *,
        gate_input: GateInput = "flat",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.gate_input = gate_input
        size = math.prod(input_shape) if gate_input == "flat" else input_shape[0]
        self.linear = nn.Linear(size, num_experts, bias=bias)
        self.register_buffer("mean", torch.full((num_experts,), 1.0 / num_experts))

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, *input_shape] to weights [N, K], each row summing to 1."""
        rows = inputs.flatten(1)
        if self.gate_input == "pooled" and inputs.dim() > 2:
            rows = inputs.flatten(2).mean(2)
        weights: Tensor = self.linear(rows).softmax(dim=1)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(weights.mean(0).to(self.mean.dtype), _MOMENTUM)
        return weights


def combine(weights: Sequence[Tensor], experts: Sequence[Tensor]) -> list[Tensor]:
    """Per receiver, the sum of the experts' outputs by its weights.

    Several receivers are one matrix product over the stacked experts; for a single one stacking costs more
    than it saves (4 times as much on a CPU for two experts of 16,200 values).

    Args:
        weights: R tensors [N, K].
        experts: K tensors of one shape [N, ...].

    Returns:
        R tensors of that shape.

    Example:
        >>> halves, ones = torch.full((1, 2), 0.5), torch.ones(1, 3)
        >>> combine([halves], [ones, 3 * ones])[0].tolist()
        [[2.0, 2.0, 2.0]]
    """
    if len(weights) == 1:
        columns = weights[0].to(experts[0].dtype).reshape(*weights[0].shape, *(1,) * (experts[0].dim() - 1))
        total = experts[0] * columns[:, 0]
        for position, expert in enumerate(experts[1:], start=1):
            total = torch.addcmul(total, expert, columns[:, position])
        return [total]
    stacked = torch.stack([expert.flatten(1) for expert in experts], dim=1)
    mixed = torch.stack(tuple(weights), dim=1).to(stacked.dtype) @ stacked
    return [mixed[:, receiver].reshape_as(experts[0]) for receiver in range(len(weights))]


def check_gate(name: str, gate_input: object, gate_bias: object) -> None:
    if gate_input not in get_args(GateInput):
        raise ConfigError(f"{name}.gate_input: flat or pooled expected, found {gate_input!r}.")
    if not isinstance(gate_bias, bool):
        raise ConfigError(f"{name}.gate_bias: true or false expected, found {gate_bias!r}.")
