"""A stack of tensors read by pieces: products of its unfoldings without laying any of them out as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from taskloom.sharing.memory import empty_in_order, memory_order
from taskloom.sharing.ties.products import symmetric_times, times_transposed

_PIECE = 2**19
"""Numbers of a piece: 2 MiB of float32, so that its copies for each product stay in the processor's cache."""
_VIEWED = 2**22
"""Numbers of a piece that is read as it lies: of the kernels of most networks, all of a copy."""
_ROWS = 128
"""Rows of a Gram matrix that are made at once; what lies above the diagonal is left out by as many."""

Axes = tuple[int, ...]


@dataclass(frozen=True)
class _Window:
    """Some of the copies, and a span of one of their axes (None: all of it)."""

    copies: range
    axis: int | None
    start: int
    length: int


@dataclass(frozen=True)
class Stack:
    """T tensors of one shape as one tensor [*shape, T], of which only pieces are ever made.

    An unfolding has the axes `axes`, in their order, as its n rows and all other axes as its m columns, which
    follow each other as they lie in memory (convolutions of images have their channels last).

    Args:
        copies: The T tensors, detached, float32 or float64.

    Example:
        >>> stack = Stack((torch.ones(2, 3), torch.zeros(2, 3)))
        >>> stack.shape, stack.gram((2,)).tolist()  # along the copies
        ((2, 3, 2), [[6.0, 0.0], [0.0, 0.0]])
    """

    copies: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.copies[0].shape, len(self.copies))

    @property
    def dtype(self) -> torch.dtype:
        return self.copies[0].dtype

    @property
    def device(self) -> torch.device:
        return self.copies[0].device

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """Axes of a copy from the slowest to the fastest in memory."""
        return memory_order(self.copies[0])

    @cached_property
    def _lying(self) -> tuple[Tensor, ...]:
        """The copies with their axes as they lie; windows and pieces are of these."""
        return tuple(copy.permute(self._order) for copy in self.copies)

    def empty(self) -> list[Tensor]:
        """New tensors that lie as the first copy does."""
        return [empty_in_order(copy, self._order) for copy in self.copies]

    def numel(self) -> int:
        return math.prod(self.shape)

    def size(self, axes: Axes) -> int:
        """n, the rows of an unfolding."""
        return math.prod(self.shape[axis] for axis in axes)

    def others(self, axes: Axes) -> Axes:
        """The axes of its columns."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in axes)

    def matrix(self, axes: Axes) -> Tensor:
        """The unfolding [n, m] itself."""
        return self._unfold(self._placed(axes), _Window(range(len(self.copies)), None, 0, 0))

    def gram(self, axes: Axes, dtype: torch.dtype = torch.float64) -> Tensor:
        """Lower triangle of the product of an unfolding with its transpose, [n, n] in float64.

        Args:
            axes: Axes of the rows.
            dtype: What the products of a piece run in; pieces are added up in float64. What is above the
                diagonal is not all there.
        """
        rows = self.size(axes)
        total = torch.zeros(rows, rows, dtype=torch.float64, device=self.device)
        for piece in self._pieces(self._placed(axes), dtype):
            for start in range(0, rows, _ROWS):
                block = times_transposed(piece[start:], piece[start : start + _ROWS])
                total[start:, start : start + _ROWS] += block
        return total

    def add_product(self, targets: Sequence[Tensor], axes: Axes, factor: Tensor, *, first: bool) -> None:
        """Adds a symmetric matrix times an unfolding, folded back, to tensors shaped like the copies.

        Args:
            targets: T tensors; what they hold is overwritten where `first`.
            axes: Axes of the rows.
            factor: [n, n]; the product runs in its precision.
            first: Whether this is the first product that the targets get.
        """
        axes = self._placed(axes)
        lying = [target.permute(self._order) for target in targets]
        sources, places = self._viewed(self._lying, axes), self._viewed(lying, axes)
        if sources and places:
            step = self._columns(sources[0], converted=factor.dtype != self.dtype)
            for source, place in zip(sources, places, strict=True):
                for piece, target in zip(
                    torch.split(source, step, 1), torch.split(place, step, 1), strict=True
                ):
                    product = symmetric_times(factor, piece.to(factor.dtype))
                    target.copy_(product) if first else target.add_(product)
            return
        for window in self._windows(axes):
            piece = self._unfold(axes, window, factor.dtype)
            self._add_folded(lying, axes, symmetric_times(factor, piece), window, first=first)

    def add_unfolding(self, targets: Sequence[Tensor], axes: Axes, matrix: Tensor, *, first: bool) -> None:
        """Adds an unfolding [n, m], folded back, to tensors shaped like the copies; see `add_product`."""
        lying = [target.permute(self._order) for target in targets]
        window = _Window(range(len(self.copies)), None, 0, 0)
        self._add_folded(lying, self._placed(axes), matrix, window, first=first)

    def _add_folded(
        self, lying: Sequence[Tensor], axes: Axes, matrix: Tensor, window: _Window, *, first: bool
    ) -> None:
        sizes = [len(window.copies), *self._lying[0].shape]
        if window.axis is not None:
            sizes[window.axis + 1] = window.length
        order = self._positions(axes)
        folded = matrix.reshape([sizes[position] for position in order]).permute(_inverse(order))
        for number, part in zip(window.copies, folded, strict=True):
            target = _span(lying[number], window)
            target.copy_(part) if first else target.add_(part)

    def _placed(self, axes: Axes) -> Axes:
        """The axes' places in the copies as they lie."""
        task = len(self._order)
        return tuple(task if axis == task else self._order.index(axis) for axis in axes)

    def _pieces(self, axes: Axes, dtype: torch.dtype) -> Iterator[Tensor]:
        """Columns [n, some] of an unfolding, each of them once; `axes` are places, as in all that follows."""
        matrices = self._viewed(self._lying, axes)
        if not matrices:
            yield from (self._unfold(axes, window, dtype) for window in self._windows(axes))
        for matrix in matrices:
            for columns in torch.split(matrix, self._columns(matrix, converted=dtype != self.dtype), 1):
                yield columns.to(dtype).contiguous()

    def _viewed(self, lying: Sequence[Tensor], axes: Axes) -> list[Tensor]:
        """Each copy's columns [n, m / T] as they lie; empty where they do not follow each other in memory.

        They do where the rows' axes are the slowest ones or the fastest ones.
        """
        task, count = len(self._order), len(axes)
        if task in axes or count == task or not all(tensor.is_contiguous() for tensor in lying):
            return []
        rows = math.prod(lying[0].shape[axis] for axis in axes)
        if axes == tuple(range(count)):
            return [tensor.view(rows, -1) for tensor in lying] if lying[0].numel() else []
        if axes == tuple(range(task - count, task)):
            return [tensor.view(-1, rows).T for tensor in lying] if lying[0].numel() else []
        return []

    def _columns(self, matrix: Tensor, *, converted: bool) -> int:
        """Columns of such a matrix that make a piece."""
        if self.device.type != "cpu":
            return matrix.shape[1]
        pieces = max(1, round(matrix.numel() / (_PIECE if converted else _VIEWED)))
        return -(-matrix.shape[1] // pieces)

    def _windows(self, axes: Axes) -> Iterator[_Window]:
        """Windows that hold every number of the stack once, each a set of whole columns."""
        shape, copies = self._lying[0].shape, len(self.copies)
        task = len(shape)
        free = [axis for axis in range(task) if axis not in axes]
        # Copies one after the other, unless a column has numbers of all of them.
        groups = [range(copies)] if task in axes else [range(number, number + 1) for number in range(copies)]
        for group in groups:
            if not free or self.device.type != "cpu":  # elsewhere large products are better than pieces
                yield _Window(group, None, 0, 0)
                continue
            axis = max(free, key=lambda axis: shape[axis])
            numbers = len(group) * self.copies[0].numel() // max(shape[axis], 1)
            pieces = max(1, round(shape[axis] * numbers / _PIECE))
            step = max(1, -(-shape[axis] // pieces))
            for start in range(0, shape[axis], step):
                yield _Window(group, axis, start, min(step, shape[axis] - start))

    def _unfold(self, axes: Axes, window: _Window, dtype: torch.dtype | None = None) -> Tensor:
        """A piece of an unfolding, copied in one pass; in another precision where one is given."""
        parts = [_span(self._lying[number], window) for number in window.copies]
        sizes, order = (len(parts), *parts[0].shape), self._positions(axes)
        # Rows whose distance is a large power of two would hinder each other in the cache.
        unfolded = parts[0].new_empty([sizes[position] for position in order], dtype=dtype)
        for place, part in zip(unfolded.permute(_inverse(order)), parts, strict=True):
            place.copy_(part)
        return unfolded.flatten(len(axes)).flatten(0, len(axes) - 1)

    def _positions(self, axes: Axes) -> list[int]:
        """Positions of the rows' axes and of the others in a tensor that has the copies first."""
        task = len(self.shape) - 1
        return [0 if axis == task else axis + 1 for axis in (*axes, *self.others(axes))]


def _inverse(order: Sequence[int]) -> list[int]:
    return [order.index(position) for position in range(len(order))]


def _span(tensor: Tensor, window: _Window) -> Tensor:
    return tensor if window.axis is None else tensor.narrow(window.axis, window.start, window.length)
