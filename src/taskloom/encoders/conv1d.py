"""A compact convolutional network for recordings: EEG, inertial sensors, any regularly sampled channels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from taskloom.encoders.encoder import Encoder, check_input_shape
from taskloom.encoders.modules import check_rate, check_sizes
from taskloom.errors import ConfigError


def conv1d(
    input_shape: Sequence[int],
    *,
    filters: Sequence[int] = (32, 64, 64),
    kernel: int = 7,
    pool: int = 2,
    dropout: float = 0.0,
) -> Encoder:
    """Blocks of convolution over all channels jointly, batch norm, ReLU, max pooling; stages `conv_0`, ...

    The last block averages over time instead of pooling, so features do not depend on the window's length.

    Args:
        input_shape: (window_samples, channels).
        filters: Filters of each block.
        kernel: Kernel of each convolution in samples; odd, so that zero padding keeps the length.
        pool: Max pooling after each block but the last, in samples; 1 is none.
        dropout: Share of whole filters set to 0 in training, after each block but the last.

    Raises:
        ConfigError: A setting out of range, or a window shorter than the pooling takes.

    Example:
        >>> conv1d((256, 21), filters=(16, 32)).stage_shapes
        ((16, 128), (32,))
    """
    shape = check_input_shape(input_shape)
    if len(shape) != 2:
        raise ConfigError(f"conv1d takes windows (window_samples, channels); got an input of shape {shape}.")
    widths = check_sizes("filters", filters, empty=False)
    (kernel_size,), (pool_size,) = check_sizes("kernel", kernel), check_sizes("pool", pool)
    if kernel_size % 2 == 0:
        raise ConfigError(f"kernel must be odd, so that padding keeps the length; got {kernel_size}.")
    needed = pool_size ** (len(widths) - 1)
    if shape[0] < needed:
        raise ConfigError(
            f"conv1d with {len(widths)} blocks and pool {pool_size} needs windows of at least {needed} "
            f"samples; the windows have {shape[0]}: take longer windows, fewer blocks or a smaller pool."
        )
    rate = check_rate("dropout", dropout)
    inputs = (shape[1], *widths[:-1])
    factories = [
        partial(
            _block,
            num_inputs,
            num_filters,
            kernel_size,
            pool_size,
            rate,
            first=index == 0,
            last=index == len(widths) - 1,
        )
        for index, (num_inputs, num_filters) in enumerate(zip(inputs, widths, strict=True))
    ]
    names = [f"conv_{index}" for index in range(len(widths))]
    return Encoder([factory() for factory in factories], input_shape=shape, names=names, rebuild=factories)


class TimeFirst(nn.Module):
    """Windows [N, time, channels] to [N, channels, time]."""

    def forward(self, windows: Tensor) -> Tensor:
        return windows.transpose(1, 2)


class TimeAverage(nn.Module):
    """[N, F, time] to its mean over time, [N, F]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(2)


def _block(
    num_inputs: int, num_filters: int, kernel: int, pool: int, dropout: float, *, first: bool, last: bool
) -> nn.Sequential:
    layers: list[nn.Module] = [TimeFirst()] if first else []
    # No bias: batch norm takes the mean away and adds its own.
    convolution = nn.Conv1d(num_inputs, num_filters, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")
    layers += [convolution, nn.BatchNorm1d(num_filters), nn.ReLU()]
    if last:
        layers.append(TimeAverage())
    else:
        layers += [nn.MaxPool1d(pool)] if pool > 1 else []
        layers += [nn.Dropout1d(dropout)] if dropout > 0.0 else []
    return nn.Sequential(*layers)
