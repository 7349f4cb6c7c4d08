"""Faces that a detector finds are cut like the ready-cut images that a bundle was trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from _predict import SIZE, image_bundle, write_video
from taskloom.cli import app
from taskloom.data.face_crop import CropSettings, squared
from taskloom.data.face_detectors import make_detector
from taskloom.data.face_framing import Framing, framing_of
from taskloom.data.image_store import ImageStore
from taskloom.deploy import Bundle, load_bundle
from taskloom.predict import PredictSettings, open_source, predict_faces
from taskloom.predict.faces import USUAL_MARGIN, crop_settings
from taskloom.predict.prepared import prepared_as
from taskloom.serve.predictors import ImagePredictor

FRAMING = Framing(0.95, 0.01, 0.09, 100, 128)
READY: dict[str, Any] = {"reader": "images", "size": 32}


def notes_of(
    framing: Framing | None, crop: dict[str, Any] | None = None, **asked: Any
) -> tuple[Any, list[str]]:
    known = READY if crop is None else {**READY, "crop": crop}
    plain = None if framing is None else framing.to_dict()
    return crop_settings(known, PredictSettings(**asked), plain)


@pytest.mark.parametrize("detector", [None, "haar", "yunet:somewhere.onnx"])
def test_what_a_detector_finds_is_framed_as_the_training_images(detector: str | None) -> None:
    crop, (note,) = notes_of(FRAMING, detector=detector)
    assert (crop.framing, crop.margin) == (FRAMING, 0.0)
    assert "as 100 of 128 of them lie around their faces" in note


@pytest.mark.parametrize(
    ("framing", "asked", "margin"),
    [
        (None, {}, USUAL_MARGIN),  # an older bundle, or no images of faces
        (FRAMING, {"margin": 0.3}, 0.3),  # the user knows better
        (FRAMING, {"detector": "dlib"}, USUAL_MARGIN),  # whose boxes nobody compared with Haar's
    ],
)
def test_a_margin_counts_where_there_is_no_framing_to_go_by(
    framing: Framing | None, asked: dict[str, Any], margin: float
) -> None:
    crop, (note,) = notes_of(framing, **asked)
    assert (crop.framing, crop.margin) == (None, margin)
    assert "(--margin" in note


def test_faces_that_a_detector_had_cut_and_aligned_ones_keep_their_own_way() -> None:
    found = {"size": 32, "detector": "haar", "choose": "largest", "margin": 0.2, "align": False}
    crop, notes = notes_of(FRAMING, found)
    assert (crop.framing, crop.margin, notes) == (None, 0.2, [])
    aligned = {"size": 32, "margin": 0.25, "align": True}  # by the points of its own table
    crop, notes = notes_of(FRAMING, aligned, detector="yunet:somewhere.onnx")
    assert (crop.framing, crop.margin, crop.align, notes) == (None, 0.25, True, [])


def test_of_several_data_sets_each_has_its_framing() -> None:
    sets = {"a": READY, "b": READY}
    about = {"framing": {"sets": {"b": FRAMING.to_dict()}}}
    bundle = Bundle(None, None, {"reader": "combined", "sets": sets}, about, {}, {})  # type: ignore[arg-type]
    assert prepared_as(bundle, "a").about["framing"] is None
    assert prepared_as(bundle, "b").about["framing"] == FRAMING.to_dict()


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def photograph(tmp_path: Path) -> np.ndarray:
    """A real face (NASA, public domain), BGR; in `photos` with its table."""
    data = pytest.importorskip("skimage.data")
    picture = np.ascontiguousarray(data.astronaut()[..., ::-1])
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "astronaut.png"), picture)
    (tmp_path / "photos" / "people.csv").write_text("file_name,gender\nastronaut.png,female\n")
    return picture


def test_a_store_like_a_bundle_holds_what_predict_shows_the_network(
    tmp_path: Path, photograph: np.ndarray
) -> None:
    bundle = image_bundle(tmp_path)
    described = json.loads((bundle / "bundle.json").read_text())
    described["about"]["framing"] = FRAMING.to_dict()
    (bundle / "bundle.json").write_text(json.dumps(described))
    place = tmp_path / "store"
    arguments = ("prepare", "images", str(tmp_path / "photos"), str(place), "--like", str(bundle))
    told = call(*arguments, "--set", "table=people.csv", "--set", "images=.")
    assert f"1 face of {SIZE} x {SIZE}" in told
    assert "as 100 of 128 of them lie around their faces" in " ".join(told.split())
    assert "none; as a network's training images, 0.95 of Haar's square wide" in call("inspect", str(place))
    store = ImageStore.open(place)
    assert store.about["crop"]["framing"] == FRAMING.to_dict()
    face = max(make_detector("haar").detect(photograph), key=lambda found: found.box[2])
    expected = squared(photograph, FRAMING.box(face), CropSettings(SIZE, detector="haar")).image
    np.testing.assert_array_equal(store.images[0], expected)
    # The same of a video, whose frames come through a codec.
    (tmp_path / "films").mkdir()
    write_video(tmp_path / "films" / "ann.mp4", [photograph] * 2)
    call("prepare", "video", str(tmp_path / "films"), str(tmp_path / "frames"), "--like", str(bundle))
    frame = ImageStore.open(tmp_path / "frames").images[0].astype(float)
    otherwise = squared(photograph, face.box, CropSettings(SIZE, detector="haar", margin=USUAL_MARGIN)).image
    assert np.abs(frame - expected).mean() < 0.5 * np.abs(frame - otherwise).mean()
    refused = CliRunner().invoke(app, ["prepare", "study.yaml", "--like", str(bundle)])
    assert refused.exit_code == 2
    assert "READER DIR STORE expected with DIR or --like" in " ".join(refused.output.split())


def test_predict_and_serve_cut_faces_as_the_bundle_says(tmp_path: Path, photograph: np.ndarray) -> None:
    plain = load_bundle(image_bundle(tmp_path))
    bundle = replace(plain, about={**plain.about, "framing": FRAMING.to_dict()})
    settings = PredictSettings(device="cpu")
    assert ImagePredictor(bundle, settings).crop.framing == FRAMING
    found = {}
    for name, one in (("plain", plain), ("framed", bundle)):
        source, place = open_source(str(tmp_path / "photos" / "astronaut.png")), tmp_path / f"{name}.csv"
        done = predict_faces(one, source, table=place, settings=settings)
        assert any("as 100 of 128 of them" in note for note in done.notes) == (name == "framed")
        found[name] = pd.read_csv(place).age.tolist()
    (face,) = (each for each in make_detector("haar").detect(photograph) if each.box[2] > 60)
    image = squared(photograph, FRAMING.box(face), CropSettings(SIZE, detector="haar")).image
    cv2.imwrite(str(tmp_path / "cut.png"), image[..., ::-1])
    whole = PredictSettings(device="cpu", detector="none")
    predict_faces(plain, open_source(str(tmp_path / "cut.png")), table=tmp_path / "cut.csv", settings=whole)
    expected = pd.read_csv(tmp_path / "cut.csv").age[0]
    assert min(abs(age - expected) for age in found["framed"]) < 1e-3
    assert min(abs(age - expected) for age in found["plain"]) > 1e-3


def test_mistakes_of_prepare_like_are_told_in_its_own_words(tmp_path: Path, photograph: np.ndarray) -> None:
    place = image_bundle(tmp_path)
    described = json.loads((place / "bundle.json").read_text())
    del described["sha256"]

    def told(about: dict[str, Any], preprocessing: dict[str, Any], *asked: str) -> str:
        changed = described | {"about": about, "preprocessing": preprocessing}
        (place / "bundle.json").write_text(json.dumps(changed))
        arguments = ("prepare", "images", str(tmp_path / "photos"), str(tmp_path / "store"))
        given = ("--like", str(place), "--set", "table=people.csv", "--set", "images=.", *asked)
        return " ".join(CliRunner().invoke(app, [*arguments, *given]).output.split())

    ready = described["preprocessing"]
    found = {**ready, "crop": {"size": SIZE, "detector": "yunet", "margin": 0.1, "align": False}}
    assert "needs its ONNX file: `--detector yunet --detector-model PATH`" in told({}, found)
    assert "/nowhere.onnx cannot be read" in told({}, found, "--detector-model", "/nowhere.onnx")
    framed = {"framing": FRAMING.to_dict()}
    assert "nothing says how the boxes of rows lie to that" in told(framed, ready, "--choose", "box")
    several = {"reader": "combined", "sets": {"a": ready, "b": ready}}
    by_set = {"framing": {"sets": {"b": FRAMING.to_dict()}}}
    assert "say with --prepared-as NAME" in told(by_set, several)
    assert "as 100 of 128 of them" in told(by_set, several, "--prepared-as", "b")
    assert "as 100 of 128 of them" not in told(by_set, several, "--prepared-as", "a")
    alone = CliRunner().invoke(app, ["prepare", "images", "photos", "store", "--prepared-as", "b"])
    assert "goes with `--like BUNDLE` only" in " ".join(alone.output.split())


def test_train_writes_how_its_ready_cut_images_lie_around_their_faces(
    tmp_path: Path, photograph: np.ndarray
) -> None:
    folder = tmp_path / "ready"
    folder.mkdir()
    rows = ["file_name,tilt,split"]
    for number, part in enumerate(["train"] * 24 + ["validation"] * 3 + ["test"] * 3):
        shift = 1.5 * (number % 5)
        scale = 32 / (128 + shift)
        map_ = np.array([[scale, 0, -(158 - shift) * scale], [0, scale, -58 * scale]])
        cv2.imwrite(str(folder / f"{number}.png"), cv2.warpAffine(photograph, map_, (32, 32)))
        rows.append(f"{number}.png,{shift + number / 100},{part}")
    (folder / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "study.yaml").write_text(
        "data: {table: labels.csv, images: ., size: 32}\ntasks: {tilt: {kind: regression}}\n"
        "split: {by: column, column: split}\nencoder: {name: vgg5}\n"
        "training: {epochs: 1, batch: 6}\nrepeats: 1\ncells: [{hard_sharing: {stages: 5}}]\n"
    )
    place = tmp_path / "tilt.bundle"
    call(
        "train",
        *(str(tmp_path / "study.yaml"), "--data", str(folder), "--cell", "tilt alone", "--out", str(place)),
    )
    images = [cv2.imread(str(folder / f"{number}.png"))[..., ::-1] for number in range(24)]
    expected = framing_of(np.stack(images))
    assert expected is not None
    assert load_bundle(place).about["framing"] == expected.to_dict()
