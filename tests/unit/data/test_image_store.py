"""Images: decoding against known pixels, whole or absent stores, standardisation, the source."""

from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from taskloom.data.batch import TaskDataset
from taskloom.data.face_crop import CropSettings, Face, FaceCutter
from taskloom.data.image_decode import decode, read_file
from taskloom.data.image_source import images, load_images
from taskloom.data.image_store import ImageStandardization, ImageStore, prepare_images
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Landmarks

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def quadrants(height: int, width: int) -> NDArray[np.uint8]:
    """RGB: red and green above, blue and white below."""
    image = np.full((height, width, 3), 255, dtype=np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    return image


def read_image(path: Path, box: Any, size: int) -> Face:
    return FaceCutter(CropSettings(size)).cut(decode(read_file(path)), box)[0]


def write(path: Path, rgb: NDArray[Any]) -> Path:
    assert cv2.imwrite(str(path), rgb[..., ::-1] if rgb.ndim == 3 else rgb)
    return path


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Adds an EXIF segment that holds the orientation alone."""
    tiff = (
        b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00"
        + bytes([orientation, 0, 0, 0])
        + bytes(4)
    )
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def test_shrinking_averages_areas(tmp_path: Path) -> None:
    source = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    image = read_image(write(tmp_path / "a.png", source), None, 4).image
    expected = source.reshape(4, 3, 4, 3, 3).mean(axis=(1, 3))
    assert np.abs(image - expected).max() <= 0.5 + 1e-6


def test_a_box_is_cut_out_and_clipped_to_the_image(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", quadrants(20, 40))
    face = read_image(path, (20.2, -5.0, 30.0, 15.0), 5)  # 20, 0, 20 x 10 of it lie inside
    np.testing.assert_allclose(face.transform, [[0.25, 0, 0.125 - 5.5], [0, 0.5, -0.25]])
    assert (face.image == GREEN).all()


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.jpg", quadrants(32, 32)).read_bytes()
    path = tmp_path / "turned.jpg"
    path.write_bytes(with_orientation(plain, 6))  # turn clockwise by 90 degrees to see it upright
    image = read_image(path, None, 32).image
    expected = np.rot90(quadrants(32, 32), k=-1)
    inner = np.ix_([4, 27], [4, 27])  # away from the edges, which JPEG blurs
    assert np.abs(image[inner].astype(int) - expected[inner]).max() < 30


@pytest.mark.parametrize("kind", ["grey", "16 bit", "alpha"])
def test_unusual_pixels_become_rgb_of_8_bit(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    if kind == "grey":
        cv2.imwrite(str(path), ramp)
    elif kind == "16 bit":
        cv2.imwrite(str(path), ramp.astype(np.uint16) * 257)
    else:
        transparent = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
        cv2.imwrite(str(path), np.dstack([ramp, ramp, ramp, transparent]))
    image = read_image(path, None, 8).image
    assert image.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel], ramp)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = write(tmp_path / f"a{suffix}", noise)
    data = path.read_bytes()
    read_image(path, None, 8)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cut off"):
        read_image(path, None, 8)
    thumbnail = b"\xff\xe1\x00\x08\xff\xd8\xff\xd9\x00\x00"
    if suffix == ".jpg":  # the end mark of a thumbnail in the header is not the end of the image
        path.write_bytes(data[:2] + thumbnail + data[2 : len(data) // 2])
        with pytest.raises(DataError, match="cut off"):
            read_image(path, None, 8)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Six readable images, one that is text, one that is empty; a table with one more that is missing."""
    folder = tmp_path / "album"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        write(folder / f"{number}.png", random.integers(0, 256, (10, 14, 3)).astype(np.uint8))
    (folder / "text.png").write_text("not an image")
    (folder / "empty.png").touch()
    return folder


FILES = ["0.png", "text.png", "1.png", "2.png", "missing.png", "3.png", "4.png", "empty.png", "5.png"]


def test_rows_without_a_readable_image_are_left_out_and_listed(album: Path, tmp_path: Path) -> None:
    store = prepare_images(FILES, album, tmp_path / "store", 8)
    assert store.rows.tolist() == [0, 2, 3, 5, 6, 8]
    assert [(entry["row"], entry["file"]) for entry in store.unreadable] == [
        (1, "text.png"),
        (4, "missing.png"),
        (7, "empty.png"),
    ]
    assert "no such file" in store.unreadable[1]["reason"]
    assert isinstance(store.images, np.memmap)
    for position, row in enumerate(store.rows):
        expected = read_image(album / FILES[row], None, 8).image
        np.testing.assert_array_equal(store.images[position], expected)


def test_a_store_is_reused_until_a_file_or_a_setting_changes(
    album: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "store"
    prepare_images(FILES, album, place, 8)
    first = os.stat(place / "images.npy").st_mtime_ns
    with caplog.at_level(logging.INFO):
        prepare_images(FILES, album, place, 8)
    assert os.stat(place / "images.npy").st_mtime_ns == first
    assert "prepared already" in caplog.text
    changed = write(album / "3.png", quadrants(10, 14))
    with caplog.at_level(logging.INFO):
        again = prepare_images(FILES, album, place, 8)
    assert "preparing them again" in caplog.text
    np.testing.assert_array_equal(again.images[3], read_image(changed, None, 8).image)
    assert prepare_images(FILES, album, place, 4).size == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "store"]


def test_a_store_of_another_version_and_a_foreign_folder_are_refused(album: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    prepare_images(FILES, album, place, 8)
    about = json.loads((place / "store.json").read_text())
    (place / "store.json").write_text(json.dumps({**about, "version": 99}))
    with pytest.raises(DataError, match="version 3 expected, found taskloom-images version 99"):
        prepare_images(FILES, album, place, 8)
    (place / "store.json").write_text("{")
    with pytest.raises(DataError, match="not readable"):
        ImageStore.open(place)
    with pytest.raises(DataError, match="found something else"):
        prepare_images(FILES, album, album, 8)
    with pytest.raises(DataError, match="no prepared images"):
        ImageStore.open(album)


def test_nothing_is_left_behind_where_nothing_can_be_prepared(album: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 2 images.*text\.png: not a readable image"):
        prepare_images(["text.png", "missing.png"], album, tmp_path / "stores" / "store", 8)
    with pytest.raises(DataError, match="no such folder"):
        prepare_images(FILES, tmp_path / "nowhere", tmp_path / "store", 8)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="could not be prepared there"):
        prepare_images(FILES, album, tmp_path / "file" / "store", 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "file"]


def test_a_pickled_store_maps_the_same_file(album: Path, tmp_path: Path) -> None:
    store = prepare_images(FILES, album, tmp_path / "store", 8)
    again = pickle.loads(pickle.dumps(store))
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(again.images, store.images)


def test_standardisation_is_fitted_exactly_on_the_rows_given() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 4, 4, 3)).astype(np.uint8)
    pixels[..., 2] = 9
    rows = np.arange(0, 700, 2)
    fitted = ImageStandardization.fit(pixels, rows)
    scaled = pixels[rows].astype(np.float64) / 255.0
    np.testing.assert_allclose(fitted.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(fitted.deviation[:2], scaled.std(axis=(0, 1, 2))[:2], rtol=1e-9)
    assert fitted.deviation[2] == 1.0
    assert fitted == ImageStandardization.fit(pixels, rows[::-1])


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Twenty images of ten people with age (holes), sex, a point; boxes in the right half."""
    folder = tmp_path / "people"
    folder.mkdir()
    lines = ["file_name,person,age,sex,px,py,x,y,w,h"]
    for number in range(20):
        write(folder / f"{number}.png", np.full((20, 40, 3), 10 * number, dtype=np.uint8))
        age = "" if number % 4 == 0 else str(20 + number)
        lines.append(f"{number}.png,p{number // 2},{age},{'FM'[number % 2]},{20 + number},5,20,0,20,20")
    (folder / "gone.txt").touch()
    lines.append("gone.png,p0,50,F,1,1,,,,")
    (tmp_path / "people.csv").write_text("\n".join(lines))
    return tmp_path


PEOPLE_TASKS: dict[str, dict[str, Any]] = {
    "age": {"kind": "regression"},
    "sex": {"kind": "binary"},
    "nose": {"kind": "landmarks", "columns": ["px", "py"]},
}


def test_the_source_gives_standardised_batches_with_their_labels(people: Path) -> None:
    data = images(
        people / "people.csv",
        people / "people",
        PEOPLE_TASKS,
        size=10,
        split_by="person",
        stores=people / "stores",
    )
    assert isinstance(data.train, TaskDataset)
    assert data.train.input_shape == (3, 10, 10)
    batch = data.train.__getitems__(range(len(data.train)))
    assert batch.inputs.dtype == torch.float32
    assert batch.inputs.is_contiguous()
    mean = batch.inputs.mean(dim=(0, 2, 3), dtype=torch.float64)
    deviation = batch.inputs.double().std(dim=(0, 2, 3), correction=0)
    assert torch.allclose(mean, torch.zeros(3, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(deviation, torch.ones(3, dtype=torch.float64), atol=1e-5)
    fitted = data.preprocessing["standardization"]
    for row in range(len(data.train)):
        number = int(data.train.rows[row])  # type: ignore[attr-defined]
        expected = (10 * number / 255 - fitted["mean"][0]) / fitted["deviation"][0]
        assert batch.inputs[row, 0, 3, 3].item() == pytest.approx(expected, abs=1e-5)
        assert bool(batch.labels.present["age"][row]) == (number % 4 != 0)
        assert int(batch.labels.values["sex"][row]) == number % 2
    json.dumps([data.about, data.preprocessing])
    assert data.about["images"]["unreadable_examples"] == [
        {"row": 20, "file": "gone.png", "reason": "no such file", "line": 22}
    ]
    assert "1 of 21 images" in data.about["notes"][0]
    sides = [set(part.group_names) for part in (data.train, data.validation, data.test)]  # type: ignore[attr-defined]
    assert len(set.union(*sides)) == sum(map(len, sides)) == 10


def test_landmarks_move_with_the_crop_and_the_size(people: Path) -> None:
    data = images(people / "people.csv", people / "people", PEOPLE_TASKS, size=10, stores=people / "stores")
    for part in (data.train, data.validation, data.test):
        numbers = part.rows  # type: ignore[attr-defined]
        points = part.labels.values["nose"][:, 0].numpy()
        # the crop starts at x = 20 and halves; pixel centres are at + 0.5
        np.testing.assert_allclose(points[:, 0], (numbers + 0.5) / 2 - 0.5, atol=1e-5)
        np.testing.assert_allclose(points[:, 1], 5.5 / 2 - 0.5, atol=1e-5)
    present = data.train.labels.values["nose"]
    task = data.tasks["nose"]
    assert isinstance(task, Landmarks)
    assert task.center == pytest.approx(float(present.double().mean()), abs=1e-5)


def test_a_point_lands_on_the_pixel_that_it_marks(tmp_path: Path) -> None:
    source = np.zeros((40, 60, 3), dtype=np.uint8)
    source[12:16, 32:36] = 255  # becomes one pixel at a quarter of the size
    write(tmp_path / "a.png", source)
    store = prepare_images(["a.png"], tmp_path, tmp_path / "store", 10, [(20.0, 0.0, 40.0, 40.0)])
    moved = store.to_pixels(np.array([[[33.5, 13.5]]]), np.array([0]))
    row, column = np.unravel_index(store.images[0, ..., 0].argmax(), (10, 10))
    assert moved[0, 0].tolist() == pytest.approx([column, row])


def loaded(folder: Path, **changes: Any) -> None:
    settings = {"table": "people.csv", "images": "people", "size": 8, **changes}
    tasks = {"sex": {"kind": "binary"}}
    load_images(settings, tasks, {"by": "rows"}, seed=0, folder=folder, stores=folder / "stores")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 0}, "data.size"),
        ({"size": "64"}, "data.size"),
        ({"sizes": 64}, "data.sizes is not a setting. Did you mean `size`?"),
        ({"images": "nowhere"}, "no such folder of images"),
        ({"file": "filename"}, "no column `filename`, which data.file needs. Did you mean `file_name`?"),
        ({"box": ["x", "y"]}, "four columns"),
        ({"box": ["x", "y", "w", "hh"]}, "no column `hh`"),
        ({"box": ["x", "y", "x", "y"]}, "people.csv:2: column `x`: a box of width and height above 0"),
        ({"table": "none.csv"}, "no such file"),
        ({"file": "age"}, "people.csv:2: column `age`: the cell is blank; a file name expected"),
    ],
)
def test_mistakes_in_settings_and_table_are_named(people: Path, changes: Any, words: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        loaded(people, **changes)
    assert words in str(caught.value)


def test_the_image_folder_and_a_file_column_are_needed(people: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.images is missing"):
        load_images({"table": "people.csv"}, {}, {}, seed=0, folder=people, stores=people)
    (people / "people.csv").write_text("name,sex\na,F\nb,M\n")
    with pytest.raises(DataError, match="`file_name` or `file`"):
        loaded(people)


def test_a_part_of_a_box_is_refused(people: Path) -> None:
    (people / "people.csv").write_text("file,sex,x,y,w,h\n0.png,F,1,2,3,4\n1.png,M,1,,3,4\n")
    with pytest.raises(DataError, match=r"people\.csv:3: column `y`: a part of the box"):
        loaded(people)
