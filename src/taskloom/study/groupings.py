"""Groupings of tasks as settings: which tasks a cell trains, and which of them share with each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from taskloom.errors import ConfigError, did_you_mean
from taskloom.study.yaml_lines import KeyPath, dotted

SUBSETS = "subsets"
"""`tasks: subsets`: one cell for every two or more of the study's tasks (thesis 000, section 5.2)."""

ALL_GROUPINGS = "all"
"""`groups: all`: one cell for every way of dividing the tasks into groups, all alone excepted."""

_MOST_SUBSETS_OF, _MOST_GROUPINGS_OF = 8, 6


def subsets(tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """Every two or more of the tasks, small sets first, in the tasks' order.

    Example:
        >>> subsets(["age", "sex", "smile"])
        [('age', 'sex'), ('age', 'smile'), ('sex', 'smile'), ('age', 'sex', 'smile')]
    """
    sizes = range(2, len(tasks) + 1)
    return [chosen for size in sizes for chosen in itertools.combinations(tasks, size)]


def groupings(tasks: Sequence[str]) -> list[list[list[str]]]:
    """Every partition of the tasks in which some share, the coarsest first.

    Example:
        >>> groupings(["a", "b", "c"])
        [[['a', 'b', 'c']], [['a', 'b'], ['c']], [['a', 'c'], ['b']], [['a'], ['b', 'c']]]
    """
    partitions: list[list[list[str]]] = [[]]
    for task in tasks:  # into each group there is, or into one of its own
        partitions = [
            [*partition[:place], [*group, task], *partition[place + 1 :]]
            for partition in partitions
            for place, group in enumerate([*partition, []])
        ]
    return sorted((found for found in partitions if len(found) < len(tasks)), key=len)


def read_task_sets(value: Any, known: Sequence[str], path: KeyPath) -> list[tuple[str, ...]]:
    """Reads the `tasks` of an entry: the sets that its cells are trained on, each in the study's order.

    Args:
        value: A list of names; a list of such lists, which multiplies; `subsets`; None for all tasks.
        known: The study's tasks.
        path: Where it stands.

    Raises:
        ConfigError: None of these, an unknown task, a task or a set twice, or too many sets; begins with the
            path.

    Example:
        >>> read_task_sets([["sex", "age"], ["sex"]], ["age", "sex"], ("cells", 0, "tasks"))
        [('age', 'sex'), ('sex',)]
    """
    if value is None:
        return [tuple(known)]
    if value == SUBSETS:
        if not 2 <= len(known) <= _MOST_SUBSETS_OF:
            raise ConfigError(
                f"{dotted(path)}: {SUBSETS} needs 2 to {_MOST_SUBSETS_OF} tasks, the study has {len(known)}; "
                "list the sets of tasks that you want."
            )
        return subsets(known)
    several = isinstance(value, list) and any(isinstance(entry, list) for entry in value)
    sets = value if several else [value]
    chosen = [
        _task_set(entry, known, (*path, number) if several else path) for number, entry in enumerate(sets)
    ]
    for number, names in enumerate(chosen):
        if names in chosen[:number]:
            raise ConfigError(f"{dotted((*path, number))}: {', '.join(names)} stand here twice; remove one.")
    return chosen


def with_main_tasks(
    sets: Sequence[tuple[str, ...]],
    settings: Mapping[str, Mapping[str, Any]],
    value: Any,
    path: KeyPath,
) -> list[tuple[str, ...]]:
    """Leaves out subsets without a task that is judged; refuses such a set where it was asked for.

    Args:
        sets: What `read_task_sets` gave.
        settings: Settings per task of the study.
        value, path: The `tasks` of the entry, and where it stands.

    Raises:
        ConfigError: Names the set; begins with the path.
    """
    main = {name for name, given in settings.items() if given.get("role", "main") == "main"}
    for chosen in sets:
        if not main & set(chosen) and value != SUBSETS:
            raise ConfigError(
                f"{dotted(path)}: {', '.join(chosen)}: none of them is a main task, so nothing would be "
                "judged; add one."
            )
    return [chosen for chosen in sets if main & set(chosen)]


def _task_set(value: Any, known: Sequence[str], path: KeyPath) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{dotted(path)}: a list of task names expected, or `{SUBSETS}`, found {value!r}.")
    for name in value:
        if name not in known:
            raise ConfigError(
                f"{dotted(path)}: `{name}` is not a task of this study.{did_you_mean(str(name), known)} "
                f"Tasks: {', '.join(known)}."
            )
    for name in value:
        if value.count(name) > 1:
            raise ConfigError(f"{dotted(path)}: `{name}` stands here {value.count(name)} times; remove one.")
    return tuple(name for name in known if name in value)


def with_groupings(given: dict[str, Any], tasks: Sequence[str], path: KeyPath) -> dict[str, Any]:
    """Puts every grouping of the tasks in place of `groups: all`, as a list that multiplies.

    Raises:
        ConfigError: Too few or too many tasks.
    """
    if given.get("groups") != ALL_GROUPINGS:
        return given
    if not 2 <= len(tasks) <= _MOST_GROUPINGS_OF:
        raise ConfigError(
            f"{dotted((*path, 'groups'))}: {ALL_GROUPINGS} needs 2 to {_MOST_GROUPINGS_OF} tasks, found "
            f"{len(tasks)}; list the groupings that you want."
        )
    return {**given, "groups": groupings(tasks)}
