"""From a bundle and native files to normalised windows, as its training made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.data.normalize import Normalizer
from taskloom.data.recordings import Recording
from taskloom.data.window_starts import recording_window_starts
from taskloom.deploy import Bundle
from taskloom.errors import DataError
from taskloom.predict.native_recordings import NATIVE, NativeFiles, NativeRecording


@dataclass(frozen=True)
class ReadWindows:
    """A recording of which windows can be cut.

    Args:
        samples: After the signal steps, [n, channels].
        starts: First sample of every window, [N].
        length: Samples of a window.
        normalizer: What windows are normalised by; None for nothing.
        first_seconds: When the first sample was, in seconds of the recording.
        rate_hz: Samples per second.
        seconds: Length of the recording in its file.
        trial: Number from 1, where a file holds several recordings.
    """

    samples: NDArray[np.float32]
    starts: NDArray[np.int64]
    length: int
    normalizer: Normalizer | None
    first_seconds: float
    rate_hz: float
    seconds: float
    trial: int | None = None

    def batches(self, size: int) -> Iterator[Tensor]:
        """Normalised windows [up to size, length, channels], cut as they are asked for: overlap costs no
        memory."""
        for first in range(0, len(self.starts), size):
            starts = self.starts[first : first + size]
            windows = torch.from_numpy(np.stack([self.samples[at : at + self.length] for at in starts]))
            yield windows if self.normalizer is None else self.normalizer.apply_(windows)

    def covered(self) -> NDArray[np.float32]:
        """The samples that windows cover, each once, [m, channels]."""
        edges = np.zeros(len(self.samples) + 1, dtype=np.int64)
        np.add.at(edges, self.starts, 1)
        np.add.at(edges, self.starts + self.length, -1)
        return self.samples[np.cumsum(edges[:-1]) > 0]

    def time(self, sample: int) -> float:
        """When a sample begins, in seconds of the recording; its end for the one after the last."""
        return min(self.seconds, self.first_seconds + sample / self.rate_hz)


@dataclass(frozen=True)
class Preparation:
    """How files become windows, as a bundle knows it.

    Args:
        files: Reads native files.
        rate_hz: Rate after the signal steps.
        window: Settings of the windows, in samples.
        normalizer: Fitted on the training windows; None for none.
        tables: What stood beside the recordings of the training, by path below their folder.
    """

    files: NativeFiles
    rate_hz: float
    window: Mapping[str, Any]
    normalizer: Normalizer | None
    tables: tuple[str, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> Preparation:
        """Reads it from a bundle.

        Raises:
            DataError: A bundle of other data, or one that does not say how its files were read.
        """
        known = bundle.preprocessing
        reader = str(known.get("reader"))
        if reader not in NATIVE:
            raise DataError(
                f"`predict` reads recordings for bundles of the readers {', '.join(NATIVE)}, and this "
                f"bundle was trained by the reader `{reader}`."
            )
        parameters = bundle.about.get("data", {}).get("store", {}).get("parameters")
        if parameters is None or (reader != "opportunity" and known.get("signals") is None):
            raise DataError(
                "this bundle does not say how its recordings were read; train it again with `taskloom train`."
            )
        normalizer = None if known["normalizer"] is None else Normalizer.from_dict(known["normalizer"])
        tables = tuple(str(name) for name in parameters.get("tables", ()))
        files = NATIVE[reader](parameters, known)
        return cls(files, float(known["rate_hz"]), known["window"], normalizer, tables)

    @property
    def per_person(self) -> bool:
        """Whether every person is normalised by statistics of his own."""
        return self.normalizer is not None and bool(self.normalizer.persons)

    def read(self, path: Path, normalizer: Normalizer | None) -> list[ReadWindows]:
        """Reads a file and cuts its recordings into windows.

        Args:
            path: The file.
            normalizer: What its windows are normalised by; None for nothing.

        Raises:
            DataError: The file is empty or broken, of another rate, channels or unit, or a recording is
                shorter than a window.
        """
        return [self._cut(recording, normalizer) for recording in self.files.read(path)]

    def _cut(self, recording: NativeRecording, normalizer: Normalizer | None) -> ReadWindows:
        length, num_samples = int(self.window["samples"]), len(recording.samples)
        alone = Recording(recording.name, 0, num_samples, gaps=recording.gaps)
        starts = recording_window_starts(alone, length, int(self.window["stride"]), self.window["last"])
        if not len(starts):
            longest = max((stop - start for start, stop in alone.segments), default=0)
            what = f"{longest / self.rate_hz:g} s" + (" without a gap" if recording.gaps else "")
            raise DataError(
                f"{recording.name}: {what}, shorter than a window of {length / self.rate_hz:g} s."
            )
        return ReadWindows(
            recording.samples,
            starts,
            length,
            normalizer,
            recording.first_seconds,
            self.rate_hz,
            recording.seconds,
            recording.trial,
        )
