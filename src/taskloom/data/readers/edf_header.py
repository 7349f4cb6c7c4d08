"""The header of an EDF file, read by hand because pyedflib does not say what is cut, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from taskloom.errors import DataError

_FIXED_BYTES = 256
_SIGNAL_BYTES = 256
_BYTES_PER_SAMPLE = 2
_ANNOTATIONS = "EDF Annotations"


@dataclass(frozen=True)
class EdfHeader:
    """What the header says about the signals; annotation channels are left out.

    Args:
        path: The file.
        labels: Signal names.
        units: Physical units.
        rates_hz: Samples per second.
    """

    path: Path
    labels: tuple[str, ...]
    units: tuple[str, ...]
    rates_hz: tuple[float, ...]


def read_header(path: Path) -> EdfHeader:
    """Reads the header and compares what it promises with the file's size.

    Raises:
        DataError: An empty file, no EDF, a recording that was never closed, is discontinuous, or is cut off.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            fixed = file.read(_FIXED_BYTES)
            if not fixed:
                raise DataError(f"{path.name}: the file is empty, an EDF recording expected; get it again.")
            if len(fixed) < _FIXED_BYTES or not fixed.startswith(b"0       "):
                raise DataError(f"{path.name}: not an EDF file; it should begin with a header of version 0.")
            num_signals = int(_number(path, fixed[252:256], "number of signals"))
            if num_signals < 1:
                raise DataError(f"{path.name}: at least 1 signal expected, found {num_signals}.")
            rest = file.read(num_signals * _SIGNAL_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if len(rest) < num_signals * _SIGNAL_BYTES:
        raise DataError(f"{path.name}: the file ends within its header; it seems cut off.")
    if fixed[192:197] == b"EDF+D":
        raise DataError(
            f"{path.name}: the recording is discontinuous (EDF+D), a continuous one (EDF or EDF+C) expected."
        )
    return _signals(path, fixed, rest, num_signals, size)


def _signals(path: Path, fixed: bytes, rest: bytes, num_signals: int, size: int) -> EdfHeader:
    labels = _column(rest, num_signals, 0, 16)
    units = _column(rest, num_signals, 96, 8)
    per_record = [
        int(_number(path, text.encode("latin-1"), f"samples per record of `{label}`"))
        for label, text in zip(labels, _column(rest, num_signals, 216, 8), strict=True)
    ]
    num_records = int(_number(path, fixed[236:244], "number of records"))
    seconds = _number(path, fixed[244:252], "duration of a record")
    if num_records < 0:
        raise DataError(
            f"{path.name}: the recording was never closed; its header does not say how long it is."
        )
    record_bytes = _BYTES_PER_SAMPLE * sum(per_record)
    header_bytes = _FIXED_BYTES + num_signals * _SIGNAL_BYTES
    expected = header_bytes + num_records * record_bytes
    if size < expected:
        whole = (size - header_bytes) // record_bytes
        raise DataError(
            f"{path.name}: {expected:,} bytes expected from its header ({num_records} records), found "
            f"{size:,} ({whole} whole records). The file seems cut off; nothing was written."
        )
    kept = [index for index, label in enumerate(labels) if label != _ANNOTATIONS]
    if kept and seconds <= 0:
        raise DataError(f"{path.name}: records longer than 0 s expected, found {seconds:g} s.")
    return EdfHeader(
        path,
        tuple(labels[index] for index in kept),
        tuple(units[index] for index in kept),
        tuple(per_record[index] / seconds for index in kept),
    )


def _column(rest: bytes, num_signals: int, offset: int, width: int) -> list[str]:
    """One field of all signals; fields stand one after the other, each for all signals."""
    start = offset * num_signals
    return [
        rest[start + index * width : start + (index + 1) * width].decode("latin-1").strip()
        for index in range(num_signals)
    ]


def _number(path: Path, field: bytes, what: str) -> float:
    try:
        return float(field.decode("latin-1").strip())
    except ValueError:
        raise DataError(
            f"{path.name}: not an EDF file; a number expected as {what}, found {field.decode('latin-1')!r}."
        ) from None
