"""Recurrent networks for recordings: LSTM layers, and DeepConvLSTM (convolutions along time before them).

Between stages everything is [N, channels, ..., time]: the units of a layer are the channels, so that mixing
per channel mixes unit by unit, the same at every time step. Inside, an LSTM runs over [time, N, inputs]; the
turns between the two are views and cost nothing. State starts at 0 in every batch: no window knows of
another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from taskloom.encoders.encoder import Encoder, check_input_shape
from taskloom.encoders.modules import TimeConvolution, check_rate, check_sizes
from taskloom.errors import ConfigError, did_you_mean

STEPS = ("last", "mean", "all")
"""What the last layer of a recurrent encoder hands over."""


def lstm(
    input_shape: Sequence[int],
    *,
    hidden: Sequence[int] = (128, 128),
    dropout: float = 0.0,
    steps: str = "last",
    bidirectional: bool = False,
) -> Encoder:
    """LSTM layers (Hochreiter and Schmidhuber 1997; thesis 002, section 2.1.3), one stage each: `lstm_0`, ...

    A layer has 4 * units * (inputs + units + 2) parameters and PyTorch's start: uniform in +/- units ** -0.5.

    Args:
        input_shape: (window_samples, channels).
        hidden: Units of each layer.
        dropout: Share of the outputs of each layer but the last set to 0 in training.
        steps: What the last layer hands over: "last", its state after the window's last sample, [N, units];
            "mean", its mean over time; "all", every step, [N, units, time], for labels per sample. The other
            layers always give every step.
        bidirectional: Whether each layer reads the window from both ends, with `hidden` units each way; its
            units are then the forward ones followed by the backward ones. "last" is the state of each
            direction after it has read the whole window.

    Raises:
        ConfigError: A setting out of range, or an input that is not windows.

    Example:
        >>> encoder = lstm((64, 107), hidden=(32, 16))
        >>> encoder.stage_names, encoder.stage_shapes
        (('lstm_0', 'lstm_1'), ((32, 64), (16,)))
    """
    shape = _check_windows("lstm", input_shape)
    factories = _lstm_factories(
        shape[1],
        check_sizes("hidden", hidden, empty=False),
        dropouts=(check_rate("dropout", dropout), 0.0),
        steps=steps,
        bidirectional=bidirectional,
        windows=True,
    )
    return _encoder(factories, shape, num_convolutions=0)


def deep_conv_lstm(
    input_shape: Sequence[int],
    *,
    filters: Sequence[int] = (64, 64, 64, 64),
    kernel: int = 5,
    hidden: Sequence[int] = (128, 128),
    dropout: float = 0.5,
    steps: str = "last",
    bidirectional: bool = False,
) -> Encoder:
    """DeepConvLSTM (Ordonez and Roggen 2016): stages `conv_0` to `conv_3`, then `lstm_0` and `lstm_1`.

    The convolutions run along time, without padding or pooling, with the same kernels for every sensor
    channel and ReLU after each; an LSTM layer reads all filters of all channels at each of the samples that
    are left. The paper's windows, (24, 113), leave 8; its network has 3,963,456 parameters here: 384 +
    3 * 20,544 in the convolutions, 3,769,344 + 132,096 in the LSTM layers, whose cells have no peepholes.

    Convolutions start uniform after Glorot with biases 0, LSTM layers as PyTorch starts them.

    Args:
        input_shape: (window_samples, channels).
        filters: Filters of each convolution.
        kernel: Kernel of the convolutions in samples; each makes the window `kernel - 1` samples shorter.
        hidden: Units of each LSTM layer.
        dropout: Share set to 0 in training of the outputs of the last convolution and of each LSTM layer:
            of what an LSTM layer or a head takes in.
        steps: What the last layer hands over: "last", "mean" or "all", see `lstm`.
        bidirectional: See `lstm`.

    Raises:
        ConfigError: A setting out of range, or a window too short for the convolutions.

    Example:
        >>> encoder = deep_conv_lstm((24, 113))
        >>> encoder.stage_shapes[3:], sum(parameter.numel() for parameter in encoder.parameters())
        (((64, 113, 8), (128, 8), (128,)), 3963456)
    """
    shape = _check_windows("deep_conv_lstm", input_shape)
    widths = check_sizes("filters", filters, empty=False)
    kernel_size = _check_kernel(kernel)
    rate = check_rate("dropout", dropout)
    needed = len(widths) * (kernel_size - 1) + 1
    if shape[0] < needed:
        raise ConfigError(
            f"deep_conv_lstm needs windows of at least {needed} samples for {len(widths)} convolutions of "
            f"kernel {kernel_size}; the windows have {shape[0]}: take longer windows, a smaller kernel or "
            "fewer convolutions."
        )
    factories: list[Callable[[], nn.Module]] = [
        partial(_convolution, *sizes, kernel_size, windows=index == 0)
        for index, sizes in enumerate(zip((1, *widths[:-1]), widths, strict=True))
    ]
    factories[-1] = partial(_dropped, factories[-1], rate)
    factories += _lstm_factories(
        widths[-1] * shape[1],
        check_sizes("hidden", hidden, empty=False),
        dropouts=(rate, rate),
        steps=steps,
        bidirectional=bidirectional,
        windows=False,
    )
    return _encoder(factories, shape, num_convolutions=len(widths))


class LSTMLayer(nn.Module):
    """One LSTM layer between tensors whose channels are axis 1 and whose time is the last axis.

    Args:
        num_inputs: Values per time step.
        num_units: Units, in each direction.
        windows: Whether the input is windows [N, time, channels] instead (the first stage).
        steps: "last", "mean" or "all"; see `lstm`.
        bidirectional: Whether there is a second direction.
        dropout: Share of the outputs set to 0 in training.

    Example:
        >>> LSTMLayer(6, 4, steps="all")(torch.zeros(2, 3, 2, 9)).shape
        torch.Size([2, 4, 9])
    """

    def __init__(
        self,
        num_inputs: int,
        num_units: int,
        *,
        windows: bool = False,
        steps: str = "last",
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.windows, self.steps = windows, steps
        self.lstm = nn.LSTM(num_inputs, num_units, bidirectional=bidirectional)
        self.dropout = nn.Dropout(dropout) if dropout > 0.0 else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, ..., time] (windows: [N, time, channels]) to [N, units, time], or to [N, units]."""
        if self.windows:
            sequence = inputs.transpose(0, 1)
        else:
            # Filters last, as TimeConvolution leaves them in memory: the other order costs a fifth of a step.
            time = inputs.dim() - 1
            sequence = inputs.permute(time, 0, *range(2, time), 1).flatten(2)
        states, (final, _) = self.lstm(sequence)
        if self.steps == "last":
            outputs = final.transpose(0, 1).flatten(1)  # [directions, N, units] to [N, directions * units]
        elif self.steps == "mean":
            outputs = states.mean(0)
        else:
            outputs = states.permute(1, 2, 0)
        dropped: Tensor = self.dropout(outputs)
        return dropped

    def extra_repr(self) -> str:
        return f"steps={self.steps}, windows={self.windows}"


class WindowsToFilterLastMaps(nn.Module):
    """Windows [N, time, channels] to maps [N, 1, channels, time] whose axis 1 is the last one in memory.

    A map of one filter has either order in memory at once; saying which makes the first convolution answer in
    the order of the others. Otherwise the ReLU after it gets values in one order and gradients in the other,
    which costs a sixth of the time of the convolutions.
    """

    def forward(self, windows: Tensor) -> Tensor:
        return windows.transpose(1, 2).contiguous().unsqueeze(-1).permute(0, 3, 1, 2)


def _lstm_factories(
    num_inputs: int,
    hidden: Sequence[int],
    *,
    dropouts: tuple[float, float],
    steps: str,
    bidirectional: Any,
    windows: bool,
) -> list[Callable[[], nn.Module]]:
    """One factory per layer; `dropouts` are the rates of the layers before the last, and of the last."""
    if steps not in STEPS:
        raise ConfigError(f"steps must be last, mean or all; got {steps!r}.{did_you_mean(str(steps), STEPS)}")
    if not isinstance(bidirectional, bool):
        raise ConfigError(f"bidirectional must be true or false; got {bidirectional!r}.")
    factories: list[Callable[[], nn.Module]] = []
    for index, num_units in enumerate(hidden):
        last = index == len(hidden) - 1
        factories.append(
            partial(
                LSTMLayer,
                num_inputs,
                num_units,
                windows=windows and index == 0,
                steps=steps if last else "all",
                bidirectional=bidirectional,
                dropout=dropouts[last],
            )
        )
        num_inputs = num_units * (2 if bidirectional else 1)
    return factories


def _convolution(num_inputs: int, num_filters: int, kernel: int, *, windows: bool) -> nn.Module:
    first: list[nn.Module] = [WindowsToFilterLastMaps()] if windows else []
    return nn.Sequential(*first, TimeConvolution(num_inputs, num_filters, kernel), nn.ReLU())


def _dropped(factory: Callable[[], nn.Module], dropout: float) -> nn.Module:
    block = factory()
    assert isinstance(block, nn.Sequential)
    return nn.Sequential(*block, nn.Dropout(dropout)) if dropout > 0.0 else block


def _encoder(
    factories: Sequence[Callable[[], nn.Module]], shape: tuple[int, ...], *, num_convolutions: int
) -> Encoder:
    names = [f"conv_{index}" for index in range(num_convolutions)]
    names += [f"lstm_{index}" for index in range(len(factories) - num_convolutions)]
    return Encoder([factory() for factory in factories], input_shape=shape, names=names, rebuild=factories)


def _check_windows(name: str, input_shape: Sequence[int]) -> tuple[int, ...]:
    shape = check_input_shape(input_shape)
    if len(shape) != 2:
        raise ConfigError(f"{name} takes windows (window_samples, channels); got an input of shape {shape}.")
    return shape


def _check_kernel(kernel: Any) -> int:
    if isinstance(kernel, bool) or not isinstance(kernel, int) or kernel < 1:
        raise ConfigError(f"kernel must be a whole number above 0; got {kernel!r}.")
    return kernel
