"""`split: {duplicates: ...}`: equal images on one side, by a naive loop, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import taskloom as tl
from taskloom.data.batch import DataSplits
from taskloom.data.equal_images import equal_images, equal_images_found, joined_units
from taskloom.data.image_source import load_images
from taskloom.data.split_checks import Parts
from taskloom.data.split_rule import SplitRule
from taskloom.data.splits import split_rows
from taskloom.errors import ConfigError


def naive_units(units: NDArray[np.int64], equal: NDArray[np.int64]) -> NDArray[np.int64]:
    """Smallest row that each row is joined with, by passing it on until nothing changes."""
    found = np.arange(len(units))
    while True:
        before = found.copy()
        for codes in (units, equal):
            for code in set(codes.tolist()):
                found[codes == code] = found[codes == code].min()
        if (before == found).all():
            return found


@pytest.mark.parametrize("seed", range(5))
def test_joined_units_equal_passing_on_the_smallest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units, equal = rng.integers(0, 12, 30), rng.integers(0, 25, 30)
    joined, naive = joined_units(units, equal), naive_units(units, equal)
    assert ((joined[:, None] == joined) == (naive[:, None] == naive)).all()
    first_rows = [int(np.flatnonzero(joined == code)[0]) for code in range(joined.max() + 1)]
    assert first_rows == sorted(first_rows)


def test_equal_images_equal_a_comparison_of_all_pairs() -> None:
    images = np.random.default_rng(0).integers(0, 2, (40, 2, 2, 1), dtype=np.uint8)
    codes = equal_images(images)
    assert ((codes[:, None] == codes) == (images[:, None] == images).all(axis=(2, 3, 4))).all()


def write_people(folder: Path) -> None:
    """30 images of 15 people; every third image is stored twice, the second time for somebody else."""
    rng = np.random.default_rng(1)
    lines = ["file,sex,person"]
    pictures = rng.integers(0, 255, (20, 6, 6, 3), dtype=np.uint8)
    for number in range(30):
        cv2.imwrite(str(folder / f"{number}.png"), pictures[number if number < 20 else number - 20])
        lines.append(f"{number}.png,{'fm'[number % 2]},p{number % 15}")
    (folder / "people.csv").write_text("\n".join(lines))


def load(folder: Path, **split: Any) -> DataSplits:
    settings = {"table": "people.csv", "images": ".", "size": 6, **split.pop("data", {})}
    tasks = tl.TaskSet(tl.Binary("sex", classes=("f", "m")))
    return load_images(
        settings, tasks, {"test": 0.3, "validation": 0.2, **split}, seed=3, folder=folder, stores=folder / "s"
    )


@pytest.mark.parametrize("by", ["rows", "person"])
def test_equal_images_stay_on_one_side(tmp_path: Path, by: str) -> None:
    write_people(tmp_path)
    apart = load(tmp_path, by=by)
    (warning,) = apart.about["warnings"]
    train = {image.tobytes() for image in apart.train.store.images[apart.train.rows]}
    seen = {
        name: sum(image.tobytes() in train for image in part.store.images[part.rows])
        for name, part in (("validation", apart.validation), ("test", apart.test))
    }
    assert f"{seen['test']} of {len(apart.test)} test images" in warning
    assert f"{seen['validation']} of {len(apart.validation)} validation images" in warning
    assert seen["test"] + seen["validation"] > 0
    together = load(tmp_path, by=by, duplicates="together")
    assert together.about["warnings"] == []
    assert "20 of 30 images have an equal one (in every stored pixel); equal images stand on one side" in (
        " ".join(together.about["notes"])
    )
    sides = [part.store.images[part.rows] for part in (together.train, together.validation, together.test)]
    keys = [{image.tobytes() for image in side} for side in sides]
    assert keys[0].isdisjoint(keys[1] | keys[2])
    assert keys[1].isdisjoint(keys[2])
    people = [set(part.group_names) for part in (together.train, together.validation, together.test)]
    assert by == "rows" or people[0].isdisjoint(people[1] | people[2])
    assert together.about["split"]["duplicates"] == "together"


def test_nothing_is_said_where_no_image_is_equal() -> None:
    parts = Parts(np.array([0, 1]), np.array([2]), np.array([3]))
    assert equal_images_found(np.arange(4), parts, drawn=True) == ([], [])
    _, (warning,) = equal_images_found(np.array([0, 1, 0, 3]), parts, drawn=False)
    assert warning.startswith("1 of 1 validation images and 0 of 1 test images equal an image of train")
    assert "together" not in warning


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "rows", "duplicates": "yes"}, "split.duplicates: together or apart expected, found 'yes'"),
        ({"by": "column", "column": "part", "duplicates": "together"}, "the data name the parts"),
        ({"by": "time", "duplicates": "together"}, "rows or groups that are drawn"),
    ],
)
def test_bad_rules_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SplitRule.from_settings(settings)


def test_tables_have_no_pixels() -> None:
    with pytest.raises(ConfigError, match=r"split.duplicates: is for images"):
        split_rows(9, {}, SplitRule("rows", duplicates="apart"), seed=0)
