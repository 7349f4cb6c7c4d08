"""Short-time spectrograms: levels of frequency bands over time, in decibels, each recording for itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import ConfigError, DataError

_CHUNK_FRAMES = 4096


@dataclass(frozen=True)
class Spectrogram:
    """Levels in short Hann windows, of every frequency or of bands on the mel scale.

    A sine of amplitude 1 at the centre of a frequency has the level 0 dB.

    Args:
        window_seconds: Length of a short window.
        hop_seconds: From one window's start to the next one's: one frame each.
        mel_bands: Number of triangular bands, equally spaced on the mel scale (O'Shaughnessy 1987,
            2595 log10(1 + f / 700 Hz)) from 0 Hz to half the rate; None keeps the frequencies as they are.
        floor_db: Lower levels are raised to it, so that silence has a level too.

    Raises:
        ConfigError: A length or number of bands that is not above 0.

    Example:
        >>> time = np.arange(800) / 800
        >>> levels = Spectrogram(window_seconds=0.1, hop_seconds=0.1).apply(
        ...     np.sin(2 * np.pi * 100 * time)[:, None], 800.0, "S1")
        >>> levels.shape, int(levels[0].argmax()) * 10  # 10 Hz from one frequency to the next
        ((10, 41), 100)
    """

    window_seconds: float = 0.025
    hop_seconds: float = 0.010
    mel_bands: int | None = None
    floor_db: float = -80.0

    def __post_init__(self) -> None:
        for name in ("window_seconds", "hop_seconds"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ConfigError(f"spectrogram.{name}: a number above 0 expected, found {value!r}.")
        if self.mel_bands is not None and not (isinstance(self.mel_bands, int) and self.mel_bands > 0):
            raise ConfigError(
                f"spectrogram.mel_bands: a whole number above 0 expected, found {self.mel_bands!r}."
            )

    def check_rate(self, rate_hz: float) -> None:
        """Raises ConfigError where a window has no samples enough, or a mel band no frequency."""
        if round(self.window_seconds * rate_hz) < 4 or round(self.hop_seconds * rate_hz) < 1:
            raise ConfigError(
                f"spectrogram: windows of 4 samples or more and a hop of 1 or more expected, found "
                f"{self.window_seconds * rate_hz:.3g} and {self.hop_seconds * rate_hz:.3g} at {rate_hz:g} Hz."
            )
        if self.mel_bands is not None and not self._weights(rate_hz).any(axis=0).all():
            raise ConfigError(
                f"spectrogram.mel_bands: {self.mel_bands} bands are more than windows of "
                f"{self.window_seconds:g} s can tell apart; take fewer bands or longer windows."
            )

    def window_samples(self, rate_hz: float) -> int:
        return round(self.window_seconds * rate_hz)

    def hop_samples(self, rate_hz: float) -> int:
        return round(self.hop_seconds * rate_hz)

    def frame_rate(self, rate_hz: float) -> float:
        """Frames per second."""
        return rate_hz / self.hop_samples(rate_hz)

    def num_frames(self, num_samples: int, rate_hz: float) -> int:
        """Windows that lie within the samples as a whole."""
        return max(0, (num_samples - self.window_samples(rate_hz)) // self.hop_samples(rate_hz) + 1)

    def centres(self, num_samples: int, rate_hz: float) -> NDArray[np.int64]:
        """Position of the sample in the middle of every frame, [frames]."""
        frames = np.arange(self.num_frames(num_samples, rate_hz), dtype=np.int64)
        return frames * self.hop_samples(rate_hz) + self.window_samples(rate_hz) // 2

    def band_names(self, rate_hz: float) -> tuple[str, ...]:
        """Frequency of every band (the centre of a mel band)."""
        if self.mel_bands is None:
            return tuple(f"{frequency:.6g} Hz" for frequency in self._frequencies(rate_hz))
        edges = _mel_edges(self.mel_bands, rate_hz)
        return tuple(f"{frequency:.6g} Hz" for frequency in edges[1:-1])

    def apply(self, samples: NDArray[Any], rate_hz: float, where: str) -> NDArray[np.float32]:
        """Returns levels in dB, [frames, channels * bands], the bands of a channel side by side.

        Args:
            samples: [n, channels].
            rate_hz: Their rate.
            where: Names the recording in messages.

        Raises:
            DataError: A recording shorter than a window.
        """
        length, hop = self.window_samples(rate_hz), self.hop_samples(rate_hz)
        num_frames = self.num_frames(len(samples), rate_hz)
        if num_frames == 0:
            raise DataError(
                f"{where}: {length} samples or more expected for a spectrogram, found {len(samples)}; take "
                "shorter windows, or pad recordings with `fit_seconds`."
            )
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
        scale = 2.0 / hann.sum()
        weights = None if self.mel_bands is None else self._weights(rate_hz)
        frames = np.lib.stride_tricks.sliding_window_view(samples, length, axis=0)[::hop]
        levels = []
        for start in range(0, num_frames, _CHUNK_FRAMES):
            chunk = frames[start : start + _CHUNK_FRAMES].astype(np.float64)  # [frames, channels, length]
            power = np.square(np.abs(np.fft.rfft(chunk * hann, axis=2)) * scale)
            if weights is not None:
                power = power @ weights
            level = 10.0 * np.log10(np.maximum(power, 10.0 ** (self.floor_db / 10.0)))
            levels.append(level.reshape(len(chunk), -1).astype(np.float32))
        return np.concatenate(levels)

    def _frequencies(self, rate_hz: float) -> NDArray[np.float64]:
        return np.asarray(np.fft.rfftfreq(self.window_samples(rate_hz), 1.0 / rate_hz), dtype=np.float64)

    def _weights(self, rate_hz: float) -> NDArray[np.float64]:
        """Share of every frequency in every mel band, [frequencies, bands]: triangles of height 1."""
        assert self.mel_bands is not None  # asked by who has bands
        edges = _mel_edges(self.mel_bands, rate_hz)
        frequency = self._frequencies(rate_hz)[:, None]
        rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
        return np.asarray(np.maximum(0.0, np.minimum(rising, falling)))


def _mel_edges(bands: int, rate_hz: float) -> NDArray[np.float64]:
    """Edges of the bands in Hz, [bands + 2]: band i rises from edge i to i + 1 and falls to i + 2."""
    highest = 2595.0 * math.log10(1.0 + rate_hz / 2 / 700.0)
    return 700.0 * (10.0 ** (np.linspace(0.0, highest, bands + 2) / 2595.0) - 1.0)
