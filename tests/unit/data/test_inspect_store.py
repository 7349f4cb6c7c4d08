"""`taskloom inspect STORE`: what stands in stores of faces and of recordings, and places that hold none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import taskloom.cli
from _recording_stores import write_store
from taskloom.data.face_store import face_reader, prepare_faces, prepare_rows
from taskloom.data.inspect_store import ColumnFacts, StoreFacts, inspect_store, render_store
from taskloom.data.sources import checksums
from taskloom.errors import DataError


def call(*arguments: object) -> Result:
    return CliRunner().invoke(taskloom.cli.app, ["inspect", *map(str, arguments)])


def column(found: StoreFacts, name: str) -> ColumnFacts:
    return next(entry for entry in found.columns if entry.name == name)


def fact(found: StoreFacts, name: str) -> str:
    return next(text for key, text in found.facts if key == name)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Twelve pictures with the names of UTKFace, one of them without gender and race, and one of 0 bytes."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(12):
        picture = np.full((10 + number, 8, 3), 10 * number, np.uint8)
        cv2.imwrite(str(folder / f"{20 + number}_{number % 2}_{number % 3}_{number:03d}.jpg"), picture)
    cv2.imwrite(str(folder / "70_1_999.jpg"), np.zeros((9, 9, 3), np.uint8))
    (folder / "50_0_1_020.jpg").write_bytes(b"")
    return folder


def test_labels_of_faces_are_counted_as_pandas_counts_the_file_names(faces: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    prepare_faces("utkface", faces, store, {"size": 6})
    names = [path.name for path in sorted(faces.iterdir()) if path.stat().st_size]
    fields = pd.DataFrame(
        [[*name.split("_")[:2], name.split("_")[2] if name.count("_") == 3 else None] for name in names],
        columns=["age", "gender", "race"],
    )
    fields.loc[fields.race.isna(), "gender"] = None
    found = inspect_store(store)
    ages = fields.age.astype(float)
    age = column(found, "age")
    assert (age.present, age.missing, age.low, age.high) == (13, 0, ages.min(), ages.max())
    assert age.mean == pytest.approx(ages.mean())
    gender = column(found, "gender")
    expected = fields.gender.map({"0": "male", "1": "female"}).value_counts().to_dict()
    assert (gender.counts, gender.missing) == (expected, 1)
    race = column(found, "race")
    assert race.counts == {"White": 4, "Black": 4, "Asian": 4, "Indian": 0, "Others": 0}
    assert found.left_out == (("the file is empty", 1),)
    assert fact(found, "rows") == "14, of which 1 have no image"
    assert fact(found, "cut from") == "pictures of 8 x 9 to 9 x 21 pixels"


def test_pictures_are_verified_against_the_sum_of_their_preparation(faces: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    prepare_faces("utkface", faces, store, {"size": 6})
    assert fact(inspect_store(store), "sources").startswith("not verified: --verify")
    assert fact(inspect_store(store, verify=True), "sources").startswith("verified: 14 pictures")
    moved = faces.rename(tmp_path / "moved")
    assert "name the folder of the pictures with --data" in fact(inspect_store(store, verify=True), "sources")
    assert fact(inspect_store(store, verify=True, data=moved), "sources").startswith("verified")
    (moved / "70_1_999.jpg").unlink()
    changed = fact(inspect_store(store, verify=True, data=moved), "sources")
    assert changed.startswith("changed: ")
    assert "(1 picture of 14 not there)" in changed


def test_detector_alignment_landmarks_and_groups_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["file,person,nose_x,nose_y,mouth_x,mouth_y"]
    for number, points in enumerate(("4,4,5,5", "4,4,,", "4,4,90,5")):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((12, 12, 3), 9 * number, np.uint8))
        lines.append(f"{number}.png,{'ann' if number else 'bob'},{points}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    settings = {"table": "rows.csv", "images": ".", "landmarks": ["nose", "mouth"], "size": 6, "margin": 0.2}
    table, crop = face_reader("images").rows(settings, folder)
    prepare_rows(replace(table, group="person"), crop, tmp_path / "store")
    found = inspect_store(tmp_path / "store")
    assert fact(found, "detector") == "none: the row's box, or the whole picture"
    assert fact(found, "alignment") == "none; margin 0.2 of the box"
    landmarks = fact(found, "landmarks")
    assert landmarks.startswith("2 (nose, mouth); all there in 2 images; 1 point outside the picture")
    assert fact(found, "groups") == "2 values of `person`, the largest with 2 images"


def test_recordings_tracks_and_labels_are_counted(tmp_path: Path) -> None:
    extra = [
        {"person": "p1", "labels": {"sex": "F", "age": 30}},
        {"person": "p1", "labels": {"sex": "F"}, "gaps": [(3, 5)]},
        {"person": "p2", "labels": {"sex": "M", "age": 40}},
    ]
    store = write_store(tmp_path / "store", [60, 90, 30], per_recording=extra)
    found = inspect_store(tmp_path / "store")
    assert fact(found, "recordings").startswith("3 recordings of 1 to 3 s (median 2), 3 channels at 30 Hz")
    assert fact(found, "of") == "2 people"
    assert fact(found, "gaps") == "1 stretch that no window touches"
    gait = column(found, "gait")
    naive = {
        name: sum(int(code) == key for code in store.tracks[:, 0])
        for key, name in store.track_tables["gait"].items()
    }
    assert gait.counts == naive
    assert (gait.missing, gait.present) == (naive["NULL"], 180 - naive["NULL"])
    assert column(found, "sex").counts == {"F": 2, "M": 1}
    age = column(found, "age")
    assert (age.missing, age.low, age.high, age.mean) == (1, 30.0, 40.0, 35.0)
    text = render_store(tmp_path / "store", found)
    assert "Labels" in text
    assert max(map(len, text.splitlines())) <= 110


def test_sources_of_recordings_are_verified_where_their_folder_is_named(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [30])
    (tmp_path / "raw.dat").write_bytes(b"these bytes")
    about = json.loads((store.folder / "store.json").read_text())
    about["sources"] = checksums([tmp_path / "raw.dat"], tmp_path)
    (store.folder / "store.json").write_text(json.dumps(about))
    assert fact(inspect_store(store.folder), "sources").startswith("1 file, not verified")
    verified = fact(inspect_store(store.folder, verify=True, data=tmp_path), "sources")
    assert verified.startswith("verified: 1 file")
    (tmp_path / "raw.dat").write_bytes(b"other bytes")
    changed = fact(inspect_store(store.folder, verify=True, data=tmp_path), "sources")
    assert changed == "changed: of 1 file raw.dat has changed; the store itself is whole"


def test_a_changed_array_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [30])
    with open(store.folder / "samples.npy", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    with pytest.raises(DataError, match="its content is not what was written"):
        inspect_store(store.folder, verify=True)


def test_the_command_says_what_a_place_without_a_store_is(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [30])
    shown = call(tmp_path / "store")
    assert shown.exit_code == 0
    assert shown.stdout.startswith(f"{tmp_path / 'store'}: a store of recordings")
    (tmp_path / "clip.avi").write_bytes(b"RIFF\xec")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "store.json").write_text('{"format": "other"}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "store.json").write_text("{")
    for place, found in (
        (tmp_path / "nowhere", "found nothing."),
        (tmp_path / "clip.avi", "found a file."),
        (tmp_path, "found a folder without store.json."),
        (tmp_path / "strange", "found the format 'other'."),
        (tmp_path / "broken", "prepare the data again."),
    ):
        refused = call(place)
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"{place}")
        assert refused.stderr.rstrip().endswith(found)
        assert refused.stderr.count("\n") == 1
    refused = call(tmp_path / "store", "--set", "repeats=3")
    assert refused.exit_code == 2
    assert "a store has no settings" in refused.stderr
