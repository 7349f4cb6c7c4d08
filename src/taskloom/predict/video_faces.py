"""Stores of faces from videos: every n-th frame, the faces found, labelled by the video or the person.

As thesis 000 (section 5.9) made its sample of another database: videos at 25 frames a second cut to frames,
faces found in them, labelled person by person, sampled. Rows of one person (or video) form a group.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from taskloom.data.face_framing import Framing
from taskloom.data.face_store import face_reader, prepare_rows
from taskloom.data.face_table import FaceTable
from taskloom.data.image_store import ImageStore
from taskloom.data.image_writer import Progress
from taskloom.data.tables import Table, read_table
from taskloom.errors import ConfigError, DataError
from taskloom.predict.faces import USUAL_MARGIN
from taskloom.predict.frames import open_source
from taskloom.wording import counted

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
OWN_COLUMNS = ("file_name", "video", "frame", "time", "person")
_QUALITY = 95
Cutting = Callable[[int, int | None], None]
"""Told how many frames have been read, of how many; None where a video does not say how long it is."""


def prepare_video(
    source: Path,
    store: Path,
    *,
    every: int = 25,
    labels: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    cutting: Cutting | None = None,
    framing: Framing | None = None,
) -> tuple[FaceTable, ImageStore]:
    """Prepares the faces of a video, or of all videos below a folder, as a store that stands by itself.

    Args:
        source: A video file or a folder of videos.
        store: Where the store will be.
        every: Every how many frames one is taken: 25 is one a second of a video at 25 frames a second.
        labels: A table (CSV, TSV, Parquet) of labels with one row per video (column `video`: the file's name,
            and perhaps `person`) or, without that column, one per person (column `person`: the folder that
            the videos lie in, or the file's name up to its first `_`, `-` or `.`).
        settings: How faces are cut; see `CropSettings`. The built-in detector finds them unless another is
            named; of several faces the largest is taken.
        progress: Told how many of the sampled frames are searched for faces.
        cutting: Told how many frames of all videos have been read.
        framing: Of a network's training images; faces are then cut like these, see `face_framing`.

    Returns:
        The rows, with `video`, `frame`, `time` in seconds, `person` and the labels; and their faces. Frames
        without a face are listed in the store's `left_out.csv`.

    Raises:
        DataError: No video, a video without a frame, a table without the columns, a video that stands in two
            rows, a place that cannot be written.
        ConfigError: `every` below 1, or a setting that does not fit.
    """
    if every < 1:
        raise ConfigError(f"--every: a whole number above 0 expected, found {every}.")
    videos = _videos(source)
    known = None if labels is None else read_table(labels)
    rows, notes = _labels(known, videos, source if source.is_dir() else source.parent)
    frames = store.absolute().parent / f".{store.name}.frames"
    try:
        written = _cut(videos, source if source.is_dir() else source.parent, frames, every, rows, cutting)
        crop = {"detector": "haar", "margin": USUAL_MARGIN, **(settings or {})}
        given = {"table": "frames.csv", "images": ".", **crop}
        table, cut = face_reader("images").rows(given, frames)
    except OSError as error:
        raise DataError(f"{frames}: the frames cannot be written ({error.strerror or error}).") from error
    table = replace(table, group="person", notes=(*table.notes, written, *notes))
    found = prepare_rows(table, replace(cut, framing=framing), store, progress)
    shutil.rmtree(frames, ignore_errors=True)
    return table, found


def _videos(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: a video file or a folder of videos expected, found no such file.")
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise DataError(f"{source}: no video there; looked for {', '.join(VIDEO_SUFFIXES)}.")
    return found


def _person(video: Path, folder: Path) -> str:
    """The folder that a video lies in below `folder`, or its name up to the first `_`, `-` or `.`."""
    below = video.relative_to(folder).parent
    return below.parts[0] if below.parts else re.split(r"[_.-]", video.name)[0]


def _labels(
    table: Table | None, videos: Sequence[Path], folder: Path
) -> tuple[dict[Path, dict[str, str]], list[str]]:
    """Per video its cells by column, `person` among them; and notes on what has no counterpart."""
    if table is None:
        return {video: {"person": _person(video, folder)} for video in videos}, []
    key = next((name for name in ("video", "person") if name in table.columns), None)
    if key is None:
        raise DataError(
            f"{table.path}: a column `video` or `person` expected. Columns: {', '.join(table.columns)}."
        )
    taken = [name for name in table.columns if name in OWN_COLUMNS and name not in ("video", "person")]
    if taken:
        raise DataError(
            f"{table.path}: the column `{taken[0]}` would hide one that every frame has; call it otherwise."
        )
    cells = {name: table.text(name) for name in table.columns}
    index: dict[str, int] = {}
    for row, name in enumerate(cells[key].tolist()):
        if name in index:
            raise DataError(
                f"{table.where(row, key)}: `{name}` stands in an earlier row too "
                f"({table.where(index[name], key)}); one row each expected."
            )
        index[name] = row
    found, without, used = {}, [], set()
    for video in videos:
        person = _person(video, folder)
        names = [person] if key == "person" else [str(video.relative_to(folder)), video.name, video.stem]
        name = next((name for name in names if name in index), None)
        found_row = None if name is None else index[name]
        if found_row is None:
            without.append(video.name)
        else:
            used.add(found_row)
        columns = {
            column: "" if found_row is None else str(values[found_row])
            for column, values in cells.items()
            if column != "video"
        }
        found[video] = {**columns, "person": columns.get("person") or person}
    notes = []
    if without:
        notes.append(
            f"{len(without)} of {counted(len(videos), 'video')} without a row in {table.path}: "
            f"{_few(without)}."
        )
    unused = [name for name, row in index.items() if row not in used]
    if unused:
        notes.append(f"{counted(len(unused), 'row')} of {table.path} without a video: {_few(unused)}.")
    if not used:
        raise DataError(
            f"{table.path}: none of its rows names any of {counted(len(videos), 'video')} (the first is "
            f"{videos[0].name}, the table's first `{key}` is `{next(iter(index), '')}`)."
        )
    return found, notes


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _cut(
    videos: Sequence[Path],
    folder: Path,
    frames: Path,
    every: int,
    labels: Mapping[Path, Mapping[str, str]],
    cutting: Cutting | None,
) -> str:
    """Writes the sampled frames and their table; says how many there are."""
    done = frames / "done.json"
    wanted = [every, [[str(video), video.stat().st_size, video.stat().st_mtime_ns] for video in videos]]
    table = frames / "frames.csv"
    columns = [*OWN_COLUMNS, *(c for c in next(iter(labels.values())) if c not in OWN_COLUMNS)]
    known = json.loads(done.read_text()) if done.is_file() else {}
    if known.get("wanted") != wanted:  # of a preparation that was killed, the frames are there
        shutil.rmtree(frames, ignore_errors=True)
        frames.mkdir(parents=True)
        read = _Reading(videos, cutting)
        cut = [
            entry
            for number, video in enumerate(videos)
            for entry in _frames(video, number, frames, every, read)
        ]
        known = {"wanted": wanted, "frames": cut}
        done.write_text(json.dumps(known), encoding="utf-8")
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for name, number, frame, time in known["frames"]:
            own = labels[videos[number]]
            video = str(videos[number].relative_to(folder))
            further = [own[column] for column in columns[len(OWN_COLUMNS) :]]
            writer.writerow([name, video, frame, f"{time:.3f}", own["person"], *further])
    return (
        f"{counted(len(known['frames']), 'frame')} of {counted(len(videos), 'video')}, one of every {every}."
    )


class _Reading:
    """Counts the frames that are read and tells of them."""

    def __init__(self, videos: Sequence[Path], told: Cutting | None) -> None:
        self.told, self.done = told, 0
        lengths = [] if told is None else [open_source(str(video)).expected for video in videos]
        known = [length for length in lengths if length is not None]
        self.total = sum(known) if len(known) == len(lengths) else None

    def step(self) -> None:
        """One frame more."""
        self.done += 1
        if self.told is not None:
            self.told(self.done, self.total)


def _frames(
    video: Path, position: int, frames: Path, every: int, read: _Reading
) -> list[tuple[str, int, int, float]]:
    """Writes a video's frames; returns file, position of the video, frame, time."""
    written = []
    for frame in open_source(str(video)).frames():
        read.step()
        if frame.number % every or frame.picture is None:
            continue
        name = f"{position:04d}_{frame.number:07d}.jpg"
        _, content = cv2.imencode(".jpg", frame.picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        (frames / name).write_bytes(content.tobytes())
        written.append((name, position, frame.number, frame.time or 0.0))
    if not written:
        raise DataError(f"{video}: no frame could be read.")
    return written
