"""Trace norms of tensors (thesis 002, equation 3.3) and their subgradients, through Gram matrices.

A tensor [D_1, ..., D_m], the last axis being the task, has the trace norm of its unfoldings (Yang and
Hospedales, 2016):

- Tucker: the sum over i = 1..m of the norm of [D_i, all other axes];
- TT (tensor train): the sum over the cuts k = 1..m-1 of the norm of [D_1 ... D_k, D_(k+1) ... D_m];
- LAF (last axis flattening): the norm of [D_1 ... D_(m-1), D_m] alone.

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

The last axes of a stack of kernels (kernel height and width, tasks) are small. Their Gram matrices are
partial traces of the one of these axes together, and their products with W are one product with a sum of
Kronecker products: the tensor is read once for all of them instead of once for each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from taskloom.errors import ConfigError
from taskloom.sharing.ties.tie import Tie

Unfolding = Literal["tucker", "tt", "laf"]
"""Which unfoldings of the stacked copies have their trace norms summed."""

_EPS64 = torch.finfo(torch.float64).eps
_LEAST_EIGENVALUE = 1e-8
"""Smallest over largest eigenvalue of a float64 Gram matrix that still serves: 8 of 16 digits are left."""
_WELL_CONDITIONED = 1e-2
"""Smallest over largest singular value from which on the data's own precision serves for the product."""
_SMALL_GROUP = 64
"""Largest product of the last axes that are taken together."""


class TraceNorm(Tie):
    """Trace norm of the stacked copies of each weight: weight * sum over the unfoldings of ||W_(i)||_*.

    It is low where the copies, as one tensor, have low rank: tasks then use few common directions. Source:
    Yang and Hospedales, "Trace Norm Regularised Deep Multi-Task Learning" (2016), as used in thesis 002,
    equations 3.3 and 3.4; `weight` is its gamma and omega in one.

    TT depends on the order of the axes. Weights are taken in the order of the source, kernel, inputs,
    outputs, task: [out, in, *kernel] of the T copies becomes [*kernel, in, out, T].

    Args:
        weight: Factor; the papers' start is 0.001.
        unfolding: "tucker" (every axis), "tt" (every cut of the tensor train) or "laf" (the task axis alone,
            by far the cheapest).

    Raises:
        ConfigError: An unknown unfolding, or a weight below 0.

    Example:
        >>> copies = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
        >>> TraceNorm(weight=0.001).penalty(copies).backward()
        >>> copies[0].weight.grad.shape, copies[0].bias.grad
        (torch.Size([2, 3]), None)
        >>> TraceNorm(weight=1.0, unfolding="laf").measure([torch.eye(2), torch.eye(2)]).item()  # rank one
        2.0
    """

    def __init__(self, weight: float = 0.001, unfolding: Unfolding = "tucker") -> None:
        super().__init__(weight)
        if unfolding not in get_args(Unfolding):
            raise ConfigError(f"trace_norm.unfolding: tucker, tt or laf expected, found {unfolding!r}.")
        self.unfolding: Unfolding = unfolding

    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        if self.unfolding == "tucker":
            return tucker_trace_norm(torch.stack(list(weights), dim=-1))
        if self.unfolding == "tt":
            order = (*range(2, weights[0].dim()), 1, 0)
            return tensor_train_trace_norm(torch.stack([weight.permute(order) for weight in weights], dim=-1))
        # The transpose has the same singular values, and its rows are the copies as they lie.
        return matrix_trace_norm(torch.stack([weight.flatten() for weight in weights]))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, unfolding={self.unfolding}"


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


def tensor_train_trace_norm(stack: Tensor) -> Tensor:
    """Sum of the trace norms of the cuts of a tensor into first and last axes (TT; Yang, Hospedales 2016).

    Args:
        stack: Tensor [D_1, ..., D_m], m >= 2; cut k has the unfolding [D_1 ... D_k, D_(k+1) ... D_m].

    Returns:
        Scalar; see `tucker_trace_norm`.

    Raises:
        ConfigError: Fewer than two axes, or not a real floating-point tensor.

    Example:
        >>> tensor_train_trace_norm(torch.eye(2)).item()  # a matrix has one cut
        2.0
    """
    _check(stack)
    # An axis of size 1 makes two cuts one and the same matrix.
    cuts = Counter(math.prod(stack.shape[:cut]) for cut in range(1, stack.dim()))
    norms = [
        times * matrix_trace_norm(stack.reshape(rows, stack.numel() // max(rows, 1)))
        for rows, times in cuts.items()
    ]
    return torch.stack(norms).sum()


def last_axis_trace_norm(stack: Tensor) -> Tensor:
    """Trace norm of a tensor flattened to [all other axes, last axis] (LAF; Yang and Hospedales, 2016).

    Args:
        stack: Tensor [D_1, ..., D_m] with m >= 2 axes, the last one being the task.

    Returns:
        Scalar; see `tucker_trace_norm`.

    Raises:
        ConfigError: Fewer than two axes, or not a real floating-point tensor.

    Example:
        >>> round(last_axis_trace_norm(torch.ones(2, 2, 3)).item(), 4)  # rank one: sqrt(12)
        3.4641
    """
    _check(stack)
    return matrix_trace_norm(stack.flatten(0, -2))


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


def _check(stack: Tensor) -> None:
    if stack.dim() < 2 or not stack.is_floating_point():
        raise ConfigError(
            "A trace norm needs a real floating-point tensor with at least two axes; got shape "
            f"{tuple(stack.shape)} of {stack.dtype}."
        )


def _apply(stack: Tensor, modes: tuple[int, ...]) -> Tensor:
    _check(stack)
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
    together = _small_last_axes(data) if len(modes) > 1 else 0
    with torch.autocast(data.device.type, enabled=False):
        for mode in modes[: len(modes) - together]:
            moved = data.movedim(mode, 0)
            norm, gradient = _trace_norm(moved.flatten(1), subgradient=subgradient)
            value += norm
            if gradient is not None:
                folded = gradient.reshape(moved.shape).movedim(0, mode)
                total = folded if total is None else total.add_(folded)
        if together > 0:
            norm, gradient = _trace_norms_together(data, together, subgradient=subgradient)
            value += norm
            if gradient is not None:
                total = gradient if total is None else total.add_(gradient)
    return stack.new_tensor(value * scale), total


def _small_last_axes(data: Tensor) -> int:
    """How many of the last axes are taken together: small ones, of float32, whose unfoldings are all wide."""
    count, size = 0, 1
    while data.dtype == torch.float32 and count < data.dim() - 1:
        axis = data.shape[-1 - count]
        if size * axis > _SMALL_GROUP or axis * axis > data.numel():
            break
        count, size = count + 1, size * axis
    return count


def _trace_norms_together(data: Tensor, count: int, *, subgradient: bool) -> tuple[float, Tensor | None]:
    """Sum of the trace norms along the last `count` axes of a float32 tensor, and its subgradient."""
    sizes = data.shape[-count:]
    matrix = data.reshape(-1, math.prod(sizes))
    wide = matrix.to(torch.float64)
    joint = wide.T @ wide
    value = 0.0
    product, exact = torch.zeros_like(joint), False
    for position, size in enumerate(sizes):
        before, after = math.prod(sizes[:position]), math.prod(sizes[position + 1 :])
        axes = joint.view(before, size, after, before, size, after)
        gram = torch.einsum("aibajb->ij", axes)
        solved = _solve(gram, data.numel() // size, data.dtype)
        if solved is None:
            value = float(gram.trace()) * 0.0
            return value, torch.full_like(data, value) if subgradient else None
        value += float(solved.singular_values.sum())
        exact = exact or not solved.well_conditioned
        identity = torch.eye(before, dtype=gram.dtype, device=gram.device)
        others = torch.eye(after, dtype=gram.dtype, device=gram.device)
        product += torch.kron(torch.kron(identity, solved.factor()), others)
    if not subgradient:
        return value, None
    gradient = (wide @ product).to(data.dtype) if exact else matrix @ product.to(data.dtype)
    return value, gradient.view(data.shape)


@dataclass(frozen=True)
class _Solved:
    """What a Gram matrix tells of an unfolding: singular values above 0, ascending, and their vectors."""

    singular_values: Tensor
    vectors: Tensor

    @property
    def well_conditioned(self) -> bool:
        return bool(self.singular_values[0] >= _WELL_CONDITIONED * self.singular_values[-1])

    def factor(self) -> Tensor:
        """[n, n] matrix whose product with the unfolding is the subgradient."""
        return (self.vectors / self.singular_values) @ self.vectors.T


def _lower_gram(wide: Tensor) -> Tensor:
    """Lower triangle of W W^T, [n, n], in four column blocks, which leave out 6 of 16 parts of the work."""
    rows = len(wide)
    block = max(32, -(-rows // 4))
    gram = wide.new_zeros(rows, rows)
    for start in range(0, rows, block):
        torch.mm(wide[start:], wide[start : start + block].T, out=gram[start:, start : start + block])
    return gram


def _solve(gram: Tensor, columns: int, dtype: torch.dtype) -> _Solved | None:
    """Singular values and vectors from the float64 Gram matrix [n, n] of data of `dtype` with m = `columns`.

    Only the lower triangle is read. None where the data are all 0 or not finite.
    """
    squares = float(gram.trace())
    if squares == 0.0 or not math.isfinite(squares):
        return None
    eigenvalues, vectors = torch.linalg.eigh(gram)
    rounding = 16.0 * len(gram) * torch.finfo(dtype).eps ** 2
    tolerance = max(rounding, _EPS64 * (len(gram) + math.sqrt(columns)))
    kept = eigenvalues > tolerance * eigenvalues[-1]
    return _Solved(eigenvalues[kept].sqrt(), vectors[:, kept])


def _trace_norm(matrix: Tensor, *, subgradient: bool) -> tuple[float, Tensor | None]:
    """Trace norm and, where asked, subgradient of a float32 or float64 matrix."""
    rows, columns = matrix.shape
    if rows > columns:
        norm, gradient = _trace_norm(matrix.T, subgradient=subgradient)
        return norm, None if gradient is None else gradient.T
    wide = matrix.to(torch.float64)
    gram = _lower_gram(wide)
    solved = _solve(gram, columns, matrix.dtype)
    if solved is None:
        # Zeros have norm 0. What is not finite has no norm: NaN, for the training loop to find.
        value = float(gram.trace()) * 0.0
        return value, torch.full_like(matrix, value) if subgradient else None
    smallest, largest = solved.singular_values[0] ** 2, solved.singular_values[-1] ** 2
    ill = len(solved.singular_values) < rows or bool(smallest < _LEAST_EIGENVALUE * largest)
    if matrix.dtype == torch.float64 and ill:
        return _trace_norm_by_triangle(matrix, subgradient=subgradient)
    norm = float(solved.singular_values.sum())
    if not subgradient:
        return norm, None
    if solved.well_conditioned:
        return norm, solved.factor().to(matrix.dtype) @ matrix
    return norm, (solved.factor() @ wide).to(matrix.dtype)


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
