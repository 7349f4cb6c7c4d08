"""Readers: native files, as they are, to recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass
class ReadRecording:
    """One recording as a reader gives it, ready for the store.

    Args:
        name: Unique among the reader's recordings.
        samples: Finite values, float32 [n, channels].
        tracks: Label codes per sample, int32 [n, tracks]; None where the reader has no tracks.
        labels: Labels of the whole recording; None where one is missing.
        person, session, trial: Whom and what it is of, where known.
        gaps: Sample ranges [start, stop) that no window may touch or cross; see `RecordingWriter.add`.
    """

    name: str
    samples: NDArray[np.float32]
    tracks: NDArray[np.int32] | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    person: str | None = None
    session: str | None = None
    trial: str | None = None
    gaps: Sequence[tuple[int, int]] = ()


class RecordingReader(Protocol):
    """What the store is prepared from. Making a reader looks at file names and headers, not at samples."""

    @property
    def name(self) -> str:
        """Name of the reader in a study file."""
        ...

    @property
    def root(self) -> Path:
        """Folder of the source files."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """Every file that decides the result, tables included."""
        ...

    @property
    def channels(self) -> Sequence[str]: ...

    @property
    def rate_hz(self) -> float: ...

    @property
    def tracks(self) -> Mapping[str, Mapping[int, str]]:
        """Code -> name of every label track; empty where labels belong to whole recordings."""
        ...

    @property
    def label_classes(self) -> Mapping[str, Sequence[str]]:
        """Distinct values, as text and in order, of every label of whole recordings."""
        ...

    @property
    def parameters(self) -> dict[str, Any]:
        """Plain values: with which settings it reads."""
        ...

    @property
    def notes(self) -> list[str]:
        """What a report should say about the files read so far, one sentence each."""
        ...

    def recordings(self) -> Iterator[ReadRecording]:
        """Reads one recording after the other. Raises DataError where a file is not what it should be."""
        ...
