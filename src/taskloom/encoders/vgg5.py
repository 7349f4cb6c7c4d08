"""The small image networks of the theses: five blocks (000, figure 4.1); 40 x 40 faces (004, section 5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Unpack

from torch import nn

from taskloom.encoders.encoder import Encoder
from taskloom.encoders.image_encoder import (
    ImageSettings,
    LayersFactory,
    image_encoder,
    with_image_settings,
)
from taskloom.encoders.modules import activation_layer, check_sizes, glorot_start
from taskloom.errors import ConfigError

HEAD_HIDDEN = (256, 128, 64)
"""Hidden layers of each task's head in thesis 000, section 4.1."""


@with_image_settings
def vgg5(
    input_shape: Sequence[int] = (3, 64, 64),
    *,
    filters: Sequence[int] = (16, 16, 32, 32, 64),
    kernel: int = 3,
    batch_norm: bool = False,
    **images: Unpack[ImageSettings],
) -> Encoder:
    """One stage per block, `conv_0` to `conv_4`: a convolution with ReLU, then 2 x 2 max pooling.

    The thesis gives the filters and the heads (`HEAD_HIDDEN`), not the kernel: 3 x 3, zero-padded, is VGG's.
    Weights start as Keras, which the thesis used, starts them: uniform after Glorot, biases 0.

    Args:
        input_shape: (3, H, W); any number of colours and any size of at least 2 ** blocks.
        filters: Filters of each block.
        kernel: Side of each kernel in pixels; odd.
        batch_norm: Batch normalisation between pooling and ReLU, which the thesis does not have.
        **images: See `taskloom.encoders.image_encoder.ImageOptions`.

    Raises:
        ConfigError: A setting out of range, or an image too small for the pooling.

    Example:
        >>> encoder = vgg5((3, 64, 64))
        >>> encoder.stage_shapes[-1], encoder.num_features
        ((64, 2, 2), 256)
    """
    widths = check_sizes("filters", filters, empty=False)
    (side,) = check_sizes("kernel", kernel)
    if side % 2 == 0:
        raise ConfigError(f"kernel must be odd, so that padding keeps the image's size; got {side}.")

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        return {
            f"conv_{index}": partial(_block, num_inputs, num_filters, side, batch_norm)
            for index, (num_inputs, num_filters) in enumerate(
                zip((shape[0], *widths[:-1]), widths, strict=True)
            )
        }

    name = "vgg5" if len(widths) == 5 else f"vgg5 with {len(widths)} blocks"
    hint = "take larger images or fewer blocks"
    return image_encoder(name, input_shape, stages, images, smallest=2 ** len(widths), hint=hint)


@with_image_settings
def mtfl_cnn(
    input_shape: Sequence[int] = (3, 40, 40),
    *,
    filters: Sequence[int] = (16, 48, 64, 64),
    dense: int = 100,
    activation: str = "relu",
    **images: Unpack[ImageSettings],
) -> Encoder:
    """The 40 x 40 network of thesis 004, section 5; stages `conv_0` to `conv_3` and `dense`.

    "4 convolution layers, 3 pooling layers and a fully connected layer", 16 channels after the first pooling.
    The other sizes are those of the network that the thesis builds on (Zhang et al. 2014, TCDCN, figure 3):
    kernels 5, 3, 3 and 2 without padding, 48, 64 and 64 filters, 100 units. Activations, which the thesis
    does not name, are ReLU. Each of the first three stages ends with its 2 x 2 max pooling.

    Args:
        input_shape: (colours, H, W), at least 32 x 32.
        filters: Filters of the four convolutions.
        dense: Units of the fully connected layer.
        activation: After every layer; a name of `taskloom.encoders.modules.ACTIVATIONS`.
        **images: See `taskloom.encoders.image_encoder.ImageOptions`.

    Raises:
        ConfigError: A setting out of range, or images that are too small.

    Example:
        >>> mtfl_cnn().stage_shapes
        ((16, 18, 18), (48, 8, 8), (64, 3, 3), (64, 2, 2), (100,))
    """
    widths = check_sizes("filters", filters, empty=False)
    if len(widths) != len(_MTFL_KERNELS):
        raise ConfigError(f"mtfl_cnn has {len(_MTFL_KERNELS)} convolutions; got filters {widths}.")
    (units,) = check_sizes("dense", dense)
    activation_layer(activation)

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        named: dict[str, LayersFactory] = {}
        inputs, height, width = shape
        for index, (kernel, num_filters) in enumerate(zip(_MTFL_KERNELS, widths, strict=True)):
            pooled = index < len(widths) - 1
            named[f"conv_{index}"] = partial(_mtfl_block, inputs, num_filters, kernel, activation, pooled)
            height, width = (((side - kernel + 1) // (2 if pooled else 1)) for side in (height, width))
            inputs = num_filters
        named["dense"] = partial(_mtfl_dense, inputs * height * width, units, activation)
        return named

    return image_encoder("mtfl_cnn", input_shape, stages, images, smallest=32)


_MTFL_KERNELS = (5, 3, 3, 2)


def _block(num_inputs: int, num_filters: int, kernel: int, batch_norm: bool) -> OrderedDict[str, nn.Module]:
    convolution = nn.Conv2d(num_inputs, num_filters, kernel, padding=kernel // 2, bias=not batch_norm)
    glorot_start(convolution)
    if batch_norm:
        return OrderedDict(
            {"0": convolution, "1": nn.MaxPool2d(2), "norm": nn.BatchNorm2d(num_filters), "2": nn.ReLU()}
        )
    # Pooling before ReLU gives the same values and gradients, for a quarter of the work.
    return OrderedDict({"0": convolution, "1": nn.MaxPool2d(2), "2": nn.ReLU()})


def _mtfl_block(
    num_inputs: int, num_filters: int, kernel: int, activation: str, pooled: bool
) -> OrderedDict[str, nn.Module]:
    layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(num_inputs, num_filters, kernel))
    layers["activation"] = activation_layer(activation)
    if pooled:
        layers["pool"] = nn.MaxPool2d(2)
    return layers


def _mtfl_dense(num_inputs: int, units: int, activation: str) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        flatten=nn.Flatten(), linear=nn.Linear(num_inputs, units), activation=activation_layer(activation)
    )
