"""LightCNN-9 and LightCNN-29 (Wu et al. 2018): max-feature-map networks for grey faces."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
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
from taskloom.encoders.layouts import LIGHTCNN9, LIGHTCNN29
from taskloom.encoders.modules import check_rate
from taskloom.encoders.preparation import LIGHT_CNN

_FILTERS = (48, 96, 192, 128, 128)
_FEATURES = 256
_BLOCKS = (1, 2, 3, 4)


@with_image_settings
def lightcnn9(
    input_shape: Sequence[int] = (3, 128, 128),
    *,
    dropout: float = 0.5,
    width: float = 1.0,
    **images: Unpack[ImageSettings],
) -> Encoder:
    """LightCNN-9: stages `stem`, `group1` to `group3`, and `fc`, which gives 256 features.

    Every layer is twice as wide as its output and hands on the larger of its two halves (max feature map).
    `group3` holds the last two groups. 5,480,864 parameters for grey images of 128 x 128.

    Args:
        input_shape: (colours, H, W), at least 16 x 16. `fc` is as large as the images make it: the public
            weights are for 128 x 128.
        dropout: Share of the features set to 0 in training.
        width: Factor on filters and features, for small runs.
        **images: See `taskloom.encoders.image_encoder.ImageOptions`; prepared images are grey, 128 x 128 and
            0..1.

    Raises:
        ConfigError: A setting out of range, or images that are too small.
        DataError: Weights that do not fit.

    Example:
        >>> lightcnn9((3, 32, 32), width=0.125).stage_shapes
        ((6, 16, 16), (12, 8, 8), (24, 4, 4), (16, 2, 2), (32,))
    """
    factor, rate = check_width(width), check_rate("dropout", dropout)
    filters = tuple(scaled(size, factor) for size in _FILTERS)

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        return {
            "stem": partial(_stem, shape[0], filters[0]),
            "group1": partial(_groups, [(1, filters[0], filters[1])]),
            "group2": partial(_groups, [(2, filters[1], filters[2])]),
            "group3": partial(_groups, [(3, filters[2], filters[3]), (4, filters[3], filters[4])]),
            "fc": partial(_features, filters[4], shape, scaled(_FEATURES, factor), rate),
        }

    return image_encoder(
        "lightcnn9", input_shape, stages, images, spec=LIGHT_CNN, layouts=LIGHTCNN9, smallest=16
    )


@with_image_settings
def lightcnn29(
    input_shape: Sequence[int] = (3, 128, 128),
    *,
    dropout: float = 0.5,
    width: float = 1.0,
    **images: Unpack[ImageSettings],
) -> Encoder:
    """LightCNN-29: stages `stem`, `stage1` to `stage4`, and `fc`, which gives 256 features.

    A stage is one to four residual blocks of two max-feature-map convolutions, and a group as in `lightcnn9`;
    all but the third end with max pooling. 12,573,280 parameters for grey images of 128 x 128.

    Args:
        input_shape, dropout, width, **images: As in `lightcnn9`.

    Raises:
        ConfigError: A setting out of range, or images that are too small.
        DataError: Weights that do not fit.

    Example:
        >>> lightcnn29((3, 32, 32), width=0.125).stage_names
        ('stem', 'stage1', 'stage2', 'stage3', 'stage4', 'fc')
    """
    factor, rate = check_width(width), check_rate("dropout", dropout)
    filters = tuple(scaled(size, factor) for size in _FILTERS)

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        named: dict[str, LayersFactory] = {"stem": partial(_stem, shape[0], filters[0])}
        for index, (inputs, outputs) in enumerate(pairwise(filters)):
            named[f"stage{index + 1}"] = partial(_residual, index + 1, inputs, outputs)
        named["fc"] = partial(_features, filters[4], shape, scaled(_FEATURES, factor), rate)
        return named

    return image_encoder(
        "lightcnn29", input_shape, stages, images, spec=LIGHT_CNN, layouts=LIGHTCNN29, smallest=16
    )


class MaxFeatureMap(nn.Module):
    """A layer twice as wide as its output, of whose two halves the larger value goes on (equation 4).

    Args:
        layer: Convolution or linear layer; 2 C outputs become C.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.filter = layer

    def forward(self, inputs: Tensor) -> Tensor:
        first, second = self.filter(inputs).chunk(2, 1)
        return torch.maximum(first, second)


class _Residual(nn.Module):
    def __init__(self, filters: int) -> None:
        super().__init__()
        self.conv1 = _convolution(filters, filters, 3)
        self.conv2 = _convolution(filters, filters, 3)

    def forward(self, maps: Tensor) -> Tensor:
        outputs: Tensor = self.conv2(self.conv1(maps))
        return outputs + maps


def _convolution(num_inputs: int, num_filters: int, kernel: int) -> MaxFeatureMap:
    return MaxFeatureMap(nn.Conv2d(num_inputs, 2 * num_filters, kernel, padding=kernel // 2))


def _group(num_inputs: int, num_filters: int) -> nn.Sequential:
    parts = {
        "conv_a": _convolution(num_inputs, num_inputs, 1),
        "conv": _convolution(num_inputs, num_filters, 3),
    }
    return nn.Sequential(OrderedDict(parts))


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(2, ceil_mode=True)


def _stem(num_colours: int, num_filters: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(conv1=_convolution(num_colours, num_filters, 5), pool=_pool())


def _groups(groups: Sequence[tuple[int, int, int]]) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, num_inputs, num_filters in groups:
        layers[f"group{number}"] = _group(num_inputs, num_filters)
    layers["pool"] = _pool()
    return layers


def _residual(number: int, num_inputs: int, num_filters: int) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers[f"block{number}"] = nn.Sequential(*(_Residual(num_inputs) for _ in range(_BLOCKS[number - 1])))
    layers[f"group{number}"] = _group(num_inputs, num_filters)
    if number != 3:
        layers["pool"] = _pool()
    return layers


def _features(
    num_filters: int, shape: tuple[int, int, int], features: int, dropout: float
) -> OrderedDict[str, nn.Module]:
    height, width = ((side + 15) // 16 for side in shape[1:])
    return OrderedDict(
        flatten=nn.Flatten(),
        fc=MaxFeatureMap(nn.Linear(num_filters * height * width, 2 * features)),
        dropout=nn.Dropout(dropout),
    )
