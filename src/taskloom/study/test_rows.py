"""Labels and groups of the test rows, kept once per split beside the runs.

What a run decided stands in its own folder (`decisions`); with these, every later question about classes and
subgroups is answered without data and without a network.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.batch import TaskDataset
from taskloom.tasks import Labels
from taskloom.training.checkpoints import write_atomically

FOLDER = "test_rows"
_PRESENT = "present of "
_VALUES = "values of "
_COLUMNS = ".columns.npz"


@dataclass(frozen=True)
class TestRows:
    """The test part of one split.

    Args:
        labels: Labels of its N rows; labels per sample of a window are left out.
        groups: Cluster of every row, [N].
        columns: Columns that are no task, by name, as text, [N] each, "" where missing.
    """

    __test__ = False  # not a test, whatever pytest makes of its name

    labels: Labels
    groups: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)


def save_test_rows(out: Path, test: TaskDataset) -> str:
    """Keeps labels and groups of a test part; returns the key under which they are found.

    Args:
        out: The study's folder.
        test: The test part.
    """
    arrays = _arrays(test)
    digest = _key(arrays)
    _write(out / FOLDER / f"{digest}.npz", arrays)
    return digest


def save_columns(out: Path, key: str, columns: Mapping[str, NDArray[np.str_]]) -> None:
    """Keeps columns of the data beside a test part's rows; none removes what was kept.

    Args:
        out: The study's folder.
        key: See `test_rows_key`.
        columns: By name, [N] each.
    """
    path = out / FOLDER / f"{key}{_COLUMNS}"
    path.unlink(missing_ok=True)
    if columns:
        _write(path, columns)


def test_rows_key(test: TaskDataset) -> str:
    """The key under which `save_test_rows` keeps a test part."""
    return _key(_arrays(test))


test_rows_key.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever pytest makes of its name


def _arrays(test: TaskDataset) -> dict[str, NDArray[Any]]:
    labels = test.labels
    arrays: dict[str, NDArray[Any]] = {"groups": np.asarray(test.groups, dtype=np.int64)}
    for name, task in test.tasks.items():
        if name not in labels.values or labels.values[name].ndim != 1 + len(task.value_shape):
            continue
        arrays[_VALUES + name] = labels.values[name].numpy()
        arrays[_PRESENT + name] = labels.present[name].numpy()
    return arrays


def _key(arrays: Mapping[str, NDArray[Any]]) -> str:
    content = hashlib.sha256()
    for key, array in arrays.items():
        content.update(f"{key} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()[:16]


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    if not path.is_file():
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(path, buffer.getbuffer())


def load_test_rows(out: Path, key: str) -> TestRows | None:
    """Reads what `save_test_rows` kept; None where it is not there.

    Args:
        out: The study's folder.
        key: As `save_test_rows` returned it.
    """
    path = out / FOLDER / f"{key}.npz"
    if not path.is_file():
        return None
    with np.load(path) as file:
        values = {
            name.removeprefix(_VALUES): torch.from_numpy(file[name])
            for name in file.files
            if name.startswith(_VALUES)
        }
        present = {name: torch.from_numpy(file[_PRESENT + name]) for name in values}
        groups = file["groups"]
    beside = out / FOLDER / f"{key}{_COLUMNS}"
    columns: dict[str, NDArray[np.str_]] = {}
    if beside.is_file():
        with np.load(beside) as file:
            columns = {name: file[name] for name in file.files}
    return TestRows(Labels(values, present), groups, columns)
