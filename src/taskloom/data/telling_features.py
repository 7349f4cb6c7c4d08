"""Features that tell a label by themselves: mostly columns made from the label, or filled in after it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from taskloom.data.feature_rows import FeatureRows
from taskloom.data.feature_screens import may_keep_order, may_stand_apart
from taskloom.tasks import Binary, Labels, Multiclass, Regression, TaskSet

_LEAST_ROWS = 20
_LEAST_NUMBERS = 10
_RANK_CORRELATION = 0.999
_GLANCE_CORRELATION = 0.99
_CHANCE = 1e-3
_GLANCE_ROWS = 256
_BLOCK_VALUES = 2**20
_MOST_NAMED = 5
_MOST_BINS = 20

_Test = Callable[[NDArray[np.float32], NDArray[np.generic], int], bool]
"""Of values and labels [n] of a feature, and of how many features it is one; 0 for a glance at few rows."""

_Screen = Callable[[NDArray[np.float32], NDArray[np.generic], bool], NDArray[np.bool_]]
"""Of features [n, F] and labels [n], and whether it is a glance: which features [F] may pass the test."""


def telling_features(
    features: FeatureRows, labels: Labels, tasks: TaskSet, *, advice: str = "leave {names} out of `features`"
) -> list[str]:
    """Warns of features each of which tells a task's label alone, so that nothing would be left to learn.

    For a number: in the same order, or the reverse, as the feature (Spearman's rank correlation of 0.999 or
    more), or cut into up to 20 stretches of which each has one value of the feature, as a number made into
    bins does. For classes: each has a stretch of the feature's values to itself, or the feature is a column
    of two values that says whether a row is of one certain class. Twenty rows at least, so many that one of
    the features would do this by chance in less than a thousandth of all tables.

    Args:
        features: Features of all M rows; packed bits and arrays on disk are not looked at.
        labels: Their labels.
        tasks: The tasks; regressions of one number, binary and multiclass tasks are looked at.
        advice: How features are left out; `{names}` stands for them.

    Returns:
        One sentence per task.

    Example:
        >>> years = np.arange(30.0, 60.0)
        >>> columns = np.stack([2026 - years, years % 7], axis=1).astype(np.float32)
        >>> rows = FeatureRows(columns, ["born", "day"])
        >>> known = tl.Labels({"age": torch.tensor(years)}, {"age": torch.ones(30, dtype=torch.bool)})
        >>> [text[:51] for text in telling_features(rows, known, tl.TaskSet(tl.Regression("age")))]
        ['feature `born` tells the labels of task `age` alone']
    """
    if features.packed_bits is not None or isinstance(features.array, np.memmap):
        return []
    found = []
    for name, task in tasks.items():
        if not isinstance(task, Regression | Binary | Multiclass) or labels.values[name].ndim != 1:
            continue
        rows = np.flatnonzero(labels.present[name].numpy())
        wanted = labels.values[name].numpy()[rows]
        tells, screen = _WAYS[isinstance(task, Regression)]
        told = [
            position
            for position in _candidates(features.array, rows, wanted, tells, screen)
            if tells(*_given(features.array[rows, position], wanted), features.num_features)
        ]
        if isinstance(task, Regression):
            told = sorted({*told, *_bins(features.array, rows, wanted)})
        if told:
            columns = list(dict.fromkeys(map(features.column, told)))
            found.append(_warning(name, [features.names[position] for position in told], columns, advice))
    return found


def _candidates(
    array: NDArray[np.float32],
    rows: NDArray[np.int64],
    wanted: NDArray[np.generic],
    tells: _Test,
    screen: _Screen,
) -> Iterator[int]:
    """Features that pass on a few rows and may do so on all: of thousands of columns hardly any is left."""
    few = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _GLANCE_ROWS)).astype(np.int64))
    if len(few) < _LEAST_ROWS:
        return
    for columns in _blocks(np.arange(array.shape[1]), len(few)):
        block = array[rows[few], columns[0] : columns[-1] + 1]
        too_few = (~np.isnan(block)).sum(axis=0) < _LEAST_ROWS
        seen = np.flatnonzero(too_few | screen(block, wanted[few], True))
        passed = [k for k in seen if too_few[k] or tells(*_given(block[:, k], wanted[few]), 0)]
        for rest in _blocks(columns[passed], len(rows)):
            yield from rest[screen(array[np.ix_(rows, rest)], wanted, False)].tolist()


def _bins(array: NDArray[np.float32], rows: NDArray[np.int64], wanted: NDArray[np.generic]) -> Iterator[int]:
    """Features of few values, of which each has a stretch of the numbers to itself."""
    few = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _GLANCE_ROWS)).astype(np.int64))
    if len(few) < _LEAST_ROWS or len(np.unique(wanted[few])) < _LEAST_NUMBERS:
        return
    glance = wanted[few].astype(np.float32)
    for position in range(array.shape[1]):
        values = array[rows[few], position]
        if len(np.unique(values)) > _MOST_BINS or not _splits(glance, values, 0):
            continue
        if _splits(wanted.astype(np.float32), array[rows, position], array.shape[1]):
            yield position


def _splits(numbers: NDArray[np.float32], bins: NDArray[np.float32], num_features: int) -> bool:
    """Whether the numbers are cut by the bins; a glance, with 0 features, lets pass what it cannot decide."""
    there = ~np.isnan(bins)
    if not num_features and len(np.unique(bins[there])) < 2:
        return True
    few = len(np.unique(bins[there])) <= _MOST_BINS
    return few and there.sum() >= _LEAST_ROWS and _apart(numbers[there], bins[there], num_features)


def _blocks(columns: NDArray[np.int64], num_rows: int) -> Iterator[NDArray[np.int64]]:
    """Columns, as many at a time as `_BLOCK_VALUES` allows."""
    size = max(1, _BLOCK_VALUES // num_rows)
    for start in range(0, len(columns), size):
        yield columns[start : start + size]


def _order_screen(block: NDArray[np.float32], wanted: NDArray[np.generic], glance: bool) -> NDArray[np.bool_]:
    return may_keep_order(block, wanted, _GLANCE_CORRELATION if glance else _RANK_CORRELATION)


def _class_screen(block: NDArray[np.float32], wanted: NDArray[np.generic], glance: bool) -> NDArray[np.bool_]:
    return may_stand_apart(block, wanted, undecided=glance)


def _given(
    values: NDArray[np.float32], wanted: NDArray[np.generic]
) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    there = ~np.isnan(values)
    return values[there], wanted[there]


def _same_order(values: NDArray[np.float32], wanted: NDArray[np.generic], num_features: int) -> bool:
    """Whether numbers go up, or down, with the feature; chance plays no part among so many numbers."""
    if len(values) < _LEAST_ROWS or len(np.unique(wanted)) < _LEAST_NUMBERS or values.min() == values.max():
        return False
    # on a few rows of many a little less is asked for, as ties weigh more there
    least = _RANK_CORRELATION if num_features else _GLANCE_CORRELATION
    return abs(float(np.corrcoef(rankdata(values), rankdata(wanted))[0, 1])) >= least


def _apart(values: NDArray[np.float32], wanted: NDArray[np.generic], num_features: int) -> bool:
    """Whether every class has a stretch of the feature to itself, or one class one of its two values."""
    classes, codes, counts = np.unique(wanted, return_inverse=True, return_counts=True)
    if len(classes) < 2 or values.min() == values.max():
        return not num_features  # a glance that saw one class or value only decides nothing
    stretches = sorted(
        (values[codes == code].min(), values[codes == code].max()) for code in range(len(classes))
    )
    if all(before[1] < after[0] for before, after in itertools.pairwise(stretches)):
        orders = math.lgamma(len(classes) + 1)
        return not num_features or _beyond_chance(counts.tolist(), orders, num_features)
    of_class = [code for code in range(len(classes)) if _is_indicator(values, codes == code)]
    if not of_class:
        return False
    inside = int(counts[of_class[0]])
    return not num_features or _beyond_chance([inside, len(values) - inside], math.log(2), num_features)


def _is_indicator(values: NDArray[np.float32], inside: NDArray[np.bool_]) -> bool:
    """Whether a column has one value on the rows inside and one other value on all others."""
    first, second = values[inside], values[~inside]
    return bool(first.min() == first.max() != second.min() == second.max())


def _beyond_chance(counts: list[int], orders: float, num_features: int) -> bool:
    """Whether a random order of the rows would sort the classes too rarely, for any of the features.

    Args:
        counts: Rows per class.
        orders: Logarithm of the number of orders in which the classes may stand.
        num_features: Features among which one was found.
    """
    if sum(counts) < _LEAST_ROWS:
        return False
    arrangements = math.lgamma(sum(counts) + 1) - sum(math.lgamma(count + 1) for count in counts)
    return orders + math.log(num_features) - arrangements < math.log(_CHANCE)


_WAYS: dict[bool, tuple[_Test, _Screen]] = {
    True: (_same_order, _order_screen),
    False: (_apart, _class_screen),
}
"""By whether the task is a number."""


def _warning(task: str, names: list[str], columns: list[str], advice: str) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    if len(names) == 1:
        begin, were, are = f"feature {shown} tells", "it was", "is"
    else:
        begin, were, are = f"each of the features {shown}{more} tells", "they were", "are"
    left_out = advice.format(names=", ".join(columns[:_MOST_NAMED]))
    return (
        f"{begin} the labels of task `{task}` alone: if {were} made from the label, or {are} known only "
        f"after it, {left_out}."
    )
