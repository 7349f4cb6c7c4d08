"""Relatedness from labels, of this data set or another, and from a trained model's predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from taskloom.coupling.relatedness import NOT, Between, Floats, Relatedness
from taskloom.coupling.sides import Side, attributes_side, between, classes_side
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Labels, TaskSet

BelowMinimum = Literal["error", "unknown"]
_CHUNK_ROWS = 65_536


def from_labels(
    labels: Labels,
    tasks: TaskSet,
    *,
    classes: str | Sequence[str],
    attributes: str | Sequence[str],
    smoothing: float = 0.0,
    minimum_support: int = 10,
    below_minimum: BelowMinimum = "error",
    empty_classes: Sequence[str] = (),
    source: str = "labels",
) -> Relatedness:
    """Conditional frequencies p(attribute | class) from annotations (paper 003, case study II).

    An entry counts only the rows in which both labels are present: samples of the class with the attribute
    over samples of the class whose attribute label is there. Use training labels. For another data set, give
    its labels and its tasks, and bring the names together with `Relatedness.renamed` and `select`.

    Args:
        labels: Labels of N rows.
        tasks: Their tasks.
        classes: The multiclass (or binary) task whose classes are given; or a list of binary or multilabel
            tasks, whose labels are then each given as present and as absent (attribute-attribute).
        attributes: The tasks whose labels follow; a list where there are several.
        smoothing: Added to the count of each outcome (Laplace); 0 is the plain frequency.
        minimum_support: Smallest number of rows that an entry may rest on; 1 or more.
        below_minimum: What is done with an entry below it: "error", or "unknown" (NaN, left out of coupling).
        empty_classes: Classes that may turn out to have no attribute in any of their rows, such as neutral.
        source: Name for messages and reports.

    Returns:
        Frequencies with their counts; `Relatedness.intervals` gives their Wilson intervals. In an
        attribute-attribute table an entry of a label with itself is unknown.

    Raises:
        DataError: An entry rests on fewer rows than the minimum (names the first ones), or every entry does.
        ConfigError: Tasks that cannot be coupled, or a setting out of range.

    Example:
        >>> tasks = tl.TaskSet(tl.Multiclass("animal", ("cat", "bird")), tl.Binary("fur"))
        >>> labels = tl.Labels(
        ...     {"animal": torch.tensor([0, 0, 1, 1]), "fur": torch.tensor([1, 0, 1, 0])},
        ...     {"animal": torch.ones(4).bool(), "fur": torch.tensor([True, True, True, False])},
        ... )
        >>> table = from_labels(labels, tasks, classes="animal", attributes="fur", minimum_support=1)
        >>> table["cat", "fur"], table["bird", "fur"]
        (0.5, 1.0)
    """
    left, right = classes_side(tasks, classes), attributes_side(tasks, attributes)
    form = cast(Between, between(left, right))
    given, given_present = left.all_labels(labels)
    follows, follows_present = right.all_labels(labels)
    if len(given) != len(follows):
        raise ConfigError(
            f"relatedness: {left.title} has {len(given)} labels, {right.title} {len(follows)}; "
            "labels per sample go only with labels per sample."
        )
    if form == "attribute_attribute":
        given = torch.cat([given, torch.where(given_present, 1 - given, 0)], dim=1)
    counts, totals = _count(given, follows, follows_present)
    return _table(
        left, right, form, counts, totals, smoothing, minimum_support, below_minimum, empty_classes, source
    )


def from_predictions(
    predictions: Mapping[str, Tensor],
    tasks: TaskSet,
    *,
    classes: str | Sequence[str],
    attributes: str | Sequence[str],
    smoothing: float = 0.0,
    minimum_support: float = 10,
    below_minimum: BelowMinimum = "error",
    empty_classes: Sequence[str] = (),
    source: str = "predictions",
) -> Relatedness:
    """Soft frequencies from a trained model: sum of p(class) p(attribute) over rows / sum of p(class).

    The two predictions of a row count as independent given the row. The support of a class is the sum of its
    probabilities, so the intervals are those of as many rows; they leave out that the model may be wrong.

    Args:
        predictions: Head outputs (logits) per task, as the network gives them.
        tasks, classes, attributes, smoothing, minimum_support, below_minimum, empty_classes, source: See
            `from_labels`.

    Raises:
        DataError, ConfigError: See `from_labels`.
        ValueError: Predictions that are missing, or of shapes that do not fit.
    """
    left, right = classes_side(tasks, classes), attributes_side(tasks, attributes)
    form = cast(Between, between(left, right))
    with torch.no_grad():
        rows = left.log_rows(left.logits(predictions)).exp()
        logits = right.logits(predictions)
        columns = logits.softmax(dim=1) if right.exclusive else logits.sigmoid()
        if len(rows) != len(columns):
            raise ValueError(
                f"relatedness: {left.title} predicts {len(rows)} rows, {right.title} {len(columns)}"
            )
        counts, totals = _count(rows, columns, torch.ones_like(columns, dtype=torch.bool))
    return _table(
        left, right, form, counts, totals, smoothing, minimum_support, below_minimum, empty_classes, source
    )


def _count(rows: Tensor, columns: Tensor, present: Tensor) -> tuple[Floats, Floats]:
    """Sums of rows' membership times columns' activity, and times columns' presence, [R, A] each."""
    counts = torch.zeros(rows.shape[1], columns.shape[1], dtype=torch.float64)
    totals = torch.zeros_like(counts)
    for start in range(0, len(rows), _CHUNK_ROWS):  # float64 copies of a whole data set would be large
        part = slice(start, start + _CHUNK_ROWS)
        members = rows[part].detach().cpu().double().T
        counts += members @ columns[part].detach().cpu().double()
        totals += members @ present[part].cpu().double()
    return counts.numpy(), totals.numpy()


def _table(
    left: Side,
    right: Side,
    form: Between,
    counts: Floats,
    totals: Floats,
    smoothing: float,
    minimum_support: float,
    below_minimum: BelowMinimum,
    empty_classes: Sequence[str],
    source: str,
) -> Relatedness:
    if not math.isfinite(smoothing) or smoothing < 0:
        raise ConfigError(f"relatedness.smoothing: 0 or more expected, found {smoothing}.")
    if minimum_support < 1:
        raise ConfigError(f"relatedness.minimum_support: 1 row or more expected, found {minimum_support}.")
    if below_minimum not in ("error", "unknown"):
        raise ConfigError(f"relatedness.below_minimum: error or unknown expected, found {below_minimum!r}.")
    names = left.names
    if form == "attribute_attribute":
        names = (*names, *(NOT + name for name in names))
    itself = np.array(
        [
            [
                form == "attribute_attribute" and column in (row, row.removeprefix(NOT))
                for column in right.names
            ]
            for row in names
        ]
    )
    too_few = (totals < minimum_support) & ~itself
    if (too_few | itself).all() or (below_minimum == "error" and too_few.any()):
        raise DataError(_support_message(names, right.names, totals, too_few, minimum_support, source))
    outcomes = len(right.names) if form == "class_class" else 2
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (counts + smoothing) / (totals + outcomes * smoothing)
    values = np.where(too_few | itself, np.nan, np.clip(values, 0, 1))
    empty = tuple(
        name
        for name, row in zip(names, values, strict=True)
        if form != "attribute_attribute" and not np.isnan(row).all() and not (np.nan_to_num(row) > 0).any()
    )
    unexpected = [name for name in empty if name not in empty_classes]
    if unexpected:
        raise DataError(
            f"relatedness from {source}: class {unexpected[0]} has no attribute in any of its rows; "
            "leave the class out, use smoothing above 0, or name it in empty_classes."
        )
    return Relatedness(names, right.names, values, "frequencies", form, source, empty, counts, totals)


def _support_message(
    rows: Sequence[str],
    columns: Sequence[str],
    totals: Floats,
    too_few: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    minimum: float,
    source: str,
) -> str:
    worst = np.argwhere(too_few)
    shown = "; ".join(f"{columns[c]} given {rows[r]}: {totals[r, c]:g}" for r, c in worst[:3])
    return (
        f"relatedness from {source}: {minimum:g} rows or more with both labels expected per entry, found "
        f"fewer for {len(worst)} of {too_few.size} ({shown}); lower minimum_support, or set below_minimum "
        "to unknown."
    )
