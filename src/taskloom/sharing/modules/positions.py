"""Fitting a tensor to the shape of another stage's output without parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor


def to_positions(tensor: Tensor, positions: Sequence[int]) -> Tensor:
    """Averages [N, C, ...] over its positions until they are these; a tensor that fits stays as it is.

    Where the number of axes differs (a stage that flattens), the mean over all positions serves every one.

    Example:
        >>> to_positions(torch.tensor([[[1.0, 3.0, 5.0, 7.0]]]), (2,)).tolist()
        [[[2.0, 6.0]]]
        >>> to_positions(torch.tensor([[[1.0, 3.0]]]), ()).tolist()
        [[2.0]]
    """
    found = tuple(tensor.shape[2:])
    if found == tuple(positions):
        return tensor
    if len(found) != len(positions) or len(found) > 3:
        mean = tensor.flatten(2).mean(2) if found else tensor
        return mean.reshape(*mean.shape, *(1,) * len(positions))
    if all(old % new == 0 for old, new in zip(found, positions, strict=True)):
        sizes = [side for old, new in zip(found, positions, strict=True) for side in (new, old // new)]
        split = tensor.reshape(*tensor.shape[:2], *sizes)
        return split.mean(dim=list(range(3, 3 + 2 * len(found), 2)))
    pools: tuple[Callable[..., Tensor], ...] = (
        functional.adaptive_avg_pool1d,
        functional.adaptive_avg_pool2d,
        functional.adaptive_avg_pool3d,
    )
    return pools[len(found) - 1](tensor, tuple(positions))


def skip(inputs: Tensor, shape: Sequence[int]) -> Tensor:
    """Fits [N, C, ...] to [N, *shape] without parameters; the tensor itself where it fits.

    Positions (axes after the channels) are averaged, see `to_positions`. Then channels: zeros are added at
    the end where there are too few (option A of He et al. 2016); where there are too many, neighbouring
    channels are averaged.

    Args:
        inputs: [N, C, ...].
        shape: Shape of one row of the stage's output, without the batch axis.

    Example:
        >>> skip(torch.tensor([[1.0, 2.0]]), (3,)).tolist()
        [[1.0, 2.0, 0.0]]
        >>> skip(torch.tensor([[1.0, 3.0, 5.0, 7.0]]), (2,)).tolist()
        [[2.0, 6.0]]
    """
    if tuple(inputs.shape[1:]) == tuple(shape):
        return inputs
    rows = to_positions(inputs, shape[1:])
    channels, wanted = rows.shape[1], shape[0]
    if channels > wanted:
        # Channels to the last axis, where pooling works.
        last = rows.flatten(2).transpose(1, 2) if rows.dim() > 2 else rows.unsqueeze(1)
        pooled = functional.adaptive_avg_pool1d(last, wanted).transpose(1, 2)
        rows = pooled.reshape(rows.shape[0], wanted, *rows.shape[2:])
    elif channels < wanted:
        zeros = rows.new_zeros(rows.shape[0], wanted - channels, *rows.shape[2:])
        rows = torch.cat([rows, zeros], dim=1)
    return rows.expand(rows.shape[0], *shape)
