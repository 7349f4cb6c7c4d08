"""Native files of recordings as a bundle's training read them: same channels, unit, rate and signal steps.

Labels are never looked at: a file that is to be predicted may have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from taskloom.data.readers.deap import BASELINE_SAMPLES, DeapReader
from taskloom.data.readers.deap import NUM_SAMPLES as DEAP_SAMPLES
from taskloom.data.readers.deap import RATE_HZ as DEAP_RATE_HZ
from taskloom.data.readers.edf import read_edf
from taskloom.data.readers.opportunity import OpportunityReader
from taskloom.data.readers.recordings_files import SUFFIXES, FileSettings, read_file, same_rate
from taskloom.data.readers.wav import chosen_wav_channels, pick_wav_channels
from taskloom.data.readers.wav_file import read_wav_header
from taskloom.data.signals import SIGNAL_SETTINGS, SignalSteps
from taskloom.errors import DataError
from taskloom.registry import Registry


@dataclass(frozen=True)
class NativeRecording:
    """One recording of a file, ready to be cut into windows.

    Args:
        name: In messages.
        samples: After the signal steps, [n, channels], finite.
        first_seconds: When the first of them was, in seconds of the recording as its file holds it.
        seconds: How long that is.
        gaps: Ranges [start, stop) of `samples` that no window may touch.
        trial: Its number from 1, where a file holds several.
    """

    name: str
    samples: NDArray[np.float32]
    first_seconds: float
    seconds: float
    gaps: tuple[tuple[int, int], ...] = ()
    trial: int | None = None


class NativeFiles(Protocol):
    """How the files of one reader are read.

    Attributes:
        suffixes: Of the files, in lower case.
        has_trials: Whether a file holds several recordings.
    """

    suffixes: tuple[str, ...]
    has_trials: bool

    def read(self, path: Path) -> Iterator[NativeRecording]:
        """The recordings of a file. Raises DataError where it is not like those of the training."""
        ...

    def person_of(self, path: Path) -> str | None:
        """Whom a file is of, as training told it from its name; None where the name does not say it."""
        ...


NATIVE: Registry[type[Any]] = Registry("reader of recordings")
"""By reader: made of its store's `parameters` and the bundle's `preprocessing`."""


class _Stepped:
    """What readers of one recording per file share."""

    has_trials = False

    def __init__(self, parameters: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        signals = known["signals"]
        self.files = parameters
        self.channels = tuple(known["channels"])
        self.native_rate_hz = float(signals["native_rate_hz"])
        self.steps = SignalSteps.from_settings(
            {key: signals[key] for key in SIGNAL_SETTINGS if key in signals}
        )

    def read(self, path: Path) -> Iterator[NativeRecording]:
        """See `NativeFiles`."""
        if path.stat().st_size == 0:
            raise DataError(f"{path.name}: the file is empty, a recording expected.")
        samples, channels = self._samples(path)
        prepared = self.steps.apply(samples, self.native_rate_hz, path.name, channels)
        found = self.steps.channels_after(channels, self.native_rate_hz)
        if found != self.channels:
            raise DataError(
                f"{path.name}: channels {_few(self.channels)} expected as in the training, found "
                f"{_few(found)}."
            )
        check_finite(path.name, prepared, found)
        before = self.steps.crop_start_seconds(len(samples), self.native_rate_hz)
        yield NativeRecording(path.name, prepared, before, len(samples) / self.native_rate_hz)

    def person_of(self, path: Path) -> str | None:
        """The group `person` of the training's `file_pattern`."""
        match = re.fullmatch(str(self.files.get("file_pattern", "")), path.stem)
        return None if match is None else match.groupdict().get("person")

    def _samples(self, path: Path) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Samples [n, channels] at the rate of the files, and the channels."""
        raise NotImplementedError

    def _check_rate(self, path: Path, rate_hz: float, *, measured: bool = False) -> None:
        if not same_rate(rate_hz, self.native_rate_hz, measured=measured):
            raise DataError(
                f"{path.name}: {self.native_rate_hz:g} Hz expected as in the training, found {rate_hz:g} Hz."
            )


@NATIVE.register("wav")
class WavFiles(_Stepped):
    """WAV."""

    suffixes: tuple[str, ...] = (".wav",)

    def _samples(self, path: Path) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        wanted = self.files["channels"]
        header = read_wav_header(path)
        names, columns = chosen_wav_channels(header, wanted if isinstance(wanted, str) else tuple(wanted))
        self._check_rate(path, float(header.rate_hz))
        return pick_wav_channels(header, columns), names


@NATIVE.register("edf")
class EdfFiles(_Stepped):
    """EDF and EDF+C."""

    suffixes: tuple[str, ...] = (".edf",)

    def _samples(self, path: Path) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        wanted = tuple(self.files["channels"])
        content = read_edf(path, wanted)
        for channel, unit, expected in zip(wanted, content.units, self.files["units"], strict=True):
            if unit != expected:
                raise DataError(
                    f"{path.name}: signal `{channel}` is in {unit or 'no unit'}, in the training in "
                    f"{expected or 'no unit'}."
                )
        self._check_rate(path, content.rate_hz)
        return content.samples, wanted


@NATIVE.register("recordings")
class FolderFiles(_Stepped):
    """CSV, NPY, NPZ, EDF or WAV: the one kind of the training."""

    def __init__(self, parameters: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        super().__init__(parameters, known)
        files = parameters.get("files")
        self.suffixes = (Path(files[0]).suffix.lower(),) if files else SUFFIXES

    def _samples(self, path: Path) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        unit = self.files.get("time_unit", "s")
        settings = FileSettings(tuple(self.files["channels"]), time=self.files.get("time"), time_unit=unit)
        read = read_file(path, settings)
        if read.rate_hz is not None:
            self._check_rate(path, read.rate_hz, measured=read.measured)
        return read.samples, read.channels


@NATIVE.register("opportunity")
class OpportunityFiles:
    """OPPORTUNITY's .dat files of 250 columns."""

    suffixes: tuple[str, ...] = (".dat",)
    has_trials = False

    def __init__(self, parameters: Mapping[str, Any], known: Mapping[str, Any]) -> None:  # noqa: ARG002
        self.reader = OpportunityReader(
            "",
            channels=parameters["columns"],
            all_nan=parameters["all_nan"],
            carry_forward_seconds=parameters.get("carry_forward_seconds"),
            files=(),
        )

    def read(self, path: Path) -> Iterator[NativeRecording]:
        """See `NativeFiles`."""
        found, num_lines = self.reader.read_unlabelled(path)
        check_finite(path.name, found.samples, self.reader.channels)
        seconds = num_lines / self.reader.rate_hz
        yield NativeRecording(path.name, found.samples, 0.0, seconds, tuple(found.gaps))

    def person_of(self, path: Path) -> str | None:
        """`S1` of `S1-ADL1.dat`."""
        return self.reader.person_of(path)


@NATIVE.register("deap")
class DeapFiles:
    """DEAP's preprocessed files, a recording per trial."""

    suffixes: tuple[str, ...] = (".dat", ".mat")
    has_trials = True

    def __init__(self, parameters: Mapping[str, Any], known: Mapping[str, Any]) -> None:  # noqa: ARG002
        self.reader = DeapReader(
            "",
            channels=parameters["channels"],
            baseline=parameters["baseline"],
            files=(),
            steps=SignalSteps.from_settings(parameters["signals"]),
        )

    def read(self, path: Path) -> Iterator[NativeRecording]:
        """See `NativeFiles`."""
        baseline = 0 if self.reader.baseline == "keep" else BASELINE_SAMPLES
        kept = DEAP_SAMPLES - baseline
        cropped = self.reader.steps.crop_start_seconds(kept, DEAP_RATE_HZ)
        before, seconds = baseline / DEAP_RATE_HZ + cropped, DEAP_SAMPLES / DEAP_RATE_HZ
        for trial, found in enumerate(self.reader.read_unlabelled(path), start=1):
            where = f"{path.name}, trial {trial}"
            check_finite(where, found.samples, self.reader.channels)
            yield NativeRecording(where, found.samples, before, seconds, trial=trial)

    def person_of(self, path: Path) -> str | None:
        """`s01` of `s01.dat`."""
        return path.stem


def check_finite(where: str, samples: NDArray[np.float32], channels: Sequence[str]) -> None:
    """Refuses samples [n, channels] of which one is no finite number."""
    strange = ~np.isfinite(samples)
    if strange.any():
        row, column = (int(index) for index in np.argwhere(strange)[0])
        raise DataError(
            f"{where}: channel `{channels[column]}` is {samples[row, column]} at sample {row}; a finite "
            "number expected everywhere."
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
