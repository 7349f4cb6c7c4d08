"""Labels and groups of the test rows, kept once per split beside the runs.

What a run decided stands in its own folder (`decisions`); with these, every later question about classes and
subgroups is answered without data and without a network.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.batch import TaskDataset
from taskloom.tasks import Labels
from taskloom.training.checkpoints import write_atomically

FOLDER = "test_rows"
_PRESENT = "present of "
_VALUES = "values of "


@dataclass(frozen=True)
class TestRows:
    """The test part of one split.

    Args:
        labels: Labels of its N rows; labels per sample of a window are left out.
        groups: Cluster of every row, [N].
    """

    __test__ = False  # not a test, whatever pytest makes of its name

    labels: Labels
    groups: NDArray[np.int64]


def save_test_rows(out: Path, test: TaskDataset) -> str:
    """Keeps labels and groups of a test part; returns the key under which they are found.

    Args:
        out: The study's folder.
        test: The test part.
    """
    labels = test.labels
    arrays = {"groups": np.asarray(test.groups, dtype=np.int64)}
    for name, task in test.tasks.items():
        if name not in labels.values or labels.values[name].ndim != 1 + len(task.value_shape):
            continue
        arrays[_VALUES + name] = labels.values[name].numpy()
        arrays[_PRESENT + name] = labels.present[name].numpy()
    content = hashlib.sha256()
    for key, array in arrays.items():
        content.update(f"{key} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    digest = content.hexdigest()[:16]
    path = out / FOLDER / f"{digest}.npz"
    if not path.is_file():
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(path, buffer.getbuffer())
    return digest


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
        return TestRows(Labels(values, present), file["groups"])
