"""Every task kind by name, and a task from plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from taskloom.errors import ConfigError, did_you_mean
from taskloom.tasks.base import HIGHER_IS_BETTER, Task
from taskloom.tasks.classes import Binary, Multiclass, Multilabel
from taskloom.tasks.ordinal import Ordinal
from taskloom.tasks.roles import Reversal, Role
from taskloom.tasks.values import Landmarks, Regression

__all__ = [
    "HIGHER_IS_BETTER",
    "KINDS",
    "Binary",
    "Landmarks",
    "Multiclass",
    "Multilabel",
    "Ordinal",
    "Regression",
    "Reversal",
    "Role",
    "Task",
    "task_from_dict",
]

KINDS: dict[str, type[Task]] = {
    kind.kind: kind for kind in (Binary, Multiclass, Multilabel, Regression, Ordinal, Landmarks)
}


def task_from_dict(settings: Mapping[str, Any]) -> Task:
    """Builds a task from `Task.to_dict()` or from a configuration entry with `kind` and `name`.

    Raises:
        ConfigError: An unknown kind, or a setting the kind does not have.
    """
    fields = dict(settings)
    kind = str(fields.pop("kind", ""))
    name = fields.get("name", "?")
    if not kind:
        raise ConfigError(f"tasks.{name}: `kind` is missing. Known: {', '.join(KINDS)}.")
    if kind not in KINDS:
        raise ConfigError(
            f"tasks.{name}.kind: `{kind}` is not a kind of task.{did_you_mean(kind, KINDS)} "
            f"Known: {', '.join(KINDS)}."
        )
    cls = KINDS[kind]
    known = [f.name for f in dataclasses.fields(cls)]
    for key, value in fields.items():
        if key not in known:
            raise ConfigError(
                f"tasks.{name}.{key} is not a setting of a {kind} task.{did_you_mean(key, known)} "
                f"Settings: {', '.join(known)}."
            )
        if isinstance(value, list):
            fields[key] = tuple(value)
    if "name" not in fields:
        raise ConfigError(f"tasks: a {kind} task needs a `name`.")
    return cls(**fields)
