"""Grouped execution: the copies of a stage as one kernel per layer; small ones leave a GPU idle.

T copies of one shape run layer by layer on one tensor: convolutions as one convolution with T groups, linear
layers as one batched product, batch norm over the channels of all copies at once (statistics stay each copy's
own), everything else that has no weights on all of them or one by one. Weights stay where they are and are
stacked in every step, so that state dict, optimiser and gradients do not know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taskloom.encoders.modules import TimeConvolution

Execution = Literal["auto", "one_by_one", "grouped"]

LARGEST = 2**20
"""`auto` groups copies that give at most so many values each; larger ones keep a GPU busy by themselves."""

_ELEMENTWISE = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
)
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, TimeConvolution)
_POOLS: dict[type[nn.Module], int] = {
    nn.MaxPool1d: 3,
    nn.AvgPool1d: 3,
    nn.AdaptiveAvgPool1d: 3,
    nn.MaxPool2d: 4,
    nn.AvgPool2d: 4,
    nn.AdaptiveAvgPool2d: 4,
}
"""Layers that treat every channel alike, with the axes of a batch."""


@dataclass
class Columns:
    """The tensors of T copies in one.

    Args:
        tensor: [N, ...] where all have the same; [N, T * C, ...] side by side; [T, N, ...] stacked.
        form: Which of the three.
        number: T.
    """

    tensor: Tensor
    form: Literal["same", "channels", "stacked"]
    number: int

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Columns:
        if all(tensor is tensors[0] for tensor in tensors):
            return cls(tensors[0], "same", len(tensors))
        if tensors[0].dim() > 2:
            return cls(torch.cat(list(tensors), dim=1), "channels", len(tensors))
        return cls(torch.stack(list(tensors)), "stacked", len(tensors))

    @property
    def dim(self) -> int:
        """Axes of one copy's tensor."""
        return self.tensor.dim() - (self.form == "stacked")

    def channels(self) -> Tensor:
        """[N, T * C, ...]."""
        if self.form == "same":
            return torch.cat([self.tensor] * self.number, dim=1)
        return self.tensor.transpose(0, 1).flatten(1, 2) if self.form == "stacked" else self.tensor

    def stacked(self) -> Tensor:
        """[T, N, C, ...]."""
        if self.form == "same":
            return self.tensor.expand(self.number, *self.tensor.shape)
        if self.form == "channels":
            size = self.tensor.shape
            return self.tensor.view(size[0], self.number, -1, *size[2:]).transpose(0, 1)
        return self.tensor

    def pieces(self) -> list[Tensor]:
        """T tensors [N, C, ...]; each a view of its own, which may be worked on in place."""
        if self.form == "same":
            return [self.tensor] * self.number
        stacked = self.stacked()
        return [stacked.select(0, index) for index in range(self.number)]


def why_not(copies: Sequence[nn.Module]) -> str | None:
    """Why these copies of a stage have no grouped form, by what they are made of; None: they have one.

    Example:
        >>> why_not([nn.Linear(3, 2), nn.Linear(3, 2)]) is None
        True
        >>> why_not([nn.LSTM(3, 2), nn.LSTM(3, 2)])
        'LSTM has no grouped form'
        >>> why_not([nn.Linear(3, 2)])
        'one copy'
    """
    if len(copies) < 2:
        return "one copy"
    rows = [_layers(copy) for copy in copies]
    if any([type(layer) for layer in row] != [type(layer) for layer in rows[0]] for row in rows):
        return "the copies are made of different layers"
    for layers in zip(*rows, strict=True):
        if reason := _layer_why_not(layers):
            return reason
    return None


def why_not_now(copies: Sequence[nn.Module], inputs: Sequence[Tensor]) -> str | None:
    """What stands against grouping in this very call: modes, hooks, inputs. None: nothing."""
    if len({id(copy) for copy in copies}) < len(copies):
        return "a copy runs on several tensors"
    if any(tensor.shape != inputs[0].shape or tensor.dtype != inputs[0].dtype for tensor in inputs):
        return "inputs of different shapes"
    for copy in copies:
        for module in copy.modules():
            if module._forward_hooks or module._forward_pre_hooks:
                return "a hook stands at a layer"
            if module.training != copies[0].training:
                return "some copies train and others do not"
            if isinstance(module, _DROPOUT) and module.training and module.p > 0:
                return "dropout draws for one copy after the other"
    return None


def wanted(execution: Execution, inputs: Sequence[Tensor], size: int) -> bool:
    """Whether the copies are to be grouped if they can.

    Args:
        execution: `auto` groups on a GPU, up to `LARGEST`.
        inputs: What goes into the copies.
        size: Values in one row of a copy's output.
    """
    if execution == "auto":
        return inputs[0].is_cuda and len(inputs[0]) * size <= LARGEST
    return execution == "grouped"


def run_grouped(copies: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Runs copies for which `why_not` and `why_not_now` give nothing.

    Args:
        copies: T modules.
        inputs: T tensors of one shape.

    Returns:
        T tensors, those of `copy(tensor)` one by one up to rounding.

    Example:
        >>> copies, x = [nn.Linear(3, 2), nn.Linear(3, 2)], torch.ones(4, 3)
        >>> torch.allclose(run_grouped(copies, [x, x])[1], copies[1](x))
        True
    """
    columns = Columns.of(inputs)
    for layers in zip(*(_layers(copy) for copy in copies), strict=True):
        columns = _run_layer(layers, columns)
    return columns.pieces()


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of a module in the order in which they run, containers opened."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return [layer for child in module for layer in _layers(child)]
    return [module]


def _layer_why_not(layers: Sequence[nn.Module]) -> str | None:
    first = layers[0]
    name = type(first).__name__
    if type(first) in _CONVOLUTIONS:
        shapes = {(layer.weight.shape, layer.bias is None) for layer in layers}
        plain = all(_convolution(layer) == (1, "zeros", *_convolution(first)[2:]) for layer in layers)
        return None if plain and len(shapes) == 1 else f"{name} with groups, padding or shapes of its own"
    if type(first) is nn.Linear:
        shapes = {(layer.weight.shape, layer.bias is None) for layer in layers}
        return None if len(shapes) == 1 else "Linear layers of different shapes"
    if type(first) in (nn.BatchNorm1d, nn.BatchNorm2d):
        norms = [layer for layer in layers if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]
        kinds = {(n.num_features, n.eps, n.momentum, n.affine, n.track_running_stats) for n in norms}
        plain = norms[0].affine and norms[0].track_running_stats and norms[0].momentum is not None
        return None if plain and len(kinds) == 1 else f"{name} with settings of its own"
    if any(True for layer in layers for _ in (*layer.parameters(), *layer.buffers())):
        return f"{name} has no grouped form"
    return None


def _convolution(layer: nn.Module) -> tuple[object, ...]:
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    return layer.groups, layer.padding_mode, layer.stride, layer.padding, layer.dilation, layer.kernel_size


def _run_layer(layers: Sequence[nn.Module], columns: Columns) -> Columns:
    first = layers[0]
    if type(first) in _CONVOLUTIONS:
        return _run_convolution(layers, columns)
    if type(first) is nn.Linear:
        return _run_linear(layers, columns)
    if type(first) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return _run_norm(layers, columns)
    if type(first) in (*_ELEMENTWISE, *_DROPOUT):  # dropout that does nothing, see `why_not_now`
        return Columns(first(columns.tensor), columns.form, columns.number)
    if columns.form == "same":
        return Columns(first(columns.tensor), "same", columns.number)
    if type(first) in _POOLS and columns.dim == _POOLS[type(first)]:
        pooled = first(columns.channels())
        if isinstance(pooled, Tensor):
            return Columns(pooled, "channels", columns.number)
    return Columns.of([layer(piece) for layer, piece in zip(layers, columns.pieces(), strict=True)])


def _joined(layers: Sequence[nn.Module], name: str, join: Callable[[list[Tensor]], Tensor]) -> Tensor | None:
    tensors = [getattr(layer, name) for layer in layers]
    return None if tensors[0] is None else join(tensors)


def _run_convolution(layers: Sequence[nn.Module], columns: Columns) -> Columns:
    first = layers[0]
    assert isinstance(first, (nn.Conv1d, nn.Conv2d))
    weight = _joined(layers, "weight", torch.cat)
    assert weight is not None
    if isinstance(first, TimeConvolution):  # over maps with time last, see there
        weight = weight.transpose(2, 3)
    same = columns.form == "same"  # one input: one convolution with the filters of all
    convolve: Callable[..., Tensor] = F.conv1d if isinstance(first, nn.Conv1d) else F.conv2d
    outputs = convolve(
        columns.tensor if same else columns.channels(),
        weight,
        _joined(layers, "bias", torch.cat),
        first.stride,
        first.padding,
        first.dilation,
        1 if same else columns.number,
    )
    return Columns(outputs, "channels", columns.number)


def _run_linear(layers: Sequence[nn.Module], columns: Columns) -> Columns:
    weight, bias = _joined(layers, "weight", torch.stack), _joined(layers, "bias", torch.stack)
    assert weight is not None
    rows = columns.stacked()
    flat = rows.reshape(rows.shape[0], -1, rows.shape[-1])
    if bias is None:
        outputs = torch.bmm(flat, weight.transpose(1, 2))
    else:
        outputs = torch.baddbmm(bias[:, None], flat, weight.transpose(1, 2))
    return Columns(outputs.reshape(*rows.shape[:-1], -1), "stacked", columns.number)


def _run_norm(layers: Sequence[nn.Module], columns: Columns) -> Columns:
    norms = [layer for layer in layers if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]
    means = torch.cat([norm.running_mean for norm in norms if norm.running_mean is not None])
    variances = torch.cat([norm.running_var for norm in norms if norm.running_var is not None])
    outputs = F.batch_norm(
        columns.channels(),
        means,
        variances,
        torch.cat([norm.weight for norm in norms]),
        torch.cat([norm.bias for norm in norms]),
        norms[0].training,
        norms[0].momentum or 0.0,
        norms[0].eps,
    )
    if norms[0].training:
        with torch.no_grad():
            parts = zip(norms, means.chunk(len(norms)), variances.chunk(len(norms)), strict=True)
            for norm, mean, variance in parts:
                assert norm.running_mean is not None
                assert norm.running_var is not None
                assert norm.num_batches_tracked is not None
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)
                norm.num_batches_tracked.add_(1)
    return Columns(outputs, "channels", columns.number)
