"""Image files to pixels: upright, three channels of 8 bit, and one sentence where a file is no image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError

_JPEG_START, _JPEG_END, _PNG_START, _PNG_END = b"\xff\xd8", b"\xff\xd9", b"\x89PNG", b"IEND"


def read_file(path: Path) -> bytes:
    """Reads a file whole. Raises DataError where there is none."""
    if not path.is_file():
        raise DataError("no such file")
    return path.read_bytes()


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decodes an image file.

    Images are turned upright by their EXIF orientation; grey and CMYK ones become BGR, 16-bit ones 8-bit,
    transparency is dropped, and of an animation the first picture counts.

    Args:
        data: The file.

    Returns:
        BGR pixels, [H, W, 3].

    Raises:
        DataError: The file is empty, cut off or not an image.

    Example:
        >>> ok, data = cv2.imencode(".png", np.full((2, 3), 7, np.uint8))
        >>> decode(data.tobytes()).shape
        (2, 3, 3)
    """
    if is_cut_off(data):
        raise DataError("the file is cut off")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as error:
        raise DataError(f"not a readable image ({error.err})") from error
    if image is None:
        raise DataError("not a readable image" if data else "the file is empty")
    return np.asarray(image, dtype=np.uint8)


def is_cut_off(data: bytes) -> bool:
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
