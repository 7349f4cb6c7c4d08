"""Trace norm through Gram matrices beside the SVD of every unfolding, forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from taskloom.sharing.ties import tucker_trace_norm

SHAPE = (512, 256, 3, 3, 2)


def svd_trace_norm(stack: Tensor) -> Tensor:
    """What others write: singular values of each unfolding, gradient by autograd."""
    total = stack.new_zeros(())
    for mode in range(stack.dim()):
        moved = stack.movedim(mode, 0)
        total = total + torch.linalg.svdvals(moved.reshape(len(moved), -1)).sum()
    return total


def seconds(norm: Callable[[Tensor], Tensor], stack: Tensor) -> float:
    """Wall time of one forward and backward pass."""
    stack.grad = None
    start = time.perf_counter()
    norm(stack).backward()
    return time.perf_counter() - start


def gram_vs_svd(shape: tuple[int, ...] = SHAPE, repeats: int = 3) -> float:
    """Time through Gram matrices over time through SVDs, best of `repeats` taken in turn."""
    generator = torch.Generator().manual_seed(0)
    stack = (0.05 * torch.randn(shape, generator=generator)).requires_grad_()
    gram, svd = [], []
    for _ in range(repeats):
        gram.append(seconds(tucker_trace_norm, stack))
        svd.append(seconds(svd_trace_norm, stack))
    return min(gram) / min(svd)


if __name__ == "__main__":
    print(f'{{"gram_vs_svd": {gram_vs_svd():.4f}}}')
