"""Aff-Wild2 in its native layout: expressions, action units, valence and arousal of every frame of videos.

A text file per video in folders of parts (`Train_Set`, `Validation_Set`) below one folder per kind of
annotation; its header says which kind: the names of the expressions, `AU1,AU2,...`, or `valence,arousal`. The
n-th line after it is frame n, whose picture is `cropped_aligned/<video>/<n as 00001>.jpg`. Expression and
action units -1 and valence and arousal -5 are not annotated (Kollias 2022).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.data.face_table import FILE_COLUMN, FaceTable, NamedSplit, face_table
from taskloom.data.readers.native_files import image_folder
from taskloom.errors import ConfigError, DataError
from taskloom.wording import counted

IMAGES_FOLDER = "cropped_aligned"
VALUES = ("valence", "arousal")
NO_CODE, NO_VALUE = -1.0, -5.0
VALIDATION = 0.1

_UNIT = re.compile(r"au\s*0*(\d+)")
_PART = re.compile(r"(train|validation|test)", re.IGNORECASE)


def read_aff_wild2(root: Path, *, images: str | None = None, every: int = 1) -> FaceTable:
    """Reads the annotations of every video, and puts those of one frame into one row.

    Args:
        root: Folder of the data.
        images: Folder of the frames, below `root`; `cropped_aligned` where None.
        every: Takes the frames 1, 1 + every, ... of a video: neighbouring frames look alike.

    Returns:
        Rows with `file`, `video` (the group), `frame`, and, where they are annotated anywhere, `expression`,
        the action units `AU1`, ... (together as a multilabel task `action_units`), `valence` and `arousal`;
        `part`, which the split `official` takes. Where no test set has labels, the validation set is what is
        tested on, and a tenth of the videos of train is drawn for validation.

    Raises:
        DataError: No annotation, a header of no known kind, two lists of expressions, or a line that is not
            what it should be (file and line are named).
        ConfigError: `every` is below 1.
    """
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ConfigError(f"data.every: a whole number of frames from 1 expected, found {every!r}.")
    folder = image_folder(root, images, [IMAGES_FOLDER])
    paths = _annotation_files(root, folder)
    videos: dict[str, _Video] = {}
    expressions: tuple[str, ...] = ()
    for path, part in paths.items():
        header, values = _read(path)
        names = _labels_of_header(path, header)
        if names == ("expression",):
            if expressions and expressions != header:
                raise DataError(
                    f"{path}:1: the expressions {', '.join(expressions)} expected as in other files, found "
                    f"{', '.join(header)}."
                )
            expressions = header
        _check(path, names, values, len(header))
        videos.setdefault(path.stem, _Video()).add(part, names, values)
    return _table(root, folder, paths, videos, expressions, every)


@dataclass
class _Video:
    """What is known of one video: per label its values, and the parts of its files."""

    parts: set[str] = field(default_factory=set)
    labels: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, part: str, names: tuple[str, ...], values: NDArray[np.float64]) -> None:
        self.parts.add(part)
        self.labels |= zip(names, values.T, strict=True)

    @property
    def num_frames(self) -> int:
        return max(len(values) for values in self.labels.values())

    def part(self) -> str:
        """The part of all its frames: a video that is tested on anywhere is trained on nowhere."""
        return next(part for part in ("test", "validation", "train") if part in self.parts)

    def column(self, name: str, frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """Values of some frames, NaN where there is none."""
        values = self.labels.get(name, np.empty(0))
        found = np.full(len(frames), np.nan)
        inside = frames < len(values)
        found[inside] = values[frames[inside]]
        return found


def _annotation_files(root: Path, images: Path) -> dict[Path, str]:
    """Annotation files and their parts; the folder of the frames is not searched."""
    found: dict[Path, str] = {}
    for place, folders, files in os.walk(root):
        here = Path(place)
        folders[:] = sorted(name for name in folders if here / name != images)
        part = _PART.match(here.name)
        if part is not None:
            found |= {here / name: part.group(1).lower() for name in sorted(files) if name.endswith(".txt")}
    if not found:
        raise DataError(
            f"{root}: a text file per video in folders called Train_Set and Validation_Set expected, found "
            "none. Give the folder of the data with --data or `data.folder`."
        )
    seen: dict[tuple[str, tuple[str, ...]], Path] = {}
    for path in found:
        kind = _labels_of_header(path, _header(path))
        first = seen.setdefault((path.stem, kind), path)
        if first != path:
            raise DataError(f"{path}: the same frames are annotated in {first} too; keep one of them.")
    return found


def _header(path: Path) -> tuple[str, ...]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return tuple(name.strip().lower() for name in file.readline().split(","))


def _labels_of_header(path: Path, header: tuple[str, ...]) -> tuple[str, ...]:
    """The labels whose values the columns of a file hold."""
    if header == VALUES:
        return VALUES
    if "neutral" in header:
        return ("expression",)
    units = [_UNIT.fullmatch(name) for name in header]
    if all(units):
        return tuple(f"AU{int(unit.group(1))}" for unit in units if unit is not None)
    raise DataError(
        f"{path}:1: a header of expressions (Neutral, ...), of action units (AU1, ...) or valence,arousal "
        f"expected, found `{','.join(header)[:80]}`."
    )


def _read(path: Path) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Header and values, [frames, columns]."""
    header = _header(path)
    width = len(_labels_of_header(path, header))
    lines = path.read_text(encoding="utf-8-sig", errors="replace").rstrip().splitlines()[1:]
    rows = [line.split(",") for line in lines]
    values = np.empty((len(rows), width))
    for number, row in enumerate(rows):
        try:
            numbers = [float(cell) for cell in row]
        except ValueError:
            numbers = []
        if len(numbers) != width:
            raise DataError(f"{path}:{number + 2}: {width} numbers expected, found `{lines[number][:80]}`.")
        values[number] = numbers
    return header, values


def _check(path: Path, names: tuple[str, ...], values: NDArray[np.float64], num_expressions: int) -> None:
    """Refuses values that cannot be, and makes those that say "not annotated" NaN."""
    missing = NO_VALUE if names == VALUES else NO_CODE
    values[values == missing] = np.nan
    if names == VALUES:
        strange, expected = ~(np.abs(values) <= 1), "a number from -1 to 1, or -5 (not annotated),"
    else:
        last = num_expressions - 1 if names == ("expression",) else 1
        strange = ~np.isin(values, range(last + 1))
        expected = f"a code from 0 to {last}, or -1 (not annotated),"
    strange &= ~np.isnan(values)
    if strange.any():
        row, column = (int(value) for value in np.argwhere(strange)[0])
        raise DataError(f"{path}:{row + 2}: {names[column]} is {values[row, column]:g}; {expected} expected.")


def _table(
    root: Path,
    folder: Path,
    paths: Mapping[Path, str],
    videos: Mapping[str, _Video],
    expressions: tuple[str, ...],
    every: int,
) -> FaceTable:
    videos = dict(sorted(videos.items()))
    known = dict.fromkeys(name for video in videos.values() for name in video.labels)
    units = tuple(sorted((name for name in known if name.startswith("AU")), key=lambda name: int(name[2:])))
    names = [name for name in ("expression", *units, *VALUES) if name in known]
    frames = {name: np.arange(0, video.num_frames, every) for name, video in videos.items()}
    tested = any("test" in video.parts for video in videos.values())
    parts = {name: video.part() for name, video in videos.items()}
    if not tested:
        parts = {name: "test" if part == "validation" else part for name, part in parts.items()}
    data: dict[str, Any] = {
        FILE_COLUMN: [f"{name}/{frame + 1:05d}.jpg" for name in videos for frame in frames[name]],
        "video": [name for name in videos for _ in frames[name]],
        "frame": np.concatenate([frames[name] + 1 for name in videos]),
        "part": [parts[name] for name in videos for _ in frames[name]],
    }
    for label in names:
        values = np.concatenate([video.column(label, frames[name]) for name, video in videos.items()])
        data[label] = values
        if label == "expression":
            data[label] = [None if np.isnan(code) else expressions[int(code)] for code in values]
    split = [name for name, video in videos.items() if len(video.parts) > 1]
    notes = []
    if split:
        notes.append(
            f"{counted(len(split), 'video stands', 'videos stand')} in different parts for different "
            f"labels; where they are tested on they are not trained on ({', '.join(split[:5])})."
        )
    return face_table(
        data,
        path=root,
        reader="aff_wild2",
        images=folder,
        places=[f"video {name} frame {frame + 1}" for name in videos for frame in frames[name]],
        sources=tuple(paths),
        class_names={"expression": expressions, **dict.fromkeys(units, ("0", "1"))},
        label_groups={"action_units": units} if units else None,
        notes=tuple(notes),
        named_splits={"official": NamedSplit("part", None if tested else VALIDATION)},
        group="video",
    )
