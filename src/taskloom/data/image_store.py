"""Images of one size: decoded, cropped and resized once into a memory map of uint8, and the dataset over it.

A store is a folder of two files: `images.npy`, uint8 [M, size * size * 3] (RGB, row by row), and
`store.json`, which says what made them: format version, size, files, crops, and a checksum over names, sizes
and times of the source files. It is whole or absent: written into a hidden folder beside its place and
renamed when complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.data.batch import Batch
from taskloom.data.face_table import Box
from taskloom.data.row_dataset import RowDataset, fingerprints
from taskloom.data.store_files import (
    GrowingArray,
    make_parents,
    move_into_place,
    open_array,
    remove_empty,
    sync_folder,
)
from taskloom.errors import DataError
from taskloom.tasks import Labels, TaskSet
from taskloom.version import __version__

FORMAT = "taskloom-images"
FORMAT_VERSION = 2

_FIT_ROWS = 256
_JPEG_START, _JPEG_END, _PNG_START, _PNG_END = b"\xff\xd8", b"\xff\xd9", b"\x89PNG", b"IEND"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageStore:
    """Images [M, size, size, 3] uint8 RGB with where each came from; `prepare_images` makes it.

    Args:
        folder: Where the store lies.
        images: The memory map, [M, size, size, 3].
        rows: Row of the table that each image belongs to, [M], ascending.
        crops: What was cut out of the upright source image, [M, 4]: x, y, width, height in whole pixels.
        unreadable: Rows that were left out: row, file and the reason.
        about: What made the store.
    """

    folder: Path
    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    crops: NDArray[np.int64]
    unreadable: tuple[dict[str, Any], ...]
    about: dict[str, Any]

    @property
    def size(self) -> int:
        """Height and width of every image, in pixels."""
        return int(self.images.shape[1])

    @staticmethod
    def open(folder: Path | str) -> ImageStore:
        """Opens a store.

        Raises:
            DataError: It is not there, not complete, or of another version.
        """
        folder = Path(folder)
        about = _read_description(folder)
        size, rows = int(about["size"]), np.array(about["rows"], dtype=np.int64)
        flat = open_array(folder / "images.npy", (len(rows), size * size * 3), np.dtype(np.uint8))
        crops = np.array(about["crops"], dtype=np.int64).reshape(-1, 4)
        return ImageStore(
            folder, flat.reshape(-1, size, size, 3), rows, crops, tuple(about["unreadable"]), about
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Loader processes map the same file; pickling the array itself would copy every image.
        return ImageStore.open, (self.folder,)

    def to_pixels(self, points: NDArray[np.float64], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """Moves points from the source images into the stored ones.

        Args:
            points: [B, K, 2], x and y in pixels of the upright source image; 0, 0 is the centre of its
                first pixel.
            images: Position in the store of each point set's image, [B].
        """
        crops = self.crops[images][:, None, :].astype(np.float64)
        return (points - crops[..., :2] + 0.5) * (self.size / crops[..., 2:]) - 0.5


def prepare_images(
    files: Sequence[str], folder: Path, store: Path, size: int, boxes: Sequence[Box | None] | None = None
) -> ImageStore:
    """Decodes, crops and resizes every image once; a store made of the same files is reused.

    Images are turned upright by their EXIF orientation; grey ones become RGB, 16-bit ones 8-bit, transparency
    is dropped. An image that is missing, cut off or not readable is left out and listed.

    Args:
        files: File of each row of the table, relative to `folder`.
        folder: Where the images are.
        store: Where the store will be, or is.
        size: Height and width of the stored images, in pixels.
        boxes: Per row, what to cut out (clipped to the image), or None for the whole image.

    Raises:
        DataError: No image folder, no readable image at all, a store of another version, or a place that
            cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = cv2.imwrite(str(folder / "a.png"), np.full((20, 30, 3), 7, np.uint8))
        >>> store = prepare_images(["a.png", "b.png"], folder, folder / "store", 8)
        >>> store.images.shape, store.rows, store.unreadable[0]["reason"]
        ((1, 8, 8, 3), array([0]), 'no such file')
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images.")
    if size < 1:
        raise DataError(f"size: a number of pixels above 0 expected, found {size}.")
    boxes = boxes if boxes is not None else [None] * len(files)
    made_of = {"files": _manifest(files, folder), "boxes": _digest(list(boxes)), "size": size}
    if (store / "store.json").is_file():
        if _read_description(store)["made_of"] == made_of:
            _logger.info("%s: images are prepared already", store)
            return ImageStore.open(store)
        _logger.info("%s: images or settings have changed; preparing them again", store)
    elif store.exists():
        raise DataError(f"{store}: a place for prepared images expected, found something else; move it away.")
    try:
        _write_store(files, folder, store, size, boxes, made_of)
    except OSError as error:
        raise DataError(f"{store}: the images could not be prepared there ({error.strerror}).") from error
    return ImageStore.open(store)


def read_image(path: Path, box: Box | None, size: int) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """Reads one image as RGB [size, size, 3] and says what was cut out of it: x, y, width, height.

    Raises:
        DataError: Missing, cut off, not an image, or a box outside the image.
    """
    return _read_pixels(_read_file(path), box, size)


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        raise DataError("no such file")
    return path.read_bytes()


def _read_pixels(
    data: bytes, box: Box | None, size: int
) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    if _is_cut_off(data):
        raise DataError("the file is cut off")
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise DataError("not a readable image" if data else "the file is empty")
    x, y, width, height = _clipped(box, image.shape[1], image.shape[0])
    crop = image[y : y + height, x : x + width]
    # Averaging over areas keeps small images free of aliasing; it is not defined for growing ones.
    shrinks = height >= size and width >= size
    crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB), dtype=np.uint8), (x, y, width, height)


def _write_store(
    files: Sequence[str],
    folder: Path,
    store: Path,
    size: int,
    boxes: Sequence[Box | None],
    made_of: dict[str, Any],
) -> None:
    partial = store.absolute().parent / f".{store.name}.{secrets.token_hex(6)}.partial"
    made = make_parents(partial)
    try:
        partial.mkdir(parents=True)  # anew where another process removed them
        array = GrowingArray(partial / "images.npy", np.dtype(np.uint8), size * size * 3)
        rows: list[int] = []
        crops: list[tuple[int, int, int, int]] = []
        unreadable: list[dict[str, Any]] = []
        content = hashlib.sha256()
        try:
            for row, (checksum, result) in enumerate(_read_all(files, folder, boxes, size)):
                content.update(json.dumps([files[row], checksum]).encode())
                if isinstance(result, DataError):
                    unreadable.append({"row": row, "file": files[row], "reason": str(result)})
                    continue
                image, crop = result
                array.append(image.reshape(1, -1))
                rows.append(row)
                crops.append(crop)
            if not rows:
                first = unreadable[0]
                raise DataError(
                    f"{folder}: none of the {len(files)} images that the table names can be read; the first, "
                    f"{first['file']}: {first['reason']}."
                )
            array.finish()
        except BaseException:
            array.discard()
            raise
        description = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "taskloom": __version__,
            "size": size,
            "made_of": made_of,
            "content": content.hexdigest(),
            "rows": rows,
            "crops": crops,
            "unreadable": unreadable,
        }
        (partial / "store.json").write_text(json.dumps(description), encoding="utf-8")
        sync_folder(partial)
        move_into_place(partial, store)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        remove_empty(made)


def _read_all(
    files: Sequence[str], folder: Path, boxes: Sequence[Box | None], size: int
) -> Iterator[tuple[str | None, tuple[NDArray[np.uint8], tuple[int, int, int, int]] | DataError]]:
    """Reads images in row order, a few ahead on threads (OpenCV decodes outside the interpreter's lock).

    Gives the SHA-256 of each file (None where there is none), and the image or why there is none.
    """

    def read(
        row: int,
    ) -> tuple[str | None, tuple[NDArray[np.uint8], tuple[int, int, int, int]] | DataError]:
        checksum = None
        try:
            data = _read_file(folder / files[row])
            checksum = hashlib.sha256(data).hexdigest()
            return checksum, _read_pixels(data, boxes[row], size)
        except DataError as error:
            return checksum, error
        except (OSError, cv2.error) as error:
            return checksum, DataError(f"not a readable image ({str(error).splitlines()[0]})")

    remaining = iter(range(len(files)))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        ahead = 4 * (os.cpu_count() or 1)
        pending = [pool.submit(read, row) for row in islice(remaining, ahead)]
        while pending:
            yield pending.pop(0).result()
            pending.extend(pool.submit(read, row) for row in islice(remaining, 1))


def _clipped(box: Box | None, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of a box, rounded to whole pixels, that lies in the image."""
    if box is None:
        return 0, 0, width, height
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[0] + box[2])), min(height, round(box[1] + box[3]))
    if right <= left or bottom <= top:
        raise DataError(f"the box {[round(v, 1) for v in box]} lies outside the image of {width} x {height}")
    return left, top, right - left, bottom - top


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which OpenCV would fill up with grey."""
    if data.startswith(_PNG_START):
        return _PNG_END not in data
    if not data.startswith(_JPEG_START):
        return False
    # The end mark counts only behind the start of the scan: a thumbnail in the header has one of its own.
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] not in (
        b"",
        b"\xda",
    ):
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return _JPEG_END not in data[position:]


def _manifest(files: Sequence[str], folder: Path) -> str:
    """Checksum over name, size and time of every file; reading all images only to compare takes too long."""
    entries: list[Any] = []
    for name in files:
        path = folder / name
        status = path.stat() if path.is_file() else None
        entries.append((name, status.st_size, status.st_mtime_ns) if status else (name, None, None))
    return _digest(entries)


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "store.json"
    if not path.is_file():
        raise DataError(f"{folder}: no prepared images there (store.json is missing).")
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not readable ({error}); remove the folder and prepare again.") from error
    found = (about.get("format"), about.get("version")) if isinstance(about, dict) else (None, None)
    if found != (FORMAT, FORMAT_VERSION):
        raise DataError(
            f"{path}: {FORMAT} version {FORMAT_VERSION} expected, found {found[0]} version {found[1]}; "
            "remove the folder and prepare the images again."
        )
    return about


@dataclass(frozen=True)
class ImageStandardization:
    """Mean and standard deviation per channel of the training images, on the scale 0..1, [3] each."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def fit(cls, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> ImageStandardization:
        """Fits on the images at `rows`; sums are whole numbers, so the order of rows does not matter.

        A channel without any spread gets deviation 1.
        """
        total, squares = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
        for start in range(0, len(rows), _FIT_ROWS):
            block = np.take(images, rows[start : start + _FIT_ROWS], axis=0).reshape(-1, 3).astype(np.int64)
            total += block.sum(axis=0)
            squares += (block**2).sum(axis=0)
        count = max(1, len(rows) * images.shape[1] * images.shape[2])
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0)) / 255.0
        spread = np.where(deviation > 1e-6, deviation, 1.0)
        return cls(tuple((mean / 255.0).tolist()), tuple(spread.tolist()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-serialisable."""
        return {"mean": list(self.mean), "deviation": list(self.deviation)}


class ImageDataset(RowDataset):
    """Images with labels: inputs [B, 3, H, W] float32, standardised per channel.

    Args:
        store: The images, M of them.
        positions: Which images of the store these are, [N].
        tasks: What is predicted.
        labels: Labels of all M images of the store.
        standardization: Fitted on the training images.
        groups: Name of the group (person) of each of the M images; None makes every image its own.
    """

    def __init__(
        self,
        store: ImageStore,
        positions: NDArray[np.int64],
        tasks: TaskSet,
        labels: Labels,
        standardization: ImageStandardization,
        groups: Sequence[str] | NDArray[Any] | None = None,
    ) -> None:
        if len(labels) != len(store.images):
            raise ValueError(f"labels of {len(store.images)} images expected, found {len(labels)}")
        super().__init__(positions, tasks, labels, groups)
        self.store = store
        self.standardization = standardization
        mean = torch.tensor(standardization.mean).view(1, 3, 1, 1)
        deviation = torch.tensor(standardization.deviation).view(1, 3, 1, 1)
        self._factor, self._offset = 1.0 / (255.0 * deviation), -mean / deviation

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(3, size, size)."""
        return (3, self.store.size, self.store.size)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Gathers images `indices` (0..N-1) in one indexed read."""
        index = np.asarray(indices, dtype=np.int64)
        images = torch.from_numpy(np.take(self.store.images, self.rows[index], axis=0))
        inputs = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        positions = torch.from_numpy(index)
        return Batch(inputs.mul_(self._factor).add_(self._offset), self._labels[positions], positions)

    def fingerprints(self) -> NDArray[np.bytes_]:
        """Checksum of every image's pixels, [N]: equal images have equal ones."""
        return fingerprints(self.store.images[row] for row in self.rows)
