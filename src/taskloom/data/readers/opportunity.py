"""OPPORTUNITY's `S{person}-{run}.dat` files: 250 whitespace-separated columns at 30 Hz.

Cleaning as in thesis 002, section 3.2: lost packets at the end of a run are cut, other gaps carry the last
value forward (the first value backward at the start), however long they are unless a limit is set. Clipping
to mean +- 10 standard deviations is not done here: it belongs to the normaliser, which is fitted on training
data only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taskloom.data.read_ahead import read_ahead
from taskloom.data.readers import ReadRecording
from taskloom.data.readers.opportunity_codes import (
    COLUMN_NAMES,
    FIRST_TRACK_COLUMN,
    NUM_COLUMNS,
    RATE_HZ,
    TRACKS,
    channel_columns,
)
from taskloom.data.signals import SignalSteps, carry_forward, samples_of
from taskloom.errors import ConfigError, DataError

_FILE_NAME = re.compile(r"S(?P<person>\d+)-(?P<run>\w+)\.dat")
_LAYOUT = "time, 242 sensors, 7 labels"
_RATE_TOLERANCE = 0.05


class OpportunityReader:
    """Reads a folder of OPPORTUNITY's .dat files, one file at a time.

    Args:
        folder: The folder that holds `S1-ADL1.dat` and so on.
        channels: "thesis" (107 on-body channels), "on_body" (133), "all" (242), "quickstart" (21
            accelerometer channels), or a list of 0-based columns and official names.
        all_nan: What to do with a channel that is lost throughout a file: "error", or "zero" to fill it with
            zeros, which `notes` then says.
        carry_forward_seconds: The oldest value that fills a gap; where a channel is missing for longer, no
            window touches the samples beyond. None carries every value as far as the gap goes.
        files: These files, in place of those of the folder.

    Raises:
        DataError: No such folder, or no .dat file of that name in it.
        ConfigError: An unknown setting.
    """

    name = "opportunity"
    rate_hz = RATE_HZ
    label_classes: Mapping[str, Sequence[str]] = MappingProxyType({})

    def __init__(
        self,
        folder: str | Path,
        *,
        channels: str | Sequence[int | str] = "thesis",
        all_nan: Literal["error", "zero"] = "error",
        carry_forward_seconds: float | None = None,
        files: Sequence[Path] | None = None,
    ) -> None:
        self.root = Path(folder)
        self.columns = channel_columns(channels)
        if all_nan not in ("error", "zero"):
            raise ConfigError(f'data.all_nan: "error" or "zero" expected, found {all_nan!r}.')
        self.all_nan = all_nan
        # Checks the number as for the other readers.
        self.carry_forward_seconds = SignalSteps(
            carry_forward_seconds=carry_forward_seconds
        ).carry_forward_seconds
        self.files = _find_files(self.root) if files is None else list(files)
        self.notes: list[str] = []

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(COLUMN_NAMES[column] for column in self.columns)

    @property
    def tracks(self) -> Mapping[str, Mapping[int, str]]:
        return TRACKS

    @property
    def parameters(self) -> dict[str, Any]:
        limit = self.carry_forward_seconds
        limited = {} if limit is None else {"carry_forward_seconds": limit}  # stores without one stay good
        return {"columns": list(self.columns), "all_nan": self.all_nan, **limited}

    def recordings(self) -> Iterator[ReadRecording]:
        """Recordings in the order of `files`; the next file is read while the caller works with this one."""
        for recording, notes in read_ahead(map(self._read, self.files)):
            self.notes += notes
            yield recording

    def read(self, path: Path) -> ReadRecording:
        """Reads and cleans one file.

        Raises:
            DataError: A line that has not 250 columns or holds something else than numbers, a label code that
                is not in its table, time that runs backwards, a channel without any value, nothing but lost
                packets.
        """
        recording, notes = self._read(path)
        self.notes += notes
        return recording

    def read_unlabelled(self, path: Path) -> tuple[ReadRecording, int]:
        """Reads and cleans one file whose labels say nothing, such as one to be predicted.

        Its name may be any, and its label columns hold any number or NaN. Its times must be those of 30 Hz,
        because nothing else says that it is such a recording.

        Returns:
            The recording, without tracks, and how many lines the file has.

        Raises:
            DataError: As `read` does, but for codes and names of files; times of another rate.
        """
        notes: list[str] = []
        values = _parse(path, self.columns, labelled=False)
        _check_order(path, values[:, 0])
        _check_rate(path, values[:, 0])
        remedy = "the network was trained on it (with `data.all_nan: zero` it would count as zeros)"
        samples, gaps = self._cut_and_fill(path, values[:, 1 : 1 + len(self.columns)], notes, remedy)
        self.notes += notes
        recording = ReadRecording(name=path.stem, samples=samples, person=self.person_of(path), gaps=gaps)
        return recording, len(values)

    def person_of(self, path: Path) -> str | None:
        """Whom a file's name says that it is of; None for a name that is not like `S1-ADL1.dat`."""
        match = _FILE_NAME.fullmatch(path.name)
        return None if match is None else f"S{match['person']}"

    def _read(self, path: Path) -> tuple[ReadRecording, list[str]]:
        """A file's recording and what is to be noted of it; changes nothing in the reader."""
        notes: list[str] = []
        values = _parse(path, self.columns)
        codes = _check_codes(path, values[:, -len(TRACKS) :])
        _check_order(path, values[:, 0])
        samples, gaps = self._cut_and_fill(path, values[:, 1 : 1 + len(self.columns)], notes)
        match = _FILE_NAME.fullmatch(path.name)
        assert match is not None  # _find_files took only such names
        recording = ReadRecording(
            name=path.stem,
            samples=samples,
            tracks=codes[: len(samples)],
            person=f"S{match['person']}",
            session=match["run"],
            gaps=gaps,
        )
        return recording, notes

    def _cut_and_fill(
        self,
        path: Path,
        samples: NDArray[np.float32],
        notes: list[str],
        remedy: str = "leave it out of `data.channels`, or set `data.all_nan: zero` to fill it with zeros",
    ) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:
        """Samples without a hole [kept, channels], and the stretches that were missing for too long."""
        there = ~np.isnan(samples)
        rows = np.flatnonzero(there.any(axis=1))
        if len(rows) == 0:
            raise DataError(f"{path.name}: every packet is lost in the chosen channels; leave the file out.")
        kept = int(rows[-1]) + 1
        empty = np.flatnonzero(~there.any(axis=0))
        if len(empty):
            names = ", ".join(f"{self.columns[i]} ({COLUMN_NAMES[self.columns[i]]})" for i in empty[:3])
            more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
            if self.all_nan == "error":
                raise DataError(
                    f"{path.name}: channel {names}{more} has no value in the whole file; {remedy}."
                )
            notes.append(f"{path.name}: channel {names}{more} has no value and was filled with zeros.")
            samples[:, empty] = 0
        lost = int((~there[:kept]).sum())
        if kept < len(samples) or lost:
            notes.append(
                f"{path.name}: {len(samples) - kept} lost packets cut at the end, "
                f"{lost / (kept * samples.shape[1]):.1%} of the values before carried forward."
            )
        return fill_gaps(samples[:kept]), self._too_long(path, samples[:kept], notes)

    def _too_long(self, path: Path, samples: NDArray[np.float32], notes: list[str]) -> list[tuple[int, int]]:
        """Stretches [start, stop) where some channel has no value within the limit."""
        if self.carry_forward_seconds is None:
            return []
        within = carry_forward(samples, samples_of(self.carry_forward_seconds, RATE_HZ))
        missing = np.isnan(within).any(axis=1)
        edges = np.flatnonzero(np.diff(missing, prepend=False, append=False))
        gaps = list(zip(edges[0::2].tolist(), edges[1::2].tolist(), strict=True))
        if gaps:
            notes.append(
                f"{path.name}: no window touches {missing.sum() / RATE_HZ:.1f} s in {len(gaps)} stretches "
                f"where a channel has no value within `carry_forward_seconds` {self.carry_forward_seconds:g}."
            )
        return gaps


def fill_gaps(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns samples in which NaN is the channel's last value before it, or its first one at the start.

    Args:
        samples: [n, channels]; a channel that is NaN throughout stays so.

    Example:
        >>> fill_gaps(np.array([[np.nan], [1], [np.nan], [2]], dtype=np.float32)).ravel()
        array([1., 1., 1., 2.], dtype=float32)
    """
    filled = samples.copy()
    missing = np.isnan(samples)
    # Work goes by the values that are missing, which are few, not by all that are there.
    for channel in np.flatnonzero(missing.any(axis=0)):
        rows = np.flatnonzero(missing[:, channel])
        first = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of every run of missing values
        lengths = np.diff(first, append=len(rows))
        sources = rows[first] - 1
        if sources[0] < 0:
            sources[0] = min(lengths[0], len(samples) - 1)
        filled[rows, channel] = np.repeat(samples[sources, channel], lengths)
    return filled


def _find_files(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give the folder that holds OPPORTUNITY's .dat files.")
    files = sorted(path for path in root.iterdir() if _FILE_NAME.fullmatch(path.name))
    if files:
        return files
    found = sorted(path.name for path in root.iterdir())
    inner = root / "dataset"
    hint = f" Did you mean {inner}?" if inner.is_dir() else ""
    raise DataError(
        f"{root}: files like S1-ADL1.dat and S1-Drill.dat expected, found "
        f"{', '.join(found[:4]) or 'an empty folder'}{' and others' if len(found) > 4 else ''}.{hint}"
    )


# -- text to numbers


def _parse(path: Path, columns: Sequence[int], *, labelled: bool = True) -> NDArray[np.float32]:
    """Time, chosen columns and labels of every line, [n, 1 + channels + 7]; `labelled`: no label is NaN."""
    try:
        table = _read_single_spaced(path)
        if table is None:
            table = _read_table(path, r"\s+")
    except pd.errors.EmptyDataError:
        raise DataError(
            f"{path.name}: the file is empty, {NUM_COLUMNS} columns ({_LAYOUT}) expected; get it again."
        ) from None
    except (pd.errors.ParserError, ValueError) as error:
        _raise_first_bad_line(path, labelled=labelled)
        raise DataError(f"{path.name}: not readable as columns of numbers ({error}).") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if not _is_whole(table):
        _raise_first_bad_line(path, labelled=labelled)
    return table[[0, *columns, *range(FIRST_TRACK_COLUMN, NUM_COLUMNS)]].to_numpy()


def _read_table(path: Path, separator: str) -> pd.DataFrame:
    """All columns of every line as numbers; what does not fit raises what pandas raises."""
    # All columns are read, because with `usecols` pandas passes over lines that are too long.
    return pd.read_csv(
        path,
        sep=separator,
        header=None,
        engine="c",
        dtype=np.float32,  # exact for whole numbers below 2**24: every code, and 4.6 hours of ms
        na_values=["NaN"],
        keep_default_na=False,
    )


def _read_single_spaced(path: Path) -> pd.DataFrame | None:
    """The table of a file whose words stand one space apart, as the data set's do; else None.

    pandas splits at one given character in half the time that it needs for any white space. A second space
    leaves an empty word, which is no number: such a file, like every other that does not fit, is None here
    and read the general way, which also finds the sentence that says what is wrong with it.
    """
    with path.open("rb") as file:
        first_line = file.readline()
    if first_line.rstrip(b"\r\n").split(b" ") != first_line.split():
        return None
    try:
        table = _read_table(path, " ")
    except ValueError:  # pandas' ParserError and EmptyDataError too
        return None
    return table if _is_whole(table) else None


def _is_whole(table: pd.DataFrame) -> bool:
    """Whether every line has all columns: a short one is filled up with NaN, and a label is never NaN."""
    return table.shape[1] == NUM_COLUMNS and not table[[0, NUM_COLUMNS - 1]].isna().to_numpy().any()


def _raise_first_bad_line(path: Path, *, labelled: bool = True) -> None:
    """Walks through the text for the sentence that says what is wrong; slow, for errors only."""
    with path.open("rb") as file:
        lines = [(number, words) for number, line in enumerate(file, 1) if (words := line.split())]
    for position, (number, words) in enumerate(lines):
        if len(words) != NUM_COLUMNS:
            at_end = position == len(lines) - 1 and len(words) < NUM_COLUMNS
            then = "The file seems cut off; nothing was written." if at_end else "Nothing was written."
            raise DataError(
                f"{path.name}:{number}: {len(words)} columns, expected {NUM_COLUMNS} ({_LAYOUT}). {then}"
            )
        for column, word in enumerate(words):
            if not _is_number(word):
                raise DataError(
                    f"{path.name}:{number}: a number or NaN expected in column {column} "
                    f"({COLUMN_NAMES[column]}), found `{word.decode(errors='replace')}`."
                )
            if word == b"NaN" and (column == 0 or (labelled and column >= FIRST_TRACK_COLUMN)):
                raise DataError(
                    f"{path.name}:{number}: a number expected in column {column} ({COLUMN_NAMES[column]}), "
                    "found NaN."
                )


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_order(path: Path, time: NDArray[np.float32]) -> None:
    """Refuses times [n], in ms, that run backwards."""
    backwards = np.flatnonzero(~(np.diff(time) >= 0))
    if len(backwards):
        row = int(backwards[0]) + 1
        raise DataError(
            f"{path.name}:{_line_of_row(path, row)}: time runs backwards, from {time[row - 1]:g} to "
            f"{time[row]:g} ms; the lines should be in the order they were recorded."
        )


def _check_rate(path: Path, time: NDArray[np.float32]) -> None:
    """Refuses ascending times [n], in ms, that are not those of 30 Hz but for jitter and lost packets."""
    steps = np.diff(time.astype(np.float64))
    usual = float(np.median(steps)) if len(steps) else 1e3 / RATE_HZ
    period = float(steps[steps < 1.5 * usual].mean()) if len(steps) and usual > 0 else usual
    if not abs(period * RATE_HZ / 1e3 - 1) <= _RATE_TOLERANCE:
        found = f"{1e3 / period:.3g} Hz" if period > 0 else "times that do not advance"
        raise DataError(
            f"{path.name}: {RATE_HZ:g} Hz expected as in the training, found {found} in the times of column "
            "0 (ms); resample the file."
        )


def _check_codes(path: Path, codes: NDArray[np.float32]) -> NDArray[np.int32]:
    """Label codes as integers, [n, 7], all of them in their tables."""
    for position, (track, table) in enumerate(TRACKS.items()):
        strange = np.flatnonzero(~np.isin(codes[:, position], list(table)))
        if len(strange):
            row = int(strange[0])
            code = codes[row, position]
            if np.isnan(code):
                _raise_first_bad_line(path)
            raise DataError(
                f"{path.name}:{_line_of_row(path, row)}: code {code:.15g} is not in the table of track "
                f"{track} (column {FIRST_TRACK_COLUMN + position}); known: {', '.join(map(str, table))}."
            )
    return codes.astype(np.int32)


def _line_of_row(path: Path, row: int) -> int:
    """Line number of the `row`-th line that is not blank."""
    with path.open("rb") as file:
        numbers = (number for number, line in enumerate(file, 1) if line.strip())
        return next(number for position, number in enumerate(numbers) if position == row)
