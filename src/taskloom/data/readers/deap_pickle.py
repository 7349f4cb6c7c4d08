"""Reads a pickle that holds NumPy arrays and nothing else, without running anything the pickle says.

A pickle is a program. This reader admits the handful of names that arrays are pickled with, and even for
those it runs stand-ins of its own: NumPy sees no more than a finished block of bytes. Every other name is
refused by name. Files of Python 2 (as DEAP's) and of Python 3 are read.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError

_NUMBER = re.compile(r"[<>|=]?[biuf][1248]")
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    UnicodeError,
)
"""What `pickle` raises on a file that is cut off or was never a pickle."""


class _Refused(Exception):
    """A name that arrays do not need."""


def read_array_pickle(path: Path) -> dict[str, NDArray[Any]]:
    """Reads a pickled dictionary of arrays of numbers.

    Args:
        path: The file.

    Returns:
        The arrays by name; views of the file's bytes where they stand in C order, read-only.

    Raises:
        DataError: The pickle asks for anything but NumPy arrays (naming it), is empty, cut off, no pickle, or
            holds something else than a dictionary of arrays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.dat"
        >>> _ = path.write_bytes(pickle.dumps({"labels": np.arange(3)}, protocol=2))
        >>> read_array_pickle(path)["labels"]
        array([0, 1, 2])
        >>> _ = path.write_bytes(pickle.dumps(print))
        >>> read_array_pickle(path)
        Traceback (most recent call last):
            ...
        taskloom.errors.DataError: a.dat: the pickle asks for `builtins.print`; ...
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path.name}: the file is empty, a pickle of arrays expected; get it again.")
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
    except _Refused as refused:
        raise DataError(
            f"{path.name}: the pickle asks for `{refused}`; a pickle can run any program, so only NumPy "
            "arrays are admitted and nothing was run. Do not open this file by other means."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except _BROKEN as error:
        raise DataError(
            f"{path.name}: not readable as a pickle of arrays ({error}); the file seems cut off or is "
            "something else."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path.name}: a dictionary of arrays expected, found {_kind(content)}.")
    arrays = {}
    for key, value in content.items():
        name = key.decode("latin-1") if isinstance(key, bytes) else str(key)
        if not isinstance(value, _Array):
            raise DataError(f"{path.name}: an array expected under `{name}`, found {_kind(value)}.")
        arrays[name] = value.finished(path, name)
    return arrays


def _kind(value: Any) -> str:
    return "an array" if isinstance(value, _Array) else f"a {type(value).__name__}"


class _ArrayUnpickler(pickle.Unpickler):
    """Strings of Python 2 stay bytes: a block of numbers is never decoded and encoded again."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _new(_Array)
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return _from_buffer()
        if (module, name) == ("numpy", "ndarray"):
            return None  # only ever an argument of _reconstruct
        if (module, name) == ("numpy", "dtype"):
            return _new(_Numbers)
        if (module, name) == ("_codecs", "encode"):
            return _encode()
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"persistent object {pid!r}")


# A pickle may set attributes of what it is given, so each load is given functions of its own.


def _new(kind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: kind(*arguments)


def _from_buffer() -> Callable[..., Any]:
    def from_buffer(raw: Any, numbers: Any, shape: Any, order: Any) -> _Array:
        array = _Array()
        array.__setstate__((1, shape, numbers, order == "F", raw))
        return array

    return from_buffer


def _encode() -> Callable[..., bytes]:
    """Python 3 writes bytes into old pickles as text in Latin-1."""

    def encode(text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1", "latin-1"):
            raise ValueError(f"bytes as text in latin1 expected, found {encoding!r}")
        return text.encode("latin-1")

    return encode


class _Numbers:
    """Stands in for numpy.dtype: a kind of plain numbers."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any) -> None:
        text = code.decode("latin-1") if isinstance(code, bytes) else str(code)
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"an array of plain numbers expected, found one of dtype {text!r}")
        self.code = text.lstrip("<>|=")

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin-1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "=") or state[2] is not None or state[4] is not None:
            raise ValueError("an array of plain numbers expected, found a structured one")
        self.code = order + self.code


class _Array:
    """Stands in for numpy.ndarray: checks that bytes, shape and kind agree, then makes the array."""

    __slots__ = ("code", "fortran", "raw", "shape")

    def __init__(self, *_: Any) -> None:
        self.raw: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, numbers, fortran, raw = state
        if not isinstance(numbers, _Numbers) or not isinstance(raw, bytes | bytearray):
            raise ValueError("an array of plain numbers expected, found one of objects")
        self.shape = tuple(shape)
        self.code, self.fortran, self.raw = numbers.code, bool(fortran), raw

    def finished(self, path: Path, name: str) -> NDArray[Any]:
        if self.raw is None:
            raise DataError(f"{path.name}: array `{name}` has no content; the file seems damaged.")
        kind = np.dtype(self.code)
        if not all(isinstance(size, int) and size >= 0 for size in self.shape):
            raise DataError(f"{path.name}: array `{name}` has an impossible shape {self.shape}.")
        expected = math.prod(self.shape) * kind.itemsize
        if len(self.raw) != expected:
            raise DataError(
                f"{path.name}: array `{name}` of shape {list(self.shape)} takes {expected:,} bytes, found "
                f"{len(self.raw):,}; the file seems damaged."
            )
        flat = np.frombuffer(self.raw, dtype=kind)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")
