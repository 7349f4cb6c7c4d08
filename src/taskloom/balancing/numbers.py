"""A few numbers per step without the price of tensors: one formula for NumPy's arrays and for PyTorch's.

A weighing of T losses is a dozen operations on T numbers. On a CPU each costs a tensor five to ten times what
it costs an array, and autograd as much again: for a small network more than its optimiser. So the formulas
are written once for both kinds, with their slopes: losses on a CPU are weighed as arrays in double
precision, losses on a GPU as tensors there, because reading them would make the CPU wait. Up to `FEW` losses
on a CPU are weighed in Python's own numbers, where a method says how: an array of three costs as much as one
of a thousand, and the step of a small network has no more than a few dozen microseconds to spare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Numbers = Any
"""A number per loss: an array on the CPU, a list where they are few, a tensor on a GPU."""

FEW = 32
"""Losses up to which Python's own numbers are faster than arrays."""

_KNOWN = frozenset({torch.float32, torch.float64, torch.int64, torch.bool})
"""Types that NumPy has as well, and with which its arithmetic ends in double precision."""

_ARRAYS = {torch.float32: np.float32, torch.float64: np.float64}


class Weighed(NamedTuple):
    """What a method makes of the mean losses.

    Args:
        weights: The slope of what is minimised in every mean loss, [K]; 0 for an absent task.
        total: What is minimised, a number; None where it is the sum of weights times mean losses.
        slope: Its slope in what the method learns, [T]; None where it learns nothing.
    """

    weights: Numbers
    total: Numbers | None = None
    slope: Numbers | None = None


def module_of(values: Numbers) -> Any:
    """`torch` or `numpy`: whose functions `values` go with."""
    return torch if isinstance(values, Tensor) else np


def numbers(tensor: Tensor) -> Numbers:
    """The values of a tensor for arithmetic of a few numbers, without gradient; they are only read.

    Example:
        >>> numbers(torch.tensor([1, 2]))
        array([1, 2])
    """
    values = tensor.detach()
    if values.is_cpu and values.dtype in _KNOWN:
        return values.numpy()  # the tensor's own memory: not to be written to
    if not values.is_cuda:
        values = values.cpu()
    if values.dtype != torch.bool:
        values = values.double()
    return values if values.is_cuda else values.numpy()


def as_tensor(values: Numbers, like: Tensor) -> Tensor:
    """The numbers as a tensor of the type and on the device of `like`."""
    if isinstance(values, list) and like.is_cpu and like.dtype in _ARRAYS:
        return torch.from_numpy(np.array(values, dtype=_ARRAYS[like.dtype]))  # a third of the tensor's time
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def at_least(values: Numbers, least: float) -> Numbers:
    """The larger of each value and `least`."""
    return values.clamp(min=least) if isinstance(values, Tensor) else np.maximum(values, least)


def softmax(logits: Numbers, among: Numbers) -> Numbers:
    """The softmax over the places that `among` (bool) names; 0 elsewhere, all equal where none is named.

    Example:
        >>> softmax(np.array([0.0, 5.0, 0.0]), np.array([True, False, True]))
        array([0.5, 0. , 0.5])
    """
    module = module_of(logits)
    # A finite filling: where nothing is named, infinities would become NaN.
    filled = module.where(among, logits, -1e30)
    powers = module.exp(filled - filled.max())
    return powers / powers.sum()


def softmax_of_few(logits: Sequence[float], among: Sequence[bool]) -> list[float]:
    """`softmax` of a few numbers.

    Example:
        >>> softmax_of_few([0.0, 5.0, 0.0], [True, False, True])
        [0.5, 0.0, 0.5]
    """
    filled = [logit if there else -1e30 for logit, there in zip(logits, among, strict=True)]
    largest = max(filled)
    powers = [math.exp(value - largest) for value in filled]
    total = sum(powers)
    return [power / total for power in powers]
