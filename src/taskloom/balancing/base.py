"""What every balancer has: the seam between losses, network and training."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from taskloom.balancing.checks import (
    check_count,
    check_gradients,
    check_known,
    check_names,
    check_number,
    check_per_task,
)
from taskloom.errors import ConfigError, did_you_mean
from taskloom.registry import Registry
from taskloom.tasks import TaskSet

if TYPE_CHECKING:  # a balancer only calls methods of both: importing them would be for the type checker alone
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork


__all__ = [
    "BALANCERS",
    "Balancer",
    "Draw",
    "EpochValues",
    "Processes",
    "build",
    "check_count",
    "check_gradients",
    "check_known",
    "check_names",
    "check_number",
    "check_per_task",
    "unscaled",
]


class Draw(torch.Generator):
    """A generator of random numbers that processes can be given: the state travels as bytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _draw_from, (self.get_state().numpy().tobytes(),)


def _draw_from(state: bytes) -> Draw:
    draw = Draw()
    draw.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return draw


EpochValues = Mapping[str, float | None]
"""A value per task over an epoch; None where the task had no label."""


def unscaled(tensor: Tensor) -> Tensor:
    """The tensor itself: what stands for a factor, or for a mean over processes, where there is none."""
    return tensor


@dataclass(frozen=True)
class Processes:
    """The processes that train together; training sets it where there are several.

    Args:
        count: How many there are.
        mean: The mean of a tensor over all of them, the same in each.
    """

    count: int = 1
    mean: Callable[[Tensor], Tensor] = unscaled


class Balancer(ABC):
    """Adds to `.grad` of the parameters what one step should follow.

    In one's own loop: `optimizer.zero_grad(); balancer.backward(losses, model); optimizer.step()`. A balancer
    that learns something is told the network first, `balancer.start(model)`, so that `balancer.parameters()`
    can go to the optimiser; one that works at the shared feature needs the forward pass inside
    `with balancer.watching(model):`.

    Settings are public attributes of plain values; state is private and stands in `state_dict`.

    Attributes:
        takes_gradients: Whether the balancer takes gradients per task itself. Training then leaves the
            forward pass without DDP's hooks, and the balancer averages over `processes` and applies `scale`.
        backpropagate: Called in place of `Tensor.backward`, with the same arguments. Training sets it where
            gradients must be scaled (16-bit precision) or are shared between processes.
        processes: The processes that train together.
        scale: Multiplies a loss by the factor that 16-bit gradients need; training sets it.
        total: The value whose gradient the last `backward` added, a detached scalar; None before the first.
    """

    takes_gradients: ClassVar[bool] = False

    def __init__(self) -> None:
        self.backpropagate: Callable[..., None] = _backward
        self.processes = Processes()
        self.scale: Callable[[Tensor], Tensor] = unscaled
        self.total: Tensor | None = None
        self._terms: tuple[str, ...] = ()
        self._open = False  # whether there are parts of a batch that has not ended

    @abstractmethod
    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        """Adds the gradients of all losses and of `model.penalty()`.

        The penalty of ties is a term of its own: it is added with weight 1, never weighed or aggregated.

        Args:
            losses: Per task, sum and count of its loss over the batch, and per term named by `with_terms`. A
                task with count 0 adds nothing.
            model: The network that gave the predictions.
            beside: A scalar computed from the same predictions that is added like the penalty: what couples
                tasks is no task, and no method weighs it against one.

        Raises:
            TrainingError: The loss of a task has no gradient although the task has something to train; a
                method's solver failed (names method and step).

        Several processes: each loss reaches `backward` so scaled that the mean of the gradients over
        processes is the gradient of the joined batch.
        """

    def with_terms(self, names: Iterable[str]) -> None:
        """Names further losses that are balanced as if they were tasks; before `start`.

        A term has no metric and no parameters of its own. What it reaches is shared with the tasks it
        couples, their heads too.
        """
        self._terms = tuple(names)

    def names_of(self, tasks: Iterable[str]) -> tuple[str, ...]:
        """All that is balanced: the tasks, and after them the terms of `with_terms`."""
        return (*tasks, *self._terms)

    def accumulate(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        """Takes a part of a batch; the parts' gradients count together in the next `backward`.

        A batch may be abandoned after some of its parts: `optimizer.zero_grad()`, which takes their gradients
        away, begins another one. With `zero_grad(set_to_none=False)`, which leaves zeros, say it by
        `forget_parts`.

        Args:
            losses: Sums over the part, counts over the *whole* batch, so that the parts' means add up.
            model: The network that gave the predictions.
            beside: See `backward`; divided by the counts of the whole batch.

        Raises:
            ConfigError: The method looks at the values of the losses, which are known with the last part.
        """
        del losses, model, beside
        self.check_parts()
        raise NotImplementedError(f"{type(self).__name__} says it can take a batch in parts")

    def forget_parts(self) -> None:
        """Drops what `accumulate` took since the last `backward`: the batch is abandoned."""
        self._open = False

    def _keep_parts_of(self, model: MultiTaskNetwork) -> None:
        """After a part: from now on it is known by the gradients whether its batch still goes on."""
        self._open = any(parameter.grad is not None for parameter in model.parameters())

    def _forget_abandoned(self, model: MultiTaskNetwork) -> None:
        """Before a part: forgets those whose gradients are gone."""
        if self._open and all(parameter.grad is None for parameter in model.parameters()):
            self.forget_parts()

    @property
    def called(self) -> str:
        """What messages call it: its name in a study file, that of its class where it has none."""
        given: Any = getattr(self, "name", None)
        return given if isinstance(given, str) else BALANCERS.name_of(type(self))

    def check_parts(self) -> None:
        """Refuses what `accumulate` would.

        Raises:
            ConfigError: The method cannot take a batch in parts; says why.
        """
        if type(self).accumulate is Balancer.accumulate:
            raise ConfigError(
                f"balancing.{self.called} cannot take a batch in parts: it weighs tasks by the losses of the "
                "whole batch, which are known with its last part; use a smaller batch, or another method."
            )

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        """Begins a run: checks the tasks and sets what is learned or remembered to its start.

        Args:
            model: The network that will be trained.
            seed: Decides what the balancer draws; the same in every process.

        Raises:
            ConfigError: A setting does not fit the tasks or the network.
        """
        del seed
        self.check_tasks(model.tasks)

    def epoch_end(
        self, train_loss: EpochValues, validation_metrics: Mapping[str, EpochValues] | None = None
    ) -> None:
        """Called after every epoch, before the checkpoint.

        Args:
            train_loss: Mean loss per task over the epoch; None for a task without any label.
            validation_metrics: Per task, its metrics on validation.
        """
        del train_loss, validation_metrics

    def report_state(self) -> dict[str, float]:
        """What a report shows of this epoch, recorded after `epoch_end`.

        Returns:
            "weight/<task>": weight of the task's loss or gradient. Of gradient methods, the mean over the
            epoch's steps, and "cosine/<task>/<task>" (mean cosine of the two gradients), "conflicts/<task>/
            <task>" (share of steps where it was negative) and "conflict_rate" (the same over all pairs).
            "shared_frozen": 1, where a method that works on what is shared found nothing of it to train, so
            that its weights stay as they are.
        """
        return {}

    def remarks(self, epochs: int) -> list[str]:
        """What stands in the record of a training of so many epochs; asked after `start`."""
        del epochs
        return []

    def watching(self, model: MultiTaskNetwork) -> AbstractContextManager[None]:
        """Context of the forward pass; a balancer at the shared feature takes hold of it there."""
        del model
        return nullcontext()

    def weight(self, task: str) -> float:
        """Weight of the task in the sum that decides the best epoch on validation; 1 unless overridden.

        Weights that change stay out of it: sums of different epochs could not be compared.
        """
        del task
        return 1.0

    def trains(self, task: str) -> bool:
        """Whether the task's loss counted in the epoch that ended last; True unless a method's weight is 0.

        A task that has not entered yet has nothing to converge from: callbacks that stop tasks do not count
        its epochs.
        """
        del task
        return True

    def enters(self, task: str) -> bool:
        """Whether the task did not train in the epoch that ended last, but will in a later one.

        As long as a task is to enter, nothing that all tasks share has converged: no callback freezes it, and
        training does not stop.
        """
        del task
        return False

    def parameters(self) -> Iterable[nn.Parameter]:
        """What the balancer itself learns; training adds it to the optimiser. There from `start` on."""
        return ()

    def check_tasks(self, tasks: TaskSet) -> None:
        """Called once before training.

        Raises:
            ConfigError: The balancer names a task that is not there, or needs more tasks than there are.
        """
        del tasks

    def least_tasks(self, num_tasks: int) -> int:
        """How many of `num_tasks` tasks must have a label in every batch; 0 unless overridden."""
        del num_tasks
        return 0

    def settings(self) -> dict[str, Any]:
        """The settings as plain values: what a checkpoint must agree on."""
        plain = (bool, int, float, str, list, tuple, dict)
        return {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and (value is None or isinstance(value, plain)) and name != "total"
        }

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        if state:
            raise ConfigError(
                f"balancing.{self.called} keeps no state, but the checkpoint holds {', '.join(state)}; "
                "it was written with another balancer."
            )


BALANCERS: Registry[Callable[..., Balancer]] = Registry("balancer")
"""Balancers by name; each entry is called with the settings of its name."""


def build(name: str, settings: Mapping[str, Any] | None = None) -> Balancer:
    """Builds a balancer from the name and settings of a study file.

    Args:
        name: A name in `BALANCERS`.
        settings: Its settings; `lambda` stands for the argument `lambda_`.

    Raises:
        ConfigError: There is no such balancer or setting, one is missing, or a value is out of range.
        MissingExtraError: The method needs a package that is not installed.

    Example:
        >>> build("learned_weights", {"lambda": 0.01}).settings()["lambda_"]
        0.01
    """
    factory = BALANCERS[name]
    given = {"lambda_" if key == "lambda" else key: value for key, value in (settings or {}).items()}
    known = inspect.signature(factory).parameters
    shown = [key.removesuffix("_") for key in known]
    for key in given:
        if key not in known:
            has = f"Settings of {name}: {', '.join(shown)}." if shown else f"{name} has no settings."
            raise ConfigError(f"balancing.{name}.{key} is not a setting.{did_you_mean(key, shown)} {has}")
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            raise ConfigError(f"balancing.{name}.{key.removesuffix('_')}: this setting is required.")
    balancer: object = factory(**given)
    if not isinstance(balancer, Balancer):
        raise ConfigError(
            f"balancing.{name} gave {type(balancer).__name__}; a taskloom.balancing.Balancer is expected."
        )
    return balancer


def _backward(total: Tensor, **options: Any) -> None:
    total.backward(**options)  # type: ignore[no-untyped-call]
