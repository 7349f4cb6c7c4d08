"""Backbones of timm by name, cut into stages: `timm:convnext_tiny`.

timm is imported only when such an encoder is built; it comes with the extra `backbones` and needs
torchvision, which taskloom itself never imports.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import nn

from taskloom.encoders.checkpoints import Layout
from taskloom.encoders.encoder import Encoder
from taskloom.encoders.image_encoder import ImageSettings, LayersFactory, image_encoder, with_image_settings
from taskloom.encoders.preparation import InputSpec
from taskloom.encoders.resnet_blocks import MapAverage
from taskloom.errors import ConfigError, MissingExtraError, did_you_mean

PREFIX = "timm:"

Stages = dict[str, "OrderedDict[str, nn.Module]"]


@with_image_settings
def timm_model(name: str, input_shape: Sequence[int], **images: Unpack[ImageSettings]) -> Encoder:
    """A backbone of timm without its classifier; nothing is downloaded.

    Where timm can hand out a network as a chain of layers with marked features (`features_only`, a
    `FeatureListNet`: ResNets, EfficientNets, ConvNeXts, DenseNets, ...), there is a stage up to each mark,
    called after the layer that ends it, and the last one ends with the mean over the map. Other networks
    (transformers) are one stage, `backbone`, that gives timm's pooled features.

    Weights in a local file go by timm's own names. timm's `pretrained_cfg` says how images are prepared.

    Args:
        name: timm's name of the model, with or without `.tag`.
        input_shape: (colours, H, W).
        **images: See `taskloom.encoders.image_encoder.ImageOptions`.

    Raises:
        MissingExtraError: timm is not installed.
        ConfigError: timm has no such model, or its layers are no chain.
        DataError: Weights that do not fit.
    """
    timm = _import()
    if not timm.is_model(name):
        known = timm.list_models()
        raise ConfigError(
            f"encoder: timm has no model `{name}`.{did_you_mean(name.partition('.')[0], known)} "
            "timm.list_models() names them all."
        )

    def stages(shape: tuple[int, int, int]) -> dict[str, LayersFactory]:
        build = partial(_layers, name, shape)
        built = build()
        return {stage: _StageOnce(stage, built, build) for stage in list(built)}

    return image_encoder(
        f"{PREFIX}{name}",
        input_shape,
        stages,
        images,
        spec=_spec(timm, name),
        layouts=(Layout("timm", _name, clean=_clean, extra=(r"(head|fc|classifier)(_\w+)?_(weight|bias)",)),),
    )


class _StageOnce:
    """Hands out a stage that is built already; after that it builds the network anew for every copy."""

    def __init__(self, stage: str, built: Stages, build: Callable[[], Stages]) -> None:
        self.stage, self.built, self.build = stage, built, build

    def __call__(self) -> OrderedDict[str, nn.Module]:
        built = self.built if self.stage in self.built else self.build()
        return built.pop(self.stage)


def _import() -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "backbones") from error
    return timm


def _layers(name: str, shape: tuple[int, int, int]) -> Stages:
    """The layers of every stage, built anew."""
    timm = _import()
    try:
        chain = timm.create_model(name, pretrained=False, in_chans=shape[0], features_only=True)
    except RuntimeError:  # timm's word for a network without marked features
        chain = None
    marks: Mapping[str, Any] = getattr(chain, "return_layers", {})
    if not isinstance(chain, nn.ModuleDict) or not marks or _format(chain) != "NCHW":
        whole = timm.create_model(name, pretrained=False, in_chans=shape[0], num_classes=0)
        return {"backbone": OrderedDict(model=whole)}
    stages: Stages = {}
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for layer_name, layer in chain.items():
        layers[layer_name] = layer
        if layer_name in marks:
            stages[layer_name] = layers
            layers = OrderedDict()
    _check_chain(name, chain, stages, shape)
    stages[next(reversed(stages))]["average"] = MapAverage()
    return stages


def _check_chain(
    name: str, chain: nn.Module, stages: Mapping[str, Mapping[str, nn.Module]], shape: tuple[int, int, int]
) -> None:
    """Holds the stages against timm's own pass, which alone knows the order in which layers are used."""
    training = chain.training
    chain.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        images = torch.rand(1, *shape)
        expected = chain(images)[-1]
        for layers in stages.values():
            for layer in layers.values():
                images = layer(images)
    chain.train(training)
    if not torch.allclose(images, expected, atol=1e-5):
        raise ConfigError(
            f"encoder: the layers of timm's {name} are no chain, so it cannot be cut into stages; put the "
            "model into tl.encoders.from_modules([...]) as one stage."
        )


def _format(chain: nn.Module) -> str:
    given = getattr(chain, "output_fmt", "NCHW")
    return str(getattr(given, "value", given))


def _spec(timm: Any, name: str) -> InputSpec | None:
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is None:
        return None
    _, height, width = cfg.input_size
    return InputSpec(
        (height, width),
        mean=tuple(cfg.mean),
        deviation=tuple(cfg.std),
        source=f"timm's pretrained_cfg of {name}",
    )


def _name(name: str) -> str:
    """Our name as `_clean` spells timm's: `stages.1.blocks_0.conv.weight` is `blocks_0_conv_weight`."""
    inner = name.split(".", 2)[2].removeprefix("model.")
    return inner.replace(".", "_")


def _clean(name: str) -> str:
    # timm joins the names of flattened containers by underscores where the whole model has dots.
    return name.replace(".", "_")
