"""The five-block VGG-style image network of thesis 000 (its figure 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from taskloom.encoders.encoder import Encoder, check_input_shape
from taskloom.encoders.modules import check_sizes, glorot_start
from taskloom.errors import ConfigError

HEAD_HIDDEN = (256, 128, 64)
"""Hidden layers of each task's head in thesis 000, section 4.1."""


def vgg5(
    input_shape: Sequence[int] = (3, 64, 64),
    *,
    filters: Sequence[int] = (16, 16, 32, 32, 64),
    kernel: int = 3,
) -> Encoder:
    """One stage per block, `conv_0` to `conv_4`: a convolution with ReLU, then 2 x 2 max pooling.

    The thesis gives the filters and the heads (`HEAD_HIDDEN`), not the kernel: 3 x 3, zero-padded, is VGG's.
    Weights start as Keras, which the thesis used, starts them: uniform after Glorot, biases 0.

    Args:
        input_shape: (3, H, W); any number of colours and any size of at least 2 ** blocks.
        filters: Filters of each block.
        kernel: Side of each kernel in pixels; odd.

    Raises:
        ConfigError: A setting out of range, or an image too small for the pooling.

    Example:
        >>> encoder = vgg5((3, 64, 64))
        >>> encoder.stage_shapes[-1], encoder.num_features
        ((64, 2, 2), 256)
    """
    shape = check_input_shape(input_shape)
    if len(shape) != 3:
        raise ConfigError(f"vgg5 takes images (colours, height, width); got an input of shape {shape}.")
    widths = check_sizes("filters", filters, empty=False)
    (side,) = check_sizes("kernel", kernel)
    if side % 2 == 0:
        raise ConfigError(f"kernel must be odd, so that padding keeps the image's size; got {side}.")
    needed = 2 ** len(widths)
    if min(shape[1:]) < needed:
        raise ConfigError(
            f"vgg5 with {len(widths)} blocks needs images of at least {needed} x {needed} pixels; the images "
            f"have {shape[1]} x {shape[2]}: take larger images or fewer blocks."
        )
    factories = [
        partial(_block, num_inputs, num_filters, side)
        for num_inputs, num_filters in zip((shape[0], *widths[:-1]), widths, strict=True)
    ]
    names = [f"conv_{index}" for index in range(len(widths))]
    return Encoder([factory() for factory in factories], input_shape=shape, names=names, rebuild=factories)


def _block(num_inputs: int, num_filters: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(num_inputs, num_filters, kernel, padding=kernel // 2)
    glorot_start(convolution)
    # Pooling before ReLU gives the same values and gradients, for a quarter of the work.
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.ReLU())
