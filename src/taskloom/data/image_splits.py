"""From a table of images and a store of their pixels to three datasets: labels, split, standardisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.batch import DataSplits
from taskloom.data.equal_images import equal_images, equal_images_found
from taskloom.data.image_store import ImageDataset, ImageStandardization, ImageStore
from taskloom.data.labelled_table import LabelledTable
from taskloom.data.tables import Table
from taskloom.errors import ConfigError
from taskloom.tasks import Labels, Landmarks, TaskSet
from taskloom.wording import counted

_MOST_LISTED = 20
_MOST_NAMED = 3


def split_images(
    labelled: LabelledTable,
    store: ImageStore,
    *,
    reader: str,
    folder: str,
    seed: int,
    notes: Sequence[str] = (),
    sources: Mapping[str, str] | None = None,
    standardize: bool = True,
) -> DataSplits:
    """Splits the images of a store and fits standardisation and tasks on those of train.

    Args:
        labelled: The table, with labels and the rule of the split.
        store: The images of its rows.
        reader: Name of the reader, for `about` and `preprocessing`.
        folder: Folder of the source images, for `about`.
        seed: Decides a drawn split.
        notes: What the reader has to say.
        sources: Checksums of the sources, where the table is not a file.
        standardize: Whether pixels are standardised per channel on train; otherwise they are 0..1, for
            encoders that prepare images themselves.

    Raises:
        DataError: The split is not what it should be.
    """
    table = labelled.table
    labels, moved = moved_landmarks(labelled.labels[torch.from_numpy(store.rows)], labelled.tasks, store)
    equal = equal_images(store.images)
    parts, found, warnings = labelled.split(store.rows, labels, seed=seed, equal=equal)
    equal_notes, leaks = equal_images_found(equal, parts, drawn=labelled.rule.column is None)
    notes, warnings = [*notes, *moved, *found, *equal_notes], [*warnings, *leaks]
    if store.unreadable:
        notes.append(_left_out(store.unreadable, len(table)))
    about = labelled.about(reader, labels, parts, notes, warnings, sources=sources)
    about["images"] = {
        "folder": folder,
        "size": store.size,
        "made_of": store.about["made_of"],
        "unreadable": len(store.unreadable),
        "unreadable_examples": [_with_place(table, entry) for entry in store.unreadable[:_MOST_LISTED]],
    }
    standardization = ImageStandardization((0.0,) * 3, (1.0,) * 3)
    if standardize:
        standardization = ImageStandardization.fit(store.images, parts.train)
    task_set = labelled.tasks.fit(labels[torch.from_numpy(parts.train)])
    groups = None if labelled.groups is None else labelled.groups[store.rows]
    datasets = {
        name: ImageDataset(store, positions, task_set, labels, standardization, groups)
        for name, positions in parts.items()
    }
    for dataset in datasets.values():
        dataset.table, dataset.table_rows = table, store.rows
    preprocessing = {"reader": "images", "size": store.size, "standardization": standardization.to_dict()}
    if len(store.about["crop"]) > 1:  # more than a size: a user of the network has to cut faces alike
        preprocessing["crop"] = dict(store.about["crop"])
    return DataSplits(**datasets, about=about, preprocessing=preprocessing)


def read_standardize(settings: Mapping[str, Any]) -> bool:
    """The setting `standardize`, true where it is not given.

    Raises:
        ConfigError: It is neither true nor false.
    """
    given = settings.get("standardize", True)
    if not isinstance(given, bool):
        raise ConfigError(f"data.standardize: true or false expected, found {given!r}.")
    return given


def moved_landmarks(labels: Labels, tasks: TaskSet, store: ImageStore) -> tuple[Labels, list[str]]:
    """Moves landmarks from the source images into the stored ones.

    Args:
        labels: Labels of the store's images.
        tasks: Their tasks.
        store: The images.

    Returns:
        The labels, in which points outside their picture are missing, and notes on how many were.
    """
    values, presence = dict(labels.values), dict(labels.present)
    notes = []
    positions: NDArray[np.int64] = np.arange(len(labels), dtype=np.int64)
    for name, task in tasks.items():
        if not isinstance(task, Landmarks):
            continue
        points, present = values[name].numpy().astype(np.float64), presence[name].numpy()
        outside = present & ~store.inside_picture(points, positions)
        if outside.any():
            points_outside = counted(int(outside.sum()), "point lies", "points lie")
            notes.append(f"{points_outside} outside their picture in task {name}, missing therefore.")
        present = present & ~outside
        moved = store.to_pixels(points, positions)
        moved[~present] = 0.0
        values[name] = torch.from_numpy(moved).to(task.value_dtype)
        presence[name] = torch.from_numpy(present)
    return Labels(values, presence), notes


def _left_out(unreadable: Sequence[Mapping[str, Any]], num_rows: int) -> str:
    """How many images were left out, and which were the first of them, with what was wrong."""
    named = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in unreadable[:_MOST_NAMED])
    more = f"; and {len(unreadable) - _MOST_NAMED} more" if len(unreadable) > _MOST_NAMED else ""
    return f"{len(unreadable)} of {num_rows} images could not be read and were left out ({named}{more})."


def _with_place(table: Table, entry: Mapping[str, Any]) -> dict[str, Any]:
    place = {} if table.separator is None else {"line": table.line(entry["row"])}
    return {**entry, **place}
