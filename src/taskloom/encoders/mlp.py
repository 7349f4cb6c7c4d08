"""Fully connected layers, for feature rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from taskloom.encoders.encoder import Encoder, check_input_shape
from taskloom.encoders.modules import check_rate, check_sizes, dense_block


def mlp(
    input_shape: Sequence[int],
    *,
    hidden: Sequence[int] = (128, 64),
    activation: str = "relu",
    dropout: float = 0.0,
    norm: str | None = None,
) -> Encoder:
    """Fully connected layers; one stage (`dense_0`, `dense_1` ...) per hidden layer.

    Args:
        input_shape: (F,) for feature rows; longer shapes are flattened by the first stage.
        hidden: Width of each layer.
        activation: relu, leaky_relu, elu, gelu, silu or tanh.
        dropout: Share of each layer's outputs set to 0 in training.
        norm: "batch" or "layer" normalisation before the activation, or None.

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> encoder = mlp((5,), hidden=(8, 4), dropout=0.1)
        >>> encoder.stage_names, encoder.num_features
        (('dense_0', 'dense_1'), 4)
    """
    shape = check_input_shape(input_shape)
    widths = check_sizes("hidden", hidden, empty=False)
    rate = check_rate("dropout", dropout)
    sizes = (math.prod(shape), *widths)
    factories = [
        partial(dense_block, num_inputs, num_outputs, activation=activation, dropout=rate, norm=norm)
        for num_inputs, num_outputs in pairwise(sizes)
    ]
    if len(shape) > 1:
        factories[0] = partial(_flattened, factories[0])
    names = [f"dense_{index}" for index in range(len(widths))]
    return Encoder([factory() for factory in factories], input_shape=shape, names=names, rebuild=factories)


def _flattened(factory: partial[nn.Sequential]) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *factory())
