"""What is known about two tasks' labels going together: one table, wherever it comes from.

Rows are the labels that are given ("classes"), columns the labels that follow ("attributes"):

===================  ================================  ==========================================
`between`            rows                              columns
===================  ================================  ==========================================
class_attribute      classes of a multiclass task      labels of multilabel and binary tasks
class_class          classes of a multiclass task      classes of another multiclass task
attribute_attribute  labels `a`, and their absence     labels of multilabel and binary tasks
                     `not a`
===================  ================================  ==========================================

Entries are weights (paper 003, table 1: 1 for a prototypical attribute, w for an observational one, else 0)
or conditional frequencies p(attribute | class). NaN is an entry of which nothing is known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from taskloom.errors import ConfigError, DataError, did_you_mean

Kind = Literal["weights", "frequencies"]
Between = Literal["class_attribute", "class_class", "attribute_attribute"]
Floats = NDArray[np.float64]

FORMAT_VERSION = 1
NOT = "not "
"""A row of this beginning is the absence of the label whose name follows (attribute_attribute)."""


@dataclass(frozen=True, eq=False)
class Relatedness:
    """Classes x attributes with weights or conditional frequencies.

    Args:
        classes: Names of the C rows.
        attributes: Names of the A columns.
        values: Entries from 0 to 1, [C, A]; NaN where nothing is known.
        kind: "weights" or "frequencies"; see the module.
        between: Which kinds of labels the rows and columns are; see the module.
        source: Where the table comes from, for messages and reports.
        empty_classes: Classes that are meant to have no attribute at all, such as a neutral expression. Any
            other class without an attribute is refused.
        counts: Frequencies only: samples of the class with the attribute, [C, A]; soft counts may be broken.
        totals: Frequencies only: samples of the class whose attribute label is present, [C, A].

    Raises:
        DataError: Names that stand twice, a shape that does not fit, an entry below 0 or above 1, a class
            without an attribute that `empty_classes` does not name.

    Example:
        >>> table = Relatedness(("cat", "bird"), ("fur", "wings"), np.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> table["bird", "wings"]
        1.0
    """

    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    values: Floats
    kind: Kind = "weights"
    between: Between = "class_attribute"
    source: str = "a table"
    empty_classes: tuple[str, ...] = ()
    counts: Floats | None = None
    totals: Floats | None = None

    def __post_init__(self) -> None:
        for field in ("classes", "attributes", "empty_classes"):
            object.__setattr__(self, field, tuple(str(name) for name in getattr(self, field)))
        object.__setattr__(self, "values", np.array(self.values, dtype=np.float64))
        self._check_form()
        self._check_entries()
        self._check_empty()

    def __getitem__(self, names: tuple[str, str]) -> float:
        """Entry of (class, attribute)."""
        row, column = names
        return float(
            self.values[
                _position(row, self.classes, "class", self.source),
                _position(column, self.attributes, "attribute", self.source),
            ]
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Relatedness):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it holds arrays

    @property
    def known(self) -> NDArray[np.bool_]:
        """Entries of which something is known, [C, A]."""
        return ~np.isnan(self.values)

    @property
    def labels_of_rows(self) -> tuple[str, ...]:
        """Names of the labels behind the rows: without the `not` rows of attribute_attribute."""
        if self.between != "attribute_attribute":
            return self.classes
        return tuple(name for name in self.classes if not name.startswith(NOT))

    def intervals(self, confidence: float = 0.95) -> tuple[Floats, Floats]:
        """Wilson score intervals of the frequencies.

        Args:
            confidence: Share of intervals that hold the true frequency, per entry.

        Returns:
            Lower and upper bounds, [C, A] each; NaN where nothing is known or nothing was counted. They are
            of the counts as they are, without smoothing.

        Example:
            >>> table = Relatedness(("c",), ("a",), np.array([[0.5]]), "frequencies",
            ...                     counts=np.array([[10.0]]), totals=np.array([[20.0]]))
            >>> low, high = table.intervals()
            >>> round(float(low[0, 0]), 3), round(float(high[0, 0]), 3)
            (0.299, 0.701)
        """
        if not 0 < confidence < 1:
            raise ConfigError(f"relatedness: a confidence between 0 and 1 expected, found {confidence}.")
        if self.counts is None or self.totals is None:
            return np.full_like(self.values, np.nan), np.full_like(self.values, np.nan)
        low, high = wilson(self.counts, self.totals, float(norm.ppf(0.5 + confidence / 2)))
        return np.where(self.known, low, np.nan), np.where(self.known, high, np.nan)

    def select(
        self, classes: Iterable[str] | None = None, attributes: Iterable[str] | None = None
    ) -> Relatedness:
        """Returns the named rows and columns in the given order; None keeps all.

        The `not` row of a label is kept with it. A class that loses all its attributes is refused like any
        other class without one.

        Raises:
            DataError: A name that the table does not have, or a class left without an attribute.
        """
        rows = self.labels_of_rows if classes is None else tuple(classes)
        columns = self.attributes if attributes is None else tuple(attributes)
        negations = [NOT + name for name in rows if NOT + name in self.classes]
        kept = (*rows, *(negations if self.between == "attribute_attribute" else ()))
        row_index = [_position(name, self.classes, "class", self.source) for name in kept]
        column_index = [_position(name, self.attributes, "attribute", self.source) for name in columns]
        grid = np.ix_(row_index, column_index)
        return replace(
            self,
            classes=kept,
            attributes=columns,
            values=self.values[grid],
            empty_classes=tuple(name for name in self.empty_classes if name in kept),
            counts=None if self.counts is None else self.counts[grid],
            totals=None if self.totals is None else self.totals[grid],
        )

    def renamed(
        self, classes: Mapping[str, str] | None = None, attributes: Mapping[str, str] | None = None
    ) -> Relatedness:
        """Returns the table with other names, old to new; names that are not mentioned stay.

        Raises:
            DataError: An old name that the table does not have.
        """
        for names, given, what in (
            (self.classes, classes or {}, "class"),
            (self.attributes, attributes or {}, "attribute"),
        ):
            for old in given:
                _position(old, names, what, self.source)
        new = dict(classes or {})
        if self.between == "attribute_attribute":
            new |= {NOT + old: NOT + name for old, name in new.items() if NOT + old in self.classes}
        return replace(
            self,
            classes=tuple(new.get(name, name) for name in self.classes),
            attributes=tuple((attributes or {}).get(name, name) for name in self.attributes),
            empty_classes=tuple(new.get(name, name) for name in self.empty_classes),
        )

    def with_empty_classes(self, *names: str) -> Relatedness:
        """Returns the table with further classes that have no attribute, such as a neutral expression.

        Example:
            >>> table = Relatedness(("smile",), ("AU12",), np.array([[1.0]]))
            >>> table.with_empty_classes("neutral")["neutral", "AU12"]
            0.0
        """
        zeros = np.zeros((len(names), len(self.attributes)))
        return replace(
            self,
            classes=(*self.classes, *names),
            values=np.concatenate([self.values, zeros]),
            empty_classes=(*self.empty_classes, *names),
            counts=None if self.counts is None else np.concatenate([self.counts, zeros]),
            totals=None if self.totals is None else np.concatenate([self.totals, zeros]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; unknown entries are None."""
        return {
            "format": FORMAT_VERSION,
            "kind": self.kind,
            "between": self.between,
            "source": self.source,
            "classes": list(self.classes),
            "attributes": list(self.attributes),
            "empty_classes": list(self.empty_classes),
            "values": [[None if np.isnan(v) else float(v) for v in row] for row in self.values],
            "counts": None if self.counts is None else self.counts.tolist(),
            "totals": None if self.totals is None else self.totals.tolist(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Relatedness:
        """Takes what `to_dict` gave.

        Raises:
            DataError: Another format, a field that is missing, or entries that the constructor refuses.
        """
        if fields.get("format") != FORMAT_VERSION:
            raise DataError(
                f"relatedness: format {FORMAT_VERSION} expected, found {fields.get('format')!r}; "
                "write the table anew with this version."
            )
        names = ("classes", "attributes", "values", "kind", "between", "source", "empty_classes")
        missing = [name for name in (*names, "counts", "totals") if name not in fields]
        if missing:
            raise DataError(f"relatedness: the field `{missing[0]}` is missing; the table seems cut off.")
        try:
            arrays = {
                name: None if fields[name] is None else np.array(fields[name], dtype=np.float64)
                for name in ("values", "counts", "totals")
            }
        except (TypeError, ValueError) as error:
            raise DataError(f"relatedness: rows of numbers of one length expected: {error}.") from error
        return cls(**{name: fields[name] for name in names} | arrays)

    def save(self, path: Path | str) -> None:
        """Writes the table as JSON; the file is whole or as it was."""
        path = Path(path)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path | str) -> Relatedness:
        """Reads what `save` wrote.

        Raises:
            DataError: No such file, not JSON, or not a relatedness of this format.
        """
        path = Path(path)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"{path}: there is no such relatedness file.") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: JSON expected: {error}.") from error
        if not isinstance(fields, dict):
            raise DataError(f"{path}: a relatedness expected, found a {type(fields).__name__}.")
        try:
            return cls.from_dict(fields)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def _check_form(self) -> None:
        for name, given, possible in (
            ("kind", self.kind, get_args(Kind)),
            ("between", self.between, get_args(Between)),
        ):
            if given not in possible:
                raise DataError(
                    f"relatedness {self.source}: {name} {given!r} is none of {', '.join(possible)}."
                    f"{did_you_mean(str(given), possible)}"
                )
        for what, names in (("class", self.classes), ("attribute", self.attributes)):
            doubles = sorted({name for name in names if names.count(name) > 1}) if names else []
            if not names or doubles:
                found = f"`{doubles[0]}` stands twice" if doubles else f"no {what} found"
                raise DataError(f"relatedness {self.source}: {what} names must be unique, {found}.")
        expected = (len(self.classes), len(self.attributes))
        for name in ("values", "counts", "totals"):
            array = getattr(self, name)
            if array is not None and array.shape != expected:
                raise DataError(
                    f"relatedness {self.source}: {name} of shape {list(expected)} (classes x attributes) "
                    f"expected, found {list(array.shape)}."
                )
        if (self.counts is None) != (self.totals is None):
            raise DataError(f"relatedness {self.source}: counts and totals come together, found one of them.")

    def _check_entries(self) -> None:
        with np.errstate(invalid="ignore"):
            wrong = np.argwhere(self.known & ~((self.values >= 0) & (self.values <= 1)))
        if len(wrong):
            row, column = wrong[0]
            what = "weights" if self.kind == "weights" else "frequencies"
            raise DataError(
                f"relatedness {self.source}: {what} from 0 to 1 expected, found {self.values[row, column]:g} "
                f"for class {self.classes[row]}, attribute {self.attributes[column]}."
            )

    def _check_empty(self) -> None:
        for name in self.empty_classes:
            row = _position(name, self.classes, "class", self.source)
            if (np.nan_to_num(self.values[row]) > 0).any():
                raise DataError(
                    f"relatedness {self.source}: class {name} is named among the empty classes, "
                    "but it has attributes; name it once."
                )
        if self.between == "attribute_attribute":
            return  # a label that goes with no other is ordinary there
        for row, name in enumerate(self.classes):
            nothing_known = bool(np.isnan(self.values[row]).all())
            related = bool((np.nan_to_num(self.values[row]) > 0).any())
            if not related and not nothing_known and name not in self.empty_classes:
                raise DataError(
                    f"relatedness {self.source}: class {name} has no attribute, so none can point "
                    f"to it; give it one, or name it in empty_classes if it is meant to have none "
                    "(as a neutral expression)."
                )


def wilson(counts: Floats, totals: Floats, z: float) -> tuple[Floats, Floats]:
    """Wilson score interval of counts out of totals at z standard errors; NaN where the total is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = counts / totals
        center = (share + z * z / (2 * totals)) / (1 + z * z / totals)
        half = z * np.sqrt(share * (1 - share) / totals + z * z / (4 * totals**2)) / (1 + z * z / totals)
    return np.clip(center - half, 0, 1), np.clip(center + half, 0, 1)


def check_names(table: Relatedness, classes: Sequence[str], attributes: Sequence[str], where: str) -> None:
    """Refuses a table whose rows or columns are not exactly the labels of the tasks.

    Args:
        table: The relatedness.
        classes: Labels of the tasks on the classes side.
        attributes: Labels of the tasks on the attributes side.
        where: Which tasks these are, for the message.

    Raises:
        ConfigError: Prints both lists, and the nearest name for each that is missing.
    """
    for what, here, wanted, remedy in (
        ("classes", table.labels_of_rows, tuple(classes), "select, renamed or with_empty_classes"),
        ("attributes", table.attributes, tuple(attributes), "select or renamed"),
    ):
        if set(here) == set(wanted):
            continue
        missing = [name for name in wanted if name not in here]
        extra = [name for name in here if name not in wanted]
        details = [
            *(
                f"`{name}` is missing in the table.{did_you_mean(name, extra or here)}"
                for name in missing[:5]
            ),
            *(f"`{name}` is not in the tasks.{did_you_mean(name, missing or wanted)}" for name in extra[:5]),
        ]
        raise ConfigError(
            f"relatedness {table.source}: its {what} do not match those of {where}. "
            f"Table: {', '.join(here)}. Tasks: {', '.join(wanted)}. {' '.join(details)} "
            f"Bring them together with {remedy}."
        )


def _position(name: str, names: Sequence[str], what: str, source: str) -> int:
    if name not in names:
        raise DataError(
            f"relatedness {source}: there is no {what} `{name}`.{did_you_mean(name, names)} "
            f"It has: {', '.join(names)}."
        )
    return names.index(name)
