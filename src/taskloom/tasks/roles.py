"""What a task is for: judged, trained beside the judged ones, or trained so that the network forgets it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from taskloom.errors import ConfigError, did_you_mean

Role = Literal["main", "auxiliary", "adversarial"]
"""A main task is judged. An auxiliary one is trained beside and reported apart. An adversarial one is an
auxiliary one behind a gradient reversal: what it shares with others learns to forget it."""

Schedule = Literal["sigmoid", "linear", "constant"]


@dataclass(frozen=True)
class Reversal:
    """How strongly the gradient of an adversarial task is reversed, over the progress of training.

    With p the share of the training that is done, and q = (p - warmup) / (1 - warmup):

        lambda(p) = 0                                               while p < warmup
                    lambda_ * (2 / (1 + exp(-steepness * q)) - 1)   sigmoid
                    lambda_ * q                                     linear
                    lambda_                                         constant

    The sigmoid with steepness 10 is that of Ganin and Lempitsky ("Unsupervised domain adaptation by
    backpropagation", ICML 2015, section 4). Progress counts steps of all planned epochs: training that stops
    early does not reach the end of the schedule.

    Args:
        schedule: "sigmoid", "linear" or "constant".
        lambda_: Largest factor, above 0; study files write `lambda`.
        steepness: Of the sigmoid, above 0.
        warmup: Share of the training before which nothing is reversed (the trunk learns nothing from the
            task, its head learns), in [0, 1).

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> [round(Reversal().at(progress), 3) for progress in (0.0, 0.1, 0.5, 1.0)]
        [0.0, 0.462, 0.987, 1.0]
        >>> Reversal("linear", lambda_=2.0, warmup=0.5).at(0.75)
        1.0
    """

    schedule: Schedule = "sigmoid"
    lambda_: float = 1.0
    steepness: float = 10.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            known = get_args(Schedule)
            raise ConfigError(
                f"reversal.schedule: `{self.schedule}` is not a schedule."
                f"{did_you_mean(str(self.schedule), known)} Known: {', '.join(known)}."
            )
        for name, value in (("lambda", self.lambda_), ("steepness", self.steepness)):
            if not is_number(value) or value <= 0:
                raise ConfigError(f"reversal.{name}: a number above 0 expected, found {value!r}.")
        if not is_number(self.warmup) or not 0 <= self.warmup < 1:
            raise ConfigError(f"reversal.warmup: a number in [0, 1) expected, found {self.warmup!r}.")

    def at(self, progress: float) -> float:
        """The factor lambda when this share of the training is done.

        Args:
            progress: In [0, 1].
        """
        if progress < self.warmup:
            return 0.0
        rest = (progress - self.warmup) / (1 - self.warmup)
        if self.schedule == "sigmoid":
            return self.lambda_ * (2 / (1 + math.exp(-self.steepness * rest)) - 1)
        return self.lambda_ * (rest if self.schedule == "linear" else 1.0)

    @classmethod
    def from_settings(cls, given: Any) -> Reversal:
        """Reads the settings of a study file.

        Raises:
            ConfigError: Not settings by name, an unknown one, or one out of range.

        Example:
            >>> Reversal.from_settings({"schedule": "constant", "lambda": 0.3}).at(0.0)
            0.3
        """
        if isinstance(given, Reversal):
            return given
        if not isinstance(given, Mapping):
            raise ConfigError(f"reversal: settings by name expected, found {given!r}.")
        settings = {"lambda_" if key == "lambda" else key: value for key, value in given.items()}
        known = ["schedule", "lambda", "steepness", "warmup"]
        for key in given:
            if key not in (*known, "lambda_"):
                raise ConfigError(
                    f"reversal.{key} is not a setting.{did_you_mean(str(key), known)} "
                    f"Settings of reversal: {', '.join(known)}."
                )
        return cls(**settings)


class StageOutput(str):
    """Name of a task's outputs at a lower stage (deep supervision) among a network's predictions in training.

    A text, so that predictions stay a plain dictionary; `taskloom.losses.per_task` adds the loss to the
    task's own.

    Attributes:
        task: Whose outputs.
        weight: Factor on their loss.

    Example:
        >>> name = StageOutput.of("age", "conv_1", 0.3)
        >>> name, name.task, name.weight
        ('age at conv_1', 'age', 0.3)
    """

    task: str
    weight: float

    @classmethod
    def of(cls, task: str, stage: str, weight: float) -> StageOutput:
        """The name of `task`'s outputs at `stage`."""
        name = cls(f"{task} at {stage}")
        name.task, name.weight = task, weight
        return name


def is_number(value: object) -> bool:
    """Whether a setting is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
