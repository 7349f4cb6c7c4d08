"""Images that a table names: where they are, how large they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from taskloom.data.face_source import FaceSource, label_faces
from taskloom.data.face_table import BOX_COLUMNS
from taskloom.data.image_decode import decode, read_file
from taskloom.data.image_source import read_image_table
from taskloom.data.sources import find_source as find_reader
from taskloom.data.tables import Table
from taskloom.errors import DataError
from taskloom.study.config import Study
from taskloom.study.draft.networks import for_images
from taskloom.study.draft.sources import Source

_LOOKED_AT = 12


def image_source(
    table: Table, folder: Path, images: Path | None, column: str | None = None, *, required: bool
) -> Source | None:
    """The source of a table of images; None where no image is there and none is required.

    Args:
        table: The table.
        folder: Where it is.
        images: Folder of the images; the table's, or one below it, where None.
        column: The column that names them, where it is not `file_name` or `file`.
        required: Whether it is an error that no image is there.

    Raises:
        DataError: No column names files, or no image is where it is looked for.
    """
    found = read_image_table(Path(), table=str(table.path), images=str(images or folder), file=column)
    names = found.files
    sample = [names[row] for row in np.unique(np.linspace(0, len(names) - 1, _LOOKED_AT).astype(int))]
    places = [images] if images is not None else [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]
    place = next((path for path in places if any((path / name).is_file() for name in sample)), None)
    if place is None:
        if not required:
            return None
        where = f"{places[0]}" if images is not None else f"{folder} and the folders in it"
        raise DataError(
            f"{table.path}: no image that it names is in {where}, for example {sample[0]}; name their folder "
            "with --images DIR."
        )
    height, width = _usual_size([place / name for name in sample])
    short = min(height, width)
    side = 32 if short < 48 else 64 if short < 128 else 96
    boxes = dict.fromkeys(BOX_COLUMNS, "the box around the face") if found.box_columns else {}
    return Source(
        "images",
        found,
        {"table": str(table.path), "images": str(place), "size": side} | ({"file": column} if column else {}),
        {"size": f"pixels; the images have about {width} x {height}"},
        {found.file_column: "names the images", **boxes},
        for_images(side),
        len(table),
    )


def _usual_size(paths: list[Path]) -> tuple[int, int]:
    """Median height and width of the images that can be read, in pixels."""
    sizes = []
    for path in paths:
        try:
            sizes.append(decode(read_file(path)).shape[:2])
        except DataError:  # the study leaves such an image out, and says so
            continue
    if not sizes:
        raise DataError(f"{paths[0]}: an image expected; none of {len(paths)} that were tried can be read.")
    height, width = np.median(np.array(sizes), axis=0)
    return int(height), int(width)


def check_rows(study: Study) -> list[str]:
    """Labels and split of a study of images, whose pictures are not read: warnings about them.

    Raises:
        DataError: What the study would refuse, as far as its table decides it.
    """
    source = find_reader(study.reader)
    assert isinstance(source, FaceSource)
    split, seed = study.split_of(0)
    table, crop = source.rows(study.data_settings, None)
    labelled = label_faces(
        table, study.data_settings, study.config.tasks, split, several=crop.choose == "all"
    )
    _, _, warnings = labelled.split(np.arange(len(table)), labelled.labels, seed=seed)
    return warnings
