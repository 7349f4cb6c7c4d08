"""Drawing whole groups of rows into train, validation and test, on plain arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskloom.data.split_checks import Parts
from taskloom.data.split_rule import PART_NAMES
from taskloom.errors import DataError, did_you_mean


def split_by_group(
    groups: ArrayLike,
    *,
    test: float,
    validation: float,
    seed: int,
    strata: ArrayLike | None = None,
    noun: str = "group",
) -> Parts:
    """Draws whole groups: of G groups, round(test G) and round(validation G), at least one each.

    The test part depends on the seed alone and not on `validation`.

    Args:
        groups: Group of every row, [N].
        test, validation: Fractions of the groups.
        seed: Seed of the draw.
        strata: Class of every row, [N]; a group counts as its most frequent one, and every part gets its
            share of each (largest remainders).
        noun: What a group is, for messages.

    Raises:
        DataError: Fewer than three groups.

    Example:
        >>> split_by_group(["a", "a", "b", "c", "d"], test=0.25, validation=0.25, seed=0).counts()
        {'train': 3, 'validation': 1, 'test': 1}
    """
    names, unit = np.unique(np.asarray(groups), return_inverse=True)
    _need(len(names), 3, noun)
    classes = _unit_strata(unit, len(names), strata)
    random = np.random.default_rng(seed)
    num_test, num_validation = _sizes(len(names), test, validation)
    in_test = _draw(np.arange(len(names)), classes, num_test, random)
    rest = np.setdiff1d(np.arange(len(names)), in_test)
    in_validation = _draw(rest, classes, num_validation, random)
    return _parts_of_units(unit, in_validation, in_test)


def split_fold(
    groups: ArrayLike,
    *,
    folds: int,
    fold: int,
    validation: float,
    seed: int,
    strata: ArrayLike | None = None,
    noun: str = "group",
) -> Parts:
    """Takes one of `folds` folds of the groups as test; the folds of one seed cover every group once.

    Args:
        groups: Group of every row, [N].
        folds, fold: How many folds, and which one is test.
        validation: Fraction of all groups, drawn from those outside the fold.
        seed: Seed of the folds and of the draw.
        strata: Class of every row, [N], spread over the folds by scikit-learn's StratifiedGroupKFold.
        noun: What a group is, for messages.

    Raises:
        DataError: Fewer groups than folds, or than three.
    """
    names, unit = np.unique(np.asarray(groups), return_inverse=True)
    _need(len(names), max(folds, 3), noun)
    random = np.random.default_rng(seed)
    if strata is None:
        in_test = random.permutation(len(names))[fold::folds]
    else:
        in_test = _stratified_fold(unit, np.asarray(strata), folds, fold, seed)
    rest = np.setdiff1d(np.arange(len(names)), in_test)
    num_validation = min(max(1, _round(validation * len(names))), len(rest) - 1)
    in_validation = _draw(rest, _unit_strata(unit, len(names), strata), num_validation, random)
    return _parts_of_units(unit, in_validation, in_test)


def split_within(
    units: ArrayLike,
    outer: ArrayLike,
    *,
    test: float,
    validation: float,
    seed: int,
    outer_names: Sequence[str] = (),
) -> Parts:
    """Draws units (recordings) within every outer group (person), so that each stands in all three parts.

    Raises:
        DataError: A person with fewer than three recordings.
    """
    unit_of_row = np.unique(np.asarray(units), return_inverse=True)[1]
    outer_values, outer_of_row = np.unique(np.asarray(outer), return_inverse=True)
    random = np.random.default_rng(seed)
    in_test, in_validation = [], []
    for position, value in enumerate(outer_values):
        inside = np.unique(unit_of_row[outer_of_row == position])
        name = outer_names[int(value)] if outer_names else str(value)
        if len(inside) < 3:
            raise DataError(
                f"split: `by: within_person` needs three recordings of every person, found {len(inside)} of "
                f"{name}; `by: time` cuts every recording instead."
            )
        num_test, num_validation = _sizes(len(inside), test, validation)
        order = random.permutation(inside)
        in_test.append(order[:num_test])
        in_validation.append(order[num_test : num_test + num_validation])
    return _parts_of_units(unit_of_row, np.concatenate(in_validation), np.concatenate(in_test))


def split_by_values(
    values: ArrayLike,
    *,
    test: Sequence[str] = ("test",),
    validation: Sequence[str] | float = ("validation",),
    seed: int = 0,
    groups: ArrayLike | None = None,
    column: str = "split",
) -> Parts:
    """Takes the parts from a column; every value that is not named means train.

    Args:
        values: The column, [N]; compared as text.
        test: Values that mean test.
        validation: Values that mean validation, or the fraction of the groups to draw from train.
        seed: Seed of that draw.
        groups: Group of every row for that draw, [N]; each row by itself where None.
        column: The column's name, for messages.

    Raises:
        DataError: A value that the column does not have.
    """
    texts = np.asarray(values).astype(str)
    present = list(dict.fromkeys(texts.tolist()))
    listed = {"test": tuple(test), "validation": () if isinstance(validation, float) else tuple(validation)}
    parts = np.full(len(texts), "train", dtype="<U10")
    for part, wanted in listed.items():
        for value in wanted:
            if value not in present:
                raise DataError(
                    f"split.{part}: column `{column}` has no value `{value}`.{did_you_mean(value, present)} "
                    f"It has: {', '.join(present[:10])}."
                )
            parts[texts == value] = part
    fraction = validation if isinstance(validation, float) else 0.0
    units = np.arange(len(texts)) if groups is None else np.asarray(groups)
    return parts_from_names(parts, fraction == 0.0, fraction, seed, units)


def parts_from_names(
    parts: NDArray[Any], has_validation: bool, validation: float, seed: int, units: NDArray[Any]
) -> Parts:
    """Row indices from part names; draws validation among the units of train where none is named."""
    rows = {name: np.flatnonzero(parts == name) for name in PART_NAMES}
    if not has_validation and len(rows["train"]):
        inside = np.unique(units[rows["train"]])
        _need(len(inside), 2, "unit of train")
        size = min(max(1, _round(validation * len(inside))), len(inside) - 1)
        drawn = np.random.default_rng(seed).permutation(inside)[:size]
        chosen = np.isin(units[rows["train"]], drawn)
        rows["validation"], rows["train"] = rows["train"][chosen], rows["train"][~chosen]
    return Parts(rows["train"], rows["validation"], rows["test"])


def _parts_of_units(unit: NDArray[Any], in_validation: NDArray[Any], in_test: NDArray[Any]) -> Parts:
    test, validation = np.isin(unit, in_test), np.isin(unit, in_validation)
    return Parts(np.flatnonzero(~test & ~validation), np.flatnonzero(validation), np.flatnonzero(test))


def _round(number: float) -> int:
    return int(np.floor(number + 0.5))


def _sizes(num_groups: int, test: float, validation: float) -> tuple[int, int]:
    """Groups in test and validation: at least one each, and one left for train."""
    num_test = min(max(1, _round(test * num_groups)), num_groups - 2)
    return num_test, min(max(1, _round(validation * num_groups)), num_groups - num_test - 1)


def _need(found: int, needed: int, noun: str) -> None:
    if found < needed:
        raise DataError(f"split: at least {needed} different values of {noun} are needed, found {found}.")


def _draw(
    units: NDArray[np.int64],
    classes: NDArray[np.int64] | None,
    size: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Draws `size` of the units, of every class its share where `classes` (of all units) is given."""
    order = random.permutation(units)
    if classes is None:
        return order[:size]
    _, kind, counts = np.unique(classes[order], return_inverse=True, return_counts=True)
    share = counts * (size / len(order))
    take = np.floor(share).astype(int)
    for largest in np.argsort(take - share, kind="stable")[: size - take.sum()]:
        take[largest] += 1
    return np.concatenate([order[kind == k][: take[k]] for k in range(len(counts))])


def _unit_strata(unit: NDArray[Any], num_units: int, strata: ArrayLike | None) -> NDArray[np.int64] | None:
    """Most frequent stratum of every unit, ties to the smallest."""
    if strata is None:
        return None
    values, code = np.unique(np.asarray(strata), return_inverse=True)
    table = np.bincount(unit * len(values) + code, minlength=num_units * len(values))
    return np.asarray(table.reshape(num_units, len(values)).argmax(axis=1), dtype=np.int64)


def _stratified_fold(
    unit: NDArray[Any], strata: NDArray[Any], folds: int, fold: int, seed: int
) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedGroupKFold  # half a second that few splits need

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer rows than folds cannot be in each; check_classes judges what matters.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        try:
            chosen = list(splitter.split(np.zeros(len(unit)), strata, unit))[fold][1]
        except ValueError as error:
            raise DataError(f"split.stratify: {error}") from error
    return np.unique(unit[chosen])
