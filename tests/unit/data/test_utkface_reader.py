"""UTKFace: labels from file names, holes where a name lacks a field, the CORAL files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from taskloom.data.batch import DataSplits
from taskloom.data.readers.utkface import labels_of_name, read_utkface
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError

NAMES = {
    "26_1_0_20170116171048641.jpg.chip.jpg": (26, 1, 0),
    "116_0_4_20170112213500903.jpg": (116, 0, 4),
    "1_1_2_2017.jpg": (1, 1, 2),
    "39_1_20170116174525125.jpg.chip.jpg": (39, None, None),  # gender or race: cannot be told
    "61_3_20170109150557335.jpg.chip.jpg": (61, None, None),
    "53__0_20170116184028385.jpg": (53, None, 0),
    "_1_0_2017.jpg": (None, 1, 0),
    "30_2_1_2017.jpg": (30, None, 1),  # codes that do not exist
    "30_1_5_2017.jpg": (30, 1, None),
    "30_x_1_2017.jpg": (30, None, 1),
    "portrait.jpg": (None, None, None),
    "1_2_3_4_5.jpg": (None, None, None),
    "20170116_1_0_2017.jpg": (None, 1, 0),  # a date is no age
    "116_1_0_2017.jpg": (116, 1, 0),
    "117_1_0_2017.jpg": (None, 1, 0),
}
TASKS: dict[str, dict[str, Any]] = {
    "age": {"kind": "regression", "unit": "years"},
    "gender": {"kind": "binary"},
    "ethnicity": {"kind": "multiclass"},
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_a_name_gives_the_labels_that_it_holds(name: str, expected: tuple[int | None, ...]) -> None:
    assert labels_of_name(name) == expected


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Forty images of every gender and race, of one colour that depends on the age, and one without race."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(40):
        image = np.full((12, 12, 3), 5 * number, dtype=np.uint8)
        cv2.imwrite(str(folder / f"{21 + number}_{number % 2}_{number % 5}_{number}.jpg.chip.jpg"), image)
    cv2.imwrite(str(folder / "33_0_99.jpg.chip.jpg"), np.zeros((12, 12, 3), np.uint8))
    (folder / "notes.txt").touch()
    return tmp_path


def loaded(folder: Path, split: dict[str, Any], tasks: Any = None, **settings: Any) -> DataSplits:
    settings = {"images": "faces", "size": 6, **settings}
    return load("utkface", settings, tasks or TASKS, split, folder=folder, stores=folder / "stores")


def coral(folder: Path, train: list[int], test: list[int], shift: int = 21) -> dict[str, str]:
    """CORAL files of these numbers, with their index column without a name."""
    for part, numbers in (("train", train), ("test", test)):
        rows = [f"{n},{21 + n}_{n % 2}_{n % 5}_{n}.jpg.chip.jpg,{21 + n - shift}" for n in numbers]
        (folder / f"{part}.csv").write_text("\n".join([",file,age", *rows]) + "\n")
    return {"train": "train.csv", "test": "test.csv"}


def test_images_keep_their_labels_and_a_short_name_leaves_holes(faces: Path) -> None:
    data = loaded(faces, {"by": "rows", "test": 0.2, "validation": 0.2})
    assert data.tasks["gender"].class_names == ("male", "female")
    assert data.tasks["ethnicity"].class_names == ("White", "Black", "Asian", "Indian", "Others")
    seen = holes = 0
    for part in (data.train, data.validation, data.test):
        batch = part.__getitems__(range(len(part)))
        fitted = data.preprocessing["standardization"]
        level = 255 * (batch.inputs[:, 0, 3, 3] * fitted["deviation"][0] + fitted["mean"][0])
        for row in range(len(part)):
            seen += 1
            if not batch.labels.present["gender"][row]:
                holes += 1
                assert not batch.labels.present["ethnicity"][row]
                assert float(batch.labels.values["age"][row]) == 33
                continue
            number = round(float(level[row]) / 5)
            assert float(batch.labels.values["age"][row]) == 21 + number
            assert int(batch.labels.values["gender"][row]) == number % 2
            assert int(batch.labels.values["ethnicity"][row]) == number % 5
    assert (seen, holes) == (41, 1)
    assert data.about["notes"][0] == (
        "1 of 41 file names lacks fields: 0 ages, 1 gender, 1 race missing (33_0_99.jpg.chip.jpg)."
    )


def test_names_that_lack_fields_and_labels_out_of_range_are_counted_apart(tmp_path: Path) -> None:
    for name in ("30_0_0_1.jpg", "920_1_0_2.jpg", "31_7_9_3.jpg", "32_0_4.jpg", "33_4.jpg"):
        (tmp_path / name).touch()
    lacking, outside = read_utkface(tmp_path).notes
    assert lacking == (
        "2 of 5 file names lack fields: 1 age, 2 genders, 2 races missing (32_0_4.jpg, 33_4.jpg)."
    )
    assert outside.startswith("2 of 5 file names hold a label out of range (ages 0 to 116, genders 0 and 1, ")
    assert outside.endswith("races 0 to 4): 1 age, 1 gender, 1 race missing (31_7_9_3.jpg, 920_1_0_2.jpg).")


def test_the_checksum_of_the_images_follows_their_content_and_not_their_times(faces: Path) -> None:
    split = {"by": "rows"}
    first = loaded(faces, split).about["sources"]
    path = faces / "faces" / "21_0_0_0.jpg.chip.jpg"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert loaded(faces, split).about["sources"] == first
    cv2.imwrite(str(path), np.full((12, 12, 3), 200, np.uint8))
    assert loaded(faces, split).about["sources"] != first


def test_the_coral_files_name_rows_and_parts(faces: Path) -> None:
    files = coral(faces, list(range(20)), list(range(25, 35)))
    data = loaded(faces, {"by": "coral"}, coral=files)
    ages = {
        name: sorted(part.labels.values["age"].tolist())
        for name, part in (("train", data.train), ("validation", data.validation), ("test", data.test))
    }
    assert ages["test"] == [float(21 + n) for n in range(25, 35)]
    assert len(ages["validation"]) == 4  # a fifth of train, as thesis 001 has it
    assert sorted(ages["train"] + ages["validation"]) == [float(21 + n) for n in range(20)]
    assert set(data.about["sources"]) == {"images", "train.csv", "test.csv"}
    half = loaded(faces, {"by": "coral", "validation": 0.5}, coral=files)
    assert len(half.validation) == 10
    codes = loaded(
        faces, {"by": "coral"}, {"age": {"kind": "regression", "column": "coral_age"}}, coral=files
    )
    assert sorted(codes.test.labels.values["age"].tolist()) == [float(n) for n in range(25, 35)]


def test_mistakes_are_named_with_their_place(faces: Path) -> None:
    by_rows = {"by": "rows"}
    with pytest.raises(DataError, match=r"no such folder of images"):
        loaded(faces, by_rows, images="nowhere")
    (faces / "empty" / "part1").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no image .* Its folders: part1; name one with `data\.images`"):
        loaded(faces, by_rows, images="empty")
    with pytest.raises(ConfigError, match=r"data\.sizes is not a setting. Did you mean `size`"):
        loaded(faces, by_rows, sizes=3)
    with pytest.raises(DataError, match=r"60_1_4_39\.jpg\.chip\.jpg: age: 60 is outside the range \[0, 59\]"):
        loaded(faces, by_rows, {"age": {"kind": "regression", "range": [0, 59]}})
    with pytest.raises(DataError, match=r"no column `agge`.* Did you mean `age`"):
        loaded(faces, by_rows, {"agge": {"kind": "regression"}})
    with pytest.raises(ConfigError, match="has no landmarks of its own"):
        loaded(faces, by_rows, {"face": {"kind": "landmarks", "points": 5}})


def test_mistakes_in_the_coral_files_are_named(faces: Path) -> None:
    split = {"by": "coral"}
    with pytest.raises(ConfigError, match=r"data\.coral: \{train: CSV file"):
        loaded(faces, split, coral={"train": "train.csv"})
    with pytest.raises(DataError, match=r"train\.csv:2: column `age`: 0 expected .* found -1"):
        loaded(faces, split, coral=coral(faces, [0, 1], [2], shift=22))
    with pytest.raises(DataError, match=r"test\.csv:3: column `file`: `22_1_1_1.* is listed twice"):
        loaded(faces, split, coral=coral(faces, [0, 1], [2, 1]))
    with pytest.raises(DataError, match=r"train\.csv:3: column `file`: `71_0_0_50.* is not an image of"):
        loaded(faces, split, coral=coral(faces, [0, 50], [1]))
    files = coral(faces, [0, 1], [2, 3])
    with pytest.raises(ConfigError, match=r"split\.test: does not go with `by: coral`"):
        loaded(faces, {"by": "coral", "test": 0.2}, coral=files)
    with pytest.raises(DataError, match="no column `coral`"):
        loaded(faces, split)


def test_rows_hold_what_the_names_say(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).touch()
    rows = read_utkface(tmp_path)
    expected = [NAMES[name] for name in rows.files]
    assert np.array_equal(
        rows.numbers("age"), [np.nan if age is None else age for age, _, _ in expected], equal_nan=True
    )
    assert rows.text("gender").tolist() == [
        "" if gender is None else ("male", "female")[gender] for _, gender, _ in expected
    ]
