"""From a source to a table and an overlay: pixels as in training, rows, files, bounded memory."""

from __future__ import annotations

import csv
import pickle
import threading
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet
import pytest
import torch

from _predict import (
    SIZE,
    STANDARDIZATION,
    SquareDetector,
    image_bundle,
    json_rows,
    loaded,
    picture_with,
    read_video,
    squares,
    write_video,
)
from taskloom import Binary, Landmarks, Regression
from taskloom.data.face_crop import CropSettings
from taskloom.data.face_detectors import Detection
from taskloom.data.image_store import prepare_images
from taskloom.deploy import Bundle
from taskloom.errors import ConfigError, DataError
from taskloom.predict import PredictSettings, open_source, predict_faces
from taskloom.predict.background import in_background
from taskloom.predict.faces import FaceFinder, crop_settings
from taskloom.predict.outputs import OverlayFolder, TableFile
from taskloom.predict.readings import Column

CPU = PredictSettings(device="cpu")


def moving(count: int) -> list[np.ndarray]:
    """Two faces, of which one comes in late, and nothing in the last quarter."""
    pictures = []
    for number in range(count):
        corners = [(10 + 2 * number, 20)] if number < 3 * count // 4 else []
        corners += [(90, 60)] if count // 4 <= number < 3 * count // 4 else []
        pictures.append(picture_with(*corners))
    return pictures


def network_by_hand(bundle: Bundle, image: np.ndarray) -> dict[str, torch.Tensor]:
    """Decoded predictions of one RGB image [size, size, 3], standardised by the formula."""
    mean, deviation = (np.array(STANDARDIZATION[key]) for key in ("mean", "deviation"))
    inputs = torch.tensor(((image / 255 - mean) / deviation).transpose(2, 0, 1)[None], dtype=torch.float32)
    return bundle.predict(inputs)


def test_a_photograph_is_predicted_from_the_very_pixels_that_a_store_holds(tmp_path: Path) -> None:
    """A real face (NASA, public domain), found by Haar's cascade with a margin."""
    data = pytest.importorskip("skimage.data")
    picture = np.ascontiguousarray(data.astronaut()[..., ::-1])
    cv2.imwrite(str(tmp_path / "astronaut.png"), picture)
    crop = CropSettings(SIZE, detector="haar", margin=0.3)
    store = prepare_images(["astronaut.png"], tmp_path, tmp_path / "store", crop)
    bundle = loaded(tmp_path, crop=store.about["crop"])
    expected = network_by_hand(bundle, store.images[0])
    source = open_source(str(tmp_path / "astronaut.png"))
    summary = predict_faces(bundle, source, table=tmp_path / "out.jsonl", settings=CPU)
    (row,) = json_rows(tmp_path / "out.jsonl")
    assert row["age"] == pytest.approx(float(expected["age"]), rel=1e-5)
    best = int(expected["mood"].argmax())
    assert row["mood"] == ("glad", "sad", "calm")[best]
    assert row["mood_confidence"] == pytest.approx(float(expected["mood"][0, best]), rel=1e-5)
    point = np.array([row["points_nose_x"], row["points_nose_y"], 1.0])
    np.testing.assert_allclose(
        store.transforms[0] @ point, expected["points"][0, 1].numpy(), rtol=1e-4, atol=1e-3
    )
    # the astronaut's face is about there
    assert 150 < row["x"] < 200 < row["x"] + row["width"] < 300
    assert "detector haar" in summary.how
    assert "margin 0.3" in summary.how
    assert summary.device == "cpu"


def test_a_real_face_is_followed_through_a_video_under_one_identity(tmp_path: Path) -> None:
    """The camera moves over the photograph and comes nearer; the box must follow the known motion."""
    data = pytest.importorskip("skimage.data")
    picture = np.ascontiguousarray(data.astronaut()[..., ::-1])
    maps = [
        np.array([[scale, 0, 160 - scale * (224 + 30 * np.sin(scale * 9))], [0, scale, 120 - scale * 130]])
        for scale in np.linspace(0.9, 1.3, 21)
    ]
    pictures = [np.asarray(cv2.warpAffine(picture, map_, (320, 240))) for map_ in maps]
    video = write_video(tmp_path / "clip.mp4", pictures)
    summary = predict_faces(
        loaded(tmp_path), open_source(str(video)), table=tmp_path / "out.jsonl", settings=CPU
    )
    rows = json_rows(tmp_path / "out.jsonl")
    assert [row["face"] for row in rows] == [1] * 21
    assert summary.identities == 1
    centre = np.array([223.5, 113.5, 1.0])  # of the face in the photograph, as Haar's cascade finds it
    for row, map_ in zip(rows, maps, strict=True):
        found = np.array([row["x"] + row["width"] / 2, row["y"] + row["height"] / 2])
        assert np.abs(found - map_ @ centre).max() < 0.25 * row["width"]
    assert len(read_video(video)) == 21


def test_images_without_a_detector_are_cut_as_a_store_without_one_cuts_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "a.png"), rng.integers(0, 256, (50, 40, 3)).astype(np.uint8))
    store = prepare_images(["a.png"], tmp_path, tmp_path / "store", SIZE)
    bundle = loaded(tmp_path)
    settings = PredictSettings(detector="none", device="cpu")
    source = open_source(str(tmp_path / "a.png"))
    predict_faces(bundle, source, table=tmp_path / "out.jsonl", settings=settings)
    (row,) = json_rows(tmp_path / "out.jsonl")
    assert row["age"] == pytest.approx(float(network_by_hand(bundle, store.images[0])["age"]), rel=1e-5)


def test_a_video_gives_a_row_per_frame_and_face_and_one_per_frame_without_faces(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", moving(16))
    settings = PredictSettings(device="cpu", detect_every=1, half_life=0, batch=3)
    summary = predict_faces(
        loaded(tmp_path),
        open_source(str(video)),
        table=tmp_path / "out.jsonl",
        settings=settings,
        finder=squares(),
    )
    rows = json_rows(tmp_path / "out.jsonl")
    faces = [[row["face"] for row in rows if row["frame"] == number] for number in range(16)]
    assert faces == [[1]] * 4 + [[1, 2]] * 8 + [[None]] * 4
    assert (summary.frames, summary.with_faces, summary.faces, summary.identities) == (16, 12, 20, 2)
    first = [row for row in rows if row["face"] == 1]
    assert [row["time"] for row in first] == [round(number / 25, 4) for number in range(12)]
    assert max(abs(row["x"] - (10 + 2 * row["frame"])) for row in first) <= 1
    assert all(row["age"] is None and row["x"] is None and row["problem"] is None for row in rows[-4:])


def test_predictions_of_a_video_do_not_depend_on_batch_and_smoothing_averages_them(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", moving(12))
    bundle = loaded(tmp_path)

    def ages(**settings: float) -> np.ndarray:
        given = {"device": "cpu", "detect_every": 2, "half_life": 0, **settings}
        predict_faces(
            bundle,
            open_source(str(video)),
            table=tmp_path / "out.jsonl",
            settings=PredictSettings(**given),  # type: ignore[arg-type]
            finder=squares(),
        )
        return np.array([row["age"] for row in json_rows(tmp_path / "out.jsonl") if row["face"] == 1])

    raw = ages(batch=1)
    np.testing.assert_allclose(ages(batch=7), raw, rtol=1e-5)
    smooth = ages(half_life=0.2)
    weights = 0.5 ** (np.subtract.outer(np.arange(len(raw)), np.arange(len(raw))) / 25 / 0.2)
    weights = np.tril(weights)
    np.testing.assert_allclose(smooth, weights @ raw / weights.sum(axis=1), rtol=1e-5)


def test_the_table_is_the_same_in_all_three_forms(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", moving(8))
    bundle = loaded(tmp_path)
    for name in ("t.csv", "t.parquet", "t.jsonl"):
        predict_faces(bundle, open_source(str(video)), table=tmp_path / name, settings=CPU, finder=squares())
    lines = json_rows(tmp_path / "t.jsonl")
    assert pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist() == lines
    with (tmp_path / "t.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == len(lines)
    for found, expected in zip(cells, lines, strict=True):
        texts = {
            name: "" if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell)
            for name, cell in expected.items()
        }
        assert found == texts
    metadata = pyarrow.parquet.read_schema(tmp_path / "t.parquet").metadata[b"taskloom"]
    assert b'"device": "cpu"' in metadata


def test_the_overlay_changes_pixels_around_faces_only_and_has_every_frame(tmp_path: Path) -> None:
    pictures = moving(8)
    video = write_video(tmp_path / "clip.avi", pictures)
    predict_faces(
        loaded(tmp_path),
        open_source(str(video)),
        overlay=tmp_path / "out.avi",
        settings=CPU,
        finder=squares(),
    )
    before, after = read_video(video), read_video(tmp_path / "out.avi")
    assert len(after) == len(before) == 8
    assert np.abs(after[-1].astype(int) - before[-1]).max() < 12  # no face: compressed once more, no more
    assert np.abs(after[0].astype(int) - before[0]).max() > 100
    assert cv2.VideoCapture(str(tmp_path / "out.avi")).get(cv2.CAP_PROP_FPS) == 25


def test_a_folder_gives_an_image_each_and_lists_what_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), picture_with((10, 40)))
    (folder / "b.jpg").write_bytes(b"\xff\xd8 not a picture")
    (folder / "c.jpg").write_bytes(b"")
    cv2.imwrite(str(folder / "d.png"), picture_with((10, 40), (80, 40)))
    (folder / "notes.txt").write_text("no image")
    summary = predict_faces(
        loaded(tmp_path),
        open_source(str(folder)),
        table=tmp_path / "out.jsonl",
        overlay=tmp_path / "drawn",
        settings=CPU,
        finder=squares(),
    )
    rows = json_rows(tmp_path / "out.jsonl")
    assert [(row["file"], row["face"]) for row in rows] == [
        ("a.png", 1),
        ("b.jpg", None),
        ("c.jpg", None),
        ("d.png", 1),
        ("d.png", 2),
    ]
    assert rows[1]["problem"] == "the file is cut off"
    assert rows[2]["problem"] == "the file is empty"
    assert [row["detected"] for row in rows[1:3]] == [False, False]  # nothing was searched
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a.png", "d.png"]
    assert summary.notes[-1].startswith(
        "2 of 4 images could not be read; the first, b.jpg: the file is cut off"
    )


def test_a_face_half_outside_the_frame_is_cut_with_the_edge_repeated_and_drawn(tmp_path: Path) -> None:
    picture = picture_with((-12, 30))
    cv2.imwrite(str(tmp_path / "a.png"), picture)

    class Outside:
        def detect(self, _: np.ndarray) -> list[Detection]:
            return [Detection((-12.0, 30.0, 24.0, 24.0), 1.0), Detection((400.0, 300.0, 20.0, 20.0), 1.0)]

    bundle = loaded(tmp_path, crop={"size": SIZE, "detector": "haar", "margin": 0.0, "align": False})
    predict_faces(
        bundle,
        open_source(str(tmp_path / "a.png")),
        table=tmp_path / "out.jsonl",
        overlay=tmp_path / "drawn.png",
        settings=CPU,
        finder=FaceFinder(Outside()),
    )
    half, gone = json_rows(tmp_path / "out.jsonl")
    # 24 pixels to 32: bilinear on a picture whose edge is repeated by hand
    padded = np.pad(picture, ((0, 0), (12, 0), (0, 0)), mode="edge")[30:54, :24, ::-1]
    large = cv2.resize(np.ascontiguousarray(padded), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    assert half["age"] == pytest.approx(float(network_by_hand(bundle, large)["age"]), abs=0.2)
    assert gone["age"] is None
    assert "lies outside the image" in gone["problem"]
    assert cv2.imread(str(tmp_path / "drawn.png")).shape == picture.shape


def test_detection_in_a_smaller_picture_gives_boxes_of_the_large_one(tmp_path: Path) -> None:
    picture = cv2.resize(picture_with((16, 32), (64, 8)), None, fx=10, fy=10, interpolation=cv2.INTER_NEAREST)
    boxes = [face.box for face in squares(side=128).find(picture)]
    np.testing.assert_allclose(boxes, [(160, 320, 240, 240), (640, 80, 240, 240)])
    assert [face.box[0] for face in squares(which="largest").find(picture_with((3, 3)))] == [3]


def test_a_bundle_is_settings_and_weights_and_reading_it_unpickles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image_bundle(tmp_path)
    assert sorted(file.name for file in path.iterdir()) == ["bundle.json", "weights.safetensors"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for module in (pickle, torch):
        monkeypatch.setattr(module, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    cv2.imwrite(str(tmp_path / "a.png"), picture_with((10, 40)))
    from taskloom.deploy import load_bundle

    bundle = load_bundle(path)
    assert bundle.tasks["mood"].class_names == ("glad", "sad", "calm")
    source = open_source(str(tmp_path / "a.png"))
    assert predict_faces(bundle, source, settings=CPU, finder=squares()).faces == 1


def test_frames_wait_in_bounded_number_and_the_source_is_closed() -> None:
    made, closed = [], threading.Event()

    def source():  # type: ignore[no-untyped-def]
        try:
            for number in range(1000):
                made.append(number)
                yield number
        finally:
            closed.set()

    ahead = in_background(source(), depth=3)
    for number in range(50):
        assert next(ahead) == number
        assert len(made) <= number + 1 + 3 + 2  # those waiting, one in each hand
    ahead.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert len(made) < 60


def test_an_error_on_the_way_is_raised_and_leaves_no_file(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", moving(8))
    bundle = loaded(tmp_path)

    class Broken(SquareDetector):
        def detect(self, picture: np.ndarray) -> list[Detection]:
            if self.calls == 1:
                raise DataError("the detector broke")
            return super().detect(picture)

    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(DataError, match="the detector broke"):
        predict_faces(
            bundle,
            open_source(str(video)),
            table=tmp_path / "out.parquet",
            overlay=tmp_path / "out.mp4",
            settings=CPU,
            finder=FaceFinder(Broken()),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["missing/out.csv", "file.txt/out.csv", "folder.csv"])
def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "folder.csv").mkdir()
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"cannot be written there|found a folder"):
        TableFile(tmp_path / name, [Column("a", "int")])
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_an_overlay_folder_that_is_there_already_is_refused(tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="an empty or new folder"):
        OverlayFolder(tmp_path / "drawn")


def test_tables_and_overlays_of_unknown_suffix_are_refused(tmp_path: Path) -> None:
    bundle = loaded(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), picture_with((10, 40)))
    video = write_video(tmp_path / "clip.avi", moving(4))
    with pytest.raises(ConfigError, match=r"--table: a file with one of the suffixes \.csv"):
        predict_faces(bundle, open_source(str(video)), table=tmp_path / "out.xlsx", settings=CPU)
    with pytest.raises(ConfigError, match=r"--overlay: a video with one of the suffixes \.mp4"):
        predict_faces(bundle, open_source(str(video)), overlay=tmp_path / "out.png", settings=CPU)
    with pytest.raises(ConfigError, match=r"--overlay: an image with one of the suffixes \.png"):
        predict_faces(
            bundle, open_source(str(tmp_path / "a.png")), overlay=tmp_path / "out.mp4", settings=CPU
        )


@pytest.mark.parametrize(
    ("crop", "given", "message"),
    [
        (None, {"detector": "harr"}, "Did you mean `haar`"),
        (None, {"detector": "yunet"}, "yunet needs its ONNX file"),
        (None, {"detector": "haar:x.xml"}, "haar takes no file"),
        ({"size": 32, "detector": "haar", "margin": 0.1, "align": True}, {}, "only a YuNet finds"),
        ({"size": 32, "detector": "yunet", "margin": 0.1, "align": True}, {}, "yunet needs its ONNX file"),
    ],
)
def test_a_detector_that_does_not_fit_is_refused(
    crop: dict[str, object] | None, given: dict[str, str], message: str
) -> None:
    preprocessing = {"size": 32} if crop is None else {"size": 32, "crop": crop}
    with pytest.raises(ConfigError, match=message):
        crop_settings(preprocessing, PredictSettings(**given))  # type: ignore[arg-type]


def test_the_detector_comes_from_the_bundle_and_what_differs_is_said() -> None:
    trained = {"size": 32, "crop": {"size": 32, "detector": "haar", "margin": 0.25, "align": False}}
    crop, notes = crop_settings(trained, PredictSettings())
    assert (crop.detector, crop.margin, notes) == ("haar", 0.25, [])
    _, notes = crop_settings(trained, PredictSettings(detector="dlib"))
    assert notes == ["the network was trained on faces that haar had found, here dlib finds them"]


@pytest.mark.parametrize(
    "setting", [{"choose": "best"}, {"device": "tpu"}, {"detect_every": 0}, {"batch": 0}, {"half_life": -1.0}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected, found"):
        PredictSettings(**setting)  # type: ignore[arg-type]


def test_heads_of_any_architecture_are_read(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture_with((10, 40)))
    tasks = (Regression("age"), Binary("gender"), Landmarks("points", 2, reference=1.0))
    bundle = loaded(tmp_path, tasks=tasks, way="single_task")
    source = open_source(str(tmp_path / "a.png"))
    predict_faces(bundle, source, table=tmp_path / "out.jsonl", settings=CPU, finder=squares())
    (row,) = json_rows(tmp_path / "out.jsonl")
    assert {"age", "gender", "gender_confidence", "points_0_x", "points_1_y"} <= set(row)
