"""Feature rows of a table: chosen columns, or an array beside the table, gathered a batch at a time."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.data.category_columns import Categories, categories_of, category_columns
from taskloom.data.feature_arrays import load_array
from taskloom.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from taskloom.data.tables import Table

Imputation = Literal["mean", "zero"]

FeatureSettings = str | Sequence[str] | Mapping[str, Any]
"""Column names or globs, "rest", `{npz, array, packed_bits}` or `{npy}`."""

_FIT_ROWS = 8192
_GLANCE_ROWS = 64
_ID_NAMES = ("id", "index", "row", "nr", "no", "number", "key")


@dataclass(frozen=True)
class Standardization:
    """What was fitted on the training rows: replacement of missing values, then (x - center) / scale.

    Args:
        center, scale: Per feature, [F] float64; zeros and ones where nothing is standardised.
        fill: Per feature, [F] float64: what stands in for a missing value; None where none may be missing.
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    fill: NDArray[np.float64] | None = None

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardises rows [B, F] float32 in place and returns them."""
        if self.fill is not None:
            missing = np.isnan(rows)
            if missing.any():
                np.copyto(rows, self.fill.astype(np.float32)[None, :], where=missing)
        rows -= self.center.astype(np.float32)
        rows /= self.scale.astype(np.float32)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-serialisable."""
        return {
            "center": self.center.tolist(),
            "scale": self.scale.tolist(),
            "fill": None if self.fill is None else self.fill.tolist(),
        }


class FeatureRows:
    """Features of all M rows of a table; rows are gathered as float32 whatever they are kept as.

    Args:
        array: [M, F] float32 in RAM or memory-mapped, or packed bits [M, ceil(F / 8)] uint8.
        names: Name of each of the F features; "0".."F-1" where None.
        packed_bits: F where `array` holds packed bits (most significant first, as `np.packbits` writes).
        standardization: Applied to every gathered batch; None leaves values as they are.

    Raises:
        ValueError: An array that is not two-dimensional, of another type, or too narrow for `packed_bits`.

    Example:
        >>> bits = np.packbits(np.array([[1, 0, 1], [0, 0, 1]], dtype=np.uint8), axis=1)
        >>> FeatureRows(bits, packed_bits=3).gather(np.array([1, 0]))
        array([[0., 0., 1.],
               [1., 0., 1.]], dtype=float32)
    """

    def __init__(
        self,
        array: NDArray[Any],
        names: Sequence[str] | None = None,
        *,
        packed_bits: int | None = None,
        standardization: Standardization | None = None,
    ) -> None:
        wanted = np.dtype(np.float32 if packed_bits is None else np.uint8)
        if array.ndim != 2 or array.dtype != wanted:
            raise ValueError(f"[M, F] {wanted} expected, found {array.shape} {array.dtype}")
        if packed_bits is not None and not 0 < packed_bits <= array.shape[1] * 8:
            raise ValueError(f"{array.shape[1]} bytes a row hold no {packed_bits} bits")
        self.array = array
        self.packed_bits = packed_bits
        self.num_features = array.shape[1] if packed_bits is None else packed_bits
        self.names = tuple(names) if names is not None else tuple(str(i) for i in range(self.num_features))
        self.standardization = standardization
        self.left_out: tuple[str, ...] = ()
        """Columns of the table that "rest" left out because they hold text or nothing."""
        self.categories = Categories({})
        """What the last of the features are: columns of 0 and 1 for the values of a column each."""

    @property
    def num_numbers(self) -> int:
        """How many of the features, the first ones, are numbers; the others are categories."""
        return self.num_features - len(self.categories.columns)

    def column(self, position: int) -> str:
        """The column of the table that a feature comes from."""
        if position < self.num_numbers:
            return self.names[position]
        return self.categories.columns[position - self.num_numbers]

    def __len__(self) -> int:
        return len(self.array)

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns rows [B, F] float32 of the table, in the order asked for."""
        gathered = self.raw(rows)
        return gathered if self.standardization is None else self.standardization.apply(gathered)

    def raw(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows [B, F] float32 before standardisation; a new array."""
        if self.packed_bits is None:
            return np.asarray(np.take(self.array, rows, axis=0))
        packed = np.take(self.array, rows, axis=0)
        return np.unpackbits(packed, axis=1, count=self.packed_bits).astype(np.float32)

    def fit(
        self, rows: NDArray[np.int64], *, standardize: bool, impute: Imputation | None
    ) -> Standardization:
        """Fits centre, scale and imputation on the rows given (the training rows), in two passes by blocks.

        Missing values do not count; a column that is constant, or missing altogether, gets scale 1. Features
        of categories stay 0 and 1: divided by its small deviation, a rare value would drown all others.

        Args:
            rows: Rows of the table, [N].
            standardize: Whether to centre and scale (by the population standard deviation).
            impute: What stands in for a missing value: the training mean, or zero (in the table's scale).
        """
        blocks = [rows[start : start + _FIT_ROWS] for start in range(0, len(rows), _FIT_ROWS)]
        mean = _blockwise_mean(self, blocks, lambda block: block)
        deviation = np.sqrt(_blockwise_mean(self, blocks, lambda block: (block - mean) ** 2))
        # Rounding leaves a constant column a deviation of about 1e-16 of its mean: that is no spread.
        constant = deviation <= 1e-12 * np.maximum(np.abs(mean), 1e-300)
        mean[self.num_numbers :], constant[self.num_numbers :] = 0, True
        zeros = np.zeros(self.num_features)
        return Standardization(
            center=mean if standardize else zeros,
            scale=np.where(constant, 1.0, deviation) if standardize else zeros + 1.0,
            fill=None if impute is None else (mean if impute == "mean" else zeros),
        )

    def standardized(self, standardization: Standardization) -> FeatureRows:
        """Returns these rows standardised: at once where they lie in RAM, else with every batch."""
        if self.packed_bits is None and not isinstance(self.array, np.memmap):
            rows = FeatureRows(standardization.apply(self.array.copy()), self.names)
            rows.categories = self.categories
            return rows
        return FeatureRows(
            self.array, self.names, packed_bits=self.packed_bits, standardization=standardization
        )


def _blockwise_mean(
    features: FeatureRows,
    blocks: Sequence[NDArray[np.int64]],
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Mean [F] of function(values) over the rows of all blocks; 0 where nothing is present."""
    total, count = np.zeros(features.num_features), np.zeros(features.num_features)
    for block in blocks:
        values = features.raw(block).astype(np.float64)
        present = ~np.isnan(values)
        total += np.where(present, function(values), 0.0).sum(axis=0)
        count += present.sum(axis=0)
    return np.asarray(total / np.maximum(count, 1), dtype=np.float64)


def read_features(
    table: Table,
    settings: FeatureSettings,
    *,
    folder: Path,
    taken: Sequence[str],
    exclude: Sequence[str] = (),
    categories: Sequence[str] = (),
) -> FeatureRows:
    """Reads the features of a table's rows.

    Args:
        table: The table.
        settings: Column names or globs; "rest" for every numeric column that is not taken; or an array in
            row order beside the table: `{npz: file, array: name, packed_bits: F}` or `{npy: file}` (which is
            memory-mapped).
        folder: Where the array's file is looked for.
        taken: Columns of tasks, groups and splits: never features, unless they are named outright.
        exclude: Columns or globs that "rest" and globs leave out.
        categories: Columns or globs of which every value is a feature of 0 and 1, behind the numbers.

    Raises:
        DataError: An unknown column, a cell that is not a number (with "rest": in a column of numbers), no
            feature at all, or an array that is missing or has not as many rows as the table.
        ConfigError: `settings` is none of the forms above.
    """
    if isinstance(settings, Mapping):
        if categories:
            raise ConfigError(
                "data.categories: columns of a table whose `features` are columns, too, expected; here these "
                "are an array beside it. Leave `categories` out."
            )
        return _array_features(table, settings, folder)
    coded = category_columns(table, categories, taken, exclude)
    taken = (*taken, *coded)
    left_out: tuple[str, ...] = ()
    if settings == "rest":
        numbers, left_out = _rest(table, taken, exclude, alone=not coded)
    else:
        wanted = [settings] if isinstance(settings, str) else settings
        plain = [name for name in wanted if name not in coded]
        names = select_columns(table, plain, taken, exclude) if plain or not coded else ()
        numbers = {name: table.numbers(name) for name in names}
    found = categories_of(table, coded)
    array = np.empty((len(table), len(numbers) + len(found.names)), dtype=np.float32)
    for position, values in enumerate(numbers.values()):
        array[:, position] = values
    array[:, len(numbers) :] = found.encode(table)
    features = FeatureRows(array, (*numbers, *found.names))
    features.left_out = left_out
    features.categories = found
    return features


def row_numbers(features: FeatureRows) -> list[str]:
    """Warns of features that only number the rows: another whole number in each, in order or named as an id.

    A tenth of the rows may repeat a number under such a name: rows that stand twice are common.

    Such a column tells the network which row it sees, and where rows are sorted by a label, the label.

    Example:
        >>> rows = FeatureRows(np.array([[7, 1], [8, 0], [9, 1]], dtype=np.float32), ["id", "sex"])
        >>> [text[:44] for text in row_numbers(rows)]
        ['feature `id` holds another whole number in e']
    """
    if features.packed_bits is not None or len(features) < 3:
        return []
    named = np.array(
        [name.lower() in _ID_NAMES or name.lower().endswith(("_id", " id")) for name in features.names]
    )
    rising = (np.diff(features.array[:_GLANCE_ROWS], axis=0) > 0).all(axis=0)  # hardly any other column is
    found = []
    for position in np.flatnonzero(named | rising):
        name, values = features.names[position], features.array[:, position]
        ordered = bool((np.diff(values.astype(np.float64)) > 0).all())
        whole = bool((values == np.round(values)).all())
        distinct = len(np.unique(values))
        if whole and (ordered or (named[position] and 10 * distinct >= 9 * len(values))):
            rows = "every row" if distinct == len(values) else f"{distinct:,} of {len(values):,} rows"
            found.append(
                f"feature `{name}` holds another whole number in {rows}, as an identifier does: if it is "
                f"one, leave it out with `exclude: [{name}]` in `data`."
            )
    return found


def feature_files(settings: FeatureSettings, folder: Path) -> list[Path]:
    """Returns the files beside the table that the features come from."""
    if not isinstance(settings, Mapping):
        return []
    return [folder / str(settings[key]) for key in ("npz", "npy") if key in settings]


def _rest(
    table: Table, taken: Sequence[str], exclude: Sequence[str], *, alone: bool
) -> tuple[dict[str, NDArray[np.float64]], tuple[str, ...]]:
    """Values of every numeric column that nobody else has, and the columns that are not numeric."""
    unwanted = _unwanted(table, taken, exclude)
    columns = {name: table.numbers_or_none(name) for name in table.columns if name not in unwanted}
    numbers = {name: values for name, values in columns.items() if values is not None}
    if not numbers and alone:
        raise _no_feature(table)
    return numbers, tuple(name for name in columns if name not in numbers)


def select_columns(
    table: Table, wanted: str | Sequence[str], taken: Sequence[str], exclude: Sequence[str] = ()
) -> tuple[str, ...]:
    """Returns the feature columns, in the table's order.

    Args:
        table: The table.
        wanted: One name or glob, or a list of them.
        taken: Columns that globs leave out.
        exclude: Columns or globs that globs leave out.

    Raises:
        DataError: A name or glob that no column fits, or nothing left.
    """
    unwanted = _unwanted(table, taken, exclude)
    chosen = set()
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        found = _matching(table, str(pattern), "`features`")
        chosen |= set(found) if pattern in table.columns else set(found) - unwanted
    if not chosen:
        raise _no_feature(table)
    return tuple(name for name in table.columns if name in chosen)


def _unwanted(table: Table, taken: Sequence[str], exclude: Sequence[str]) -> set[str]:
    return {*taken, *(name for pattern in exclude for name in _matching(table, str(pattern), "`exclude`"))}


def _no_feature(table: Table) -> DataError:
    return DataError(f"{table.path}: no feature column is left; check `features` and `exclude`.")


def _matching(table: Table, pattern: str, purpose: str) -> list[str]:
    """Columns that fit a name or glob; a column of exactly that name wins, as names may hold brackets."""
    if pattern in table.columns:
        return [pattern]
    found = [name for name in table.columns if fnmatch.fnmatchcase(name, pattern)]
    return found or [table.column_name(pattern, purpose)]


def _array_features(table: Table, settings: Mapping[str, Any], folder: Path) -> FeatureRows:
    known = ("npz", "array", "npy", "packed_bits")
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"data.features.{key} is not a setting.{did_you_mean(str(key), known)} "
                f"Settings of data.features: {', '.join(known)}."
            )
    if ("npz" in settings) == ("npy" in settings):
        raise ConfigError("data.features: either `npz` (with `array`) or `npy` expected.")
    (path,) = feature_files(settings, folder)
    if not path.is_file():
        raise DataError(f"{path}: no such file; `features` names it.")
    array, name = load_array(path, str(settings.get("array", "")), mapped="npy" in settings)
    if array.ndim != 2 or len(array) != len(table):
        raise DataError(
            f"{name}: an array of {len(table)} rows, one for each row of {table.path}, expected, found shape "
            f"{list(array.shape)}."
        )
    packed_bits = settings.get("packed_bits")
    return array_rows(array, name, None if packed_bits is None else int(packed_bits))


def array_rows(array: NDArray[Any], name: str, packed_bits: int | None) -> FeatureRows:
    """Feature rows of an array.

    Args:
        array: Numbers [M, F], or packed bits [M, ceil(F / 8)] uint8.
        name: What it is called in messages.
        packed_bits: F where it holds packed bits.

    Raises:
        DataError: An array of another shape or type.
    """
    if array.ndim != 2:
        raise DataError(f"{name}: an array of shape [rows, features] expected, found {list(array.shape)}.")
    if packed_bits is None:
        if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
            raise DataError(f"{name}: numbers expected, found {array.dtype}.")
        return FeatureRows(array if array.dtype == np.float32 else array.astype(np.float32))
    if array.dtype != np.uint8 or not 0 < packed_bits <= 8 * array.shape[1]:
        raise DataError(
            f"{name}: packed_bits {packed_bits} needs uint8 rows of at least {-(-packed_bits // 8)} "
            f"bytes, found {array.dtype} rows of {array.shape[1]}."
        )
    return FeatureRows(array, packed_bits=packed_bits)


IMPUTE_ADVICE = (
    "set `impute: mean` or `impute: zero` in `data`, or leave the column out with `exclude: [{column}]` there"
)


def check_values(
    features: FeatureRows,
    table: Table,
    rows: NDArray[np.int64],
    *,
    impute: bool,
    advice: str = IMPUTE_ADVICE,
) -> int:
    """Counts missing feature values in the given rows and refuses those that cannot be used.

    Args:
        features: Features of all rows of the table, not yet standardised.
        table: The table, for messages.
        rows: Rows of the table that are used, [N].
        impute: Whether missing values will be filled in.
        advice: What to do about a missing value, for the message; `{column}` is its column.

    Returns:
        The number of missing values.

    Raises:
        DataError: A value is infinite, or missing without imputation; row and column are named.
    """
    if features.packed_bits is not None:
        return 0
    num_missing = 0
    for start in range(0, len(rows), _FIT_ROWS):
        block = rows[start : start + _FIT_ROWS]
        values = features.raw(block)
        missing = np.isnan(values)
        num_missing += int(missing.sum())
        bad = np.argwhere(np.isinf(values) | (missing if not impute else False))
        if len(bad):
            row, column = int(block[bad[0][0]]), features.names[bad[0][1]]
            if np.isinf(values[tuple(bad[0])]):
                raise DataError(
                    f"{table.where(row, column)}: a feature is infinite; finite numbers expected."
                )
            raise DataError(
                f"{table.where(row, column)}: a feature value is missing; {advice.format(column=column)}."
            )
    return num_missing
