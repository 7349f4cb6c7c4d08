"""What an explanation is of: one number per row, from a task's outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taskloom.errors import ConfigError, did_you_mean
from taskloom.tasks import Binary, Landmarks, Multiclass, Multilabel, Ordinal, Regression, Task

Target = int | str | None
"""A class, label or output by position or name; None leaves it to the task."""


def target_score(task: Task, output: Tensor, target: Target = None) -> tuple[Tensor, tuple[str, ...]]:
    """The score of a target and its name, row by row.

    Scores are logits, of labels per sample of a window their mean over its samples; of a class of a binary
    task the logit with its sign. Of a regression the prediction in its unit; of an ordinal task by CORAL the
    number of levels passed as a sum of probabilities, in the unit, so that there is a gradient.

    Args:
        task: The task.
        output: Its head's outputs, [N, width] or [N, width, W].
        target: See `activation_maps`.

    Returns:
        Scores [N], and per row what they are for.

    Raises:
        ConfigError: A target that the task does not have, or none where one is needed.

    Example:
        >>> gender = tl.Binary("gender", classes=("male", "female"))
        >>> target_score(gender, torch.tensor([[2.0], [-1.0]]))
        (tensor([2., 1.]), ('female', 'male'))
    """
    if output.ndim == 3:
        output = output.mean(dim=2)
    rows = len(output)
    match task:
        case Multiclass():
            codes = _codes(task, target, task.class_names, output.argmax(dim=1))
            return output.gather(1, codes.unsqueeze(1)).squeeze(1), _names(task.class_names, codes)
        case Binary():
            codes = _codes(task, target, task.class_names, (output[:, 0] > 0).long())
            return output[:, 0] * (2 * codes - 1), _names(task.class_names, codes)
        case Multilabel():
            position = _position(task, target, task.class_names)
            return output[:, position], (task.class_names[position],) * rows
        case Landmarks():
            names = [f"{point}_{axis}" for point in task.class_names for axis in "xy"]
            position = _position(task, target, names)
            return task.decode(output).flatten(1)[:, position], (names[position],) * rows
        case Ordinal():
            _refuse(task, target)
            return _expected(task, output), (task.name,) * rows
        case Regression() if task.size == 1:
            _refuse(task, target)
            return output[:, 0] * task.scale + task.center, (task.name,) * rows
        case Regression():
            position = _position(task, target, [str(number) for number in range(task.size)])
            return (output * task.scale + task.center)[:, position], (f"{task.name} {position}",) * rows
    raise TypeError(f"task {task.name}: a {task.kind} task has no scores to explain")


def _expected(task: Ordinal, output: Tensor) -> Tensor:
    assert task.range is not None  # an ordinal task refuses None
    if task.default_loss == "coral":
        return task.range[0] + task.step * task.probabilities(output).sum(dim=1)
    return task.decode(output)


def _codes(task: Task, target: Target, names: Sequence[str], predicted: Tensor) -> Tensor:
    if target is None:
        return predicted
    return torch.full_like(predicted, _position(task, target, names))


def _names(names: Sequence[str], codes: Tensor) -> tuple[str, ...]:
    return tuple(names[code] for code in codes.tolist())


def _position(task: Task, target: Target, names: Sequence[str]) -> int:
    if isinstance(target, str) and target in names:
        return list(names).index(target)
    if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(names):
        return target
    found = "none" if target is None else f"`{target}`"
    raise ConfigError(
        f"task {task.name}: a target among {', '.join(names)} (or its position) expected, found {found}."
        f"{did_you_mean(str(target), names)}"
    )


def _refuse(task: Task, target: Target) -> None:
    if target is not None:
        raise ConfigError(
            f"task {task.name}: one number per row needs no target, found `{target}`; leave it out."
        )
