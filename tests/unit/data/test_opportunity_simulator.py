"""The simulator: native format, shared information, losses, and the same bytes for the same parameters."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mutual_info_score

from taskloom.data.readers.opportunity_codes import TRACKS
from taskloom.data.simulate import simulate_opportunity
from taskloom.data.simulate.opportunity import PRESETS, write_dat
from taskloom.data.simulate.opportunity_script import daily_run, drill_run, track_codes
from taskloom.errors import ConfigError, DataError


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_opportunity(tmp_path_factory.mktemp("opp") / "sim", people=2, seconds_per_run=60, seed=5)


@pytest.fixture(scope="module")
def tables(simulated: Path) -> dict[str, pd.DataFrame]:
    return {
        path.stem: pd.read_csv(path, sep=" ", header=None, na_values=["NaN"])
        for path in sorted(simulated.glob("*.dat"))
    }


def test_native_format(simulated: Path, tables: dict[str, pd.DataFrame]) -> None:
    runs = [
        f"S{person}-{run}" for person in (1, 2) for run in ("ADL1", "ADL2", "ADL3", "ADL4", "ADL5", "Drill")
    ]
    assert sorted(tables) == sorted(runs)
    for name, table in tables.items():
        assert table.shape == (60 * 30 * (1.5 if "Drill" in name else 1), 250)
        expected = np.rint(np.arange(len(table)) * 1000 / 30)
        np.testing.assert_array_equal(table[0], expected)
        assert table[0].iloc[:4].tolist() == [0, 33, 67, 100]
        for column, codes in zip(range(243, 250), TRACKS.values(), strict=True):
            assert set(table[column]) <= set(codes)
    text = (simulated / "S1-ADL1.dat").read_text()
    assert "NaN" in text
    assert not set(text) - set("0123456789 \n-Na")
    assert "SIMULATED" in (simulated / "README.txt").read_text()


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first = simulate_opportunity(tmp_path / "a", people=2, seconds_per_run=6, seed=1)
    second = simulate_opportunity(tmp_path / "b", people=2, seconds_per_run=6, seed=1)
    other = simulate_opportunity(tmp_path / "c", people=2, seconds_per_run=6, seed=2)
    assert digests(first) == digests(second)
    unequal = digests(first).items() ^ digests(other).items()
    assert len({name for name, _ in unequal}) == 14  # 12 runs, the README and simulation.json
    # A person is the same however many there are.
    alone = simulate_opportunity(tmp_path / "d", people=1, seconds_per_run=6, seed=1)
    assert digests(alone)["S1-Drill.dat"] == digests(first)["S1-Drill.dat"]


def test_losses_and_spikes(tables: dict[str, pd.DataFrame]) -> None:
    for table in tables.values():
        lost = table[list(range(1, 243))].isna().to_numpy()
        trailing = len(lost) - 1 - np.flatnonzero(~lost.all(axis=1))[-1]
        assert 15 <= trailing < 80
        assert 0.015 < lost[:-trailing].mean() < 0.035
        assert (table[table.columns[243:]].iloc[-trailing:] == 0).all().all()
        # Sensors lose whole packets: the three axes of an accelerometer are lost together.
        np.testing.assert_array_equal(lost[:, 0], lost[:, 2])
        assert (lost[:, 0] != lost[:, 3]).any()
        spikes = table[list(range(1, 103))].abs() >= 20000
        assert 1 <= spikes.any().sum() <= 4
        assert (table[249][spikes.any(axis=1)] == 0).all()


def test_tracks_share_information(tables: dict[str, pd.DataFrame]) -> None:
    codes = pd.concat(tables.values())[list(range(243, 250))].to_numpy().astype(int)
    rng = np.random.default_rng(0)
    for one in range(7):
        for other in range(one):
            # By chance alone: the same codes, in blocks of 10 s, in another order.
            blocks = codes[: len(codes) // 300 * 300, other].reshape(-1, 300)
            shuffled = rng.permutation(blocks).ravel()
            chance = mutual_info_score(codes[: len(shuffled), one], shuffled)
            found = mutual_info_score(codes[:, one], codes[:, other])
            assert found > 0.02, (one, other)
            if {one, other} != {1, 2}:
                assert found > 1.15 * chance, (one, other, found, chance)
    assert mutual_info_score(codes[:, 0], codes[:, 6]) > 0.15  # nats; Locomotion and ML_Both_Arms


def test_null_share_of_gestures() -> None:
    runs = [track_codes(daily_run(3300, np.random.default_rng(i), right_handed=0.8)) for i in range(10)]
    gestures = np.concatenate(runs)[:, 6]
    assert 0.55 < (gestures == 0).mean() < 0.75
    assert len(np.unique(gestures)) == 18
    drill = track_codes(drill_run(5000, np.random.default_rng(0), right_handed=0.8))
    assert len(np.unique(drill[:, 6])) == 18
    assert not drill[:, 1].any()  # no activity in a drill


def test_walking_is_felt_at_the_legs(tables: dict[str, pd.DataFrame]) -> None:
    """Steps shake the shank at about 1.7 to 2.2 Hz in walking, more than in standing, sitting or between."""
    walking, still = [], []
    for table in (tables["S1-Drill"], tables["S2-Drill"]):
        signal = table[21].ffill().bfill().clip(-3000, 3000).to_numpy()  # Accelerometer RKN_ accZ
        codes = table[243].to_numpy()
        for start in range(0, len(signal) - 60, 15):
            label = codes[start : start + 60]
            piece = signal[start : start + 60]
            spectrum = np.abs(np.fft.rfft((piece - piece.mean()) * np.hanning(60))) ** 2
            in_band = spectrum[3:6].sum()  # 1.5 to 2.5 Hz in steps of 0.5
            if (label == 2).mean() > 0.8:
                walking.append(in_band)
            elif (label != 2).all():
                still.append(in_band)
    assert len(walking) >= 5
    assert np.median(walking) > 3 * np.median(still)


def test_write_dat_as_numpy_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sensors = rng.integers(-32767, 32768, (5000, 242)).astype(np.int32)
    lost = rng.random((5000, 242)) < 0.2
    tracks = np.array([[1, 101, 201, 301, 401, 501, 406516], [0] * 7], dtype=np.int32)[
        rng.integers(0, 2, 5000)
    ]
    write_dat(tmp_path / "x.dat", sensors, lost, tracks)
    rows = (tmp_path / "x.dat").read_text().splitlines()
    assert len(rows) == 5000
    for row in (0, 1, 4095, 4096, 4999):
        words = ["NaN" if gone else str(v) for v, gone in zip(sensors[row], lost[row], strict=True)]
        assert rows[row] == " ".join([str(round(row * 1000 / 30)), *words, *map(str, tracks[row])])


def test_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(DataError, match="new or empty folder expected"):
        simulate_opportunity(tmp_path, people=1, seconds_per_run=5)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    folder = tmp_path / "sim"
    simulate_opportunity(folder, people=1, seconds_per_run=5)
    before = digests(folder)
    with pytest.raises(DataError, match="--if-missing"):
        simulate_opportunity(folder, people=1, seconds_per_run=5)
    assert simulate_opportunity(folder, people=1, seconds_per_run=5, if_missing=True) == folder
    with pytest.raises(DataError, match="other parameters"):
        simulate_opportunity(folder, people=1, seconds_per_run=5, seed=9, if_missing=True)
    assert digests(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "sim"]


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="nothing was written"):
        simulate_opportunity(tmp_path / "file" / "sim", people=1, seconds_per_run=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "quickstar"}, "Did you mean `quickstart`"),
        ({"people": 0}, "at least 1"),
        ({"seconds_per_run": 1}, "at least 5"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate_opportunity(tmp_path / "sim", **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_presets_last_as_long_as_they_say() -> None:
    minutes = {name: people * seconds * (5 + 1.5) / 60 for name, (people, seconds) in PRESETS.items()}
    assert 40 <= minutes["quickstart"] <= 60
    assert abs(minutes["full"] * 60 * 30 - 869_387) < 5000  # samples of the real set
