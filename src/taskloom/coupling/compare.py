"""Two relatedness tables side by side: prior knowledge against data, and where they contradict each other."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from taskloom.coupling.estimate import from_labels
from taskloom.coupling.relatedness import NOT, Floats, Relatedness, wilson
from taskloom.errors import ConfigError
from taskloom.tasks import Labels, TaskSet


class RelatednessWarning(UserWarning):
    """A relatedness table contradicts the labels there are."""


@dataclass(frozen=True)
class Entry:
    """One entry in which the tables were compared.

    Args:
        given, follows: Names of the row and the column.
        prior: Its value in the first table.
        observed: Its value in the data.
        low, high: Interval of the observed value, over all entries together; NaN where there are no counts.
        elsewhere: Frequency of the attribute in the classes of which the table says the opposite; NaN if
            none.
        related: Whether the first table relates the two.
        support: Rows it rests on; NaN where there are no counts.
    """

    given: str
    follows: str
    prior: float
    observed: float
    low: float
    high: float
    related: bool
    elsewhere: float
    support: float

    def __str__(self) -> str:
        interval = "" if np.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        rows = "" if np.isnan(self.support) else f", {self.support:g} rows"
        opposite = "without" if self.related else "with"
        others = "" if np.isnan(self.elsewhere) else f", {self.elsewhere:.2f} in classes {opposite} it"
        return (
            f"{self.follows} given {self.given}: table {self.prior:.2f}, data {self.observed:.2f}"
            f"{interval}{others}{rows}"
        )


@dataclass(frozen=True)
class Comparison:
    """What `diff` found.

    Args:
        prior: The first table, in its own order.
        data: The second, its rows and columns brought into the order of the first; NaN where it has none.
        low, high: Bounds of the data's entries, [C, A], at a confidence that holds for all entries together
            (Bonferroni); the entries themselves where the data has no counts.
        related: Entries that the first table relates, bool, [C, A]: weights above 0, frequencies above the
            attribute's mean over classes (between attributes: above the one given the absence).
        elsewhere: Frequency of the attribute in the data's classes of which the first table says the
            opposite: for a related entry those that are not, for another those that are; [C, A], NaN where
                there are none.
        compared: Entries that both tables know, bool, [C, A].
        differs: Entries whose prior value lies outside the interval, bool, [C, A].
        contradicts: Entries that say the opposite (see `diff`), bool, [C, A].
        agreement: Chance that a related entry exceeds its `elsewhere` by more than an unrelated one does: 1
            agrees, 0.5 knows nothing, below 0.5 is wrong; NaN where it cannot be said.
    """

    prior: Relatedness
    data: Relatedness
    low: Floats
    high: Floats
    related: NDArray[np.bool_]
    elsewhere: Floats
    compared: NDArray[np.bool_]
    differs: NDArray[np.bool_]
    contradicts: NDArray[np.bool_]
    agreement: float

    @property
    def num_compared(self) -> int:
        return int(self.compared.sum())

    @property
    def contradictions(self) -> list[Entry]:
        """Entries that contradict, the farthest apart first."""
        return self._entries(self.contradicts)

    @property
    def differences(self) -> list[Entry]:
        """Entries whose values differ, the farthest apart first."""
        return self._entries(self.differs)

    def _entries(self, which: NDArray[np.bool_]) -> list[Entry]:
        data, totals, counted = self.data.values, self.data.totals, self.data.counts is not None
        found = [
            Entry(
                self.prior.classes[row],
                self.prior.attributes[column],
                float(self.prior.values[row, column]),
                float(data[row, column]),
                float(self.low[row, column]) if counted else float("nan"),
                float(self.high[row, column]) if counted else float("nan"),
                bool(self.related[row, column]),
                float(self.elsewhere[row, column]),
                float("nan") if totals is None else float(totals[row, column]),
            )
            for row, column in np.argwhere(which)
        ]
        return sorted(found, key=lambda entry: -abs(entry.prior - entry.observed))


def diff(
    prior: Relatedness,
    data: Relatedness,
    *,
    confidence: float = 0.95,
    tolerance: float = 0.1,
    common: float = 0.5,
) -> Comparison:
    """Sets two tables side by side, as table 1 of paper 003 does, with the data's intervals.

    An entry *differs* where the prior's value lies outside the data's interval. It *contradicts*

    - in a prior of weights, where the prior relates the two but the attribute is rarer in the class than in
      the classes that should not have it (the intervals do not meet); or where it does not relate them, but
      the attribute is found in more than `common` of the class's rows, and more often than in the classes
      that should have it;
    - in a prior of frequencies, where its value is more than `tolerance` outside the interval.

    An observational weight is the share of annotators who saw the attribute, not of images that show it, so
    that a weight and a frequency that differ need not contradict.

    Args:
        prior: The table in question.
        data: The table it is held against; rows and columns that only one of them has are left out.
        confidence: Of all intervals together.
        tolerance: See above.
        common: See above.

    Raises:
        ConfigError: Tables between different kinds of labels, no common entry, or a setting out of range.

    Example:
        >>> from taskloom.coupling.tables import expression_action_units, expression_action_units_aff_wild2
        >>> sides = diff(expression_action_units(), expression_action_units_aff_wild2())
        >>> print(sides.contradictions[0])
        AU7 given happiness: table 0.00, data 0.83, 0.45 in classes with it
    """
    for name, value in (("confidence", confidence), ("tolerance", tolerance), ("common", common)):
        if not 0 <= value <= 1 or (name == "confidence" and value in (0, 1)):
            raise ConfigError(f"relatedness: {name} between 0 and 1 expected, found {value}.")
    if prior.between != data.between:
        raise ConfigError(
            f"relatedness: {prior.source} is {prior.between}, {data.source} is {data.between}; "
            "only tables of one kind can be compared."
        )
    prior = _with_absences(prior, data)
    aligned = _aligned(prior, data)
    compared = prior.known & aligned.known
    if not compared.any():
        raise ConfigError(
            f"relatedness: {prior.source} and {data.source} have no known entry in common. "
            f"Classes: {', '.join(prior.classes)}, and {', '.join(data.classes)}. "
            f"Attributes: {', '.join(prior.attributes)}, and {', '.join(data.attributes)}."
        )
    related = _related(prior)
    z = float(norm.ppf(1 - (1 - confidence) / (2 * compared.sum())))
    if aligned.counts is not None and aligned.totals is not None:
        counts = _of_opposite(prior, related, compared, aligned.counts)
        totals = _of_opposite(prior, related, compared, aligned.totals)
        low, high = wilson(aligned.counts, aligned.totals, z)
        others_low, others_high = wilson(counts, totals, z)
    else:
        low = high = aligned.values
        counts = _of_opposite(prior, related, compared, aligned.values)
        totals = _of_opposite(prior, related, compared, np.ones_like(aligned.values))
        with np.errstate(invalid="ignore", divide="ignore"):
            others_low = others_high = counts / totals
    with np.errstate(invalid="ignore", divide="ignore"):
        elsewhere = counts / totals
        differs = compared & ((prior.values < low) | (prior.values > high))
        if prior.kind == "weights":
            claimed = related & (high < others_low)
            denied = ~related & (low > common) & (low > others_high)
            contradicts = compared & (claimed | denied)
        else:
            contradicts = compared & ((prior.values < low - tolerance) | (prior.values > high + tolerance))
    agreement = _agreement(related, aligned.values - elsewhere, compared)
    return Comparison(
        prior, aligned, low, high, related, elsewhere, compared, differs, contradicts, agreement
    )


def check(
    table: Relatedness,
    labels: Labels,
    tasks: TaskSet,
    *,
    classes: str | Sequence[str],
    attributes: str | Sequence[str],
    minimum_support: int = 10,
    confidence: float = 0.95,
) -> Comparison:
    """Holds a table against whatever rows have both labels, and warns where it contradicts them.

    The requirement of paper 003, and by its own words its limitation, is that the relatedness be right: a
    wrong table hurts. Entries with fewer rows than the minimum are not compared.

    Args:
        table: The table in question.
        labels: Labels, best those of training.
        tasks: Their tasks.
        classes, attributes, minimum_support: See `taskloom.coupling.from_labels`.
        confidence: Of all entries together.

    Returns:
        The comparison; its `contradictions` are what was warned of.

    Warns:
        RelatednessWarning: How many entries contradict, and the farthest three; or an agreement below 0.5.

    Raises:
        DataError: No entry has the minimum of rows.
        ConfigError: See `diff`.
    """
    data = from_labels(
        labels,
        tasks,
        classes=classes,
        attributes=attributes,
        minimum_support=minimum_support,
        below_minimum="unknown",
        empty_classes=tasks[classes].class_names if isinstance(classes, str) else (),
        source="the labels",
    )
    found = diff(table, data, confidence=confidence)
    contradictions = found.contradictions
    if contradictions or found.agreement < 0.5:
        worst = "; ".join(str(entry) for entry in contradictions[:3])
        warnings.warn(
            f"relatedness {table.source} contradicts the labels in {len(contradictions)} of "
            f"{found.num_compared} entries (agreement {found.agreement:.2f}, 0.5 is chance)"
            f"{': ' + worst if worst else ''}. Coupling on a wrong table hurts; take it from the labels "
            "(from_labels) or correct it.",
            RelatednessWarning,
            stacklevel=2,
        )
    return found


def _with_absences(prior: Relatedness, data: Relatedness) -> Relatedness:
    """Prior knowledge between attributes says 0 of absences that it does not list."""
    missing = [
        NOT + name
        for name in prior.labels_of_rows
        if prior.between == "attribute_attribute" and NOT + name not in prior.classes
    ]
    if not missing or not any(name in data.classes for name in missing):
        return prior
    zeros = np.zeros((len(missing), len(prior.attributes)))
    return Relatedness(
        (*prior.classes, *missing),
        prior.attributes,
        np.concatenate([prior.values, zeros]),
        prior.kind,
        prior.between,
        prior.source,
    )


def _aligned(prior: Relatedness, data: Relatedness) -> Relatedness:
    """The data in the order of the prior's rows and columns; NaN, and counts of 0, where it has none."""
    rows = [data.classes.index(name) if name in data.classes else -1 for name in prior.classes]
    columns = [data.attributes.index(name) if name in data.attributes else -1 for name in prior.attributes]

    def laid_out(array: Floats, nothing: float) -> Floats:
        padded = np.pad(array, ((0, 1), (0, 1)), constant_values=nothing)
        chosen: Floats = padded[np.ix_(rows, columns)]
        return chosen

    values = laid_out(data.values, np.nan)
    empty = [
        name for name, row in zip(prior.classes, values, strict=True) if not (np.nan_to_num(row) > 0).any()
    ]
    return Relatedness(
        prior.classes,
        prior.attributes,
        values,
        data.kind,
        data.between,
        data.source,
        tuple(empty),
        None if data.counts is None else laid_out(data.counts, 0.0),
        None if data.totals is None else laid_out(data.totals, 0.0),
    )


def _opposite_rows(table: Relatedness) -> list[int]:
    """Row of the absence of each label, and of the label of each absence; -1 where there is none."""
    opposite = [name.removeprefix(NOT) if name.startswith(NOT) else NOT + name for name in table.classes]
    return [table.classes.index(name) if name in table.classes else -1 for name in opposite]


def _related(table: Relatedness) -> NDArray[np.bool_]:
    if table.kind == "weights":
        return np.asarray(np.nan_to_num(table.values) > 0)
    if table.between == "attribute_attribute":
        against = np.pad(table.values, ((0, 1), (0, 0)), constant_values=np.nan)[_opposite_rows(table)]
    else:
        known = table.known.sum(axis=0)
        against = np.nansum(table.values, axis=0) / np.maximum(known, 1)
    with np.errstate(invalid="ignore"):
        return np.asarray(table.values > against)


def _of_opposite(
    table: Relatedness, related: NDArray[np.bool_], compared: NDArray[np.bool_], array: Floats
) -> Floats:
    """Per entry, the sum over the rows of which the table says the opposite; [C, A]."""
    array = np.where(compared, array, 0.0)
    if table.between == "attribute_attribute":
        chosen: Floats = np.pad(array, ((0, 1), (0, 0)))[_opposite_rows(table)]
        return chosen
    summed: Floats = np.where(related, (array * ~related).sum(axis=0), (array * related).sum(axis=0))
    return summed


def _agreement(related: NDArray[np.bool_], excess: Floats, compared: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of the excess for related against unrelated entries."""
    usable = compared & ~np.isnan(excess)
    first, second = excess[usable & related], np.sort(excess[usable & ~related])
    if not len(first) or not len(second):
        return float("nan")
    below = np.searchsorted(second, first, side="left")
    not_above = np.searchsorted(second, first, side="right")
    return float(np.mean(below + not_above) / (2 * len(second)))
