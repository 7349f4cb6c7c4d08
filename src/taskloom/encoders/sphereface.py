"""SphereFace-20 (Liu et al. 2017, table 2): a residual network with PReLU for faces of 112 x 96."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Unpack

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
from taskloom.encoders.layouts import SPHEREFACE20
from taskloom.encoders.preparation import SPHEREFACE as SPHEREFACE_INPUT

_FILTERS = (64, 128, 256, 512)
_RESIDUALS = (1, 2, 4, 1)
_FEATURES = 512


@with_image_settings
def sphereface20(
    input_shape: Sequence[int] = (3, 112, 96), *, width: float = 1.0, **images: Unpack[ImageSettings]
) -> Encoder:
    """Stages `conv1` to `conv4`, and `fc5`, which gives 512 features: 22,670,656 parameters at 112 x 96.

    A stage is a 3 x 3 convolution of stride 2 and 1, 2, 4 or 1 residual units of two 3 x 3 convolutions; all
    have biases and a PReLU with one slope per channel.

    Args:
        input_shape: (3, H, W), at least 16 x 16; any number of colours. `fc5` is as large as the images make
            it: the public weights are for 112 x 96.
        width: Factor on filters and features, for small runs.
        **images: See `taskloom.encoders.image_encoder.ImageOptions`; prepared images are RGB of 112 x 96,
            (255 x - 127.5) / 128. The public weights took BGR; the first convolution is turned round.

    Raises:
        ConfigError: A setting out of range, or images that are too small.
        DataError: Weights that do not fit.

    Example:
        >>> sphereface20((3, 28, 24), width=0.125).stage_shapes
        ((8, 14, 12), (16, 7, 6), (32, 4, 3), (64, 2, 2), (64,))
    """
    factor = check_width(width)
    filters = tuple(scaled(size, factor) for size in _FILTERS)

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        inputs = (shape[0], *filters[:-1])
        named: dict[str, LayersFactory] = {
            f"conv{index + 1}": partial(_layers, index + 1, *sizes, _RESIDUALS[index])
            for index, sizes in enumerate(zip(inputs, filters, strict=True))
        }
        height, breadth = ((side + 15) // 16 for side in shape[1:])
        named["fc5"] = partial(_features, filters[-1] * height * breadth, scaled(_FEATURES, factor))
        return named

    return image_encoder(
        "sphereface20",
        input_shape,
        stages,
        images,
        spec=SPHEREFACE_INPUT,
        layouts=SPHEREFACE20,
        smallest=16,
    )


class SphereFaceStage(nn.Module):
    """Halves the map, then adds residual units: x + prelu(conv(prelu(conv(x)))).

    Its layers are called as the public network calls them: `conv2_1`, `relu2_1`, `conv2_2` ...

    Args:
        number: Of the stage, 1 the first.
        num_inputs: Channels in.
        num_filters: Filters of all convolutions.
        residuals: Number of residual units.
    """

    def __init__(self, number: int, num_inputs: int, num_filters: int, residuals: int) -> None:
        super().__init__()
        self.number, self.residuals = number, residuals
        for index in range(1, 2 * residuals + 2):
            first = index == 1
            layer = nn.Conv2d(num_inputs if first else num_filters, num_filters, 3, 2 if first else 1, 1)
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            self.add_module(f"conv{number}_{index}", layer)
            self.add_module(f"relu{number}_{index}", nn.PReLU(num_filters))

    def forward(self, maps: Tensor) -> Tensor:
        """[N, num_inputs, H, W] to [N, num_filters, H / 2, W / 2], rounded up."""
        maps = self._layer(1, maps)
        for unit in range(self.residuals):
            maps = maps + self._layer(2 * unit + 3, self._layer(2 * unit + 2, maps))
        return maps

    def _layer(self, index: int, maps: Tensor) -> Tensor:
        maps = self.get_submodule(f"conv{self.number}_{index}")(maps)
        outputs: Tensor = self.get_submodule(f"relu{self.number}_{index}")(maps)
        return outputs


def _layers(number: int, num_inputs: int, num_filters: int, residuals: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(unit=SphereFaceStage(number, num_inputs, num_filters, residuals))


def _features(num_inputs: int, features: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(flatten=nn.Flatten(), fc5=nn.Linear(num_inputs, features))
