"""Images of one size: decoded, cropped and resized once into a memory map of uint8, and the dataset over it.

A store is a folder: `images.npy`, uint8 [M, size * size * 3] (RGB, row by row), `transforms.npy` (and
`sizes.npy`), the maps from source image to stored image, `left_out.csv`, the rows without an image, and
`store.json`, which says what made them: format version, settings, a checksum over names, sizes and times of
the source files, by which a store is found again, and one over their contents. It is whole or absent; see
`image_writer`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.data.batch import Batch
from taskloom.data.face_crop import CropSettings
from taskloom.data.face_detectors import Box
from taskloom.data.image_writer import Pictures, Progress, write_store
from taskloom.data.missing_folder import no_folder_of_images
from taskloom.data.row_dataset import RowDataset, fingerprints
from taskloom.data.store_files import open_array
from taskloom.errors import DataError
from taskloom.tasks import Labels, TaskSet
from taskloom.version import __version__

FORMAT = "taskloom-images"
FORMAT_VERSION = 3

_FIT_ROWS = 256
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageStore:
    """Images [M, size, size, 3] uint8 RGB with where each came from; `prepare_images` makes it.

    Args:
        folder: Where the store lies.
        images: The memory map, [M, size, size, 3].
        rows: Row of the table that each image belongs to, [M], ascending; a row with several faces stands
            several times.
        transforms: The map from the upright source image to the stored one, [M, 2, 3]; see `to_pixels`.
        picture_sizes: Width and height of the upright source images, [M, 2].
        unreadable: Rows that were left out: row, file and the reason.
        about: What made the store.
    """

    folder: Path
    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    transforms: NDArray[np.float64]
    picture_sizes: NDArray[np.int64]
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
        maps = open_array(folder / "transforms.npy", (len(rows), 6), np.dtype(np.float64))
        sizes = open_array(folder / "sizes.npy", (len(rows), 2), np.dtype(np.int64))
        return ImageStore(
            folder,
            flat.reshape(-1, size, size, 3),
            rows,
            np.array(maps).reshape(-1, 2, 3),
            np.array(sizes),
            tuple(about["unreadable"]),
            about,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Loader processes map the same file; pickling the array itself would copy every image.
        return ImageStore.open, (self.folder,)

    def inside_picture(self, points: NDArray[np.float64], images: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether points lie in their source image or at most a pixel beside it, [B, K]; see `to_pixels`."""
        sizes = self.picture_sizes[images][:, None, :]
        return np.asarray(((points >= -1.5) & (points < sizes + 0.5)).all(axis=2))

    def to_pixels(self, points: NDArray[np.float64], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """Moves points from the source images into the stored ones.

        Args:
            points: [B, K, 2], x and y in pixels of the upright source image; 0, 0 is the centre of its
                first pixel.
            images: Position in the store of each point set's image, [B].
        """
        maps = self.transforms[images]
        return np.asarray(np.einsum("bij,bkj->bki", maps[:, :, :2], points) + maps[:, None, :, 2])


def prepare_images(
    files: Sequence[str],
    folder: Path,
    store: Path,
    crop: CropSettings | int,
    boxes: Sequence[Box | None] | None = None,
    points: NDArray[np.float64] | None = None,
    progress: Progress | None = None,
) -> ImageStore:
    """Decodes, crops and resizes every image once; a store made of the same files is reused.

    Images are turned upright by their EXIF orientation; grey ones become RGB, 16-bit ones 8-bit, transparency
    is dropped. An image that is missing, cut off, not readable or without a face is left out and listed, in
    `ImageStore.unreadable` and in the store's `left_out.csv`. A preparation that was killed is taken up.

    Args:
        files: File of each row of the table, relative to `folder`.
        folder: Where the images are.
        store: Where the store will be, or is.
        crop: How faces are cut out; a number of pixels means whole images or boxes of that size.
        boxes: Per row, what to cut out (clipped to the image), or None for the whole image.
        points: Per row, landmarks in pixels of the upright image, [N, K, 2], NaN where missing.
        progress: Told how many rows of how many are done.

    Raises:
        DataError: No image folder, no readable image at all, a store of another version, or a place that
            cannot be written.
        ConfigError: A setting of `crop` is out of range, or its detector cannot be built.

    Example:
        >>> import cv2, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = cv2.imwrite(str(folder / "a.png"), np.full((20, 30, 3), 7, np.uint8))
        >>> store = prepare_images(["a.png", "b.png"], folder, folder / "store", 8)
        >>> store.images.shape, store.rows, store.unreadable[0]["reason"]
        ((1, 8, 8, 3), array([0]), 'no such file')
    """
    if not folder.is_dir():
        raise no_folder_of_images(folder)
    settings = crop if isinstance(crop, CropSettings) else CropSettings(crop)
    pictures = Pictures(files, folder, boxes, points)
    made_of = pictures.made_of(settings)
    if (store / "store.json").is_file():
        about = _read_description(store, older=True)
        if about["version"] == FORMAT_VERSION and about["made_of"] == made_of:
            _logger.info("%s: images are prepared already", store)
            return ImageStore.open(store)
        _logger.info("%s: images or settings have changed; preparing them again", store)
    elif store.exists():
        raise DataError(f"{store}: a place for prepared images expected, found something else; move it away.")
    description = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "taskloom": __version__,
        "size": settings.size,
        "crop": settings.to_dict(),
        "made_of": made_of,
    }
    try:
        write_store(pictures, store, settings, description, progress)
    except OSError as error:
        raise DataError(f"{store}: the images could not be prepared there ({error.strerror}).") from error
    return ImageStore.open(store)


def _read_description(folder: Path, *, older: bool = False) -> dict[str, Any]:
    path = folder / "store.json"
    if not path.is_file():
        raise DataError(
            f"{folder}: no prepared images there (store.json is missing); `taskloom prepare` makes them."
        )
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not readable ({error}); remove the folder and prepare again.") from error
    found = (about.get("format"), about.get("version")) if isinstance(about, dict) else (None, None)
    outdated = older and found[0] == FORMAT and isinstance(found[1], int) and found[1] < FORMAT_VERSION
    if found != (FORMAT, FORMAT_VERSION) and not outdated:
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

    def inputs(self, images: NDArray[np.uint8]) -> Tensor:
        """What a network sees of images [B, H, W, 3]: float32 [B, 3, H, W], standardised."""
        mean = torch.tensor(self.mean).view(1, 3, 1, 1)
        deviation = torch.tensor(self.deviation).view(1, 3, 1, 1)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        inputs = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return inputs.mul_(1.0 / (255.0 * deviation)).add_(-mean / deviation)

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

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(3, size, size)."""
        return (3, self.store.size, self.store.size)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Gathers images `indices` (0..N-1) in one indexed read."""
        index = np.asarray(indices, dtype=np.int64)
        inputs = self.standardization.inputs(np.take(self.store.images, self.rows[index], axis=0))
        positions = torch.from_numpy(index)
        return Batch(inputs, self._labels[positions], positions)

    def fingerprints(self) -> NDArray[np.bytes_]:
        """Checksum of every image's pixels, [N]: equal images have equal ones."""
        return fingerprints(self.store.images[row] for row in self.rows)
