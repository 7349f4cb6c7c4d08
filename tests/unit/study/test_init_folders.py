"""`taskloom init` on folders of images and recordings, and on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyedflib
import pytest
from scipy.io import wavfile
from typer.testing import CliRunner

from taskloom.cli import app
from taskloom.errors import DataError
from taskloom.study.config import load_study
from taskloom.study.draft import draft_study, find_source, survey
from taskloom.study.single import load_data

DATA = Path(__file__).parents[4] / "shared" / "data"
DRAW = np.random.default_rng(0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _faces(folder: Path, height: int, width: int, rows: int = 40) -> None:
    (folder / "images").mkdir(parents=True)
    names = [f"{row:03d}.png" for row in range(rows)]
    for name in names:
        pixels = DRAW.integers(0, 256, (height, width, 3)).astype(np.uint8)
        assert cv2.imwrite(str(folder / "images" / name), pixels)
    frame = pd.DataFrame({"file_name": names, "age": DRAW.integers(1, 90, rows)})
    frame["smiling"] = [("", "yes", "no")[row % 3] for row in range(rows)]
    frame["person"] = [f"P{row // 2}" for row in range(rows)]
    frame.to_csv(folder / "metadata.csv", index=False)


def _recordings(folder: Path, count: int = 24, **columns: Any) -> None:
    folder.mkdir()
    for number in range(count):
        frame = pd.DataFrame(DRAW.normal(size=(500, 2)), columns=["x", "y"])
        if columns.get("time"):
            frame["time"] = np.arange(500) / 50
        frame.to_csv(folder / f"r{number:02d}.csv", index=False)
    rows = [(f"r{i:02d}", f"P{i // 2}", ("rest", "walk")[i % 2], 20 + i / 2) for i in range(count)]
    table = pd.DataFrame(rows, columns=["file_name", columns.get("who", "person"), "state", "age"])
    table.to_csv(folder / "labels.csv", index=False)


def _run(text: str) -> None:
    Path("study.yaml").write_text(text, encoding="utf-8")
    small = [
        "--set",
        "repeats=1",
        "--set",
        "training.epochs=1",
        "--set",
        "cells=[{hard_sharing: {stages: 1}}]",
    ]
    for command in (["inspect", "study.yaml"], ["study", "study.yaml", *small]):
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("place", ["faces", "faces/metadata.csv"])
def test_images_beside_their_table(here: Path, place: str) -> None:
    _faces(here / "faces", 20, 24)
    draft = draft_study(place, ["age", "smiling"])
    assert draft.settings["data"] == {
        "table": "faces/metadata.csv",
        "images": "faces/images",
        "size": 32,
        "group": "person",
    }
    assert draft.tasks == {"age": "regression", "smiling": "binary"}
    assert not list(here.glob("runs*"))  # no image was prepared
    if place == "faces":
        _run(draft.text)


def test_images_elsewhere_and_large_ones(here: Path) -> None:
    _faces(here / "faces", 300, 200, rows=12)
    (here / "faces/images").rename(here / "photos")
    with pytest.raises(
        DataError, match="no image that it names is in faces and the folders in it, for example"
    ):
        draft_study("faces", ["age", "smiling"])
    draft = draft_study("faces", ["age", "smiling"], images="photos")
    assert (draft.settings["data"]["images"], draft.settings["data"]["size"]) == ("photos", 96)
    with pytest.raises(DataError, match="column `file_name` cannot be a task: it names the images"):
        draft_study("faces", ["age", "file_name"], images="photos")


def test_own_recordings(here: Path) -> None:
    _recordings(here / "walks", time=True, who="walker")
    draft = draft_study("walks", ["state", "age"])
    data = draft.settings["data"]
    assert (data["reader"], data["files"], data["group_by"]) == ("recordings", "*.csv", "walker")
    assert (draft.settings["split"]["by"], draft.settings["encoder"]["name"]) == ("walker", "conv1d")
    _run(draft.text)


@pytest.mark.parametrize("below", ["", "files"])
def test_edf_recordings(here: Path, below: str) -> None:
    (here / "eeg" / below).mkdir(parents=True)
    rows = []
    for number in range(24):
        name = (Path(below) / f"r{number:02d}.edf").as_posix()
        with pyedflib.EdfWriter(str(here / "eeg" / name), 2, file_type=pyedflib.FILETYPE_EDF) as writer:
            for channel in range(2):
                limits = {"physical_max": 9.0, "physical_min": -9.0, "digital_max": 32767}
                header = {"label": f"C{channel}", "dimension": "uV", "sample_frequency": 300, **limits}
                writer.setSignalHeader(
                    channel, {**header, "digital_min": -32768, "transducer": "", "prefilter": ""}
                )
            writer.writeSamples([DRAW.normal(size=1800).clip(-8, 8) for _ in range(2)])
        rows.append((name, f"P{number // 2}", ("rest", "count")[number % 2], 20 + number // 2))
    table = pd.DataFrame(rows, columns=["file_name", "person", "state", "age"])
    table.to_csv(here / "eeg/recordings.csv", index=False)
    draft = draft_study("eeg", ["state", "age"])
    assert draft.settings["data"]["reader"] == ("recordings" if below else "edf")
    assert draft.settings["data"]["window"]["seconds"] == 2
    splits = load_data(_study(draft.text), None, Path("stores"))
    assert splits.train.input_shape == (600, 2)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 24 * 3


def test_marks_of_missing_labels_in_a_table_of_recordings(here: Path) -> None:
    _recordings(here / "walks", time=True)
    whole = pd.read_csv(here / "walks/labels.csv", dtype=str)
    for column, row in (("age", 3), ("state", 5)):
        marked = whole.copy()
        marked.loc[row, column] = "unknown" if column == "age" else "?"
        marked.to_csv(here / "walks/labels.csv", index=False)
        place = rf"labels\.csv:{row + 2}: column `{column}`: `(unknown|\?)` seems to mean a missing label"
        with pytest.raises(DataError, match=place):
            draft_study("walks", ["state", "age"])


def test_a_rate_that_no_file_says(here: Path) -> None:
    _recordings(here / "walks")
    with pytest.raises(DataError, match=r"r00\.csv: its rate is not known; say it with --rate-hz HZ"):
        draft_study("walks", ["state", "age"])
    draft = draft_study("walks", ["state", "age"], rate_hz=50)
    assert draft.settings["data"]["rate_hz"] == 50
    assert draft.settings["split"]["by"] == "person"


def test_short_sounds_are_one_window_each(here: Path) -> None:
    (here / "words/sub").mkdir(parents=True)
    for number in range(24):
        sound = (DRAW.normal(size=3000 + 100 * number) * 1000).astype(np.int16)
        wavfile.write(here / f"words/sub/w{number}.wav", 8000, sound)
    rows = [(f"sub/w{i}.wav", f"S{i // 3}", "ab"[i % 2], i % 3 + 0.5) for i in range(24)]
    table = pd.DataFrame(rows, columns=["file", "speaker", "word", "pitch"])
    table.to_csv(here / "words/table.tsv", index=False, sep="\t")
    draft = draft_study("words", ["word", "pitch"])
    data = draft.settings["data"]
    assert (data["reader"], data["files"], data["fit_seconds"]) == ("wav", "sub/*.wav", 0.5)
    assert data["spectrogram"]["mel_bands"] == 40
    assert "`speaker` has 8 values only" in draft.notes[0]
    splits = load_data(_study(draft.text), None, Path("stores"))
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 24
    assert splits.train.input_shape[-1] == 40  # bands, not samples of sound


def _study(text: str) -> Any:
    Path("study.yaml").write_text(text, encoding="utf-8")
    return load_study(Path("study.yaml"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {},
            "a column `file_name` that names the images or recordings beside it expected, found no",
        ),
        ({"README.txt": "Read me,\nplease."}, "beside it expected, found no table; for a table of numbers"),
        (
            {"a.csv": "x,y\n1,2\n"},
            "found 1 table without one (data/a.csv); for a table of numbers name the file itself",
        ),
        ({"a.csv": "file_name,y\nq.wav,2\n"}, "it names files such as q.wav, and none of them is in data"),
        (
            {"a.csv": "file,y\nq,2\n", "b.csv": "file,y\nq,2\n"},
            "2 tables with a column of files (a.csv, b.csv)",
        ),
    ],
)
def test_folders_that_hold_nothing_to_learn_from(here: Path, files: dict[str, str], message: str) -> None:
    (here / "data").mkdir()
    for name, text in files.items():
        (here / "data" / name).write_text(text)
    with pytest.raises(DataError) as error:
        draft_study("data", ["x", "y"])
    assert message in str(error.value)


REAL = {
    "parkinsons/parkinsons_updrs.csv": {
        "motor_UPDRS": "regression",
        "total_UPDRS": "regression",
        "sex": "binary",
    },
    "tox21/tox21.csv": dict.fromkeys(("NR-AhR", "SR-p53"), "binary"),
    "eegmat": {"state": "binary", "gender": "binary", "age": "regression"},
    "fsdd": {"digit": "multiclass", "speaker": "multiclass", "accent": "multiclass"},
}


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize("name", ["parkinsons/parkinsons_updrs.csv", "tox21/tox21.csv"])
def test_real_tables(here: Path, name: str) -> None:
    draft = draft_study(DATA / name, list(REAL[name]))
    assert draft.tasks == REAL[name]
    group = {"parkinsons": "subject#", "tox21": "smiles"}[name.partition("/")[0]]
    assert draft.settings["data"]["group"] == group
    frame = pd.read_csv(DATA / name, sep=None, engine="python")
    splits = load_data(_study(draft.text), None, Path("stores"))
    groups = frame[group].astype(str).to_numpy()
    assert not set(groups[splits.train.rows]) & set(groups[splits.test.rows])
    counts = {task: sum(parts.values()) for task, parts in splits.about["labels"].items()}
    assert counts == {task: int(frame[task].notna().sum()) for task in REAL[name]}


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize("name", ["eegmat", "fsdd"])
def test_real_recordings_are_known(name: str) -> None:
    found = survey(find_source(DATA / name), tasks=list(REAL[name]))
    assert set(REAL[name]) <= set(found.free)
    assert found.source.data["layout"] == name
    assert (found.group or ("",))[0] == {"eegmat": "person", "fsdd": ""}[name]


@pytest.mark.parametrize(
    ("name", "unit", "times"), [("time_ms", "ms", 1000), ("t", "s", 1), ("Time", "ms", 1000)]
)
def test_a_column_of_times_is_no_channel(here: Path, name: str, unit: str, times: float) -> None:
    _recordings(here / "rec")
    for path in (here / "rec").glob("r*.csv"):
        frame = pd.read_csv(path)
        frame.insert(0, name, np.arange(500) / 50 * times)
        frame.to_csv(path, index=False)
    draft = draft_study("rec", ["state", "age"])
    assert (draft.settings["data"]["time"], draft.settings["data"]["time_unit"]) == (name, unit)
    Path("study.yaml").write_text(draft.text, encoding="utf-8")
    data = load_data(load_study(Path("study.yaml")), None, Path("stores"))
    assert data.train.input_shape == (100, 2)
    with pytest.raises(
        DataError, match=f"--rate-hz 50: the files say it themselves, in their column `{name}`"
    ):
        draft_study("rec", ["state", "age"], rate_hz=50)


@pytest.mark.parametrize(("name", "step"), [("t", 1), ("timestamp", 20_000)])
def test_a_column_that_may_count_samples_says_no_rate_and_is_no_channel(
    here: Path, name: str, step: int
) -> None:
    _recordings(here / "rec")
    for path in (here / "rec").glob("r*.csv"):
        frame = pd.read_csv(path)
        frame.insert(0, name, np.arange(500) * step)
        frame.to_csv(path, index=False)
    with pytest.raises(DataError, match=f"column `{name}` rises by {step:g} .* say the rate with --rate-hz"):
        draft_study("rec", ["state", "age"])
    draft = draft_study("rec", ["state", "age"], rate_hz=50)
    assert draft.settings["data"]["channels"] == ["x", "y"]
    Path("study.yaml").write_text(draft.text, encoding="utf-8")
    data = load_data(load_study(Path("study.yaml")), None, Path("stores"))
    assert data.train.input_shape == (100, 2)


def test_images_of_a_column_of_another_name(here: Path) -> None:
    _faces(here / "faces", 40, 40)
    table = here / "faces" / "metadata.csv"
    table.write_text(table.read_text().replace("file_name", "Picture"))
    draft = draft_study("faces", ["age", "smiling"])
    assert draft.settings["data"]["file"] == "Picture"
    _run(draft.text)


def test_files_of_another_kind_are_told_from_files_that_are_not_there(here: Path) -> None:
    (here / "rec").mkdir()
    rows = [f"r{row}.mat,{row % 2},{row}" for row in range(20)]
    (here / "rec/labels.csv").write_text("\n".join(["file_name,a,b", *rows]))
    with pytest.raises(DataError, match=r"r0.mat, and none of them is in rec"):
        draft_study("rec", ["a", "b"])
    (here / "rec/r0.mat").write_bytes(b"")
    with pytest.raises(DataError, match=r"r0.mat, which are not read; images .*: write them as .npy"):
        draft_study("rec", ["a", "b"])
