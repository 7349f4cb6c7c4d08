"""Stores of faces: taken up after a kill, whole or absent, used in place of the files they were made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import taskloom.cli
from taskloom.data import image_writer
from taskloom.data.batch import DataSplits
from taskloom.data.face_store import prepare_faces, read_rows
from taskloom.data.image_source import images
from taskloom.data.image_store import ImageStore, prepare_images
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError
from taskloom.study.config import load_study

TASKS: dict[str, dict[str, Any]] = {
    "age": {"kind": "regression", "unit": "years"},
    "gender": {"kind": "binary"},
    "race": {"kind": "multiclass"},
}
SPLIT = {"by": "rows", "test": 0.25, "validation": 0.25, "stratify": "race"}


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Twenty images with the names of UTKFace, and one that is cut off."""
    folder = tmp_path / "faces"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(20):
        picture = random.integers(0, 256, (16, 12, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{20 + number}_{number % 2}_{number % 5}_{number:03d}.jpg"), picture)
    whole = (folder / "20_0_0_000.jpg").read_bytes()
    (folder / "50_0_1_020.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_writer, "CHUNK_ROWS", 4)


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_interrupted_preparation_goes_on_with_the_chunks_that_are_whole(
    faces: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, store = files_of(faces), faces.parent / "store"
    expected = prepare_images(files, faces, faces.parent / "other", 8)

    def stop(done: int, total: int) -> None:
        assert total == 21
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_images(files, faces, store, 8, progress=stop)
    assert not store.exists()
    (chunks,) = faces.parent.glob(".store.*.chunks")
    assert files_of(chunks) == ["000000000.npz", "000000004.npz", "000000008.npz"]
    # As a kill would leave them: one chunk cut short, one still under its other name.
    damaged = chunks / "000000004.npz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    (chunks / ".0a.partial").write_bytes(b"half")
    read: list[str] = []
    monkeypatch.setattr(
        image_writer, "read_file", lambda path: (read.append(path.name), path.read_bytes())[1]
    )
    again = prepare_images(files, faces, store, 8)
    assert sorted(read) == files[4:8] + files[12:]
    np.testing.assert_array_equal(again.images, expected.images)
    np.testing.assert_array_equal(again.transforms, expected.transforms)
    for key in ("rows", "unreadable", "content", "made_of"):
        assert again.about[key] == expected.about[key]
    assert files_of(faces.parent) == ["faces", "other", "store"]


def test_a_preparation_killed_with_signal_9_goes_on(faces: Path, small_chunks: None) -> None:
    store = faces.parent / "store"
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from taskloom.data import image_writer; image_writer.CHUNK_ROWS = 4\n"
        "from taskloom.data.face_store import prepare_faces\n"
        "kill = lambda done, total: done == 8 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare_faces('utkface', Path(sys.argv[1]), Path(sys.argv[2]), {'size': 8}, kill)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, faces, store], env=os.environ, check=False)
    assert ended.returncode == -9
    with pytest.raises(DataError, match="no prepared images"):
        ImageStore.open(store)
    assert len(list(faces.parent.glob(".store.*.chunks/*.npz"))) == 2
    _, found = prepare_faces("utkface", faces, store, {"size": 8})
    assert len(found.images) == 20
    assert files_of(faces.parent) == ["faces", "store"]


def test_chunks_of_other_settings_are_not_taken_up(faces: Path, small_chunks: None) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    store = faces.parent / "store"
    with pytest.raises(KeyboardInterrupt):
        prepare_images(files_of(faces), faces, store, 8, progress=stop)
    assert prepare_images(files_of(faces), faces, store, 6).size == 6
    assert files_of(faces.parent) == ["faces", "store"]


def parts(data: DataSplits) -> list[Any]:
    return [part.__getitems__(range(len(part))) for part in (data.train, data.validation, data.test)]


def test_a_store_gives_what_the_reader_gives(faces: Path) -> None:
    place = faces.parent / "store"
    prepare_faces("utkface", faces, place, {"size": 8, "margin": 0.25})
    settings = {"size": 8, "margin": 0.25}
    stores = faces.parent / "stores"
    direct = load("utkface", settings, TASKS, SPLIT, seed=3, folder=faces, stores=stores)
    for path in faces.iterdir():  # the store stands by itself
        path.unlink()
    stored = load("store", {"store": "store"}, TASKS, SPLIT, seed=3, folder=faces.parent, stores=stores)
    for one, other in zip(parts(direct), parts(stored), strict=True):
        assert torch.equal(one.inputs, other.inputs)
        for name in TASKS:
            assert torch.equal(one.labels.values[name], other.labels.values[name])
            assert torch.equal(one.labels.present[name], other.labels.present[name])
    assert stored.tasks["race"].class_names == ("White", "Black", "Asian", "Indian", "Others")
    assert stored.preprocessing == direct.preprocessing
    assert stored.preprocessing["crop"] == {"size": 8, "margin": 0.25, "align": False}
    json.dumps([stored.about, stored.preprocessing])
    assert any(note.startswith("1 of 21 images could not be read") for note in stored.about["notes"])


def test_a_store_is_not_read_as_something_else(faces: Path) -> None:
    place = faces.parent / "store"

    def stored(**settings: Any) -> DataSplits:
        settings = {"store": "store", **settings}
        return load("store", settings, TASKS, SPLIT, folder=faces.parent, stores=faces.parent)

    with pytest.raises(DataError, match=r"no prepared images there.*taskloom prepare"):
        stored()
    prepare_images(files_of(faces), faces, place, 8)
    with pytest.raises(DataError, match="no store of faces that stands by itself"):
        stored()
    prepare_faces("utkface", faces, place, {"size": 8})
    with pytest.raises(ConfigError, match=r"data\.size: .* holds images of 8 pixels, 16 wanted"):
        stored(size=16)
    with pytest.raises(ConfigError, match=r"data\.detector is not a setting"):
        stored(detector="haar")
    (place / "faces.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not the rows of a store of faces"):
        read_rows(place)
    about = json.loads((place / "store.json").read_text())
    (place / "store.json").write_text(json.dumps({**about, "format": "taskloom-recordings"}))
    with pytest.raises(DataError, match="taskloom-images version 3 expected, found taskloom-recordings"):
        stored()


def test_the_same_store_is_found_again_and_a_changed_one_made_anew(faces: Path) -> None:
    place = faces.parent / "store"
    prepare_faces("utkface", faces, place, {"size": 8})
    first = (place / "images.npy").stat().st_mtime_ns
    prepare_faces("utkface", faces, place, {"size": 8})
    assert (place / "images.npy").stat().st_mtime_ns == first
    prepare_faces("utkface", faces, place, {"size": 8, "margin": 0.1})
    assert (place / "images.npy").stat().st_mtime_ns != first
    with pytest.raises(ConfigError, match=r"`utkfaces` is not a reader of faces\. Did you mean `utkface`"):
        prepare_faces("utkfaces", faces, place)


def test_the_command_prepares_and_lists_what_it_leaves_out(faces: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    arguments = ["prepare", "utkface", str(faces), str(place), "--size", "8", "--detector", "none"]
    result = CliRunner().invoke(taskloom.cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "20 faces of 8 x 8 from 21 rows" in result.output
    assert "left out 1 row," in result.output
    assert (place / "left_out.csv").read_text().splitlines() == [
        "row,file,reason",
        "20,50_0_1_020.jpg,the file is cut off",
    ]
    wrong = CliRunner().invoke(taskloom.cli.app, ["prepare", "study.yaml", "--size", "8"])
    assert wrong.exit_code == 2
    assert "READER DIR STORE expected" in wrong.output


def test_a_study_names_a_store(tmp_path: Path) -> None:
    (tmp_path / "faces.yaml").write_text(
        "data: {store: faces64}\ntasks: {age: {kind: regression}}\nencoder: {name: vgg5}\n"
        "split: {by: rows}\ncells: [{hard_sharing: {stages: 1}}]\n"
    )
    assert load_study(tmp_path / "faces.yaml").reader == "store"


# -- tables of images


def album(folder: Path, lines: list[str], **settings: Any) -> DataSplits:
    """A table over six pictures of 40 x 20 pixels, each with two bright squares."""
    for number in range(6):
        picture = np.full((20, 40, 3), 10 * number, np.uint8)
        picture[4:12, 2:10] = picture[4:12, 22:30] = 255
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    (folder / "labels.csv").write_text("\n".join(lines))
    tasks = settings.pop("tasks", {"age": {"kind": "regression"}})
    return images(
        folder / "labels.csv", folder, tasks, test=0.3, validation=0.3, stores=folder / "stores", **settings
    )


def test_two_rows_of_one_image_are_refused_unless_boxes_tell_them_apart(tmp_path: Path) -> None:
    lines = ["file,age", *(f"{n}.png,{n}" for n in (0, 1, 2, 3, 1, 4))]
    with pytest.raises(DataError, match=r"labels\.csv:6: column `file`: `1\.png` stands in an earlier row"):
        album(tmp_path, lines, size=8)
    boxed = ["file,age,x,y,w,h"]
    boxed += [f"{n}.png,{n},{x},4,8,8" for n in range(6) for x in (2, 22)]
    data = album(tmp_path, boxed, size=8)
    sides = [set(part.labels.values["age"].tolist()) for part in (data.train, data.validation, data.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 6  # both faces of a picture on one side
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 12
    with pytest.raises(DataError, match="stands in an earlier row"):
        album(tmp_path, [*boxed, "3.png,3,2,4,8,8"], size=8)


def test_points_move_with_box_margin_and_size_and_those_outside_are_missing(tmp_path: Path) -> None:
    lines = ["file,x,y,w,h,eye_x,eye_y"]
    # The centre of the left square; in the last picture a point that no pixel of it can hold.
    lines += [f"{n}.png,2,4,8,8,5.5,7.5" for n in range(5)] + ["5.png,2,4,8,8,400,7.5"]
    tasks = {"points": {"kind": "landmarks"}}
    data = album(tmp_path, lines, size=8, margin=0.5, landmarks=["eye"], tasks=tasks)
    missing = 0
    for part in (data.train, data.validation, data.test):
        batch = part.__getitems__(range(len(part)))
        for row in range(len(part)):
            if not batch.labels.present["points"][row, 0]:
                missing += 1
                continue
            # 16 pixels from -2, 0 become 8: the square's centre is the image's.
            assert batch.labels.values["points"][row, 0].tolist() == pytest.approx([3.5, 3.5])
            bright = batch.inputs[row, 0] > batch.inputs[row, 0].mean()
            centre = bright.nonzero().double().mean(dim=0)
            assert centre.tolist() == pytest.approx([3.5, 3.5])
    assert missing == 1
    assert "1 point lies outside their picture in task points, missing therefore." in data.about["notes"]


def test_mistakes_about_points_are_named(tmp_path: Path) -> None:
    lines = ["file,age,eye_x,eye_y", *(f"{n}.png,{n},1,1" for n in range(6))]
    with pytest.raises(DataError, match=r"no column `mouth_x`, which data\.landmarks needs"):
        album(tmp_path, lines, size=8, landmarks=["mouth"])
    with pytest.raises(ConfigError, match=r"data\.align: five points per face expected"):
        album(tmp_path, lines, size=8, landmarks=["eye"], align=True)
    tasks = {"p": {"kind": "landmarks", "points": ["nose"]}}
    with pytest.raises(ConfigError, match=r"tasks\.p\.points: `nose` is not a point of"):
        album(tmp_path, lines, size=8, landmarks=["eye"], tasks=tasks)


def test_pictures_without_a_face_are_listed_and_not_fatal(tmp_path: Path) -> None:
    photograph = pytest.importorskip("skimage.data").astronaut()[:300, 60:360, ::-1]
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"face{number}.png"), np.roll(photograph, number, axis=1))
    lines = ["file,age", *(f"{n}.png,{n}" for n in range(2)), *(f"face{n}.png,3{n}" for n in range(4))]
    data = album(tmp_path, lines, size=16, detector="haar", margin=0.1)
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 4
    assert data.about["images"]["unreadable_examples"] == [
        {"row": n, "file": f"{n}.png", "reason": "no face found", "line": n + 2} for n in range(2)
    ]
