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
    block_rows,
    empty_in_order,
    memory_order,
    pulled_back,
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
        made = [output.permute(order).flatten(1) for output in outputs]
        step = block_rows([*given, *made])
        values, targets = _by_block(given, step), _by_block(made, step)
        factors = [_factors(weight, step) for weight in weights]
        for block in range(len(values[0])):
            for target, factor, choice in zip(targets, factors, choices, strict=True):
                terms = [(values[expert][block], factor[block][place]) for place, expert in enumerate(choice)]
                _add_up(target[block], terms)
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
        flat = [expert.flatten(1) for expert in all_in_order(experts, order)]
        step = block_rows([*flat, *given.values()])
        values = _by_block(flat, step)
        upstream = dict(zip(given, _by_block(list(given.values()), step), strict=True))
        factors = [_factors(weight, step) for weight in weights]
        hearers = [
            [
                (receiver, choice.index(expert))
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
        targets = [
            None if t is None else _by_block([t.permute(order).flatten(1)], step)[0] for t in of_experts
        ]
        wanted = [receiver for receiver in given if needs[receiver]]
        terms = [(receiver, expert) for receiver in wanted for expert in choices[receiver]]
        products: list[list[Tensor]] = [[] for _ in terms]
        for block in range(len(values[0])):
            for target, heard in zip(targets, hearers, strict=True):
                if target is not None:
                    pairs = [(upstream[r][block], factors[r][block][place]) for r, place in heard]
                    _add_up(target[block], pairs)
            for products_of_term, (receiver, expert) in zip(products, terms, strict=True):
                products_of_term += _inner(upstream[receiver][block], values[expert][block])
        columns = iter(products)
        of_weights = [
            torch.stack([_joined(next(columns)) for _ in choice], dim=1) if receiver in wanted else None
            for receiver, choice in enumerate(choices)
        ]
        return (None, *of_weights, *of_experts)


def _by_block(tensors: Sequence[Tensor], step: int) -> list[Sequence[Tensor]]:
    """Blocks [n, F] of each, of so many rows; of one row [F], which takes fewest views."""
    return [tensor.unbind(0) if step == 1 else torch.split(tensor, step) for tensor in tensors]


def _factors(weight: Tensor, step: int) -> list[list[Any]]:
    """By block and column of [N, K], what blocks are multiplied by: columns [n, 1], of one row numbers."""
    if step == 1:
        rows: list[list[float]] = weight.tolist()
        return rows
    return [list(torch.split(block, 1, dim=1)) for block in torch.split(weight, step)]


def _add_up(target: Tensor, terms: Sequence[tuple[Tensor, Any]]) -> None:
    """Writes the sum of values times factors into a block."""
    values, factor = terms[0]
    torch.mul(values, factor, out=target)
    for values, factor in terms[1:]:
        if isinstance(factor, float):
            target.add_(values, alpha=factor)
        else:
            target.addcmul_(values, factor)


def _inner(left: Tensor, right: Tensor) -> list[Tensor]:
    """Inner products of the rows of a block, each for itself or all in one tensor [n]."""
    if left.dim() == 1:
        return [torch.dot(left, right)]
    if left.shape[1] >= _LONG_ROW:
        return [torch.dot(one, other) for one, other in zip(left, right, strict=True)]
    return [torch.linalg.vecdot(left, right)]


def _joined(products: Sequence[Tensor]) -> Tensor:
    """[N] of numbers or of blocks [n]."""
    return torch.cat(list(products)) if products[0].dim() else torch.stack(list(products))
