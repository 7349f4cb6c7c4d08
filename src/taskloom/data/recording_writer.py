"""Writing a recording store: whole or not at all, one recording after the other."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskloom.data.store_files import (
    GrowingArray,
    PartialFolder,
    is_replaceable,
)
from taskloom.errors import DataError
from taskloom.version import __version__

FORMAT = "taskloom-recordings"
FORMAT_VERSION = 1
NULL_CODE = 0
"""The code that means "no class" in every track whose table has it."""

CHUNK_SAMPLES = 1 << 15

LabelValue = str | int | float | bool | None | list[Any]


@dataclass(frozen=True)
class Recording:
    """One stretch of samples that belong together in time.

    Args:
        name: Unique in the store.
        start: Position of its first sample in the store.
        length: Number of samples.
        person, session, trial: Whom and what it is of, where known.
        labels: Labels of the recording as a whole; None or no entry where the label is missing.
        gaps: Sample ranges [start, stop) within the recording that no window may touch or cross; start ==
            stop marks a cut between two samples.
    """

    name: str
    start: int
    length: int
    person: str | None = None
    session: str | None = None
    trial: str | None = None
    labels: Mapping[str, LabelValue] = field(default_factory=dict)
    gaps: tuple[tuple[int, int], ...] = ()

    @property
    def stop(self) -> int:
        """Position after its last sample in the store."""
        return self.start + self.length

    @property
    def segments(self) -> list[tuple[int, int]]:
        """The ranges [start, stop) between gaps, positions in the recording, none of them empty."""
        edges = [0]
        for gap_start, gap_stop in self.gaps:
            edges += [max(gap_start, edges[-1]), max(gap_stop, edges[-1])]
        edges.append(self.length)
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return [(start, stop) for start, stop in pairs if stop > start]


class RecordingWriter:
    """Writes a store, one recording after the other; memory does not grow with their number.

    Use it in a `with` block: on an error everything written so far is removed. `close` puts the store in its
    place, over an older store of that place if there is one.

    Args:
        folder: Where the store will be.
        channels: Channel names, in column order.
        rate_hz: Samples per second.
        tracks: Per track of labels, its table code -> class name. Code 0 is NULL where a table has it.

    Raises:
        DataError: The folder cannot be written or holds something that is not a store; no or doubled
            channels; a rate that is not above 0.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp() + "/store"
        >>> with RecordingWriter(folder, channels=["x"], rate_hz=30.0,
        ...                      tracks={"gait": {0: "NULL", 1: "walk"}}) as writer:
        ...     writer.add("S1", np.ones((4, 1)), tracks=np.array([[0], [1], [1], [1]]), person="S1")
        ...     writer.close(sources={}, reader="example", parameters={})
        >>> from taskloom.data.recordings import RecordingStore
        >>> RecordingStore.open(folder).recordings[0].length
        4
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        channels: Sequence[str],
        rate_hz: float,
        tracks: Mapping[str, Mapping[int, str]] = MappingProxyType({}),
    ) -> None:
        self.folder = Path(folder)
        self.channels = tuple(str(channel) for channel in channels)
        self.rate_hz = float(rate_hz)
        self.tracks = {
            str(name): {int(c): str(n) for c, n in table.items()} for name, table in tracks.items()
        }
        self._check_header()
        self._codes = [np.array(sorted(table), dtype=np.int64) for table in self.tracks.values()]
        self._recordings: list[Recording] = []
        self._names: set[str] = set()
        self._total_samples = 0
        self._done = False
        with self._sentences():
            if self.folder.exists() and not is_replaceable(self.folder):
                raise DataError(
                    f"{self.folder}: an empty or new folder, or an older store, expected; found other files. "
                    "Choose another folder."
                )
            self._partial = PartialFolder(self.folder)
            partial = self._partial.path
            self._samples = GrowingArray(partial / "samples.npy", np.dtype("<f4"), len(self.channels))
            self._tracks = GrowingArray(partial / "tracks.npy", np.dtype("<i4"), len(self.tracks))

    def add(
        self,
        name: str,
        samples: ArrayLike,
        tracks: ArrayLike | None = None,
        labels: Mapping[str, Any] | None = None,
        person: str | int | None = None,
        session: str | int | None = None,
        trial: str | int | None = None,
        gaps: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Appends one recording.

        Args:
            name: Unique in the store.
            samples: Finite numbers [n, channels], n >= 1; stored as float32.
            tracks: Label codes [n, num_tracks]; needed when the store has tracks.
            labels: Labels of the whole recording: text, numbers, yes/no, lists of them; None = missing.
            person, session, trial: Whom and what it is of.
            gaps: Sample ranges [start, stop), 0 <= start <= stop <= n, that no window may touch or cross.

        Raises:
            DataError: A wrong shape, NaN or infinity, a code that is not in its track's table, a second
                recording of the name, an impossible gap, a full disk. The writer can only be abandoned then.
        """
        if self._done:
            raise ValueError("the writer is closed")
        if str(name) in self._names:
            raise DataError(f"recording {name}: the store has a recording of this name already.")
        values = np.asanyarray(samples)
        self._check_shape(name, values)
        codes = self._check_tracks(name, tracks, len(values))
        recording = Recording(
            name=str(name),
            start=self._total_samples,
            length=len(values),
            person=None if person is None else str(person),
            session=None if session is None else str(session),
            trial=None if trial is None else str(trial),
            labels=_plain_labels(name, labels or {}),
            gaps=_checked_gaps(name, gaps, len(values)),
        )
        for start in range(0, len(values), CHUNK_SAMPLES):
            with np.errstate(over="ignore"):  # becomes infinity, which the check names
                chunk = np.ascontiguousarray(values[start : start + CHUNK_SAMPLES], dtype="<f4")
            self._check_finite(name, chunk, start)
            with self._sentences():
                self._samples.append(chunk)
                self._tracks.append(np.ascontiguousarray(codes[start : start + CHUNK_SAMPLES], dtype="<i4"))
        self._recordings.append(recording)
        self._names.add(recording.name)
        self._total_samples += len(values)

    def close(self, *, sources: Mapping[str, str], reader: str, parameters: Mapping[str, Any]) -> None:
        """Completes the store and puts it in its place.

        Args:
            sources: Per source file, its SHA-256.
            reader: Name of what read them.
            parameters: Plain values that decided how; JSON-serialisable.

        Raises:
            DataError: No recording was added, the disk is full, or the place cannot be written.
        """
        if not self._recordings:
            self.abort()
            raise DataError(f"{self.folder}: a store needs at least one recording, found none.")
        try:
            with self._sentences():
                about = {
                    "format": FORMAT,
                    "version": FORMAT_VERSION,
                    "taskloom": __version__,
                    "rate_hz": self.rate_hz,
                    "channels": list(self.channels),
                    "num_samples": self._total_samples,
                    "samples_sha256": self._samples.finish(),
                    "tracks_sha256": self._tracks.finish(),
                    "tracks": [{"name": name, "classes": table} for name, table in self.tracks.items()],
                    "recordings": [_plain_recording(recording) for recording in self._recordings],
                    "sources": dict(sources),
                    "reader": reader,
                    "parameters": dict(parameters),
                }
                text = json.dumps(about, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
                with open(self._partial.path / "store.json", "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                self._partial.move_into_place()
                self._done = True
        finally:
            if not self._done:
                self.abort()

    def abort(self) -> None:
        """Removes everything written so far; the place of the store stays as it was."""
        if not self._done:
            self._done = True
            for name in ("_samples", "_tracks"):
                if hasattr(self, name):  # the constructor may have failed before
                    getattr(self, name).discard()
            if hasattr(self, "_partial"):
                self._partial.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unclosed = not self._done
        self.abort()
        if kind is None and unclosed:
            raise ValueError(
                "the `with` block of a RecordingWriter ended without close(); nothing was written"
            )

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turns errors of the file system into one sentence, with nothing left behind."""
        try:
            yield
        except OSError as error:
            self.abort()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"{self.folder}: the disk is full; free some space or choose another folder. "
                    "Nothing was written."
                ) from error
            raise DataError(
                f"{self.folder}: the folder cannot be written ({error.strerror or error}); "
                "nothing was written."
            ) from error

    def _check_header(self) -> None:
        if not self.channels:
            raise DataError(f"{self.folder}: a store needs at least one channel, found none.")
        for noun, names in (("channel", self.channels), ("track", tuple(self.tracks))):
            double = next((name for name in names if names.count(name) > 1), None)
            if double is not None:
                raise DataError(f"{self.folder}: {noun} `{double}` stands twice; {noun} names are unique.")
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise DataError(f"{self.folder}: rate_hz above 0 expected, found {self.rate_hz}.")
        for name, table in self.tracks.items():
            if not table:
                raise DataError(f"{self.folder}: track `{name}` has no classes; give its table code -> name.")

    def _check_shape(self, name: str, values: NDArray[Any]) -> None:
        if values.ndim != 2 or values.shape[1] != len(self.channels):
            raise DataError(
                f"recording {name}: samples of shape [n, {len(self.channels)}] expected (one column "
                f"per channel), found {list(values.shape)}."
            )
        if len(values) == 0:
            raise DataError(f"recording {name}: at least one sample expected, found none.")
        if values.dtype.kind not in "fiub":
            raise DataError(f"recording {name}: numbers expected as samples, found {values.dtype}.")

    def _check_finite(self, name: str, chunk: NDArray[np.float32], offset: int) -> None:
        finite = np.isfinite(chunk)
        if finite.all():
            return
        row, column = np.argwhere(~finite)[0]
        whole = "in every sample so far" if not finite[:, column].any() else f"at sample {offset + row}"
        raise DataError(
            f"recording {name}: channel `{self.channels[column]}` is {chunk[row, column]} {whole}; "
            "every sample needs a finite number (fill or cut missing stretches first)."
        )

    def _check_tracks(self, name: str, tracks: ArrayLike | None, length: int) -> NDArray[Any]:
        if tracks is None:
            if self.tracks:
                raise DataError(
                    f"recording {name}: label codes for tracks {', '.join(self.tracks)} expected, found none."
                )
            return np.zeros((length, 0), dtype=np.int32)
        codes = np.asanyarray(tracks)
        if codes.shape != (length, len(self.tracks)):
            raise DataError(
                f"recording {name}: label codes of shape [{length}, {len(self.tracks)}] expected (samples, "
                f"tracks), found {list(codes.shape)}."
            )
        if codes.dtype.kind not in "iu":
            raise DataError(f"recording {name}: whole numbers expected as label codes, found {codes.dtype}.")
        for column, (track, known) in enumerate(zip(self.tracks, self._codes, strict=True)):
            strange = ~np.isin(codes[:, column], known)
            if strange.any():
                sample = int(np.argmax(strange))
                raise DataError(
                    f"recording {name}: track `{track}` has code {codes[sample, column]} at sample {sample}, "
                    f"which is not in its table; known codes: {', '.join(str(code) for code in known)}."
                )
        return codes


def _plain_recording(recording: Recording) -> dict[str, Any]:
    """A recording as JSON values."""
    return {
        **recording.__dict__,
        "labels": dict(recording.labels),
        "gaps": [list(gap) for gap in recording.gaps],
    }


def _plain_labels(recording: str, labels: Mapping[str, Any]) -> dict[str, LabelValue]:
    plain: dict[str, LabelValue] = {}
    for name, value in labels.items():
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        for element in value if isinstance(value, list | tuple) else (value,):
            if not isinstance(element, str | int | float | bool | None):
                raise DataError(
                    f"recording {recording}: label `{name}` is a {type(element).__name__}; text, a number or "
                    "None for a missing label expected."
                )
            if isinstance(element, float) and not math.isfinite(element):
                raise DataError(
                    f"recording {recording}: label `{name}` is {element}; a finite number expected, or None "
                    "for a missing label."
                )
        plain[str(name)] = list(value) if isinstance(value, tuple) else value
    return plain


def _checked_gaps(
    recording: str, gaps: Sequence[tuple[int, int]], length: int
) -> tuple[tuple[int, int], ...]:
    checked = sorted((int(start), int(stop)) for start, stop in gaps)
    for start, stop in checked:
        if not 0 <= start <= stop <= length:
            raise DataError(
                f"recording {recording}: a gap within its {length} samples expected, found [{start}, {stop})."
            )
    return tuple(checked)
