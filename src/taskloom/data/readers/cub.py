"""CUB-200-2011 in its native layout: 200 species, 312 attributes with certainties, boxes, the official split.

`images.txt`, `image_class_labels.txt`, `train_test_split.txt` (1 train, 0 test), `bounding_boxes.txt` (x, y,
width, height), `classes.txt`, `attributes/image_attribute_labels.txt` (image, attribute 1 to 312, present,
certainty 1 to 4, seconds) and `attributes.txt`, which the archive keeps beside the folder of the others (Wah
et al. 2011). Some lines of the attribute labels carry extra columns behind the certainty; they are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taskloom.data.face_table import BOX_COLUMNS, FILE_COLUMN, FaceTable, NamedSplit, face_table
from taskloom.data.readers.native_files import annotation_file, code_of, image_folder, lines_of
from taskloom.errors import ConfigError, DataError

NUM_ATTRIBUTES = 312
VALIDATION = 0.1
CERTAINTIES = {1: "not visible", 2: "guessing", 3: "probably", 4: "definitely"}
ARCHIVE_FOLDER = "CUB_200_2011"

_LABELS = "attributes/image_attribute_labels.txt"
_NAME = "CUB-200-2011"
_ABSENT = -1


def read_cub(root: Path, *, images: str | None = None, certainty: int = 1) -> FaceTable:
    """Reads species, attributes, boxes and the official split.

    Args:
        root: Folder of the data, or the one above it that the archive makes.
        images: Folder of the images, below `root`; `images` where None.
        certainty: An attribute that its annotator was less certain of is missing: 2 leaves out those that
            were not visible, 3 also guesses, 4 all but the definite ones.

    Returns:
        Rows with `file`, the box, `species`, `part` (the split `official`, a tenth of train drawn for
        validation), and the attributes by their names, which a multilabel task `attributes` takes together.

    Raises:
        DataError: A file is missing or says what it cannot (file and line are named).
        ConfigError: `certainty` is not 1 to 4.
    """
    if certainty not in CERTAINTIES or isinstance(certainty, bool):
        known = ", ".join(f"{code} {meaning}" for code, meaning in CERTAINTIES.items())
        raise ConfigError(f"data.certainty: the least certainty expected ({known}), found {certainty!r}.")
    if (root / ARCHIVE_FOLDER).is_dir():
        root = root / ARCHIVE_FOLDER
    paths = {name: annotation_file(root, [f"{name}.txt"], _NAME) for name in _PER_IMAGE}
    paths["classes"] = annotation_file(root, ["classes.txt"], _NAME)
    paths["attributes"] = annotation_file(
        root, ["attributes.txt", "attributes/attributes.txt", "../attributes.txt"], _NAME
    )
    paths["labels"] = annotation_file(root, [_LABELS], _NAME)
    found = {name: _by_number(paths[name], width) for name, width in _PER_IMAGE.items()}
    numbers = list(found["images"])
    for name in _PER_IMAGE:
        _check_images(paths[name], found[name], found["images"], paths["images"])
    _check_files(found["images"])
    species = [fields[0] for _, fields in _by_number(paths["classes"], 1).values()]
    attributes = _attribute_names(paths["attributes"])
    labels, note = _attribute_labels(paths["labels"], numbers, certainty)
    data: dict[str, Any] = {FILE_COLUMN: [found["images"][number][1][0] for number in numbers]}
    data |= zip(BOX_COLUMNS, _boxes(found["bounding_boxes"], numbers).T, strict=True)
    data["species"] = [
        species[code_of(place, "the class", fields[0], 1, len(species)) - 1]
        for place, fields in (found["image_class_labels"][number] for number in numbers)
    ]
    data["part"] = [
        ("test", "train")[code_of(place, "the part", fields[0], 0, 1)]
        for place, fields in (found["train_test_split"][number] for number in numbers)
    ]
    for position, name in enumerate(attributes):
        data[name] = np.ma.masked_equal(labels[:, position], _ABSENT)
    return face_table(
        data,
        path=paths["images"],
        reader="cub",
        images=image_folder(root, images, ["images"]),
        places=[found["images"][number][0] for number in numbers],
        sources=tuple(paths.values()),
        class_names={"species": tuple(species), **dict.fromkeys(attributes, ("0", "1"))},
        label_groups={"attributes": attributes},
        notes=(note,),
        named_splits={"official": NamedSplit("part", VALIDATION)},
    )


_PER_IMAGE = {"images": 1, "image_class_labels": 1, "train_test_split": 1, "bounding_boxes": 4}
"""Files with a line per image: its number, and so many fields."""

_Numbered = dict[int, tuple[str, list[str]]]


def _by_number(path: Path, width: int) -> _Numbered:
    """Place and fields by the number that a line begins with."""
    found: _Numbered = {}
    for place, line in lines_of(path):
        fields = line.split(maxsplit=width)
        if len(fields) != width + 1 or not fields[0].isdecimal():
            raise DataError(f"{place}: a number and {width} fields expected, found `{line[:80]}`.")
        number = int(fields[0])
        if number in found:
            raise DataError(f"{place}: {number} stands in an earlier line too ({found[number][0]}).")
        found[number] = (place, fields[1:])
    if not found:
        raise DataError(f"{path}: the file is empty; a line per number expected.")
    return found


def _check_images(path: Path, found: _Numbered, images: _Numbered, first: Path) -> None:
    missing = [number for number in images if number not in found]
    if missing:
        raise DataError(
            f"{path}: image {missing[0]} is missing ({len(missing)} in all), which {first} lists."
        )
    extra = [number for number in found if number not in images]
    if extra:
        raise DataError(f"{found[extra[0]][0]}: image {extra[0]} is not in {first}.")


def _check_files(images: _Numbered) -> None:
    """Refuses two numbers of one file: its boxes would pass for two birds in one picture."""
    seen: dict[str, str] = {}
    for place, (file,) in images.values():
        first = seen.setdefault(file, place)
        if first != place:
            raise DataError(f"{place}: `{file}` stands in an earlier line too ({first}); one line expected.")


def _boxes(found: _Numbered, numbers: list[int]) -> NDArray[np.float64]:
    boxes = []
    for place, fields in (found[number] for number in numbers):
        try:
            boxes.append([float(field) for field in fields])
        except ValueError as error:
            raise DataError(
                f"{place}: x, y, width and height of the box expected, found `{' '.join(fields)}`."
            ) from error
    return np.array(boxes)


def _attribute_names(path: Path) -> tuple[str, ...]:
    found = _by_number(path, 1)
    if sorted(found) != list(range(1, NUM_ATTRIBUTES + 1)):
        raise DataError(f"{path}: the attributes 1 to {NUM_ATTRIBUTES} expected, found {len(found)} lines.")
    return tuple(found[number][1][0] for number in range(1, NUM_ATTRIBUTES + 1))


def _attribute_labels(path: Path, numbers: list[int], certainty: int) -> tuple[NDArray[np.int8], str]:
    """Labels [N, 312], -1 where missing, and what to say about them."""
    table = _four_columns(path)
    image, attribute, present, certain = table.T
    order = np.argsort(numbers)
    position = np.searchsorted(np.array(numbers)[order], image)
    known = np.isin(image, numbers)
    for column, bad, expected in (
        ("image", ~known, "the number of an image in images.txt"),
        ("attribute", (attribute < 1) | (attribute > NUM_ATTRIBUTES), f"a code from 1 to {NUM_ATTRIBUTES}"),
        ("presence", ~np.isin(present, (0, 1)), "0 or 1"),
        ("certainty", ~np.isin(certain, list(CERTAINTIES)), "a code from 1 to 4"),
    ):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            value = table[row, ("image", "attribute", "presence", "certainty").index(column)]
            raise DataError(f"{_line(path, row)}: the {column} is {value}; {expected} expected.")
    cell = order[position] * NUM_ATTRIBUTES + attribute - 1
    once, first = np.unique(cell, return_index=True)
    if len(once) < len(cell):
        again = np.ones(len(cell), dtype=np.bool_)
        again[first] = False
        row = int(np.flatnonzero(again)[0])
        raise DataError(
            f"{_line(path, row)}: attribute {attribute[row]} of image {image[row]} stands in an earlier line "
            "too; one line for both expected."
        )
    labels = np.full(len(numbers) * NUM_ATTRIBUTES, _ABSENT, dtype=np.int8)
    sure = certain >= certainty
    labels[cell[sure]] = present[sure]
    share = float((labels == _ABSENT).mean())
    note = (
        f"{share:.1%} of the attributes are missing: {int((~sure).sum())} annotations are less certain than "
        f"{certainty} ({CERTAINTIES[certainty]}), {len(labels) - len(cell)} are not there."
    )
    return labels.reshape(len(numbers), NUM_ATTRIBUTES), note


def _four_columns(path: Path) -> NDArray[np.int64]:
    """Image, attribute, presence and certainty of every line, [M, 4]; further columns are left alone."""
    try:
        # With `usecols` pandas leaves alone what stands behind them, however much it is.
        table = pd.read_csv(path, sep=r"\s+", header=None, names=range(4), usecols=range(4))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a table of attribute labels ({str(error).splitlines()[0]}).") from error
    if all(pd.api.types.is_integer_dtype(kind) for kind in table.dtypes):
        return table.to_numpy(np.int64)
    raise _not_numbers(path)


def _not_numbers(path: Path) -> DataError:
    """Names the line that is not four whole numbers."""
    for place, line in lines_of(path):
        fields = line.split()[:4]
        if len(fields) < 4 or not all(field.lstrip("-").isdecimal() for field in fields):
            return DataError(
                f"{place}: image, attribute, presence and certainty expected, found `{line[:80]}`."
            )
    return DataError(f"{path}: a table of whole numbers expected.")


def _line(path: Path, row: int) -> str:
    """Place of a row of the table; counted anew, as only messages ask for it."""
    return next(place for position, (place, _) in enumerate(lines_of(path)) if position == row)
