"""Preprocessing steps: against SciPy, pandas, sums of sines with known answers, and plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import signal

from taskloom.data.signals import BandPass, SignalSteps, carry_forward
from taskloom.data.spectrogram import Spectrogram
from taskloom.errors import ConfigError, DataError

RATE_HZ = 200.0


def sine(hertz: float, seconds: float = 5.0, rate_hz: float = RATE_HZ) -> NDArray[np.float64]:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate_hz)) / rate_hz)[:, None]


def level_of(samples: NDArray[Any]) -> float:
    """Amplitude of a sine, away from the ends."""
    return float(np.sqrt(2 * np.square(samples[200:-200]).mean()))


class TestBandPass:
    @pytest.mark.parametrize("causal", [False, True])
    def test_keeps_what_is_inside_and_stops_what_is_outside(self, causal: bool) -> None:
        band = BandPass(low_hz=8, high_hz=13, causal=causal)
        inside, below, above = (level_of(band.apply(sine(f), RATE_HZ, "")) for f in (10, 2, 40))
        assert inside == pytest.approx(1, abs=0.01)
        assert below < 0.01
        assert above < 0.01

    @pytest.mark.parametrize(("low_hz", "high_hz", "kind"), [(None, 10, "low"), (10, None, "high")])
    def test_half_a_band_has_the_gain_of_its_formula(
        self, low_hz: float | None, high_hz: float | None, kind: str
    ) -> None:
        # |H(f)|^2 = 1 / (1 + (tan(pi f / rate) / tan(pi edge / rate))^(+-2 order)): the gain of two passes
        band = BandPass(low_hz=low_hz, high_hz=high_hz, order=2)
        ratio = np.tan(np.pi * 14 / RATE_HZ) / np.tan(np.pi * 10 / RATE_HZ)
        expected = 1 / (1 + (ratio if kind == "low" else 1 / ratio) ** 4)
        assert level_of(band.apply(sine(14), RATE_HZ, "")) == pytest.approx(expected, rel=0.01)

    def test_zero_phase_does_not_delay_and_causal_does_not_look_ahead(self) -> None:
        step = np.zeros((1000, 1))
        step[500:] = 1
        smooth = BandPass(high_hz=10).apply(step, RATE_HZ, "")[:, 0]
        np.testing.assert_allclose(smooth + smooth[::-1], 1, atol=1e-5)
        causal = BandPass(high_hz=10, causal=True).apply(step, RATE_HZ, "")[:, 0]
        assert not causal[:500].any()

    def test_a_causal_filter_starts_settled(self) -> None:
        level = BandPass(high_hz=10, causal=True).apply(np.full((50, 1), 3.0), RATE_HZ, "")
        np.testing.assert_allclose(level, 3, rtol=1e-5)

    def test_equals_scipy(self) -> None:
        noise = np.random.default_rng(0).normal(size=(300, 3))
        sections = signal.butter(3, [4, 30], btype="bandpass", fs=RATE_HZ, output="sos")
        found = BandPass(4, 30, order=3).apply(noise, RATE_HZ, "")
        np.testing.assert_allclose(found, signal.sosfiltfilt(sections, noise, axis=0), atol=1e-6)

    def test_bad_input(self) -> None:
        with pytest.raises(ConfigError, match=r"edges below half the rate \(100 Hz\) expected, found 120 Hz"):
            SignalSteps(band_pass=BandPass(1, 120)).check(RATE_HZ)
        with pytest.raises(ConfigError, match="the lower one first, expected, found \\[5, 3\\]"):
            BandPass(5, 3)
        with pytest.raises(ConfigError, match="`low_hz`, `high_hz` or both expected"):
            BandPass()
        with pytest.raises(
            DataError, match=r"a\.csv: more than 27 samples expected for a zero-phase band-pass"
        ):
            BandPass(4, 30).apply(np.zeros((27, 1)), RATE_HZ, "a.csv")


class TestCarryForward:
    @pytest.mark.parametrize("limit", [1, 3, 10])
    def test_equals_pandas(self, limit: int) -> None:
        random = np.random.default_rng(limit)
        values = random.normal(size=(200, 4)).astype(np.float32)
        values[random.random(values.shape) < 0.6] = np.nan
        values[0] = 1.0  # pandas does not carry backward at the start
        expected = pd.DataFrame(values).ffill(limit=limit).to_numpy()
        np.testing.assert_array_equal(carry_forward(values, limit), expected)

    def test_the_first_value_is_carried_backward_as_far_as_the_limit(self) -> None:
        values = np.array([np.nan, np.nan, np.nan, 5.0, np.nan])[:, None].astype(np.float32)
        np.testing.assert_array_equal(carry_forward(values, 2).ravel(), [np.nan, 5, 5, 5, 5])

    def test_a_channel_without_values_stays_empty(self) -> None:
        assert np.isnan(carry_forward(np.full((4, 1), np.nan, dtype=np.float32), 9)).all()

    def test_the_message_names_channel_time_and_limit(self) -> None:
        values = np.ones((100, 2))
        values[40:60, 1] = np.nan
        with pytest.raises(DataError) as caught:
            SignalSteps(carry_forward_seconds=0.5).apply(values, 20.0, "a.csv", ["x", "y"])
        assert str(caught.value) == (
            "a.csv: channel `y` has at 2.5 s no value within `carry_forward_seconds` 0.5; raise the limit, "
            "or cut the recording there."
        )


class TestFitting:
    def test_padding_and_cropping(self) -> None:
        values = np.arange(1.0, 8.0)[:, None]
        for crop, expected in (("centre", [3, 4, 5]), ("start", [1, 2, 3])):
            steps = SignalSteps(fit_seconds=3, crop=crop)  # type: ignore[arg-type]
            assert steps.apply(values, 1.0, "").ravel().tolist() == expected
        longer = SignalSteps(fit_seconds=9)
        assert longer.apply(values, 1.0, "").ravel().tolist() == [1, 2, 3, 4, 5, 6, 7, 0, 0]
        assert longer.fixed_length(1.0) == 9
        with pytest.raises(DataError, match=r"a\.wav: 7 s, longer than `fit_seconds` 3"):
            SignalSteps(fit_seconds=3, crop="error").apply(values, 1.0, "a.wav")

    @pytest.mark.parametrize("length", [40, 57, 200])
    def test_codes_stay_beside_their_samples(self, length: int) -> None:
        # The sample at time t has the value t, and its code is floor(10 t) + 1: both must move together.
        rate_hz = 40.0
        time = np.arange(length) / rate_hz
        codes = (np.floor(10 * time + 1e-9) + 1).astype(np.int32)[:, None]
        steps = SignalSteps(resample_hz=20.0, fit_seconds=2.0, crop="centre")
        found = steps.apply_codes(codes, rate_hz)[:, 0]
        samples = steps.apply(time[:, None], rate_hz, "")[:, 0]
        assert len(found) == len(samples) == 40
        kept = min(40, -(-length // 2))
        assert not found[kept:].any()
        inner = slice(5, kept - 5)  # the filter of the resampling bends the ends
        np.testing.assert_allclose(samples[inner], (found[inner] - 1) / 10 + 0.025, atol=0.03)


class TestSpectrogram:
    def test_equals_scipy(self) -> None:
        noise = np.random.default_rng(0).normal(size=1000)
        found = Spectrogram(0.32, 0.1, floor_db=-300).apply(noise[:, None], RATE_HZ, "")
        _, _, power = signal.spectrogram(
            noise,
            RATE_HZ,
            window="hann",
            nperseg=64,
            noverlap=44,
            detrend=False,
            scaling="spectrum",
            mode="psd",
        )
        expected = 2 * power  # SciPy: mean square of a sine; here: its amplitude squared
        expected[[0, -1]] *= 2  # and it counts the two frequencies without a twin once
        np.testing.assert_allclose(found, 10 * np.log10(expected.T), atol=1e-3)

    def test_a_sine_of_amplitude_one_is_0_db(self) -> None:
        levels = Spectrogram(0.1, 0.05).apply(sine(50), RATE_HZ, "")
        names = Spectrogram(0.1, 0.05).band_names(RATE_HZ)
        np.testing.assert_allclose(levels[:, names.index("50 Hz")], 0, atol=1e-4)
        assert levels.min() == -80

    def test_mel_bands_by_a_loop(self) -> None:
        spectrogram = Spectrogram(0.5, 0.5, mel_bands=6, floor_db=-300)
        plain = 10 ** (Spectrogram(0.5, 0.5, floor_db=-300).apply(sine(30) + sine(77), RATE_HZ, "") / 10)
        mel = np.linspace(0, 2595 * np.log10(1 + 100 / 700), 8)
        edges = 700 * (10 ** (mel / 2595) - 1)
        for band in range(6):
            left, middle, right = edges[band : band + 3]
            power = 0.0
            for index in range(plain.shape[1]):
                hertz = 2.0 * index
                if left < hertz <= middle:
                    power += plain[0, index] * (hertz - left) / (middle - left)
                elif middle < hertz < right:
                    power += plain[0, index] * (right - hertz) / (right - middle)
            found = spectrogram.apply(sine(30) + sine(77), RATE_HZ, "")[0, band]
            assert found == pytest.approx(10 * np.log10(power), abs=1e-3)

    def test_channels_side_by_side_and_lengths(self) -> None:
        steps = SignalSteps(spectrogram=Spectrogram(0.1, 0.05), fit_seconds=1.0)
        both = np.concatenate([sine(20), sine(60)], axis=1)
        names = steps.channels_after(["left", "right"], RATE_HZ)
        levels = steps.apply(both, RATE_HZ, "")
        assert levels.shape == (steps.fixed_length(RATE_HZ), len(names)) == (19, 22)
        loudest = [names[index] for index in np.argsort(levels[5])[-2:]]
        assert sorted(loudest) == ["left 20 Hz", "right 60 Hz"]
        assert steps.rate_after(RATE_HZ) == 20.0

    def test_bad_input(self) -> None:
        with pytest.raises(
            DataError, match=r"a\.wav: 20 samples or more expected for a spectrogram, found 19"
        ):
            Spectrogram(0.1, 0.05).apply(np.zeros((19, 1)), RATE_HZ, "a.wav")
        with pytest.raises(ConfigError, match=r"40 bands are more than windows of 0\.1 s can tell apart"):
            SignalSteps(spectrogram=Spectrogram(0.1, 0.05, mel_bands=40)).check(RATE_HZ)
        with pytest.raises(ConfigError, match="windows of 4 samples or more"):
            Spectrogram(0.01, 0.01).check_rate(RATE_HZ)


class TestSettings:
    def test_plain_values_and_back(self) -> None:
        settings = {
            "carry_forward_seconds": 0.5,
            "band_pass": {"low_hz": 1.0, "high_hz": 40.0},
            "resample_hz": 100,
            "fit_seconds": 2,
            "spectrogram": {"mel_bands": 8, "window_seconds": 0.2},
            "reader": "another's",
        }
        steps = SignalSteps.from_settings(settings)
        assert SignalSteps.from_settings(steps.to_dict()) == steps
        assert SignalSteps().to_dict() == {}
        assert steps.band_pass == BandPass(1.0, 40.0)

    def test_the_whole_chain_is_its_parts(self) -> None:
        noise = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
        noise[70:73] = np.nan
        steps = SignalSteps.from_settings(
            {
                "carry_forward_seconds": 0.02,
                "band_pass": {"high_hz": 40},
                "resample_hz": 100,
                "fit_seconds": 8,
                "spectrogram": {"window_seconds": 0.2, "hop_seconds": 0.1},
            }
        )
        filled = pd.DataFrame(noise).ffill(limit=4).to_numpy()
        sections = signal.butter(4, 40, btype="lowpass", fs=RATE_HZ, output="sos")
        smooth = signal.sosfiltfilt(sections, filled.astype(np.float64), axis=0)
        fewer = signal.resample_poly(smooth, 1, 2, axis=0, padtype="line")[100:900]
        expected = Spectrogram(0.2, 0.1).apply(fewer, 100.0, "")
        np.testing.assert_allclose(steps.apply(noise, RATE_HZ, ""), expected, atol=1e-2)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"band_pass": {"low": 3}}, "data.band_pass.low is not a setting. Did you mean `low_hz`"),
            ({"band_pass": 3}, "data.band_pass: settings by name expected, found 3"),
            ({"resample_hz": -1}, "data.resample_hz: a number above 0 expected, found -1"),
            ({"fit_seconds": "long"}, "data.fit_seconds: a number above 0 expected, found 'long'"),
            ({"crop": "middle"}, "data.crop: centre, start, error are possible, found 'middle'"),
            ({"spectrogram": {"mel_bands": 0}}, "spectrogram.mel_bands: a whole number above 0 expected"),
        ],
    )
    def test_bad_settings(self, settings: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            SignalSteps.from_settings(settings)
        assert words in str(caught.value)
