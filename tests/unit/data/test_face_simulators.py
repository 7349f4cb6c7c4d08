"""Drawn faces in the native files of UTKFace, CelebA and MTFL: read back, learnable, the same bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import taskloom as tl
from taskloom.data.batch import DataSplits
from taskloom.data.readers.celeba import read_celeba
from taskloom.data.readers.mtfl import read_mtfl
from taskloom.data.readers.utkface import read_utkface
from taskloom.data.simulate import simulate_celeba, simulate_mtfl, simulate_utkface
from taskloom.data.simulate.celeba import ATTRIBUTES, DRAWN
from taskloom.data.simulate.faces import SKIN, Traits, draw_face
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError
from taskloom.training import TrainingConfig, evaluate, fit


@pytest.fixture(scope="module")
def utkface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_utkface(tmp_path_factory.mktemp("utkface") / "faces", images=400, size=48)


@pytest.fixture(scope="module")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_celeba(tmp_path_factory.mktemp("celeba") / "faces", images=120)


@pytest.fixture(scope="module")
def mtfl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_mtfl(tmp_path_factory.mktemp("mtfl") / "faces", images=80)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("simulate", [simulate_utkface, simulate_celeba, simulate_mtfl])
def test_the_same_parameters_give_the_same_bytes(simulate: Any, tmp_path: Path) -> None:
    first = contents(simulate(tmp_path / "a", images=16))
    assert contents(simulate(tmp_path / "b", images=16)) == first
    assert contents(simulate(tmp_path / "c", images=16, seed=1)) != first
    assert simulate(tmp_path / "a", images=16, if_missing=True) == tmp_path / "a"
    with pytest.raises(DataError, match="holds this simulation already"):
        simulate(tmp_path / "a", images=16)
    with pytest.raises(ConfigError, match="images: 16 or more expected, found 3"):
        simulate(tmp_path / "d", images=3)


def test_labels_can_be_read_off_the_picture() -> None:
    def drawn(**traits: Any) -> Any:
        picture = np.full((100, 100, 3), 128, np.uint8)
        points = draw_face(picture, Traits(**{"age": 30, "female": False, "race": 0, **traits}), (50, 50), 40)
        return picture.astype(int), points

    top = drawn(age=5)[0][15, 50].sum(), drawn(age=80)[0][15, 50].sum()
    assert top[1] > top[0] + 300  # the hair
    assert (drawn()[0][85, 16] == 128).all()
    assert (drawn(female=True)[0][85, 16] < 128).all()  # long hair beside the chin
    for race, tone in enumerate(SKIN):
        assert np.abs(drawn(race=race)[0][60, 40] - tone).max() <= 2
    assert np.abs(drawn(smiles=True)[0] - drawn()[0])[68:82].max() > 60
    assert np.abs(drawn(glasses=True)[0] - drawn()[0])[40:60].max() > 60
    noses = [drawn(pose=pose)[1][2, 0] for pose in range(-2, 3)]
    assert (np.diff(noses) > 5).all()
    points = drawn()[1]
    for eye in points[:2]:
        assert drawn()[0][round(eye[1]), round(eye[0])].max() < 60  # the pupil


def test_utkface_is_read_back_with_its_holes_and_the_coral_split(utkface: Path, tmp_path: Path) -> None:
    rows = read_utkface(utkface)
    assert len(rows) == 400
    assert (rows.text("race") == "").sum() == 3
    assert rows.notes[0].startswith("3 of 400 file names lack fields: 0 ages, 3 genders, 3 races missing")
    grey = []
    for name in rows.files[::20]:
        picture = cv2.imread(str(utkface / "UTKFace" / name))
        assert picture is not None
        grey.append((picture[4:8, 22:26].mean(), int(name.split("_")[0])))
    assert np.corrcoef(np.array(grey).T)[0, 1] > 0.9
    coral = {"train": "utk_train.csv", "test": "utk_test.csv"}
    tasks = {"age": {"kind": "regression", "range": [21, 60]}}
    settings = {"size": 16, "coral": coral}
    data = load("utkface", settings, tasks, {"by": "coral"}, folder=utkface, stores=tmp_path)
    listed = len((utkface / "utk_train.csv").read_text().splitlines()) - 1
    assert len(data.validation) == round(0.2 * listed)
    assert len(data.train) + len(data.validation) == listed


def test_a_small_network_learns_the_drawn_faces(utkface: Path, tmp_path: Path) -> None:
    tasks: dict[str, dict[str, Any]] = {
        "age": {"kind": "regression", "unit": "years"},
        "gender": {"kind": "binary"},
        "race": {"kind": "multiclass"},
    }
    split = {"by": "rows", "test": 0.2, "validation": 0.1}
    data = load("utkface", {"size": 32}, tasks, split, folder=utkface, stores=tmp_path)
    torch.manual_seed(0)
    encoder = tl.encoders.build("vgg5", data.train.input_shape)
    model = tl.sharing.build("hard_sharing", encoder, data.tasks, stages=5)
    config = TrainingConfig(epochs=12, batch=32, device="cpu", optimizer={"adam": {"lr": 3e-3}})
    fit(model, data.train, data.validation, config, seed=0, progress=False)
    result = evaluate(model, data.test)
    ages = data.test.labels.values["age"].double()
    assert result.value("age", "mae") < 0.5 * float((ages - ages.mean()).abs().mean())
    assert result.value("gender", "accuracy") > 0.85
    assert result.value("race", "accuracy") > 0.7


def test_celeba_is_read_back(celeba: Path, tmp_path: Path) -> None:
    rows = read_celeba(celeba)
    assert len(rows) == 120
    assert tuple(name for name in rows.columns if name in ATTRIBUTES) == ATTRIBUTES
    first = (celeba / "list_attr_celeba.txt").read_text().splitlines()[2].split()
    assert [rows.text(name)[0] for name in ATTRIBUTES] == ["1" if code == "1" else "0" for code in first[1:]]
    points = rows.landmarks()
    assert points is not None
    listed = (celeba / "list_landmarks_align_celeba.txt").read_text().splitlines()[2].split()
    assert points[0].ravel().tolist() == [float(value) for value in listed[1:]]
    tasks: dict[str, dict[str, Any]] = {
        "Smiling": {"kind": "binary"},
        "drawn": {"kind": "multilabel", "columns": list(DRAWN)},
        "points": {"kind": "landmarks", "points": ["nose", "left_eye"]},
    }
    data = load("celeba", {"size": 32}, tasks, {"by": "official"}, folder=celeba, stores=tmp_path)
    parts = [line.split()[1] for line in (celeba / "list_eval_partition.txt").read_text().splitlines()]
    assert [len(part) for part in (data.train, data.validation, data.test)] == [
        parts.count(code) for code in "012"
    ]
    assert data.about["group"] == "identity"
    batch = data.test.__getitems__([0])
    row = data.test.rows[0]  # type: ignore[attr-defined]
    expected = (points[row][[2, 0]] + 0.5) * [32 / 178, 32 / 218] - 0.5
    np.testing.assert_allclose(batch.labels.values["points"][0].numpy(), expected, atol=1e-4)
    assert bool(batch.labels.values["Smiling"][0]) == (rows.text("Smiling")[row] == "1")


def test_alignment_by_the_five_points_puts_eyes_where_they_belong(celeba: Path, tmp_path: Path) -> None:
    settings = {"size": 112, "align": True}
    tasks = {"points": {"kind": "landmarks"}}
    data = load("celeba", settings, tasks, {"by": "official"}, folder=celeba, stores=tmp_path)
    batch = data.test.__getitems__(range(len(data.test)))
    points = batch.labels.values["points"].double()
    # All drawn faces look alike but for their place: aligned, their points nearly coincide.
    assert float(points.std(dim=0).max()) < 1.5
    dark = batch.inputs.mean(dim=1)
    for row in range(3):
        x, y = points[row, 0].round().int().tolist()
        assert dark[row, y, x] < dark[row].median()  # the pupil


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("list_attr_celeba.txt", "120\n", "121\n", "121 images expected from its first line, found 120"),
        ("list_attr_celeba.txt", "120\n", "many\n", "list_attr_celeba.txt:1: a line with the number"),
        ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 7", "txt:2: the partition is 7; 0 or 1 or 2"),
        ("list_eval_partition.txt", "000002.jpg 0", "000900.jpg 0", "000002.jpg is missing"),
        (
            "identity_CelebA.txt",
            "000003.jpg 1",
            "000003.jpg x",
            "CelebA.txt:3: a file name and 1 num",
        ),
    ],
)
def test_mistakes_in_the_files_of_celeba_are_named(
    celeba: Path, file: str, old: str, new: str, words: str
) -> None:
    path = celeba / file
    whole = path.read_text()
    try:
        path.write_text(whole.replace(old, new, 1))
        with pytest.raises(DataError) as caught:
            read_celeba(celeba)
        assert words in str(caught.value)
    finally:
        path.write_text(whole)


def test_files_of_celeba_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list_attr_celeba\.txt of CelebA expected"):
        read_celeba(tmp_path)
    with pytest.raises(DataError, match=r"training\.txt and testing\.txt of MTFL expected"):
        read_mtfl(tmp_path)


def test_mtfl_is_read_back_and_cut_around_its_landmarks(mtfl: Path, tmp_path: Path) -> None:
    rows = read_mtfl(mtfl)
    lines = (mtfl / "training.txt").read_text().splitlines()
    assert lines[0].startswith(" lfw_5590\\00000.jpg ")
    fields = lines[0].split()
    assert rows.files[0] == "lfw_5590/00000.jpg"
    assert rows.text("gender")[0] == ("male", "female")[int(fields[11]) - 1]
    assert rows.text("smile")[0] == ("yes", "no")[int(fields[12]) - 1]
    assert rows.text("glasses")[0] == ("yes", "no")[int(fields[13]) - 1]
    points = rows.landmarks()
    assert points is not None
    assert points[0, :, 0].tolist() == [float(value) for value in fields[1:6]]
    assert points[0, :, 1].tolist() == [float(value) for value in fields[6:11]]
    tasks: dict[str, dict[str, Any]] = {
        "pose": {"kind": "multiclass"},
        "smile": {"kind": "binary"},
        "face": {"kind": "landmarks"},
    }
    data = load("mtfl", {"size": 40}, tasks, {"by": "official"}, folder=mtfl, stores=tmp_path)
    assert len(data.test) == 20
    assert data.tasks["pose"].class_names == ("left profile", "left", "frontal", "right", "right profile")
    batch = data.test.__getitems__(range(20))
    moved = batch.labels.values["face"].numpy()
    assert (moved > 0).all()
    assert (moved < 39).all()  # whole faces, wherever they stand in the photograph
    # The box around the points with 60 % of its larger side on each side is the whole image.
    np.testing.assert_allclose(np.ptp(moved, axis=1).max(axis=1), np.full(20, 40 / 2.2), rtol=1e-4)
    poses = batch.labels.values["pose"].numpy()
    nose = moved[:, 2, 0] - moved[:, :2, 0].mean(axis=1)
    assert np.corrcoef(nose, poses)[0, 1] > 0.95


def test_a_network_reads_pose_smile_and_landmarks_of_mtfl(tmp_path: Path) -> None:
    folder = simulate_mtfl(tmp_path / "mtfl", images=320)
    tasks: dict[str, dict[str, Any]] = {"glasses": {"kind": "binary"}, "face": {"kind": "landmarks"}}
    data: DataSplits = load("mtfl", {"size": 32}, tasks, {"by": "official"}, folder=folder, stores=tmp_path)
    torch.manual_seed(0)
    encoder = tl.encoders.build("vgg5", data.train.input_shape)
    model = tl.sharing.build("hard_sharing", encoder, data.tasks, stages=5)
    config = TrainingConfig(epochs=6, batch=32, device="cpu", optimizer={"adam": {"lr": 2e-3}})
    fit(model, data.train, data.validation, config, seed=0, progress=False)
    assert evaluate(model, data.test).value("glasses", "accuracy") > 0.75


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda line: line + " 3", r"testing\.txt:2: a path and 14 numbers expected, found 16 fields"),
        (lambda line: line[:-1] + "6", r"testing\.txt:2: pose is `6`; a code from 1 to 5 expected"),
        (lambda line: line.replace(".", "x"), r"testing\.txt:2: ten coordinates"),
    ],
)
def test_mistakes_in_the_files_of_mtfl_are_named(mtfl: Path, tmp_path: Path, change: Any, words: str) -> None:
    for name in ("training.txt", "testing.txt"):
        (tmp_path / name).write_text((mtfl / name).read_text())
    lines = (tmp_path / "testing.txt").read_text().splitlines()
    lines[1] = change(lines[1])
    (tmp_path / "testing.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=words):
        read_mtfl(tmp_path)
