"""The settings of a split, checked before any data is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from taskloom.errors import ConfigError, did_you_mean

_NOT_DRAWN_BY_GROUP = ("time", "files", "within_person", "blocks", "thesis-002-shuffled-windows")
"""Rules that have no groups to put into folds or to stratify."""

PART_NAMES = ("train", "validation", "test")
SHARED_GROUPS = ("refused", "allowed")
DUPLICATES = ("together", "apart")


@dataclass(frozen=True)
class SplitRule:
    """How a data set is split; see `taskloom.data.splits` for `by`.

    Args:
        by: What stays on one side.
        test: Fraction of the groups (of the samples for `time`); with `column`, the value or values that mean
            test instead. Default 0.2, with `column` "test".
        validation: Likewise. Default 0.1, with `column` "validation". With `files` and `column` a fraction
            draws it from what would be train.
        gap: With `time`, samples left out between the parts.
        files: With `files`, patterns of recording names per part: {"test": ["*-ADL4", "*-ADL5"]}. Without
            "train", train is the rest; without "validation", it is drawn from train.
        column: The column whose values decide.
        folds, fold: Number of folds of the groups, and which of them (0..folds-1) is the test part.
        stratify: A task, label or column whose values are spread evenly over the parts.
        seed: Seed of a drawn split; the caller's where None.
        shared_groups: Whether groups that the data declare may stand on two sides of a rule that does not
            keep them together: "refused" (also where None) or "allowed", with a warning.
        duplicates: Of images: "together" keeps those that are equal in every pixel on one side of a drawn
            split; "apart" (also where None) lets them fall where they may, and the report counts them.

    Raises:
        ConfigError: Settings out of range or that contradict each other.
    """

    by: str
    test: float | tuple[str, ...] | None = None
    validation: float | tuple[str, ...] | None = None
    gap: int = 0
    files: Mapping[str, Sequence[str]] | None = None
    column: str | None = None
    folds: int | None = None
    fold: int | None = None
    stratify: str | None = None
    seed: int | None = None
    shared_groups: str | None = None
    duplicates: str | None = None

    def __post_init__(self) -> None:
        if not self.by or not isinstance(self.by, str):
            raise ConfigError(f"split.by: a rule expected (recording, person, time, ...), found {self.by!r}.")
        if (self.by == "files") != (self.files is not None):
            raise ConfigError("split.files: the patterns belong to `by: files`, and `by: files` needs them.")
        if self.by == "column" and self.column is None:
            raise ConfigError("split.column: `by: column` needs the column's name.")
        if self.column is not None and self.by in (*_NOT_DRAWN_BY_GROUP, "recording", "rows"):
            raise ConfigError(f"split.column: does not go with `by: {self.by}`; use `by: column`.")
        if self.gap < 0 or (self.gap and self.by != "time"):
            raise ConfigError(f"split.gap: 0 samples or more, and only with `by: time`; found {self.gap}.")
        drawn = self.by not in _NOT_DRAWN_BY_GROUP and self.column is None
        if self.stratify is not None and not drawn:
            raise ConfigError("split.stratify: only where groups or rows are drawn.")
        if self.files is not None and "validation" in self.files and self.validation is not None:
            raise ConfigError("split: validation stands both in `files` and as a fraction; keep one.")
        if self.shared_groups not in (None, *SHARED_GROUPS):
            raise ConfigError(
                f"split.shared_groups: {' or '.join(SHARED_GROUPS)} expected, found {self.shared_groups!r}."
            )
        if self.duplicates not in (None, *DUPLICATES):
            raise ConfigError(
                f"split.duplicates: {' or '.join(DUPLICATES)} expected, found {self.duplicates!r}."
            )
        if self.duplicates == "together" and not drawn:
            raise ConfigError(
                "split.duplicates: `together` is for rows or groups that are drawn, and here the data name "
                "the parts; leave it out, and the report counts the equal images."
            )
        self._check_parts()
        self._check_folds()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Builds a rule from a study file's `split`.

        Raises:
            ConfigError: An unknown key, or a value that does not fit.
        """
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                raise ConfigError(
                    f"split.{key} is not a setting.{did_you_mean(str(key), known)} "
                    f"Settings of split: {', '.join(known)}."
                )
        for key in ("gap", "folds", "fold", "seed"):
            _check_type(key, settings.get(key), int, "a whole number")
        for key in ("column", "stratify"):
            _check_type(key, settings.get(key), str, "text")
        if (settings.get("seed") or 0) < 0:
            raise ConfigError(f"split.seed: a whole number from 0 expected, found {settings['seed']}.")
        if "by" not in settings:
            raise ConfigError(
                "split.by is missing: recording, person, time, files, column, rows or a column."
            )
        values = dict(settings)
        for part in ("test", "validation"):
            if part in values:
                values[part] = _fraction_or_values(values[part])
        if values.get("files") is not None:
            values["files"] = _patterns(values["files"])
        return cls(**{key: value for key, value in values.items() if value is not None})

    @property
    def test_fraction(self) -> float:
        return self.test if isinstance(self.test, float) else 0.2

    @property
    def validation_fraction(self) -> float:
        return self.validation if isinstance(self.validation, float) else 0.1

    def to_dict(self) -> dict[str, Any]:
        """The settings that were given, as plain values."""
        plain = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    def _check_parts(self) -> None:
        for part, value in (("test", self.test), ("validation", self.validation)):
            if isinstance(value, tuple) and self.column is None:
                raise ConfigError(f"split.{part}: a fraction expected, found {', '.join(value)!r}.")
            if isinstance(value, float) and not 0 < value < 1:
                raise ConfigError(f"split.{part}: a fraction above 0 and below 1 expected, found {value}.")
        if isinstance(self.test, float) and self.column is not None:
            raise ConfigError(
                f"split.test: with `column` the values that mean test are expected, found {self.test}."
            )
        if self.test_fraction + self.validation_fraction >= 1:
            raise ConfigError(
                f"split: test {self.test_fraction} and validation {self.validation_fraction} leave nothing "
                "to train on."
            )

    def _check_folds(self) -> None:
        if (self.folds is None) != (self.fold is None):
            raise ConfigError("split: `folds` and `fold` go together.")
        if self.folds is None or self.fold is None:
            return
        if self.by in (*_NOT_DRAWN_BY_GROUP, "column") or self.column is not None:
            raise ConfigError("split.folds: folds are of groups, recordings or rows drawn by seed.")
        if self.test is not None:
            raise ConfigError("split.test: with `folds` the test part is the fold; leave `test` out.")
        if self.folds < 2 or not 0 <= self.fold < self.folds:
            raise ConfigError(
                f"split.fold: 2 folds or more and 0 <= fold < folds expected, found fold {self.fold} of "
                f"{self.folds}."
            )


def _fraction_or_values(value: Any) -> float | tuple[str, ...]:
    """A float is a fraction; text, a whole number or a list are values of a column."""
    if isinstance(value, float):
        return value
    return tuple(str(element) for element in (value if isinstance(value, list | tuple) else (value,)))


def _check_type(key: str, value: Any, kind: type, expected: str) -> None:
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ConfigError(f"split.{key}: {expected} expected, found {value!r}.")


def _patterns(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"split.files: patterns per part expected, found {value!r}.")
    for part in value:
        if part not in PART_NAMES:
            raise ConfigError(
                f"split.files.{part} is not a part.{did_you_mean(str(part), PART_NAMES)} "
                f"Parts: {', '.join(PART_NAMES)}."
            )
    if "test" not in value:
        raise ConfigError("split.files.test is missing: which recordings are the test part?")
    return {
        part: (patterns,) if isinstance(patterns, str) else tuple(str(pattern) for pattern in patterns)
        for part, patterns in value.items()
    }
