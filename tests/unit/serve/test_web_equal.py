"""What the app answers is what `taskloom predict` writes, for every kind of bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from _predict import image_bundle, picture_with
from _recording_bundles import (
    DEAP,
    FEELINGS,
    WORDS,
    bundle_of,
    opportunity,
    trained,
    write_csv,
    write_dat,
    write_deap,
    write_edf,
    write_wav,
)
from _web import client, form, names_of, table_bundle
from taskloom import data as data_room
from taskloom import encoders, sharing
from taskloom.cli import app
from taskloom.data.sources import load
from taskloom.deploy import save_bundle
from taskloom.predict import PredictSettings

RUNNER = CliRunner()


def written(bundle: Path, sources: Sequence[Path], out: Path, *options: str) -> Path:
    """The table that the command writes."""
    given = ["predict", str(bundle), *map(str, sources), "--device", "cpu", "--out", str(out), *options]
    result = RUNNER.invoke(app, given)
    assert result.exit_code == 0, result.output
    return out


def check_equal(
    bundle: Path,
    files: Sequence[Path],
    folder: Path,
    *,
    sources: Sequence[Path] | None = None,
    settings: PredictSettings | None = None,
    options: Sequence[str] = (),
    fields: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Holds the app's rows against the command's, in JSON and in CSV; returns the answer."""
    (folder / "out").mkdir()
    sources = files if sources is None else sources
    places = [folder / "out" / name for name in ("p.jsonl", "p.csv")]
    texts = [written(bundle, sources, place, *options).read_text() for place in places]
    # Where its files lie is nobody's business but the command's.
    lines, table = (text.replace(f"{files[0].parent}/", "") for text in texts)
    web = client(bundle, settings or PredictSettings(device="cpu"))
    answer = web.post("/predict", files=form(*files), data=fields or {})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["rows"] == [json.loads(line) for line in lines.splitlines()]
    assert names_of(found) == list(json.loads(lines.splitlines()[0]))
    as_csv = web.post("/predict?format=csv", files=form(*files), data=fields or {})
    assert as_csv.text.replace("\r\n", "\n") == table
    assert as_csv.headers["content-type"].startswith("text/csv")
    assert json.loads(as_csv.headers.get("taskloom-notes", "[]")) == found["notes"]
    return dict(found)


def test_faces_of_one_picture(tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data")
    bundle = image_bundle(tmp_path, crop={"size": 32, "detector": "haar", "margin": 0.2})
    both = np.concatenate([data.astronaut(), data.astronaut()[:, ::-1]], axis=1)
    cv2.imwrite(str(tmp_path / "two of them.png"), both[..., ::-1])
    found = check_equal(bundle, [tmp_path / "two of them.png"], tmp_path, options=["--overlay", "none"])
    assert [row["face"] for row in found["rows"]][:2] == [1, 2]
    # Every class has its probability, and the one that is said the largest of them.
    for row, chances in zip(found["rows"], found["probabilities"], strict=True):
        assert set(chances) == {"gender", "mood", "wears"}
        for task in ("gender", "mood"):
            assert sum(chances[task].values()) == pytest.approx(1, abs=1e-5)
            assert max(chances[task], key=chances[task].get) == row[task]
            assert max(chances[task].values()) == pytest.approx(row[f"{task}_confidence"], abs=1e-6)
        assert (chances["wears"]["hat"] >= 0.5) == row["wears_hat"]


def test_several_pictures_of_which_one_is_broken_and_one_has_no_face(tmp_path: Path) -> None:
    bundle = image_bundle(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), picture_with((20 * number, 10)))
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:90])
    files = sorted(folder.iterdir())
    every = PredictSettings(detector="none", device="cpu")
    options = ["--detector", "none", "--overlay", "none"]
    found = check_equal(bundle, files, tmp_path, sources=[folder], settings=every, options=options)
    assert found["rows"][1]["problem"] == "the file is cut off"
    assert any("1 of 3 images could not be read" in note for note in found["notes"])
    nothing = client(bundle).post("/predict", files=form(files[0])).json()  # Haar sees no face in a square
    assert [row["face"] for row in nothing["rows"]] == [None]
    assert nothing["probabilities"] == [None]
    assert any("no face was found" in note for note in nothing["notes"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_rows_of_a_table(tmp_path: Path, suffix: str) -> None:
    bundle = table_bundle(tmp_path)
    frame = pd.DataFrame({"c": [1.5, 2, None, 4], "a": [3, 1.25, 2, 2], "x": list("wxyz"), "b": [9, 8, 7, 6]})
    new = tmp_path / f"new{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(new)
    else:
        frame.to_csv(new, index=False, sep="\t" if suffix == ".tsv" else ",")
    found = check_equal(bundle, [new], tmp_path)
    # The same rows written out, as numbers and as text.
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    web = client(bundle)
    for given in (rows, [{k: None if v is None else str(v) for k, v in row.items()} for row in rows]):
        answer = web.post("/predict", json={"rows": given})
        assert answer.status_code == 200, answer.text
        assert answer.json()["rows"] == found["rows"]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_rows_of_an_array(tmp_path: Path, suffix: str) -> None:
    draw = np.random.default_rng(0)
    features: dict[str, Any] = {"npz": "old.npz", "array": "bits", "packed_bits": 13}
    bits = np.packbits(draw.integers(0, 2, (40, 13)).astype(np.uint8), axis=1)
    numbers = draw.normal(4, 3, (40, 13))
    if suffix == ".npz":
        np.savez(tmp_path / "old.npz", bits=bits)
        np.savez(tmp_path / "new.npz", bits=bits[:9])
    else:
        features = {"npy": "old.npy"}
        np.save(tmp_path / "old.npy", numbers)
        np.save(tmp_path / "new.npy", numbers[:9])
    (tmp_path / "old.csv").write_text("\n".join(["toxic", *(str(row % 2) for row in range(40))]) + "\n")
    splits = data_room.table(tmp_path / "old.csv", {"toxic": {"kind": "binary"}}, features=features)
    torch.manual_seed(1)
    bundle = save_bundle(
        tmp_path / "net.bundle",
        sharing.build("single_task", encoders.mlp((13,), hidden=[4]), splits.tasks),
        input_shape=(13,),
        encoder={"name": "mlp", "hidden": [4]},
        sharing={"name": "single_task"},
        preprocessing=splits.preprocessing,
        about={"data": splits.about, "run": {"data": {"features": features}}},
    )
    found = check_equal(bundle, [tmp_path / f"new{suffix}"], tmp_path)
    assert len(found["rows"]) == 9
    assert client(bundle).get("/about").json()["inputs"]["suffixes"] == [".npy", ".npz"]


@pytest.mark.parametrize("suffix", [".wav", ".edf", ".csv"])
def test_recordings_of_which_one_is_broken(tmp_path: Path, suffix: str) -> None:
    bundle, _ = trained(tmp_path, suffix)
    new = tmp_path / "new"
    write = {".wav": write_wav, ".edf": write_edf, ".csv": write_csv}[suffix]
    write(new / f"3_0{suffix}", 11)
    write(new / f"sound of it{suffix}", 12)
    (new / f"broken{suffix}").write_bytes((new / f"3_0{suffix}").read_bytes()[:30])
    files = sorted(new.iterdir())
    found = check_equal(bundle, files, tmp_path, sources=[new])
    broken = [row for row in found["rows"] if row["file"] == f"broken{suffix}"]
    assert len(broken) == 1
    assert broken[0]["problem"].startswith("broken")
    (whole,) = (row for row in found["rows"] if row["file"] == f"3_0{suffix}" and row["window"] is None)
    assert whole["problem"] is None


def test_one_recording_and_its_spectrogram(tmp_path: Path) -> None:
    bundle, _ = trained(tmp_path, ".wav", WORDS)
    write_wav(tmp_path / "word.wav", 4)
    check_equal(bundle, [tmp_path / "word.wav"], tmp_path)
    assert client(bundle).get("/about").json()["inputs"]["channels"] == []  # bands are no channels of a file


def test_opportunity_person_by_person(tmp_path: Path) -> None:
    bundle, _ = opportunity(tmp_path, normalize={"per": "person", "clip": 2})
    new = tmp_path / "new"
    for number, name in enumerate(("S1-ADL5", "S7-ADL1", "S7-ADL2")):
        write_dat(new / f"{name}.dat", number)
    found = check_equal(bundle, sorted(new.iterdir()), tmp_path, sources=[new])
    assert {row["person"] for row in found["rows"]} == {"S1", "S7"}
    assert found["notes"] == [
        "S1: normalised as in the training",
        "S7: normalised by the mean and deviation of the own recordings here (2 files)",
    ]


def test_whom_recordings_are_of(tmp_path: Path) -> None:
    bundle, _ = opportunity(tmp_path, normalize={"per": "person", "clip": 2})
    walk = write_dat(tmp_path / "walk.dat", 5)
    check_equal(bundle, [walk], tmp_path, options=["--person", "S2"], fields={"person": "S2"})
    web = client(bundle)
    nobody = web.post("/predict", files=form(walk))
    assert nobody.status_code == 422
    assert nobody.json()["error"].startswith("walk.dat: this bundle was normalised person by person")
    assert "say it with the field `person` (of all that is given) or with the field `people`" in nobody.text
    table = ("people", ("people.csv", b"file,person\nwalk.dat,S2\n"))
    of_table = web.post("/predict", files=[*form(walk), table]).json()
    assert of_table["rows"] == web.post("/predict", files=form(walk), data={"person": "S2"}).json()["rows"]
    as_new = {"person": "S2", "new_people": "true"}
    own = web.post("/predict", files=form(walk), data=as_new).json()
    assert own["notes"] != of_table["notes"]
    for fields, message in (
        ({"new_people": "perhaps"}, "form field `new_people`: true or false expected, found `perhaps`."),
        ({"people": "S2"}, "form field `people`: a file expected."),
        ({"persons": "S2"}, "form: no field `persons` here. Did you mean `person`?"),
        ({"person": "S2", "new_people": "false"}, ""),
    ):
        said = web.post("/predict", files=form(walk), data=fields)
        assert said.json().get("error", "").startswith(message)
        assert said.status_code == (422 if message else 200)
    lacking = ("people", ("people.csv", b"file,person\nrun.dat,S2\n"))
    refused = web.post("/predict", files=[*form(walk), lacking])
    assert refused.status_code == 422
    assert "people.csv" in refused.json()["error"]


@pytest.mark.parametrize("suffix", [".dat", ".mat"])
def test_deap(tmp_path: Path, suffix: str) -> None:
    data = tmp_path / "data"
    for number in (1, 2, 3):
        write_deap(data / f"s{number:02d}{suffix}", number)
    split = {"by": "person", "test": 0.34, "validation": 0.33}
    splits = load("deap", DEAP, FEELINGS, split, folder=data, stores=tmp_path / "stores")
    found = check_equal(bundle_of(splits, tmp_path), [data / f"s03{suffix}"], tmp_path)
    assert {row["trial"] for row in found["rows"]} == {1, 2}
