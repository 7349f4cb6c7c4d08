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
        elsewhere: Frequency of the attribute in the other classes; NaN where there is none.
        support: Rows it rests on; NaN where there are no counts.
    """

    given: str
    follows: str
    prior: float
    observed: float
    low: float
    high: float
    elsewhere: float
    support: float

    def __str__(self) -> str:
        interval = "" if np.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        rows = "" if np.isnan(self.support) else f", {self.support:g} rows"
        others = "" if np.isnan(self.elsewhere) else f", {self.elsewhere:.2f} in the other classes"
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
        elsewhere: Frequency of the attribute in all other classes of the data, [C, A].
        compared: Entries that both tables know, bool, [C, A].
        differs: Entries whose prior value lies outside the interval, bool, [C, A].
        contradicts: Entries that say the opposite (see `diff`), bool, [C, A].
        agreement: Chance that an entry the first table relates (its higher value, for frequencies) goes with
            a higher excess over the other classes in the data than one it does not: 1 agrees, 0.5 knows
            nothing, below 0.5 is wrong; NaN where it cannot be said.
    """

    prior: Relatedness
    data: Relatedness
    low: Floats
    high: Floats
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
      the other classes (the interval lies below that of the others), or where it does not, but the attribute
      is found in more than `common` of the class's rows (the interval lies above) and more often than in the
      other classes;
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
        AU7 given happiness: table 0.00, data 0.83, 0.42 in the other classes
    """
    for name, value in (("confidence", confidence), ("tolerance", tolerance), ("common", common)):
        if not 0 <= value <= 1 or (name == "confidence" and value in (0, 1)):
            raise ConfigError(f"relatedness: {name} between 0 and 1 expected, found {value}.")
    if prior.between != data.between:
        raise ConfigError(
            f"relatedness: {prior.source} is {prior.between}, {data.source} is {data.between}; "
            "only tables of one kind can be compared."
        )
    aligned, elsewhere, counts, totals = _aligned(prior, data)
    compared = prior.known & aligned.known
    if not compared.any():
        raise ConfigError(
            f"relatedness: {prior.source} and {data.source} have no known entry in common. "
            f"Classes: {', '.join(prior.classes)}, and {', '.join(data.classes)}. "
            f"Attributes: {', '.join(prior.attributes)}, and {', '.join(data.attributes)}."
        )
    z = float(norm.ppf(1 - (1 - confidence) / (2 * compared.sum())))
    if aligned.counts is not None and aligned.totals is not None:
        low, high = wilson(aligned.counts, aligned.totals, z)
        others_low, others_high = wilson(counts, totals, z)
    else:
        low = high = aligned.values
        others_low = others_high = elsewhere
    values = prior.values
    with np.errstate(invalid="ignore"):
        differs = compared & ((values < low) | (values > high))
        if prior.kind == "weights":
            claimed = (values > 0) & (high < others_low)
            denied = (values == 0) & (low > common) & (low > others_high)
            contradicts = compared & (claimed | denied)
        else:
            contradicts = compared & ((values < low - tolerance) | (values > high + tolerance))
    agreement = _agreement(prior, aligned.values - elsewhere, compared)
    return Comparison(prior, aligned, low, high, elsewhere, compared, differs, contradicts, agreement)


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


def _aligned(prior: Relatedness, data: Relatedness) -> tuple[Relatedness, Floats, Floats, Floats]:
    """The data in the prior's order (NaN where it has none), and the other classes' frequency, counts, totals."""
    counts, totals = _of_others(data, data.counts), _of_others(data, data.totals)
    with np.errstate(invalid="ignore", divide="ignore"):
        elsewhere = counts / totals if data.counts is not None else _of_others(data, data.values, mean=True)
    rows = [data.classes.index(name) if name in data.classes else -1 for name in prior.classes]
    columns = [data.attributes.index(name) if name in data.attributes else -1 for name in prior.attributes]

    def laid(array: Floats | None, nothing: float) -> Floats | None:
        if array is None:
            return None
        padded = np.pad(array, ((0, 1), (0, 1)), constant_values=nothing)
        laid_out: Floats = padded[np.ix_(rows, columns)]
        return laid_out

    values = laid(data.values, np.nan)
    others = tuple(laid(array, np.nan) for array in (elsewhere, counts, totals))
    assert values is not None
    table = Relatedness(
        prior.classes,
        prior.attributes,
        values,
        data.kind,
        data.between,
        data.source,
        _without_attribute(prior.classes, values),
        laid(data.counts, 0.0),
        laid(data.totals, 0.0),
    )
    first, second, third = others
    assert first is not None
    assert second is not None
    assert third is not None
    return table, first, second, third


def _without_attribute(classes: Sequence[str], values: Floats) -> tuple[str, ...]:
    return tuple(
        name for name, row in zip(classes, values, strict=True) if not (np.nan_to_num(row) > 0).any()
    )


def _of_others(table: Relatedness, array: Floats | None, *, mean: bool = False) -> Floats:
    """Per entry the sum (or mean) over the other classes; for attribute-attribute over the opposite row."""
    if array is None:
        return np.full_like(table.values, np.nan)
    if table.between == "attribute_attribute":
        opposite = {
            name: name.removeprefix(NOT) if name.startswith(NOT) else NOT + name for name in table.classes
        }
        found = np.full_like(array, np.nan)
        for row, name in enumerate(table.classes):
            if opposite[name] in table.classes:
                found[row] = array[table.classes.index(opposite[name])]
        return found
    known = ~np.isnan(array)
    total, number = np.nansum(array, axis=0), known.sum(axis=0)
    others = total - np.nan_to_num(array)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = others / (number - known) if mean else others
    return result


def _agreement(prior: Relatedness, excess: Floats, compared: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of the excess for related against unrelated entries."""
    usable = compared & ~np.isnan(excess)
    scores, values = excess[usable], prior.values[usable]
    related = (
        values > 0 if prior.kind == "weights" else values > np.median(values) if len(values) else values > 0
    )
    if related.all() or not related.any():
        return float("nan")
    above = scores[related][:, None] - scores[~related][None, :]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))
