"""The attention of all tasks on one stage in one pass over memory.

Written as operations of autograd, every mask costs about ten passes over tensors as large as the stage's
output, most of which fall out of the cache. Here a block of rows goes through all masks of all tasks, what a
task attended to is averaged down to what the next stage reads of it before it leaves the cache, and of the
whole batch only the hidden layers and the masks are kept, as autograd would keep them too.

The layers that read the stage are one product for all tasks, forward and, where their sizes suit, backward.
The outputs pass through: what comes back from the rest of the trunk takes the masks' gradient in by blocks.

The 1 x 1 convolutions are oneDNN's products (`onednn.py`), the gradients of their weights its convolutions:
each takes half of the time of PyTorch's products on a CPU. Source of the formulas:
`taskloom.sharing.modules.mtan.Attention`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.autograd.function import once_differentiable

from taskloom.sharing import onednn
from taskloom.sharing.memory import pulled_back, row_blocks, transformed
from taskloom.sharing.modules.positions import to_positions

_FEWEST_IMAGES = 16
"""Images from which on PyTorch hands a 1 x 1 convolution on one thread to oneDNN."""
_FEWEST_ROWS = 128
"""Rows below which a matrix product is the faster one, and joining weights costs more than it saves."""
_LANES = 16
"""Single-precision numbers in a vector register: hidden layers of a multiple of it may lie side by side."""
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
) -> tuple[Tensor, list[Tensor]]:
    """What every task attends to on a stage, averaged down to the positions at which it is read.

    Args:
        outputs: The stage's outputs [N, C, ...], with up to two axes after the channels.
        masks: One per task, all of one size.
        recalled: What each task attended to before, [N, B, ...] at this stage's positions; empty at the first
            stage with attention.
        positions: Sizes of the axes after the channels, as many as those of `outputs`.

    Returns:
        The outputs, for whatever else reads them: the gradient that comes back from there takes the masks'
        in as it passes by, without a sum over the whole batch. And per task [N, C, *positions]. All
        differentiable once.

    Example:
        >>> mask = Mask(torch.zeros(2, 3), torch.zeros(2), torch.zeros(3, 2), torch.zeros(3))
        >>> attend(torch.ones(1, 3, 4), [mask], [], (1,))[1][0].tolist()
        [[[0.5], [0.5], [0.5]]]
    """
    at_stage = [tensor.expand(-1, -1, *outputs.shape[2:]) for tensor in recalled]
    tensors = [*at_stage, *(tensor for mask in masks for tensor in mask.tensors())]
    passed, *found = _Attend.apply(len(masks), tuple(positions), outputs, *tensors)  # type: ignore[no-untyped-call]
    return passed, found


class _Attend(torch.autograd.Function):
    """All masks of a stage, block by block; the layers that read its outputs are one for all tasks."""

    @staticmethod
    def forward(
        ctx: Any, num_tasks: int, positions: tuple[int, ...], outputs: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        recalled, masks = _taken_apart(num_tasks, tensors)
        read, before = _channels_last(outputs), [_channels_last(tensor) for tensor in recalled]
        groups = [masks] if _many(read) else [[mask] for mask in masks]
        reads = [_joined([mask.reads for mask in group]) for group in groups]
        biases = [_joined([mask.reads_bias for mask in group]) for group in groups]
        blocks = list(row_blocks([read], read[0].numel() * read.element_size() // _BLOCKS))
        found = [read.new_empty(len(read), *positions, read.shape[-1]) for _ in masks]
        kept: list[Tensor] = []
        for rows in blocks:
            block = read[rows]
            flat = block.flatten(0, -2)
            scores = [_product(flat, weight, bias) for weight, bias in zip(reads, biases, strict=True)]
            each = [part for score in scores for part in score.chunk(num_tasks // len(groups), dim=1)]
            for task, (mask, part) in enumerate(zip(masks, each, strict=True)):
                if mask.recalls is None:
                    hidden = part.relu_() if part.is_contiguous() else part.relu()
                else:
                    hidden = _product(before[task][rows].flatten(0, -2), mask.recalls)
                    hidden.add_(part).relu_()
                opening = _product(hidden, mask.gives, mask.gives_bias).sigmoid_()
                _put_averaged(block, opening.view_as(block), found[task][rows])
                kept += [hidden, opening]
        ctx.save_for_backward(outputs, *tensors, *kept)
        ctx.set_materialize_grads(False)
        ctx.num_tasks, ctx.positions = num_tasks, positions
        ctx.blocks, ctx.num_tensors = blocks, len(tensors)
        return outputs.view_as(outputs), *(tensor.movedim(-1, 1) for tensor in found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, passed: Tensor | None, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        outputs, *saved = ctx.saved_tensors
        tensors, kept = saved[: ctx.num_tensors], saved[ctx.num_tensors :]
        if transformed():

            def plain(*tensors: Tensor) -> list[Tensor]:
                return [tensors[0], *_written_out(ctx.num_tasks, ctx.positions, *tensors)]

            return (None, None, *pulled_back(plain, [outputs, *tensors], [passed, *gradients]))
        if all(gradient is None for gradient in gradients):
            return (None, None, passed, *(None for _ in tensors))
        recalled, masks = _taken_apart(ctx.num_tasks, tensors)
        heard = [task for task, gradient in enumerate(gradients) if gradient is not None]
        found = _Backward(
            read=_channels_last(outputs),
            before=[_channels_last(recalled[task]) for task in heard] if recalled else [],
            masks=[masks[task] for task in heard],
            given=[_channels_last(gradient) for gradient in gradients if gradient is not None],
            passed=None if passed is None else _channels_last(passed),
            needs_outputs=ctx.needs_input_grad[2],
        )
        for number, rows in enumerate(ctx.blocks):
            first = 2 * number * len(masks)
            found.add(rows, [kept[first + 2 * task : first + 2 * task + 2] for task in heard])
        of_recalled: list[Tensor | None] = [None] * len(recalled)
        of_masks: list[Sequence[Tensor | None]] = [[None] * len(mask.tensors()) for mask in masks]
        for task, of_before in zip(heard, found.of_recalled(), strict=False):
            of_recalled[task] = of_before
        for task, of_mask in zip(heard, found.of_masks(), strict=True):
            of_masks[task] = of_mask
        return (None, None, found.of_outputs(), *of_recalled, *itertools.chain.from_iterable(of_masks))


class _Backward:
    """The gradients of a stage's attention, added up block by block of rows.

    Args:
        read: The stage's outputs [N, ..., C].
        before: What the tasks recalled [N, ..., B]; empty at the first stage with attention.
        masks: The masks of the tasks that are heard of.
        given: The gradients of what they attended to, [N, *positions, C].
        passed: The gradient of the outputs from elsewhere, [N, ..., C].
        needs_outputs: Whether the outputs' gradient is asked for.
    """

    def __init__(
        self,
        *,
        read: Tensor,
        before: Sequence[Tensor],
        masks: Sequence[Mask],
        given: Sequence[Tensor],
        passed: Tensor | None,
        needs_outputs: bool,
    ) -> None:
        self._read, self._before, self._given, self._passed = read, before, given, passed
        hidden, tasks = len(masks[0].reads), range(len(masks))
        joined = hidden % _LANES == 0 and _many(read)
        groups = [tasks] if joined else [range(task, task + 1) for task in tasks]
        self._groups = [(group, _joined([masks[task].reads for task in group])) for group in groups]
        self._gives = [mask.gives.T for mask in masks]
        self._recalls = [mask.recalls.T for mask in masks if mask.recalls is not None]
        self._of_outputs = torch.empty_like(read) if needs_outputs else None
        self._of_recalled = [torch.empty_like(tensor) for tensor in before]
        self._of_reads = [torch.zeros_like(weight) for _, weight in self._groups]
        self._of_biases = [read.new_zeros(len(weight)) for _, weight in self._groups]
        self._of_others = [[torch.zeros_like(tensor) for tensor in mask.tensors()[2:]] for mask in masks]

    def add(self, rows: slice, kept: Sequence[Sequence[Tensor]]) -> None:
        """Takes a block of rows in, with every task's hidden layer and mask [R, H] and [R, C]."""
        block = self._read[rows]
        flat = block.flatten(0, -2)
        total = torch.empty_like(block) if self._of_outputs is None else self._of_outputs[rows]
        start = None if self._passed is None else self._passed[rows]
        for number, (group, weight) in enumerate(self._groups):
            at_hidden = flat.new_empty(len(flat), len(weight))
            for task, target in zip(group, at_hidden.chunk(len(group), dim=1), strict=True):
                hidden, opening = kept[task]
                upstream = _spread(self._given[task][rows], block)
                factors = opening.view_as(block)
                if start is None:
                    torch.mul(upstream, factors, out=total)
                else:
                    torch.addcmul(start, upstream, factors, out=total)
                start = total
                own = self._given[task].shape != self._read.shape  # spread just now
                products = upstream.mul_(block) if own else upstream * block
                self._back_to_hidden(task, rows, products.flatten(0, -2), hidden, opening, target)
            self._of_reads[number].add_(_gradient_of_weight(at_hidden, flat))
            self._of_biases[number].add_(at_hidden.sum(0))
            if self._of_outputs is not None:
                total.view_as(flat).add_(_product(at_hidden, weight.T))

    def _back_to_hidden(
        self, task: int, rows: slice, at_mask: Tensor, hidden: Tensor, opening: Tensor, target: Tensor
    ) -> None:
        """From the gradient of a task's mask, [R, C], to that of its hidden layer before its ReLU, [R, H]."""
        # sigmoid' = m (1 - m)
        torch.ops.aten.sigmoid_backward.grad_input(at_mask, opening, grad_input=at_mask)
        of_gives, of_bias, *of_recalls = self._of_others[task]
        of_gives.add_(_gradient_of_weight(at_mask, hidden))
        of_bias.add_(at_mask.sum(0))
        passed = _product(at_mask, self._gives[task])
        torch.ops.aten.threshold_backward.grad_input(passed, hidden, 0, grad_input=target)
        if of_recalls:
            alone = target.contiguous()
            of_recalls[0].add_(_gradient_of_weight(alone, self._before[task][rows].flatten(0, -2)))
            self._of_recalled[task][rows].flatten(0, -2).copy_(_product(alone, self._recalls[task]))

    def of_outputs(self) -> Tensor | None:
        """The gradient of the stage's outputs, with what came back from elsewhere."""
        return None if self._of_outputs is None else self._of_outputs.movedim(-1, 1)

    def of_recalled(self) -> list[Tensor]:
        """Those of what each task recalled."""
        return [tensor.movedim(-1, 1) for tensor in self._of_recalled]

    def of_masks(self) -> list[list[Tensor]]:
        """Those of each mask's weights, in the order of `Mask.tensors`."""
        first = [
            part
            for (group, _), weight, bias in zip(self._groups, self._of_reads, self._of_biases, strict=True)
            for part in zip(weight.chunk(len(group)), bias.chunk(len(group)), strict=True)
        ]
        return [[*part, *others] for part, others in zip(first, self._of_others, strict=True)]


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


def _put_averaged(block: Tensor, factors: Tensor, target: Tensor) -> None:
    """Writes [n, *old, C] times the factors into [n, *new, C]; by adaptive pooling where they differ."""
    if block.shape == target.shape:
        torch.mul(block, factors, out=target)
        return
    height, width = (1, *target.shape[1:-1])[-2:]
    pooled = functional.adaptive_avg_pool2d(_as_maps(block * factors), (height, width))
    target.copy_(pooled.permute(0, 2, 3, 1).reshape(target.shape))


def _spread(block: Tensor, like: Tensor) -> Tensor:
    """The transpose of averaging: [n, *positions, C] to [n, *old, C]."""
    if block.shape == like.shape:
        return block
    maps: Tensor = torch.ops.aten._adaptive_avg_pool2d_backward(_as_maps(block), _as_maps(like))
    return maps.permute(0, 2, 3, 1).reshape(like.shape)


def _as_maps(block: Tensor) -> Tensor:
    """[n, W, C] or [n, H, W, C] to [n, C, H, W], the channels last in memory."""
    return (block.unsqueeze(1) if block.dim() == 3 else block).permute(0, 3, 1, 2)


def _many(read: Tensor) -> bool:
    """Whether [N, ..., C] has enough rows for the tasks' weights to be joined."""
    return read.numel() // read.shape[-1] >= _FEWEST_ROWS


def _joined(weights: Sequence[Tensor]) -> Tensor:
    """[T * H, ...] of T tensors [H, ...]; a single one as it is."""
    return weights[0] if len(weights) == 1 else torch.cat(list(weights))


def _images(rows: Tensor) -> int | None:
    """Into how many images the rows [R, C] are divided for a convolution; None: a matrix product does it."""
    if len(rows) < _FEWEST_ROWS or not onednn.serves(rows):
        return None
    return next((n for n in range(_FEWEST_IMAGES, 4 * _FEWEST_IMAGES) if len(rows) % n == 0), None)


def _as_images(rows: Tensor, number: int) -> Tensor:
    """[R, C] to [number, C, 1, R / number], the channels last in memory."""
    return rows.view(number, 1, -1, rows.shape[1]).permute(0, 3, 1, 2)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows [R, in] times the transpose of [out, in], [R, out]."""
    if len(rows) < _FEWEST_ROWS or not onednn.serves(rows):
        return functional.linear(rows, weight, bias)
    return onednn.linear(rows, weight, bias)


def _gradient_of_weight(upstream: Tensor, rows: Tensor) -> Tensor:
    """[R, out] and [R, in] to [out, in]."""
    number = _images(rows)
    if number is None:
        return upstream.T @ rows
    _, gradient, _ = torch.ops.aten.convolution_backward(
        _as_images(upstream, number),
        _as_images(rows, number),
        upstream.new_empty(upstream.shape[1], rows.shape[1], 1, 1),  # for its shape
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [False, True, False],
    )
    found: Tensor = gradient.reshape(upstream.shape[1], rows.shape[1])
    return found
