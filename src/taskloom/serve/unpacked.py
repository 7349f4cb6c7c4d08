"""How much memory a small file asks for: pictures, archives and Parquet may hold far more than their size."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from PIL import Image, UnidentifiedImageError

from taskloom.data.feature_arrays import UNREADABLE
from taskloom.data.tables import PARQUET_SUFFIXES
from taskloom.errors import DataError

MOST_UNPACKED_BYTES = 1 << 29


def check_unpacked(path: Path, name: str, most: int = MOST_UNPACKED_BYTES) -> None:
    """Refuses a file that says to hold more than fits; what it really holds, its reader finds out.

    Args:
        path: The file.
        name: What it is called.
        most: Bytes.

    Raises:
        DataError: It holds more.
    """
    size = _unpacked_bytes(path)
    if size > most:
        raise DataError(
            f"{name}: holds {size / 2**20:,.0f} MB when it is unpacked, at most {most / 2**20:,.0f} MB "
            "expected; use `taskloom predict` for it."
        )


def _unpacked_bytes(path: Path) -> int:
    if path.suffix in PARQUET_SUFFIXES:
        return _parquet_bytes(path)
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                return sum(part.file_size for part in archive.infolist())
        except UNREADABLE:
            return 0  # its reader says what is wrong with it
    return 0


def _parquet_bytes(path: Path) -> int:
    try:
        about = pyarrow.parquet.read_metadata(path)
    except (pa.ArrowException, OSError):
        return 0
    groups = [about.row_group(index) for index in range(about.num_row_groups)]
    said = sum(int(group.total_byte_size) for group in groups)
    return max(8 * int(about.num_rows) * int(about.num_columns), said)


def check_picture(path: Path, name: str, most: int = MOST_UNPACKED_BYTES) -> None:
    """Refuses a picture of too many pixels, before they are decoded.

    Raises:
        DataError: It has more than fit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                width, height = picture.size
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: a picture of too many pixels ({error}); make it smaller.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return  # the decoder says what is wrong with it
    if 3 * width * height > most:
        raise DataError(
            f"{name}: {width:,} x {height:,} pixels, at most {most // 3:,} expected; make it smaller."
        )
