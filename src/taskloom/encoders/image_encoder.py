"""What all image encoders have in common: checks, preparation, weights from a file, shared layers."""

from __future__ import annotations

import inspect
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial, wraps
from pathlib import Path
from typing import ParamSpec, TypedDict

import torch
from torch import nn

from taskloom.encoders.checkpoints import Layout, load_weights
from taskloom.encoders.encoder import Encoder, StageFactory, check_input_shape
from taskloom.encoders.modules import check_sizes
from taskloom.encoders.preparation import ImageStage, InputSpec, Preparation
from taskloom.errors import ConfigError

P = ParamSpec("P")

LayersFactory = Callable[[], "OrderedDict[str, nn.Module]"]
"""Builds the layers of one stage anew, by name."""


class ImageSettings(TypedDict, total=False):
    """Settings that every image encoder has; their defaults and meaning stand in `ImageOptions`."""

    weights: Path | str | None
    partial: bool
    prepare: bool | None
    size: int | Sequence[int] | None
    shared_layers: Sequence[int]


@dataclass(frozen=True)
class ImageOptions:
    """The settings of `ImageSettings` with their defaults.

    Args:
        weights: A local file with pretrained weights (`.safetensors`, or what `torch.save` wrote); see
            `taskloom.encoders.checkpoints`. All copies of a stage then start from them.
        partial: Whether weights that do not fit are left out with a warning instead of refused.
        prepare: Whether the first stage prepares RGB images (uint8 or 0..1) as the public weights expect
            them: size, channel order, scale. None: where `weights` are given.
        size: Side, or height and width, to which prepared images are brought; that of the public weights
            where None.
        shared_layers: Widths of fully connected layers after the backbone, one stage each; see
            `shared_layer`.
    """

    weights: Path | str | None = None
    partial: bool = False
    prepare: bool | None = None
    size: int | Sequence[int] | None = None
    shared_layers: Sequence[int] = ()

    def spec(self, declared: InputSpec | None, name: str) -> InputSpec | None:
        """How images are prepared; None where they are taken as they are.

        Raises:
            ConfigError: A size without preparation, or one that is not.
        """
        wanted = self.weights is not None if self.prepare is None else self.prepare
        if not wanted or declared is None:
            if self.size is not None:
                raise ConfigError(
                    f"encoder.size: {name} changes the size of images only where it prepares them; set "
                    "`prepare: true`, or the size where the data are read."
                )
            if self.prepare and declared is None:
                raise ConfigError(
                    f"encoder.prepare: {name} has no public weights whose preparation it could follow; "
                    "standardise images where the data are read."
                )
            return None
        if self.size is None:
            return declared
        sizes = check_sizes("size", self.size)
        if len(sizes) not in (1, 2):
            raise ConfigError(f"size must be a side, or height and width, in pixels; got {self.size!r}.")
        return InputSpec(
            (sizes[0], sizes[-1]),
            declared.order,
            declared.scale,
            declared.mean,
            declared.deviation,
            declared.source,
        )


def with_image_settings(make: Callable[P, Encoder]) -> Callable[P, Encoder]:
    """Writes the settings of `ImageOptions` into the signature of an encoder that takes them as `**images`.

    Example:
        >>> "weights" in inspect.signature(tl.encoders.vgg16).parameters
        True
    """

    @wraps(make)
    def made(*args: P.args, **settings: P.kwargs) -> Encoder:
        return make(*args, **settings)

    signature = inspect.signature(make)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    shared = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        for field in fields(ImageOptions)
    ]
    made.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    return made


def image_encoder(
    name: str,
    input_shape: Sequence[int],
    stages: Callable[[tuple[int, int, int]], dict[str, LayersFactory]],
    settings: ImageSettings,
    *,
    spec: InputSpec | None = None,
    layouts: Sequence[Layout] = (),
    smallest: int | tuple[int, int] = 1,
    hint: str = "take larger images",
) -> Encoder:
    """Builds an image encoder of named stages.

    Args:
        name: For messages.
        input_shape: (colours, height, width) of the images that come in.
        stages: From the shape of what the first layer sees, the stages by name.
        settings: What the user gave of `ImageSettings`.
        spec: What the public weights expect.
        layouts: Whose weights can be loaded.
        smallest: Smallest side (or height and width) that the network can work on, in pixels.
        hint: What to do about images that are smaller.

    Raises:
        ConfigError: A setting out of range, or images that are too small or not images.
        DataError: Weights that cannot be read or do not fit.
    """
    options = ImageOptions(**settings)
    shape = check_input_shape(input_shape)
    if len(shape) != 3:
        raise ConfigError(f"{name} takes images (colours, height, width); got an input of shape {shape}.")
    used = options.spec(spec, name)
    seen = (shape[0], shape[1], shape[2]) if used is None else used.shape
    least = (smallest, smallest) if isinstance(smallest, int) else smallest
    if seen[1] < least[0] or seen[2] < least[1]:
        raise ConfigError(
            f"{name} needs images of at least {least[0]} x {least[1]} pixels; the images have "
            f"{seen[1]} x {seen[2]}: {hint}."
        )
    named = stages(seen)
    factories: list[StageFactory] = [
        partial(_stage, layers, first=index == 0, spec=used) for index, layers in enumerate(named.values())
    ]
    encoder = _encoder([make() for make in factories], factories, shape, list(named), used)
    if options.weights is not None:
        report = load_weights(encoder, options.weights, layouts, partial=options.partial)
        if report is not None and not report.complete:
            warnings.warn(f"{options.weights}: {report.describe()}", UserWarning, stacklevel=3)
    return _with_shared_layers(encoder, factories, check_sizes("shared_layers", options.shared_layers))


def shared_layer(num_inputs: int, width: int) -> nn.Sequential:
    """A fully connected layer for all tasks as thesis 001 has it (section 3.2): leaky ReLU, then batch norm.

    Args:
        num_inputs: Values per row; [N, ...] is flattened.
        width: Width of the layer.

    Example:
        >>> shared_layer(12, 4)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 4])
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, width), nn.LeakyReLU(), nn.BatchNorm1d(width))


def check_width(width: object) -> float:
    """Returns a factor on filters. Raises ConfigError unless it is a number above 0."""
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0.0 < width < math.inf:
        raise ConfigError(f"width must be a number above 0; got {width!r}.")
    return float(width)


def scaled(filters: int, width: float) -> int:
    """Filters under a factor, rounded, at least 1."""
    return max(1, round(filters * width))


def convolution(
    num_inputs: int, num_filters: int, kernel: int, stride: int = 1, *, padding: int | None = None
) -> nn.Conv2d:
    """A convolution before a batch norm: no bias, normal after He over the outputs (fan out), as torchvision.

    Args:
        num_inputs: Channels in.
        num_filters: Filters.
        kernel: Side in pixels.
        stride: Of both axes.
        padding: `kernel // 2` where None.
    """
    # No bias: batch norm takes the mean away and adds its own.
    layer = nn.Conv2d(
        num_inputs,
        num_filters,
        kernel,
        stride=stride,
        padding=kernel // 2 if padding is None else padding,
        bias=False,
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _stage(layers: LayersFactory, *, first: bool, spec: InputSpec | None) -> nn.Module:
    built = layers()
    stage: nn.Module = nn.Sequential(built)
    if first:
        stage = ImageStage(built, None if spec is None else Preparation(spec))
    return stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _with_shared_layers(
    encoder: Encoder, factories: Sequence[StageFactory], widths: tuple[int, ...]
) -> Encoder:
    """The encoder with shared layers as further stages, one per width; itself where there are none."""
    if not widths:
        return encoder
    inputs = (encoder.num_features, *widths[:-1])
    layers: list[StageFactory] = [partial(shared_layer, *sizes) for sizes in zip(inputs, widths, strict=True)]
    extended = _encoder(
        [*encoder.stages, *(make() for make in layers)],
        [*factories, *layers],
        encoder.input_shape,
        [*encoder.stage_names, *(f"shared_{index}" for index in range(len(layers)))],
        encoder.input_spec,
    )
    extended.pretrained, extended.loaded = encoder.pretrained, encoder.loaded
    return extended


def _encoder(
    stages: Sequence[nn.Module],
    factories: Sequence[StageFactory],
    shape: tuple[int, ...],
    names: Sequence[str],
    spec: InputSpec | None,
) -> Encoder:
    encoder = Encoder(stages, input_shape=shape, names=names, rebuild=list(factories))
    encoder.input_spec = spec
    return encoder
