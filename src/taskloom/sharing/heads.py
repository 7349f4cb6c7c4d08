"""Heads: what stands between the encoder's features and one task's outputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError, did_you_mean
from taskloom.tasks import Task, TaskSet
from taskloom.tasks.base import LastLayer

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class HeadSpec:
    """Hidden layers of a head; the output layer, as wide as the task, comes after them.

    Args:
        hidden: Width of each hidden layer; none is a linear read-out.
        activation: After each hidden layer: relu, leaky_relu, elu, gelu or tanh.
        dropout: Share of each hidden layer's outputs set to 0 in training, in [0, 1): one number for all
            hidden layers, or one for each.
        norm: Between a hidden layer and its activation: None or "batch".
        per_sample: Whether there is one output per sample of a window: features [N, F, W] then go through
            the same layers at every sample and give [N, width, W]. Otherwise features with more than one axis
            per row are flattened.

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> HeadSpec(hidden=(500,), dropout=0.4).hidden
        (500,)
    """

    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float | tuple[float, ...] = 0.0
    norm: str | None = None
    per_sample: bool = False

    def __post_init__(self) -> None:
        sizes: Any = self.hidden  # from a study file it may be anything
        if isinstance(sizes, int):
            sizes = (sizes,)
        if not isinstance(sizes, Sequence) or not all(map(_is_size, sizes)):
            raise ConfigError(f"head.hidden: whole numbers above 0 expected, found {self.hidden!r}.")
        object.__setattr__(self, "hidden", tuple(sizes))
        if not isinstance(self.activation, str) or self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"head.activation: `{self.activation}` is not known."
                f"{did_you_mean(str(self.activation), ACTIVATIONS)} Known: {', '.join(ACTIVATIONS)}."
            )
        self._check_dropout()
        if self.norm not in (None, "batch"):
            raise ConfigError(f"head.norm: batch or nothing expected, found {self.norm!r}.")

    def _check_dropout(self) -> None:
        rates: Any = self.dropout
        if isinstance(rates, list | tuple):
            if len(rates) != len(self.hidden):
                raise ConfigError(
                    f"head.dropout: one number for all hidden layers, or one for each of the "
                    f"{len(self.hidden)} expected, found {len(rates)}."
                )
            object.__setattr__(self, "dropout", tuple(rates))
        for rate in rates if isinstance(rates, list | tuple) else (rates,):
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
                raise ConfigError(f"head.dropout: a number in [0, 1) expected, found {rate!r}.")

    @property
    def dropout_rates(self) -> tuple[float, ...]:
        """The rate after every hidden layer."""
        return self.dropout if isinstance(self.dropout, tuple) else (self.dropout,) * len(self.hidden)

    def build_for(self, task: Task, feature_shape: Sequence[int]) -> nn.Sequential:
        """Builds a task's head; see `build`."""
        return self.build(feature_shape, task.width, task.last_layer)

    def build(
        self, feature_shape: Sequence[int], width: int, last_layer: LastLayer = "linear"
    ) -> nn.Sequential:
        """Builds the head.

        Args:
            feature_shape: Shape of one row's features, without the batch axis.
            width: Number of outputs.
            last_layer: Its last layer: "linear", or "shared_slope" (see `SharedSlope`).

        Returns:
            A module from [N, *feature_shape] to [N, width], or from [N, F, W] to [N, width, W] per sample.

        Raises:
            ConfigError: Per-sample outputs of features that are not [N, F, W], or of an ordinal task.
        """
        if self.per_sample and last_layer == "shared_slope":
            raise ConfigError("head.per_sample: an ordinal task has one output per row, not per sample.")
        if self.per_sample and len(feature_shape) != 2:
            raise ConfigError(
                "head.per_sample: the encoder's last stage must give [N, F, W], one column per sample; its "
                f"rows have the shape {tuple(feature_shape)}."
            )
        layers: list[nn.Module] = []
        if not self.per_sample and len(feature_shape) > 1:
            layers.append(nn.Flatten())
        size = feature_shape[0] if self.per_sample else math.prod(feature_shape)
        for hidden, dropout in zip(self.hidden, self.dropout_rates, strict=True):
            layers.append(self._layer(size, hidden))
            if self.norm == "batch":
                layers.append(nn.BatchNorm1d(hidden))
            layers.append(ACTIVATIONS[self.activation]())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            size = hidden
        layers.append(SharedSlope(size, width) if last_layer == "shared_slope" else self._layer(size, width))
        return nn.Sequential(*layers)

    def _layer(self, num_inputs: int, num_outputs: int) -> nn.Module:
        if self.per_sample:
            return nn.Conv1d(num_inputs, num_outputs, kernel_size=1)
        return nn.Linear(num_inputs, num_outputs)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> HeadSpec:
        """Reads the settings of a study file.

        Raises:
            ConfigError: An unknown setting, or one out of range.

        Example:
            >>> HeadSpec.from_settings({"hidden": [64]})
            HeadSpec(hidden=(64,), activation='relu', dropout=0.0, norm=None, per_sample=False)
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise ConfigError(
                    f"head.{name} is not a setting.{did_you_mean(str(name), known)} "
                    f"Settings of head: {', '.join(known)}."
                )
        return cls(**settings)


class SharedSlope(nn.Module):
    """w x + b_k for every output k: one weight vector, a bias each (CORAL, Cao et al. 2020, section 3.3).

    Outputs of one row differ by their biases alone, so that where biases fall with k, so do the outputs, for
    every row. Biases start falling evenly from 1 to 0, as in the authors' later code: the order is there
    from the first step. The weight starts as a linear layer's.

    Args:
        num_inputs: F.
        num_outputs: K - 1.

    Example:
        >>> SharedSlope(5, 3)(torch.zeros(2, 5)).diff(dim=1).lt(0).all()
        tensor(True)
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.slope = nn.Linear(num_inputs, 1, bias=False)
        self.bias = nn.Parameter(torch.empty(num_outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.slope.reset_parameters()
        outputs = len(self.bias)
        with torch.no_grad():
            self.bias.copy_(torch.arange(outputs, 0, -1) / outputs)

    def forward(self, features: Tensor) -> Tensor:
        """[N, F] to [N, K - 1]."""
        slope: Tensor = self.slope(features)
        return slope + self.bias


HeadChoice = HeadSpec | Mapping[str, Any] | None
"""One spec (or its settings) for all tasks, or one for each of the named tasks."""


def head_specs(choice: HeadChoice, tasks: TaskSet) -> dict[str, HeadSpec]:
    """Resolves what a user gave for heads into one spec per task.

    Args:
        choice: None (linear read-outs), a spec, its settings, or `{task: spec or settings}`; tasks that such
            a mapping does not name get a linear read-out.
        tasks: The tasks.

    Raises:
        ConfigError: A name that is neither a task nor a setting.

    Example:
        >>> specs = head_specs({"a": {"hidden": [8]}}, tl.TaskSet(tl.Binary("a"), tl.Binary("b")))
        >>> specs["a"].hidden, specs["b"].hidden
        ((8,), ())
    """
    if choice is None or isinstance(choice, HeadSpec):
        return dict.fromkeys(tasks, choice or HeadSpec())
    if not isinstance(choice, Mapping):
        raise ConfigError(f"head: settings by name expected, found {choice!r}.")
    fields = {field.name for field in dataclasses.fields(HeadSpec)}
    if not any(name in tasks and isinstance(value, HeadSpec | Mapping) for name, value in choice.items()):
        return dict.fromkeys(tasks, HeadSpec.from_settings(choice))
    for name in choice:
        if name not in tasks:
            raise ConfigError(
                f"head.{name} is neither a task nor a setting.{did_you_mean(str(name), [*tasks, *fields])} "
                f"Tasks: {', '.join(tasks)}."
            )
    given = {
        name: spec if isinstance(spec, HeadSpec) else HeadSpec.from_settings(spec)
        for name, spec in choice.items()
    }
    return {name: given.get(name, HeadSpec()) for name in tasks}


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
