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

    A tie may have parameters of its own. `attach` creates them, so it comes before the optimiser is built.

    Lazy regularisation (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section
    3.1 and appendix B): with `every` = k the penalty is evaluated in one training step of k, with k times its
    weight; in the others it is 0. Where weights change little within k steps that is the same pull at a k-th
    of the cost. It is another optimisation of the same objective, so that k = 1 is the default. Adam divides
    gradients by their running size: the penalty's then come in pulses, which count for less where they
    outweigh those of the losses. Karras et al., who give the penalty updates of its own, change Adam's rates
    for that; here the optimiser stays as it is, and `weight` should keep the penalty small beside the losses.

    Args:
        weight: Factor on the penalty; 0 is no tie.

    Attributes:
        lr_multiplier: Factor on the learning rate of the tie's own parameters.
        every: k, at least 1. Every tie has it; `ties.build` takes it as a setting.
        step: Number of the training step, from 0, that the next penalty belongs to; training sets it before
            every step (`MultiTaskNetwork.set_step`), from epoch and batch, so that there is nothing to save.
            None, as it is outside of training and in a loop of one's own: `penalty` is the whole penalty with
            its plain weight, whatever `every` is.

    Raises:
        ConfigError: The weight is not a number of at least 0.
    """

    lr_multiplier: float = 1.0
    every: int = 1
    step: int | None = None

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not is_finite_number(weight) or weight < 0:
            raise ConfigError(f"The weight of a tie must be a number of at least 0; got {weight!r}.")
        self.weight = float(weight)

    def attach(self, copies: Sequence[nn.Module]) -> None:
        """Checks that the tie fits these copies and creates its own parameters; call it once, when building.

        Args:
            copies: The copies that `penalty` will get.

        Raises:
            ConfigError: Fewer than two copies, copies whose parameters differ in name or shape, or a setting
                that does not fit them.
        """
        for _ in matching_weights(copies):
            pass

    def penalty(self, copies: Sequence[nn.Module]) -> Tensor:
        """The weighted penalty, summed over the weights of a stage.

        Args:
            copies: The T copies of one stage, T >= 2, with the same parameters by name and shape.

        Returns:
            Scalar; 0 without a graph where the weight is 0 or the copies have no parameter with two axes. In
            training steps that `every` leaves out 0, and the tie's own parameters have a gradient of 0.

        Raises:
            ConfigError: Fewer than two copies, copies whose parameters differ in name or shape, or a
                `measure` that gives no single number.
        """
        groups = [list(group) for group in matching_weights(copies)]
        if self.weight == 0.0 or not groups:
            example = next(copies[0].parameters(), None)
            return torch.zeros(()) if example is None else example.new_zeros(())
        weight = self.weight
        if self.step is not None:
            if self.step % self.every > 0:
                return self._left_out(groups[0][0])
            weight *= self.every
        total = self.measure_at(0, groups[0])
        for position, group in enumerate(groups[1:], start=1):
            total = total + self.measure_at(position, group)
        if total.dim():
            raise ConfigError(
                f"Tie {type(self).__name__} measures a tensor of shape {tuple(total.shape)}; one number is "
                "expected of `measure`."
            )
        return weight * total

    def _left_out(self, example: Tensor) -> Tensor:
        """A scalar 0 that gives the tie's own parameters a gradient: several processes wait for each."""
        zero = example.new_zeros(())
        for parameter in self.parameters():
            zero = zero + (0.0 * parameter).sum()
        return zero

    @abstractmethod
    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        """The penalty of one parameter of the T copies (T tensors of one shape), unweighted: a scalar."""

    def measure_at(self, position: int, weights: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """The same for the stage's weight number `position`, for ties with parameters per weight."""
        return self.measure(weights)

    def extra_repr(self) -> str:
        every = f", every={self.every}" if self.every > 1 else ""
        return f"weight={self.weight:g}{every}"


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


def is_finite_number(value: object) -> bool:
    """Whether a setting is an integer or a float (no Boolean) that is neither infinite nor NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_every(every: object, setting: str) -> int:
    """Checks how many training steps lie between two evaluations of a tie.

    Args:
        every: What was given.
        setting: What the message calls it.

    Raises:
        ConfigError: Not a whole number of at least 1.

    Example:
        >>> check_every(8, "soft_sharing.every")
        8
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ConfigError(f"{setting}: a whole number of training steps from 1 on expected, found {every!r}.")
    return every


def stacked_rows(weights: Sequence[Tensor]) -> Tensor:
    """The T copies of one weight as the rows of a matrix [T, entries], of at least float32."""
    rows = torch.stack([weight.flatten() for weight in weights])
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
