"""ResNet-18, ResNet-50 and SE-ResNet-50 as five stages whose weights go by torchvision's names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Unpack

from torch import Tensor, nn

from taskloom.encoders.checkpoints import load_state
from taskloom.encoders.encoder import Encoder
from taskloom.encoders.image_encoder import (
    ImageSettings,
    LayersFactory,
    check_width,
    convolution,
    image_encoder,
    scaled,
    with_image_settings,
)
from taskloom.encoders.layouts import resnet_layouts
from taskloom.encoders.modules import check_sizes
from taskloom.encoders.preparation import IMAGENET, VGGFACE2
from taskloom.encoders.resnet_blocks import BasicBlock, Bottleneck, MapAverage
from taskloom.errors import ConfigError, did_you_mean

STEMS = ("imagenet", "small")
STYLES = ("torchvision", "vggface2")
_FILTERS = (64, 128, 256, 512)
_SMALLEST = {"imagenet": 32, "small": 8}
_STAGE_NAMES = ("stem", "layer1", "layer2", "layer3", "layer4")
_BLOCKS_50 = (3, 4, 6, 3)
_EXPANSION = 4


@with_image_settings
def resnet18(
    input_shape: Sequence[int] = (3, 224, 224),
    *,
    stem: str = "imagenet",
    width: float = 1.0,
    **images: Unpack[ImageSettings],
) -> Encoder:
    """ResNet-18 without its classifier: stages `stem` and `layer1` to `layer4`, 11,176,512 parameters.

    Each layer has two blocks of two 3 x 3 convolutions with batch norm; the first block of `layer2` to
    `layer4` halves the map (He et al. 2016, table 1, 18 layers). `layer4` ends with the mean over the map.
    Convolutions have no biases and start as torchvision's do: normal after He, by the outputs (fan out).
    Known weights: torchvision's, and timm's of the same names.

    Args:
        input_shape: (3, H, W); any number of colours.
        stem: "imagenet": 7 x 7 convolution of stride 2 and 3 x 3 max pooling of stride 2, a quarter of the
            image's side. "small", for images up to 64 pixels: 3 x 3 convolution of stride 1, no pooling (the
            paper's start for CIFAR-10), 7,680 parameters less with three colours.
        width: Factor on the filters 64, 128, 256 and 512 (rounded, at least 1), for small runs.
        **images: See `taskloom.encoders.image_encoder.ImageOptions`; prepared images are RGB of 224 x 224,
            (x - mean) / deviation with ImageNet's means and deviations.

    Raises:
        ConfigError: A setting out of range, or images smaller than 32 ("imagenet") or 8 pixels ("small").
        DataError: Weights that do not fit.

    Example:
        >>> encoder = resnet18((3, 32, 32), stem="small", width=0.125)
        >>> encoder.stage_shapes
        ((8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8), (64,))
    """
    filters = tuple(scaled(size, check_width(width)) for size in _FILTERS)

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        named: list[LayersFactory] = [partial(_stem, shape[0], filters[0], stem, "torchvision")]
        inputs = filters[0]
        for index, num_filters in enumerate(filters):
            named.append(partial(_basic_layer, inputs, num_filters, 1 if index == 0 else 2, index == 3))
            inputs = num_filters
        return dict(zip(_STAGE_NAMES, named, strict=True))

    return _resnet("resnet18", input_shape, stages, images, stem, "torchvision")


@with_image_settings
def resnet50(
    input_shape: Sequence[int] = (3, 224, 224),
    *,
    style: str = "torchvision",
    stem: str = "imagenet",
    embedding: int | None = None,
    width: float = 1.0,
    **images: Unpack[ImageSettings],
) -> Encoder:
    """ResNet-50 without its classifier (He et al. 2016): stages `stem`, `layer1` to `layer4`, [`embedding`].

    Blocks are 1 x 1, 3 x 3 and 1 x 1 convolutions with batch norm, the last four times as wide; `layer4` ends
    with the mean over the map, 2048 features. 23,508,032 parameters.

    Args:
        input_shape: (3, H, W); any number of colours.
        style: "torchvision": where a block halves the map, its 3 x 3 convolution does; the stem's pooling is
            padded. Known weights: torchvision's and timm's. "vggface2": its first 1 x 1 convolution does, and
            the pooling is not padded but rounds up, as in the network of Cao et al. 2018. Known weights:
            VGGFace2's by the names of the authors' PyTorch files and of cydonia999/VGGFace2-pytorch (which
            took BGR; the first convolution is turned round).
        stem: As in `resnet18`.
        embedding: Units of a linear layer at the end, without bias, as a stage of its own: 128 is the
            authors' ResNet-50-128D.
        width: Factor on all filters, for small runs.
        **images: See `taskloom.encoders.image_encoder.ImageOptions`; prepared images are RGB of 224 x 224,
            (x - mean) / deviation of ImageNet ("torchvision"), or 255 x - (131.0912, 103.8827, 91.4953)
            ("vggface2").

    Raises:
        ConfigError: A setting out of range, or images that are too small.
        DataError: Weights that do not fit.

    Example:
        >>> resnet50((3, 32, 32), width=0.0625).stage_shapes[-2:]
        ((64, 2, 2), (128,))
    """
    return _bottleneck_net("resnet50", input_shape, style, stem, embedding, width, images, squeeze=False)


@with_image_settings
def se_resnet50(
    input_shape: Sequence[int] = (3, 224, 224),
    *,
    style: str = "vggface2",
    stem: str = "imagenet",
    embedding: int | None = None,
    width: float = 1.0,
    **images: Unpack[ImageSettings],
) -> Encoder:
    """ResNet-50 with squeeze and excitation (Hu et al. 2018), 26,039,024 parameters; stages as `resnet50`.

    Before it is added, the output of every block is weighted per channel by sigmoid(W2 relu(W1 mean + b1) +
    b2), with a sixteenth of the channels in between. `embedding=128` is SE-ResNet-50-128D, the best backbone
    of thesis 001.

    Args:
        input_shape, stem, embedding, width: As in `resnet50`.
        style: "vggface2" (default; the authors' files and cydonia999's), or "torchvision" (timm's
            `seresnet50`).
        **images: As in `resnet50`.

    Raises:
        ConfigError: A setting out of range, or images that are too small.
        DataError: Weights that do not fit.

    Example:
        >>> se_resnet50((3, 32, 32), width=0.0625, embedding=8).stage_names[-2:]
        ('layer4', 'embedding')
    """
    return _bottleneck_net("se_resnet50", input_shape, style, stem, embedding, width, images, squeeze=True)


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

    `resnet18(weights=path)` does the same from a file. Copies of the stages start from these weights.

    Args:
        encoder: A `resnet18` with `stem="imagenet"` and `width=1`.
        state: What `torch.load(file, weights_only=True)` gave; `fc.weight` and `fc.bias` are left out.

    Raises:
        DataError: An entry is missing, of another shape, or one that a ResNet-18 does not have; the encoder
            is then as it was.

    Example:
        >>> encoder = resnet18((3, 32, 32), width=0.125)
        >>> state = {torchvision_name(name): value for name, value in encoder.state_dict().items()}
        >>> load_torchvision(encoder, state)
    """
    load_state(encoder, state, resnet_layouts("torchvision"))


def _bottleneck_net(
    name: str,
    input_shape: Sequence[int],
    style: str,
    stem: str,
    embedding: int | None,
    width: float,
    images: ImageSettings,
    *,
    squeeze: bool,
) -> Encoder:
    filters = tuple(scaled(size, check_width(width)) for size in _FILTERS)
    if style not in STYLES:
        raise ConfigError(
            f"style must be torchvision or vggface2; got {style!r}.{did_you_mean(str(style), STYLES)}"
        )
    units = None if embedding is None else check_sizes("embedding", embedding)[0]

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        named: list[LayersFactory] = [partial(_stem, shape[0], filters[0], stem, style)]
        inputs = filters[0]
        for index, (num_filters, num_blocks) in enumerate(zip(filters, _BLOCKS_50, strict=True)):
            block = partial(Bottleneck, stride_first=style == "vggface2", squeeze=squeeze)
            sizes = (inputs, num_filters, _EXPANSION * num_filters, 1 if index == 0 else 2)
            named.append(partial(_bottleneck_layer, block, *sizes, num_blocks=num_blocks, last=index == 3))
            inputs = _EXPANSION * num_filters
        found = dict(zip(_STAGE_NAMES, named, strict=True))
        if units is not None:
            found["embedding"] = partial(_embedding, inputs, units)
        return found

    return _resnet(name, input_shape, stages, images, stem, style)


def _resnet(
    name: str,
    input_shape: Sequence[int],
    stages: Callable[[tuple[int, int, int]], dict[str, LayersFactory]],
    images: ImageSettings,
    stem: str,
    style: str,
) -> Encoder:
    if stem not in STEMS:
        raise ConfigError(f"stem must be imagenet or small; got {stem!r}.{did_you_mean(str(stem), STEMS)}")
    return image_encoder(
        name,
        input_shape,
        stages,
        images,
        spec=IMAGENET if style == "torchvision" else VGGFACE2,
        layouts=resnet_layouts(style),
        smallest=_SMALLEST[stem],
        hint="take larger images or `stem: small`" if stem == "imagenet" else "take larger images",
    )


def _stem(num_colours: int, num_filters: int, stem: str, style: str) -> OrderedDict[str, nn.Module]:
    kernel, stride = (3, 1) if stem == "small" else (7, 2)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=convolution(num_colours, num_filters, kernel, stride),
        bn1=nn.BatchNorm2d(num_filters),
        relu=nn.ReLU(inplace=True),
    )
    if stem == "imagenet":
        ceil = style == "vggface2"
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=0 if ceil else 1, ceil_mode=ceil)
    return layers


def _basic_layer(num_inputs: int, num_filters: int, stride: int, last: bool) -> OrderedDict[str, nn.Module]:
    blocks = [BasicBlock(num_inputs, num_filters, stride), BasicBlock(num_filters, num_filters, 1)]
    return _numbered([*blocks, MapAverage()] if last else blocks)


def _bottleneck_layer(
    block: Callable[[int, int, int, int], Bottleneck],
    num_inputs: int,
    num_filters: int,
    num_outputs: int,
    stride: int,
    *,
    num_blocks: int,
    last: bool,
) -> OrderedDict[str, nn.Module]:
    blocks: list[nn.Module] = [block(num_inputs, num_filters, num_outputs, stride)]
    blocks += [block(num_outputs, num_filters, num_outputs, 1) for _ in range(num_blocks - 1)]
    return _numbered([*blocks, MapAverage()] if last else blocks)


def _embedding(num_inputs: int, units: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(feat_extract=nn.Linear(num_inputs, units, bias=False))


def _numbered(layers: Sequence[nn.Module]) -> OrderedDict[str, nn.Module]:
    return OrderedDict((str(index), layer) for index, layer in enumerate(layers))
