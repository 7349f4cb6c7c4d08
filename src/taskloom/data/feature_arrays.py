"""Arrays in NumPy's files: the features of a table's rows, in row order."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError, did_you_mean

UNREADABLE = (
    ValueError,
    EOFError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    SyntaxError,
    RuntimeError,  # encrypted
    NotImplementedError,  # another compression
    TypeError,
    KeyError,
    OverflowError,
    MemoryError,  # a header that says so much
)
"""What NumPy raises depends on where the damage is."""
_LONGEST_REASON = 200


def load_array(
    path: Path, key: str, *, mapped: bool, advice: str = "name one with `array`"
) -> tuple[NDArray[Any], str]:
    """An array and its name for messages.

    Args:
        path: The file.
        key: Which array of an archive (.npz); "" for its only one.
        mapped: Whether the file is one array (.npy), which is memory-mapped, or an archive.
        advice: What to do where the archive has no such array.

    Raises:
        DataError: The file is something else, or has no such array.
    """
    try:
        if mapped:
            return _mapped(path), str(path)
        # Opened here, because NumPy leaves a file open that turns out to be none of its own.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise DataError(f"{path}: an archive (.npz) expected, found one array; use `npy`.")
            if key == "" and len(loaded) == 1:
                key = next(iter(loaded))
            if key not in loaded:
                raise DataError(
                    f"{path}: no array `{key}`.{did_you_mean(key, loaded)} Arrays: {', '.join(loaded)}; "
                    f"{advice}."
                )
            return loaded[key], f"{path} ({key})"
    except UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), "")[:_LONGEST_REASON] or type(error).__name__
        raise DataError(f"{path}: not a readable NumPy file ({reason}).") from error


def _mapped(path: Path) -> NDArray[Any]:
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        loaded.close()
        raise DataError(f"{path}: one array (.npy) expected, found an archive; use `npz` and `array`.")
    return loaded
