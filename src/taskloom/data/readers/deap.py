"""DEAP's preprocessed files (Koelstra et al. 2011): `s01.dat` .. `s32.dat` or `s01.mat` .. `s32.mat`.

One file is a person: 40 trials of 40 channels at 128 Hz, 3 s of baseline and 60 s of a music video, and what
the person said about each: valence, arousal, dominance and liking from 1 to 9. Each trial is a recording.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import scipy.io
from numpy.typing import NDArray

from taskloom.data.readers import ReadRecording
from taskloom.data.readers.after_steps import AfterSteps
from taskloom.data.readers.deap_pickle import read_array_pickle
from taskloom.data.signals import SignalSteps
from taskloom.errors import ConfigError, DataError, did_you_mean

RATE_HZ = 128.0
NUM_TRIALS = 40
NUM_SAMPLES = 8064
BASELINE_SAMPLES = 384
# fmt: off
EEG_CHANNELS: tuple[str, ...] = (
    "Fp1", "AF3", "F3", "F7", "FC5", "FC1", "C3", "T7", "CP5", "CP1", "P3", "P7", "PO3", "O1", "Oz", "Pz",
    "Fp2", "AF4", "Fz", "F4", "F8", "FC6", "FC2", "Cz", "C4", "T8", "CP6", "CP2", "P4", "P8", "PO4", "O2",
)
PERIPHERAL_CHANNELS: tuple[str, ...] = (
    "hEOG", "vEOG", "zEMG", "tEMG", "GSR", "respiration", "plethysmograph", "temperature",
)
# fmt: on
CHANNELS: tuple[str, ...] = EEG_CHANNELS + PERIPHERAL_CHANNELS
RATINGS: tuple[str, ...] = ("valence", "arousal", "dominance", "liking")
THRESHOLDS: dict[str, float] = {"valence": 4.5, "arousal": 4.5, "dominance": 4.5, "liking": 2.5}
"""A rating from here on is "high" as a binary label: thesis 002, section 3.2.2.

2.5 is the thesis's for liking, which it takes there for a scale from 1 to 5, but in section 3.2.1 for one
from 1 to 9, as it is in the files: 2.5 is far below its middle. `thresholds` sets another."""
THREE_CLASS_BOUNDS: tuple[float, float] = (11 / 3, 19 / 3)
"""From here on a rating is "medium", and "high": thirds of the scale from 1 to 9."""

BINARY_CLASSES: tuple[str, ...] = ("low", "high")
THREE_CLASSES: tuple[str, ...] = ("low", "medium", "high")
Baseline = Literal["drop", "subtract", "keep"]
Format = Literal["dat", "mat"]

_CHANNEL_SETS = {"all": CHANNELS, "eeg": EEG_CHANNELS, "peripheral": PERIPHERAL_CHANNELS}
BROKEN_MAT = (
    scipy.io.matlab.MatReadError,
    zlib.error,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OSError,
    NotImplementedError,  # version 7.3, which is HDF5
)
"""What SciPy raises depends on where the damage is."""
_FILE_NAME = re.compile(r"s(?P<number>\d{2})\.(?P<format>dat|mat)")


class DeapReader(AfterSteps):
    """Reads a folder of DEAP's files, one file at a time.

    Every rating gives three labels: the number under its own name, `{rating}_binary` (low, high) and
    `{rating}_three` (low, medium, high).

    Args:
        folder: The folder that holds `s01.dat` (or `s01.mat`) and so on.
        format: "dat" or "mat", for a folder that holds both.
        channels: "all" (40), "eeg" (32), "peripheral" (8), or a list of names.
        baseline: "drop" cuts the first 3 s off (thesis 002, section 3.2.2; the 125 windows a trial of its
            appendix A.2 are those of all 63 s); "subtract" also takes their mean from what follows, per
            channel; "keep" leaves them in.
        thresholds: From which rating on a binary label is "high", by rating.
        three_class_bounds: From which rating on a label of three classes is "medium", and "high".
        trials: Trials that a file holds; 40 in the real ones.
        files: These files, in place of those of the folder.
        steps: What is done to every recording before it is stored.

    Raises:
        DataError: No such folder, no such file in it, or both formats of a person.
        ConfigError: An unknown channel, rating or choice; bounds that do not ascend.
    """

    name = "deap"
    native_rate_hz = RATE_HZ
    tracks: Mapping[str, Mapping[int, str]] = MappingProxyType({})

    def __init__(
        self,
        folder: str | Path,
        *,
        format: Format | None = None,
        channels: str | Sequence[str] = "all",
        baseline: Baseline = "drop",
        thresholds: Mapping[str, float] = MappingProxyType({}),
        three_class_bounds: Sequence[float] = THREE_CLASS_BOUNDS,
        trials: int = NUM_TRIALS,
        files: Sequence[Path] | None = None,
        steps: SignalSteps | None = None,
    ) -> None:
        self.root = Path(folder)
        for setting, value, known in (
            ("format", format, (None, *get_args(Format))),
            ("baseline", baseline, get_args(Baseline)),
        ):
            if value not in known:
                raise ConfigError(
                    f"data.{setting}: {' or '.join(filter(None, known))} expected, found {value!r}."
                )
        self._channels = _chosen_channels(channels)
        self._columns = [CHANNELS.index(channel) for channel in self._channels]
        self.baseline = baseline
        self.thresholds = _checked_thresholds(thresholds)
        self.bounds = _checked_bounds(three_class_bounds)
        if not (isinstance(trials, int) and trials >= 1):
            raise ConfigError(f"data.trials: 1 or more expected, found {trials!r}.")
        self.num_trials = trials
        self.files = _find_files(self.root, format) if files is None else list(files)
        self.steps = steps or SignalSteps()
        self.native_rate_hz = RATE_HZ
        self.steps.check(RATE_HZ)
        self.notes: list[str] = []

    @property
    def label_classes(self) -> Mapping[str, Sequence[str]]:
        return {
            **{f"{rating}_binary": BINARY_CLASSES for rating in RATINGS},
            **{f"{rating}_three": THREE_CLASSES for rating in RATINGS},
        }

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "files": [path.name for path in self.files],
            "channels": list(self._channels),
            "baseline": self.baseline,
            "thresholds": self.thresholds,
            "three_class_bounds": list(self.bounds),
            "signals": self.steps.to_dict(),
        }

    def recordings(self) -> Iterator[ReadRecording]:
        for path in self.files:
            yield from self.read(path)

    def read(self, path: Path) -> Iterator[ReadRecording]:
        """Reads one file and gives its trials.

        Raises:
            DataError: A pickle that asks for more than arrays, a file that cannot be read, arrays of another
                shape, values that are not finite, a rating outside 1 to 9.
        """
        data, ratings = self._checked(path, _read_arrays(path))
        for trial in range(len(data)):
            yield self._recording(path, data, trial, self._labels(ratings[trial]))

    def read_unlabelled(self, path: Path) -> Iterator[ReadRecording]:
        """Reads one file of any number of trials, with or without ratings, and gives its trials.

        Raises:
            DataError: As `read` does, but for ratings and the number of trials.
        """
        data = self._checked_data(path, _read_arrays(path), None)
        for trial in range(len(data)):
            yield self._recording(path, data, trial, {})

    def _recording(
        self, path: Path, data: NDArray[Any], trial: int, labels: Mapping[str, Any]
    ) -> ReadRecording:
        person, number = path.stem, f"{trial + 1:02d}"
        name = f"{person}-{number}"
        return ReadRecording(
            name=name,
            samples=self.steps.apply(self._trial(data[trial]), RATE_HZ, name, self._channels),
            labels=labels,
            person=person,
            trial=number,
        )

    def _trial(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Samples [n, channels] of one trial [40, 8064] without its baseline."""
        chosen = values[self._columns]
        if self.baseline == "keep":
            return chosen.T.astype(np.float32)
        kept = chosen[:, BASELINE_SAMPLES:]
        if self.baseline == "subtract":
            kept = kept - chosen[:, :BASELINE_SAMPLES].mean(axis=1, keepdims=True)
        return kept.T.astype(np.float32)

    def _labels(self, ratings: NDArray[Any]) -> dict[str, Any]:
        labels: dict[str, Any] = {}
        for rating, value in zip(RATINGS, ratings.tolist(), strict=True):
            labels[rating] = value
            labels[f"{rating}_binary"] = BINARY_CLASSES[value >= self.thresholds[rating]]
            labels[f"{rating}_three"] = THREE_CLASSES[sum(value >= bound for bound in self.bounds)]
        return labels

    def _checked(
        self, path: Path, arrays: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        data = self._checked_data(path, arrays, self.num_trials)
        ratings = _numbers(path, arrays, "labels", (self.num_trials, len(RATINGS))).astype(np.float64)
        strange = ~((ratings >= 1) & (ratings <= 9))
        if strange.any():
            trial, column = (int(index) for index in np.argwhere(strange)[0])
            raise DataError(
                f"{path.name}: {RATINGS[column]} of trial {trial + 1} is {ratings[trial, column]:g}; a "
                "rating from 1 to 9 expected."
            )
        return data, ratings

    def _checked_data(
        self, path: Path, arrays: Mapping[str, NDArray[Any]], trials: int | None
    ) -> NDArray[Any]:
        """Samples [trials, 40, 8064], of however many trials where `trials` is None."""
        wanted = ("data",) if trials is None else ("data", "labels")
        if not set(wanted) <= arrays.keys():
            named = " and ".join(f"`{name}`" for name in wanted)
            raise DataError(
                f"{path.name}: {'arrays' if len(wanted) > 1 else 'an array'} {named} expected, found "
                f"{', '.join(arrays) or 'none'}."
            )
        return _numbers(path, arrays, "data", (trials, len(CHANNELS), NUM_SAMPLES))


def _numbers(
    path: Path, arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """An array of numbers of this shape; None stands for any size above 0."""
    found = arrays[name].shape
    fits = len(found) == len(shape) and all(
        size == expected if expected is not None else size > 0
        for size, expected in zip(found, shape, strict=True)
    )
    if not fits:
        hint = ""
        if len(found) == len(shape) and found[1:] == shape[1:] and shape[0] is not None:
            hint = f" For files of {found[0]} trials set `data.trials: {found[0]}`."
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise DataError(
            f"{path.name}: `{name}` of shape [{expected}] expected, found {list(found)}; is it one "
            f"of DEAP's preprocessed files?{hint}"
        )
    if arrays[name].dtype.kind not in "fiu":
        raise DataError(f"{path.name}: numbers expected in `{name}`, found {arrays[name].dtype}.")
    return arrays[name]


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    return _read_mat(path) if path.suffix.lower() == ".mat" else read_array_pickle(path)


def _read_mat(path: Path) -> dict[str, NDArray[Any]]:
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: the file is empty, MATLAB arrays expected; get it again.")
    try:
        content = scipy.io.loadmat(path, variable_names=["data", "labels"])
    except BROKEN_MAT as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path.name}: not readable as a MATLAB file of version 5 to 7.2 ({what}); the file seems cut "
            "off or is something else."
        ) from error
    return {name: content[name] for name in ("data", "labels") if name in content}


def _find_files(root: Path, wanted: Format | None) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give the folder that holds DEAP's s01.dat and so on.")
    matches = {path: _FILE_NAME.fullmatch(path.name) for path in sorted(root.iterdir())}
    files = [path for path, match in matches.items() if match and wanted in (None, match["format"])]
    if not files:
        inner = next(
            (
                root / name
                for name in ("data_preprocessed_python", "data_preprocessed_matlab")
                if (root / name).is_dir()
            ),
            None,
        )
        hint = f" Did you mean {inner}?" if inner else ""
        found = sorted(path.name for path in root.iterdir())
        raise DataError(
            f"{root}: files like s01.{wanted or 'dat'} expected, found "
            f"{', '.join(found[:4]) or 'an empty folder'}{' and others' if len(found) > 4 else ''}.{hint}"
        )
    stems = [path.stem for path in files]
    double = next((stem for stem in stems if stems.count(stem) > 1), None)
    if double:
        raise DataError(
            f"{root}: {double}.dat and {double}.mat hold the same person; choose with `data.format: dat` or "
            "`data.format: mat`."
        )
    return files


def _chosen_channels(channels: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(channels, str):
        if channels not in _CHANNEL_SETS:
            raise ConfigError(
                f"data.channels: `{channels}` is not known.{did_you_mean(channels, _CHANNEL_SETS)} Possible: "
                f"{', '.join(_CHANNEL_SETS)}, or a list of names."
            )
        return _CHANNEL_SETS[channels]
    chosen = tuple(str(channel) for channel in channels)
    for channel in chosen:
        if channel not in CHANNELS:
            raise ConfigError(
                f"data.channels: `{channel}` is not a channel of DEAP.{did_you_mean(channel, CHANNELS)} "
                f"Channels: {', '.join(CHANNELS)}."
            )
        if chosen.count(channel) > 1:
            raise ConfigError(f"data.channels: `{channel}` stands twice; every channel once expected.")
    if not chosen:
        raise ConfigError("data.channels: at least one channel expected, found none.")
    return chosen


def _checked_thresholds(given: Mapping[str, float]) -> dict[str, float]:
    for rating, value in given.items():
        if rating not in RATINGS:
            raise ConfigError(
                f"data.thresholds.{rating} is not a rating.{did_you_mean(str(rating), RATINGS)} Ratings: "
                f"{', '.join(RATINGS)}."
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 < value <= 9:
            raise ConfigError(
                f"data.thresholds.{rating}: a number above 1 up to 9 expected, found {value!r}."
            )
    return {**THRESHOLDS, **{rating: float(value) for rating, value in given.items()}}


def _checked_bounds(given: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in given)
    except (TypeError, ValueError):
        raise ConfigError(f"data.three_class_bounds: two numbers expected, found {given!r}.") from None
    if not 1 < low < high <= 9:
        raise ConfigError(
            f"data.three_class_bounds: two ascending numbers above 1 up to 9 expected, found {low:g} and "
            f"{high:g}."
        )
    return low, high
