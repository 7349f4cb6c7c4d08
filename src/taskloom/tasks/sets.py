"""The ordered set of tasks, and labels with holes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taskloom.errors import ConfigError, did_you_mean
from taskloom.tasks.class_weights import resolve_class_weights
from taskloom.tasks.kinds import Binary, Landmarks, Multiclass, Regression, Task, task_from_dict


class TaskSet(Mapping[str, Task]):
    """An ordered set of tasks; the order is that of heads, mixing matrices and reports.

    Raises:
        ConfigError: Two tasks of one name, or none at all.

    Example:
        >>> from taskloom.tasks import Binary
        >>> tasks = TaskSet(Regression("age", unit="years"), Binary("gender"))
        >>> tasks.names
        ('age', 'gender')
    """

    def __init__(self, *tasks: Task) -> None:
        if not tasks:
            raise ConfigError("tasks: at least one task expected, found none.")
        self._tasks: dict[str, Task] = {}
        for task in tasks:
            if task.name in self._tasks:
                raise ConfigError(f"tasks: `{task.name}` stands twice; task names are unique.")
            self._tasks[task.name] = task

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tasks)

    def __getitem__(self, name: str) -> Task:
        if name not in self._tasks:
            raise ConfigError(
                f"`{name}` is not a task.{did_you_mean(name, self._tasks)} Tasks: {', '.join(self._tasks)}."
            )
        return self._tasks[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"TaskSet({', '.join(f'{t.kind} {t.name}' for t in self._tasks.values())})"

    def index(self, name: str) -> int:
        """Position of the task in the set."""
        return self.names.index(self[name].name)

    def subset(self, names: Sequence[str]) -> TaskSet:
        """Returns the named tasks, in the order of this set."""
        wanted = {self[name].name for name in names}
        return TaskSet(*(task for task in self._tasks.values() if task.name in wanted))

    def replaced(self, *tasks: Task) -> TaskSet:
        """Returns a set in which each given task stands in place of the one of the same name."""
        new = {self[task.name].name: task for task in tasks}
        return TaskSet(*(new.get(name, task) for name, task in self._tasks.items()))

    @property
    def without_classes(self) -> tuple[str, ...]:
        """Names of the binary and multiclass tasks whose classes the data have still to say."""
        return tuple(
            name
            for name, task in self._tasks.items()
            if isinstance(task, Binary | Multiclass) and not task.classes
        )

    def with_classes(self, known: Mapping[str, Sequence[str]]) -> TaskSet:
        """Returns a set in which tasks built without classes have those that are known; others stay.

        Raises:
            ConfigError: A binary task of which more than two are known, or any of one class.

        Example:
            >>> from taskloom.tasks import Binary
            >>> tasks = TaskSet(Binary("smiling"), Binary("sex", ("F", "M")))
            >>> tasks.with_classes({"smiling": ("no", "yes"), "sex": ("M", "F")})["sex"].class_names
            ('F', 'M')
        """
        found = []
        for name in self.without_classes:
            task = self._tasks[name]
            if isinstance(task, Binary | Multiclass) and name in known:
                found.append(dataclasses.replace(task, classes=tuple(known[name])))
        return self.replaced(*found)

    def with_class_weights(self, declared: Mapping[str, Any]) -> TaskSet:
        """Returns a set whose class weights are as declared again ("balanced"), to be fitted on other labels.

        Args:
            declared: Per task, what `fit` made numbers of; the others stay.

        Example:
            >>> from taskloom.tasks import Multiclass
            >>> tasks = TaskSet(Multiclass("gait", ("NULL", "walk"), class_weights=(0.7, 2.0)))
            >>> tasks.with_class_weights({"gait": "balanced"})["gait"].to_dict()["class_weights"]
            'balanced'
        """
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in declared.items()}
        return self.replaced(
            *(
                dataclasses.replace(task, class_weights=given[name])
                for name, task in self._tasks.items()
                if isinstance(task, Multiclass) and name in given
            )
        )

    def fit(self, labels: Labels) -> TaskSet:
        """Returns a set whose regression and landmark tasks are standardised on the labels that are present.

        Class weights become numbers, "balanced" ones by how often each class is there. Call it with training
        labels only.

        Raises:
            ConfigError: Class weights that do not fit the classes.
        """
        fitted = []
        for name, task in self._tasks.items():
            if isinstance(task, Regression | Landmarks) and name in labels.values:
                task = task.fit(labels.values[name][labels.present[name]])
            elif isinstance(task, Multiclass) and task.class_weights and name in labels.values:
                there = labels.values[name][labels.present[name]]
                weights = resolve_class_weights(name, task.class_weights, task.class_names, there)
                task = dataclasses.replace(task, class_weights=weights)
            fitted.append(task)
        return TaskSet(*fitted)

    def to_dicts(self) -> list[dict[str, Any]]:
        return [task.to_dict() for task in self._tasks.values()]

    @classmethod
    def from_dicts(cls, settings: Sequence[Mapping[str, Any]]) -> TaskSet:
        return cls(*(task_from_dict(entry) for entry in settings))


@dataclass
class Labels:
    """Values and presence per task; see the module's table for shapes.

    A task without an entry is absent in every row.

    Args:
        values: Per task, the values; what stands where nothing is present means nothing.
        present: Per task, a bool tensor: which values are there.

    Raises:
        ValueError: Different tasks in `values` and `present`, or numbers of rows that differ.

    Example:
        >>> labels = Labels({"age": torch.tensor([31.0, 0.0])}, {"age": torch.tensor([True, False])})
        >>> labels.counts()
        {'age': 1}
    """

    values: dict[str, Tensor]
    present: dict[str, Tensor]

    def __post_init__(self) -> None:
        if self.values.keys() != self.present.keys():
            raise ValueError(
                f"values and present name different tasks: {list(self.values)} and {list(self.present)}"
            )
        rows = {len(tensor) for tensor in (*self.values.values(), *self.present.values())}
        if len(rows) > 1:
            raise ValueError(f"all tasks need the same number of rows, found {sorted(rows)}")

    def __len__(self) -> int:
        return len(next(iter(self.values.values()))) if self.values else 0

    def __getitem__(self, index: Any) -> Labels:
        """Rows by slice, index tensor or boolean mask."""
        return self._map(lambda tensor: tensor[index])

    def _map(self, function: Any) -> Labels:
        return Labels(
            {name: function(value) for name, value in self.values.items()},
            {name: function(present) for name, present in self.present.items()},
        )

    def subset(self, names: Sequence[str]) -> Labels:
        """Only these tasks, in this order; names without labels are left out."""
        kept = [name for name in names if name in self.values]
        return Labels({n: self.values[n] for n in kept}, {n: self.present[n] for n in kept})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Labels:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Labels:
        return self._map(lambda tensor: tensor.pin_memory())

    def counts(self) -> dict[str, int]:
        """Number of present labels per task (elements for multilabel and landmarks)."""
        return {name: int(present.sum()) for name, present in self.present.items()}

    @staticmethod
    def empty(tasks: TaskSet, num_rows: int) -> Labels:
        """Labels in which nothing is present."""
        return Labels(
            {n: torch.zeros(num_rows, *t.value_shape, dtype=t.value_dtype) for n, t in tasks.items()},
            {n: torch.zeros(num_rows, *t.presence_shape, dtype=torch.bool) for n, t in tasks.items()},
        )

    @staticmethod
    def concatenate(parts: Sequence[Labels]) -> Labels:
        """Rows of all parts one after the other; every part must name the same tasks."""
        names = list(parts[0].values)
        return Labels(
            {name: torch.cat([part.values[name] for part in parts]) for name in names},
            {name: torch.cat([part.present[name] for part in parts]) for name in names},
        )
