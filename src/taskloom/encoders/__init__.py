"""Backbones as ordered stages, and the registry that the study file's `encoder` names them by."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from taskloom.encoders import thesis_001, thesis_002
from taskloom.encoders.checkpoints import LoadReport, load_state, read_state_dict, without_weights
from taskloom.encoders.conv1d import conv1d
from taskloom.encoders.densenet import densenet121
from taskloom.encoders.encoder import Encoder, from_modules
from taskloom.encoders.inception_resnet import inception_resnet_v1
from taskloom.encoders.lightcnn import lightcnn9, lightcnn29
from taskloom.encoders.mlp import mlp
from taskloom.encoders.preparation import InputSpec
from taskloom.encoders.recurrent import deep_conv_lstm, lstm
from taskloom.encoders.resnet import resnet18, resnet50, se_resnet50
from taskloom.encoders.sphereface import sphereface20
from taskloom.encoders.thesis_002 import deap_cnn, opportunity_cnn
from taskloom.encoders.timm_model import PREFIX as TIMM
from taskloom.encoders.timm_model import timm_model
from taskloom.encoders.vgg5 import mtfl_cnn, vgg5
from taskloom.encoders.vgg16 import vgg16
from taskloom.errors import ConfigError, did_you_mean
from taskloom.registry import Registry


class _Encoders(Registry[Callable[..., Encoder]]):
    """The registry, in which `timm:NAME` stands for every model of timm."""

    def __getitem__(self, name: str) -> Callable[..., Encoder]:
        if name.startswith(TIMM):
            return partial(timm_model, name.removeprefix(TIMM))
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith(TIMM))


ENCODERS: Registry[Callable[..., Encoder]] = _Encoders("encoder")
"""Functions `(input_shape, **settings) -> Encoder`; settings are keyword-only. `timm:NAME` is found too."""

_OWN: dict[str, Callable[..., Encoder]] = {
    "conv1d": conv1d,
    "deap_cnn": deap_cnn,
    "deep_conv_lstm": deep_conv_lstm,
    "densenet121": densenet121,
    "inception_resnet_v1": inception_resnet_v1,
    "lightcnn29": lightcnn29,
    "lightcnn9": lightcnn9,
    "lstm": lstm,
    "mlp": mlp,
    "mtfl_cnn": mtfl_cnn,
    "opportunity_cnn": opportunity_cnn,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "se_resnet50": se_resnet50,
    "sphereface20": sphereface20,
    "vgg16": vgg16,
    "vgg5": vgg5,
}
for _name, _make in _OWN.items():
    ENCODERS.register(_name)(_make)


def build(name: str, input_shape: Sequence[int], **settings: Any) -> Encoder:
    """Builds an encoder by its registered name.

    Args:
        name: A name of `ENCODERS`.
        input_shape: Shape of one row's input, without the batch axis.
        **settings: The encoder's own settings.

    Raises:
        ConfigError: Unknown encoder, unknown setting, or a setting that does not fit the input.

    Example:
        >>> build("mlp", (12,), hidden=[16]).num_features
        16
    """
    make = ENCODERS[name]
    parameters = inspect.signature(make).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    for setting in settings:
        if setting not in known and not open_ended:
            raise ConfigError(
                f"`{setting}` is not a setting of encoder {name}.{did_you_mean(setting, known)} "
                f"Settings: {', '.join(known)}."
            )
    return make(input_shape, **settings)


__all__ = [
    "ENCODERS",
    "Encoder",
    "InputSpec",
    "LoadReport",
    "build",
    "conv1d",
    "deap_cnn",
    "deep_conv_lstm",
    "densenet121",
    "from_modules",
    "inception_resnet_v1",
    "lightcnn9",
    "lightcnn29",
    "load_state",
    "lstm",
    "mlp",
    "mtfl_cnn",
    "opportunity_cnn",
    "read_state_dict",
    "resnet18",
    "resnet50",
    "se_resnet50",
    "sphereface20",
    "thesis_001",
    "thesis_002",
    "timm_model",
    "vgg5",
    "vgg16",
    "without_weights",
]
