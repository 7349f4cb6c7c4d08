"""VGG-16 (Simonyan and Zisserman 2015), a stage per block, whose weights go by torchvision's order."""

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
    check_width,
    image_encoder,
    scaled,
    with_image_settings,
)
from taskloom.encoders.layouts import vgg16_layouts
from taskloom.encoders.modules import check_rate
from taskloom.encoders.preparation import IMAGENET

_FILTERS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = (2, 2, 3, 3, 3)
_DENSE = 4096
_GRID = 7


@with_image_settings
def vgg16(
    input_shape: Sequence[int] = (3, 224, 224),
    *,
    batch_norm: bool = False,
    dense: bool = False,
    dropout: float = 0.5,
    width: float = 1.0,
    **images: Unpack[ImageSettings],
) -> Encoder:
    """Stages `block1` to `block5` (configuration D), and with `dense` also `fc6` and `fc7`.

    A block is two or three 3 x 3 convolutions with ReLU and 2 x 2 max pooling. 14,714,688 parameters, with
    the two dense layers 134,260,544. Weights start normal after He (fan out), biases 0, dense layers normal
    with deviation 0.01, as torchvision's.

    Args:
        input_shape: (3, H, W), at least 32 x 32; any number of colours.
        batch_norm: Whether every convolution is followed by batch norm (torchvision's `vgg16_bn`).
        dense: Whether the two fully connected layers of 4096 units come last, after the map was averaged to
            7 x 7; else the map itself is what the heads flatten.
        dropout: Share of the outputs of `fc6` and `fc7` set to 0 in training.
        width: Factor on filters and units, for small runs.
        **images: See `taskloom.encoders.image_encoder.ImageOptions`; prepared images are RGB of 224 x 224,
            (x - mean) / deviation with ImageNet's means and deviations.

    Raises:
        ConfigError: A setting out of range, or images that are too small.
        DataError: Weights that do not fit.

    Example:
        >>> vgg16((3, 32, 32), width=0.125).stage_shapes
        ((8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2), (64, 1, 1))
    """
    factor = check_width(width)
    filters = tuple(scaled(size, factor) for size in _FILTERS)
    rate = check_rate("dropout", dropout)

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        inputs = (shape[0], *filters[:-1])
        blocks = zip(inputs, filters, _CONVOLUTIONS, strict=True)
        named: dict[str, LayersFactory] = {
            f"block{index + 1}": partial(_block, *sizes, batch_norm) for index, sizes in enumerate(blocks)
        }
        if dense:
            units = scaled(_DENSE, factor)
            named["fc6"] = partial(_dense, "fc6", filters[-1] * _GRID**2, units, rate)
            named["fc7"] = partial(_dense, "fc7", units, units, rate)
        return named

    return image_encoder(
        "vgg16", input_shape, stages, images, spec=IMAGENET, layouts=vgg16_layouts(batch_norm), smallest=32
    )


def _block(
    num_inputs: int, num_filters: int, convolutions: int, batch_norm: bool
) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(convolutions):
        layer = nn.Conv2d(num_filters if index else num_inputs, num_filters, 3, padding=1)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
        layers[f"conv{index}"] = layer
        if batch_norm:
            layers[f"norm{index}"] = nn.BatchNorm2d(num_filters)
        layers[f"relu{index}"] = nn.ReLU(inplace=True)
    layers["pool"] = nn.MaxPool2d(2)
    return layers


def _dense(name: str, num_inputs: int, units: int, dropout: float) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if name == "fc6":
        layers["grid"] = nn.AdaptiveAvgPool2d(_GRID)
        layers["flatten"] = nn.Flatten()
    layer = nn.Linear(num_inputs, units)
    nn.init.normal_(layer.weight, 0.0, 0.01)
    nn.init.zeros_(layer.bias)
    layers[name] = layer
    layers["relu"] = nn.ReLU(inplace=True)
    layers["dropout"] = nn.Dropout(dropout)
    return layers
