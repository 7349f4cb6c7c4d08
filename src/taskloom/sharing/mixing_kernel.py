"""The product behind mixing units: T tensors combined by a matrix, with a backward of its own.

It is bound by memory traffic, not by arithmetic, so it runs over blocks of rows that stay in the cache and
stores nothing but its result: the stack never exists as a whole, neither forward nor backward. For up to four
tasks on a CPU the product within a block is written out as scaled additions (two thirds of the product's
time); from there on the product is the faster one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from taskloom.sharing.memory import (
    Order,
    all_in_order,
    block_rows,
    memory_order,
    row_blocks,
    transformed,
    written_out,
)

_MOST_SCALARS = 4
"""Tasks up to which the product within a block is written out on a CPU; see `_few`."""


def mix(alpha: Tensor, copies: Sequence[Tensor], subspaces: int = 1) -> tuple[Tensor, ...]:
    """x'_i = sum over j of alpha[i, j] x_j, for all i.

    Args:
        alpha: [T, T], or [C, T, T] with one matrix per channel; computed in the copies' precision.
        copies: T tensors [N, C, ...] of one shape and dtype.
        subspaces: G > 1: every copy's channels are G parts of equal size, one after the other, and alpha is
            [T G, T G] over all parts, those of the first copy first.

    Returns:
        T new tensors of that shape and dtype.

    Example:
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> mix(swap, [torch.tensor([[1.0]]), torch.tensor([[2.0]])])[0].item()
        2.0
        >>> mix(swap, [torch.tensor([[1.0, 2.0]])], subspaces=2)[0].tolist()
        [[2.0, 1.0]]
    """
    # Compilers and exporters do better with plain operations than with a loop over blocks; vmap needs them.
    if written_out():
        stacked = torch.stack(_parts(copies, subspaces))
        return _joined(_combine(alpha, stacked).unbind(0), subspaces)
    outputs: tuple[Tensor, ...] = _Mix.apply(alpha, subspaces, *copies)  # type: ignore[no-untyped-call]
    return outputs


class _Mix(torch.autograd.Function):
    """`mix` by blocks of rows, and its gradients: d alpha = sum of g x^T, d x = alpha^T g (004, eq. 4)."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, subspaces: int, *copies: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(alpha, *copies)
        ctx.set_materialize_grads(False)
        ctx.subspaces = subspaces
        order = _order(alpha, copies, subspaces)
        # Where a task hears itself alone, the next stage gets what it would get without a unit, strides too.
        outputs = tuple(torch.empty_like(copies[0]) for _ in copies)
        inside, outside = all_in_order(copies, order), [output.permute(order) for output in outputs]
        with torch.autocast(alpha.device.type, enabled=False):
            _combine_blocks(alpha, _parts(inside, subspaces), _parts(outside, subspaces))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        alpha, *copies = ctx.saved_tensors
        used = [
            task * ctx.subspaces + part
            for task, gradient in enumerate(gradients)
            if gradient is not None
            for part in range(ctx.subspaces)
        ]
        given = [gradient for gradient in gradients if gradient is not None]
        if not given:
            return (None,) * (2 + len(copies))
        needs = (ctx.needs_input_grad[0], any(ctx.needs_input_grad[2:]))
        with torch.autocast(alpha.device.type, enabled=False):
            of_alpha, *of_copies = _gradients(alpha, copies, given, used, needs, ctx.subspaces)
        return (of_alpha, None, *of_copies)


def _gradients(
    alpha: Tensor,
    copies: Sequence[Tensor],
    gradients: Sequence[Tensor],
    used: list[int],
    needs: tuple[bool, bool],
    subspaces: int,
) -> tuple[Tensor | None, ...]:
    """Gradients of alpha and of each copy, from the gradients of those outputs that are used."""
    # A list of rows would be sent to a GPU in every step; mostly all of them are used.
    heard = alpha if len(used) == alpha.shape[-2] else alpha[..., used, :]
    transposed = heard.transpose(-1, -2)
    if transformed():  # no writing into prepared memory there
        given, taken = _parts(gradients, subspaces), _parts(copies, subspaces)
        stacked = torch.stack(given)
        return (
            _spread(_products(stacked, torch.stack(taken), alpha), used, alpha),
            *_joined(_combine(transposed, stacked).unbind(0), subspaces),
        )
    order = _order(alpha, copies, subspaces)
    given = _parts(all_in_order(gradients, order), subspaces)
    taken = _parts(all_in_order(copies, order), subspaces)
    of_copies = [torch.empty_like(copies[0]) for _ in copies] if needs[1] else []
    if all(needs) and _few(alpha, taken[0]):
        targets = _parts([t.permute(order) for t in of_copies], subspaces)
        return (_spread(_both_by_blocks(transposed, given, taken, targets), used, alpha), *of_copies)
    if needs[1]:
        _combine_blocks(transposed, given, _parts([t.permute(order) for t in of_copies], subspaces))
    of_alpha = None
    if needs[0]:
        total = torch.zeros_like(heard)
        for rows in row_blocks(taken):
            left, right = [gradient[rows] for gradient in given], [part[rows] for part in taken]
            if _few(alpha, taken[0]):
                total += _dot_products(left, right)
            else:
                total += _products(torch.stack(left), torch.stack(right), alpha)
        of_alpha = _spread(total, used, alpha)
    return (of_alpha, *(of_copies if needs[1] else (None,) * len(copies)))


def _order(alpha: Tensor, copies: Sequence[Tensor], subspaces: int) -> Order:
    """The order of axes to work in: that of memory, unless channels have to be told apart."""
    plain = alpha.dim() > 2 or subspaces > 1
    return tuple(range(copies[0].dim())) if plain else memory_order(copies[0])


def _parts(tensors: Sequence[Tensor], subspaces: int) -> list[Tensor]:
    """Views of the channels' parts, [N, C / G, ...] each; the tensors themselves where there is one part."""
    if subspaces == 1:
        return list(tensors)
    return [part for tensor in tensors for part in tensor.chunk(subspaces, dim=1)]


def _joined(parts: Sequence[Tensor], subspaces: int) -> tuple[Tensor, ...]:
    """What `_parts` took apart."""
    if subspaces == 1:
        return tuple(parts)
    starts = range(0, len(parts), subspaces)
    return tuple(torch.cat(tuple(parts[start : start + subspaces]), dim=1) for start in starts)


def _combine_blocks(matrix: Tensor, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Writes matrix times inputs into outputs, block by block of rows."""
    factors = matrix.tolist() if _few(matrix, inputs[0]) else None
    for rows in row_blocks(inputs):
        parts = [tensor[rows] for tensor in inputs]
        if factors is None:
            for output, block in zip(outputs, _combine(matrix, torch.stack(parts)), strict=True):
                output[rows] = block
            continue
        for output, line in zip(outputs, factors, strict=True):
            _add_up(output[rows], parts, line)


def _both_by_blocks(
    matrix: Tensor, gradients: Sequence[Tensor], inputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> Tensor:
    """Writes matrix times gradients into targets; returns the inner products of gradients and inputs, [R, D].

    One walk over the gradients for both: a block of them is still in the cache for the products.
    """
    step = block_rows([*gradients, *inputs])
    factors = matrix.tolist()
    given, taken, made = ([torch.split(t, step) for t in each] for each in (gradients, inputs, targets))
    products: list[Tensor] = []
    for block in range(len(given[0])):
        parts = [gradient[block] for gradient in given]
        for target, line in zip(made, factors, strict=True):
            _add_up(target[block], parts, line)
        flat = [part.reshape(-1) for part in parts]
        for read in taken:
            other = read[block].reshape(-1)
            products += [torch.dot(part, other) for part in flat]
    return torch.stack(products).view(-1, len(taken), len(given)).sum(0).T


def _add_up(target: Tensor, parts: Sequence[Tensor], factors: Sequence[float]) -> None:
    """Writes the sum of parts times factors."""
    torch.mul(parts[0], factors[0], out=target)
    for part, factor in zip(parts[1:], factors[1:], strict=True):
        target.add_(part, alpha=factor)


def _few(matrix: Tensor, tensor: Tensor) -> bool:
    """Whether rows of scalars beat a matrix product.

    On a CPU a product of a small matrix with a long one runs at a third of the memory's speed, while scaled
    additions within a block that stays in the cache run at all of it (benchmarks/sharing.py). On a GPU the
    scalars would have to be waited for.
    """
    plain = tensor.dtype in (torch.float32, torch.float64) and matrix.dtype == tensor.dtype
    return tensor.device.type == "cpu" and plain and matrix.dim() == 2 and max(matrix.shape) <= _MOST_SCALARS


def _dot_products(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Inner products of all pairs, [R, D]."""
    flat = [tensor.reshape(-1) for tensor in right]
    return torch.stack([torch.stack([torch.dot(one.reshape(-1), other) for other in flat]) for one in left])


def _combine(matrix: Tensor, stacked: Tensor) -> Tensor:
    """[R, D] or [C, R, D] times [D, N, C, ...] over D: [R, N, C, ...]."""
    matrix = matrix.to(stacked.dtype)
    if matrix.dim() == 2:
        combined = matrix @ stacked.flatten(1)
    else:
        combined = torch.einsum("crd,dncp->rncp", matrix, _positions_last(stacked))
    return combined.reshape(-1, *stacked.shape[1:])


def _products(left: Tensor, right: Tensor, alpha: Tensor) -> Tensor:
    """Inner products of all pairs of stacked tensors, per channel where alpha is; in alpha's precision."""
    left, right = left.to(alpha.dtype), right.to(alpha.dtype)
    if alpha.dim() == 2:
        return left.flatten(1) @ right.flatten(1).T
    return torch.einsum("rncp,dncp->crd", _positions_last(left), _positions_last(right))


def _positions_last(stacked: Tensor) -> Tensor:
    """[T, N, C, ...] to [T, N, C, P], P = 1 where there is no further axis."""
    return stacked.reshape(*stacked.shape[:3], -1)


def _spread(rows: Tensor, used: list[int], alpha: Tensor) -> Tensor:
    """Puts gradients of the used rows of alpha among zeros for the others."""
    if len(used) == alpha.shape[-1]:
        return rows
    index = torch.tensor(used, device=alpha.device)
    return torch.zeros_like(alpha).index_add(-2, index, rows)
