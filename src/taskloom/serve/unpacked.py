"""How much memory a small file asks for: pictures, archives and Parquet may hold far more than their size."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from PIL import Image, UnidentifiedImageError

from taskloom.data.feature_arrays import UNREADABLE
from taskloom.data.image_decode import is_cut_off
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
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    values = 8 * sum(int(column.num_values) for column in columns)
    if max(values, said) > MOST_UNPACKED_BYTES:
        return max(values, said)
    repeated = {
        column.path_in_schema
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page
    }
    return max(values, said) + sum(_text_bytes(path, about, name) for name in repeated)


def _text_bytes(path: Path, about: Any, name: str) -> int:
    """Bytes of a column's texts, which the file holds once each and numbers: a long one counts wherever it
    stands."""
    found = 0
    try:
        with pyarrow.parquet.ParquetFile(path, metadata=about, read_dictionary=[name]) as file:
            for batch in file.iter_batches(columns=[name]):
                for part in _dictionaries(batch.column(0)):
                    lengths = pc.binary_length(part.dictionary).cast(pa.int64())
                    found += pc.sum(lengths.take(part.indices)).as_py() or 0
    except (pa.ArrowException, OSError):
        return found  # its reader says what is wrong with it
    return found


def _dictionaries(cells: Any) -> Iterator[Any]:
    """The arrays of numbered texts in a column, which may stand in lists and structures."""
    if pa.types.is_dictionary(cells.type):
        yield cells
    elif pa.types.is_struct(cells.type):
        for part in cells.flatten():
            yield from _dictionaries(part)
    elif pa.types.is_map(cells.type):
        yield from _dictionaries(cells.keys)
        yield from _dictionaries(cells.items)
    elif pa.types.is_nested(cells.type):
        yield from _dictionaries(cells.flatten())


def check_picture(path: Path, name: str, most: int = MOST_UNPACKED_BYTES) -> None:
    """Refuses a picture of too many pixels, before they are decoded.

    Raises:
        DataError: It has more than fit, or its header does not say how many.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                width, height = picture.size
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: a picture of too many pixels ({error}); make it smaller.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        if is_cut_off(path.read_bytes()) or not cv2.haveImageReader(str(path)):
            return  # the decoder says what is wrong with it
        raise DataError(
            f"{name}: a picture expected whose size stands where it is looked for; save it as JPEG or PNG."
        ) from error
    if 3 * width * height > most:
        raise DataError(
            f"{name}: {width:,} x {height:,} pixels, at most {most // 3:,} expected; make it smaller."
        )
