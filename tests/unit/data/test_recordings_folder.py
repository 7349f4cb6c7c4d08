"""The reader of one's own recordings: by what pandas, plain loops and arithmetic say of the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyedflib
import pytest
from numpy.typing import NDArray

from taskloom.data.readers.recordings_folder import RecordingsReader
from taskloom.data.signals import SignalSteps
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError

RATE_HZ = 20.0


def signals(seed: int, length: int = 100, channels: int = 2) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(length, channels)).round(4)


def write_csv(path: Path, seed: int, **columns: Any) -> pd.DataFrame:
    values = signals(seed)
    frame = pd.DataFrame({"time": np.arange(100) / RATE_HZ, "x": values[:, 0], "y": values[:, 1]})
    frame = frame.assign(**columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
    return frame


def refused(folder: Path, kind: type[Exception] = DataError, **settings: Any) -> str:
    with pytest.raises(kind) as caught:
        list(RecordingsReader(folder, **settings).recordings())
    return str(caught.value)


class TestFiles:
    def test_csv_gives_what_pandas_reads(self, tmp_path: Path) -> None:
        frames = {name: write_csv(tmp_path / f"{name}.csv", seed) for seed, name in enumerate("ab")}
        reader = RecordingsReader(tmp_path)
        assert reader.rate_hz == RATE_HZ
        assert reader.channels == ("x", "y")
        for recording in reader.recordings():
            expected = frames[recording.name][["x", "y"]].to_numpy(np.float32)
            np.testing.assert_array_equal(recording.samples, expected)

    def test_all_kinds_hold_the_same(self, tmp_path: Path) -> None:
        values = signals(0).astype(np.float32)
        for kind in ("npy", "npz", "csv", "semicolons"):
            (tmp_path / kind).mkdir()
        np.save(tmp_path / "npy/a.npy", values)
        np.savez(tmp_path / "npz/a.npz", samples=values, rate_hz=20.0, channels=["x", "y"])
        pd.DataFrame(values, columns=["x", "y"]).to_csv(tmp_path / "csv/a.csv", index=False)
        pd.DataFrame(values, columns=["x", "y"]).to_csv(tmp_path / "semicolons/a.csv", index=False, sep=";")
        for kind in ("npy", "npz", "csv", "semicolons"):
            given = {} if kind == "npz" else {"rate_hz": 20.0}
            reader = RecordingsReader(tmp_path / kind, channels=["x", "y"], **given)
            (recording,) = reader.recordings()
            assert (reader.rate_hz, reader.channels, recording.name) == (20.0, ("x", "y"), "a")
            np.testing.assert_array_equal(recording.samples, values)

    def test_edf_holds_the_same_up_to_its_16_bits(self, tmp_path: Path) -> None:
        values = np.clip(signals(1), -4, 4)
        with pyedflib.EdfWriter(str(tmp_path / "a.edf"), 2, pyedflib.FILETYPE_EDF) as file:
            for index, label in enumerate("xy"):
                file.setSignalHeader(
                    index,
                    {
                        "label": label,
                        "dimension": "uV",
                        "sample_frequency": 20,
                        "physical_min": -4,
                        "physical_max": 4,
                        "digital_min": -32768,
                        "digital_max": 32767,
                        "transducer": "",
                        "prefilter": "",
                    },
                )
            file.writeSamples([np.ascontiguousarray(values[:, 0]), np.ascontiguousarray(values[:, 1])])
        reader = RecordingsReader(tmp_path, channels=["y"])
        (recording,) = reader.recordings()
        assert reader.rate_hz == 20
        np.testing.assert_allclose(recording.samples[:, 0], values[:, 1], atol=8 / 65535)

    def test_subfolders_and_chosen_channels(self, tmp_path: Path) -> None:
        frame = write_csv(tmp_path / "P1/walk.csv", 3)
        (recording,) = RecordingsReader(tmp_path, files="**/*.csv", channels=["y"]).recordings()
        assert recording.name == "P1/walk"
        np.testing.assert_array_equal(recording.samples[:, 0], frame["y"].to_numpy(np.float32))

    def test_a_measured_rate_is_rounded_to_whole_hertz(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "a.csv", 0, time=np.round(np.arange(100) * 1000 / 30))
        assert RecordingsReader(tmp_path, time_unit="ms").rate_hz == 30.0

    def test_a_lost_row_carries_the_one_before(self, tmp_path: Path) -> None:
        whole = write_csv(tmp_path / "a.csv", 0)
        whole.drop(index=[7, 8, 50]).to_csv(tmp_path / "a.csv", index=False)
        steps = SignalSteps(carry_forward_seconds=0.1)
        (recording,) = RecordingsReader(tmp_path, steps=steps).recordings()
        expected = whole[["x", "y"]].copy()
        expected.loc[[7, 8, 50]] = np.nan
        np.testing.assert_array_equal(recording.samples, expected.ffill().to_numpy(np.float32))
        assert "a.csv: channel `x` has at 0.4 s no value within" in refused(
            tmp_path, steps=SignalSteps(carry_forward_seconds=0.05)
        )


class TestLabels:
    def test_a_row_per_file(self, tmp_path: Path) -> None:
        for seed, name in enumerate("abc"):
            write_csv(tmp_path / f"{name}.csv", seed)
        (tmp_path / "labels.csv").write_text(
            "file,person,age,mood\na.csv,P1,31,good\nb,P2,,bad\ngone.csv,P3,5,bad\n"
        )
        reader = RecordingsReader(tmp_path, table="labels.csv")
        found = {r.name: (r.person, dict(r.labels)) for r in reader.recordings()}
        assert found == {
            "a": ("P1", {"age": 31, "mood": "good"}),
            "b": ("P2", {"age": None, "mood": "bad"}),
            "c": (None, {"age": None, "mood": None}),
        }
        assert reader.label_classes == {"age": ["31"], "mood": ["bad", "good"]}
        assert reader.notes == [
            "1 file of labels.csv not there (gone.csv).",
            "1 of 3 recordings have no row in labels.csv (c.csv): their labels from it are missing.",
        ]

    def test_intervals_against_a_loop_over_samples(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "a.csv", 0)
        write_csv(tmp_path / "b.csv", 1)
        intervals = [(0.0, 1.0, "walk", "left"), (1.0, 1.52, "lie", ""), (3.0, 5.0, "walk", "right")]
        rows = "".join(f"a,{start},{stop},{gait},{hand}\n" for start, stop, gait, hand in intervals)
        (tmp_path / "intervals.csv").write_text("file,start_s,stop_s,gait,hand\n" + rows)
        reader = RecordingsReader(tmp_path, intervals="intervals.csv")
        assert reader.tracks["gait"] == {0: "NULL", 1: "lie", 2: "walk"}
        first, second = reader.recordings()
        assert first.tracks is not None
        assert second.tracks is not None
        for sample in range(100):
            at = sample / RATE_HZ
            inside = next((i for i in intervals if i[0] <= at < i[1] - 1e-9), None)
            gait, hand = ("NULL", "NULL") if inside is None else (inside[2], inside[3] or "NULL")
            if sample == 30:  # 1.5 s: the interval ends at 1.52, nearer to sample 30 than to 31
                gait = "NULL"
            found = [reader.tracks[t][int(first.tracks[sample, c])] for c, t in enumerate(("gait", "hand"))]
            assert found == [gait, hand], sample
        assert not second.tracks.any()
        assert "1 of 2 recordings have no interval in intervals.csv (b.csv)" in reader.notes[0]

    def test_tracks_in_the_files(self, tmp_path: Path) -> None:
        gait = ["", "walk", "NULL", "lie"] * 25
        write_csv(tmp_path / "a.csv", 0, gait=gait, level=[10, 9] * 50)
        reader = RecordingsReader(tmp_path, tracks=["gait", "level"])
        (recording,) = reader.recordings()
        assert reader.tracks == {
            "gait": {0: "NULL", 1: "lie", 2: "walk"},
            "level": {0: "NULL", 1: "9", 2: "10"},
        }
        assert recording.tracks is not None
        assert recording.tracks[:4].tolist() == [[0, 2], [2, 1], [0, 2], [1, 1]]
        assert reader.channels == ("x", "y")
        given = RecordingsReader(tmp_path, tracks={"gait": ["walk", "lie"], "level": ["9", "10"]})
        assert given.tracks["gait"] == {0: "NULL", 1: "walk", 2: "lie"}

    def test_tracks_follow_resampling_padding_and_spectrogram(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "a.csv", 0, gait=["walk"] * 60 + ["lie"] * 40)
        steps = SignalSteps.from_settings(
            {
                "resample_hz": 10,
                "fit_seconds": 6,
                "spectrogram": {"window_seconds": 0.8, "hop_seconds": 0.4},
            }
        )
        reader = RecordingsReader(tmp_path, tracks=["gait"], steps=steps)
        (recording,) = reader.recordings()
        assert recording.tracks is not None
        assert len(recording.tracks) == len(recording.samples) == 14
        assert reader.rate_hz == 2.5
        for frame, code in enumerate(recording.tracks[:, 0]):
            centre_seconds = 0.4 * frame + 0.4
            name = "walk" if centre_seconds < 3 else "lie" if centre_seconds < 5 else "NULL"
            assert reader.tracks["gait"][int(code)] == name


class TestLoading:
    def test_from_files_to_parts(self, tmp_path: Path) -> None:
        rows = ["file,person,mood,age,split"]
        for index in range(8):
            write_csv(tmp_path / f"data/r{index}.csv", index)
            part = "test" if index > 5 else "validation" if index > 3 else "train"
            rows.append(f"r{index},P{index // 2},{'ab'[index % 2]},{20 + index},{part}")
        (tmp_path / "data/table.csv").write_text("\n".join(rows) + "\n")
        splits = load(
            "recordings",
            {"table": "table.csv", "window": {"seconds": 1}, "band_pass": {"low_hz": 1, "high_hz": 5}},
            {"mood": {"kind": "binary"}, "years": {"kind": "regression", "column": "age"}},
            {"by": "person", "column": "split"},
            folder=tmp_path / "data",
            stores=tmp_path / "stores",
        )
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (20, 10, 10)
        assert splits.test.labels.values["years"].unique().tolist() == [26.0, 27.0]
        assert splits.about["group"] == "person"
        assert splits.preprocessing["signals"] == {
            "native_rate_hz": 20.0,
            "band_pass": {"low_hz": 1, "high_hz": 5, "order": 4, "causal": False},
        }

    def test_a_person_on_both_sides_is_refused(self, tmp_path: Path) -> None:
        rows = ["file,person,mood,split"]
        for index in range(6):
            write_csv(tmp_path / f"data/r{index}.csv", index)
            rows.append(
                f"r{index},P{index % 2},{'ab'[index % 2]},{('train', 'validation', 'test')[index // 2]}"
            )
        (tmp_path / "data/table.csv").write_text("\n".join(rows) + "\n")
        with pytest.raises(DataError, match=r"person P0 stands in train \(2 windows\) and validation \(2\)"):
            load(
                "recordings",
                {"table": "table.csv"},
                {"mood": {"kind": "binary"}},
                {"by": "person", "column": "split"},
                folder=tmp_path / "data",
                stores=tmp_path / "stores",
            )


class TestBadInput:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for seed, name in enumerate("ab"):
            write_csv(tmp_path / f"{name}.csv", seed)
        return tmp_path

    def test_two_rows_for_one_file(self, folder: Path) -> None:
        (folder / "t.csv").write_text("file,mood\na.csv,1\nb,2\na,1\n")
        message = refused(folder, table="t.csv")
        assert "t.csv:4: column `file`: a has a row already" in message
        assert "t.csv:2" in message

    def test_a_table_of_other_files(self, folder: Path) -> None:
        (folder / "t.csv").write_text("file,mood\nz.csv,1\n")
        assert "it names 1 file, and none is there, for example z.csv" in refused(folder, table="t.csv")

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            ("a,0,2,x\na,1.5,3,y\n", ["i.csv:3", "1.5 to 3 s overlaps the one from 0 to 2 s", "i.csv:2"]),
            ("a,4,5.2,x\n", ["i.csv:2", "4 to 5.2 s leaves the recording a, which lasts 5 s"]),
            ("a,-1,2,x\n", ["-1 to 2 s leaves the recording a"]),
            ("a,2,2,x\n", ["i.csv:2", "a start before the stop expected, found 2 and 2 s"]),
            ("a,1,,x\n", ["found 1 and nan s"]),
        ],
    )
    def test_intervals_that_cannot_be(self, folder: Path, rows: str, words: list[str]) -> None:
        (folder / "i.csv").write_text("file,start_s,stop_s,gait\n" + rows)
        message = refused(folder, intervals="i.csv")
        assert all(word in message for word in words), message

    def test_times_that_run_backwards(self, folder: Path) -> None:
        time = np.arange(100) / RATE_HZ
        time[60] = 1.0
        write_csv(folder / "b.csv", 1, time=time)
        assert "b.csv:62: time runs backwards, from 2.95 to 1 s" in refused(folder)

    def test_a_rate_that_differs(self, folder: Path) -> None:
        write_csv(folder / "b.csv", 1, time=np.arange(100) / 25)
        assert "b.csv: 25 Hz, 20 Hz expected as in a.csv" in refused(folder)

    def test_no_rate_at_all(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", signals(0))
        assert "a.npy: its rate is not known; give `data.rate_hz`." in refused(tmp_path)

    def test_a_file_of_no_bytes(self, folder: Path) -> None:
        (folder / "b.csv").write_bytes(b"")
        assert refused(folder) == "b.csv: the file is empty, a recording expected; leave it out."

    def test_a_short_row_and_a_word_are_located(self, folder: Path) -> None:
        text = (folder / "b.csv").read_text().splitlines()
        (folder / "b.csv").write_text("\n".join([*text[:5], "0.2,1", *text[6:]]) + "\n")
        assert "b.csv:6: 3 columns expected, found 2" in refused(folder)
        (folder / "b.csv").write_text("\n".join([*text[:5], "0.2,1,oops", *text[6:]]) + "\n")
        assert "b.csv:6: column `y`: a number expected, found `oops`" in refused(folder)

    def test_a_column_that_is_not_there(self, folder: Path) -> None:
        assert "a.csv: no column `yy`, which `data.channels` names. Did you mean `y`?" in refused(
            folder, channels=["yy"]
        )
        assert "which `data.tracks` names" in refused(folder, tracks=["gait"])

    def test_kinds_are_not_mixed(self, folder: Path) -> None:
        np.save(folder / "c.npy", signals(0))
        assert "recordings of one kind expected, found .csv, .npy" in refused(folder)

    def test_python_objects_are_not_admitted(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        assert "a.npy: not readable as an array of numbers" in refused(tmp_path, rate_hz=20)
        np.savez(tmp_path / "b.npz", other=np.zeros(3))
        assert "b.npz: an array `samples` [n, channels] expected, found other" in refused(
            tmp_path, rate_hz=20, files="*.npz"
        )

    def test_a_class_that_is_not_given(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "a.csv", 0, gait=["walk"] * 99 + ["wlak"])
        message = refused(tmp_path, tracks={"gait": ["walk", "lie"]})
        assert "a.csv: track `gait` is `wlak` at sample 99" in message
        assert "Did you mean `walk`?" in message

    def test_channels_that_differ(self, folder: Path) -> None:
        frame = pd.read_csv(folder / "b.csv").rename(columns={"y": "z"})
        frame.to_csv(folder / "b.csv", index=False)
        assert "b.csv: channels x, y (2) expected as in a.csv, found x, z (2)" in refused(folder)

    def test_one_name_for_two_sources(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "a.csv", 0, gait=["walk"] * 100)
        (tmp_path / "t.csv").write_text("file,gait\na,walk\n")
        message = refused(tmp_path, ConfigError, table="t.csv", tracks=["gait"])
        assert message == "data.table: `gait` is a track too; rename one of them."
