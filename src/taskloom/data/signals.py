"""Preprocessing of recordings as data: what is done to a signal before it is stored, said in plain values.

Nothing here is fitted: each step looks at one recording alone, so the steps are parameters of the store and
travel with a model as they are. What is fitted on training data (normalising, clipping) is in `normalize`.
The order is fixed:

1. holes carry the last value forward, up to a limit;
2. a band-pass, high-pass or low-pass filter (Butterworth), zero-phase or causal;
3. resampling by a polyphase filter;
4. cutting or zero-padding to one length, for recordings that are one window each;
5. a short-time spectrogram.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from taskloom.data.resampling import resample
from taskloom.data.setting_kinds import check_kinds, is_number
from taskloom.data.sources import check_settings
from taskloom.data.spectrogram import Spectrogram
from taskloom.errors import ConfigError, DataError

Crop = Literal["centre", "start", "error"]

SIGNAL_SETTINGS: tuple[str, ...] = (
    "carry_forward_seconds",
    "band_pass",
    "resample_hz",
    "fit_seconds",
    "crop",
    "spectrogram",
)
"""The settings of `SignalSteps` as they stand among those of a reader."""


@dataclass(frozen=True)
class BandPass:
    """A Butterworth filter.

    Args:
        low_hz: Lower edge (-3 dB; -6 dB zero-phase); None for a low-pass.
        high_hz: Upper edge; None for a high-pass.
        order: Order of the filter; zero-phase filtering applies it twice.
        causal: False filters forward and backward, without delay (it looks at the future: leave a gap between
            parts that are cut in time); True filters forward only, as a device can while it records.

    Raises:
        ConfigError: No edge, edges that are not above 0 and ascending, or an order below 1.
    """

    low_hz: float | None = None
    high_hz: float | None = None
    order: int = 4
    causal: bool = False

    def __post_init__(self) -> None:
        edges = [edge for edge in (self.low_hz, self.high_hz) if edge is not None]
        if not edges:
            raise ConfigError("band_pass: `low_hz`, `high_hz` or both expected, found neither.")
        if not all(math.isfinite(edge) and edge > 0 for edge in edges) or edges != sorted(set(edges)):
            raise ConfigError(f"band_pass: edges above 0 Hz, the lower one first, expected, found {edges}.")
        if self.order < 1:
            raise ConfigError(f"band_pass.order: 1 or more expected, found {self.order}.")

    def check_rate(self, rate_hz: float) -> None:
        """Raises ConfigError where an edge is at or above half the rate, in Hz."""
        highest = self.high_hz or self.low_hz or 0.0
        if highest >= rate_hz / 2:
            raise ConfigError(
                f"band_pass: edges below half the rate ({rate_hz / 2:g} Hz) expected, found {highest:g} Hz."
            )

    def apply(self, samples: NDArray[np.floating[Any]], rate_hz: float, where: str) -> NDArray[np.float32]:
        """Returns filtered samples [n, channels].

        A causal filter starts as if the first sample had always been there.

        Raises:
            DataError: A recording too short for zero-phase filtering.
        """
        sections = self._sections(rate_hz)
        values = samples.astype(np.float64)
        if self.causal:
            state = signal.sosfilt_zi(sections)[:, :, None] * values[0]
            filtered, _ = signal.sosfilt(sections, values, axis=0, zi=state)
            return np.asarray(filtered, dtype=np.float32)
        # SciPy's own choice; named, so that a short recording gets a sentence.
        padding = 3 * (
            2 * len(sections) + 1 - int(min((sections[:, 2] == 0).sum(), (sections[:, 5] == 0).sum()))
        )
        if len(values) <= padding:
            raise DataError(
                f"{where}: more than {padding} samples expected for a zero-phase band-pass of order "
                f"{self.order}, found {len(values)}; take a lower order, `causal: true`, or leave it out."
            )
        filtered = signal.sosfiltfilt(sections, values, axis=0, padlen=padding)
        return np.asarray(filtered, dtype=np.float32)

    def _sections(self, rate_hz: float) -> NDArray[np.float64]:
        """Second-order sections [sections, 6]."""
        self.check_rate(rate_hz)
        if self.low_hz is None:
            kind, edges = "lowpass", [self.high_hz]
        elif self.high_hz is None:
            kind, edges = "highpass", [self.low_hz]
        else:
            kind, edges = "bandpass", [self.low_hz, self.high_hz]
        sections = signal.butter(
            self.order, edges if len(edges) > 1 else edges[0], btype=kind, fs=rate_hz, output="sos"
        )
        return np.asarray(sections, dtype=np.float64)


@dataclass(frozen=True)
class SignalSteps:
    """What is done to every recording of a store, in the order of this list.

    Args:
        carry_forward_seconds: A missing value takes the channel's last one, at most this old (at the start of
            a recording the first one, at most this far ahead); None allows no missing value.
        band_pass: The filter; None for none.
        resample_hz: New rate in Hz; None keeps the rate.
        fit_seconds: Every recording is zero-padded at its end, or cropped, to this length; None keeps it.
        crop: Which part of a longer recording stays: "centre", "start", or "error" to refuse it.
        spectrogram: Replaces the channels by levels of frequency bands over time; None keeps them.

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> steps = SignalSteps.from_settings({"fit_seconds": 4})
        >>> steps.apply(np.array([[1.0], [np.nan]]), 1.0, "S1")
        Traceback (most recent call last):
            ...
        taskloom.errors.DataError: S1: channel 0 has no value at 1 s; set `carry_forward_seconds` ...
        >>> steps.apply(np.ones((3, 1)), 1.0, "S1").ravel()
        array([1., 1., 1., 0.], dtype=float32)
    """

    carry_forward_seconds: float | None = None
    band_pass: BandPass | None = None
    resample_hz: float | None = None
    fit_seconds: float | None = None
    crop: Crop = "centre"
    spectrogram: Spectrogram | None = None

    def __post_init__(self) -> None:
        for name in ("carry_forward_seconds", "resample_hz", "fit_seconds"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and math.isfinite(value) and value > 0):
                raise ConfigError(f"data.{name}: a number above 0 expected, found {value!r}.")
        if self.crop not in get_args(Crop):
            raise ConfigError(f"data.crop: {', '.join(get_args(Crop))} are possible, found {self.crop!r}.")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Takes its settings from those of a reader, which may hold others.

        Raises:
            ConfigError: An unknown setting of `band_pass` or `spectrogram`, or one out of range.
        """
        values = {name: settings[name] for name in SIGNAL_SETTINGS if settings.get(name) is not None}
        for name, kind in (("band_pass", BandPass), ("spectrogram", Spectrogram)):
            if name in values:
                values[name] = _nested(name, kind, values[name])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_settings` rebuilds it; steps that are not taken are left out."""
        plain = {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if value is not None and key != "crop"
        }
        return {**plain, "crop": self.crop} if self.fit_seconds is not None else plain

    def check(self, rate_hz: float) -> None:
        """Raises ConfigError where a step does not go with recordings of this rate in Hz."""
        if self.band_pass is not None:
            self.band_pass.check_rate(rate_hz)
        if self.spectrogram is not None:
            self.spectrogram.check_rate(self._sample_rate(rate_hz))

    def rate_after(self, rate_hz: float) -> float:
        """Rate in Hz of what `apply` returns; frames per second of a spectrogram."""
        rate = self._sample_rate(rate_hz)
        return rate if self.spectrogram is None else self.spectrogram.frame_rate(rate)

    def channels_after(self, channels: Sequence[str], rate_hz: float) -> tuple[str, ...]:
        """Names of the channels that `apply` returns for recordings of this rate in Hz."""
        if self.spectrogram is None:
            return tuple(channels)
        bands = self.spectrogram.band_names(self._sample_rate(rate_hz))
        if len(channels) == 1:
            return bands
        return tuple(f"{channel} {band}" for channel in channels for band in bands)

    def fixed_length(self, rate_hz: float) -> int | None:
        """Samples (frames of a spectrogram) of every recording, where `fit_seconds` fixes them."""
        if self.fit_seconds is None:
            return None
        samples = self._fit_samples(self._sample_rate(rate_hz))
        rate = self._sample_rate(rate_hz)
        return samples if self.spectrogram is None else self.spectrogram.num_frames(samples, rate)

    def apply(
        self, samples: NDArray[Any], rate_hz: float, where: str, channels: Sequence[str] = ()
    ) -> NDArray[np.float32]:
        """Takes all steps on one recording.

        Args:
            samples: [n, channels]; NaN where a value is missing.
            rate_hz: Its rate.
            where: Names the recording in messages: its file.
            channels: Names of the channels in messages.

        Returns:
            Finite values [m, channels_after].

        Raises:
            DataError: A hole longer than the limit, a recording too short for a step, or longer than
                `fit_seconds` with `crop: error`.
        """
        filled = self._filled(samples, rate_hz, where, channels)
        if self.band_pass is not None:
            filled = self.band_pass.apply(filled, rate_hz, where)
        if self.resample_hz is not None:
            filled = resample(filled, rate_hz, self.resample_hz)
        rate = self._sample_rate(rate_hz)
        if self.fit_seconds is not None:
            filled = self._fitted(filled, rate, where)
        if self.spectrogram is not None:
            filled = self.spectrogram.apply(filled, rate, where)
        return np.ascontiguousarray(filled, dtype=np.float32)

    def apply_codes(self, codes: NDArray[np.int32], rate_hz: float) -> NDArray[np.int32]:
        """Label codes [m, tracks] beside what `apply` returns: those of the nearest sample, 0 in padding.

        Args:
            codes: Label codes [n, tracks] at the rate of the recording.
            rate_hz: That rate.
        """
        position: NDArray[np.float64] = np.arange(len(codes), dtype=np.float64)
        rate = self._sample_rate(rate_hz)
        if self.resample_hz is not None:
            length = len(resample(np.zeros((len(codes), 1), dtype=np.float32), rate_hz, rate))
            position = np.arange(length, dtype=np.float64) * (rate_hz / rate)
        if self.fit_seconds is not None:
            start, stop = self._crop_range(len(position), rate)
            padding = self._fit_samples(rate) - (stop - start)
            position = np.concatenate((position[start:stop], np.full(padding, -1.0)))
        if self.spectrogram is not None:
            position = position[self.spectrogram.centres(len(position), rate)]
        nearest = np.minimum(np.floor(position + 0.5).astype(np.int64), len(codes) - 1)
        return np.where(nearest[:, None] < 0, 0, codes[nearest]).astype(np.int32)

    def crop_start_seconds(self, num_samples: int, rate_hz: float) -> float:
        """Seconds of a recording that `fit_seconds` and `crop` cut off before what stays.

        Args:
            num_samples: Its length.
            rate_hz: Its rate.
        """
        if self.fit_seconds is None:
            return 0.0
        rate = self._sample_rate(rate_hz)
        start, _ = self._crop_range(round(num_samples * rate / rate_hz), rate)
        return start / rate

    # -- inside

    def _sample_rate(self, rate_hz: float) -> float:
        """Rate before the spectrogram."""
        return float(self.resample_hz or rate_hz)

    def _fit_samples(self, rate_hz: float) -> int:
        return max(1, round((self.fit_seconds or 0.0) * rate_hz))

    def _filled(
        self, samples: NDArray[Any], rate_hz: float, where: str, channels: Sequence[str]
    ) -> NDArray[np.float32]:
        values = np.asarray(samples, dtype=np.float32)
        if not np.isnan(values).any():
            return values
        values = carry_forward(values, samples_of(self.carry_forward_seconds or 0.0, rate_hz))
        holes = np.isnan(values)
        if holes.any():
            raise self._hole(holes, rate_hz, where, channels)
        return values

    def _hole(
        self, holes: NDArray[np.bool_], rate_hz: float, where: str, channels: Sequence[str]
    ) -> DataError:
        row, column = (int(index) for index in np.argwhere(holes)[0])
        channel = f"`{channels[column]}`" if channels else str(column)
        if self.carry_forward_seconds is None:
            cause, remedy = f"no value at {row / rate_hz:g} s", "set `carry_forward_seconds` to fill holes"
        else:
            limit = self.carry_forward_seconds
            cause = f"at {row / rate_hz:g} s no value within `carry_forward_seconds` {limit:g}"
            remedy = "raise the limit"
        return DataError(f"{where}: channel {channel} has {cause}; {remedy}, or cut the recording there.")

    def _crop_range(self, length: int, rate_hz: float) -> tuple[int, int]:
        wanted = self._fit_samples(rate_hz)
        if length <= wanted:
            return 0, length
        start = (length - wanted) // 2 if self.crop == "centre" else 0
        return start, start + wanted

    def _fitted(self, samples: NDArray[np.float32], rate_hz: float, where: str) -> NDArray[np.float32]:
        wanted = self._fit_samples(rate_hz)
        if len(samples) > wanted and self.crop == "error":
            raise DataError(
                f"{where}: {len(samples) / rate_hz:g} s, longer than `fit_seconds` {self.fit_seconds:g}; "
                "raise it, or crop with `crop: centre` or `crop: start`."
            )
        start, stop = self._crop_range(len(samples), rate_hz)
        fitted = np.zeros((wanted, samples.shape[1]), dtype=np.float32)
        fitted[: stop - start] = samples[start:stop]
        return fitted


def carry_forward(samples: NDArray[np.float32], limit_samples: int) -> NDArray[np.float32]:
    """Returns samples in which NaN is the channel's last value, where that is at most `limit_samples` old.

    Before the first value of a channel, that value is carried backward, as far as the limit too. What is left
    is NaN.

    Args:
        samples: [n, channels].
        limit_samples: 0 fills nothing.

    Example:
        >>> nan = np.nan
        >>> carry_forward(np.array([[nan], [1], [nan], [nan], [2]], dtype=np.float32), 1).ravel()
        array([ 1.,  1.,  1., nan,  2.], dtype=float32)
    """
    there = ~np.isnan(samples)
    rows = np.arange(len(samples), dtype=np.int64)[:, None]
    source = np.maximum.accumulate(np.where(there, rows, -1), axis=0)
    source = np.where(source < 0, there.argmax(axis=0)[None, :], source)
    filled = np.take_along_axis(samples, source, axis=0)
    filled[np.abs(rows - source) > limit_samples] = np.nan
    return filled


def samples_of(seconds: float, rate_hz: float) -> int:
    """Whole samples in a time, not one fewer for its rounding.

    Example:
        >>> samples_of(0.1, 30.0)
        3
    """
    return math.floor(seconds * rate_hz + 1e-6)


def _nested(name: str, kind: type[Any], given: Any) -> Any:
    if isinstance(given, kind):
        return given
    if given is True and kind is Spectrogram:
        return kind()
    if not isinstance(given, Mapping):
        raise ConfigError(f"data.{name}: settings by name expected, found {given!r}.")
    check_settings(f"data.{name}", given, [field.name for field in dataclasses.fields(kind)])
    check_kinds(f"data.{name}", given)
    return kind(**given)
