"""Products of matrices and inverse square roots for trace norms, in float32 as fast as a processor goes."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from taskloom.sharing import onednn

_LARGE = 64
"""From this size of both factors on oneDNN is asked; below, its call costs more than it saves."""
_WIDEST = 64.0
"""Largest over smallest eigenvalue up to which `inverse_root` answers."""
_DEGREE = 4
"""Of the polynomial that it begins with; two products make it."""
_STEPS = 3
"""Steps after which it gives up; no spectrum that is not wider than `_WIDEST` needs more."""
_REST = 10 * torch.finfo(torch.float32).eps
"""What a step may leave over to be the last one."""
_POWERS = 12
"""Products with a vector after which an eigenvalue of largest size is known to about a tenth."""


def float32_is_exact() -> bool:
    """Whether products of float32 run in float32, and not in TF32 or bfloat16 as a user may have asked."""
    # The older getter raises an error where the newer switches were used.
    switches = getattr(torch.backends.mkldnn, "matmul", None)
    asked = getattr(switches, "fp32_precision", None)
    return torch.get_float32_matmul_precision() == "highest" if asked is None else asked in ("none", "ieee")


def times_transposed(first: Tensor, second: Tensor) -> Tensor:
    """The product A B^T of A [n, k] and B [m, k], [n, m].

    Large float32 products on a CPU go through oneDNN, as convolutions do.

    Example:
        >>> times_transposed(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]))
        tensor([[3.]])
    """
    if min(first.shape[0], second.shape[0], first.shape[1]) >= _LARGE and onednn.serves(first):
        return onednn.linear(first, second)
    return first @ second.T


def symmetric_times(factor: Tensor, matrix: Tensor) -> Tensor:
    """The product of a symmetric matrix [n, n] with a matrix [n, m], which lies in memory as that one."""
    matrix = onednn.without_gaps(matrix)
    if matrix.is_contiguous():
        return times_transposed(factor, matrix.T)
    return times_transposed(matrix.T, factor).T


def inverse_root(gram: Tensor) -> Tensor | None:
    """Inverse square root of a well-conditioned Gram matrix, in float32 by products alone.

    Power steps find the ends of the spectrum, the polynomial that meets 1 / sqrt at Chebyshev points between
    them is a first Z, and steps of third order (the series of 1 / sqrt around 1) make it exact:

        R = I - Z G Z,    Z <- (I + R / 2 + 3 R^2 / 8) Z,

    each of which leaves 5 / 16 |R|^3. Every R is that of G itself, so that roundings do not add up. For an
    unfolding of random weights five or six products of the size of G are enough, where eigenvectors cost 25.

    Args:
        gram: Symmetric, float64 [n, n]; only the lower triangle is read.

    Returns:
        G^(-1/2) in float32; None where the eigenvalues lie further apart than a factor
        of 64, or the matrix is zero or not finite.

    Example:
        >>> root = inverse_root(torch.diag(torch.tensor([4.0, 16.0], dtype=torch.float64)))
        >>> [round(value, 5) for value in root.diagonal().tolist()]
        [0.5, 0.25]
        >>> inverse_root(torch.diag(torch.tensor([1e-3, 1.0], dtype=torch.float64))) is None
        True
    """
    mean = float(gram.trace()) / max(len(gram), 1)
    if not (math.isfinite(mean) and mean > 0.0):
        return None
    lower = (gram / mean).float().tril_()
    matrix = lower.add_(
        lower.tril(-1).T.contiguous()
    )  # to add a matrix as it lies turned is three times slower
    largest = _largest_size(matrix)
    smallest = 1.1 * largest - _largest_size(matrix, away_from=1.1 * largest)
    if not (math.isfinite(largest) and largest <= _WIDEST * smallest):
        return None
    z = _first_root(matrix, 0.97 * smallest, 1.03 * largest)
    for _ in range(_STEPS):
        # All of these are polynomials of one symmetric matrix: symmetric, and in any order.
        rest = times_transposed(times_transposed(z, matrix), z).neg_()
        rest.diagonal().add_(1.0)
        size = 1.2 * _largest_size(rest)
        if not size < 1.0:
            return None
        step = 0.5 * rest
        if 0.375 * size**2 > _REST:
            step.add_(times_transposed(rest, rest), alpha=0.375)
        z = times_transposed(step, z).add_(z)
        if 0.3125 * size**3 < _REST:
            # The smallest eigenvalue stands out here more than it did above.
            narrow = largest * _largest_size(z) ** 2 <= _WIDEST
            return (z + z.T.contiguous()).div_(2.0 * math.sqrt(mean)) if narrow else None
    return None


def _largest_size(matrix: Tensor, away_from: float = 0.0) -> float:
    """The largest absolute eigenvalue of a symmetric matrix A, or of c I - A: from below, by power steps."""
    draw = torch.Generator().manual_seed(0)
    vector = torch.randn(len(matrix), generator=draw)
    value = 0.0
    for _ in range(_POWERS):
        vector = matrix @ vector if away_from == 0.0 else away_from * vector - matrix @ vector
        value = float(torch.linalg.vector_norm(vector))
        if not (math.isfinite(value) and value > 0.0):
            return value
        vector /= value
    return value


def _first_root(matrix: Tensor, smallest: float, largest: float) -> Tensor:
    """The polynomial of 1 / sqrt that meets it in the Chebyshev points between two eigenvalues."""
    half, middle = (largest - smallest) / 2.0, (largest + smallest) / 2.0
    points = chebyshev.chebpts1(_DEGREE + 1)
    meets = chebyshev.chebfit(points, 1.0 / np.sqrt(middle + half * points), _DEGREE)
    factors = chebyshev.cheb2poly(meets).tolist()
    centred = matrix / half
    centred.diagonal().sub_(middle / half)
    squared = times_transposed(centred, centred)
    found = times_transposed(squared, factors[3] * centred + factors[4] * squared)
    found.add_(centred, alpha=factors[1]).add_(squared, alpha=factors[2])
    found.diagonal().add_(factors[0])
    return found
