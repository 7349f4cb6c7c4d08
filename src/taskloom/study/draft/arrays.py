"""Features that stand in a NumPy file beside the table."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.data.feature_arrays import load_array
from taskloom.data.tables import Table
from taskloom.errors import DataError

_BROKEN = (ValueError, EOFError, OSError, zipfile.BadZipFile)
"""What NumPy raises of a file, or of one array in it, that it cannot read."""


def arrays_beside(table: Table) -> list[tuple[dict[str, Any], int]]:
    """The arrays beside a table with as many rows, and how many features each holds per row."""
    return [
        choice
        for path in sorted(table.path.parent.glob("*.np[yz]"))
        for choice in _arrays_of(path, len(table))
    ]


def named_array(table: Table, wanted: str) -> tuple[dict[str, Any], int]:
    """The array that `--features` names: a file beside the table, an array in one, or both, `FILE:ARRAY`.

    Raises:
        DataError: No array, or several, of that name with a row for each of the table's.
    """
    choices = arrays_beside(table)
    found = [choice for choice in choices if wanted in _names(choice[0])]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{_names(settings)[-1]} ({width:,} per row)" for settings, width in choices) or "none"
    raise DataError(
        f"--features {wanted}: one array of {len(table):,} rows beside {table.path} expected, found "
        f"{len(found) or 'no such one'}. Arrays of as many rows: {there}."
    )


def _names(settings: Mapping[str, Any]) -> list[str]:
    """What an array may be called, the last one the whole name."""
    file = str(settings.get("npz", settings.get("npy")))
    short, array = Path(file).name, str(settings.get("array", ""))
    return [file, short] + ([array, f"{file}:{array}", f"{short}:{array}"] if array else [])


def _arrays_of(path: Path, num_rows: int) -> Iterator[tuple[dict[str, Any], int]]:
    """`data.features` for every array of a file that has as many rows as the table, and its features."""
    if path.suffix == ".npy":
        try:
            array, _ = load_array(path, "", mapped=True)
        except DataError:
            return
        if _fits(array, num_rows):
            yield {"npy": str(path)}, array.shape[1]
        return
    arrays = dict(_archive(path))
    for name, array in arrays.items():
        if _fits(array, num_rows):
            settings, width = {"npz": str(path), "array": name}, array.shape[1]
            bits = _packed_bits(name, array, arrays)
            yield (settings, width) if bits is None else ({**settings, "packed_bits": bits}, bits)


def _archive(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                yield name, archive[name]
    except _BROKEN:
        return


def _fits(array: NDArray[Any], num_rows: int) -> bool:
    plain = np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)
    return bool(array.ndim == 2 and len(array) == num_rows and plain)


def _packed_bits(name: str, array: NDArray[Any], arrays: Mapping[str, NDArray[Any]]) -> int | None:
    """How many bits a row of packed bits holds, as another array or the name says; None of other arrays."""
    if array.dtype != np.uint8:
        return None
    width = array.shape[1]
    for other, value in arrays.items():
        whole = value.ndim == 0 and np.issubdtype(value.dtype, np.integer)
        if whole and "bits" in other.lower() and 8 * (width - 1) < int(value) <= 8 * width:
            return int(value)
    return 8 * width if any(word in name.lower() for word in ("bits", "packed")) else None
