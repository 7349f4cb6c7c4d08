"""The two sides of a coupling: which tasks they are, their predictions and labels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from taskloom.errors import ConfigError
from taskloom.losses import check_shapes, labels_of
from taskloom.tasks import Binary, Labels, Multiclass, Multilabel, Task, TaskSet


@dataclass(frozen=True)
class Side:
    """One side: exclusive classes of one task, or independent labels of one or several.

    Args:
        tasks: The tasks, in order.
        exclusive: Whether exactly one of `names` holds (a multiclass task, or the two classes of a binary
            one).
        names: Names of the K labels, in the order of `logits`.
    """

    tasks: tuple[Task, ...]
    exclusive: bool
    names: tuple[str, ...]

    @property
    def title(self) -> str:
        """The tasks in words, for messages."""
        shown = ", ".join(task.name for task in self.tasks[:5]) + (" ..." if len(self.tasks) > 5 else "")
        return f"task {shown}" if len(self.tasks) == 1 else f"tasks {shown}"

    def logits(self, predictions: Mapping[str, Tensor]) -> Tensor:
        """Head outputs side by side, [M, K]; labels per sample become rows, half precision float32.

        Raises:
            ValueError: A task without predictions, outputs of another width, or of different numbers of rows.
        """
        parts = []
        for task in self.tasks:
            if task.name not in predictions:
                raise ValueError(
                    f"coupling needs predictions of task {task.name}, found {', '.join(predictions)}"
                )
            output = predictions[task.name]
            if output.ndim not in (2, 3) or output.shape[1] != task.width:
                raise ValueError(
                    f"coupling: outputs of task {task.name} of shape [N, {task.width}] or "
                    f"[N, {task.width}, W] expected, found {list(output.shape)}"
                )
            output = output.movedim(1, -1).flatten(0, 1) if output.ndim == 3 else output
            parts.append(output.float() if output.dtype in (torch.float16, torch.bfloat16) else output)
        if len({len(part) for part in parts}) > 1:
            raise ValueError(
                f"coupling: {self.title} predict different numbers of rows: {[len(part) for part in parts]}"
            )
        if self.exclusive and isinstance(self.tasks[0], Binary):
            return torch.cat([torch.zeros_like(parts[0]), parts[0]], dim=1)
        return torch.cat(parts, dim=1)

    def log_rows(self, logits: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of a table's rows: [M, K] classes, or [M, 2K] labels and then their absence."""
        logits = logits / temperature
        if self.exclusive:
            return F.log_softmax(logits, dim=1)
        return torch.cat([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=1)

    def labels(self, labels: Labels, predictions: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Labels as 0 and 1, int64, and their presence, both [M, K]; absent ones are 0.

        Args:
            labels: Labels of the batch; a task without an entry is absent.
            predictions: Head outputs of the same rows, which say how many rows and samples there are.
        """
        values, presences = [], []
        for task in self.tasks:
            value, present = labels_of(task, labels, predictions[task.name])
            check_shapes(task, predictions[task.name], value, present)
            values.append(value)
            presences.append(present)
        return self.flat(values, presences)

    def all_labels(self, labels: Labels) -> tuple[Tensor, Tensor]:
        """The same for a whole data set's labels, without predictions.

        Raises:
            ConfigError: A task of which the labels know nothing.
        """
        values, presences = [], []
        for task in self.tasks:
            if task.name not in labels.values:
                raise ConfigError(
                    f"relatedness: labels of task {task.name} expected, "
                    f"found {', '.join(labels.values) or 'none'}."
                )
            values.append(labels.values[task.name])
            presences.append(labels.present[task.name])
        return self.flat(values, presences)

    def flat(self, values: Sequence[Tensor], presences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Values and presence of the tasks as columns, [M, K]."""
        if self.exclusive:
            present = presences[0].flatten()
            codes = torch.where(present, values[0].flatten(), 0)
            one_hot = F.one_hot(codes, len(self.names))
            present = present.unsqueeze(1).expand_as(one_hot)
            return torch.where(present, one_hot, 0), present
        columns, there = [], []
        for task, value, present in zip(self.tasks, values, presences, strict=True):
            multilabel = isinstance(task, Multilabel)
            columns.append(value if multilabel else value.flatten().unsqueeze(1))
            there.append(present if multilabel else present.flatten().unsqueeze(1))
        present = torch.cat(there, dim=1)
        return torch.where(present, torch.cat(columns, dim=1), 0), present


def classes_side(tasks: TaskSet, given: str | Sequence[str]) -> Side:
    """The side of the table's rows.

    One multiclass or one binary task given by name is a set of exclusive classes. A list of binary tasks, or
    multilabel tasks, are labels of their own, each present or absent.

    Raises:
        ConfigError: No such task, a regression or landmarks, or several tasks of which one is multiclass.
    """
    if isinstance(given, str) and isinstance(tasks[given], Binary):
        return Side((tasks[given],), True, tasks[given].class_names)
    return _side(tasks, given, "classes")


def attributes_side(tasks: TaskSet, given: str | Sequence[str]) -> Side:
    """The side of the table's columns; a binary task is one attribute of the task's name.

    Raises:
        ConfigError: No such task, a regression or landmarks, or several tasks of which one is multiclass.
    """
    return _side(tasks, given, "attributes")


def _side(tasks: TaskSet, given: str | Sequence[str], setting: str) -> Side:
    names = (given,) if isinstance(given, str) else tuple(given)
    if not names:
        raise ConfigError(f"coupling.{setting}: at least one task expected, found none.")
    members = tuple(tasks[name] for name in names)
    for task in members:
        if not isinstance(task, Binary | Multiclass | Multilabel):
            raise ConfigError(
                f"coupling.{setting}: task {task.name} is a {task.kind}; only binary, multiclass and "
                "multilabel tasks can be coupled, for a table relates labels, not numbers."
            )
        if isinstance(task, Multiclass) and len(members) > 1:
            raise ConfigError(
                f"coupling.{setting}: the multiclass task {task.name} stands beside others; "
                "couple it by itself, one coupling per multiclass task."
            )
    if isinstance(members[0], Multiclass):
        return Side(members, True, members[0].class_names)
    labels = [
        name
        for task in members
        for name in (task.class_names if isinstance(task, Multilabel) else (task.name,))
    ]
    doubles = sorted({name for name in labels if labels.count(name) > 1})
    if doubles:
        raise ConfigError(
            f"coupling.{setting}: the label `{doubles[0]}` stands twice among {', '.join(names)}; "
            "labels of one side need different names."
        )
    return Side(members, False, tuple(labels))


def between(classes: Side, attributes: Side) -> str:
    """Which kind of relatedness two sides need.

    Raises:
        ConfigError: Independent labels on the classes side with exclusive classes on the other.
    """
    if classes.exclusive:
        return "class_class" if attributes.exclusive else "class_attribute"
    if attributes.exclusive:
        raise ConfigError(
            f"coupling: {attributes.title} has exclusive classes, {classes.title} has not; give the "
            "exclusive ones as `classes` and the others as `attributes`."
        )
    return "attribute_attribute"
