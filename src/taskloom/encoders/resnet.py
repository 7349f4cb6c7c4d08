"""ResNet-18 for images (He et al. 2016), as five stages whose weights go by torchvision's names."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from taskloom.encoders.encoder import Encoder, check_input_shape
from taskloom.errors import ConfigError, did_you_mean

STEMS = ("imagenet", "small")
_FILTERS = (64, 128, 256, 512)
_SMALLEST = {"imagenet": 32, "small": 8}
_STAGE_NAMES = ("stem", "layer1", "layer2", "layer3", "layer4")


def resnet18(
    input_shape: Sequence[int] = (3, 224, 224), *, stem: str = "imagenet", width: float = 1.0
) -> Encoder:
    """ResNet-18 without its classifier: stages `stem` and `layer1` to `layer4`, 11,176,512 parameters.

    Each layer has two blocks of two 3 x 3 convolutions with batch norm; the first block of `layer2` to
    `layer4` halves the map (He et al. 2016, table 1, 18 layers). `layer4` ends with the mean over the map.
    Convolutions have no biases and start as torchvision's do: normal after He, by the outputs (fan out).

    Args:
        input_shape: (3, H, W); any number of colours.
        stem: "imagenet": 7 x 7 convolution of stride 2 and 3 x 3 max pooling of stride 2, a quarter of the
            image's side. "small", for images up to 64 pixels: 3 x 3 convolution of stride 1, no pooling (the
            paper's start for CIFAR-10), 7,680 parameters less with three colours.
        width: Factor on the filters 64, 128, 256 and 512 (rounded, at least 1), for small runs.

    Raises:
        ConfigError: A setting out of range, or images smaller than 32 ("imagenet") or 8 pixels ("small").

    Example:
        >>> encoder = resnet18((3, 32, 32), stem="small", width=0.125)
        >>> encoder.stage_shapes
        ((8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8), (64,))
    """
    shape = check_input_shape(input_shape)
    if len(shape) != 3:
        raise ConfigError(f"resnet18 takes images (colours, height, width); got an input of shape {shape}.")
    if stem not in STEMS:
        raise ConfigError(f"stem must be imagenet or small; got {stem!r}.{did_you_mean(str(stem), STEMS)}")
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0.0 < width < math.inf:
        raise ConfigError(f"width must be a number above 0; got {width!r}.")
    if min(shape[1:]) < _SMALLEST[stem]:
        hint = "take larger images or `stem: small`" if stem == "imagenet" else "take larger images"
        raise ConfigError(
            f"resnet18 with stem {stem} needs images of at least {_SMALLEST[stem]} x {_SMALLEST[stem]} "
            f"pixels; the images have {shape[1]} x {shape[2]}: {hint}."
        )
    filters = [max(1, round(size * width)) for size in _FILTERS]
    factories: list[Callable[[], nn.Module]] = [partial(_stem, shape[0], filters[0], small=stem == "small")]
    for index, num_filters in enumerate(filters):
        num_inputs = filters[max(0, index - 1)]
        stride = 1 if index == 0 else 2
        factories.append(partial(_layer, num_inputs, num_filters, stride, last=index == len(filters) - 1))
    return Encoder(
        [factory() for factory in factories], input_shape=shape, names=_STAGE_NAMES, rebuild=factories
    )


def torchvision_name(name: str) -> str:
    """Name in torchvision's `resnet18` of an entry of our encoder's state dict.

    `stages.0.` goes (its `conv1` and `bn1` stand at the top there); `stages.1.` to `stages.4.` become
    `layer1.` to `layer4.`; the rest is the same. torchvision's `fc.weight` and `fc.bias` have no counterpart.

    Args:
        name: A key of `resnet18(...).state_dict()`.

    Raises:
        ConfigError: The name is not of that form.

    Example:
        >>> torchvision_name("stages.0.conv1.weight"), torchvision_name("stages.2.0.downsample.1.bias")
        ('conv1.weight', 'layer2.0.downsample.1.bias')
    """
    prefix, _, rest = name.partition(".")
    stage, _, inner = rest.partition(".")
    if prefix != "stages" or stage not in ("0", "1", "2", "3", "4") or not inner:
        raise ConfigError(
            f"`{name}` is not a name of resnet18's state dict, as `stages.1.0.conv1.weight` is."
        )
    return inner if stage == "0" else f"layer{stage}.{inner}"


def load_torchvision(encoder: Encoder, state: Mapping[str, Tensor]) -> None:
    """Loads weights that were saved from torchvision's `resnet18` (or timm's) into the encoder, in place.

    Build the network with `copies="same"` afterwards, so that its copies keep them.

    Args:
        encoder: A `resnet18` with `stem="imagenet"` and `width=1`.
        state: What `torch.load(file, weights_only=True)` gave; `fc.weight` and `fc.bias` are left out.

    Raises:
        ConfigError: An entry is missing, of another shape, or one that a ResNet-18 does not have; the encoder
            is then as it was.

    Example:
        >>> encoder = resnet18((3, 32, 32), width=0.125)
        >>> state = {torchvision_name(name): value for name, value in encoder.state_dict().items()}
        >>> load_torchvision(encoder, state)
    """
    own = encoder.state_dict()
    names = {name: torchvision_name(name) for name in own}
    for name in state:
        if name not in {*names.values(), "fc.weight", "fc.bias"}:
            raise ConfigError(f"`{name}` is not a weight of ResNet-18; load the weights of a ResNet-18.")
    loaded: dict[str, Tensor] = {}
    for name, theirs in names.items():
        if theirs not in state:
            if theirs.endswith("num_batches_tracked"):  # files from before PyTorch 0.4.1 have none
                loaded[name] = torch.zeros_like(own[name])
                continue
            raise ConfigError(f"The weights have no `{theirs}`; load the whole state dict of a ResNet-18.")
        if state[theirs].shape != own[name].shape:
            raise ConfigError(
                f"The weight `{theirs}` is {tuple(state[theirs].shape)}, expected {tuple(own[name].shape)}; "
                "build the encoder with the stem, width and colours that the weights were trained with."
            )
        loaded[name] = state[theirs]
    encoder.load_state_dict(loaded)


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)): He et al. 2016, figure 2 and equation 1.

    The shortcut is x itself, or a 1 x 1 convolution of the same stride with batch norm where the block
    changes the map's size or the number of filters (their option B).

    Args:
        num_inputs: Channels in.
        num_filters: Filters of both convolutions.
        stride: Stride of the first.
    """

    def __init__(self, num_inputs: int, num_filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(num_inputs, num_filters, 3, stride)
        self.bn1 = nn.BatchNorm2d(num_filters)
        self.conv2 = _convolution(num_filters, num_filters, 3, 1)
        self.bn2 = nn.BatchNorm2d(num_filters)
        # In place is safe: both work on what a batch norm or a sum has just made, which nobody else reads.
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or num_inputs != num_filters:
            self.downsample = nn.Sequential(
                _convolution(num_inputs, num_filters, 1, stride), nn.BatchNorm2d(num_filters)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """[N, num_inputs, H, W] to [N, num_filters, H / stride, W / stride], rounded up."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        outputs = self.relu(self.bn1(self.conv1(maps)))
        outputs = self.bn2(self.conv2(outputs))
        rectified: Tensor = self.relu(outputs + shortcut)
        return rectified


class MapAverage(nn.Module):
    """[N, C, H, W] to the mean over the map, [N, C]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def _stem(num_colours: int, num_filters: int, *, small: bool) -> nn.Sequential:
    kernel, stride = (3, 1) if small else (7, 2)
    layers: dict[str, nn.Module] = {
        "conv1": _convolution(num_colours, num_filters, kernel, stride),
        "bn1": nn.BatchNorm2d(num_filters),
        "relu": nn.ReLU(inplace=True),
    }
    if not small:
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(OrderedDict(layers))


def _layer(num_inputs: int, num_filters: int, stride: int, *, last: bool) -> nn.Sequential:
    blocks: list[nn.Module] = [
        BasicBlock(num_inputs, num_filters, stride),
        BasicBlock(num_filters, num_filters, 1),
    ]
    return nn.Sequential(*blocks, MapAverage()) if last else nn.Sequential(*blocks)


def _convolution(num_inputs: int, num_filters: int, kernel: int, stride: int) -> nn.Conv2d:
    # No bias: batch norm takes the mean away and adds its own.
    convolution = nn.Conv2d(num_inputs, num_filters, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
