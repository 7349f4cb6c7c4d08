"""The Tucker trace norm (thesis 002, equation 3.3) and its subgradient, through Gram matrices.

The trace norm (nuclear norm) of a matrix W with singular values s and vectors U, V is ||W||_* = sum(s). Its
subgradient of least norm is U V^T, over the singular values that are not 0. With the eigenvalues and vectors
of the smaller Gram matrix, W W^T = E diag(s^2) E^T,

    ||W||_* = sum(s),    U V^T = E diag(1 / s) E^T W,

so that an [n, m] unfolding, n <= m, costs two matrix products and an n x n symmetric eigenproblem instead of
a singular value decomposition.

Precision. A Gram matrix squares the condition number: in the data's own precision singular values below
sqrt(eps) s_max are noise. Therefore:

- float32 (and lower, which is computed as float32) is squared in float64, where products of float32 numbers
  are exact; what is left is the error of the sum, about eps64 (n + sqrt(m)) s_max^2;
- float64 whose smallest eigenvalue is below 1e-8 of the largest goes through the triangular factor instead
  (QR, then the SVD of the n x n factor), which squares nothing;
- a singular value counts as 0 where s <= s_max max(4 sqrt(n) eps, sqrt(eps64 (n + sqrt(m)))), eps that of the
  data: the rounding of the data, or of the sum. Copies that are identical lack a dimension; they get the
  finite subgradient of least norm;
- the product with W runs in the data's precision where the kept singular values lie within a factor of 100,
  whose error is then about 100 eps, else in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from taskloom.errors import ConfigError
from taskloom.sharing.ties.tie import Tie

_EPS64 = torch.finfo(torch.float64).eps
_LEAST_EIGENVALUE = 1e-8
"""Smallest over largest eigenvalue of a float64 Gram matrix that still serves: 8 of 16 digits are left."""
_WELL_CONDITIONED = 1e-2
"""Smallest over largest singular value from which on the data's own precision serves for the product."""


class TraceNorm(Tie):
    """Tucker trace norm of the stacked copies of each weight: weight * sum over modes i of ||W_(i)||_*.

    It is low where the copies, as one tensor, have low rank along every axis: tasks then use few common
    directions. Source: Yang and Hospedales, "Trace Norm Regularised Deep Multi-Task Learning" (2016), as used
    in thesis 002, equations 3.3 and 3.4; `weight` is its gamma and omega in one.

    Args:
        weight: Factor; the papers' start is 0.001.

    Example:
        >>> copies = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
        >>> TraceNorm(weight=0.001).penalty(copies).backward()
        >>> copies[0].weight.grad.shape, copies[0].bias.grad
        (torch.Size([2, 3]), None)
    """

    def __init__(self, weight: float = 0.001) -> None:
        super().__init__(weight)

    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        # The norm sums over all axes alike: tasks may be the first axis (one plain copy) instead of the last.
        return tucker_trace_norm(torch.stack(list(weights)))


def tucker_trace_norm(stack: Tensor) -> Tensor:
    """Sum of the trace norms of all unfoldings of a tensor (thesis 002, equation 3.3 with gamma = 1).

    Args:
        stack: Tensor with at least two axes, one of them the task: [D_1, ..., D_m].

    Returns:
        Scalar; differentiable once, with the subgradient of least norm. 0 with subgradient 0 for a tensor of
        zeros, NaN where the tensor is not finite. In float32 for float32 and lower, in float64 for float64.

    Raises:
        ConfigError: Fewer than two axes, or not a real floating-point tensor.

    Example:
        >>> tucker_trace_norm(torch.eye(2)).item()  # two unfoldings with the singular values 1, 1
        4.0
    """
    return _apply(stack, tuple(range(stack.dim())))


def matrix_trace_norm(matrix: Tensor) -> Tensor:
    """Trace norm (nuclear norm) of a matrix: the sum of its singular values.

    Args:
        matrix: [n, m].

    Returns:
        Scalar; see `tucker_trace_norm`.

    Raises:
        ConfigError: Not a matrix, or not of real floating-point numbers.

    Example:
        >>> matrix_trace_norm(torch.diag(torch.tensor([3.0, -1.0]))).item()
        4.0
    """
    if matrix.dim() != 2:
        raise ConfigError(f"The trace norm is of a matrix; got a tensor of shape {tuple(matrix.shape)}.")
    return _apply(matrix, (0,))


def _apply(stack: Tensor, modes: tuple[int, ...]) -> Tensor:
    if stack.dim() < 2 or not stack.is_floating_point():
        raise ConfigError(
            "A trace norm needs a real floating-point tensor with at least two axes; got shape "
            f"{tuple(stack.shape)} of {stack.dtype}."
        )
    if stack.dtype not in (torch.float32, torch.float64):
        stack = stack.float()
    if torch.is_grad_enabled() and stack.requires_grad:
        value = _TraceNormSum.apply(stack, modes)  # type: ignore[no-untyped-call]
        assert isinstance(value, Tensor)
        return value
    return _sum_over_modes(stack, modes, subgradient=False)[0]


class _TraceNormSum(torch.autograd.Function):
    """Value and subgradient at once; the subgradient is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, stack: Tensor, modes: tuple[int, ...]) -> Tensor:
        value, subgradient = _sum_over_modes(stack, modes, subgradient=True)
        ctx.save_for_backward(subgradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (subgradient,) = ctx.saved_tensors
        return upstream * subgradient, None


def _sum_over_modes(
    stack: Tensor, modes: tuple[int, ...], *, subgradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum of the trace norms of the unfoldings along `modes`, and its subgradient where asked."""
    data, scale = stack.detach(), 1.0
    if data.dtype == torch.float64 and data.numel() > 0:
        # Squares of very large or very small numbers would leave the range; those of float32 do not.
        largest = float(data.abs().amax())
        if math.isfinite(largest) and largest > 0.0:
            data, scale = data / largest, largest
    value = 0.0
    total: Tensor | None = None
    with torch.autocast(data.device.type, enabled=False):
        for mode in modes:
            moved = data.movedim(mode, 0)
            norm, gradient = _trace_norm(moved.flatten(1), subgradient=subgradient)
            value += norm
            if gradient is not None:
                folded = gradient.reshape(moved.shape).movedim(0, mode)
                total = folded if total is None else total.add_(folded)
    return stack.new_tensor(value * scale), total


def _trace_norm(matrix: Tensor, *, subgradient: bool) -> tuple[float, Tensor | None]:
    """Trace norm and, where asked, subgradient of a float32 or float64 matrix."""
    rows, columns = matrix.shape
    if rows > columns:
        norm, gradient = _trace_norm(matrix.T, subgradient=subgradient)
        return norm, None if gradient is None else gradient.T
    wide = matrix.to(torch.float64)
    gram = wide @ wide.T
    squares = float(gram.trace())
    if squares == 0.0 or not math.isfinite(squares):
        # Zeros have norm 0. What is not finite has no norm: NaN, for the training loop to find.
        value = squares - squares
        return value, torch.full_like(matrix, value) if subgradient else None
    eigenvalues, vectors = torch.linalg.eigh(gram)
    if matrix.dtype == torch.float64 and eigenvalues[0] < _LEAST_EIGENVALUE * eigenvalues[-1]:
        return _trace_norm_by_triangle(matrix, subgradient=subgradient)
    rounding = 16.0 * rows * torch.finfo(matrix.dtype).eps ** 2
    tolerance = max(rounding, _EPS64 * (rows + math.sqrt(columns)))
    kept = eigenvalues > tolerance * eigenvalues[-1]
    singular_values, vectors = eigenvalues[kept].sqrt(), vectors[:, kept]
    norm = float(singular_values.sum())
    if not subgradient:
        return norm, None
    factor = (vectors / singular_values) @ vectors.T
    if singular_values[0] >= _WELL_CONDITIONED * singular_values[-1]:
        return norm, factor.to(matrix.dtype) @ matrix
    return norm, (factor @ wide).to(matrix.dtype)


def _trace_norm_by_triangle(matrix: Tensor, *, subgradient: bool) -> tuple[float, Tensor | None]:
    """The same for a float64 matrix [n, m], n <= m, that is too ill-conditioned to be squared."""
    rows, columns = matrix.shape
    basis, triangle = torch.linalg.qr(matrix.T)
    left, singular_values, right = torch.linalg.svd(triangle)
    kept = singular_values > _EPS64 * (4.0 * math.sqrt(rows) + math.sqrt(columns)) * singular_values[0]
    norm = float(singular_values[kept].sum())
    if not subgradient:
        return norm, None
    return norm, (basis @ (left[:, kept] @ right[kept])).T
