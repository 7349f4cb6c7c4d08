"""The EDF reader, on small files written by pyedflib and on the real EEG set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyedflib
import pytest
from scipy.signal import butter, resample_poly, sosfiltfilt

from taskloom.data.readers.edf import EdfReader
from taskloom.data.readers.edf_header import read_header
from taskloom.data.resampling import resample
from taskloom.data.signals import SignalSteps
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError

REAL = Path(__file__).parents[4] / "shared" / "data" / "eegmat"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/eegmat is not here")


def write_edf(
    path: Path,
    signals: np.ndarray[Any, Any],
    *,
    rates: list[int] | None = None,
    labels: list[str] | None = None,
    units: str = "uV",
    annotate: bool = True,
) -> np.ndarray[Any, Any]:
    """Writes signals [channels, n]; returns what a 16-bit file keeps of them."""
    rates = rates or [20] * len(signals)
    labels = labels or [f"EEG {i}" for i in range(len(signals))]
    path.parent.mkdir(exist_ok=True, parents=True)
    with pyedflib.EdfWriter(str(path), len(signals), file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        file.setSignalHeaders(
            [
                {
                    "label": label, "dimension": units, "sample_frequency": rate, "physical_max": 200.0,
                    "physical_min": -200.0, "digital_max": 32767, "digital_min": -32768, "transducer": "",
                    "prefilter": "",
                }
                for label, rate in zip(labels, rates, strict=True)
            ]
        )  # fmt: skip
        file.writeSamples([np.ascontiguousarray(signal) for signal in signals])
        if annotate:
            file.writeAnnotation(0.5, 0.1, "blink")
    step = 400 / 65535
    return np.floor((signals + 200) / step + 0.5) * step - 200


def waves(seconds: int = 4, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, 30, (channels, 20 * seconds))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three people with two recordings each; P3 has no row, P2 no age."""
    for person in (1, 2, 3):
        for condition in (1, 2):
            write_edf(tmp_path / f"P{person}_{condition}.edf", waves(seed=10 * person + condition))
    (tmp_path / "people.csv").write_text("Name,Age,Sex,Good\nP1,30,F,1\nP2,,M,0\n")
    return tmp_path


SETTINGS: dict[str, Any] = {
    "file_pattern": r"(?P<person>P\d)_(?P<condition>[12])",
    "table": "people.csv",
    "key": {"person": "Name"},
    "labels": {
        "state": {"from": "condition", "values": {1: "rest", 2: "work"}},
        "quality": {"from": "Good", "values": {"0": "bad", "1": "good"}},
    },
}


# -- samples


def test_signals_in_physical_units(tmp_path: Path) -> None:
    kept = write_edf(tmp_path / "a.edf", waves())
    reader = EdfReader(tmp_path)
    (recording,) = reader.recordings()
    assert reader.channels == ("EEG 0", "EEG 1", "EEG 2")  # no annotations
    assert reader.rate_hz == 20
    np.testing.assert_allclose(recording.samples, kept.T, atol=0.007)  # one step of 16 bits
    assert recording.samples.dtype == np.float32
    (picked,) = EdfReader(tmp_path, channels=["EEG 2", "EEG 0"]).recordings()
    np.testing.assert_array_equal(picked.samples, recording.samples[:, [2, 0]])


def test_resampling(tmp_path: Path) -> None:
    time = np.arange(400) / 100
    tone = np.stack((np.sin(2 * np.pi * 3 * time), np.cos(2 * np.pi * 5 * time)), 1) + np.array((7, -3))
    slower = resample(tone.astype(np.float32), 100.0, 64.0)
    new_time = np.arange(len(slower)) / 64
    expected = np.stack((np.sin(2 * np.pi * 3 * new_time), np.cos(2 * np.pi * 5 * new_time)), 1)
    expected = expected + np.array((7, -3))
    assert len(slower) == 256
    np.testing.assert_allclose(slower[16:-16], expected[16:-16], atol=0.02)
    np.testing.assert_allclose(slower[:, 0], resample_poly(tone[:, 0], 16, 25, padtype="line"), atol=1e-4)
    write_edf(tmp_path / "a.edf", waves())
    reader = EdfReader(tmp_path, steps=SignalSteps(resample_hz=8))
    (recording,) = reader.recordings()
    assert reader.rate_hz == 8
    assert recording.samples.shape == (32, 3)
    assert reader.parameters["native_rate_hz"] == 20
    assert reader.parameters["signals"] == {"resample_hz": 8}


def test_steps_of_a_study_are_taken_and_travel_with_the_model(tmp_path: Path) -> None:
    """Against SciPy alone: high-pass, then half the rate; whole windows, so that every sample is compared."""
    folder = tmp_path / "data"
    kept = {}
    for person in range(3):
        for condition in (1, 2):
            name = f"P{person}_{condition}"
            kept[name] = write_edf(folder / f"{name}.edf", waves(seed=10 * person + condition))
    settings = {
        "file_pattern": r"(?P<person>P\d)_(?P<condition>[12])",
        "band_pass": {"low_hz": 0.5, "order": 2},
        "resample_hz": 10,
        "window": {"samples": 40},
        "normalize": False,
    }
    parts = load(
        "edf",
        settings,
        {"condition": {"kind": "binary"}},
        {"by": "person", "test": 0.34, "validation": 0.33},
        folder=folder,
        stores=tmp_path / "stores",
    )
    assert parts.preprocessing["signals"] == {
        "native_rate_hz": 20.0,
        "band_pass": {"low_hz": 0.5, "high_hz": None, "order": 2, "causal": False},
        "resample_hz": 10,
    }
    store = parts.train.store
    sections = butter(2, 0.5, "highpass", fs=20, output="sos")
    for recording in store.recordings:
        expected = resample_poly(
            sosfiltfilt(sections, kept[recording.name].T, axis=0), 1, 2, axis=0, padtype="line"
        )
        found = store.samples[recording.start : recording.start + recording.length]
        np.testing.assert_allclose(found, expected, atol=0.02)


# -- labels


def test_rows_of_no_recording_are_named(folder: Path) -> None:
    with (folder / "people.csv").open("a") as table:
        table.write("P3,40,F,1\nP4,50,M,1\nP5,60,F,0\n")
    assert EdfReader(folder, **SETTINGS).notes == [
        "2 of 5 that people.csv names have no recording (P4, P5): what it says of them is not used."
    ]


def test_labels_from_names_and_table(folder: Path) -> None:
    reader = EdfReader(folder, **SETTINGS)
    recordings = {recording.name: recording for recording in reader.recordings()}
    assert [r.person for r in recordings.values()] == ["P1", "P1", "P2", "P2", "P3", "P3"]
    first = recordings["P1_2"].labels
    assert {name: first[name] for name in ("state", "quality", "Age", "Sex")} == {
        "state": "work", "quality": "good", "Age": 30, "Sex": "F",
    }  # fmt: skip
    assert recordings["P2_1"].labels["Age"] is None
    assert recordings["P2_1"].labels["quality"] == "bad"
    assert recordings["P3_1"].labels["quality"] is None
    assert recordings["P3_1"].labels["state"] == "rest"
    assert reader.notes == [
        "2 of 6 recordings have no row in people.csv (P3_1.edf, P3_2.edf): "
        "their labels from the table are missing."
    ]
    assert reader.label_classes["state"] == ("rest", "work")
    assert reader.label_classes["Sex"] == ("F", "M")
    assert folder / "people.csv" in reader.files


def test_table_by_file_name(folder: Path) -> None:
    (folder / "people.csv").write_text("file_name,mood\nP1_1.edf,good\nP3_2,bad\n")
    reader = EdfReader(folder, table="people.csv")
    moods = {recording.name: recording.labels.get("mood") for recording in reader.recordings()}
    assert {name: mood for name, mood in moods.items() if mood} == {"P1_1": "good", "P3_2": "bad"}


def test_two_rows_of_one_person(folder: Path) -> None:
    (folder / "people.csv").write_text("Name,Age,Good\nP1,30,1\nP2,40,0\nP1,30,\n")
    EdfReader(folder, **SETTINGS)  # the same value, or none, is no contradiction
    (folder / "people.csv").write_text("Name,Age,Good\nP1,30,1\nP2,40,0\nP1,31,1\n")
    with pytest.raises(DataError, match=r"people\.csv:4: column `Age`: P1 has 31, but 30 in .*:2"):
        EdfReader(folder, **SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "eegmt"}, "Did you mean `eegmat`"),
        ({"file_pattern": "("}, "not a regular expression"),
        ({"key": {"persn": "Name"}}, "Did you mean `person`"),
        ({"key": {"person": "Name", "condition": "Age"}}, "one pair"),
        ({"labels": {"x": {"from": "Godo"}}}, "Did you mean `Good`"),
        ({"labels": {"x": {"form": "Good"}}}, "Did you mean `from`"),
        ({"labels": {"x": {}}}, r"data\.labels\.x\.from"),
        ({"channels": ["EEG 9"]}, "`EEG 9` is not a signal of P1_1"),
        ({"steps": SignalSteps.from_settings({"band_pass": {"high_hz": 10}})}, "below half the rate"),
    ],
)
def test_wrong_settings(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EdfReader(folder, **{**SETTINGS, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_pattern": r"(?P<person>P\d)_(?P<condition>1)"}, r"P1_2\.edf: the name does not match"),
        ({"key": {"person": "Nmae"}}, "Did you mean `Name`"),
        ({"table": "persons.csv"}, "no such file"),
        ({"labels": {"x": {"from": "condition", "values": {"1": "rest"}}}}, r"P1_2\.edf: `condition` is 2"),
    ],
)
def test_data_that_does_not_fit(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        EdfReader(folder, **{**SETTINGS, **change})


# -- broken files


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


@pytest.mark.parametrize(
    ("num_bytes", "message"),
    [
        (0, "the file is empty"),
        (100, "not an EDF file"),
        (600, "ends within its header"),
        (-1, r"\(4 records\), found .* \(3 whole records\)\. The file seems cut off; nothing was written"),
        (1500, r"whole records\)\. The file seems cut off"),
    ],
)
def test_cut_file(tmp_path: Path, capfd: pytest.CaptureFixture[str], num_bytes: int, message: str) -> None:
    write_edf(tmp_path / "a.edf", waves())
    cut(tmp_path / "a.edf", num_bytes)
    with pytest.raises(DataError, match=message):
        EdfReader(tmp_path)
    assert capfd.readouterr() == ("", "")  # pyedflib prints; we do not


def test_cut_file_found_when_read(folder: Path) -> None:
    cut(folder / "P3_2.edf", 1400)
    with pytest.raises(DataError, match=r"P3_2\.edf: .* seems cut off"):
        list(EdfReader(folder, **SETTINGS).recordings())


def test_other_files_named_edf(tmp_path: Path) -> None:
    (tmp_path / "a.edf").write_bytes(b"hello " * 500)
    with pytest.raises(DataError, match="not an EDF file"):
        EdfReader(tmp_path)
    write_edf(tmp_path / "a.edf", waves())
    content = bytearray((tmp_path / "a.edf").read_bytes())
    content[192:197] = b"EDF+D"
    (tmp_path / "a.edf").write_bytes(content)
    with pytest.raises(DataError, match="discontinuous"):
        EdfReader(tmp_path)
    content[192:197] = b"EDF+C"
    content[236:244] = b"-1      "
    (tmp_path / "a.edf").write_bytes(content)
    with pytest.raises(DataError, match="never closed"):
        EdfReader(tmp_path)
    content[236:244] = b"many    "
    (tmp_path / "a.edf").write_bytes(content)
    with pytest.raises(DataError, match="number of records, found 'many"):
        EdfReader(tmp_path)


def test_missing_folder_and_no_recordings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        EdfReader(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"\.edf files expected, found a\.txt"):
        EdfReader(tmp_path)


def test_signals_that_differ(tmp_path: Path) -> None:
    signals = [waves(channels=1)[0], np.repeat(waves(channels=1)[0], 2)]
    with pyedflib.EdfWriter(str(tmp_path / "a.edf"), 2) as file:
        for index, rate in enumerate((20, 40)):
            file.setSamplefrequency(index, rate)
            file.setLabel(index, ("slow", "fast")[index])
        file.writeSamples(signals)
    with pytest.raises(DataError, match="`slow` at 20 Hz and `fast` at 40 Hz"):
        EdfReader(tmp_path)
    assert EdfReader(tmp_path, channels=["fast"]).rate_hz == 40


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"units": "mV"}, r"b\.edf: signal `EEG 0` is in mV, in a\.edf in uV"),
        ({"labels": ["EEG 0", "EEG 1", "EEG X"]}, r"b\.edf: no signal `EEG 2`"),
        ({"rates": [40, 40, 40]}, r"b\.edf: 40 Hz, a\.edf has 20 Hz"),
    ],
)
def test_recordings_that_differ(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    write_edf(tmp_path / "a.edf", waves())
    write_edf(tmp_path / "b.edf", waves(seconds=8 if "rates" in other else 4), **other)
    with pytest.raises(DataError, match=message):
        list(EdfReader(tmp_path).recordings())


# -- the real set


@needs_real
def test_eegmat_headers() -> None:
    reader = EdfReader(REAL, layout="eegmat")
    paths = [path for path in reader.files if path.suffix == ".edf"]
    assert len(paths) == 72
    assert reader.channels == tuple(
        f"EEG {name}" for name in ("F3", "Fz", "F4", "P3", "Pz", "P4", "O1", "O2")
    )
    assert all(set(read_header(path).rates_hz) == {500} for path in paths)
    assert reader.label_classes["count_quality"] == ("bad", "good")
    assert reader.notes == []


@needs_real
def test_eegmat_recording() -> None:
    reader = EdfReader(REAL, layout="eegmat", channels=["EEG O1"], steps=SignalSteps(resample_hz=125))
    recording = reader.read(REAL / "Subject00_1.edf")
    with pyedflib.EdfReader(str(REAL / "Subject00_1.edf")) as file:
        expected = resample_poly(file.readSignal(6), 1, 4, padtype="line")
    np.testing.assert_allclose(recording.samples[:, 0], expected, atol=1e-4)
    assert recording.labels["state"] == "rest"
    assert {name: recording.labels[name] for name in ("gender", "age", "subtractions", "count_quality")} == {
        "gender": "F", "age": 21, "subtractions": 9.7, "count_quality": "bad",
    }  # fmt: skip
