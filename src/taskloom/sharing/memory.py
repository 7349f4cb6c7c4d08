"""How own kernels walk through memory: the order in which axes lie, and blocks that stay in the cache.

On a CPU the convolutions of images and windows give their channels last in memory (`channels_last`), dense
layers and 1-D convolutions first. An elementwise operation over tensors of two orders takes about ten times
as long as over tensors of one; what treats every value alike therefore works in the order that it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

Order = tuple[int, ...]
"""Axes from the slowest to the fastest in memory, the batch axis first."""

BLOCK_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Bytes of one block of several tensors: on a CPU, per thread, what stays in a core's cache; on a GPU what
keeps launches few."""


def memory_order(tensor: Tensor) -> Order:
    """The order in which a tensor lies; that of its axes where it has gaps, or its batch axis is not first.

    Example:
        >>> memory_order(torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last))
        (0, 2, 3, 1)
        >>> memory_order(torch.zeros(2, 3).T)
        (0, 1)
    """
    plain = tuple(range(tensor.dim()))
    if tensor.is_contiguous():
        return plain
    strides = tensor.stride()
    order = (0, *sorted(plain[1:], key=lambda axis: -strides[axis]))
    return order if tensor.permute(order).is_contiguous() else plain


def in_order(tensor: Tensor, order: Order) -> Tensor:
    """The tensor with its axes in that order, contiguous; a view where it lies so, else a copy."""
    return tensor.permute(order).contiguous()


def empty_in_order(tensor: Tensor, order: Order) -> Tensor:
    """A new tensor of the same shape and kind that lies in that order."""
    return torch.empty_permuted(tensor.shape, order, dtype=tensor.dtype, device=tensor.device)


def all_in_order(tensors: Sequence[Tensor], order: Order) -> list[Tensor]:
    """`in_order` of each."""
    return [in_order(tensor, order) for tensor in tensors]


def block_rows(tensors: Sequence[Tensor], row_bytes: int | None = None) -> int:
    """How many rows take about `BLOCK_BYTES` in all the tensors together; at least one.

    Args:
        tensors: Tensors [N, ...] of one shape.
        row_bytes: Bytes of a row with all that is worked out beside it; those of the tensors where None.
    """
    first = tensors[0]
    if row_bytes is None:
        row_bytes = len(tensors) * math.prod(first.shape[1:]) * first.element_size()
    limit = BLOCK_BYTES.get(first.device.type, BLOCK_BYTES["cuda"])
    if first.device.type == "cpu":  # an operation is divided among threads, each with a cache of its own
        limit *= torch.get_num_threads()
    return max(1, limit // max(1, row_bytes))


def row_blocks(tensors: Sequence[Tensor], row_bytes: int | None = None) -> Iterator[slice]:
    """Slices of so many rows. Arguments as `block_rows`."""
    step = block_rows(tensors, row_bytes)
    for begin in range(0, len(tensors[0]), step):
        yield slice(begin, begin + step)


def written_out() -> bool:
    """Whether plain operations are asked for: compilers and exporters follow them, and vmap needs them."""
    return torch.compiler.is_compiling() or torch._C._is_tracing() or transformed()


def has_hooks(modules: Iterable[nn.Module]) -> bool:
    """Whether someone wants to be told when one of the modules, or one inside it, is called.

    Example:
        >>> layer = torch.nn.Linear(1, 1)
        >>> handle = layer.register_forward_pre_hook(lambda module, inputs: None)
        >>> has_hooks([torch.nn.Sequential(layer)]), has_hooks([torch.nn.Linear(1, 1)])
        (True, False)
    """
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for parent in modules
        for module in parent.modules()
    )


def pulled_back(
    plain: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Gradients of plain operations, for a backward pass under vmap, which takes no prepared memory.

    Args:
        plain: Gives the outputs from the tensors.
        tensors: Its arguments.
        gradients: One per output; None is 0.
    """

    def outputs(*arguments: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            output
            for output, gradient in zip(plain(*arguments), gradients, strict=True)
            if gradient is not None
        )

    pull: Callable[..., tuple[Tensor, ...]] = torch.func.vjp(outputs, *tensors)[1]
    return pull(tuple(gradient for gradient in gradients if gradient is not None))


def transformed() -> bool:
    """Whether a torch.func transform such as vmap is active; torchjd's Jacobians are one."""
    return bool(torch._C._are_functorch_transforms_active())
