"""The attention of all tasks on one stage in one pass over memory.

Written as operations of autograd, every mask costs about ten passes over tensors as large as the stage's
output, most of which fall out of the cache. Here a block of rows goes through all masks of all tasks, what a
task attended to is averaged down to what the next stage reads of it before it leaves the cache, and of the
whole batch only the hidden layers and the masks are kept, as autograd would keep them too.

The 1 x 1 convolutions run as such, not as matrix products: oneDNN's take half of the time of the products'
library on a CPU (benchmarks/sharing.py). Source of the formulas: `taskloom.sharing.modules.mtan.Attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.autograd.function import once_differentiable

from taskloom.sharing.memory import pulled_back, row_blocks, transformed
from taskloom.sharing.modules.positions import to_positions

_FEWEST_IMAGES = 16
"""Images from which on PyTorch hands a 1 x 1 convolution on one thread to oneDNN."""
_BLOCKS = 4
"""How many times the usual block of rows is taken: convolutions of few rows are slow."""


@dataclass(frozen=True)
class Mask:
    """The weights of one task's attention on a stage with C channels, H hidden and B recalled ones.

    Args:
        reads: [H, C].
        reads_bias: [H].
        gives: [C, H].
        gives_bias: [C].
        recalls: [H, B]; None at the first stage with attention.
    """

    reads: Tensor
    reads_bias: Tensor
    gives: Tensor
    gives_bias: Tensor
    recalls: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """Those that there are, in this order."""
        four = [self.reads, self.reads_bias, self.gives, self.gives_bias]
        return four if self.recalls is None else [*four, self.recalls]


def attend(
    outputs: Tensor, masks: Sequence[Mask], recalled: Sequence[Tensor], positions: Sequence[int]
) -> list[Tensor]:
    """What every task attends to on a stage, averaged down to the positions at which it is read.

    Args:
        outputs: The stage's outputs [N, C, ...], with up to two axes after the channels.
        masks: One per task.
        recalled: What each task attended to before, [N, B, ...] at this stage's positions; empty at the first
            stage with attention.
        positions: Sizes of the axes after the channels, as many as those of `outputs`.

    Returns:
        Per task [N, C, *positions]; differentiable once.

    Example:
        >>> mask = Mask(torch.zeros(2, 3), torch.zeros(2), torch.zeros(3, 2), torch.zeros(3))
        >>> attend(torch.ones(1, 3, 4), [mask], [], (1,))[0].tolist()
        [[[0.5], [0.5], [0.5]]]
    """
    at_stage = [tensor.expand(-1, -1, *outputs.shape[2:]) for tensor in recalled]
    tensors = [*at_stage, *(tensor for mask in masks for tensor in mask.tensors())]
    found: tuple[Tensor, ...] = _Attend.apply(len(masks), tuple(positions), outputs, *tensors)  # type: ignore[no-untyped-call]
    return list(found)


class _Attend(torch.autograd.Function):
    """All masks of a stage, block by block of rows."""

    @staticmethod
    def forward(
        ctx: Any, num_tasks: int, positions: tuple[int, ...], outputs: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        recalled, masks = _taken_apart(num_tasks, tensors)
        read, before = _channels_last(outputs), [_channels_last(tensor) for tensor in recalled]
        blocks = list(row_blocks([read], read[0].numel() * read.element_size() // _BLOCKS))
        found: list[list[Tensor]] = [[] for _ in masks]
        kept: list[Tensor] = []
        for rows in blocks:
            block = read[rows]
            flat = block.flatten(0, -2)
            for task, mask in enumerate(masks):
                hidden = _product(flat, mask.reads, mask.reads_bias)
                if mask.recalls is not None:
                    hidden.addmm_(before[task][rows].flatten(0, -2), mask.recalls.T)
                hidden.relu_()
                opening = _product(hidden, mask.gives, mask.gives_bias).sigmoid_()
                found[task].append(_averaged(block * opening.view_as(block), positions))
                kept += [hidden, opening]
        ctx.save_for_backward(outputs, *tensors, *kept)
        ctx.set_materialize_grads(False)
        ctx.num_tasks, ctx.positions = num_tasks, positions
        ctx.blocks, ctx.num_tensors = blocks, len(tensors)
        return tuple(_channels_first(parts) for parts in found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        outputs, *saved = ctx.saved_tensors
        tensors, kept = saved[: ctx.num_tensors], saved[ctx.num_tensors :]
        recalled, masks = _taken_apart(ctx.num_tasks, tensors)
        if transformed():

            def plain(*tensors: Tensor) -> list[Tensor]:
                return _written_out(ctx.num_tasks, ctx.positions, *tensors)

            return (None, None, *pulled_back(plain, [outputs, *tensors], gradients))
        read, before = _channels_last(outputs), [_channels_last(tensor) for tensor in recalled]
        given = [None if g is None else _channels_last(g) for g in gradients]
        sums = [
            None if upstream is None else [torch.zeros_like(tensor) for tensor in mask.tensors()]
            for upstream, mask in zip(given, masks, strict=True)
        ]
        of_outputs = torch.empty_like(read) if ctx.needs_input_grad[2] else None
        of_recalled = [torch.empty_like(tensor) for tensor in before]
        for number, rows in enumerate(ctx.blocks):
            block = read[rows]
            total = torch.zeros_like(block) if of_outputs is None else of_outputs[rows].zero_()
            for task, mask in enumerate(masks):
                upstream, of_mask = given[task], sums[task]
                if upstream is None or of_mask is None:
                    continue
                place = 2 * (number * len(masks) + task)
                spread = _spread(upstream[rows], block)
                at_hidden = _back_to_hidden(spread, block, total, mask, kept[place : place + 2], of_mask)
                if mask.recalls is not None:
                    of_mask[4].addmm_(at_hidden.T, before[task][rows].flatten(0, -2))
                    torch.mm(at_hidden, mask.recalls, out=of_recalled[task][rows].flatten(0, -2))
                if of_outputs is not None:
                    total.view(-1, total.shape[-1]).add_(_product(at_hidden, mask.reads.T))
        further = [
            None if upstream is None else tensor.movedim(-1, 1)
            for upstream, tensor in zip(given, of_recalled, strict=False)
        ]
        for of_mask, mask in zip(sums, masks, strict=True):
            further += [None] * len(mask.tensors()) if of_mask is None else of_mask
        return (None, None, None if of_outputs is None else of_outputs.movedim(-1, 1), *further)


def _back_to_hidden(
    upstream: Tensor, block: Tensor, total: Tensor, mask: Mask, kept: Sequence[Tensor], sums: Sequence[Tensor]
) -> Tensor:
    """The gradient of one task's hidden layer before its ReLU, [rows, H], for a block of rows.

    Adds what goes straight to the stage's outputs to `total`, and the gradients of the mask's weights to
    `sums`.
    """
    hidden, opening = kept
    total.addcmul_(upstream, opening.view_as(block))
    # sigmoid' = m (1 - m)
    at_mask = torch.ops.aten.sigmoid_backward((upstream * block).flatten(0, -2), opening)
    at_hidden = _product(at_mask, mask.gives.T)
    of_gives = _gradient_of_weight(at_mask, hidden, mask.gives)
    sums[2].add_(of_gives)
    sums[3].add_(at_mask.sum(0))
    torch.ops.aten.threshold_backward.grad_input(at_hidden, hidden, 0, grad_input=at_hidden)
    of_reads = _gradient_of_weight(at_hidden, block.flatten(0, -2), mask.reads)
    sums[0].add_(of_reads)
    sums[1].add_(at_hidden.sum(0))
    return at_hidden


def _written_out(num_tasks: int, positions: Sequence[int], outputs: Tensor, *tensors: Tensor) -> list[Tensor]:
    """The same as operations of autograd."""
    recalled, masks = _taken_apart(num_tasks, tensors)
    read, found = outputs.movedim(1, -1), []
    for task, mask in enumerate(masks):
        hidden = functional.linear(read, mask.reads, mask.reads_bias)
        if mask.recalls is not None:
            hidden = hidden + functional.linear(recalled[task].movedim(1, -1), mask.recalls)
        opening = functional.linear(hidden.relu(), mask.gives, mask.gives_bias).sigmoid()
        found.append(to_positions((read * opening).movedim(-1, 1), positions))
    return found


def _taken_apart(num_tasks: int, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Mask]]:
    """What `attend` lined up: what was recalled, and the masks."""
    each = len(tensors) // num_tasks  # 4, or 6 with what is recalled and its weight
    recalled = list(tensors[:num_tasks]) if each == 6 else []
    weights, size = tensors[len(recalled) :], 5 if recalled else 4
    return recalled, [Mask(*weights[size * task : size * task + size]) for task in range(num_tasks)]


def _channels_last(tensor: Tensor) -> Tensor:
    """[N, C, ...] to contiguous [N, ..., C]; a view where the channels lie last already."""
    return tensor.movedim(1, -1).contiguous()


def _channels_first(parts: Sequence[Tensor]) -> Tensor:
    """Blocks [n, ..., C] to [N, C, ...], the channels last in memory."""
    return torch.cat(list(parts)).movedim(-1, 1)


def _averaged(block: Tensor, positions: Sequence[int]) -> Tensor:
    """[n, *old, C] to [n, *positions, C] by adaptive average pooling."""
    if block.shape[1:-1] == torch.Size(positions):
        return block
    height, width = (1, *positions)[-2:]
    pooled = functional.adaptive_avg_pool2d(_as_maps(block), (height, width))
    return pooled.permute(0, 2, 3, 1).reshape(len(block), *positions, -1)


def _spread(block: Tensor, like: Tensor) -> Tensor:
    """The transpose of `_averaged`: [n, *positions, C] to [n, *old, C]."""
    if block.shape == like.shape:
        return block
    maps: Tensor = torch.ops.aten._adaptive_avg_pool2d_backward(_as_maps(block), _as_maps(like))
    return maps.permute(0, 2, 3, 1).reshape(like.shape)


def _as_maps(block: Tensor) -> Tensor:
    """[n, W, C] or [n, H, W, C] to [n, C, H, W], the channels last in memory."""
    return (block.unsqueeze(1) if block.dim() == 3 else block).permute(0, 3, 1, 2)


def _images(rows: Tensor) -> int | None:
    """Into how many images the rows [R, C] are divided for a convolution; None: a matrix product does it."""
    if rows.dtype != torch.float32 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    return next((n for n in range(_FEWEST_IMAGES, 4 * _FEWEST_IMAGES) if len(rows) % n == 0), None)


def _as_images(rows: Tensor, number: int) -> Tensor:
    """[R, C] to [number, C, 1, R / number], the channels last in memory."""
    return rows.view(number, 1, -1, rows.shape[1]).permute(0, 3, 1, 2)


def _as_kernel(weight: Tensor) -> Tensor:
    """[out, in] to [out, in, 1, 1], the input channels last in memory."""
    return weight.reshape(len(weight), 1, 1, -1).permute(0, 3, 1, 2)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows [R, in] times the transpose of [out, in], [R, out]."""
    number = _images(rows)
    if number is None:
        return functional.linear(rows, weight, bias)
    outputs = functional.conv2d(_as_images(rows, number), _as_kernel(weight), bias)
    return outputs.permute(0, 2, 3, 1).reshape(len(rows), -1)


def _gradient_of_weight(upstream: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """[R, out] and [R, in] to [out, in]."""
    number = _images(rows)
    if number is None:
        return upstream.T @ rows
    _, gradient, _ = torch.ops.aten.convolution_backward(
        _as_images(upstream, number),
        _as_images(rows, number),
        _as_kernel(weight),
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [False, True, False],
    )
    found: Tensor = gradient.reshape(weight.shape)
    return found
