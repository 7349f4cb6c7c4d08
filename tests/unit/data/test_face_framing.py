"""How ready-cut images lie around their faces: measured on cuts of a photograph that are known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from taskloom import Binary, Labels, TaskSet
from taskloom.data.combined import CombinedDataset
from taskloom.data.face_crop import CropSettings, cut_detection, squared
from taskloom.data.face_detectors import Detection, make_detector
from taskloom.data.face_framing import Framing, framing_of
from taskloom.data.framing_found import framing_found
from taskloom.data.image_store import ImageDataset, ImageStandardization, prepare_images
from taskloom.data.relabelled import Relabelled
from taskloom.errors import DataError

CENTRE = np.array([222.0, 122.0])
"""Of the cuts of `portraits`, in pixels of the photograph."""


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    """A real face in its surroundings (NASA, public domain), BGR."""
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut()[..., ::-1])


def portraits(
    photograph: NDArray[np.uint8], number: int, side: float = 130.0, spread: float = 1.0
) -> NDArray[np.uint8]:
    """RGB cuts around the face, a little moved and sized anew, evenly around `CENTRE` and the side."""
    draw = np.random.default_rng(0)
    made = []
    for _ in range(number):
        own = side * spread ** draw.uniform(-1, 1) * draw.uniform(0.98, 1.02)
        left, top = CENTRE + draw.uniform(-2, 2, 2) - own / 2
        scale = 48 / own
        cut = cv2.warpAffine(
            photograph, np.array([[scale, 0, -left * scale], [0, scale, -top * scale]]), (48, 48)
        )
        made.append(cv2.cvtColor(cut, cv2.COLOR_BGR2RGB))
    return np.stack(made).astype(np.uint8)


@pytest.mark.parametrize("side", [95.0, 170.0])
def test_a_face_in_its_surroundings_is_cut_as_ready_cut_images_were(
    photograph: NDArray[np.uint8], side: float
) -> None:
    """The photograph's face, found whole, must be cut where the portraits were cut."""
    framing = framing_of(portraits(photograph, 24, side))
    assert framing is not None
    assert framing.images == 24
    assert framing.found >= 20
    (face,) = (found for found in make_detector("haar").detect(photograph) if found.box[2] > 60)
    left, top, width, height = framing.box(face)
    assert width == height
    assert width == pytest.approx(side, rel=0.11)  # the cascade searches in sizes 1.1 apart
    assert np.abs(np.array([left, top]) + width / 2 - CENTRE).max() < 0.07 * side


def test_images_without_faces_or_not_cut_alike_have_no_framing(
    photograph: NDArray[np.uint8],
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (24, 48, 48, 3), dtype=np.uint8)
    assert framing_of(noise) is None
    assert framing_of(portraits(photograph, 19)) is None
    assert framing_of(portraits(photograph, 24, spread=3)) is None
    mixed = np.concatenate([portraits(photograph, 24), noise])
    assert framing_of(mixed) is not None
    assert framing_of(mixed, np.arange(24, 48)) is None  # of the rows that count


def test_points_of_a_yunet_stand_for_haars_square() -> None:
    """With eyes at (0, 0) and the mouth 10 below: a square of 26.3 around (0, 3.2), turned with the face."""
    same = Framing(1.0, 0.0, 0.0, 20, 20)
    upright = np.array([[-5.0, 0], [5, 0], [0, 5], [-4, 10], [4, 10]])
    np.testing.assert_allclose(same.box(Detection((0, 0, 1, 1), 1.0, upright)), (-13.15, -9.95, 26.3, 26.3))
    lying = upright[:, ::-1] * [1, -1]
    np.testing.assert_allclose(same.box(Detection((0, 0, 1, 1), 1.0, lying)), (-9.95, -13.15, 26.3, 26.3))
    moved = Framing(0.5, 0.1, -0.2, 20, 20).box(Detection((10, 20, 40, 40), 1.0))
    np.testing.assert_allclose(moved, (30 + 4 - 10, 40 - 8 - 10, 20, 20))


@pytest.mark.parametrize("spot", [0.0, 0.4, np.nan])
def test_points_on_one_spot_are_a_face_left_out_and_say_why(spot: float) -> None:
    points = np.full((5, 2), 50.0) + spot * np.arange(5)[:, None] / 5
    face = Detection((40.0, 40.0, 20.0, 20.0), 1.0, points)
    settings = CropSettings(32, detector="haar", framing=Framing(1.0, 0.0, 0.0, 20, 20))
    with pytest.raises(DataError, match="points of eyes and mouth lie on one spot"):
        cut_detection(np.zeros((100, 100, 3), np.uint8), face, settings)


def test_a_cut_by_a_framing_is_the_square_without_a_margin(photograph: NDArray[np.uint8]) -> None:
    framing = Framing(0.9, 0.02, 0.1, 20, 20)
    face = Detection((180.0, 70.0, 90.0, 90.0), 1.0)
    cut = cut_detection(photograph, face, CropSettings(32, detector="haar", margin=0.7, framing=framing))
    expected = squared(photograph, framing.box(face), CropSettings(32, detector="haar"))
    np.testing.assert_array_equal(cut.image, expected.image)
    assert Framing.from_dict(framing.to_dict()) == framing
    told = CropSettings(32, detector="haar", framing=framing).to_dict()
    assert told["framing"]["down"] == 0.1
    assert told != CropSettings(32, detector="haar").to_dict()


def dataset(folder: Path, images: NDArray[np.uint8], crop: CropSettings) -> ImageDataset:
    """The images, written out losslessly and read as a store of 48 x 48."""
    folder.mkdir()
    names = [f"{number}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    store = prepare_images(names, folder, folder / "store", crop)
    tasks, number = TaskSet(Binary("smile", ("no", "yes"))), len(store.images)
    labels = Labels({"smile": torch.zeros(number).long()}, {"smile": torch.ones(number).bool()})
    plain = ImageStandardization((0.0,) * 3, (1.0,) * 3)
    return ImageDataset(store, np.arange(number), tasks, labels, plain)


def test_what_a_bundle_says_of_its_training_images(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    faces = portraits(photograph, 24)
    ready = dataset(tmp_path / "ready", faces, CropSettings(48))
    framing = framing_of(faces)
    assert framing is not None
    assert framing_found(ready) == framing.to_dict()
    changed = Relabelled(ready, ready.labels)
    assert framing_found(changed) == framing.to_dict()
    ready.store.about["crop"]["align"] = True  # by points of its own table
    assert framing_found(ready) is None
    ready.store.about["crop"]["align"] = False
    joined = CombinedDataset({"a": ready}, ready.tasks)
    assert framing_found(joined) == {"sets": {"a": framing.to_dict()}}
    whole = np.stack([cv2.resize(cv2.cvtColor(photograph, cv2.COLOR_BGR2RGB), (256, 256))] * 24)
    detected = dataset(tmp_path / "detected", whole, CropSettings(48, detector="haar"))
    assert len(detected.store.images) == 24
    assert framing_found(detected) is None  # the detector's box says how they are cut


@pytest.mark.parametrize(
    "changed", [{"side": "wide"}, {"side": 0.0}, {"down": None}, {"right": float("nan")}, {"found": []}]
)
def test_a_framing_that_was_edited_by_hand_is_refused(changed: dict[str, object]) -> None:
    plain = {**Framing(0.95, 0.0, 0.1, 20, 20).to_dict(), **changed}
    with pytest.raises(DataError, match=r"about\.framing of the bundle: finite numbers side, right, down"):
        Framing.from_dict(plain)
