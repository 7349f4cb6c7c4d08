"""Writing a store of images: chunk by chunk, so that a killed preparation goes on where it was.

Chunks of rows are kept in a hidden folder beside the store's place, each written under another name and
renamed when whole. When all are there they become one store, which is written into a second hidden folder and
renamed: a store is whole or absent. The name of the chunks' folder is a checksum over what they are made of,
so chunks of other images or settings are never taken up.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import secrets
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from taskloom.data.face_crop import CropSettings, Face, FaceCutter
from taskloom.data.face_detectors import Box
from taskloom.data.image_decode import decode, read_file
from taskloom.data.store_files import (
    GrowingArray,
    make_parents,
    move_into_place,
    remove_empty,
    sync_folder,
)
from taskloom.errors import DataError

CHUNK_ROWS = 256
LEFT_OUT_FILE = "left_out.csv"

Progress = Callable[[int, int], None]
"""Told how many rows of how many are done."""


@dataclass(frozen=True)
class Pictures:
    """What a store is made of.

    Args:
        files: File of each row, relative to `folder`.
        folder: Where the images are.
        boxes: Per row its box, or None; None where no row has one.
        points: Landmarks [N, K, 2] in pixels of the upright pictures, NaN where missing; None without any.
    """

    files: Sequence[str]
    folder: Path
    boxes: Sequence[Box | None] | None = None
    points: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def made_of(self, settings: CropSettings) -> dict[str, Any]:
        """Plain values that tell stores apart: checksums over names, sizes and times, boxes and points.

        Reading all images only to compare them would take too long.
        """
        entries: list[Any] = []
        for name in self.files:
            path = self.folder / name
            status = path.stat() if path.is_file() else None
            entries.append((name, status.st_size, status.st_mtime_ns) if status else (name, None, None))
        plain = {"files": digest(entries), "boxes": digest(self.boxes), **settings.to_dict()}
        if settings.align and self.points is not None:
            plain["points"] = hashlib.sha256(self.points.tobytes()).hexdigest()
        return plain


@dataclass(frozen=True)
class _Chunk:
    """The faces of some rows.

    Args:
        images, rows, transforms: [m, size, size, 3], [m], [m, 2, 3].
        sizes: Width and height of the pictures they were cut from, [m, 2].
        checksums: Of every row's file; None where there is none.
        left_out: Rows without a face: row, file and reason.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    transforms: NDArray[np.float64]
    sizes: NDArray[np.int64]
    checksums: list[str | None]
    left_out: list[dict[str, Any]]


def write_store(
    pictures: Pictures,
    store: Path,
    settings: CropSettings,
    description: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:
    """Cuts all faces and puts the store in its place, taking up the chunks of a preparation that was killed.

    Args:
        pictures: What it is made of.
        store: Its place.
        settings: How faces are cut.
        description: For store.json; `made_of` among it names the chunks' folder.
        progress: Told after every chunk.

    Raises:
        DataError: Not a single image can be read.
        OSError: A place that cannot be written.
    """
    parent, name = store.absolute().parent, digest([description["made_of"], CHUNK_ROWS])[:12]
    chunks = parent / f".{store.name}.{name}.chunks"
    for other in parent.glob(f".{store.name}.*.chunks"):  # of images or settings that have changed since
        if other != chunks:
            shutil.rmtree(other, ignore_errors=True)
    made = make_parents(chunks)
    keep = True  # a killed, stopped or full preparation goes on from its chunks
    try:
        starts = range(0, len(pictures), CHUNK_ROWS)
        _write_chunks(pictures, chunks, starts, settings, progress)
        keep = False
        _join(pictures, store, (_read_chunk(chunks, start) for start in starts), settings, description)
    finally:
        if not keep:
            shutil.rmtree(chunks, ignore_errors=True)
        remove_empty(made)


def digest(values: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _write_chunks(
    pictures: Pictures, folder: Path, starts: range, settings: CropSettings, progress: Progress | None
) -> None:
    """Writes the chunks that are missing, rows on threads: OpenCV works outside the interpreter's lock."""
    local = threading.local()

    def cut(row: int) -> tuple[str | None, list[Face] | DataError]:
        if not hasattr(local, "cutter"):
            local.cutter = FaceCutter(settings)
        return _cut_row(pictures, row, local.cutter)

    FaceCutter(settings)  # a detector that cannot be built is a mistake of the settings, not of a row
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in starts:
            stop = min(start + CHUNK_ROWS, len(pictures))
            if _read_chunk(folder, start) is None:
                results = list(pool.map(cut, range(start, stop)))
                _write_chunk(folder, start, _chunk_of(pictures, start, results, settings.size))
            if progress is not None:
                progress(stop, len(pictures))


def _cut_row(pictures: Pictures, row: int, cutter: FaceCutter) -> tuple[str | None, list[Face] | DataError]:
    """The SHA-256 of a row's file, and its faces or why there are none."""
    checksum = None
    try:
        data = read_file(pictures.folder / pictures.files[row])
        checksum = hashlib.sha256(data).hexdigest()
        points = None if pictures.points is None else pictures.points[row]
        box = None if pictures.boxes is None else pictures.boxes[row]
        return checksum, cutter.cut(decode(data), box, points)
    except DataError as error:
        return checksum, error
    except (OSError, cv2.error) as error:
        return checksum, DataError(f"not a readable image ({str(error).splitlines()[0]})")


def _chunk_of(
    pictures: Pictures, start: int, results: Sequence[tuple[str | None, list[Face] | DataError]], size: int
) -> _Chunk:
    faces: list[Face] = []
    rows: list[int] = []
    left_out = []
    for row, (_, result) in enumerate(results, start=start):
        if isinstance(result, DataError):
            left_out.append({"row": row, "file": pictures.files[row], "reason": str(result)})
            continue
        faces += result
        rows += [row] * len(result)
    images = np.array([face.image for face in faces], dtype=np.uint8).reshape(-1, size, size, 3)
    transforms = np.array([face.transform for face in faces], dtype=np.float64).reshape(-1, 2, 3)
    sizes = np.array([face.picture_size for face in faces], dtype=np.int64).reshape(-1, 2)
    checksums = [checksum for checksum, _ in results]
    return _Chunk(images, np.array(rows, np.int64), transforms, sizes, checksums, left_out)


def _write_chunk(folder: Path, start: int, chunk: _Chunk) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{secrets.token_hex(6)}.partial"
    try:
        with partial.open("wb") as file:
            np.savez(
                file,
                images=chunk.images,
                rows=chunk.rows,
                transforms=chunk.transforms,
                sizes=chunk.sizes,
                about=np.array(json.dumps([chunk.checksums, chunk.left_out])),
            )
        partial.replace(_chunk_path(folder, start))
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _read_chunk(folder: Path, start: int) -> _Chunk | None:
    """A chunk as it was written; None where it is not there or not whole."""
    try:
        with _chunk_path(folder, start).open("rb") as file, np.load(file, allow_pickle=False) as found:
            checksums, left_out = json.loads(str(found["about"]))
            images, rows, transforms = found["images"], found["rows"], found["transforms"]
            return _Chunk(images, rows, transforms, found["sizes"], checksums, left_out)
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError, EOFError):
        return None


def _chunk_path(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}.npz"


def _join(
    pictures: Pictures,
    store: Path,
    chunks: Iterable[_Chunk | None],
    settings: CropSettings,
    description: Mapping[str, Any],
) -> None:
    """Makes one store of all chunks and puts it in its place."""
    partial = store.absolute().parent / f".{store.name}.{secrets.token_hex(6)}.partial"
    partial.mkdir(parents=True)
    images = GrowingArray(partial / "images.npy", np.dtype(np.uint8), settings.size**2 * 3)
    transforms = GrowingArray(partial / "transforms.npy", np.dtype(np.float64), 6)
    sizes = GrowingArray(partial / "sizes.npy", np.dtype(np.int64), 2)
    try:
        rows: list[int] = []
        left_out: list[dict[str, Any]] = []
        checksums: list[str | None] = []
        for chunk in chunks:
            if chunk is None:
                raise DataError(f"{store}: a prepared chunk has vanished; prepare the images again.")
            images.append(chunk.images.reshape(-1, images.columns))
            transforms.append(chunk.transforms.reshape(-1, transforms.columns))
            sizes.append(chunk.sizes)
            rows += chunk.rows.tolist()
            left_out += chunk.left_out
            checksums += chunk.checksums
        content = hashlib.sha256()
        for file, checksum in zip(pictures.files, checksums, strict=True):
            content.update(json.dumps([file, checksum]).encode())
        if not rows:
            first = left_out[0]
            raise DataError(
                f"{pictures.folder}: none of the {len(pictures)} images can be read; the first, "
                f"{first['file']}: {first['reason']}."
            )
        images.finish()
        transforms.finish()
        sizes.finish()
        _write_left_out(partial / LEFT_OUT_FILE, left_out)
        whole = {**description, "content": content.hexdigest(), "rows": rows, "unreadable": left_out}
        (partial / "store.json").write_text(json.dumps(whole), encoding="utf-8")
        sync_folder(partial)
        move_into_place(partial, store)
    finally:
        images.discard()
        transforms.discard()
        sizes.discard()
        shutil.rmtree(partial, ignore_errors=True)


def _write_left_out(path: Path, left_out: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["row", "file", "reason"])
        writer.writeheader()
        writer.writerows(left_out)
