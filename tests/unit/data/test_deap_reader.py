"""The DEAP reader: against plain pickle, SciPy and arithmetic; and pickles that must not be run."""

from __future__ import annotations

import os
import pickle
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from taskloom.data.readers.deap import CHANNELS, DeapReader
from taskloom.data.readers.deap_pickle import read_array_pickle
from taskloom.data.signals import SignalSteps
from taskloom.data.simulate.deap import simulate_deap, write_python2_pickle
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Binary, TaskSet

SPLIT_SEED = 1
"""A draw that leaves every class in train."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_deap(
        tmp_path_factory.mktemp("deap") / "both", people=2, trials=3, seed=1, formats=("dat", "mat")
    )


def by_pickle(path: Path) -> dict[str, NDArray[np.float64]]:
    with path.open("rb") as file, warnings.catch_warnings():
        # NumPy's own reading of Python 2: the types' `align` is a number there.
        warnings.simplefilter("ignore")
        return pickle.load(file, encoding="latin1")


def refused(folder: Path, kind: type[Exception] = DataError, **settings: Any) -> str:
    with pytest.raises(kind) as caught:
        list(DeapReader(folder, **settings).recordings())
    return str(caught.value)


def write(path: Path, data: Any = None, labels: Any = None, **more: Any) -> None:
    """A file of one trial; by Python 3."""
    arrays = {
        "data": np.zeros((1, 40, 8064), dtype=np.float32) if data is None else data,
        "labels": np.full((1, 4), 5.0) if labels is None else labels,
        **more,
    }
    path.write_bytes(pickle.dumps(arrays, protocol=2))


class TestRecordings:
    @pytest.mark.parametrize("kind", ["dat", "mat"])
    def test_every_trial_is_what_others_read(self, folder: Path, kind: str) -> None:
        path = folder / f"s02.{kind}"
        expected = by_pickle(path) if kind == "dat" else scipy.io.loadmat(path)
        reader = DeapReader(folder, format=kind, trials=3)  # type: ignore[arg-type]
        recordings = list(reader.recordings())
        assert [recording.name for recording in recordings[2:4]] == ["s01-03", "s02-01"]
        for trial, recording in enumerate(recordings[3:]):
            assert (recording.person, recording.trial) == ("s02", f"0{trial + 1}")
            np.testing.assert_array_equal(
                recording.samples, expected["data"][trial, :, 384:].T.astype(np.float32)
            )
            for column, rating in enumerate(("valence", "arousal", "dominance", "liking")):
                assert recording.labels[rating] == expected["labels"][trial, column]

    def test_baseline_and_channels(self, folder: Path) -> None:
        data = by_pickle(folder / "s01.dat")["data"][0]
        row = CHANNELS.index("Cz")
        assert row == 23
        settings: dict[str, Any] = {"format": "dat", "trials": 3, "channels": ["GSR", "Cz"]}
        for baseline, expected in (
            ("keep", data[row]),
            ("drop", data[row, 384:]),
            ("subtract", data[row, 384:] - data[row, :384].mean()),
        ):
            recording = next(DeapReader(folder, baseline=baseline, **settings).recordings())
            np.testing.assert_allclose(recording.samples[:, 1], expected, rtol=1e-6, atol=1e-6)
        sets = {"all": 40, "eeg": 32, "peripheral": 8}
        for name, size in sets.items():
            assert len(DeapReader(folder, format="dat", channels=name).channels) == size

    def test_classes_of_ratings(self, tmp_path: Path) -> None:
        # bounds of three classes: 3.667 and 6.333
        ratings = {
            1.0: ("low", "low"),
            3.66: ("low", "low"),
            3.67: ("low", "medium"),
            4.49: ("low", "medium"),
        }
        ratings |= {
            4.5: ("high", "medium"),
            6.33: ("high", "medium"),
            6.34: ("high", "high"),
            9.0: ("high", "high"),
        }
        labels = np.array([[value, 5, 5, value] for value in ratings])
        write(tmp_path / "s01.dat", np.zeros((8, 40, 8064), dtype=np.float32), labels)
        found = list(DeapReader(tmp_path, trials=8).recordings())
        assert [(r.labels["valence_binary"], r.labels["valence_three"]) for r in found] == list(
            ratings.values()
        )
        assert [r.labels["liking_binary"] for r in found] == ["low"] + 7 * ["high"]  # from 2.5 on
        moved = DeapReader(tmp_path, trials=8, thresholds={"valence": 6.33}, three_class_bounds=[2, 9])
        found = list(moved.recordings())
        assert [r.labels["valence_binary"] for r in found] == 5 * ["low"] + 3 * ["high"]
        assert [r.labels["valence_three"] for r in found] == ["low"] + 6 * ["medium"] + ["high"]

    def test_steps_are_taken(self, folder: Path) -> None:
        steps = SignalSteps.from_settings({"band_pass": {"low_hz": 4, "high_hz": 45}, "resample_hz": 64})
        reader = DeapReader(folder, format="dat", trials=3, steps=steps)
        plain = next(DeapReader(folder, format="dat", trials=3).recordings())
        recording = next(reader.recordings())
        assert reader.rate_hz == 64
        np.testing.assert_array_equal(recording.samples, steps.apply(plain.samples, 128.0, ""))

    @pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
    def test_pickles_of_python_3_are_read_too(self, tmp_path: Path, protocol: int) -> None:
        arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(4, dtype=">i2"), "c": np.eye(3).T[:, :2]}
        (tmp_path / "a.dat").write_bytes(pickle.dumps(arrays, protocol=protocol))
        found = read_array_pickle(tmp_path / "a.dat")
        assert list(found) == ["a", "b", "c"]
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


class TestLoading:
    def test_the_kind_of_a_task_decides_its_label(self, folder: Path, tmp_path: Path) -> None:
        tasks = {
            "valence": {"kind": "binary"},
            "v3": {"kind": "multiclass", "column": "valence"},
            "arousal": {"kind": "regression"},
        }
        splits = load(
            "deap",
            {"format": "dat", "trials": 3, "channels": "eeg", "thresholds": {"valence": 5.39}},
            tasks,
            {"by": "trial", "test": 0.34, "validation": 0.17, "seed": SPLIT_SEED},
            folder=folder,
            stores=tmp_path,
        )
        assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [
            3 * 119,
            119,
            2 * 119,
        ]
        assert splits.train.input_shape == (128, 32)
        assert splits.tasks["v3"].class_names == ("low", "medium", "high")  # type: ignore[union-attr]
        said = np.concatenate([by_pickle(folder / f"s0{n}.dat")["labels"] for n in (1, 2)])
        parts = (splits.train, splits.validation, splits.test)
        high = sum(int(part.labels.values["valence"].sum()) for part in parts)
        assert high == 119 * (said[:, 0] >= 5.39).sum()
        arousal = np.concatenate([part.labels.values["arousal"].numpy() for part in parts])
        np.testing.assert_allclose(np.unique(arousal), np.unique(said[:, 1]), rtol=1e-6)
        assert splits.about["group"] == "person"

    def test_a_task_set_is_taken_too(self, folder: Path, tmp_path: Path) -> None:
        splits = load(
            "deap",
            {"format": "mat", "trials": 3, "thresholds": {"valence": 5.39}},
            TaskSet(Binary("valence", ("low", "high"))),
            {"by": "trial", "test": 0.34, "validation": 0.17, "seed": SPLIT_SEED},
            folder=folder,
            stores=tmp_path,
        )
        assert splits.tasks["valence"].class_names == ("low", "high")  # type: ignore[union-attr]


class Runs:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class TestPicklesThatRunCode:
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_nothing_is_run_and_the_name_is_said(self, tmp_path: Path, protocol: int) -> None:
        mark = tmp_path / "mark"
        attacks = {
            "system": Runs(os.system, f"touch {mark}"),
            "Popen": Runs(subprocess.Popen, ["touch", str(mark)]),
            "eval": Runs(eval, f"open({str(mark)!r}, 'w')"),
            "load": Runs(np.load, "x"),
            "getattr": Runs(getattr, np.zeros(1), "tofile"),
        }
        for name, attack in attacks.items():
            arrays = {"data": np.zeros((1, 2)), "labels": attack}
            (tmp_path / "s01.dat").write_bytes(pickle.dumps(arrays, protocol=protocol))
            message = refused(tmp_path)
            assert message.startswith("s01.dat: the pickle asks for `")
            assert f".{name}`; a pickle can run any program" in message
            assert "nothing was run" in message
        assert not mark.exists()

    def test_arrays_of_objects_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "s01.dat", np.array([{}, []], dtype=object))
        assert "an array of plain numbers expected, found one of dtype 'O8'" in refused(tmp_path)
        write(tmp_path / "s01.dat", np.zeros(2, dtype=[("a", "f4"), ("b", "f4")]))
        assert "an array of plain numbers expected" in refused(tmp_path)

    def test_parts_of_a_pickle_cannot_be_altered(self, tmp_path: Path) -> None:
        # BUILD with a state of (None, {...}) sets attributes of what `find_class` gave.
        program = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}U\x0c__defaults__K\x01s\x86b."
        (tmp_path / "s01.dat").write_bytes(program)
        refused(tmp_path)
        write(tmp_path / "s01.dat")
        assert len(list(DeapReader(tmp_path, trials=1).recordings())) == 1

    def test_a_shape_that_its_bytes_do_not_fill(self, tmp_path: Path) -> None:
        write_python2_pickle(tmp_path / "s01.dat", {"data": np.zeros((2, 3)), "labels": np.zeros((1, 4))})
        content = (tmp_path / "s01.dat").read_bytes()
        (tmp_path / "s01.dat").write_bytes(content.replace(b"M\x02\x00M\x03\x00", b"M\x02\x00M\x04\x00"))
        assert "array `data` of shape [2, 4] takes 64 bytes, found 48" in refused(tmp_path)


class TestBadInput:
    def test_another_shape(self, tmp_path: Path) -> None:
        write(tmp_path / "s01.dat", np.zeros((1, 40, 8000)))
        assert refused(tmp_path, trials=1) == (
            "s01.dat: `data` of shape [1, 40, 8064] expected, found [1, 40, 8000]; is it one of DEAP's "
            "preprocessed files?"
        )
        write(tmp_path / "s01.dat")
        assert "found [1, 40, 8064]" in refused(tmp_path)
        assert "For files of 1 trials set `data.trials: 1`." in refused(tmp_path)
        write(tmp_path / "s01.dat", labels=np.full((1, 5), 5.0))
        assert "`labels` of shape [1, 4] expected, found [1, 5]" in refused(tmp_path, trials=1)
        (tmp_path / "s01.dat").write_bytes(pickle.dumps({"data": np.zeros(3)}, protocol=2))
        assert "arrays `data` and `labels` expected, found data" in refused(tmp_path)
        (tmp_path / "s01.dat").write_bytes(pickle.dumps([1, 2], protocol=2))
        assert "a dictionary of arrays expected, found a list" in refused(tmp_path)
        (tmp_path / "s01.dat").write_bytes(pickle.dumps({"data": 3}, protocol=2))
        assert "an array expected under `data`, found a int" in refused(tmp_path)

    def test_values_out_of_range(self, tmp_path: Path) -> None:
        write(tmp_path / "s01.dat", labels=np.array([[5, 9.5, 5, 5]]))
        assert "s01.dat: arousal of trial 1 is 9.5; a rating from 1 to 9 expected" in refused(
            tmp_path, trials=1
        )
        data = np.zeros((1, 40, 8064), dtype=np.float32)
        data[0, 4, 500] = np.nan
        write(tmp_path / "s01.dat", data)
        assert "s01-01: channel `FC5` has no value at 0.90625 s" in refused(tmp_path, trials=1)

    @pytest.mark.parametrize("kind", ["dat", "mat"])
    def test_damaged_files(self, folder: Path, tmp_path: Path, kind: str) -> None:
        whole = (folder / f"s01.{kind}").read_bytes()
        for content in (
            b"",
            b"\x80\x02",
            whole[:1000],
            whole[: len(whole) // 2],
            b"hello, world",
            b"\0" * 500,
        ):
            (tmp_path / f"s01.{kind}").write_bytes(content)
            message = refused(tmp_path)
            assert message.startswith(f"s01.{kind}: ")
            assert "empty" in message or "cut off" in message or "expected" in message
            assert "\n" not in message

    def test_folders(self, folder: Path, tmp_path: Path) -> None:
        assert "s01.dat and s01.mat hold the same person" in refused(folder)
        assert "no such folder" in refused(tmp_path / "nowhere")
        assert "files like s01.dat expected, found an empty folder" in refused(tmp_path)
        (tmp_path / "data_preprocessed_python").mkdir()
        assert f"Did you mean {tmp_path / 'data_preprocessed_python'}?" in refused(tmp_path)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"channels": "egg"}, "data.channels: `egg` is not known. Did you mean `eeg`?"),
            ({"channels": ["CZ"]}, "`CZ` is not a channel of DEAP"),
            ({"channels": ["Cz", "Cz"]}, "`Cz` stands twice"),
            ({"channels": []}, "at least one channel expected"),
            ({"baseline": "remove"}, "data.baseline: drop or subtract or keep expected, found 'remove'"),
            (
                {"thresholds": {"valance": 5}},
                "data.thresholds.valance is not a rating. Did you mean `valence`?",
            ),
            ({"thresholds": {"valence": 0}}, "a number above 1 up to 9 expected, found 0"),
            ({"three_class_bounds": [5, 4]}, "two ascending numbers above 1 up to 9 expected, found 5 and 4"),
            ({"three_class_bounds": [5]}, "two numbers expected, found [5]"),
            ({"format": "csv"}, "data.format: dat or mat expected, found 'csv'"),
            ({"trials": 0}, "data.trials: 1 or more expected, found 0"),
            (
                {"steps": SignalSteps.from_settings({"band_pass": {"high_hz": 64}})},
                "edges below half the rate",
            ),
        ],
    )
    def test_settings(self, folder: Path, settings: dict[str, Any], words: str) -> None:
        assert words in refused(folder, ConfigError, **{"format": "dat", **settings})
