"""Small parts that several encoders are made of, and checks of their settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from taskloom.errors import ConfigError, did_you_mean

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
"""Activation functions by name."""


def activation_layer(name: str) -> nn.Module:
    """Returns a new activation layer.

    Raises:
        ConfigError: The name is not one of `ACTIVATIONS`.

    Example:
        >>> activation_layer("tanh")
        Tanh()
    """
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"`{name}` is not a known activation.{did_you_mean(str(name), ACTIVATIONS)} "
            f"Known: {', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[name]()


def check_sizes(setting: str, sizes: Any, *, empty: bool = True) -> tuple[int, ...]:
    """Returns layer sizes as a tuple: whole numbers above 0; one number stands for a list of one.

    Raises:
        ConfigError: Anything else, naming the setting.
    """
    found = [sizes] if isinstance(sizes, int) else sizes
    if (
        not isinstance(found, Sequence)
        or isinstance(found, str)
        or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in found)
    ):
        raise ConfigError(f"{setting} must be a list of whole numbers above 0; got {sizes!r}.")
    if not empty and len(found) == 0:
        raise ConfigError(f"{setting} must have at least one number; got an empty list.")
    return tuple(found)


def check_rate(setting: str, rate: Any) -> float:
    """Returns a dropout rate. Raises ConfigError unless 0 <= rate < 1."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0.0 <= rate < 1.0:
        raise ConfigError(f"{setting} must be a number from 0 to below 1; got {rate!r}.")
    return float(rate)


def dense_block(
    num_inputs: int,
    num_outputs: int,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
    norm: str | None = None,
) -> nn.Sequential:
    """One fully connected layer: linear, normalisation, activation, dropout (the two in between where asked).

    Args:
        num_inputs: F.
        num_outputs: Width of the layer.
        activation: A name of `ACTIVATIONS`.
        dropout: Share of outputs set to 0 in training.
        norm: None, "batch" or "layer".

    Returns:
        Module from [N, num_inputs] to [N, num_outputs].
    """
    layers: list[nn.Module] = [nn.Linear(num_inputs, num_outputs)]
    if norm == "batch":
        layers.append(nn.BatchNorm1d(num_outputs))
    elif norm == "layer":
        layers.append(nn.LayerNorm(num_outputs))
    elif norm is not None:
        raise ConfigError(f"norm must be `batch`, `layer` or left out; got {norm!r}.")
    layers.append(activation_layer(activation))
    if dropout > 0.0:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def glorot_dense_block(
    num_inputs: int, num_outputs: int, *, dropout: float = 0.0, flatten: bool = False
) -> nn.Sequential:
    """Fully connected layer with Glorot's start, ReLU, dropout; flattens [N, ...] first where asked.

    Args:
        num_inputs: Values per row.
        num_outputs: Width of the layer.
        dropout: Share of outputs set to 0 in training.
        flatten: Whether the input has more axes than [N, num_inputs].
    """
    block = dense_block(num_inputs, num_outputs, dropout=dropout)
    glorot_start(block)
    return nn.Sequential(nn.Flatten(), *block) if flatten else block


def glorot_start(module: nn.Module) -> None:
    """Starts every linear and convolutional layer as Keras does: uniform weights after Glorot, biases 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class WindowsToMaps(nn.Module):
    """Windows [N, time, channels] to one map per row, [N, 1, channels, time]."""

    def forward(self, windows: Tensor) -> Tensor:
        return windows.transpose(1, 2).unsqueeze(1)


class TimeConvolution(nn.Conv2d):
    """Convolution along time, the same kernel for every channel, no padding, Glorot's start.

    The weight is [filters, C, kernel, 1], the thesis' (kernel, 1). It runs as a (1, kernel) convolution over
    maps with the filters last in memory: on a CPU the best of the six ways measured (0.6 to 0.95 of the time
    of a plain (kernel, 1) convolution, forward and backward at batch 100, OPPORTUNITY's and DEAP's sizes).

    Args:
        num_inputs: C.
        num_filters: Filters.
        kernel: Kernel in samples.

    Example:
        >>> TimeConvolution(1, 50, 11)(torch.zeros(2, 1, 107, 64)).shape
        torch.Size([2, 50, 107, 54])
    """

    def __init__(self, num_inputs: int, num_filters: int, kernel: int) -> None:
        super().__init__(num_inputs, num_filters, (kernel, 1))

    def reset_parameters(self) -> None:
        glorot_start(self)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, channels, time] to [N, filters, channels, time - kernel + 1]."""
        # Through [filters, C * kernel], so that the gradient comes back in the weight's own memory order:
        # DDP asks for that.
        rows = self.weight.flatten(1)
        if self.in_channels == 1:
            # With one channel both memory orders are the same numbers, and PyTorch takes the first: only
            # these strides say that filters are to come out last, which halves the stage's time.
            weight = rows.view(self.out_channels, 1, -1, 1).permute(0, 3, 1, 2)
        else:
            weight = rows.view(self.out_channels, self.in_channels, 1, -1)
            weight = weight.contiguous(memory_format=torch.channels_last)
        return functional.conv2d(maps, weight, self.bias)
