"""Clothing Attributes in its native layout: a MATLAB vector per attribute, NaN where not annotated.

`images/000001.jpg` and on, `labels/<attribute>_GT.mat` with one entry per image in the order of the images
(Chen, Gallagher and Girod 2012). Codes begin at 1. A vector with two codes is binary, its higher code meaning
yes; one with more is multiclass (`category`, `neckline`, `sleevelength`). NaN means that the annotators did
not agree or could not tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from taskloom.data.face_table import FILE_COLUMN, FaceTable, face_table
from taskloom.data.readers.deap import BROKEN_MAT
from taskloom.data.readers.native_files import image_folder
from taskloom.errors import ConfigError, DataError, did_you_mean

LABELS_FOLDER = "labels"
ENDING = "_GT.mat"
VARIABLE = "GT"


def read_clothing_attributes(
    root: Path,
    *,
    images: str | None = None,
    labels: str = LABELS_FOLDER,
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> FaceTable:
    """Reads every attribute of every image.

    Args:
        root: Folder of the data.
        images: Folder of the images, below `root`; `images` where None.
        labels: Folder of the vectors, below `root`.
        class_names: Per multiclass attribute, what its codes 1, 2, ... mean; the codes themselves where it is
            not given.

    Returns:
        Rows with `file` and the attributes by the names of their files: binary ones as 0 and 1 (together as a
        multilabel task `attributes`), multiclass ones by class.

    Raises:
        DataError: No vector, a file that is not MATLAB's, vectors of different lengths, or a code that cannot
            be (the file and the image are named).
        ConfigError: `class_names` of an attribute that has none, or too few.
    """
    folder = root / labels
    paths = {path.name.removesuffix(ENDING): path for path in sorted(folder.glob(f"*{ENDING}"))}
    if not paths:
        raise DataError(
            f"{folder}: files such as category{ENDING} expected, found none. Give the folder of the data "
            "with --data or `data.folder`."
        )
    vectors = {name: _vector(path) for name, path in paths.items()}
    first = next(iter(vectors))
    for name, codes in vectors.items():
        if len(codes) != len(vectors[first]):
            raise DataError(
                f"{paths[name]}: {len(vectors[first])} images as in {paths[first].name} expected, found "
                f"{len(codes)}."
            )
    files = [f"{number + 1:06d}.jpg" for number in range(len(vectors[first]))]
    for name, codes in vectors.items():
        _check_codes(paths[name], codes, files)
    given = {name: tuple(str(one) for one in names) for name, names in (class_names or {}).items()}
    columns, classes = _columns(vectors, given)
    binary = tuple(name for name in columns if classes[name] == ("0", "1"))
    return face_table(
        {FILE_COLUMN: files, **columns},
        path=folder,
        reader="clothing_attributes",
        images=image_folder(root, images, ["images"]),
        places=[f"{folder}: image {name}" for name in files],
        sources=tuple(paths.values()),
        class_names=classes,
        label_groups={"attributes": binary},
    )


def _vector(path: Path) -> NDArray[np.float64]:
    """The codes in a file, [N]: its variable GT, or its only one."""
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty, a MATLAB vector expected.")
    try:
        content = scipy.io.loadmat(path)
    except BROKEN_MAT as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path}: not readable as a MATLAB file of version 4 to 7.2 ({what}); the file seems cut off or "
            "is something else."
        ) from error
    arrays = {name: value for name, value in content.items() if not name.startswith("__")}
    found = arrays.get(VARIABLE, next(iter(arrays.values())) if len(arrays) == 1 else None)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf" or found.size != max(found.shape):
        raise DataError(
            f"{path}: a vector of numbers called {VARIABLE} expected, found {', '.join(arrays) or 'nothing'}."
        )
    return np.asarray(found, dtype=np.float64).ravel()


def _check_codes(path: Path, codes: NDArray[np.float64], files: Sequence[str]) -> None:
    strange = np.flatnonzero(~np.isnan(codes) & ((codes < 0) | (codes != np.floor(codes)) | np.isinf(codes)))
    if len(strange):
        row = int(strange[0])
        raise DataError(
            f"{path}: image {files[row]}: the code is {codes[row]:g}; a whole number from 0 or NaN (not "
            "annotated) expected."
        )


def _columns(
    vectors: Mapping[str, NDArray[np.float64]], given: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """The columns of the rows, and the classes of each."""
    # A vector of ones only says nothing about where codes begin: the whole set does.
    base = min(float(np.nanmin(codes)) for codes in vectors.values() if not np.isnan(codes).all())
    columns: dict[str, Any] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for name, codes in vectors.items():
        there = ~np.isnan(codes)
        highest = int(codes[there].max() - base) if there.any() else 1
        if highest <= 1:
            columns[name], classes[name] = codes - base, ("0", "1")
            continue
        known = tuple(str(int(base) + code) for code in range(highest + 1))
        classes[name] = given.get(name, known)
        if len(classes[name]) != len(known):
            raise ConfigError(
                f"data.class_names.{name}: {len(known)} names for the codes {known[0]} to {known[-1]} "
                f"expected, found {len(classes[name])}."
            )
        positions = np.where(there, codes - base, 0).astype(int)
        columns[name] = [
            classes[name][position] if is_there else None
            for position, is_there in zip(positions.tolist(), there.tolist(), strict=True)
        ]
    for name in given:
        multiclass = [known for known in classes if classes[known] != ("0", "1")]
        if name not in multiclass:
            raise ConfigError(
                f"data.class_names: `{name}` is not a multiclass attribute.{did_you_mean(name, multiclass)} "
                f"They are: {', '.join(multiclass) or 'none'}."
            )
    return columns, classes
