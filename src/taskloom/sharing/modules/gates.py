"""Softmax gates over experts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing.memory import in_order, memory_order, written_out

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
        weights = self._scores(inputs).softmax(dim=1)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(weights.mean(0).to(self.mean.dtype), _MOMENTUM)
        return weights

    def _scores(self, inputs: Tensor) -> Tensor:
        """[N, *input_shape] to [N, K]."""
        if self.gate_input == "pooled" and inputs.dim() > 2:
            inputs = inputs.flatten(2).mean(2)
        order = tuple(range(inputs.dim())) if written_out() else memory_order(inputs)
        if order == tuple(range(inputs.dim())):
            scores: Tensor = self.linear(inputs.flatten(1))
            return scores
        # Rather the few rows of the weight than those of the batch are put into the other's order.
        weight = in_order(self.linear.weight.view(-1, *inputs.shape[1:]), order).flatten(1)
        bias = self.linear._parameters["bias"]
        return functional.linear(in_order(inputs, order).flatten(1), weight, bias)


def check_gate(name: str, gate_input: object, gate_bias: object) -> None:
    if gate_input not in get_args(GateInput):
        raise ConfigError(f"{name}.gate_input: flat or pooled expected, found {gate_input!r}.")
    if not isinstance(gate_bias, bool):
        raise ConfigError(f"{name}.gate_bias: true or false expected, found {gate_bias!r}.")
