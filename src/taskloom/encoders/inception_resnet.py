"""Inception-ResNet-v1 (Szegedy et al. 2017), as facenet's public weights have it."""

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
    check_width,
    image_encoder,
    scaled,
    with_image_settings,
)
from taskloom.encoders.layouts import INCEPTION_RESNET_V1
from taskloom.encoders.modules import check_rate
from taskloom.encoders.preparation import FACENET
from taskloom.encoders.resnet_blocks import MapAverage

_EPSILON = 0.001  # TensorFlow's, with which the public weights were trained
_FEATURES = 512

Sizes = tuple[tuple[int, tuple[int, int], int], ...]
"""Convolutions one after the other: filters, kernel (height, width), stride."""


@with_image_settings
def inception_resnet_v1(
    input_shape: Sequence[int] = (3, 160, 160),
    *,
    dropout: float = 0.6,
    width: float = 1.0,
    **images: Unpack[ImageSettings],
) -> Encoder:
    """Stages `stem`, `block35`, `block17`, `block8` and `embedding`, which gives 512 features.

    `block17` and `block8` begin with their reduction (`mixed_6a`, `mixed_7a`); `block8` ends with the mean
    over the map; `embedding` is dropout, a linear layer without bias and batch norm. 23,482,624 parameters.
    Features are not scaled to length 1, which the public network does last.

    Args:
        input_shape: (3, H, W), at least 75 x 75; any number of colours.
        dropout: Share of the averages before `embedding` set to 0 in training.
        width: Factor on filters and features, for small runs.
        **images: See `taskloom.encoders.image_encoder.ImageOptions`; prepared images are RGB of 160 x 160,
            (255 x - 127.5) / 128.

    Raises:
        ConfigError: A setting out of range, or images that are too small.
        DataError: Weights that do not fit.

    Example:
        >>> inception_resnet_v1((3, 75, 75), width=0.0625).stage_shapes
        ((16, 7, 7), (16, 7, 7), (56, 3, 3), (112,), (32,))
    """
    factor, rate = check_width(width), check_rate("dropout", dropout)

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        return {
            "stem": partial(_stem, shape[0], factor),
            "block35": partial(_stage35, factor),
            "block17": partial(_stage17, factor),
            "block8": partial(_stage8, factor),
            "embedding": partial(_embedding, factor, rate),
        }

    return image_encoder(
        "inception_resnet_v1",
        input_shape,
        stages,
        images,
        spec=FACENET,
        layouts=INCEPTION_RESNET_V1,
        smallest=75,
    )


class ConvNorm(nn.Module):
    """relu(bn(conv(x))), without bias.

    Args:
        num_inputs: Channels in.
        num_filters: Filters.
        kernel: Height and width.
        stride: Of both axes.
        padded: Whether zeros around the map keep its size (where the stride is 1).
    """

    def __init__(
        self, num_inputs: int, num_filters: int, kernel: tuple[int, int], stride: int = 1, *, padded: bool
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(num_inputs, num_filters, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(num_filters, eps=_EPSILON)

    def forward(self, maps: Tensor) -> Tensor:
        outputs: Tensor = self.bn(self.conv(maps)).relu_()
        return outputs


class Branches(nn.Module):
    """Several chains of convolutions on one input, their outputs side by side.

    Args:
        num_inputs: Channels in.
        branches: Sizes of each chain's convolutions; a chain of one is not wrapped, as in the public network.
        pooled: Whether 3 x 3 max pooling of stride 2 is a further branch (a reduction).
    """

    def __init__(self, num_inputs: int, branches: Sequence[Sizes], *, pooled: bool) -> None:
        super().__init__()
        for index, sizes in enumerate(branches):
            chain, channels = [], num_inputs
            for filters, kernel, stride in sizes:
                chain.append(ConvNorm(channels, filters, kernel, stride, padded=stride == 1))
                channels = filters
            self.add_module(f"branch{index}", chain[0] if len(chain) == 1 else nn.Sequential(*chain))
        if pooled:
            self.add_module(f"branch{len(branches)}", nn.MaxPool2d(3, stride=2))

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([branch(maps) for branch in self.children()], 1)


class ResidualBranches(nn.Module):
    """[relu](x + scale * conv(branches(x))): Szegedy et al. 2017, section 3.3.

    Args:
        num_inputs: Channels in and out.
        branches: As in `Branches`.
        scale: Factor on what is added.
        rectified: Whether ReLU comes last.
    """

    def __init__(self, num_inputs: int, branches: Sequence[Sizes], scale: float, rectified: bool) -> None:
        super().__init__()
        joined = Branches(num_inputs, branches, pooled=False)
        for name, branch in joined.named_children():
            self.add_module(name, branch)
        self.conv2d = nn.Conv2d(sum(sizes[-1][0] for sizes in branches), num_inputs, 1)
        self.num_branches, self.scale, self.rectified = len(branches), scale, rectified

    def forward(self, maps: Tensor) -> Tensor:
        branches = (self.get_submodule(f"branch{index}") for index in range(self.num_branches))
        added = self.conv2d(torch.cat([branch(maps) for branch in branches], 1))
        outputs = torch.add(maps, added, alpha=self.scale)
        return outputs.relu_() if self.rectified else outputs


def _stem(num_colours: int, width: float) -> OrderedDict[str, nn.Module]:
    sizes = [scaled(size, width) for size in (32, 32, 64, 80, 192, 256)]
    three, one = (3, 3), (1, 1)
    return OrderedDict(
        conv2d_1a=ConvNorm(num_colours, sizes[0], three, 2, padded=False),
        conv2d_2a=ConvNorm(sizes[0], sizes[1], three, padded=False),
        conv2d_2b=ConvNorm(sizes[1], sizes[2], three, padded=True),
        maxpool_3a=nn.MaxPool2d(3, stride=2),
        conv2d_3b=ConvNorm(sizes[2], sizes[3], one, padded=False),
        conv2d_4a=ConvNorm(sizes[3], sizes[4], three, padded=False),
        conv2d_4b=ConvNorm(sizes[4], sizes[5], three, 2, padded=False),
    )


def _sizes(width: float, *convolutions: tuple[int, int | tuple[int, int], int]) -> Sizes:
    return tuple(
        (scaled(filters, width), (kernel, kernel) if isinstance(kernel, int) else kernel, stride)
        for filters, kernel, stride in convolutions
    )


def _repeated(count: int, num_inputs: int, branches: Sequence[Sizes], scale: float) -> nn.Sequential:
    return nn.Sequential(*(ResidualBranches(num_inputs, branches, scale, True) for _ in range(count)))


def _stage35(width: float) -> OrderedDict[str, nn.Module]:
    branches = [
        _sizes(width, (32, 1, 1)),
        _sizes(width, (32, 1, 1), (32, 3, 1)),
        _sizes(width, (32, 1, 1), (32, 3, 1), (32, 3, 1)),
    ]
    return OrderedDict(repeat_1=_repeated(5, scaled(256, width), branches, 0.17))


def _stage17(width: float) -> OrderedDict[str, nn.Module]:
    inputs = scaled(256, width)
    reduction = [_sizes(width, (384, 3, 2)), _sizes(width, (192, 1, 1), (192, 3, 1), (256, 3, 2))]
    branches = [_sizes(width, (128, 1, 1)), _sizes(width, (128, 1, 1), (128, (1, 7), 1), (128, (7, 1), 1))]
    channels = inputs + sum(sizes[-1][0] for sizes in reduction)
    return OrderedDict(
        mixed_6a=Branches(inputs, reduction, pooled=True), repeat_2=_repeated(10, channels, branches, 0.1)
    )


def _channels17(width: float) -> int:
    return scaled(256, width) + scaled(384, width) + scaled(256, width)


def _channels8(width: float) -> int:
    return _channels17(width) + scaled(384, width) + 2 * scaled(256, width)


def _stage8(width: float) -> OrderedDict[str, nn.Module]:
    reduction = [
        _sizes(width, (256, 1, 1), (384, 3, 2)),
        _sizes(width, (256, 1, 1), (256, 3, 2)),
        _sizes(width, (256, 1, 1), (256, 3, 1), (256, 3, 2)),
    ]
    branches = [_sizes(width, (192, 1, 1)), _sizes(width, (192, 1, 1), (192, (1, 3), 1), (192, (3, 1), 1))]
    channels = _channels8(width)
    return OrderedDict(
        mixed_7a=Branches(_channels17(width), reduction, pooled=True),
        repeat_3=_repeated(5, channels, branches, 0.2),
        block8=ResidualBranches(channels, branches, 1.0, False),
        average=MapAverage(),
    )


def _embedding(width: float, dropout: float) -> OrderedDict[str, nn.Module]:
    features = scaled(_FEATURES, width)
    return OrderedDict(
        dropout=nn.Dropout(dropout),
        last_linear=nn.Linear(_channels8(width), features, bias=False),
        last_bn=nn.BatchNorm1d(features, eps=_EPSILON),
    )
