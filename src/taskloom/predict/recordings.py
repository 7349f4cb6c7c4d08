"""Predictions of a bundle of recordings: a row for every window, and one for every recording.

New files are read as the files of the training were (channels, unit, rate), taken through the bundle's signal
steps, cut into windows of its length and stride and normalised by its normaliser. The row of a recording
holds the mean over its windows of what the network says: probabilities, and values in the unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.data.normalize import Normalizer
from taskloom.data.readers.edf import read_edf
from taskloom.data.readers.recordings_files import SUFFIXES, FileSettings, read_file, same_rate
from taskloom.data.readers.wav import chosen_wav_channels, pick_wav_channels
from taskloom.data.readers.wav_file import read_wav_header
from taskloom.data.signals import SIGNAL_SETTINGS, SignalSteps
from taskloom.data.window_starts import compute_window_starts
from taskloom.deploy import Bundle
from taskloom.errors import DataError
from taskloom.predict.faces import device_of
from taskloom.predict.outputs import TableFile
from taskloom.predict.readings import Column, Readings, State, digits

READERS = ("wav", "edf", "recordings")
RECORDING_READERS = (*READERS, "opportunity", "deap")
"""Readers of recordings; of the last two, files cannot be read one by one."""
_OWN = ("file", "window", "start_s", "end_s")
_BATCH = 256


@dataclass(frozen=True)
class RecordingSummary:
    """What `predict_recordings` did.

    Args:
        recordings, windows: How many were predicted.
        problems: File and reason of each that was not.
        device: Where the network ran.
    """

    recordings: int
    windows: int
    problems: tuple[tuple[str, str], ...]
    device: str


def predict_recordings(
    bundle: Bundle, source: Path, table: Path, *, device: str = "auto"
) -> RecordingSummary:
    """Predicts a recording, or all recordings below a folder.

    Args:
        bundle: A bundle of recordings, of one of `READERS`.
        source: A file of the kind of the training's files, or a folder of them. A file of a folder that
            cannot be predicted is a row with a `problem`.
        table: A .csv, .parquet or .jsonl file: `file`, `window` (0, 1, ...; empty in the row of the whole
            recording), `start_s` and `end_s` in seconds of the file, the tasks, `problem`.
        device: auto, cpu or cuda.

    Raises:
        DataError: Not such a bundle, no such file, no file of that kind, or (of a single file) one that
            cannot be read, or has another rate, channels or unit than the training's.
    """
    preparation = Preparation.of(bundle)
    files = _files(source, preparation.suffixes)
    where = device_of(device)
    model = bundle.model.to(where).eval()
    readings = Readings(bundle.tasks, [*_OWN, "problem"])
    place = (Column("file", "text"), Column("window", "int"), Column("start_s", "float"))
    columns = (*place, Column("end_s", "float"), *readings.columns, Column("problem", "text"))
    about = {"bundle": bundle.versions, "device": str(where), "source": str(source)}
    out = TableFile(table, columns, about)
    none = [None] * len(readings.columns)
    problems: list[tuple[str, str]] = []
    windows = 0
    try:
        for path in files:
            name = path.name if source.is_file() else path.relative_to(source).as_posix()
            try:
                recording = preparation.read(path)
            except DataError as error:
                if source.is_file():
                    raise
                problems.append((name, str(error)))
                out.write([name, None, None, None, *none, str(error)])
                continue
            states = _states(model, recording, readings, where)
            for number, (state, (start, end)) in enumerate(zip(states, recording.times, strict=True)):
                out.write([name, number, digits(start), digits(end), *readings.cells(state), None])
            whole = readings.cells(states.mean(axis=0))
            out.write([name, None, 0.0, digits(recording.seconds), *whole, None])
            windows += len(states)
        if len(problems) == len(files):
            raise DataError(f"{source}: none of its recordings can be predicted; the first: {problems[0][1]}")
        out.finish()
    except BaseException:
        out.discard()
        raise
    return RecordingSummary(len(files) - len(problems), windows, tuple(problems), str(where))


def _states(model: torch.nn.Module, recording: ReadWindows, readings: Readings, where: torch.device) -> State:
    found = []
    for windows in recording.batches(_BATCH):
        with torch.inference_mode():
            outputs = model(windows.to(where))
        for name, output in outputs.items():
            if output.ndim != 2:
                raise DataError(
                    f"the bundle labels every sample of a window for {name}; `predict` gives one label per "
                    "window, `taskloom evaluate` reads such bundles."
                )
        found.append(readings.states({name: output.float().cpu() for name, output in outputs.items()}))
    return np.concatenate(found)


@dataclass(frozen=True)
class ReadWindows:
    """A recording of which windows can be cut.

    Args:
        samples: After the signal steps, [n, channels].
        starts: First sample of every window, [N].
        length: Samples of a window.
        normalizer: What windows are normalised by; None for nothing.
        times: Start and end of every window in seconds of the file.
        seconds: Length of the file.
    """

    samples: NDArray[np.float32]
    starts: NDArray[np.int64]
    length: int
    normalizer: Normalizer | None
    times: tuple[tuple[float, float], ...]
    seconds: float

    def batches(self, size: int) -> Iterator[Tensor]:
        """Normalised windows [up to size, length, channels], cut as they are asked for: overlap costs no
        memory."""
        for first in range(0, len(self.starts), size):
            starts = self.starts[first : first + size]
            windows = torch.from_numpy(np.stack([self.samples[at : at + self.length] for at in starts]))
            yield windows if self.normalizer is None else self.normalizer.apply_(windows)


@dataclass(frozen=True)
class Preparation:
    """How files become windows, as a bundle knows it.

    Args:
        reader: One of `READERS`.
        files: What the store of the training says of its files: channels, unit, column of times.
        suffixes: Suffixes of files that are looked for.
        native_rate_hz: Rate of the files.
        steps: What is done to every recording.
        rate_hz: Rate after them.
        channels: Names of the channels after them.
        window: Settings of the windows, in samples.
        normalizer: Fitted on the training windows; None for none.
    """

    reader: str
    files: Mapping[str, Any]
    suffixes: tuple[str, ...]
    native_rate_hz: float
    steps: SignalSteps
    rate_hz: float
    channels: tuple[str, ...]
    window: Mapping[str, Any]
    normalizer: Normalizer | None

    @classmethod
    def of(cls, bundle: Bundle) -> Preparation:
        """Reads it from a bundle.

        Raises:
            DataError: A bundle of other data, or one that does not say how its files were read.
        """
        known = bundle.preprocessing
        reader = known.get("reader")
        if reader not in READERS:
            raise DataError(
                f"`predict` reads recordings for bundles of the readers {', '.join(READERS)}, and this "
                f"bundle was trained by the reader `{reader}`; `taskloom evaluate` reads its data."
            )
        store = bundle.about.get("data", {}).get("store", {})
        files, signals = store.get("parameters"), known.get("signals")
        if files is None or signals is None:
            raise DataError(
                "this bundle does not say how its recordings were read; train it again with `taskloom train`."
            )
        normalizer = None if known["normalizer"] is None else Normalizer.from_dict(known["normalizer"])
        if normalizer is not None and normalizer.persons:
            raise DataError(
                "this bundle was normalised person by person (`normalize: {per: person}`), and nothing is "
                "known of the people in new recordings; train with `per: channel`."
            )
        suffixes = {"wav": (".wav",), "edf": (".edf",)}.get(reader, SUFFIXES)
        if reader == "recordings" and files.get("files"):
            suffixes = (Path(files["files"][0]).suffix.lower(),)
        steps = SignalSteps.from_settings({key: signals[key] for key in SIGNAL_SETTINGS if key in signals})
        return cls(
            reader,
            files,
            suffixes,
            float(signals["native_rate_hz"]),
            steps,
            float(known["rate_hz"]),
            tuple(known["channels"]),
            known["window"],
            normalizer,
        )

    def read(self, path: Path) -> ReadWindows:
        """Reads a file and cuts it into windows.

        Raises:
            DataError: The file is empty or broken, of another rate, channels or unit, or shorter than a
                window.
        """
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
        length = int(self.window["samples"])
        starts = compute_window_starts(len(prepared), length, int(self.window["stride"]), self.window["last"])
        if not len(starts):
            raise DataError(
                f"{path.name}: {len(prepared) / self.rate_hz:g} s, shorter than a window of "
                f"{length / self.rate_hz:g} s."
            )
        seconds = len(samples) / self.native_rate_hz
        times = tuple(self._times(starts, len(samples), seconds))
        return ReadWindows(prepared, starts, length, self.normalizer, times, seconds)

    def _times(self, starts: NDArray[np.int64], native: int, seconds: float) -> Iterator[tuple[float, float]]:
        before = self.steps.crop_start_seconds(native, self.native_rate_hz)
        for start in starts.tolist():
            first = before + start / self.rate_hz
            yield first, min(seconds, first + int(self.window["samples"]) / self.rate_hz)

    def _samples(self, path: Path) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Samples [n, channels] at the rate of the files, and the channels."""
        wanted = self.files["channels"]
        if self.reader == "wav":
            header = read_wav_header(path)
            names, columns = chosen_wav_channels(header, wanted if isinstance(wanted, str) else tuple(wanted))
            self._check_rate(path, float(header.rate_hz))
            return pick_wav_channels(header, columns), names
        if self.reader == "edf":
            content = read_edf(path, tuple(wanted))
            for channel, unit, expected in zip(wanted, content.units, self.files["units"], strict=True):
                if unit != expected:
                    raise DataError(
                        f"{path.name}: signal `{channel}` is in {unit or 'no unit'}, in the training in "
                        f"{expected or 'no unit'}."
                    )
            self._check_rate(path, content.rate_hz)
            return content.samples, tuple(wanted)
        settings = FileSettings(
            tuple(wanted), time=self.files.get("time"), time_unit=self.files.get("time_unit", "s")
        )
        read = read_file(path, settings)
        if read.rate_hz is not None:
            self._check_rate(path, read.rate_hz, measured=read.measured)
        return read.samples, read.channels

    def _check_rate(self, path: Path, rate_hz: float, *, measured: bool = False) -> None:
        if not same_rate(rate_hz, self.native_rate_hz, measured=measured):
            raise DataError(
                f"{path.name}: {self.native_rate_hz:g} Hz expected as in the training, found {rate_hz:g} Hz."
            )


def _files(source: Path, suffixes: Sequence[str]) -> list[Path]:
    if source.is_file():
        if source.suffix.lower() not in suffixes:
            raise DataError(
                f"{source}: a recording ({', '.join(suffixes)}) expected, as this bundle was trained on."
            )
        return [source]
    if not source.is_dir():
        raise DataError(
            f"{source}: a recording ({', '.join(suffixes)}) or a folder of them expected, found nothing."
        )
    found = sorted(
        path
        for path in source.rglob("*")
        if path.is_file() and path.suffix.lower() in suffixes and not path.name.startswith(".")
    )
    if not found:
        raise DataError(f"{source}: no recording ({', '.join(suffixes)}) there.")
    return found


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
