"""Cross-stitch units: after a stage, every task goes on with a linear combination of all copies' outputs.

One unit is one matrix product over the stacked copies. It is bound by memory traffic, not by arithmetic, so
it runs over blocks of rows that stay in the cache and stores nothing but its result: the stack never exists
as a whole, neither forward nor backward. For up to four tasks on a CPU the product within a block is written
out as scaled additions (two thirds of the product's time); from there on the product is the faster one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from taskloom.errors import ConfigError
from taskloom.sharing.memory import (
    Order,
    all_in_order,
    block_rows,
    memory_order,
    row_blocks,
    transformed,
    written_out,
)

Per = Literal["layer", "channel"]
Start = Literal["identity", "uniform", "equal"] | Mapping[str, float]

_MOST_SCALARS = 4
"""Tasks up to which the product within a block is written out on a CPU; see `_few`."""


class MixingUnit(nn.Module, ABC):
    """What stands after a mixed stage: takes the T copies' outputs and gives every task its combination."""

    @property
    def has_own_rows(self) -> bool:
        """Whether each output has parameters of its own, which make no other output.

        In the last unit they are then their task's alone, and an adversarial task's learn to predict it.
        """
        return False

    @abstractmethod
    def matrix(self) -> Tensor:
        """The mixing matrix, [T, T] or [C, T, T]; row = receiving task, column = donor."""

    @abstractmethod
    def forward(self, copies: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Mixes T tensors [N, C, ...] of one shape; returns T tensors of that shape, in the same order."""


class CrossStitch(MixingUnit):
    """Mixes the outputs of the T copies of a stage: x'_i = sum over j of alpha[i, j] x_j.

    Source: Misra et al. 2016, equation 1; thesis 002 section 3.1.4 (per layer), paper 004 equation 3 and
    section 5.2 (per channel).

    Args:
        num_tasks: T, the number of copies.
        per: "layer", one matrix for the whole tensor, or "channel", one for each channel (axis 1).
        num_channels: C; needed where `per` is "channel".
        start: How alpha begins. "identity": no task hears another (thesis 002). {"same": s, "other": o}: s on
            the diagonal and o divided over the T - 1 others (paper 004: 0.9 and 0.1). "equal": 1/T
            everywhere. "uniform": each element drawn from [0, 1] (thesis 000, section 4.1.2).

    Gradients are those of the formula, dL / d alpha[i, j] = sum of dL / dx'_i x_j; thesis 000, section 4.1.2,
    prints those of alpha_AB and alpha_BA the other way round. It also gives units a learning rate a
    magnitude above the usual, but no number for its own networks: `lr_multiplier` of the plan, 1 by default.

    Attributes:
        alpha: [T, T], or [C, T, T] per channel; row = receiving task, column = donor.

    Raises:
        ConfigError: A setting that is not one of these.

    Example:
        >>> unit = CrossStitch(2, start={"same": 0.9, "other": 0.1})
        >>> [x.tolist() for x in unit([torch.ones(1, 2), torch.zeros(1, 2)])]
        [[[0.8999999761581421, 0.8999999761581421]], [[0.10000000149011612, 0.10000000149011612]]]
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        per: Per = "layer",
        num_channels: int | None = None,
        start: Start = "identity",
    ) -> None:
        super().__init__()
        check_per(per)
        check_start(start)
        if num_tasks < 1:
            raise ConfigError(f"cross-stitch: at least 1 task expected, found {num_tasks}.")
        if per == "channel" and (num_channels is None or num_channels < 1):
            raise ConfigError(
                f"cross-stitch per channel needs the number of channels (at least 1), found {num_channels}."
            )
        self.num_tasks, self.per, self.start = num_tasks, per, start
        self.num_channels = num_channels if per == "channel" else None
        shape = (num_tasks, num_tasks) if per == "layer" else (num_channels or 0, num_tasks, num_tasks)
        self.alpha = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets alpha to its start (drawn anew where the start is "uniform")."""
        with torch.no_grad():
            if self.start == "uniform":
                self.alpha.uniform_(0.0, 1.0)
            else:
                self.alpha.copy_(start_matrix(self.num_tasks, self.start))

    def matrix(self) -> Tensor:
        return self.alpha

    @property
    def has_own_rows(self) -> bool:
        return True

    def forward(self, copies: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Mixes T tensors [N, C, ...] of one shape; returns T tensors of that shape, in the same order."""
        shapes = [tuple(copy.shape) for copy in copies]
        if len(copies) != self.num_tasks or any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"{self.num_tasks} tensors of one shape expected, found shapes {shapes}")
        if self.num_channels is not None and (len(shapes[0]) < 2 or shapes[0][1] != self.num_channels):
            raise ValueError(f"{self.num_channels} channels on axis 1 expected, found shape {shapes[0]}")
        return mix(self.alpha, copies)

    def extra_repr(self) -> str:
        channels = "" if self.num_channels is None else f", num_channels={self.num_channels}"
        return f"{self.num_tasks}, per={self.per!r}{channels}, start={self.start!r}"


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
    transposed = alpha[..., used, :].transpose(-1, -2)
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
        total = torch.zeros_like(alpha[..., used, :])
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


def among_all(matrix: Tensor, places: Sequence[int], number: int) -> Tensor:
    """A mixing matrix among that of all tasks, zeros for those that it does not mix.

    Args:
        matrix: [R, R] or [C, R, R].
        places: Places of its R tasks among all.
        number: T.

    Returns:
        [T, T] or [C, T, T].

    Example:
        >>> among_all(torch.ones(1, 1), [1], 2).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    if len(places) == number:
        return matrix
    whole = matrix.new_zeros(*matrix.shape[:-2], number, number)
    whole[..., torch.tensor(places)[:, None], places] = matrix
    return whole


def start_matrix(num_tasks: int, start: Start) -> Tensor:
    """The [T, T] matrix of a start that is not drawn, in float64."""
    if start == "identity":
        return torch.eye(num_tasks, dtype=torch.float64)
    if start == "equal":
        return torch.full((num_tasks, num_tasks), 1.0 / num_tasks, dtype=torch.float64)
    assert isinstance(start, Mapping)
    other = float(start["other"]) / max(1, num_tasks - 1)
    matrix = torch.full((num_tasks, num_tasks), other, dtype=torch.float64)
    return matrix.fill_diagonal_(float(start["same"]))


def check_per(per: object) -> None:
    """Raises ConfigError where `per` is not "layer" or "channel"."""
    if per not in ("layer", "channel"):
        raise ConfigError(f"cross-stitch: per must be layer or channel, found {per!r}.")


def check_start(start: object) -> None:
    """Raises ConfigError where `start` is no start of a cross-stitch unit."""
    if isinstance(start, Mapping):
        numbers = all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
            for v in start.values()
        )
        if set(start) == {"same", "other"} and numbers:
            return
    elif start in ("identity", "uniform", "equal"):
        return
    raise ConfigError(
        "cross-stitch: start must be identity, equal, uniform or {same: a number, other: a number}, "
        f"found {start!r}."
    )
