"""Backbones as ordered stages, and the registry that the study file's `encoder` names them by."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from taskloom.encoders import thesis_002
from taskloom.encoders.conv1d import conv1d
from taskloom.encoders.encoder import Encoder, from_modules
from taskloom.encoders.mlp import mlp
from taskloom.encoders.recurrent import deep_conv_lstm, lstm
from taskloom.encoders.resnet import resnet18
from taskloom.encoders.thesis_002 import deap_cnn, opportunity_cnn
from taskloom.encoders.vgg5 import vgg5
from taskloom.errors import ConfigError, did_you_mean
from taskloom.registry import Registry

ENCODERS: Registry[Callable[..., Encoder]] = Registry("encoder")
"""Functions `(input_shape, **settings) -> Encoder`; settings are keyword-only."""

ENCODERS.register("conv1d")(conv1d)
ENCODERS.register("deap_cnn")(deap_cnn)
ENCODERS.register("deep_conv_lstm")(deep_conv_lstm)
ENCODERS.register("lstm")(lstm)
ENCODERS.register("mlp")(mlp)
ENCODERS.register("opportunity_cnn")(opportunity_cnn)
ENCODERS.register("resnet18")(resnet18)
ENCODERS.register("vgg5")(vgg5)


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
    "build",
    "conv1d",
    "deap_cnn",
    "deep_conv_lstm",
    "from_modules",
    "lstm",
    "mlp",
    "opportunity_cnn",
    "resnet18",
    "thesis_002",
    "vgg5",
]
