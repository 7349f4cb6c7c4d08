"""The recording store: continuous recordings of one sensor set-up, prepared once, read for ever.

A store is a folder of three files:

- `samples.npy`: float32 [total_samples, channels], all recordings one after the other;
- `tracks.npy`: int32 [total_samples, num_tracks], one label code per sample and track;
- `store.json`: what the numbers mean and what made them.

A store is whole or absent: it is written into a hidden folder beside its place and renamed when complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from taskloom.data.recording_writer import (
    CHUNK_SAMPLES,
    FORMAT,
    FORMAT_VERSION,
    NULL_CODE,
    LabelValue,
    Recording,
    RecordingWriter,
)
from taskloom.data.store_files import open_array
from taskloom.errors import DataError, did_you_mean

__all__ = ["NULL_CODE", "LabelValue", "Recording", "RecordingStore", "RecordingWriter"]


class RecordingStore:
    """A complete store, memory-mapped read-only. Open it with `RecordingStore.open`.

    It pickles by path, so that loader processes share the pages of one file.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], checksum: str) -> None:
        self.folder = folder
        self.checksum = checksum
        """SHA-256 of store.json, which holds those of the arrays: it names the content."""
        self.rate_hz = float(about["rate_hz"])
        self.channels: tuple[str, ...] = tuple(about["channels"])
        self.track_tables: dict[str, dict[int, str]] = {
            track["name"]: {int(code): name for code, name in track["classes"].items()}
            for track in about["tracks"]
        }
        self.recordings: tuple[Recording, ...] = tuple(
            Recording(**{**entry, "gaps": tuple((a, b) for a, b in entry["gaps"])})
            for entry in about["recordings"]
        )
        self.sources: dict[str, str] = dict(about["sources"])
        self.reader: str = about["reader"]
        self.parameters: dict[str, Any] = dict(about["parameters"])
        self._about = about
        shape = (int(about["num_samples"]), len(self.channels))
        self.samples: NDArray[np.float32] = open_array(folder / "samples.npy", shape, np.dtype("<f4"))
        """Samples of all recordings, [total_samples, channels]."""
        shape = (shape[0], len(self.track_tables))
        self.tracks: NDArray[np.int32] = open_array(folder / "tracks.npy", shape, np.dtype("<i4"))
        """Label codes of all recordings, [total_samples, num_tracks]."""

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Opens a store; nothing but its description is read.

        Raises:
            DataError: No store is there, it is of another format version, a file is cut off, or another
                process replaces the store at this moment.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"{folder}: a recording store (a folder) expected, found nothing there.")
        try:
            content = (folder / "store.json").read_bytes()
        except FileNotFoundError:
            raise DataError(
                f"{folder}: a recording store expected, found a folder without store.json."
            ) from None
        try:
            about = json.loads(content)
        except ValueError as error:
            raise DataError(
                f"{folder / 'store.json'}: not readable as JSON ({error}); prepare again."
            ) from None
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            found = about.get("format") if isinstance(about, dict) else None
            raise DataError(f"{folder}: a store of format {FORMAT} expected, found {found!r}.")
        if about.get("version") != FORMAT_VERSION:
            raise DataError(
                f"{folder}: format version {FORMAT_VERSION} expected, found {about.get('version')} "
                f"(written by taskloom {about.get('taskloom', '?')}); prepare the data again."
            )
        store = cls(folder, about, hashlib.sha256(content).hexdigest())
        try:
            unchanged = (folder / "store.json").read_bytes() == content
        except FileNotFoundError:
            unchanged = False
        if not unchanged:  # the arrays may be the old store's and the description the new one's
            raise DataError(f"{folder}: the store was replaced while it was being opened; open it again.")
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return (RecordingStore.open, (self.folder.absolute(),))

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self.recordings)

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @property
    def num_bytes(self) -> int:
        """Size of the store's files."""
        return sum(
            (self.folder / name).stat().st_size for name in ("samples.npy", "tracks.npy", "store.json")
        )

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the per-recording labels, in order of appearance."""
        return tuple(dict.fromkeys(name for recording in self.recordings for name in recording.labels))

    def track_index(self, track: str) -> int:
        """Column of the track. Raises DataError for an unknown one."""
        names = list(self.track_tables)
        if track not in self.track_tables:
            raise DataError(
                f"{self.folder}: `{track}` is not a track of the store.{did_you_mean(track, names)} "
                f"Tracks: {', '.join(names) or 'none'}."
            )
        return names.index(track)

    def class_names(self, track: str, *, with_null: bool = True) -> tuple[str, ...]:
        """Class names of a track in code order; the name of code 0 comes first, or not at all."""
        self.track_index(track)
        table = self.track_tables[track]
        return tuple(table[code] for code in sorted(table) if with_null or code != NULL_CODE)

    def channel_indices(self, names: Sequence[str]) -> list[int]:
        """Columns of the named channels. Raises DataError for an unknown one."""
        for name in names:
            if name not in self.channels:
                raise DataError(
                    f"{self.folder}: `{name}` is not a channel of the store."
                    f"{did_you_mean(name, self.channels)} It has {len(self.channels)} channels."
                )
        return [self.channels.index(name) for name in names]

    def verify(self) -> None:
        """Reads everything and compares checksums. Raises DataError where an array was changed."""
        for name, array in (("samples", self.samples), ("tracks", self.tracks)):
            digest = hashlib.sha256()
            for start in range(0, len(array), CHUNK_SAMPLES):
                digest.update(np.ascontiguousarray(array[start : start + CHUNK_SAMPLES]).data)
            if digest.hexdigest() != self._about[f"{name}_sha256"]:
                raise DataError(
                    f"{self.folder / name}.npy: its content is not what was written; prepare the data again."
                )

    def describe(self) -> dict[str, Any]:
        """Plain values for a report: where from, how made, how much."""
        return {
            "folder": str(self.folder),
            "checksum": self.checksum,
            "reader": self.reader,
            "parameters": self.parameters,
            "sources": self.sources,
            "recordings": len(self.recordings),
            "samples": self.num_samples,
            "channels": len(self.channels),
            "rate_hz": self.rate_hz,
        }
