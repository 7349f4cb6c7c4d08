"""Changes of a batch of images on the device, each image by its own amount; landmarks move with them.

Images are [B, C, H, W]; 0, 0 is the centre of the first pixel, as everywhere. Nothing here draws random
numbers: `taskloom.training.augmentation` does.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601)."""


def flipped(images: Tensor, which: Tensor) -> Tensor:
    """Mirrors left and right where `which`, [B] bool."""
    return torch.where(which.view(-1, 1, 1, 1), images.flip(3), images)


def flipped_points(points: Tensor, which: Tensor, width: int, order: Tensor) -> Tensor:
    """Mirrors points [B, K, 2] in images of `width` pixels where `which`, and renames them by `order`, [K].

    Args:
        points: x and y.
        which: Which rows are mirrored, [B] bool.
        width: Of the images.
        order: For each point, which one stands in its place in the mirror: the left eye for the right.

    Example:
        >>> eyes = torch.tensor([[[1.0, 5.0], [7.0, 5.0]]])
        >>> flipped_points(eyes, torch.tensor([True]), 10, torch.tensor([1, 0]))
        tensor([[[2., 5.],
                 [8., 5.]]])
    """
    mirrored = points[:, order].clone()
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return torch.where(which.view(-1, 1, 1), mirrored, points)


def affine_maps(degrees: Tensor, scale: Tensor, shift: Tensor, height: int, width: int) -> Tensor:
    """Maps of points that turn about the centre, scale, and shift.

    Args:
        degrees: Angles, [B]; positive ones turn clockwise as one looks at the picture.
        scale: Factors, [B].
        shift: Across and down, in pixels, [B, 2].
        height, width: Of the images.

    Returns:
        [B, 2, 3]: x', y' of (x, y, 1).

    Example:
        >>> quarter = affine_maps(torch.tensor([90.0]), torch.ones(1), torch.zeros(1, 2), 5, 5)
        >>> (moved_points(torch.tensor([[[4.0, 2.0]]]), quarter)).round().tolist()
        [[[2.0, 4.0]]]
    """
    angle = degrees * (math.pi / 180)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=turn.dtype, device=turn.device)
    offset = centre + shift - turn @ centre
    return torch.cat([turn, offset[:, :, None]], dim=2)


def moved_points(points: Tensor, maps: Tensor) -> Tensor:
    """Points [B, K, 2] under maps [B, 2, 3]."""
    return points @ maps[:, :, :2].transpose(1, 2) + maps[:, None, :, 2]


def moved(images: Tensor, maps: Tensor) -> Tensor:
    """Images under maps of their points [B, 2, 3], bilinear; what comes from outside repeats the edge."""
    height, width = images.shape[2:]
    inverse = torch.linalg.inv(maps[:, :, :2])
    back = torch.cat([inverse, -inverse @ maps[:, :, 2:]], dim=2)
    # grid_sample counts from -1 to 1 over the outer edges of the pixels: u = (2 x + 1) / width - 1.
    size = torch.tensor([width, height], dtype=maps.dtype, device=maps.device)
    linear = back[:, :, :2] * size / size[:, None]
    shift = (2 * back[:, :, 2] + 1 + (back[:, :, :2] @ (size - 1))) / size - 1
    theta = torch.cat([linear, shift[:, :, None]], dim=2).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def coloured(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Brightness, contrast and saturation of RGB images on the scale 0..1, in this order, each clipped.

    Args:
        images: [B, 3, H, W].
        brightness: Factors on every pixel, [B].
        contrast: Factors on the distance from the image's mean grey, [B].
        saturation: Factors on the distance from each pixel's grey, [B].
    """
    factor = [amount.view(-1, 1, 1, 1) for amount in (brightness, contrast, saturation)]
    images = (images * factor[0]).clamp(0, 1)
    mean = _grey(images).mean(dim=(2, 3), keepdim=True)
    images = (mean + (images - mean) * factor[1]).clamp(0, 1)
    grey = _grey(images)
    return (grey + (images - grey) * factor[2]).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor(GREY, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)
