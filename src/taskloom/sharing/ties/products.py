"""Products of matrices and inverse square roots for trace norms, in float32 as fast as a processor goes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGE = 64
"""From this size of both factors on oneDNN is asked; below, its call costs more than it saves."""
_STEPS = 7
"""Newton steps within which `inverse_root` must arrive: eigenvalues within a factor of about 30."""
_TOP = 1.7
"""Where the largest eigenvalue is put: Newton's steps bring it to 0.72 at once, and would bear up to 3."""
_CLOSE = 1e-3
"""Frobenius norm of the residual from which on one more step leaves less than float32 can tell."""


def float32_is_exact() -> bool:
    """Whether products of float32 run in float32, and not in TF32 or bfloat16 as a user may have asked."""
    return torch.get_float32_matmul_precision() == "highest"


def times_transposed(first: Tensor, second: Tensor) -> Tensor:
    """The product A B^T of A [n, k] and B [m, k], [n, m].

    Large float32 products on a CPU go through oneDNN, as convolutions do: on processors of AMD, MKL leaves
    their widest registers unused and takes twice as long.

    Example:
        >>> times_transposed(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]))
        tensor([[3.]])
    """
    large = min(first.shape[0], second.shape[0], first.shape[1]) >= _LARGE
    if large and first.dtype == torch.float32 and first.device.type == "cpu" and _has_onednn():
        product: Tensor = F.linear(first.to_mkldnn(), second).to_dense()
        return product
    return first @ second.T


def inverse_root(gram: Tensor) -> Tensor | None:
    """Inverse square root of a well-conditioned Gram matrix, in float32 by products alone.

    The coupled Newton iteration (Higham 2008, "Functions of Matrices", 6.35) for Y = G / c, Z = I,

        P = (3 I - Z Y) / 2,    Y <- Y P,    Z <- P Z,

    has the limits (G / c)^(1/2) and (G / c)^(-1/2). How many steps it takes depends on the smallest
    eigenvalue alone, so that a limit on its steps is one on the condition: it arrives where all eigenvalues
    lie within a factor of about 30.

    Args:
        gram: Symmetric, float64 [n, n]; only the lower triangle is read.

    Returns:
        G^(-1/2) in float64, of float32's accuracy; None where the eigenvalues lie further apart, or the
        matrix is zero or not finite.

    Example:
        >>> root = inverse_root(torch.diag(torch.tensor([4.0, 16.0], dtype=torch.float64)))
        >>> [round(value, 5) for value in root.diagonal().tolist()]
        [0.5, 0.25]
        >>> inverse_root(torch.diag(torch.tensor([1e-3, 1.0], dtype=torch.float64))) is None
        True
    """
    lower = gram.tril()
    full = lower + lower.tril(-1).T
    scale = _largest_eigenvalue(full) / _TOP
    if not (math.isfinite(scale) and scale > 0.0):
        return None
    y = (full / scale).float()
    z: Tensor | None = None
    for _ in range(_STEPS):
        # All of these are polynomials of one symmetric matrix: symmetric, and in any order.
        product = y if z is None else times_transposed(z, y)
        step = product.mul(-0.5)
        step.diagonal().add_(1.5)
        residual = 2.0 * torch.linalg.vector_norm(step - torch.eye(len(step)))
        z = step if z is None else times_transposed(step, z)
        if not bool(residual.isfinite()):
            return None
        if bool(residual < _CLOSE):
            return (z + z.T).double() / (2.0 * math.sqrt(scale))
        y = times_transposed(y, step)
    return None


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _largest_eigenvalue(gram: Tensor) -> float:
    """From below, by a few power steps: enough to scale by."""
    vector = gram[:, int(gram.diagonal().argmax())]
    value = 0.0
    for _ in range(10):
        length = float(torch.linalg.vector_norm(vector))
        if not (math.isfinite(length) and length > 0.0):
            return math.nan
        vector = gram @ (vector / length)
        value = float(torch.linalg.vector_norm(vector))
    return value
