"""RAF-DB in its native layout: seven expressions, the official train and test files.

`list_patition_label.txt` (its own spelling), a line per image: `train_00001.jpg 5` (Li, Deng and Du
2017). The aligned images of the archive are called `train_00001_aligned.jpg`.
"""

from __future__ import annotations

from pathlib import Path

from taskloom.data.face_table import FILE_COLUMN, FaceTable, NamedSplit, face_table
from taskloom.data.readers.native_files import annotation_file, code_of, image_folder, lines_of
from taskloom.errors import DataError

EXPRESSIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""Codes 1 to 7, under the names that the shipped relatedness has."""
LIST_FILE = "list_patition_label.txt"
ALIGNED = "_aligned"
PARTS = ("train", "test")
VALIDATION = 0.1


def read_raf_db(root: Path, *, images: str | None = None) -> FaceTable:
    """Reads the expression of every image.

    Args:
        root: Folder of the data.
        images: Folder of the images, below `root`; `Image/aligned`, `aligned` or `Image/original` where None.

    Returns:
        Rows with `file`, `expression` and `part`, which the split `official` takes; a tenth of train is drawn
        for validation.

    Raises:
        DataError: The list is missing, or a line is not what it should be (file and line are named).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "aligned").mkdir()
        >>> (folder / "aligned" / "train_00001_aligned.jpg").touch()
        >>> _ = (folder / LIST_FILE).write_text("train_00001.jpg 5\\ntest_0001.jpg 1\\n")
        >>> rows = read_raf_db(folder)
        >>> rows.files, rows.text("expression").tolist(), rows.text("part").tolist()
        (['train_00001_aligned.jpg', 'test_0001.jpg'], ['sadness', 'surprise'], ['train', 'test'])
    """
    path = annotation_file(
        root, [LIST_FILE, f"EmoLabel/{LIST_FILE}", f"basic/EmoLabel/{LIST_FILE}"], "RAF-DB"
    )
    folders = [
        name for start in ("", "basic/") for name in (f"{start}Image/aligned", f"{start}Image/original")
    ]
    folder = image_folder(root, images, [*folders[:1], "aligned", *folders[1:], "original", ""])
    there = {file.name for file in folder.iterdir()}
    files, expressions, parts, places = [], [], [], []
    for place, line in lines_of(path):
        fields = line.split()
        if len(fields) != 2:
            raise DataError(f"{place}: an image and its expression expected, found `{line[:80]}`.")
        name, part = fields[0], fields[0].split("_", 1)[0]
        if part not in PARTS:
            raise DataError(f"{place}: an image called train_... or test_... expected, found `{name}`.")
        aligned = f"{Path(name).stem}{ALIGNED}{Path(name).suffix}"
        files.append(aligned if aligned in there else name)
        expressions.append(EXPRESSIONS[code_of(place, "the expression", fields[1], 1, len(EXPRESSIONS)) - 1])
        parts.append(part)
        places.append(place)
    return face_table(
        {FILE_COLUMN: files, "expression": expressions, "part": parts},
        path=path,
        reader="raf_db",
        images=folder,
        places=places,
        sources=(path,),
        class_names={"expression": EXPRESSIONS},
        named_splits={"official": NamedSplit("part", VALIDATION)},
    )
