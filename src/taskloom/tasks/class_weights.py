"""Weights of classes in the loss of a task, where one class (NULL) would drown the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from taskloom.errors import ConfigError, did_you_mean

ClassWeights = str | Mapping[str, float] | tuple[float, ...]
"""As a task declares them: "balanced", a weight by class name (1 for the others), or one for each class; ()
for none."""


def check_class_weights(task: str, given: Any) -> None:
    """Raises ConfigError where weights are of no known form; names of classes are checked later.

    Args:
        task: The task's name.
        given: What it declares.
    """
    where = f"tasks.{task}.class_weights"
    if isinstance(given, str):
        if given != "balanced":
            raise ConfigError(f"{where}: balanced, weights by class or a list expected, found {given!r}.")
        return
    if not isinstance(given, Mapping | tuple):
        raise ConfigError(f"{where}: balanced, weights by class or a list expected, found {given!r}.")
    for weight in given.values() if isinstance(given, Mapping) else given:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise ConfigError(f"{where}: numbers from 0 expected, found {weight!r}.")


def resolve_class_weights(
    task: str, given: ClassWeights, classes: Sequence[str], labels: Tensor
) -> tuple[float, ...]:
    """One weight for each class.

    "balanced" is n / (C n_c) for a class with n_c of the n labels, as in scikit-learn; a class without a
    label has 0.

    Args:
        task: The task's name.
        given: What it declares.
        classes: Names of its C classes, in code order.
        labels: Codes of the training labels that are there.

    Raises:
        ConfigError: A class that the task does not have, another number of weights than of classes, or no
            weight above 0.

    Example:
        >>> resolve_class_weights("gait", "balanced", ("NULL", "walk"), torch.tensor([0, 0, 0, 1]))
        (0.6666666666666666, 2.0)
        >>> resolve_class_weights("gait", {"NULL": 0.1}, ("NULL", "walk"), torch.tensor([0]))
        (0.1, 1.0)
    """
    where = f"tasks.{task}.class_weights"
    if isinstance(given, str):
        counts = torch.bincount(labels.flatten(), minlength=len(classes)).tolist()
        weights = tuple(sum(counts) / (len(classes) * count) if count else 0.0 for count in counts)
    elif isinstance(given, Mapping):
        for name in given:
            if str(name) not in classes:
                raise ConfigError(
                    f"{where}.{name} is not a class.{did_you_mean(str(name), classes)} "
                    f"Classes: {', '.join(classes)}."
                )
        named = {str(name): float(weight) for name, weight in given.items()}
        weights = tuple(named.get(name, 1.0) for name in classes)
    else:
        weights = tuple(map(float, given))
        if len(weights) != len(classes):
            raise ConfigError(
                f"{where}: one weight for each of the {len(classes)} classes ({', '.join(classes)}) "
                f"expected, found {len(weights)}."
            )
    if not any(weights):
        raise ConfigError(f"{where}: a weight above 0 expected, found none.")
    return weights
