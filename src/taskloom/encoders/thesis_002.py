"""The convolutional networks of thesis 002 for OPPORTUNITY and DEAP (its appendix C, tables C.1 to C.8).

Every table is an encoder and a head per task. The convolutions are the encoder's first three stages; shared
dense layers are further stages; the layers that a table repeats per task are the head's (ReLU after each):

===== ============================ ============================= ============================= ==========
table network                      encoder                       head                          parameters
===== ============================ ============================= ============================= ==========
C.1   OPPORTUNITY, single-task     opportunity_cnn()             (500, 500) to 18              6,000,888
C.2   DEAP, single-task            deap_cnn()                    (56,) to 2                    86,810
C.3   OPPORTUNITY, hard sharing    opportunity_cnn(), 6 shared   (500, 500) to 18 and 6        6,754,894
C.4   DEAP, hard sharing           deap_cnn(), 3 shared          (48, 32, 16) to 2 and 2       142,196
C.5   OPPORTUNITY, soft sharing    opportunity_cnn(dense=())     (1000, 500) to 18 and 6       7,490,764
C.6   DEAP, soft sharing           deap_cnn()                    (56,) to 2 and 2              173,620
C.7   OPPORTUNITY, cross-stitch    as C.5, stitched per stage    as C.5                        7,490,764
C.8   DEAP, cross-stitch           as C.6, stitched per stage    as C.6                        173,620
===== ============================ ============================= ============================= ==========

C.7 and C.8 have the parameters of their stitches besides: 3 units of 2 x 2. The thesis' text agrees: "more
than 6 million" (C.1), "about 87000" (C.2), "approximately 174000" (C.8). Its "about 4.5 million" for C.7 is
not what the layers of that table add up to. Dropout (0.4) stands in C.1 and C.3 only, after the encoder's
dense layers.

Kernels run along time and are the same for every channel. The thesis feeds OPPORTUNITY as (time, channels),
DEAP as (channels, time); windows are (time, channels) here for both, which is the same arithmetic. Weights
start as Keras, which the thesis used, starts them: uniform after Glorot, biases 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from taskloom.encoders.encoder import Encoder, check_input_shape
from taskloom.encoders.modules import (
    TimeConvolution,
    WindowsToMaps,
    check_rate,
    check_sizes,
    glorot_dense_block,
)
from taskloom.errors import ConfigError


def opportunity_cnn(
    input_shape: Sequence[int],
    *,
    filters: Sequence[int] = (50, 40, 30),
    kernels: Sequence[int] = (11, 10, 6),
    pools: Sequence[int] = (2, 3, 1),
    dense: Sequence[int] = (1000, 1000, 1000),
    dropout: float = 0.4,
    width: float = 1.0,
) -> Encoder:
    """The thesis' network for OPPORTUNITY; stages `conv_0` to `conv_2`, then `dense_0` to `dense_2`.

    Args:
        input_shape: (window_samples, channels); the thesis' is (64, 107).
        filters: Filters of each convolution.
        kernels: Kernel of each convolution, in samples; no padding.
        pools: Max pooling after each convolution, in samples; 1 is none.
        dense: Width of each fully connected layer; `()` ends with the convolutions, which the heads flatten.
        dropout: Share of each dense layer's outputs set to 0 in training.
        width: Factor on `filters` and `dense` (rounded, at least 1), for small runs.

    Raises:
        ConfigError: A setting out of range, or a window too short for the kernels and pools.

    Example:
        >>> encoder = opportunity_cnn((64, 107), dense=())
        >>> encoder.stage_shapes, encoder.num_features
        (((50, 107, 27), (40, 107, 6), (30, 107, 1)), 3210)
    """
    return _time_cnn("opportunity_cnn", input_shape, filters, kernels, pools, dense, dropout, width)


def deap_cnn(
    input_shape: Sequence[int],
    *,
    filters: Sequence[int] = (64, 32, 16),
    kernels: Sequence[int] = (8, 6, 4),
    pools: Sequence[int] = (4, 3, 2),
    dense: Sequence[int] = (),
    dropout: float = 0.0,
    width: float = 1.0,
) -> Encoder:
    """The thesis' network for DEAP; stages `conv_0` to `conv_2`. Arguments as `opportunity_cnn`.

    Args:
        input_shape: (window_samples, channels); the thesis' is (128, 40), one second.
        filters, kernels, pools, dense, dropout, width: See `opportunity_cnn`.

    Raises:
        ConfigError: A setting out of range, or a window too short for the kernels and pools.

    Example:
        >>> deap_cnn((128, 40)).num_features
        1280
    """
    return _time_cnn("deap_cnn", input_shape, filters, kernels, pools, dense, dropout, width)


@dataclass(frozen=True)
class ThesisNetwork:
    """One of the tables: `build(network.encoder, input_shape, **network.settings)` and a head per task.

    Args:
        encoder: Name in `ENCODERS`.
        settings: Its settings.
        head_hidden: Hidden layers of each task's head, ReLU after each, no dropout.
        architecture: Name of the sharing architecture.
        classes: Classes of each task, in the order of the table.
    """

    encoder: str
    settings: Mapping[str, Any]
    head_hidden: tuple[int, ...]
    architecture: str
    classes: tuple[int, ...]


_OPPORTUNITY = MappingProxyType({"dense": (1000, 1000, 1000), "dropout": 0.4})
_OPPORTUNITY_SPLIT = MappingProxyType({"dense": (), "dropout": 0.0})
_DEAP = MappingProxyType({"dense": (), "dropout": 0.0})

TABLES: Mapping[str, ThesisNetwork] = MappingProxyType(
    {
        "C.1": ThesisNetwork("opportunity_cnn", _OPPORTUNITY, (500, 500), "single_task", (18,)),
        "C.2": ThesisNetwork("deap_cnn", _DEAP, (56,), "single_task", (2,)),
        "C.3": ThesisNetwork("opportunity_cnn", _OPPORTUNITY, (500, 500), "hard_sharing", (18, 6)),
        "C.4": ThesisNetwork("deap_cnn", _DEAP, (48, 32, 16), "hard_sharing", (2, 2)),
        "C.5": ThesisNetwork("opportunity_cnn", _OPPORTUNITY_SPLIT, (1000, 500), "soft_sharing", (18, 6)),
        "C.6": ThesisNetwork("deap_cnn", _DEAP, (56,), "soft_sharing", (2, 2)),
        "C.7": ThesisNetwork("opportunity_cnn", _OPPORTUNITY_SPLIT, (1000, 500), "cross_stitch", (18, 6)),
        "C.8": ThesisNetwork("deap_cnn", _DEAP, (56,), "cross_stitch", (2, 2)),
    }
)
"""The eight tables of appendix C."""


def head_hidden(table: str) -> tuple[int, ...]:
    """Hidden layers of each task's head in a table of appendix C.

    Raises:
        ConfigError: There is no such table.

    Example:
        >>> head_hidden("C.4")
        (48, 32, 16)
    """
    if table not in TABLES:
        raise ConfigError(f"`{table}` is not a table of thesis 002; the tables are {', '.join(TABLES)}.")
    return TABLES[table].head_hidden


class TimeBlock(nn.Sequential):
    """Convolution along time, max pooling, ReLU: [N, C, channels, time] to [N, filters, channels, less time].

    ReLU comes after the pooling instead of before: it is monotone, so value and gradient are the same, and it
    has `pool` times less to do.

    Args:
        num_inputs: C.
        num_filters: Filters.
        kernel: Kernel in samples.
        pool: Pool in samples.
        windows: Whether the input is windows [N, time, channels] instead (the first block).
    """

    def __init__(self, num_inputs: int, num_filters: int, kernel: int, pool: int, *, windows: bool) -> None:
        layers: list[nn.Module] = [WindowsToMaps()] if windows else []
        layers.append(TimeConvolution(num_inputs, num_filters, kernel))
        if pool > 1:
            layers.append(nn.MaxPool2d((1, pool)))
        super().__init__(*layers, nn.ReLU())


def _time_cnn(
    name: str,
    input_shape: Sequence[int],
    filters: Sequence[int],
    kernels: Sequence[int],
    pools: Sequence[int],
    dense: Sequence[int],
    dropout: float,
    width: float,
) -> Encoder:
    shape = check_input_shape(input_shape)
    if len(shape) != 2:
        raise ConfigError(f"{name} takes windows (window_samples, channels); got an input of shape {shape}.")
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0.0 < width < math.inf:
        raise ConfigError(f"width must be a number above 0; got {width!r}.")
    widths = _scaled(check_sizes("filters", filters, empty=False), width)
    dense_widths = _scaled(check_sizes("dense", dense), width)
    kernel_sizes, pool_sizes = check_sizes("kernels", kernels), check_sizes("pools", pools)
    if not len(widths) == len(kernel_sizes) == len(pool_sizes):
        raise ConfigError(
            f"filters, kernels and pools must be of one length; got {len(widths)}, {len(kernel_sizes)} and "
            f"{len(pool_sizes)}."
        )
    rate = check_rate("dropout", dropout)
    samples = _check_window(name, shape[0], kernel_sizes, pool_sizes)

    inputs = (1, *widths[:-1])
    factories: list[Callable[[], nn.Module]] = [
        partial(TimeBlock, *sizes, windows=index == 0)
        for index, sizes in enumerate(zip(inputs, widths, kernel_sizes, pool_sizes, strict=True))
    ]
    num_features = widths[-1] * shape[1] * samples
    for index, dense_width in enumerate(dense_widths):
        factories.append(
            partial(glorot_dense_block, num_features, dense_width, dropout=rate, flatten=index == 0)
        )
        num_features = dense_width
    names = [f"conv_{i}" for i in range(len(widths))] + [f"dense_{i}" for i in range(len(dense_widths))]
    return Encoder([factory() for factory in factories], input_shape=shape, names=names, rebuild=factories)


def _scaled(sizes: tuple[int, ...], width: float) -> tuple[int, ...]:
    return tuple(max(1, round(size * width)) for size in sizes)


def _check_window(name: str, samples: int, kernels: Sequence[int], pools: Sequence[int]) -> int:
    """Samples that are left after the last pooling; says how long a window must be where none is."""
    left = samples
    for kernel, pool in zip(kernels, pools, strict=True):
        left = (left - kernel + 1) // pool
    if left < 1:
        needed = 1
        for kernel, pool in zip(reversed(kernels), reversed(pools), strict=True):
            needed = needed * pool + kernel - 1
        raise ConfigError(
            f"{name} needs windows of at least {needed} samples for kernels {tuple(kernels)} and pools "
            f"{tuple(pools)}; the windows have {samples}: take longer windows or smaller kernels or pools."
        )
    return left
