"""Gates over experts: what they have in common, and softmax gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from taskloom.errors import ConfigError
from taskloom.sharing.memory import (
    Order,
    empty_in_order,
    has_hooks,
    in_order,
    memory_order,
    transformed,
    written_out,
)

GateInput = Literal["flat", "pooled"]

_LONG_ROW, _FEW = 1 << 15, 4
"""Values in a row from which on, for so few experts, scaled additions are faster than a matrix product."""
MOMENTUM = 0.1
"""Share of a batch in the running mean of a gate; that of batch norm."""


class ExpertGate(nn.Module):
    """Weights over K experts, row by row.

    Args:
        num_experts: K, at least 2.

    Attributes:
        mean: Running mean of the weights over batches in training mode, [K]; a buffer.
    """

    mean: Tensor

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((num_experts,), 1.0 / num_experts))

    def read(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The weights [N, K], and the inputs to go on with: what they are read for elsewhere."""
        return inputs, self(inputs)

    def note(self, weights: Tensor) -> None:
        """Takes weights [N, K] of a batch into the running mean, in training mode."""
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(weights.mean(0).to(self.mean.dtype), MOMENTUM)


class Gate(ExpertGate):
    """Softmax weights over K experts: g(x) = softmax(W x), or softmax(W x + b) with a bias.

    Source: Ma et al. 2018, equation 7 (no bias).

    Args:
        input_shape: Shape of one row of x.
        num_experts: K, at least 2.
        gate_input: "flat": x is the whole row, as in the paper; "pooled": the mean over all axes but the
            first (the channels).
        bias: Whether there is a b.

    Example:
        >>> Gate((4,), 3)(torch.zeros(2, 4)).tolist()[0] == [1 / 3] * 3
        False
        >>> Gate((4, 5), 3, gate_input="pooled")(torch.randn(2, 4, 5)).sum(1).allclose(torch.ones(2))
        True
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_experts: int,
        *,
        gate_input: GateInput = "flat",
        bias: bool = False,
    ) -> None:
        super().__init__(num_experts)
        self.gate_input = gate_input
        size = math.prod(input_shape) if gate_input == "flat" else input_shape[0]
        self.linear = nn.Linear(size, num_experts, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, *input_shape] to weights [N, K], each row summing to 1."""
        return self._weights(self._scores(inputs))

    def _weights(self, scores: Tensor) -> Tensor:
        """Softmax of scores [N, K]; the running mean learns of it in training."""
        weights = scores.softmax(dim=1)
        self.note(weights)
        return weights

    def read(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of `forward`, and the inputs to go on with: what they are read for elsewhere.

        The gradient that comes back to the inputs from elsewhere then takes the gate's in as it passes by: a
        few scaled additions row by row instead of a product with so few columns and a sum.

        Args:
            inputs: [N, *input_shape].

        Returns:
            The inputs, and the weights [N, K].
        """
        plain = written_out() or inputs.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if plain or not inputs.requires_grad or self.gate_input == "pooled" or has_hooks([self]):
            return inputs, self(inputs)
        passed: Tensor
        scores: Tensor
        passed, scores = _Read.apply(inputs, self.linear.weight)  # type: ignore[no-untyped-call]
        bias = self.linear._parameters["bias"]
        return passed, self._weights(scores if bias is None else scores + bias)

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


class _Read(torch.autograd.Function):
    """x and W x; backward, the gradient of x and W^T times that of W x in one pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        order = memory_order(inputs)
        ordered = _weight_in_order(weight, inputs, order)
        ctx.save_for_backward(inputs, weight, ordered)
        ctx.set_materialize_grads(False)
        rows = in_order(inputs, order).flatten(1)
        # The few rows first: so many columns at once are up to twice as fast.
        return inputs.view_as(inputs), (ordered @ rows.T).T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, passed: Tensor | None, scores: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        inputs, weight, ordered = ctx.saved_tensors
        if scores is None:
            return passed, None
        if transformed():
            folded = (scores @ weight).view(-1, *inputs.shape[1:])
            return folded if passed is None else passed + folded, scores.T @ inputs.flatten(1)
        order = memory_order(inputs)
        rows = in_order(inputs, order).flatten(1)
        of_weight = (scores.T @ rows).view(len(weight), *(inputs.shape[axis] for axis in order[1:]))
        back = [order.index(axis) for axis in range(len(order))]
        of_weight = of_weight.permute(back).reshape(weight.shape)
        total = empty_in_order(inputs, order)
        flat = total.permute(order).flatten(1)
        given = None if passed is None else in_order(passed, order).flatten(1)
        if given is None:
            torch.mm(scores, ordered, out=flat)
        elif rows.shape[1] < _LONG_ROW or len(weight) > _FEW:
            torch.addmm(given, scores, ordered, out=flat)
        else:
            columns = ordered.unbind(0)
            for start, target, factors in zip(given.unbind(0), flat.unbind(0), scores.tolist(), strict=True):
                torch.add(start, columns[0], alpha=factors[0], out=target)
                for column, factor in zip(columns[1:], factors[1:], strict=True):
                    target.add_(column, alpha=factor)
        return total, of_weight


def _weight_in_order(weight: Tensor, inputs: Tensor, order: Order) -> Tensor:
    """The weight [K, F] with the values of a row in the order in which the inputs lie."""
    return in_order(weight.view(-1, *inputs.shape[1:]), order).flatten(1)


def check_gate(name: str, gate_input: object, gate_bias: object) -> None:
    if gate_input not in get_args(GateInput):
        raise ConfigError(f"{name}.gate_input: flat or pooled expected, found {gate_input!r}.")
    if not isinstance(gate_bias, bool):
        raise ConfigError(f"{name}.gate_bias: true or false expected, found {gate_bias!r}.")
