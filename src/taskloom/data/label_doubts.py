"""Labels that are hardly meant as they stand: -1 or 999 for a missing one, one class written in two ways."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskloom.data.cell_texts import alike_but_for_case, missing_with
from taskloom.tasks import Binary, Labels, Multiclass, Regression, TaskSet

_BELOW = (-1.0, -9.0, -99.0, -999.0, -9999.0)
_ABOVE = (999.0, 9999.0, 99999.0)
STAND_INS = frozenset({*_BELOW, *_ABOVE})
"""Numbers that other tables write where nothing is known."""
FAR_BELOW = -9
"""A lowest number below this may be no number in any column; -1 may be one among 0 and 1."""
_LEAST_OTHERS = 10
_LEAST_TIMES = 3


def stand_ins(labels: Labels, tasks: TaskSet, missing: tuple[str, ...] = ()) -> list[str]:
    """Warns of numbers that other tables write where nothing is known, and that stand apart from all others.

    -1, -9, -99 and so on where no other label is below 0; any whole number below -9, as -200, where it is the
    only one below 0 or farther below all others than these lie apart; 999, 9999 and 99999 where every other
    label is below a third of that; three times or oftener, beside ten other values at least.

    Args:
        labels: The labels of all rows.
        tasks: The tasks; regressions of one number are looked at.
        missing: The marks of missing values that are set already, for the advice.

    Example:
        >>> tasks = tl.TaskSet(tl.Regression("age"))
        >>> ages = torch.tensor([-1.0, 31, 64, -1, 25, 40, 41, 52, 33, 38, -1, 47, 29])
        >>> stand_ins(tl.Labels({"age": ages}, {"age": torch.ones(13, dtype=torch.bool)}), tasks)[0][:55]
        'task age: 3 labels are -1, and all others are 0 or more'
    """
    found = []
    for name, task in tasks.items():
        if isinstance(task, Regression) and labels.values[name].ndim == 1:
            values = labels.values[name][labels.present[name]].numpy()
            found += [_warning(name, *pair, missing) for pair in numbers_apart(values)]
    return found


def numbers_apart(values: NDArray[np.floating]) -> list[tuple[float, int, str]]:
    """Each number that stands apart as `stand_ins` says, how often it does, and where all others lie.

    Args:
        values: The numbers that are there, [n].
    """
    kept = values[~np.isin(values, [*STAND_INS])]
    below = _far_below(kept)
    kept = kept if below is None else kept[kept != below]
    if len(np.unique(kept)) < _LEAST_OTHERS:
        return []
    pairs = [(number, "0 or more") for number in _BELOW if kept.min() >= 0]
    pairs += [] if below is None else [(below, f"{kept.min():g} or more")]
    pairs += [(number, f"{kept.max():g} or less") for number in _ABOVE if 3 * kept.max() < number]
    counts = [(number, int((values == number).sum()), where) for number, where in pairs]
    return [entry for entry in counts if entry[1] >= _LEAST_TIMES]


def may_stand_in(low: float, high: float) -> bool:
    """Whether the lowest or the highest of some numbers is one that may stand where nothing is known."""
    return bool({low, high} & STAND_INS) or (low < FAR_BELOW and float(low).is_integer())


def _far_below(values: NDArray[np.floating]) -> float | None:
    """The lowest number where it is far below all others, or the only one below 0; else None."""
    if not len(values) or not may_stand_in(float(values.min()), 0.0):
        return None
    lowest = float(values.min())
    others = values[values > lowest]
    if not len(others):
        return None
    alone = others.min() >= 0 or others.min() - lowest > others.max() - others.min()
    return lowest if alone else None


def _warning(task: str, number: float, count: int, where: str, missing: tuple[str, ...]) -> str:
    return (
        f"task {task}: {count:,} labels are {number:g}, and all others are {where}; if that means a missing "
        f"label, say `{missing_with(missing, [f'{number:g}'])}` in `data`."
    )


def alike_classes(tasks: TaskSet) -> list[str]:
    """Warns of classes that are told apart by capital letters alone: mostly one class, written in two ways.

    Example:
        >>> alike_classes(tl.TaskSet(tl.Binary("gender", ("F", "M")))), len(alike_classes(
        ...     tl.TaskSet(tl.Multiclass("colour", ("Red", "blue", "red")))))
        ([], 1)
    """
    return [
        f"classes {' and '.join(f'`{name}`' for name in alike)} of task `{task.name}` differ in capital "
        "letters or blanks only; if they are one, write them alike in the table."
        for task in tasks.values()
        if isinstance(task, Binary | Multiclass)
        for alike in alike_but_for_case(task.class_names)
    ]
