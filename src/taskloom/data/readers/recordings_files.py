"""One recording from one file of CSV, NPY, NPZ, EDF or WAV: samples, rate, channels, labels per sample."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from taskloom.data.feature_arrays import UNREADABLE
from taskloom.data.readers.edf import EdfReader
from taskloom.data.readers.wav import chosen_wav_channels, pick_wav_channels
from taskloom.data.readers.wav_file import read_wav_header
from taskloom.data.tables import read_table, sniff_separator
from taskloom.errors import ConfigError, DataError, did_you_mean

TimeUnit = Literal["s", "ms", "us"]

SUFFIXES = (".csv", ".npy", ".npz", ".edf", ".wav")
MISSING = ("NaN", "nan", "NAN", "NA", "null", "NULL")
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6}
_USUAL_TIME = "time"
_RATE_TOLERANCE = 0.01
_HOLE = 1.5
"""A step in time above this many periods is a hole."""
_LONGEST_HOLES = 10
"""Holes of more samples than this many times the rows that are there are a mistake in the times."""


@dataclass(frozen=True)
class FileSettings:
    """How files are read.

    Args:
        channels: Columns or signals to read, in this order; names for the columns of NPY. None: every column
            that is neither time nor a track.
        rate_hz: Samples per second; None where the files say it themselves.
        time: Column of CSV with the time of every row; None takes a column `time` where there is one.
        time_unit: Its unit.
        tracks: Columns of CSV, or arrays of NPZ, that hold a label per sample.

    Raises:
        ConfigError: A rate that is not above 0, or an unknown unit.
    """

    channels: tuple[str, ...] | None = None
    rate_hz: float | None = None
    time: str | None = None
    time_unit: TimeUnit = "s"
    tracks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not self.rate_hz > 0:
            raise ConfigError(f"data.rate_hz: a rate above 0 expected, found {self.rate_hz!r}.")
        if self.time_unit not in get_args(TimeUnit):
            raise ConfigError(f"data.time_unit: s, ms or us expected, found {self.time_unit!r}.")


@dataclass(frozen=True)
class FileContent:
    """What a file holds.

    Args:
        samples: [n, channels] float32, NaN where a value is missing.
        channels: Names of the columns.
        rate_hz: Samples per second; None where neither the file nor a setting says it.
        tracks: Labels per sample as text, [n] each.
        measured: Whether the rate comes from times, which jitter.
    """

    samples: NDArray[np.float32]
    channels: tuple[str, ...]
    rate_hz: float | None
    tracks: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    measured: bool = False


def read_file(path: Path, settings: FileSettings) -> FileContent:
    """Reads one file by its suffix.

    Raises:
        DataError: An empty or broken file, another shape, a column that is not there, a cell that is not a
            number, times that run backwards.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: the file is empty, a recording expected; leave it out.")
    content = _READERS[path.suffix.lower()](path, settings)
    if not len(content.samples):
        raise DataError(f"{path.name}: at least one sample expected, found none.")
    return content


def same_rate(one_hz: float, other_hz: float, *, measured: bool) -> bool:
    """Whether two rates are the same; measured ones may differ by one percent."""
    if not measured:
        return one_hz == other_hz
    return abs(one_hz - other_hz) <= _RATE_TOLERANCE * other_hz


# -- CSV


def _read_csv(path: Path, settings: FileSettings) -> FileContent:
    header = csv_header(path)
    time = _time_column(path, header, settings)
    for track in settings.tracks:
        _need_column(path, track, header, "data.tracks")
    channels = settings.channels or tuple(
        name for name in header if name != time and name not in settings.tracks
    )
    for channel in channels:
        _need_column(path, channel, header, "data.channels")
    if not channels:
        raise DataError(f"{path.name}: a column besides time and tracks expected, found none.")
    kinds = {
        **dict.fromkeys(channels, pa.float32()),
        **dict.fromkeys(settings.tracks, pa.string()),
        **({time: pa.float64()} if time else {}),
    }
    table = _typed_columns(path, kinds)
    samples = np.stack([_numbers(table, channel) for channel in channels], axis=1)
    tracks = {name: _texts(table, name) for name in settings.tracks}
    if time is None:
        return FileContent(samples, channels, settings.rate_hz, tracks)
    seconds = table.column(time).to_numpy().astype(np.float64) / _PER_SECOND[settings.time_unit]
    rows, rate_hz = _rows_on_grid(path, seconds)
    if rows is not None:
        samples, tracks = _with_holes(samples, rows), {n: t[np.abs(rows) - 1] for n, t in tracks.items()}
    return FileContent(samples, channels, rate_hz, tracks, measured=True)


def csv_header(path: Path) -> list[str]:
    """Returns the names in the first line, without surrounding blanks."""
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: the file is empty, a recording expected; leave it out.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter=sniff_separator(path)))
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: text in UTF-8 expected, found other bytes.") from error
    names = [name.strip() for name in names]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise DataError(f"{path.name}:1: column `{double}` stands twice; names of columns are unique.")
    return names


def _typed_columns(path: Path, kinds: Mapping[str, Any]) -> Any:
    """The columns of a CSV as a pyarrow table; slow and exact only where there is a mistake to locate."""
    try:
        return pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(column_names=csv_header(path), skip_rows=1),
            parse_options=pyarrow.csv.ParseOptions(delimiter=sniff_separator(path)),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict(kinds),
                include_columns=list(kinds),
                null_values=["", *MISSING],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        table = read_table(path, missing=MISSING)
        for name, kind in kinds.items():
            if kind != pa.string():
                table.numbers(name)
        what = str(error).splitlines()[0]
        raise DataError(f"{path.name}: not readable as columns of numbers ({what}).") from error


def _numbers(table: Any, name: str) -> NDArray[np.float32]:
    return np.asarray(table.column(name).to_numpy(), dtype=np.float32)


def _texts(table: Any, name: str) -> NDArray[Any]:
    return np.asarray(np.char.strip(np.asarray(table.column(name).to_numpy(), dtype=str)))


def _time_column(path: Path, header: list[str], settings: FileSettings) -> str | None:
    if settings.time is None:
        return _USUAL_TIME if _USUAL_TIME in header else None
    return _need_column(path, settings.time, header, "data.time")


def _need_column(path: Path, name: str, header: list[str], setting: str) -> str:
    if name not in header:
        raise DataError(
            f"{path.name}: no column `{name}`, which `{setting}` names.{did_you_mean(name, header)} Columns: "
            f"{', '.join(header[:20])}{', ...' if len(header) > 20 else ''}."
        )
    return name


def _rows_on_grid(path: Path, seconds: NDArray[np.float64]) -> tuple[NDArray[np.int64] | None, float]:
    """Which row stands at every tick, and the rate; rows None where no row is missing.

    Rows count from 1; a tick without a row has the row before it with a minus sign.
    """
    step = np.diff(seconds)
    wrong = np.flatnonzero(~(step >= 0))
    if len(wrong):
        row = int(wrong[0]) + 1
        kind = "has no value" if np.isnan(seconds[row - 1 : row + 1]).any() else "runs backwards"
        raise DataError(
            f"{path.name}:{row + 2}: time {kind}, from {seconds[row - 1]:.15g} to {seconds[row]:.15g} s; the "
            "lines should be in the order they were recorded."
        )
    usual = float(np.median(step)) if len(step) else 0.0
    if usual == 0.0:
        raise DataError(
            f"{path.name}: times that tell samples apart expected, found most of them equal (or one row)."
        )
    period = float(step[step < _HOLE * usual].mean())
    ticks = np.maximum(1.0, np.round(step / period))
    ticks[step < _HOLE * usual] = 1.0
    if not (ticks > 1).any():
        return None, 1.0 / period
    _check_holes(path, seconds, ticks)
    rows = np.repeat(np.arange(1, len(seconds) + 1), np.concatenate((ticks, [1])).astype(np.int64))
    is_first = np.concatenate(([True], np.diff(rows) > 0))
    return np.where(is_first, rows, -rows), 1.0 / period


def _check_holes(path: Path, seconds: NDArray[np.float64], ticks: NDArray[np.float64]) -> None:
    """Refuses times that leap ahead, before samples are set aside for all the time between."""
    num_samples = float(ticks.sum()) + 1
    if num_samples > (1 + _LONGEST_HOLES) * len(seconds):
        row = int(ticks.argmax()) + 1
        raise DataError(
            f"{path.name}:{row + 2}: time leaps from {seconds[row - 1]:.15g} to {seconds[row]:.15g} s; "
            f"of the {num_samples:.3g} samples that the times make, {len(seconds):,} are there. Correct the "
            "times, or make files of the parts."
        )


def _with_holes(samples: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    placed: NDArray[np.float32] = samples[np.abs(rows) - 1]
    placed[rows < 0] = np.nan
    return placed


# -- the others


def _read_npy(path: Path, settings: FileSettings) -> FileContent:
    samples = _as_samples(path, _loaded(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False)))
    return FileContent(samples, _column_names(path, samples, settings.channels), settings.rate_hz)


def _read_npz(path: Path, settings: FileSettings) -> FileContent:
    def load() -> dict[str, NDArray[Any]]:
        # Opened here, because NumPy leaves a file open that turns out to be none of its own.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)

    arrays = _loaded(path, load)
    if not isinstance(arrays, dict) or "samples" not in arrays:
        found = ", ".join(arrays) if isinstance(arrays, dict) else "a single array"
        raise DataError(f"{path.name}: an array `samples` [n, channels] expected, found {found}.")
    samples = _as_samples(path, arrays["samples"])
    tracks = {}
    for name in settings.tracks:
        if name not in arrays or arrays[name].shape != (len(samples),):
            found = f"one of shape {list(arrays[name].shape)}" if name in arrays else "none"
            raise DataError(
                f"{path.name}: an array `{name}` of shape [{len(samples)}] (`data.tracks`) expected, found "
                f"{found}."
            )
        tracks[name] = arrays[name].astype(str)
    names = tuple(str(name) for name in arrays["channels"]) if "channels" in arrays else None
    rate_hz = float(arrays["rate_hz"]) if "rate_hz" in arrays else settings.rate_hz
    named = _column_names(path, samples, names or settings.channels)
    if names is not None and settings.channels is not None:
        for channel in settings.channels:
            _need_column(path, channel, list(named), "data.channels")
        samples = samples[:, [named.index(channel) for channel in settings.channels]]
        named = settings.channels
    return FileContent(samples, named, rate_hz, tracks)


def _loaded(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except UNREADABLE as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path.name}: not readable as an array of numbers ({what}); the file "
            "seems cut off, or holds Python objects, which are not admitted."
        ) from error


def _as_samples(path: Path, values: Any) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise DataError(
            f"{path.name}: numbers of shape [n, channels] expected, found {array.dtype} {list(array.shape)}."
        )
    with np.errstate(over="ignore"):  # becomes infinity, which is refused by name further on
        return array.astype(np.float32)


def _column_names(path: Path, samples: NDArray[Any], names: tuple[str, ...] | None) -> tuple[str, ...]:
    width = samples.shape[1]
    if names is None:
        return tuple(f"channel_{index}" for index in range(width))
    if len(names) != width:
        raise DataError(
            f"{path.name}: {len(names)} channels expected ({', '.join(names[:5])}), found {width}."
        )
    return names


def _read_edf(path: Path, settings: FileSettings) -> FileContent:
    reader = EdfReader(path.parent, channels=settings.channels)
    return FileContent(reader.read(path).samples, tuple(reader.channels), reader.native_rate_hz)


def _read_wav(path: Path, settings: FileSettings) -> FileContent:
    header = read_wav_header(path)
    names, columns = chosen_wav_channels(header, settings.channels or "all")
    return FileContent(pick_wav_channels(header, columns), names, float(header.rate_hz))


_READERS: dict[str, Callable[[Path, FileSettings], FileContent]] = {
    ".csv": _read_csv,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".edf": _read_edf,
    ".wav": _read_wav,
}
