"""Unfoldings of a stack of copies: their trace norms, and the small matrices that give the subgradients.

Precision. A Gram matrix squares the condition number: in the data's own precision singular values below
sqrt(eps) s_max are noise. Therefore:

- float32 (and lower, which is computed as float32) is squared in float64, where products of float32 numbers
  are exact; what is left is the error of the sum, about eps64 (n + sqrt(m)) s_max^2;
- large float32 unfoldings on a CPU (n >= 128, m >= 2 n) are tried in float32 first, pieces added up in
  float64, which leaves an error of about 4 eps s_max^2. Where the singular values lie within a factor of 8,
  which leaves the subgradient an error of about 100 eps and the value less, products alone make
  (W W^T)^(-1/2) (`inverse_root`); else the unfolding is squared once more, in float64. The small axes of
  large kernels are tried so, too;
- float64 whose smallest eigenvalue is below 1e-8 of the largest goes through the triangular factor instead
  (QR, then the SVD of the n x n factor), which squares nothing;
- a singular value counts as 0 where s <= s_max max(4 sqrt(n) eps, sqrt(eps64 (n + sqrt(m)))), eps that of the
  data: the rounding of the data, or of the sum. Copies that are identical lack a dimension; they get the
  finite subgradient of least norm;
- the product with W runs in the data's precision where the kept singular values lie within a factor of 100,
  whose error is then about 100 eps, else in float64.

Small axes of a stack of kernels (kernel height and width, tasks) are taken together. Their Gram matrices are
partial traces of the one of these axes together, and their products with W are one product with a sum of
Kronecker products: the tensor is read once for all of them instead of once for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taskloom.sharing.ties.products import float32_is_exact, inverse_root
from taskloom.sharing.ties.stacks import Axes, Stack

Unfoldings = tuple[tuple[Axes, int], ...]
"""Axes of the rows of each unfolding, and how many times it counts."""

_EPS64 = torch.finfo(torch.float64).eps
_LEAST_EIGENVALUE = 1e-8
"""Smallest over largest eigenvalue of a float64 Gram matrix that still serves: 8 of 16 digits are left."""
_WELL_CONDITIONED = 1e-2
"""Smallest over largest singular value from which on the data's own precision serves for the product."""
_NARROW = 8.0
"""Largest over smallest singular value up to which a Gram matrix made in float32 serves."""
_LARGE_STACK = 2**16
"""Numbers of a stack from which on float32 is tried for its small axes: below, float64 costs little."""
_SMALL_GROUP = 64
"""Largest product of the axes that are taken together."""
_LARGE_ROWS = 128
"""Rows from which on float32 is tried for the Gram matrix: below, an eigenproblem in float64 costs little."""


@dataclass(frozen=True)
class Part:
    """What is known of an unfolding, or of several of small axes together.

    Args:
        axes: Axes of the rows.
        value: The trace norm, as often as it counts.
        factor: [n, n] whose product with the unfolding is the subgradient, in the precision that the product
            needs.
        matrix: The subgradient [n, m] itself, in place of a factor.
    """

    axes: Axes
    value: float
    factor: Tensor | None = None
    matrix: Tensor | None = None


def solve_all(stack: Stack, unfoldings: Unfoldings, *, subgradient: bool) -> list[Part]:
    """The trace norms of unfoldings.

    Args:
        stack: The copies, float32 or float64.
        unfoldings: Which.
        subgradient: Whether the parts hold what `subgradients` needs.
    """
    with torch.no_grad(), torch.autocast(stack.device.type, enabled=False):
        together = _small_axes(stack, unfoldings)
        parts = [
            _solve_unfolding(stack, axes, times, subgradient=subgradient)
            for axes, times in unfoldings
            if not (len(axes) == 1 and axes[0] in together)
        ]
        if together:
            parts.append(_solve_together(stack, together))
    return parts


def subgradients(stack: Stack, parts: Iterable[Part], upstream: float) -> list[Tensor]:
    """The subgradient of the sum of the parts times a number, one tensor per copy."""
    found = stack.empty()
    with torch.no_grad(), torch.autocast(stack.device.type, enabled=False):
        for number, part in enumerate(parts):
            if part.factor is not None:
                stack.add_product(found, part.axes, upstream * part.factor, first=number == 0)
            elif part.matrix is not None:
                stack.add_unfolding(found, part.axes, upstream * part.matrix, first=number == 0)
    return found


def _small_axes(stack: Stack, unfoldings: Unfoldings) -> Axes:
    """Axes that are taken together: small ones, of float32, whose unfoldings are all wide."""
    alone = sorted((stack.shape[axes[0]], axes[0]) for axes, _ in unfoldings if len(axes) == 1)
    if stack.dtype != torch.float32 or len(alone) < 2:
        return ()
    chosen: list[int] = []
    for size, axis in alone[:-1]:
        if stack.size((*chosen, axis)) > _SMALL_GROUP or size * size > stack.numel():
            break
        chosen.append(axis)
    return tuple(sorted(chosen))


def _solve_together(stack: Stack, axes: Axes) -> Part:
    """The unfoldings along each of these axes of a float32 stack."""
    if stack.numel() >= _LARGE_STACK and _float32_serves(stack):
        solved = _solve_each(stack, axes, stack.gram(axes, torch.float32))
        if solved is not None and all(one.narrow for one in solved):
            return _together(stack, axes, solved)
    joint = stack.gram(axes)
    solved = _solve_each(stack, axes, joint)
    return _nothing(axes, joint, stack.dtype) if solved is None else _together(stack, axes, solved)


def _solve_each(stack: Stack, axes: Axes, joint: Tensor) -> list[_Solved] | None:
    """The unfolding along each of several axes, from the Gram matrix of all of them as rows."""
    sizes = [stack.shape[axis] for axis in axes]
    lower = joint.tril()
    joint = lower + lower.tril(-1).T
    found: list[_Solved] = []
    for before, size, after in _positions(sizes):
        gram = torch.einsum("aibajb->ij", joint.view(before, size, after, before, size, after))
        solved = _solve(gram, stack.numel() // max(size, 1), stack.dtype)
        if solved is None:
            return None
        found.append(solved)
    return found


def _together(stack: Stack, axes: Axes, solved: Sequence[_Solved]) -> Part:
    """The sum of such unfoldings."""
    sizes = [stack.shape[axis] for axis in axes]
    product = torch.zeros(stack.size(axes), stack.size(axes), dtype=torch.float64, device=stack.device)
    for (before, _, after), one in zip(_positions(sizes), solved, strict=True):
        factor = one.factor()
        identity, others = (factor.new_ones(count).diag() for count in (before, after))
        product += torch.kron(torch.kron(identity, factor), others)
    value = sum(float(one.singular_values.sum()) for one in solved)
    exact = not all(one.well_conditioned for one in solved)
    return Part(axes, value, product if exact else product.to(stack.dtype))


def _positions(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Each size between the product of those before it and of those after it."""
    for position, size in enumerate(sizes):
        yield math.prod(sizes[:position]), size, math.prod(sizes[position + 1 :])


def _nothing(axes: Axes, gram: Tensor, dtype: torch.dtype) -> Part:
    """Zeros have norm 0. What is not finite has no norm: NaN, for the training loop to find."""
    value = float(gram.trace()) * 0.0
    return Part(axes, value, torch.full_like(gram, value, dtype=dtype))


@dataclass(frozen=True)
class _Solved:
    """What a Gram matrix tells of an unfolding: singular values above 0, ascending, and their vectors."""

    singular_values: Tensor
    vectors: Tensor

    @property
    def well_conditioned(self) -> bool:
        return bool(self.singular_values[0] >= _WELL_CONDITIONED * self.singular_values[-1])

    @property
    def narrow(self) -> bool:
        """Whether a Gram matrix made in float32 served: all directions are there, within a factor of 8."""
        complete = len(self.singular_values) == len(self.vectors)
        return complete and bool(_NARROW * self.singular_values[0] >= self.singular_values[-1])

    def factor(self) -> Tensor:
        """[n, n] matrix whose product with the unfolding is the subgradient."""
        return (self.vectors / self.singular_values) @ self.vectors.T


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


def _solve_unfolding(stack: Stack, axes: Axes, times: int, *, subgradient: bool) -> Part:
    """One unfolding: its trace norm and, where asked, what gives its subgradient."""
    rows, columns = stack.size(axes), stack.numel() // max(stack.size(axes), 1)
    if rows > columns:
        return _solve_unfolding(stack, stack.others(axes), times, subgradient=subgradient)
    if stack.dtype == torch.float32 and rows >= _LARGE_ROWS and columns >= 2 * rows:
        part = _solve_in_float32(stack, axes, times)
        if part is not None:
            return part
    gram = stack.gram(axes)
    solved = _solve(gram, columns, stack.dtype)
    if solved is None:
        return _nothing(axes, gram, stack.dtype)
    smallest, largest = solved.singular_values[0] ** 2, solved.singular_values[-1] ** 2
    ill = len(solved.singular_values) < rows or bool(smallest < _LEAST_EIGENVALUE * largest)
    if stack.dtype == torch.float64 and ill:
        norm, gradient = _trace_norm_by_triangle(stack.matrix(axes), subgradient=subgradient)
        return Part(axes, times * norm, matrix=None if gradient is None else times * gradient)
    norm = times * float(solved.singular_values.sum())
    if not subgradient:
        return Part(axes, norm)
    factor = times * solved.factor()
    return Part(axes, norm, factor.to(stack.dtype) if solved.well_conditioned else factor)


def _float32_serves(stack: Stack) -> bool:
    return stack.device.type == "cpu" and float32_is_exact()


def _solve_in_float32(stack: Stack, axes: Axes, times: int) -> Part | None:
    """The same of a well-conditioned unfolding on a CPU; None where it is another one."""
    if not _float32_serves(stack):
        return None
    gram = stack.gram(axes, torch.float32)
    root = inverse_root(gram)
    if root is None:
        return None
    # tr(G^(1/2)) = tr(G G^(-1/2)), of which the lower triangles are known.
    products = (gram * root).tril()
    norm = float(2.0 * products.sum() - products.trace())
    return Part(axes, times * norm, (times * root).to(stack.dtype))


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
