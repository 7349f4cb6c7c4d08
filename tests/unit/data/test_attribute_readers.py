"""CUB, Clothing Attributes, RAF-DB, AffectNet, EmotioNet, Aff-Wild2: files read back by another route."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from taskloom.data.batch import DataSplits
from taskloom.data.face_table import FaceTable
from taskloom.data.readers.aff_wild2 import read_aff_wild2
from taskloom.data.readers.affectnet import read_affectnet
from taskloom.data.readers.clothing_attributes import read_clothing_attributes
from taskloom.data.readers.cub import read_cub
from taskloom.data.readers.emotionet import read_emotionet
from taskloom.data.readers.raf_db import read_raf_db
from taskloom.data.simulate import (
    simulate_aff_wild2,
    simulate_affectnet,
    simulate_celeba,
    simulate_clothing_attributes,
    simulate_cub,
    simulate_emotionet,
    simulate_raf_db,
)
from taskloom.data.simulate.cub_attributes import GROUPS, NAMES
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError

IMAGES = {"images": 48}
SETS: dict[str, tuple[Any, dict[str, int], Callable[..., FaceTable]]] = {
    "cub": (simulate_cub, {"images": 40, "species": 4}, read_cub),
    "clothing_attributes": (simulate_clothing_attributes, IMAGES, read_clothing_attributes),
    "raf_db": (simulate_raf_db, {"images": 70}, read_raf_db),
    "affectnet": (simulate_affectnet, {"images": 80}, read_affectnet),
    "emotionet": (simulate_emotionet, {"images": 60}, read_emotionet),
    "aff_wild2": (simulate_aff_wild2, {"videos": 8, "frames": 16}, read_aff_wild2),
}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("native")
    return {name: simulate(root / name, **sizes) for name, (simulate, sizes, _) in SETS.items()}


@pytest.fixture
def copied(simulated: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy that a test may break."""
    return lambda name: Path(shutil.copytree(simulated[name], tmp_path / name))


def mend(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_cub_is_read_as_its_files_say(simulated: dict[str, Path], tmp_path: Path) -> None:
    root = simulated["cub"] / "CUB_200_2011"
    assert len(NAMES) == 312
    rows, sure = read_cub(simulated["cub"]), read_cub(root, certainty=3)
    labels: dict[tuple[int, int], tuple[str, int]] = {}
    widths = set()
    for line in (root / "attributes" / "image_attribute_labels.txt").read_text().splitlines():
        fields = line.split()
        widths.add(len(fields))
        labels[int(fields[0]), int(fields[1])] = fields[2], int(fields[3])
    assert widths == {5, 6}  # lines with an extra column are read like the others
    for code in (1, 10, 150, 312):
        cells = [labels[image, code] for image in range(1, 41)]
        assert rows.text(NAMES[code - 1]).tolist() == [present for present, _ in cells]
        assert sure.text(NAMES[code - 1]).tolist() == [
            present if certainty >= 3 else "" for present, certainty in cells
        ]
    hidden = np.mean([certainty < 3 for _, certainty in labels.values()])
    assert sure.notes[0].startswith(f"{hidden:.1%} of the attributes are missing")
    assert rows.notes[0].startswith("0.0%")
    boxes = (root / "bounding_boxes.txt").read_text().splitlines()
    assert rows.boxes()[4] == tuple(float(value) for value in boxes[4].split()[1:])  # type: ignore[index]
    tasks: dict[str, dict[str, Any]] = {
        "species": {"kind": "multiclass"},
        "attributes": {"kind": "multilabel"},
        "wing": {"kind": "multilabel", "columns": ["has_wing_color::*", "has_size::large_(16_-_32_in)"]},
        "crest": {"kind": "binary", "column": "has_head_pattern::crested"},
    }
    settings = {"size": 16, "certainty": 3}
    data = load("cub", settings, tasks, {"by": "official"}, folder=simulated["cub"], stores=tmp_path)
    listed = [line.split()[1] for line in (root / "train_test_split.txt").read_text().splitlines()]
    assert len(data.test) == listed.count("0")
    assert len(data.validation) == round(0.1 * listed.count("1"))
    classes = [line.split()[1] for line in (root / "classes.txt").read_text().splitlines()]
    assert list(data.tasks["species"].class_names) == classes
    assert data.tasks["attributes"].class_names == NAMES
    assert data.tasks["wing"].class_names == (
        *(f"has_wing_color::{colour}" for colour in GROUPS["has_wing_color"]),
        "has_size::large_(16_-_32_in)",
    )
    there = data.train.labels.present["attributes"]  # elements are present one by one
    assert 0.6 < float(there.float().mean()) < 0.9
    assert bool((there.any(dim=1) & ~there.all(dim=1)).all())


def test_clothing_attributes_are_read_as_scipy_reads_them(simulated: dict[str, Path], tmp_path: Path) -> None:
    root = simulated["clothing_attributes"]
    names = ["shirt", "sweater", "t-shirt", "outerwear", "suit", "tank top", "dress"]
    rows = read_clothing_attributes(root, class_names={"category": names})
    paths = sorted((root / "labels").iterdir())
    assert len(paths) == 26
    for path in paths:
        codes = scipy.io.loadmat(path)["GT"].ravel()
        name = path.name.removesuffix("_GT.mat")
        expected = ["" if np.isnan(code) else str(int(code) - 1) for code in codes]
        if name == "category":
            expected = ["" if np.isnan(code) else names[int(code) - 1] for code in codes]
        elif name in ("neckline", "sleevelength"):
            expected = ["" if np.isnan(code) else str(int(code)) for code in codes]
        assert rows.text(name).tolist() == expected
    assert len((rows.label_groups or {})["attributes"]) == 23
    tasks = {"category": {"kind": "multiclass"}, "attributes": {"kind": "multilabel"}}
    split = {"by": "rows", "test": 0.3, "validation": 0.2}
    data = load("clothing_attributes", {"size": 16}, tasks, split, folder=root, stores=tmp_path)
    assert data.tasks["category"].class_names == tuple("1234567")
    with pytest.raises(ConfigError, match="7 names for the codes 1 to 7 expected, found 2"):
        read_clothing_attributes(root, class_names={"category": ["a", "b"]})
    with pytest.raises(
        ConfigError, match=r"`categori` is not a multiclass attribute. Did you mean `category`"
    ):
        read_clothing_attributes(root, class_names={"categori": names})


def test_raf_db_is_read_as_its_list_says(simulated: dict[str, Path], tmp_path: Path) -> None:
    rows = read_raf_db(simulated["raf_db"])
    names = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    lines = (simulated["raf_db"] / "EmoLabel" / "list_patition_label.txt").read_text().splitlines()
    assert rows.text("expression").tolist() == [names[int(line.split()[1]) - 1] for line in lines]
    assert rows.files == [line.split()[0].replace(".jpg", "_aligned.jpg") for line in lines]
    tasks = {"expression": {"kind": "multiclass"}}
    data = load(
        "raf_db", {"size": 16}, tasks, {"by": "official"}, folder=simulated["raf_db"], stores=tmp_path
    )
    assert data.tasks["expression"].class_names == names
    counts = [len(part) for part in (data.train, data.validation, data.test)]
    assert counts == [50, 6, sum(line.startswith("test_") for line in lines)]


def test_affectnet_is_read_as_its_lists_say(simulated: dict[str, Path], tmp_path: Path) -> None:
    root = simulated["affectnet"]
    cells: list[dict[str, str]] = []
    for name in ("training.csv", "validation.csv"):
        with (root / name).open(newline="") as file:
            cells += csv.DictReader(file)
    rows = read_affectnet(root)
    names = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
    codes = [int(row["expression"]) for row in cells]
    assert rows.text("expression").tolist() == [names[code] if code < 8 else "" for code in codes]
    assert any(code >= 8 for code in codes)
    valence = [float(row["valence"]) for row in cells]
    np.testing.assert_array_equal(rows.numbers("valence"), [np.nan if v == -2 else v for v in valence])
    marks = np.array([[float(n) for n in row["facial_landmarks"].split(";")] for row in cells])
    marks = marks.reshape(-1, 68, 2)
    five = [marks[:, 36:42].mean(1), marks[:, 42:48].mean(1), marks[:, 30], marks[:, 48], marks[:, 54]]
    np.testing.assert_allclose(rows.landmarks(), np.stack(five, axis=1))  # type: ignore[arg-type]
    seven = read_affectnet(root, expressions=7, landmarks=68)
    np.testing.assert_allclose(seven.landmarks(), marks)  # type: ignore[arg-type]
    assert seven.text("expression").tolist() == [names[code] if code < 7 else "" for code in codes]
    tasks: dict[str, dict[str, Any]] = {
        "expression": {"kind": "multiclass"},
        "valence": {"kind": "regression"},
        "arousal": {"kind": "regression"},
        "points": {"kind": "landmarks"},
    }
    settings = {"size": 112, "align": True}
    data = load("affectnet", settings, tasks, {"by": "official"}, folder=root, stores=tmp_path)
    assert len(data.test) == 16
    points = data.test.__getitems__(range(16)).labels.values["points"]
    assert float(points.std(dim=0).max()) < 1.5  # aligned: the five points come to lie together
    # A list without a header line says the same.
    plain = Path(shutil.copytree(root, tmp_path / "plain"))
    path = plain / "validation.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    same = read_affectnet(plain)
    assert same.text("arousal").tolist() == rows.text("arousal").tolist()
    assert same.places[-1].endswith("validation.csv:16")
    assert rows.places[-1].endswith("validation.csv:17")


def test_emotionet_is_read_as_its_table_says(simulated: dict[str, Path], tmp_path: Path) -> None:
    root = simulated["emotionet"]
    with (root / "EmotioNet_FACS.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    rows = read_emotionet(root)
    for unit in (1, 3, 12, 26):
        codes = [row[f"AU {unit}"] for row in cells]
        assert rows.text(f"AU{unit}").tolist() == ["" if code == "999" else code for code in codes]
    units = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 15, 17, 20, 23, 24, 25, 26)
    tasks = {"action_units": {"kind": "multilabel"}, "smile": {"kind": "binary", "column": "AU12"}}
    split = {"by": "rows", "test": 0.2, "validation": 0.2}
    data = load("emotionet", {"size": 16}, tasks, split, folder=root, stores=tmp_path / "stores")
    assert data.tasks["action_units"].class_names == tuple(f"AU{unit}" for unit in units)
    # Listed but absent: left out and named, never fatal.
    assert data.about["images"]["unreadable"] == 1
    assert data.about["images"]["unreadable_examples"][0]["file"] == "N_0000000050.jpg"
    (folder,) = (tmp_path / "stores").glob("emotionet-*")
    assert "49,N_0000000050.jpg,no such file" in (folder / "left_out.csv").read_text()


def test_aff_wild2_is_read_frame_by_frame(simulated: dict[str, Path], tmp_path: Path) -> None:
    root = simulated["aff_wild2"]
    rows = read_aff_wild2(root)
    assert len(rows) == 8 * 16
    place = {file: row for row, file in enumerate(rows.files)}
    seen = dict.fromkeys(("expression", "AU12", "valence"), 0)
    for path in root.rglob("*.txt"):
        if path.name == "README.txt":
            continue
        header, *lines = path.read_text().splitlines()
        names = header.lower().split(",")
        for number, line in enumerate(lines, start=1):
            row = place[f"{path.stem}/{number:05d}.jpg"]
            assert rows.text("part")[row] == ("train" if "Train" in path.parent.name else "test")
            cells = line.split(",")
            if "neutral" in names:
                expected = {"expression": "" if cells[0] == "-1" else names[int(cells[0])]}
            elif "valence" in names:
                expected = {"valence": "" if cells[0] == "-5" else cells[0]}
            else:
                expected = {"AU12": "" if cells[6] == "-1" else cells[6]}
            for label, value in expected.items():
                text = rows.text(label)[row]
                assert text == value or float(text) == float(value)
                seen[label] += 1
    assert seen == {"expression": 5 * 16, "AU12": 5 * 16, "valence": 8 * 16}
    assert read_aff_wild2(root, every=5).numbers("frame").tolist() == [1, 6, 11, 16] * 8
    tasks: dict[str, dict[str, Any]] = {
        "expression": {"kind": "multiclass"},
        "action_units": {"kind": "multilabel"},
        "valence": {"kind": "regression"},
    }
    data: DataSplits = load(
        "aff_wild2", {"size": 16}, tasks, {"by": "official"}, folder=root, stores=tmp_path
    )
    absent = 8 * 16 - len(list((root / "cropped_aligned").rglob("*.jpg")))
    assert data.about["images"]["unreadable"] == absent > 0
    assert data.about["group"] == "video"
    there = data.train.labels.present
    assert not bool(there["expression"].all())
    assert not bool(there["action_units"].all(dim=1).all())


def test_a_video_that_is_tested_on_is_not_trained_on(copied: Callable[[str], Path]) -> None:
    root = copied("aff_wild2")
    kind = root / "VA_Estimation_Challenge"
    shutil.move(kind / "Train_Set" / "video1.txt", kind / "Validation_Set" / "video1.txt")
    rows = read_aff_wild2(root)
    assert set(rows.text("part")[rows.text("video") == "video1"]) == {"test"}
    assert rows.notes[0].startswith("1 video stands in different parts for different labels")


def test_identity_of_celeba_is_a_task_and_attributes_are_one(tmp_path: Path) -> None:
    root = simulate_celeba(tmp_path / "celeba", images=64)
    tasks = {"identity": {"kind": "multiclass"}, "attributes": {"kind": "multilabel"}}
    split = {"by": "rows", "test": 0.2, "validation": 0.1, "shared_groups": "allowed"}
    data = load("celeba", {"size": 16}, tasks, split, folder=root, stores=tmp_path / "stores")
    assert data.tasks["identity"].class_names == tuple(str(number) for number in range(1, 17))
    assert len(data.tasks["attributes"].class_names) == 40
    with pytest.raises(DataError, match="identity"):  # the official parts share nobody
        load("celeba", {"size": 16}, tasks, {"by": "official"}, folder=root, stores=tmp_path / "stores")


ATTRIBUTE_LABELS = "CUB_200_2011/attributes/image_attribute_labels.txt"


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "words"),
    [
        (
            "cub",
            ATTRIBUTE_LABELS,
            "\n1 3 ",
            "\n1 313 ",
            "labels.txt:3: the attribute is 313; a code from 1 to 312",
        ),
        (
            "cub",
            ATTRIBUTE_LABELS,
            "\n1 3 ",
            "\n1 0 ",
            "labels.txt:3: the attribute is 0; a code from 1 to 312",
        ),
        (
            "cub",
            ATTRIBUTE_LABELS,
            "\n1 3 ",
            "\n1 2 ",
            "labels.txt:3: attribute 2 of image 1 stands in an earlier",
        ),
        ("cub", ATTRIBUTE_LABELS, "\n1 3 1 ", "\n1 3 2 ", "labels.txt:3: the presence is 2; 0 or 1 expected"),
        (
            "cub",
            ATTRIBUTE_LABELS,
            "\n1 3 ",
            "\n99 3 ",
            "labels.txt:3: the image is 99; the number of an image",
        ),
        (
            "cub",
            ATTRIBUTE_LABELS,
            "\n1 3 1 ",
            "\n1 3 ? ",
            "labels.txt:3: image, attribute, presence and certain",
        ),
        ("cub", "CUB_200_2011/images.txt", "\n3 ", "\n2 ", "images.txt:3: 2 stands in an earlier line too"),
        (
            "cub",
            "CUB_200_2011/images.txt",
            "002.Drawn_bird_2/Drawn_Bird_0002",
            "001.Drawn_bird_1/Drawn_Bird_0001",
            "images.txt:2: `001.Drawn_bird_1/Drawn_Bird_0001.jpg` stands in an earlier line too",
        ),
        (
            "cub",
            "CUB_200_2011/train_test_split.txt",
            "3 1",
            "3 7",
            "split.txt:3: the part is `7`; a code from 0",
        ),
        (
            "cub",
            "CUB_200_2011/image_class_labels.txt",
            "3 3",
            "3 9",
            "labels.txt:3: the class is `9`; a code from 1",
        ),
        ("cub", "CUB_200_2011/bounding_boxes.txt", "40 ", "41 ", "boxes.txt: image 40 is missing (1 in all)"),
        ("cub", "attributes.txt", "312 ", "313 ", "the attributes 1 to 312 expected, found 312 lines"),
        (
            "raf_db",
            "EmoLabel/list_patition_label.txt",
            "002.jpg ",
            "002.jpg 4",
            "a code from 1 to 7 expected",
        ),
        (
            "raf_db",
            "EmoLabel/list_patition_label.txt",
            "train_00002",
            "x_00002",
            "label.txt:2: an image called tra",
        ),
        (
            "raf_db",
            "EmoLabel/list_patition_label.txt",
            "train_00002",
            "train_00001",
            "stands in an earlier row",
        ),
        (
            "emotionet",
            "EmotioNet_FACS.csv",
            ",999,",
            ",3,",
            "column `AU 3`: 0, 1 or 999 (not annotated) expected",
        ),
        ("emotionet", "EmotioNet_FACS.csv", "AU 2,", "AU1,", "columns `AU 1` and `AU1` are both AU1"),
        (
            "emotionet",
            "EmotioNet_FACS.csv",
            "00003.jpg",
            "00002.jpg",
            "`N_0000000002.jpg` stands in an earlier row",
        ),
    ],
)
def test_mistakes_in_the_files_are_named(
    copied: Callable[[str], Path], tmp_path: Path, name: str, file: str, old: str, new: str, words: str
) -> None:
    root = copied(name)
    mend(root / file, old, new)
    tasks = {"species": "multiclass", "expression": "multiclass", "AU1": "binary"}
    task = {"cub": "species", "raf_db": "expression", "emotionet": "AU1"}[name]
    with pytest.raises(DataError) as caught:
        load(name, {"size": 16}, {task: {"kind": tasks[task]}}, {"by": "rows"}, folder=root, stores=tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("label", "value", "words"),
    [
        ("expression", "11", "training.csv:2: expression is 11; 0 to 10 expected"),
        ("valence", "1.5", "training.csv:2: valence is 1.5; a number from -1 to 1, or -2 for none, expected"),
        ("facial_landmarks", "1;2;3", "training.csv:2: facial_landmarks: 68 points as x;y;x;y;... expected"),
    ],
)
def test_mistakes_in_the_lists_of_affectnet_are_named(
    copied: Callable[[str], Path], label: str, value: str, words: str
) -> None:
    path = copied("affectnet") / "training.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0][label] = value
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DataError) as caught:
        read_affectnet(path.parent)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "line", "words"),
    [
        (
            "EXPR_Classification_Challenge",
            "8",
            "video1.txt:3: expression is 8; a code from 0 to 7, or -1 (not",
        ),
        (
            "VA_Estimation_Challenge",
            "0.1,-2",
            "video1.txt:3: arousal is -2; a number from -1 to 1, or -5 (not",
        ),
        ("VA_Estimation_Challenge", "0.1", "video1.txt:3: 2 numbers expected, found `0.1`"),
        ("VA_Estimation_Challenge", "a,b", "video1.txt:3: 2 numbers expected, found `a,b`"),
    ],
)
def test_mistakes_in_the_files_of_aff_wild2_are_named(
    copied: Callable[[str], Path], kind: str, line: str, words: str
) -> None:
    root = copied("aff_wild2")
    path = root / kind / "Train_Set" / "video1.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(DataError) as caught:
        read_aff_wild2(root)
    assert words in str(caught.value)


def test_headers_of_aff_wild2_must_agree(copied: Callable[[str], Path]) -> None:
    root = copied("aff_wild2")
    folder = root / "EXPR_Classification_Challenge" / "Train_Set"
    path = folder / "video3.txt"
    mend(path, ",Other", "")
    with pytest.raises(
        DataError, match=r"video3\.txt:1: the expressions neutral, .*other expected as in other"
    ):
        read_aff_wild2(root)
    mend(path, "Neutral", "Calm")
    with pytest.raises(DataError, match=r"video3\.txt:1: a header of expressions .* found `calm,anger"):
        read_aff_wild2(root)
    mend(path, "Calm", "Neutral")
    mend(path, ",Surprise", ",Surprise,Other")
    shutil.copy(path, root / "EXPR_Classification_Challenge" / "Validation_Set" / "video3.txt")
    with pytest.raises(DataError, match=r"video3\.txt: the same frames are annotated in .*video3\.txt too"):
        read_aff_wild2(root)


def test_vectors_that_are_none(copied: Callable[[str], Path]) -> None:
    root = copied("clothing_attributes")
    path = root / "labels" / "scarf_GT.mat"
    codes = scipy.io.loadmat(path)["GT"]
    path.write_bytes(b"not a MATLAB file at all, but a text of some length" * 9)
    with pytest.raises(DataError, match=r"scarf_GT\.mat: not readable as a MATLAB file"):
        read_clothing_attributes(root)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"scarf_GT\.mat: the file is empty"):
        read_clothing_attributes(root)
    scipy.io.savemat(path, {"a": codes, "b": codes})
    with pytest.raises(DataError, match=r"scarf_GT\.mat: a vector of numbers called GT expected, found a, b"):
        read_clothing_attributes(root)
    scipy.io.savemat(path, {"GT": codes[:-1]})
    with pytest.raises(DataError, match=r"scarf_GT\.mat: 48 images as in black_GT\.mat expected, found 47"):
        read_clothing_attributes(root)
    codes[4] = -1
    scipy.io.savemat(path, {"GT": codes})
    with pytest.raises(DataError, match=r"scarf_GT\.mat: image 000005\.jpg: the code is -1"):
        read_clothing_attributes(root)


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        (
            "cub",
            "CUB_200_2011/attributes/image_attribute_labels.txt",
            "image_attribute_labels.txt of CUB-200-2011",
        ),
        ("cub", "CUB_200_2011/classes.txt", "classes.txt of CUB-200-2011 expected there, found no such file"),
        ("raf_db", "EmoLabel/list_patition_label.txt", "list_patition_label.txt of RAF-DB expected"),
        ("affectnet", "validation.csv", "validation.csv of AffectNet expected"),
        ("emotionet", "EmotioNet_FACS.csv", "one CSV file of action units expected, found none"),
    ],
)
def test_files_that_are_not_there(copied: Callable[[str], Path], name: str, file: str, words: str) -> None:
    root = copied(name)
    (root / file).unlink()
    with pytest.raises(DataError) as caught:
        SETS[name][2](root)
    assert words in str(caught.value)


def test_folders_and_settings_that_are_not_right(simulated: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"files such as category_GT\.mat expected, found none"):
        read_clothing_attributes(tmp_path)
    (tmp_path / "cropped_aligned").mkdir()
    with pytest.raises(DataError, match="folders called Train_Set and Validation_Set expected"):
        read_aff_wild2(tmp_path)
    with pytest.raises(DataError, match=r"no such folder of images\..* name the folder"):
        read_raf_db(simulated["raf_db"], images="pictures")
    with pytest.raises(
        ConfigError, match=r"certainty: the least certainty expected \(1 not visible, 2 guess"
    ):
        read_cub(simulated["cub"], certainty=5)
    with pytest.raises(ConfigError, match="expressions: 7 or 8 expected, found 6"):
        read_affectnet(simulated["affectnet"], expressions=6)
    with pytest.raises(ConfigError, match="every: a whole number of frames from 1 expected, found 0"):
        read_aff_wild2(simulated["aff_wild2"], every=0)
    tasks = {"wing": {"kind": "multilabel", "columns": ["has_wings*"]}}
    with pytest.raises(ConfigError, match=r"tasks\.wing\.columns: no column of .* matches `has_wings\*`"):
        load("cub", {}, tasks, {"by": "rows"}, folder=simulated["cub"], stores=tmp_path)
