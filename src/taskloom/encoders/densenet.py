"""DenseNet-121 (Huang et al. 2017), a stage per dense block, whose weights go by torchvision's names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn

from taskloom.encoders.encoder import Encoder
from taskloom.encoders.image_encoder import (
    ImageSettings,
    LayersFactory,
    image_encoder,
    with_image_settings,
)
from taskloom.encoders.layouts import DENSENET
from taskloom.encoders.modules import check_sizes
from taskloom.encoders.preparation import IMAGENET
from taskloom.encoders.resnet_blocks import MapAverage
from taskloom.errors import ConfigError

_BOTTLENECK = 4


@with_image_settings
def densenet121(
    input_shape: Sequence[int] = (3, 224, 224),
    *,
    growth: int = 32,
    layers: Sequence[int] = (6, 12, 24, 16),
    **images: Unpack[ImageSettings],
) -> Encoder:
    """Stages `stem` and `block1` to `block4`, 6,953,856 parameters.

    A block's layers each add `growth` channels to what they are given: batch norm, ReLU, 1 x 1 convolution to
    4 `growth`, batch norm, ReLU, 3 x 3 convolution. `block1` to `block3` end with their transition (half the
    channels, half the side), `block4` with batch norm, ReLU and the mean over the map.

    Args:
        input_shape: (3, H, W), at least 32 x 32; any number of colours.
        growth: Channels that a layer adds; the stem has twice as many.
        layers: Layers of the four blocks.
        **images: See `taskloom.encoders.image_encoder.ImageOptions`; prepared images are RGB of 224 x 224,
            (x - mean) / deviation with ImageNet's means and deviations. Both spellings of torchvision's
            names (`norm1`, and `norm.1` of the old files) are known.

    Raises:
        ConfigError: A setting out of range, or images that are too small.
        DataError: Weights that do not fit.

    Example:
        >>> densenet121((3, 32, 32), growth=4, layers=(1, 1, 1, 1)).stage_shapes
        ((8, 8, 8), (6, 4, 4), (5, 2, 2), (4, 1, 1), (8,))
    """
    (added,) = check_sizes("growth", growth)
    counts = check_sizes("layers", layers)
    if len(counts) != 4:
        raise ConfigError(f"layers: one number for each of the four blocks expected; got {counts}.")

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        channels = 2 * added
        named: dict[str, LayersFactory] = {"stem": partial(_stem, shape[0], channels)}
        for index, count in enumerate(counts):
            named[f"block{index + 1}"] = partial(_block, channels, added, count, index == 3)
            channels = (channels + count * added) // (1 if index == 3 else 2)
        return named

    return image_encoder(
        "densenet121", input_shape, stages, images, spec=IMAGENET, layouts=DENSENET, smallest=32
    )


class DenseLayer(nn.Module):
    """[N, C, H, W] to the same with `growth` more channels.

    Args:
        num_inputs: C.
        growth: Channels that it adds.
    """

    def __init__(self, num_inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(num_inputs)
        self.conv1 = _convolution(num_inputs, _BOTTLENECK * growth, 1)
        self.norm2 = nn.BatchNorm2d(_BOTTLENECK * growth)
        self.conv2 = _convolution(_BOTTLENECK * growth, growth, 3)

    def forward(self, maps: Tensor) -> Tensor:
        added = self.conv1(self.norm1(maps).relu_())
        added = self.conv2(self.norm2(added).relu_())
        return torch.cat([maps, added], 1)


def _stem(num_colours: int, num_filters: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        conv0=_convolution(num_colours, num_filters, 7, 2),
        norm0=nn.BatchNorm2d(num_filters),
        relu0=nn.ReLU(inplace=True),
        pool0=nn.MaxPool2d(3, stride=2, padding=1),
    )


def _block(num_inputs: int, growth: int, count: int, last: bool) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        (f"denselayer{index + 1}", DenseLayer(num_inputs + index * growth, growth)) for index in range(count)
    )
    channels = num_inputs + count * growth
    if last:
        layers["norm5"] = nn.BatchNorm2d(channels)
        layers["relu"] = nn.ReLU(inplace=True)
        layers["average"] = MapAverage()
    else:
        layers["transition"] = nn.Sequential(
            OrderedDict[str, nn.Module](
                norm=nn.BatchNorm2d(channels),
                relu=nn.ReLU(inplace=True),
                conv=_convolution(channels, channels // 2, 1),
                pool=nn.AvgPool2d(2),
            )
        )
    return layers


def _convolution(num_inputs: int, num_filters: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(num_inputs, num_filters, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight)  # torchvision's start: fan in
    return layer
