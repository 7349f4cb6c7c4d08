"""UTKFace in its native layout: labels stand in the file names.

`{age}_{gender}_{race}_{date}.jpg` (or `.jpg.chip.jpg` for the aligned crops), gender 0 male and 1 female,
race 0 White, 1 Black, 2 Asian, 3 Indian, 4 Others (Zhang, Song and Qi 2017). A few names lack a field: the
image is kept and what cannot be told is missing. Of three fields the first is the age and the last the date,
but whether the one between them is gender or race cannot be told, so both are missing.

The CORAL split (Cao, Mirjalili and Raschka 2020) names 13,147 images to train and 3,287 to test on, ages 21
to 60, in two CSV files whose `age` is the age less 21.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.data.face_table import FILE_COLUMN, FaceTable, NamedSplit, face_table
from taskloom.data.missing_folder import no_folder_of_images
from taskloom.data.tables import Table, read_table
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.wording import counted

GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Others")
CORAL_FIRST_AGE = 21
"""What the CORAL files take off every age."""
CORAL_VALIDATION = 0.2
"""Share of the CORAL training rows that thesis 001 holds out for validation."""

ARCHIVE_FOLDER = "UTKFace"
"""The folder of the images in the archive, which is taken where `images` names none."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MOST_AGE = 116
"""The oldest person of UTKFace, as its authors describe it: a number above it is no age."""
_FIELDS = 4


def read_utkface(root: Path, *, images: str = "", coral: Mapping[str, Any] | None = None) -> FaceTable:
    """Reads the labels of every image of a folder from its name.

    Args:
        root: Folder of the data.
        images: Folder of the images, below `root`; where it is "", `UTKFace` if there is one, else `root`.
        coral: `{train: file, test: file}`, relative to `root`: only the images that these CSV files name are
            read, with the columns `coral` (train or test) and `coral_age` (age - 21).

    Returns:
        Rows with `file`, `age` in years, `gender`, `race` (also as `ethnicity`).

    Raises:
        DataError: No such folder, no image in it, or a CSV file that names an image which is not there or has
            another age than its name.
        ConfigError: `coral` is not two files.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("31_1_3_2017.jpg", "39_1_2017.jpg.chip.jpg"):
        ...     (folder / name).touch()
        >>> rows = read_utkface(folder)
        >>> rows.text("gender").tolist(), rows.text("race").tolist(), rows.numbers("age").tolist()
        (['female', ''], ['Indian', ''], [31.0, 39.0])
        >>> rows.notes
        ('1 of 2 file names lacks fields: 0 ages, 1 gender, 1 race missing (39_1_2017.jpg.chip.jpg).',)
    """
    folder = root / images
    if not images and (root / ARCHIVE_FOLDER).is_dir():
        folder = root / ARCHIVE_FOLDER
    files = image_files(folder)
    table = _from_names(folder, files)
    return table if coral is None else _with_coral(table, root, coral)


def image_files(folder: Path) -> list[str]:
    """Names of the images of a folder, sorted.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise no_folder_of_images(folder)
    found = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not found:
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir())[:5]
        below = f" Its folders: {', '.join(inside)}; name one with `data.images`." if inside else ""
        raise DataError(f"{folder}: no image ({', '.join(IMAGE_SUFFIXES)}) there.{below}")
    return found


def labels_of_name(name: str) -> tuple[int | None, int | None, int | None]:
    """Age, gender code and race code of a file name; None where a field is missing or out of range.

    Example:
        >>> labels_of_name("26_1_0_20170116171048641.jpg.chip.jpg"), labels_of_name("61_1_20170109.jpg")
        ((26, 1, 0), (61, None, None))
    """
    fields = name.split(".", 1)[0].split("_")
    age = int(fields[0]) if fields[0].isdecimal() and int(fields[0]) <= MOST_AGE else None
    if len(fields) != _FIELDS:
        return age if len(fields) == 3 else None, None, None
    gender, race = (
        _code(text, len(names)) for text, names in zip(fields[1:3], (GENDERS, RACES), strict=True)
    )
    return age, gender, race


def _code(text: str, num_classes: int) -> int | None:
    return int(text) if text.isdecimal() and int(text) < num_classes else None


def _from_names(folder: Path, files: list[str]) -> FaceTable:
    labels = [labels_of_name(name) for name in files]
    races = [None if race is None else RACES[race] for _, _, race in labels]
    columns: dict[str, Any] = {
        FILE_COLUMN: files,
        "age": [age for age, _, _ in labels],
        "gender": [None if gender is None else GENDERS[gender] for _, gender, _ in labels],
        "race": races,
        "ethnicity": races,
    }
    return face_table(
        columns,
        path=folder,
        reader="utkface",
        images=folder,
        places=[str(folder / name) for name in files],
        class_names={"gender": GENDERS, "race": RACES, "ethnicity": RACES},
        notes=tuple(_notes(files, labels)),
    )


def _notes(files: list[str], labels: Sequence[tuple[int | None, ...]]) -> Iterator[str]:
    """Which names lack labels, and which hold one that cannot be."""
    holes = [(name, found) for name, found in zip(files, labels, strict=True) if None in found]
    has_all = [len(name.split(".", 1)[0].split("_")) == _FIELDS for name, _ in holes]
    whole = [entry for entry, has in zip(holes, has_all, strict=True) if has]
    lacking = [entry for entry, has in zip(holes, has_all, strict=True) if not has]
    if lacking:
        verb = "lacks" if len(lacking) == 1 else "lack"
        yield f"{len(lacking)} of {counted(len(files), 'file name')} {verb} fields: {_missing(lacking)}."
    if whole:
        verb = "holds" if len(whole) == 1 else "hold"
        yield (
            f"{len(whole)} of {counted(len(files), 'file name')} {verb} a label out of range (ages 0 to "
            f"{MOST_AGE}, genders 0 and 1, races 0 to {len(RACES) - 1}): {_missing(whole)}."
        )


def _missing(entries: Sequence[tuple[str, tuple[int | None, ...]]]) -> str:
    numbers = (sum(found[field] is None for _, found in entries) for field in range(3))
    counts = (counted(number, what) for number, what in zip(numbers, ("age", "gender", "race"), strict=True))
    names = ", ".join(name for name, _ in entries[:5]) + (", ..." if len(entries) > 5 else "")
    return f"{', '.join(counts)} missing ({names})"


def _with_coral(table: FaceTable, root: Path, coral: Mapping[str, Any]) -> FaceTable:
    """Only the rows that the CORAL files name, in the order of the folder, with their part."""
    if not isinstance(coral, Mapping) or sorted(coral) != ["test", "train"]:
        raise ConfigError(f"data.coral: {{train: CSV file, test: CSV file}} expected, found {coral!r}.")
    row_of = {name: row for row, name in enumerate(table.files)}
    ages = table.numbers("age")
    part_of: dict[int, str] = {}
    paths = {part: root / str(coral[part]) for part in ("train", "test")}
    for part, path in paths.items():
        listed = _read_coral(path)
        names, listed_ages = listed.text("file"), listed.numbers("age")
        for position, (name, age) in enumerate(zip(names, listed_ages, strict=True)):
            row = row_of.get(str(name))
            if row is None:
                raise DataError(
                    f"{listed.where(position, 'file')}: `{name}` is not an image of {table.path}."
                    f"{did_you_mean(str(name), row_of) if len(row_of) < 1000 else ''}"
                )
            if ages[row] != age + CORAL_FIRST_AGE:
                raise DataError(
                    f"{listed.where(position, 'age')}: {ages[row] - CORAL_FIRST_AGE:g} expected (the age in "
                    f"the name of {name}, less {CORAL_FIRST_AGE}), found {age:g}."
                )
            if row in part_of:
                raise DataError(f"{listed.where(position, 'file')}: `{name}` is listed twice.")
            part_of[row] = part
    rows = np.array(sorted(part_of), dtype=np.int64)
    parts = Counter(part_of.values())
    data = table.taken(rows)
    note = (
        f"CORAL split: {parts['train']} images to train and {parts['test']} to test on, of {len(table)} in "
        "the folder."
    )
    return replace(
        data.with_columns(
            {
                "coral": [part_of[int(row)] for row in rows],
                "coral_age": (ages[rows] - CORAL_FIRST_AGE).astype(np.int64),
            }
        ),
        sources=tuple(paths.values()),
        named_splits={"coral": NamedSplit("coral", CORAL_VALIDATION)},
        notes=(*table.notes, note),
    )


def _read_coral(path: Path) -> Table:
    """A CORAL file; its first column, an index without a name, is left out."""
    table = read_table(path)
    for name in ("file", "age"):
        table.column_name(name, "data.coral")
    return table
