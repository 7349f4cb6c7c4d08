"""A tie is a penalty that pulls the copies of a stage together."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError


class Tie(nn.Module, ABC):
    """Base of the ties: a weight, and a penalty over stacked weights of the copies of one stage.

    Biases and other parameters with one axis are left out, as in listing A.1 of thesis 002, which takes each
    layer's kernel alone.

    Args:
        weight: Factor on the penalty; 0 is no tie.

    Raises:
        ConfigError: The weight is not a number of at least 0.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0.0 <= weight < math.inf:
            raise ConfigError(f"The weight of a tie must be a number of at least 0; got {weight!r}.")
        self.weight = float(weight)

    def penalty(self, copies: Sequence[nn.Module]) -> Tensor:
        """The weighted penalty, summed over the weights of a stage.

        Args:
            copies: The T copies of one stage, T >= 2, with the same parameters by name and shape.

        Returns:
            Scalar; 0 without a graph where the weight is 0 or the copies have no parameter with two axes.

        Raises:
            ConfigError: Fewer than two copies, or copies whose parameters differ in name or shape.
        """
        groups = [list(group) for group in matching_weights(copies)]
        if self.weight == 0.0 or not groups:
            example = next(copies[0].parameters(), None)
            return torch.zeros(()) if example is None else example.new_zeros(())
        total = self.measure(groups[0])
        for group in groups[1:]:
            total = total + self.measure(group)
        return self.weight * total

    @abstractmethod
    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        """The penalty of one parameter of the T copies (T tensors of one shape), unweighted: a scalar."""

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"


def matching_weights(copies: Sequence[nn.Module]) -> Iterator[tuple[nn.Parameter, ...]]:
    """For every parameter with two axes or more, the T copies of it.

    Raises:
        ConfigError: Fewer than two copies, or copies whose parameters differ in name or shape.
    """
    if len(copies) < 2:
        raise ConfigError(f"A tie needs at least two copies of a stage; got {len(copies)}.")
    parameters = [dict(copy.named_parameters()) for copy in copies]
    for number, others in enumerate(parameters[1:], start=1):
        for name in [*parameters[0], *others]:
            shapes = [
                tuple(found[name].shape) if name in found else None for found in (parameters[0], others)
            ]
            if shapes[0] != shapes[1]:
                raise ConfigError(
                    f"A tie needs copies of one stage; parameter `{name}` has shape {shapes[0]} in copy 0 "
                    f"and {shapes[1]} in copy {number}."
                )
    for name, parameter in parameters[0].items():
        if parameter.dim() >= 2:
            yield tuple(found[name] for found in parameters)
