"""What several receivers make of several experts: sums of whole rows, weighted row by row.

It is bound by memory traffic. Written as products of autograd, every term of every sum is a pass over memory
forward and two backward, with sums of gradients between them; here one pass over blocks of rows that stay in
the cache makes all sums, and another all gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from taskloom.sharing.memory import (
    all_in_order,
    empty_in_order,
    memory_order,
    pulled_back,
    row_blocks,
    transformed,
    written_out,
)

_LONG_ROW = 1 << 15
"""Values in a row from which on inner products are taken row by row, by the routine for two vectors."""

Choices = tuple[tuple[int, ...], ...]
"""For every receiver, the positions of the experts that it hears."""


def combine(
    weights: Sequence[Tensor], experts: Sequence[Tensor], choices: Sequence[Sequence[int]] | None = None
) -> list[Tensor]:
    """Per receiver, the sum of the outputs of the experts that it hears, by its weights.

    Args:
        weights: R tensors [N, number of experts that the receiver hears].
        experts: K tensors of one shape [N, ...].
        choices: For every receiver the positions of those experts, in the order of its weights; all K where
            None.

    Returns:
        R tensors of that shape.

    Example:
        >>> halves, ones = torch.full((1, 2), 0.5), torch.ones(1, 3)
        >>> combine([halves], [ones, 3 * ones])[0].tolist()
        [[2.0, 2.0, 2.0]]
        >>> combine([halves, torch.ones(1, 1)], [ones, 3 * ones], [(0, 1), (1,)])[1].tolist()
        [[3.0, 3.0, 3.0]]
    """
    heard = tuple(map(tuple, choices or [range(len(experts))] * len(weights)))
    by_row = [weight.to(experts[0].dtype) for weight in weights]
    if written_out() or experts[0].device.type != "cpu":
        return _products(by_row, experts, heard)
    outputs: tuple[Tensor, ...] = _Combine.apply(heard, *by_row, *experts)  # type: ignore[no-untyped-call]
    return list(outputs)


def _products(weights: Sequence[Tensor], experts: Sequence[Tensor], choices: Choices) -> list[Tensor]:
    """The same in products of autograd; one matrix product where all hear all, which keeps a GPU busy."""
    if len(weights) > 1 and set(choices) == {tuple(range(len(experts)))}:
        stacked = torch.stack([expert.flatten(1) for expert in experts], dim=1)
        mixed = torch.stack(tuple(weights), dim=1) @ stacked
        return [mixed[:, receiver].reshape_as(experts[0]) for receiver in range(len(weights))]
    found = []
    for weight, choice in zip(weights, choices, strict=True):
        columns = weight.reshape(*weight.shape, *(1,) * (experts[0].dim() - 1))
        total = experts[choice[0]] * columns[:, 0]
        for position, expert in enumerate(choice[1:], start=1):
            total = torch.addcmul(total, experts[expert], columns[:, position])
        found.append(total)
    return found


class _Combine(torch.autograd.Function):
    """y_r = sum over k of w_rk e_k by blocks of rows; d e_k = sum of w_rk g_r, d w_rk = g_r e_k."""

    @staticmethod
    def forward(ctx: Any, choices: Choices, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.choices = choices
        weights, experts = tensors[: len(choices)], tensors[len(choices) :]
        order = memory_order(experts[0])
        outputs = tuple(empty_in_order(experts[0], order) for _ in choices)
        given = [expert.flatten(1) for expert in all_in_order(experts, order)]
        made = [output.flatten(1) for output in all_in_order(outputs, order)]
        for rows in row_blocks([*given, *made]):
            for output, weight, choice in zip(made, weights, choices, strict=True):
                terms = [(given[expert], weight[:, place]) for place, expert in enumerate(choice)]
                _add_up(output, terms, rows)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        choices: Choices = ctx.choices
        weights, experts = ctx.saved_tensors[: len(choices)], ctx.saved_tensors[len(choices) :]
        if transformed():

            def plain(*tensors: Tensor) -> list[Tensor]:
                return _products(tensors[: len(choices)], tensors[len(choices) :], choices)

            return (None, *pulled_back(plain, ctx.saved_tensors, gradients))
        order = memory_order(experts[0])
        given = {
            receiver: gradient.permute(order).contiguous().flatten(1)
            for receiver, gradient in enumerate(gradients)
            if gradient is not None
        }
        values = [expert.flatten(1) for expert in all_in_order(experts, order)]
        hearers: list[list[tuple[Tensor, Tensor]]] = [
            [
                (given[receiver], weights[receiver][:, choice.index(expert)])
                for receiver, choice in enumerate(choices)
                if receiver in given and expert in choice
            ]
            for expert in range(len(experts))
        ]
        needs = ctx.needs_input_grad[1:]
        of_experts = [
            empty_in_order(expert, order) if heard and needed else None
            for expert, heard, needed in zip(experts, hearers, needs[len(choices) :], strict=True)
        ]
        made = [None if t is None else t.permute(order).flatten(1) for t in of_experts]
        of_weights = [
            torch.empty_like(weight) if receiver in given and needs[receiver] else None
            for receiver, weight in enumerate(weights)
        ]
        for rows in row_blocks([*values, *given.values()]):
            for target, heard in zip(made, hearers, strict=True):
                if target is not None:
                    _add_up(target, heard, rows)
            for receiver, of_weight in enumerate(of_weights):
                if of_weight is not None:
                    for place, expert in enumerate(choices[receiver]):
                        of_weight[rows, place] = _inner(given[receiver][rows], values[expert][rows])
        return (None, *of_weights, *of_experts)


def _add_up(target: Tensor, terms: Sequence[tuple[Tensor, Tensor]], rows: slice) -> None:
    """Writes the sum of values [N, F] times factors [N] into some rows of the target."""
    values, factors = terms[0]
    total = torch.mul(values[rows], factors[rows, None], out=target[rows])
    for values, factors in terms[1:]:
        total.addcmul_(values[rows], factors[rows, None])


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of rows, [n]."""
    if left.shape[1] >= _LONG_ROW:
        return torch.stack([torch.dot(one, other) for one, other in zip(left, right, strict=True)])
    products: Tensor = torch.linalg.vecdot(left, right)
    return products
