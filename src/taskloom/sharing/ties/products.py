"""Products of matrices and inverse square roots for trace norms, in float32 as fast as a processor goes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from taskloom.sharing import onednn

_LARGE = 64
"""From this size of both factors on oneDNN is asked; below, its call costs more than it saves."""
_WIDEST = 64.0
"""Largest over smallest eigenvalue up to which `inverse_root` answers."""
_SERIES = 24
"""Degree of the Chebyshev series of 1 / sqrt that the polynomials are cut from."""
_BLOCKS = (2, 3, 4, 5)
"""Polynomials to begin with have a degree of three times one of these, for one product more than it."""
_STEPS = 3
"""Steps after which it gives up; no spectrum that is not wider than `_WIDEST` needs more."""
_REST = 10 * torch.finfo(torch.float32).eps
"""What a step may leave over to be the last one, and a polynomial to need none."""
_ENDS, _LEFT = 16, 6
"""Products with a vector to find the ends of a spectrum, and the size of what is left over."""


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

    Lanczos steps find the ends of the spectrum, and a polynomial near 1 / sqrt between them is a first Z, of
    a degree that leaves nothing over where the spectrum is narrow (an unfolding of random weights: degree 9,
    four products of the size of G, where eigenvectors cost 25). Whether nothing is left is measured; if not,
    steps of third order (the series of 1 / sqrt around 1) make it exact:

        R = I - Z G Z,    Z <- (I + R / 2 + 3 R^2 / 8) Z,

    each of which leaves 5 / 16 |R|^3. Every R is that of G itself, so that roundings do not add up.

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
    matrix = lower.add_(lower.tril(-1).T.contiguous())  # turned by itself: two layouts in one sum are slow
    smallest, largest = _ends(matrix.mv, matrix, _ENDS)
    if not (smallest > 0.0 and largest <= _WIDEST * smallest):
        return None
    z = _first_root(matrix, smallest, largest)
    left = _ends(lambda vector: vector - z.mv(matrix.mv(z.mv(vector))), matrix, _LEFT)
    if 0.6 * max(map(abs, left)) > _REST:
        refined = _refined(z, matrix, largest)
        if refined is None:
            return None
        z = refined
    return (z + z.T.contiguous()).div_(2.0 * math.sqrt(mean))


def _refined(z: Tensor, matrix: Tensor, largest: float) -> Tensor | None:
    """Steps of third order towards the inverse root; None where they do not lead there, or it is too wide."""
    for _ in range(_STEPS):
        # All of these are polynomials of one symmetric matrix: symmetric, and in any order.
        rest = times_transposed(times_transposed(z, matrix), z).neg_()
        rest.diagonal().add_(1.0)
        size = 1.2 * max(map(abs, _ends(rest.mv, rest, _LEFT)))
        if not size < 1.0:
            return None
        step = 0.5 * rest
        if 0.375 * size**2 > _REST:
            step.add_(times_transposed(rest, rest), alpha=0.375)
        z = times_transposed(step, z).add_(z)
        if 0.3125 * size**3 < _REST:
            # The smallest eigenvalue stands out here more than it did in G.
            top = _ends(z.mv, z, _LEFT)[1]
            return z if largest * top**2 <= _WIDEST else None
    return None


def _ends(times: Callable[[Tensor], Tensor], like: Tensor, steps: int) -> tuple[float, float]:
    """Smallest and largest eigenvalue of a symmetric matrix, from inside, by Lanczos steps.

    Args:
        times: The product of the matrix with a vector.
        like: A matrix of that size.
        steps: Products. Where eigenvalues lie densely the ends are found but for pi^2 / 2 (steps + 1)^2 of
            half of their distance; one that stands out is found better.

    Returns:
        Both; NaN where the matrix is not finite.
    """
    vector = torch.randn(len(like), generator=torch.Generator().manual_seed(0))
    vector /= torch.linalg.vector_norm(vector)
    before, beta = torch.zeros_like(vector), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(steps, len(like))):
        product = times(vector).sub_(before, alpha=beta)
        diagonal.append(float(torch.dot(product, vector)))
        product.sub_(vector, alpha=diagonal[-1])
        beta = float(torch.linalg.vector_norm(product))
        if not math.isfinite(beta):
            return math.nan, math.nan
        if beta <= 1e-6 * max(map(abs, (*diagonal, *beside))):
            break
        beside.append(beta)
        before, vector = vector, product.div_(beta)
    size = len(diagonal)
    found = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside[: size - 1], -1))  # reads the lower half
    return float(found[0]), float(found[-1])


def _first_root(matrix: Tensor, smallest: float, largest: float) -> Tensor:
    """A polynomial near 1 / sqrt between two eigenvalues: the shortest that is exact there, or the first."""
    beyond = 0.01 * (largest - smallest) + 0.003 * largest  # what Lanczos steps and roundings leave out
    smallest, largest = max(smallest - beyond, 0.5 * smallest), largest + beyond
    half, middle = (largest - smallest) / 2.0, (largest + smallest) / 2.0
    points, of_values, to_powers = _tables()
    series = of_values @ (1.0 / np.sqrt(middle + half * points))
    left = math.sqrt(largest) * np.abs(series[::-1]).cumsum()[::-1]
    blocks = next((count for count in _BLOCKS if left[3 * count + 1] < 0.5 * _REST), _BLOCKS[0])
    factors: list[float] = (series[: 3 * blocks + 1] @ to_powers[: 3 * blocks + 1]).tolist()
    first = matrix / half
    first.diagonal().sub_(middle / half)
    second = times_transposed(first, first)
    third = times_transposed(second, first)
    found: Tensor = third * factors[3 * blocks]
    for block in range(3 * blocks - 3, -1, -3):
        found.add_(second, alpha=factors[block + 2]).add_(first, alpha=factors[block + 1])
        found.diagonal().add_(factors[block])
        if block > 0:
            found = times_transposed(found, third)
    return found


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chebyshev points, from values there to a Chebyshev series, and from such a series to powers."""
    points = chebyshev.chebpts1(_SERIES + 1)
    powers = np.zeros((_SERIES + 1, _SERIES + 1))
    powers[0, 0] = powers[1, 1] = 1.0
    for degree in range(2, _SERIES + 1):  # T_k = 2 x T_(k-1) - T_(k-2)
        powers[degree, 1:] = 2.0 * powers[degree - 1, :-1]
        powers[degree] -= powers[degree - 2]
    return points, np.linalg.inv(chebyshev.chebvander(points, _SERIES)), powers
