"""OPPORTUNITY, DEAP, recordings normalised by person, and labels per sample through a bundle.

What `predict` says of a file is compared with what the same network says of the windows that the training's
data source cut, or with sums written out here.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import taskloom as tl
from _recording_bundles import (
    DEAP,
    FEELINGS,
    bundle_of,
    opportunity,
    write_dat,
    write_deap,
    write_walk,
)
from taskloom import encoders, sharing
from taskloom.cli import app
from taskloom.data.batch import DataSplits
from taskloom.data.simulate.deap import write_python2_pickle
from taskloom.data.sources import load
from taskloom.deploy import Bundle, load_bundle, save_bundle
from taskloom.errors import ConfigError, DataError
from taskloom.predict import Persons, predict_recordings

RUNNER = CliRunner()
EEGMAT = Path(__file__).parents[4] / "shared" / "data" / "eegmat"


def run(*arguments: object) -> str:
    result = RUNNER.invoke(app, ["predict", *map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def outputs_of(bundle: Path, windows: Any) -> dict[str, list[np.ndarray[Any, Any]]]:
    """By recording: what the network says of the source's own windows, all tasks side by side [N, K]."""
    loaded = load_bundle(bundle)
    values = loaded.predict(windows.__getitems__(range(len(windows))).inputs)
    whole = np.concatenate([value.numpy().reshape(len(windows), -1) for value in values.values()], axis=1)
    names = [windows.store.recordings[int(index)].name for index in windows.recording_index]
    return {name: [whole[i] for i, other in enumerate(names) if other == name] for name in set(names)}


# -- OPPORTUNITY


@pytest.mark.parametrize("per", ["channel", "person"])
def test_opportunity_windows_are_those_that_evaluation_sees(tmp_path: Path, per: str) -> None:
    bundle, splits = opportunity(tmp_path, normalize={"per": per, "clip": 2})
    table = tmp_path / "out.csv"
    output = run(bundle, tmp_path / "data" / "S1-ADL3.dat", tmp_path / "data" / "S2-ADL3.dat", "--out", table)
    assert "2 sources 2 recordings, " in output
    assert ("normalised as in the training: S1, S2" in output) == (per == "person")
    rows = pd.read_csv(table, keep_default_na=False, na_values=[""])  # NULL is a class
    assert ("person" in rows) == (per == "person")
    expected = outputs_of(bundle, splits.test)
    assert sorted(expected) == ["S1-ADL3", "S2-ADL3"]
    names = load_bundle(bundle).tasks["gait"].class_names
    for name, values in expected.items():
        found = rows[rows.file.str.endswith(f"{name}.dat")]
        each = found[found.window.notna()]
        gait = np.array(values)[:, : len(names)]
        np.testing.assert_allclose(each.gait_confidence, gait.max(axis=1), atol=1e-5)
        assert each.gait.tolist() == [names[code] for code in gait.argmax(axis=1)]
        (whole,) = found[found.window.isna()].itertuples()
        np.testing.assert_allclose(whole.gait_confidence, gait.mean(axis=0).max(), atol=1e-5)
        assert whole.end_s == 5.0
        # Channel 2 is missing from line 50 to 70, of which 0.4 s are carried; the last four lines are cut.
        sides = ((each.end_s <= 62 / 30 + 1e-4) | (each.start_s >= 70 / 30 - 1e-4)).tolist()
        assert all(sides)
        np.testing.assert_allclose(each.end_s.max(), 146 / 30, rtol=1e-5)


def test_labels_of_opportunity_need_not_be_there(tmp_path: Path) -> None:
    bundle, _ = opportunity(tmp_path)
    strange = {(3, 243): "17", (3, 249): "NaN"}  # a code that is in no table
    write_dat(tmp_path / "S9-Walk.dat", 5)
    write_dat(tmp_path / "new" / "S9-Walk.dat", 5, labelled=False)
    write_dat(tmp_path / "odd" / "any name.dat", 5, changes=strange)
    tables = []
    for path in (
        tmp_path / "S9-Walk.dat",
        tmp_path / "new" / "S9-Walk.dat",
        tmp_path / "odd" / "any name.dat",
    ):
        run(bundle, path, "--out", tmp_path / "out.csv")
        tables.append(pd.read_csv(tmp_path / "out.csv").drop(columns="file"))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[2])


def without_column(path: Path, line: int) -> Path:
    lines = path.read_text().splitlines()
    lines[line - 1] = " ".join(lines[line - 1].split()[:-1])
    path.write_text("\n".join(lines) + "\n")
    return path


def test_files_of_opportunity_that_do_not_fit(tmp_path: Path) -> None:
    bundle = load_bundle(opportunity(tmp_path)[0])
    new = tmp_path / "new"
    lost = dict.fromkeys(((row, 40) for row in range(150)), "NaN")
    for path, message in (
        (without_column(write_dat(new / "a.dat", 1), 7), r"a\.dat:7: 249 columns, expected 250 \(time, 242"),
        (
            without_column(write_dat(new / "b.dat", 1, labelled=False), 9),
            r"b\.dat:9: 249 columns, expected 250",
        ),
        (write_dat(new / "c.dat", 1, rate_hz=60), r"c\.dat: 30 Hz expected .*found 60 Hz in the times"),
        (
            write_dat(new / "d.dat", 1, length=20),
            r"d\.dat: 0\.5\d* s( without a gap)?, shorter than a window",
        ),
        (
            write_dat(new / "e.dat", 1, changes=lost),
            r"e\.dat: channel 40 \(.*\) has no value in the whole file; the network was trained on it",
        ),
        (
            write_dat(new / "f.dat", 1, changes={(4, 133): "up"}),
            r"f\.dat:5: a number or NaN expected in column 133 .*`up`",
        ),
        (
            write_dat(new / "g.dat", 1, changes={(4, 133): "inf"}),
            r"g\.dat: channel `.*` is inf at sample 4; a finite number expected",
        ),
        (
            write_dat(new / "h.dat", 1, changes={(4, 0): "0"}),
            r"h\.dat:5: time runs backwards, from 100 to 0 ms",
        ),
    ):
        with pytest.raises(DataError, match=message):
            predict_recordings(bundle, path, tmp_path / "out.csv", device="cpu")
        assert not list(tmp_path.glob("*out*"))
    write_dat(new / "z.dat", 1)
    result = run(tmp_path / "net.bundle", new, "--out", tmp_path / "out.csv")
    assert "1 recording, " in result
    assert "left out 8 files; the first, a.dat: " in result
    rows = pd.read_csv(tmp_path / "out.csv")
    assert sorted(rows[rows.problem.notna()].file) == [f"{letter}.dat" for letter in "abcdefgh"]
    assert set(rows[rows.problem.isna()].file) == {"z.dat"}


# -- DEAP


@pytest.mark.parametrize("suffix", [".dat", ".mat"])
def test_deap_trials_are_those_that_evaluation_sees(tmp_path: Path, suffix: str) -> None:
    data = tmp_path / "data"
    for number in (1, 2, 3):
        write_deap(data / f"s{number:02d}{suffix}", number)
    split = {"by": "person", "test": 0.34, "validation": 0.33}
    splits = load("deap", DEAP, FEELINGS, split, folder=data, stores=tmp_path / "stores")
    bundle = bundle_of(splits, tmp_path)
    expected = outputs_of(bundle, splits.test)
    (person,) = {name[:3] for name in expected}
    unrated = tmp_path / f"{person}{suffix}"
    write_deap(unrated, int(person[1:]), rated=False)
    for path in (data / f"{person}{suffix}", unrated):
        output = run(bundle, path, "--out", tmp_path / "out.jsonl")
        assert "2 recordings, 118 windows" in output
        rows = pd.read_json(tmp_path / "out.jsonl", lines=True)
        assert rows.columns[:5].tolist() == ["file", "trial", "window", "start_s", "end_s"]
        for trial in (1, 2):
            values = np.array(expected[f"{person}-{trial:02d}"])
            found = rows[(rows.trial == trial) & rows.window.notna()]
            np.testing.assert_allclose(found.valence, values[:, 0], rtol=1e-5, atol=1e-5)
            chance = values[:, 1]
            np.testing.assert_allclose(found.arousal_confidence, np.maximum(chance, 1 - chance), atol=1e-5)
            np.testing.assert_allclose(found.start_s, 3.0 + np.arange(59))  # the baseline is 3 s
            (whole,) = rows[(rows.trial == trial) & rows.window.isna()].itertuples()
            assert (whole.start_s, whole.end_s) == (0.0, 63.0)
            np.testing.assert_allclose(whole.valence, values[:, 0].mean(), rtol=1e-5, atol=1e-5)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("harm.txt"), "done"))


def test_files_of_deap_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    for number in (1, 2, 3):
        write_deap(data / f"s{number:02d}.dat", number)
    split = {"by": "person", "test": 0.34, "validation": 0.33}
    plain = {key: value for key, value in DEAP.items() if key != "band_pass"}
    splits = load("deap", plain, FEELINGS, split, folder=data, stores=tmp_path / "stores")
    bundle = load_bundle(bundle_of(splits, tmp_path))
    new = tmp_path / "new"
    new.mkdir()
    (new / "s01.dat").write_bytes(pickle.dumps({"data": Malicious()}))
    (new / "s02.dat").write_bytes(pickle.dumps({"values": np.zeros(3)}, protocol=2))
    (new / "s03.dat").write_bytes(pickle.dumps({"data": np.zeros((1, 40, 4032))}, protocol=2))
    (new / "s04.dat").write_bytes(pickle.dumps({"data": np.zeros((1, 32, 8064))}, protocol=2))
    dark = np.ones((2, 40, 8064))
    dark[1, 0] = np.nan
    (new / "s05.dat").write_bytes(pickle.dumps({"data": dark}, protocol=2))
    (new / "s06.dat").write_text("1 2 3\n")
    (new / "s07.dat").write_bytes(b"")
    write_python2_pickle(new / "s08.dat", {"data": np.zeros((0, 40, 8064))})
    bright = np.ones((2, 40, 8064))
    bright[1, 36, 500] = np.inf
    (new / "s09.dat").write_bytes(pickle.dumps({"data": bright}, protocol=2))
    for number, message in enumerate(
        (
            r"s01\.dat: the pickle asks for `.*write_text`; .*nothing was run",
            r"s02\.dat: an array `data` expected, found values",
            r"s03\.dat: `data` of shape \[any, 40, 8064\] expected, found \[1, 40, 4032\]",
            r"s04\.dat: `data` of shape \[any, 40, 8064\] expected, found \[1, 32, 8064\]",
            r"s05-02: channel `Fp1` has no value at 0 s",
            r"s06\.dat: not readable as a pickle of arrays",
            r"s07\.dat: the file is empty",
            r"s08\.dat: `data` of shape \[any, 40, 8064\] expected, found \[0, 40, 8064\]",
            r"s09\.dat, trial 2: channel `GSR` is .* at sample \d+; a finite number expected",
        ),
        start=1,
    ):
        with pytest.raises(DataError, match=message):
            predict_recordings(bundle, new / f"s{number:02d}.dat", tmp_path / "out.csv", device="cpu")
        assert not list(tmp_path.glob("*out*"))
    assert not (tmp_path / "harm.txt").exists()
    with pytest.raises(DataError, match=r"none of the recordings can be predicted; the first: s01\.dat"):
        predict_recordings(bundle, new, tmp_path / "out.csv", device="cpu")
    assert not list(tmp_path.glob("*out*"))


# -- normalised by person


def walks(folder: Path) -> tuple[Path, DataSplits]:
    """Recordings of two people, who stand on both sides of the split."""
    data = folder / "data"
    lines = ["file,person,trial,steps"]
    for number, person in enumerate(["ann", "bob"] * 3):
        write_walk(data / f"{number}.csv", number)
        lines.append(f"{number}.csv,{person},{number // 2},{number}")
    (data / "files.csv").write_text("\n".join(lines) + "\n")
    settings = {
        "files": "*.csv",
        "table": "files.csv",
        "window": {"samples": 16, "stride": 24},  # with samples between them that no window covers
        "normalize": {"per": "person", "clip": 1.5},
    }
    split = {"by": "trial", "test": 0.34, "validation": 0.33}
    tasks = {"steps": {"kind": "regression"}}
    splits = load("recordings", settings, tasks, split, folder=data, stores=folder / "stores")
    return bundle_of(splits, folder), splits


def by_hand(bundle: Path, frames: list[pd.DataFrame]) -> list[np.ndarray[Any, Any]]:
    """Predictions of windows 0-16, 24-40, ... of one person's recordings, normalised by what they cover."""
    values = [frame[["x", "y"]].to_numpy(np.float64) for frame in frames]
    pieces = [[part[at : at + 16] for at in range(0, len(part) - 15, 24)] for part in values]
    covered = np.concatenate([piece for own in pieces for piece in own])
    mean, deviation = covered.mean(axis=0), covered.std(axis=0)
    found = []
    for own in pieces:
        windows = ((np.stack(own) - mean) / deviation).clip(-1.5, 1.5).astype(np.float32)
        found.append(load_bundle(bundle).predict(torch.from_numpy(windows))["steps"].numpy().reshape(-1))
    return found


def test_people_of_the_training_are_normalised_as_there(tmp_path: Path) -> None:
    bundle, splits = walks(tmp_path)
    data = tmp_path / "data"
    output = run(bundle, data, "--people", data / "files.csv", "--out", tmp_path / "out.csv")
    assert "people normalised as in the training: ann, bob" in output
    assert "left out" not in output  # the tables of the folder are no recordings
    rows = pd.read_csv(tmp_path / "out.csv")
    for name, values in outputs_of(bundle, splits.test).items():
        found = rows[(rows.file == f"{name}.csv") & rows.window.notna()]
        np.testing.assert_allclose(found.steps, np.array(values)[:, 0], rtol=1e-5, atol=1e-5)
        assert set(found.person) == {"ann" if int(name) % 2 == 0 else "bob"}


def test_new_people_are_normalised_by_all_of_their_own_files(tmp_path: Path) -> None:
    bundle, _ = walks(tmp_path)
    new = tmp_path / "new"
    frames = [write_walk(new / f"w{number}.csv", 20 + number, 100 + 7 * number) for number in range(3)]
    (new / "who.csv").write_text("file,person\nw0.csv,cid\nw1,dee\nw2.csv,cid\n")
    output = run(bundle, new, "--people", new / "who.csv", "--out", tmp_path / "out.csv")
    assert "of their own recordings here: cid (2 files), dee (1 file)" in output
    rows = pd.read_csv(tmp_path / "out.csv")
    cid, dee = by_hand(bundle, [frames[0], frames[2]]), by_hand(bundle, [frames[1]])
    for name, values in zip(["w0.csv", "w2.csv", "w1.csv"], [*cid, *dee], strict=True):
        found = rows[(rows.file == name) & rows.window.notna()]
        np.testing.assert_allclose(found.steps, values, rtol=2e-5, atol=1e-5)
    # One person for all, and a name of the training that is somebody else's
    output = run(bundle, new / "w1.csv", "--person", "bob", "--new-people", "--out", tmp_path / "one.csv")
    assert "of their own recordings here: bob (1 file)" in output
    found = pd.read_csv(tmp_path / "one.csv").dropna(subset="window")
    np.testing.assert_allclose(found.steps, dee[0], rtol=2e-5, atol=1e-5)
    run(bundle, new / "w1.csv", "--person", "bob", "--out", tmp_path / "known.csv")
    known = pd.read_csv(tmp_path / "known.csv").dropna(subset="window")
    assert np.abs(known.steps - dee[0]).max() > 1e-3


def test_a_broken_file_does_not_count_among_a_person_s_own(tmp_path: Path) -> None:
    bundle, _ = walks(tmp_path)
    new = tmp_path / "new"
    frame = write_walk(new / "w0.csv", 20)
    write_walk(new / "w1.csv", 21, length=9)  # shorter than a window
    output = run(bundle, new, "--person", "cid", "--out", tmp_path / "out.csv")
    assert "cid (1 file)" in output
    assert "left out 1 file; the first, w1.csv: 0.45 s, shorter than a window of 0.8 s" in output
    rows = pd.read_csv(tmp_path / "out.csv")
    found = rows[rows.window.notna()]
    np.testing.assert_allclose(found.steps, by_hand(bundle, [frame])[0], rtol=2e-5, atol=1e-5)
    assert rows[rows.problem.notna()].file.tolist() == ["w1.csv"]


def test_people_that_are_not_known_are_asked_for(tmp_path: Path) -> None:
    bundle = load_bundle(walks(tmp_path)[0])
    new = tmp_path / "new"
    write_walk(new / "w0.csv", 20)
    write_walk(new / "w1.csv", 21)
    table = tmp_path / "who.csv"
    table.write_text("file,person\nw0.csv,cid\n")
    out = tmp_path / "out.csv"
    with pytest.raises(
        DataError, match=r"w0\.csv: this bundle was normalised person by person .*--person NAME"
    ):
        predict_recordings(bundle, new, out)
    with pytest.raises(DataError, match=r"w1\.csv: .*who\.csv says of no person in its column `person`"):
        predict_recordings(bundle, new, out, persons=Persons(table=table))
    with pytest.raises(ConfigError, match="--person and --people exclude each other"):
        Persons("cid", table)
    alone = load_bundle(opportunity(tmp_path / "opportunity")[0])
    source = write_dat(tmp_path / "S1-ADL1.dat", 1)
    with pytest.raises(ConfigError, match="this bundle was not"):
        predict_recordings(alone, source, out, persons=Persons("cid"))
    assert not out.exists()


def test_files_that_differ_in_suffix_alone_are_told_apart_by_it(tmp_path: Path) -> None:
    data, new = tmp_path / "data", tmp_path / "new"
    for number in (1, 2, 3):
        write_deap(data / f"s{number:02d}.dat", number)
    plain = {key: value for key, value in DEAP.items() if key != "band_pass"}
    settings = {**plain, "normalize": {"per": "person"}}
    split = {"by": "time", "test": 0.3, "validation": 0.3}
    tasks = {"valence": FEELINGS["valence"]}
    splits = load("deap", settings, tasks, split, folder=data, stores=tmp_path / "stores")
    bundle = load_bundle(bundle_of(splits, tmp_path))
    write_deap(new / "s01.dat", 1)
    write_deap(new / "s01.mat", 2)
    table = tmp_path / "who.csv"
    table.write_text("file,person\ns01.mat,s02\ns01.dat,s01\n")
    out = tmp_path / "out.csv"
    predict_recordings(bundle, new, out, device="cpu", persons=Persons(table=table))
    rows = pd.read_csv(out)
    assert dict(zip(rows.file, rows.person, strict=True)) == {"s01.dat": "s01", "s01.mat": "s02"}
    table.write_text("file,person\ns01.dat,s01\n")
    with pytest.raises(DataError, match=r"s01\.mat: .*who\.csv says of no person"):
        predict_recordings(bundle, new, out, device="cpu", persons=Persons(table=table))


def test_people_and_several_sources_go_with_recordings_only(tmp_path: Path) -> None:
    tasks = tl.TaskSet(tl.Regression("age"))
    model = sharing.build("single_task", tl.encoders.mlp((2,), hidden=[3]), tasks)
    how = {"reader": "table", "features": ["a", "b"], "packed_bits": None, "standardization": None}
    bundle = save_bundle(
        tmp_path / "rows.bundle", model, input_shape=(2,), encoder={"name": "mlp", "hidden": [3]},
        sharing={"name": "single_task"}, preprocessing=how,
    )  # fmt: skip
    for arguments, message in (
        (["a.csv", "b.csv"], "one SOURCE expected for this bundle, found 2"),
        (["a.csv", "--person", "cid"], "go with bundles of recordings"),
    ):
        result = RUNNER.invoke(app, ["predict", str(bundle), *arguments])
        assert result.exit_code != 0
        assert message in " ".join(result.output.split())


@pytest.mark.skipif(not EEGMAT.is_dir(), reason="../shared/data/eegmat is not here")
def test_eegmat_by_person_equals_what_evaluation_sees(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in [*sorted(EEGMAT.glob("Subject0[0-2]_?.edf")), EEGMAT / "subject-info.csv"]:
        (data / path.name).symlink_to(path)
    settings = {
        "layout": "eegmat",
        "window": {"seconds": 4},
        "normalize": {"per": "person"},
        "resample_hz": 100,
    }
    tasks = {"state": {"kind": "binary"}}
    split = {"by": "time", "test": 0.3, "validation": 0.2}
    splits = load("edf", settings, tasks, split, folder=data, stores=tmp_path / "stores")
    bundle = bundle_of(splits, tmp_path)
    output = run(bundle, data, "--out", tmp_path / "out.csv")
    assert "normalised as in the training: Subject00, Subject01, Subject02" in output
    rows = pd.read_csv(tmp_path / "out.csv")
    for name, values in outputs_of(bundle, splits.test).items():
        found = rows[(rows.file == f"{name}.edf") & rows.window.notna()].tail(len(values))
        chance = np.array(values)[:, 0]
        np.testing.assert_allclose(found.state_confidence, np.maximum(chance, 1 - chance), atol=1e-5)


# -- a label for every sample


class Turned(nn.Module):
    """Windows [N, W, C] as [N, C, W]."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.movedim(1, 2)


def test_labels_of_samples_are_averaged_over_the_windows_that_cover_them(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tasks = tl.TaskSet(tl.Multiclass("gait", ("stand", "walk", "lie")), tl.Binary("left"))
    encoder = encoders.from_modules([Turned(), nn.Conv1d(2, 5, 3, padding=1)], input_shape=(16, 2))
    head = {"gait": {"per_sample": True}}
    model = sharing.build("hard_sharing", encoder, tasks, head=head, stages=2).eval()
    known = {
        "reader": "recordings", "channels": ["x", "y"], "rate_hz": 20.0, "normalizer": None,
        "signals": {"native_rate_hz": 20.0}, "window": {"samples": 16, "stride": 6, "last": "drop"},
    }  # fmt: skip
    about = {"data": {"store": {"parameters": {"files": ["a.csv"], "channels": ["x", "y"]}}}}
    bundle = Bundle(model, tasks, known, about, {"input_shape": [16, 2]}, {})
    frame = write_walk(tmp_path / "a.csv", 1, length=45)
    predict_recordings(bundle, tmp_path / "a.csv", tmp_path / "out.csv", device="cpu")
    rows = pd.read_csv(tmp_path / "out.csv")
    values = torch.from_numpy(frame[["x", "y"]].to_numpy())
    model.requires_grad_(False)
    chances: list[list[np.ndarray[Any, Any]]] = [[] for _ in range(45)]
    lefts: list[list[float]] = [[] for _ in range(45)]
    for start in (0, 6, 12, 18, 24):
        outputs = model(values[None, start : start + 16])
        gait = outputs["gait"][0].softmax(dim=0).numpy()
        for sample in range(16):
            chances[start + sample].append(gait[:, sample])
            lefts[start + sample].append(float(torch.sigmoid(outputs["left"][0, 0])))
    each = rows[rows["sample"].notna()]
    assert each["sample"].tolist() == list(range(40))  # no window covers the last five
    mean = np.array([np.mean(own, axis=0) for own in chances[:40]])
    np.testing.assert_allclose(each.gait_confidence, mean.max(axis=1), rtol=1e-5)
    assert each.gait.tolist() == [("stand", "walk", "lie")[code] for code in mean.argmax(axis=1)]
    left = np.array([np.mean(own) for own in lefts[:40]])
    np.testing.assert_allclose(each.left_confidence, np.maximum(left, 1 - left), rtol=1e-5)
    np.testing.assert_allclose(each.start_s, np.arange(40) / 20)
    np.testing.assert_allclose(each.end_s, np.arange(1, 41) / 20)
    (whole,) = rows[rows["sample"].isna()].itertuples()
    np.testing.assert_allclose(whole.gait_confidence, mean.mean(axis=0).max(), rtol=1e-5)
