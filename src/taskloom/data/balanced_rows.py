"""Balanced sampling: rows of every class of one task drawn equally often."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.errors import ConfigError
from taskloom.tasks import Binary, Labels, Multiclass, TaskSet


def balanced_weights(labels: Labels, tasks: TaskSet, task: str) -> NDArray[np.float64]:
    """Chances of the rows with which every class of a task comes equally often.

    Rows without a label of the task are drawn as often as they would be without balancing, so that the other
    tasks keep them.

    Args:
        labels: Labels of all N training rows.
        tasks: The tasks.
        task: The binary or multiclass task, with one label a row.

    Returns:
        Weights [N] with mean 1.

    Raises:
        ConfigError: The task has no classes, or labels per sample.

    Example:
        >>> labels = Labels({"a": torch.tensor([0, 0, 0, 1])}, {"a": torch.ones(4).bool()})
        >>> balanced_weights(labels, TaskSet(Binary("a")), "a").round(3)
        array([0.667, 0.667, 0.667, 2.   ])
    """
    if not isinstance(tasks[task], Binary | Multiclass):
        found = f"{tasks[task].kind} {task}"
        raise ConfigError(f"training.balanced_sampling: a binary or multiclass task expected, found {found}.")
    values, present = labels.values[task], labels.present[task]
    if values.ndim != 1:
        raise ConfigError(
            f"training.balanced_sampling: one label a row expected, {task} has one for every sample."
        )
    counts = torch.bincount(values[present], minlength=len(tasks[task].class_names)).double()
    share = int(present.sum()) / max(1, int((counts > 0).sum()))
    of_class = torch.where(counts > 0, share / counts.clamp(min=1), 0.0)
    weights = torch.ones(len(values), dtype=torch.float64)
    weights[present] = of_class[values[present]]
    return weights.numpy()
