"""The sources of faces: a reader of native files gives rows, everything after is common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskloom.data.batch import DataSplits
from taskloom.data.face_crop import CROP_SETTINGS, CropSettings
from taskloom.data.face_table import FaceTable, with_known_columns
from taskloom.data.image_splits import read_standardize, split_images
from taskloom.data.image_store import ImageStore, prepare_images
from taskloom.data.image_writer import Progress
from taskloom.data.labelled_table import LabelledTable, label_table
from taskloom.data.readers.aff_wild2 import read_aff_wild2
from taskloom.data.readers.affectnet import read_affectnet
from taskloom.data.readers.celeba import read_celeba
from taskloom.data.readers.clothing_attributes import read_clothing_attributes
from taskloom.data.readers.cub import read_cub
from taskloom.data.readers.emotionet import read_emotionet
from taskloom.data.readers.mtfl import MARGIN, read_mtfl
from taskloom.data.readers.raf_db import read_raf_db
from taskloom.data.readers.utkface import read_utkface
from taskloom.data.sources import (
    SOURCES,
    TaskSettings,
    check_settings,
    checksums,
    data_folder,
    store_folder,
)
from taskloom.errors import ConfigError

FACE_SETTINGS = ("folder", "standardize", "group", "columns")
"""Settings of every source of faces, besides how faces are cut."""


@dataclass(frozen=True)
class FaceSource:
    """A `SourceLoader` over a reader of face rows.

    Args:
        read: Reads the rows of a folder; takes its settings by name.
        settings: Names of the reader's settings, besides `FACE_SETTINGS` and `CROP_SETTINGS`.
        crop: How faces are cut where the study file does not say it otherwise.
    """

    read: Callable[..., FaceTable]
    settings: tuple[str, ...]
    crop: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        settings: Mapping[str, Any],
        tasks: TaskSettings,
        split: Mapping[str, Any],
        *,
        seed: int,
        folder: Path | None,
        stores: Path,
    ) -> DataSplits:
        """Loads faces; see `SourceLoader` for the arguments and docs/data.md for the settings."""
        table, crop = self.rows(settings, folder)
        # Mistakes in the tasks are found before a long preparation.
        labelled = label_faces(table, settings, tasks, split, several=crop.choose == "all")
        own = {name: settings[name] for name in self.settings if name in settings}
        place = store_folder(stores, table.reader, table.images, {**crop.to_dict(), **own})
        store = cut_faces(table, crop, place)
        sources = {"images": store.about["content"], **checksums(table.sources, table.path.parent)}
        return split_faces(table, labelled, store, settings, seed=seed, sources=sources)

    def rows(self, settings: Mapping[str, Any], folder: Path | None) -> tuple[FaceTable, CropSettings]:
        """Reads the rows, and how their faces are to be cut.

        Raises:
            DataError: The files are not what they should be.
            ConfigError: A setting is unknown or does not fit.
        """
        check_settings("data", settings, (*FACE_SETTINGS, *CROP_SETTINGS, *self.settings))
        root = data_folder(settings, folder)
        given = {name: settings[name] for name in CROP_SETTINGS if name in settings}
        if given.get("detector_model") is not None:
            given["detector_model"] = str(root / str(given["detector_model"]))
        crop = CropSettings(**{**self.crop, **given})
        table = self.read(root, **{name: settings[name] for name in self.settings if name in settings})
        if crop.align and crop.detector != "yunet" and len(table.points) != 5:
            raise ConfigError(
                f"data.align: five points per face expected (left eye, right eye, nose, corners of the "
                f"mouth), found {len(table.points)} in {table.path}; name them with `landmarks`, or use "
                "`detector: yunet`, which finds them."
            )
        return table, crop


def cut_faces(
    table: FaceTable, crop: CropSettings, place: Path, progress: Progress | None = None
) -> ImageStore:
    """Prepares the store of a table's faces, or finds it again; see `prepare_images`."""
    points = table.landmarks() if crop.align and len(table.points) == 5 else None
    return prepare_images(table.files, table.images, place, crop, table.boxes(), points, progress)


def label_faces(
    table: FaceTable,
    settings: Mapping[str, Any],
    tasks: TaskSettings,
    split: Mapping[str, Any],
    *,
    several: bool = False,
) -> LabelledTable:
    """Labels, groups and split rule of rows of faces.

    Args:
        table: The rows.
        settings: The `data` section: `group` and `columns` of it.
        tasks, split: As a study file gives them.
        several: Whether one row may give several faces.

    Raises:
        DataError: A column, a cell, or two rows of one image.
        ConfigError: A setting that does not fit.
    """
    if table.check_faces() or several:
        split = {**split, "by": table.file_column} if split.get("by") == "rows" else split
    if table.group is not None:
        settings = {"group": table.group, **settings}
    return label_table(table, settings, with_known_columns(table, tasks), resolve_split(table, split))


def split_faces(
    table: FaceTable,
    labelled: LabelledTable,
    store: ImageStore,
    settings: Mapping[str, Any],
    *,
    seed: int,
    sources: Mapping[str, str],
) -> DataSplits:
    """Splits rows whose faces are in a store; see `split_images`."""
    return split_images(
        labelled,
        store,
        reader=table.reader,
        folder=str(table.images),
        seed=seed,
        notes=table.notes,
        sources=sources,
        standardize=read_standardize(settings),
    )


def resolve_split(table: FaceTable, split: Mapping[str, Any]) -> Mapping[str, Any]:
    """The split settings with a split that comes with the data set written as its column.

    Raises:
        ConfigError: `by` names such a split and `test` or `column` is given beside it.
    """
    named = (table.named_splits or {}).get(str(split.get("by")))
    if named is None:
        return split
    for key in ("test", "column", "folds", "stratify"):
        if key in split:
            raise ConfigError(
                f"split.{key}: does not go with `by: {split['by']}`, which names the test part."
            )
    chosen: dict[str, Any] = {"by": "column", "column": named.column, "test": "test"}
    if named.validation is not None:
        # What is drawn from train is whole groups, where rows have one.
        chosen |= {"by": table.group or "column", "validation": named.validation}
    return {**chosen, **{key: value for key, value in split.items() if key != "by"}}


load_utkface = SOURCES.register("utkface")(FaceSource(read_utkface, ("images", "coral")))
"""UTKFace: labels `age`, `gender`, `race` from the file names; `coral` names the files of the CORAL split."""

load_celeba = SOURCES.register("celeba")(FaceSource(read_celeba, ("images",)))
"""CelebA: 40 attributes, landmarks, identities as groups, `split: {by: official}`."""

load_mtfl = SOURCES.register("mtfl")(FaceSource(read_mtfl, ("images",), {"margin": MARGIN}))
"""MTFL: landmarks, gender, smile, glasses, pose; cut around the landmarks; `split: {by: official}`."""

load_cub = SOURCES.register("cub")(FaceSource(read_cub, ("images", "certainty")))
"""CUB-200-2011: `species`, 312 `attributes`, cut by the birds' boxes; `split: {by: official}`."""

load_clothing_attributes = SOURCES.register("clothing_attributes")(
    FaceSource(read_clothing_attributes, ("images", "labels", "class_names"))
)
"""Clothing Attributes: `category` and other classes, binary `attributes`."""

load_raf_db = SOURCES.register("raf_db")(FaceSource(read_raf_db, ("images",)))
"""RAF-DB: `expression`; `split: {by: official}`."""

load_affectnet = SOURCES.register("affectnet")(
    FaceSource(read_affectnet, ("images", "expressions", "landmarks"))
)
"""AffectNet: `expression`, `valence`, `arousal`, boxes, landmarks; `split: {by: official}`."""

load_emotionet = SOURCES.register("emotionet")(
    FaceSource(read_emotionet, ("table", "images", "image_column"))
)
"""EmotioNet: action units `AU1`, ..., together `action_units`."""

load_aff_wild2 = SOURCES.register("aff_wild2")(FaceSource(read_aff_wild2, ("images", "every")))
"""Aff-Wild2: frames with `expression`, `action_units`, `valence`, `arousal`; videos as groups."""
