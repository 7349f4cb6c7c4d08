"""Simulated DEAP: the same bytes again, formats by other readers, and ratings that the signals follow."""

from __future__ import annotations

import hashlib
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from scipy import signal

from taskloom.data.readers.deap import CHANNELS
from taskloom.data.simulate.deap import simulate_deap, simulate_person, write_python2_pickle
from taskloom.errors import ConfigError, DataError


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def band_power(data: NDArray[Any], low_hz: float, high_hz: float) -> NDArray[np.float64]:
    """Mean power of a band by Welch's method, [trials, channels]."""
    frequency, power = signal.welch(data, 128, nperseg=256, axis=2)
    inside = (frequency >= low_hz) & (frequency < high_hz)
    return np.asarray(power[:, :, inside].mean(axis=2))


class TestFiles:
    def test_the_same_parameters_give_the_same_bytes(self, tmp_path: Path) -> None:
        one, two, other = (
            simulate_deap(tmp_path / name, people=2, trials=1, seed=seed, formats=("mat", "dat"))
            for name, seed in (("one", 5), ("two", 5), ("other", 6))
        )
        assert sums(one) == sums(two)
        assert sums(one)["s01.dat"] != sums(one)["s02.dat"]
        assert sums(one)["s01.mat"] != sums(other)["s01.mat"]

    def test_both_formats_hold_the_same(self, tmp_path: Path) -> None:
        simulate_deap(tmp_path / "mat", people=1, trials=2, seed=3, formats=("mat",))
        data, ratings = simulate_person(1, trials=2, seed=3)
        content = scipy.io.loadmat(tmp_path / "mat/s01.mat")
        np.testing.assert_array_equal(content["data"], data)
        np.testing.assert_array_equal(content["labels"], ratings)

    def test_the_pickle_has_python_2_strings_only(self, tmp_path: Path) -> None:
        write_python2_pickle(tmp_path / "a.dat", {"labels": np.eye(3), "data": np.zeros((1, 2, 3))})
        content = (tmp_path / "a.dat").read_bytes()
        used = {opcode.name for opcode, _, _ in pickletools.genops(content)}
        assert used >= {"SHORT_BINSTRING", "BINSTRING", "GLOBAL", "REDUCE", "BUILD"}
        assert not any("UNICODE" in name or "BYTES" in name for name in used)
        assert content.startswith(b"\x80\x02")

    def test_a_folder_in_use(self, tmp_path: Path) -> None:
        made = simulate_deap(tmp_path / "x", people=1, trials=1)
        before = sums(made)
        assert simulate_deap(tmp_path / "x", people=1, trials=1, if_missing=True) == made
        assert sums(made) == before
        with pytest.raises(DataError, match="holds this simulation already"):
            simulate_deap(tmp_path / "x", people=1, trials=1)
        with pytest.raises(DataError, match="holds a simulation with other parameters"):
            simulate_deap(tmp_path / "x", people=1, trials=1, seed=9, if_missing=True)
        (tmp_path / "y").mkdir()
        (tmp_path / "y/mine.txt").write_text("mine")
        with pytest.raises(DataError, match="a new or empty folder expected"):
            simulate_deap(tmp_path / "y", people=1, trials=1)
        assert [path.name for path in (tmp_path / "y").iterdir()] == ["mine.txt"]

    @pytest.mark.parametrize(
        "settings", [{"people": 0}, {"people": 100}, {"trials": 41}, {"formats": ("csv",)}, {"formats": ()}]
    )
    def test_bad_settings(self, tmp_path: Path, settings: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"expected, found"):
            simulate_deap(tmp_path / "x", **settings)
        assert not (tmp_path / "x").exists()


class TestWorld:
    def test_ratings(self) -> None:
        said = np.stack([simulate_person(number, trials=40, seed=0)[1] for number in (1, 2)])
        assert said.min() >= 1
        assert said.max() <= 9
        within = np.corrcoef(said.reshape(-1, 4).T)
        assert 0.2 < within[0, 1] < 0.8  # valence and arousal
        assert within[0, 3] > 0.5  # valence and liking
        assert np.corrcoef(said[0, :, 0], said[1, :, 0])[0, 1] > 0.2  # one video, two people
        assert 0.2 < (said[:, :, :2] >= 4.5).mean() < 0.8

    def test_band_power_follows_the_ratings(self) -> None:
        data, said = simulate_person(2, trials=40, seed=0)
        valence, arousal = said[:, 0], said[:, 1]
        fast = np.log(band_power(data[:, :32], 20, 45)).mean(axis=1)
        assert np.corrcoef(fast, arousal)[0, 1] > 0.8
        alpha = np.log(band_power(data, 8, 13))
        right, left = CHANNELS.index("F4"), CHANNELS.index("F3")
        assert np.corrcoef(alpha[:, right] - alpha[:, left], valence)[0, 1] > 0.5
        face = np.log(data[:, CHANNELS.index("zEMG")].var(axis=1))
        assert np.corrcoef(face, valence)[0, 1] > 0.8
        slope = data[:, CHANNELS.index("GSR"), -1280:].mean(axis=1) - data[:, 36, :1280].mean(axis=1)
        assert np.corrcoef(slope, arousal)[0, 1] > 0.3

    def test_people_have_spectra_of_their_own(self) -> None:
        profile = []
        for number in (1, 2):
            data, _ = simulate_person(number, trials=8, seed=0)
            levels = np.log(band_power(data[:, :32], 8, 13))
            profile.append(levels - levels.mean(axis=1, keepdims=True))
        between = np.abs(profile[0].mean(axis=0) - profile[1].mean(axis=0)).mean()
        within = profile[0].std(axis=0).mean()
        assert between > 2 * within
