"""A stack of tensors read by pieces: products of its unfoldings without laying any of them out as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taskloom.sharing.ties.products import times_transposed

_PIECE = 2**19
"""Numbers of a piece: 2 MiB of float32, so that its copies for each product stay in the processor's cache."""
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

    An unfolding has the axes `axes`, in their order, as its n rows and all other axes as its m columns.

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
        return self._unfold(axes, _Window(range(len(self.copies)), None, 0, 0))

    def gram(self, axes: Axes, dtype: torch.dtype = torch.float64) -> Tensor:
        """Lower triangle of the product of an unfolding with its transpose, [n, n] in float64.

        Args:
            axes: Axes of the rows.
            dtype: What the products of a piece run in; pieces are added up in float64. What is above the
                diagonal is not all there.
        """
        rows = self.size(axes)
        total = torch.zeros(rows, rows, dtype=torch.float64, device=self.device)
        for window in self._windows(axes):
            piece = self._unfold(axes, window).to(dtype)
            for start in range(0, rows, _ROWS):
                block = times_transposed(piece[start : start + _ROWS], piece[start:])
                total[start : start + _ROWS, start:] += block
        return total.T

    def add_product(self, targets: Sequence[Tensor], axes: Axes, factor: Tensor, *, first: bool) -> None:
        """Adds a symmetric matrix times an unfolding, folded back, to tensors shaped like the copies.

        Args:
            targets: T tensors; what they hold is overwritten where `first`.
            axes: Axes of the rows.
            factor: [n, n]; the product runs in its precision.
            first: Whether this is the first product that the targets get.
        """
        for window in self._windows(axes):
            piece = self._unfold(axes, window).to(factor.dtype)
            self.add_folded(targets, axes, times_transposed(factor, piece.T), window, first=first)

    def add_folded(
        self,
        targets: Sequence[Tensor],
        axes: Axes,
        matrix: Tensor,
        window: _Window | None = None,
        *,
        first: bool,
    ) -> None:
        """Adds an unfolding, or the piece of a window, to tensors shaped like the copies."""
        window = window or _Window(range(len(self.copies)), None, 0, 0)
        sizes = [len(window.copies), *self.shape[:-1]]
        if window.axis is not None:
            sizes[window.axis + 1] = window.length
        order = self._order(axes)
        back = [order.index(position) for position in range(len(order))]
        folded = matrix.reshape([sizes[position] for position in order]).permute(back)
        for number, part in zip(window.copies, folded, strict=True):
            target = _span(targets[number], window)
            target.copy_(part) if first else target.add_(part)

    def _windows(self, axes: Axes) -> Iterator[_Window]:
        """Windows that hold every number of the stack once, each a set of whole columns."""
        task = len(self.shape) - 1
        copies = len(self.copies)
        free = [axis for axis in range(task) if axis not in axes]
        # Copies one after the other, unless a column has numbers of all of them.
        groups = [range(copies)] if task in axes else [range(number, number + 1) for number in range(copies)]
        for group in groups:
            if not free or self.device.type != "cpu":  # elsewhere large products are better than pieces
                yield _Window(group, None, 0, 0)
                continue
            axis = max(free, key=lambda axis: self.shape[axis])
            numbers = len(group) * self.copies[0].numel() // max(self.shape[axis], 1)
            pieces = max(1, round(self.shape[axis] * numbers / _PIECE))
            step = max(1, -(-self.shape[axis] // pieces))
            for start in range(0, self.shape[axis], step):
                yield _Window(group, axis, start, min(step, self.shape[axis] - start))

    def _unfold(self, axes: Axes, window: _Window) -> Tensor:
        parts = [_span(self.copies[number], window) for number in window.copies]
        whole = parts[0][None] if len(parts) == 1 else torch.stack(parts)
        # Rows whose distance is a large power of two would hinder each other in the cache.
        return whole.permute(self._order(axes)).reshape(self.size(axes), -1).contiguous()

    def _order(self, axes: Axes) -> list[int]:
        """Positions of the rows' axes and of the others in a tensor that has the copies first."""
        task = len(self.shape) - 1
        return [0 if axis == task else axis + 1 for axis in (*axes, *self.others(axes))]


def _span(tensor: Tensor, window: _Window) -> Tensor:
    return tensor if window.axis is None else tensor.narrow(window.axis, window.start, window.length)
