"""Dense products by oneDNN, whose kernels use the whole width of a processor's registers.

On processors of AMD the library behind PyTorch's matrix products on a CPU leaves half of it unused. The
operator is the one that PyTorch's compiler calls: it takes and gives plain tensors, where `to_mkldnn` and
`torch.nn.functional.linear` copy results once more. It has no gradient: it is for own kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def serves(tensor: Tensor) -> bool:
    """Whether oneDNN multiplies tensors of this kind here: float32 on a CPU, in a PyTorch that has it."""
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        return False
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows [n, k] times the transpose of a weight [m, k], and the bias [m]: [n, m], contiguous.

    Example:
        >>> serves(torch.ones(1)), linear(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), torch.ones(1))
        (True, tensor([[4.]]))
    """
    # The operator reads a bias as if there were no gaps in it, and beyond its end.
    whole = None if bias is None else bias.contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(
        without_gaps(rows), without_gaps(weight), whole, "none", [], ""
    )
    return found


def without_gaps(matrix: Tensor) -> Tensor:
    """The matrix, row by row or column by column; oneDNN takes a hundred times as long for one with gaps."""
    return matrix if matrix.is_contiguous() or matrix.T.is_contiguous() else matrix.contiguous()
