"""Cutting faces: geometry against other routes, detectors, and pictures that are not what they should be."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from taskloom.data.face_crop import (
    ALIGNED_POINTS,
    CropSettings,
    FaceCutter,
    choose,
    similarity,
    squared,
    warped,
)
from taskloom.data.face_detectors import DETECTORS, Detection, _from_yunet, make_detector
from taskloom.data.image_decode import decode
from taskloom.errors import ConfigError, DataError

IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_similarity_is_the_least_squares_solution() -> None:
    rng = np.random.default_rng(1)
    points, target = rng.normal(size=(5, 2)) * 20, rng.normal(size=(5, 2)) * 20
    # u = a x - b y + c, v = b x + a y + d
    rows = [[x, -y, 1, 0] for x, y in points] + [[y, x, 0, 1] for x, y in points]
    a, b, c, d = np.linalg.lstsq(np.array(rows), target.T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(similarity(points, target), [[a, -b, c], [b, a, d]], atol=1e-9)


def test_shrinking_by_a_whole_factor_averages_blocks() -> None:
    picture = noise(24, 24)
    transform = np.array([[1 / 3, 0, -1 / 3], [0, 1 / 3, -1 / 3]])  # 3 x 3 pixels become one
    expected = picture[..., ::-1].reshape(8, 3, 8, 3, 3).mean(axis=(1, 3))
    assert np.abs(warped(picture, transform, 8) - expected).max() <= 1


def test_a_square_with_a_margin_is_copied_pixel_by_pixel_and_repeats_the_edge_outside() -> None:
    picture = noise(10, 12)
    # A box half outside on the left; with a margin of 1/4 on each side it is a square of 12 pixels.
    face = squared(picture, (-4.0, 2.0, 8.0, 6.0), CropSettings(12, margin=0.25))
    left, top = -6, -1
    for row in range(12):
        for column in range(12):
            y, x = min(max(row + top, 0), 9), min(max(column + left, 0), 11)
            assert (face.image[row, column] == picture[y, x, ::-1]).all()
    np.testing.assert_allclose(face.transform @ [left, top, 1], [0, 0], atol=1e-12)


def test_aligned_points_come_out_where_they_should() -> None:
    # A face of dots, turned by 30 degrees, twice as large, moved.
    angle = np.deg2rad(30)
    turn = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = ALIGNED_POINTS @ turn.T + [160, 40]
    picture = np.zeros((400, 400, 3), np.uint8)
    for x, y in points:
        cv2.circle(picture, (round(x), round(y)), 8, (255, 255, 255), -1)
    face = FaceCutter(CropSettings(112, align=True)).cut(picture, None, points)[0]
    np.testing.assert_allclose(
        points @ face.transform[:, :2].T + face.transform[:, 2], ALIGNED_POINTS, atol=1e-9
    )
    for x, y in ALIGNED_POINTS:
        patch = face.image[round(y) - 8 : round(y) + 9, round(x) - 8 : round(x) + 9, 0].astype(float)
        ys, xs = np.mgrid[-8:9, -8:9]
        assert abs((patch * xs).sum() / patch.sum()) < 1
        assert abs((patch * ys).sum() / patch.sum()) < 1
    smaller = FaceCutter(CropSettings(56, align=True, margin=0.5)).cut(picture, None, points)[0]
    # Half the pixels and twice the view: a quarter of the scale, around the same centre.
    found = points @ smaller.transform[:, :2].T + smaller.transform[:, 2]
    np.testing.assert_allclose((found + 0.5) / 56 - 0.5, ((ALIGNED_POINTS + 0.5) / 112 - 0.5) / 2, atol=1e-9)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (None, "five points to align by are missing"),
        (np.full((5, 2), np.nan), "five points to align by are missing"),
        (ALIGNED_POINTS[:3], "five points to align by are missing"),
        (ALIGNED_POINTS + 5000, "outside the picture"),
        (np.full((5, 2), 7.0), "on one spot"),
    ],
)
def test_points_that_cannot_be_aligned_by_are_refused(points: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        FaceCutter(CropSettings(8, align=True)).cut(noise(50, 50), None, points)


def test_a_box_outside_the_picture_is_refused_with_and_without_a_margin() -> None:
    for settings in (CropSettings(8), CropSettings(8, margin=0.1)):
        with pytest.raises(DataError, match=r"the box \[60, 0, 5, 5\] lies outside the image of 50 x 40"):
            FaceCutter(settings).cut(noise(40, 50), (60, 0, 5, 5))


class Planted:
    """Finds what a test planted."""

    def __init__(self, *boxes: Any) -> None:
        self.found = [Detection(box, 1.0) for box in boxes]

    def detect(self, picture: NDArray[np.uint8]) -> list[Detection]:
        return self.found


def cutter(settings: CropSettings, *boxes: Any) -> FaceCutter:
    found = FaceCutter(settings)
    found.detector = Planted(*boxes)
    return found


def corner(transform: NDArray[np.float64]) -> list[float]:
    """Where in the picture the upper left pixel of the image is."""
    return np.linalg.solve(transform[:, :2], -transform[:, 2]).round(9).tolist()  # type: ignore[no-any-return]


def test_the_largest_face_all_faces_or_the_given_box() -> None:
    picture, boxes = noise(60, 80), ((40.0, 0.0, 10.0, 10.0), (0.0, 20.0, 20.0, 20.0))
    largest = cutter(CropSettings(20, "haar"), *boxes).cut(picture)
    assert [corner(face.transform) for face in largest] == [[0, 20]]
    every = cutter(CropSettings(10, "haar", choose="all"), *boxes).cut(picture)
    assert [face.image.shape for face in every] == [(10, 10, 3)] * 2
    assert corner(every[1].transform) == [40, 0]
    given = cutter(CropSettings(10, "haar", choose="box"), *boxes)
    assert corner(given.cut(picture, (30.0, 30.0, 10.0, 10.0))[0].transform) == [30, 30]
    assert corner(given.cut(picture)[0].transform)[0] == pytest.approx(
        0.5
    )  # the largest, where no box is given
    with pytest.raises(DataError, match="no face found"):
        cutter(CropSettings(10, "haar")).cut(picture)
    assert choose([], "largest") == choose([], "all") == []


def test_the_cascade_finds_the_face_of_a_photograph() -> None:
    data = pytest.importorskip("skimage.data")
    photograph = np.ascontiguousarray(data.astronaut()[..., ::-1])
    found = choose(make_detector("haar").detect(photograph), "largest")[0]
    x, y, width, height = found.box
    assert x < 205 < x + width  # between the eyes, as anyone can see
    assert x < 245 < x + width
    assert y < 115 < y + height
    assert 60 < width < 200
    large = cv2.resize(photograph, None, fx=3, fy=3)
    again = choose(make_detector("haar").detect(np.asarray(large, np.uint8)), "largest")[0]
    centre = np.array([x + width / 2, y + height / 2])
    other = np.array([again.box[0] + again.box[2] / 2, again.box[1] + again.box[3] / 2]) / 3
    assert (
        np.abs(centre - other).max() < 15
    )  # boxes are in pixels of the picture, however it was made smaller


def test_points_of_yunet_are_in_our_order_and_scale() -> None:
    row = np.arange(15.0)
    found = _from_yunet(row, 0.5)
    assert found.box == (0, 2, 4, 6)
    assert found.score == 14
    assert found.points is not None
    # 4, 5 is the person's right eye, which is on the left of the picture.
    assert found.points.tolist() == [[2 * a + 0.5, 2 * (a + 1) + 0.5] for a in range(4, 14, 2)]


def test_detectors_that_cannot_be_built_are_mistakes_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.detector: one of .* found `har`. Did you mean `haar`"):
        CropSettings(8, "har")
    with pytest.raises(ConfigError, match="which `detector: yunet` needs"):
        CropSettings(8, "yunet")
    with pytest.raises(ConfigError, match="no other detector takes"):
        CropSettings(8, "haar", "a.onnx")
    with pytest.raises(ConfigError, match="the ONNX file of a YuNet expected"):
        make_detector("yunet", str(tmp_path / "none.onnx"))
    (tmp_path / "a.onnx").write_text("not a network")
    with pytest.raises(ConfigError, match="is no YuNet network"):
        make_detector("yunet", str(tmp_path / "a.onnx"))
    with pytest.raises(ConfigError, match="cannot be read"):
        CropSettings(8, "yunet", str(tmp_path / "none.onnx")).to_dict()
    try:
        import dlib  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="dlib is not installed"):
            make_detector("dlib")
    assert list(DETECTORS) == ["dlib", "haar", "yunet"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 0}, "data.size"),
        ({"size": True}, "data.size"),
        ({"margin": "wide"}, "data.margin"),
        ({"margin": -0.5}, "data.margin"),
        ({"choose": "bigest"}, "data.choose"),
        ({"align": 1}, "data.align"),
    ],
)
def test_settings_out_of_range_are_named(changes: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CropSettings(**{"size": 8, **changes})


# -- pictures that are not what they should be


def encoded(picture: NDArray[Any], suffix: str) -> bytes:
    ok, data = cv2.imencode(suffix, picture)
    assert ok
    return bytes(data.tobytes())


def pillow(picture: NDArray[np.uint8], mode: str, **options: Any) -> bytes:
    image = pytest.importorskip("PIL.Image").fromarray(picture[..., ::-1]).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def test_cut_off_empty_and_foreign_files_are_refused() -> None:
    whole = encoded(noise(64, 64), ".jpg")
    assert decode(whole).shape == (64, 64, 3)
    with pytest.raises(DataError, match="cut off"):
        decode(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="the file is empty"):
        decode(b"")
    with pytest.raises(DataError, match="not a readable image"):
        decode(b"portrait of a lady")
    for length in range(2, 40):  # a header that ends anywhere
        with pytest.raises(DataError):
            decode(whole[:length])


def test_grey_16_bit_and_cmyk_pictures_become_three_channels_of_8_bit() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    assert (decode(encoded(grey, ".png")) == grey[..., None]).all()
    assert (decode(encoded(grey.astype(np.uint16) * 257, ".png")) == grey[..., None]).all()
    smooth = np.repeat(np.array([[[200, 60, 20]]], np.uint8), 64, axis=0).repeat(64, axis=1)
    cmyk = decode(pillow(smooth, "CMYK", format="JPEG", quality=95))
    assert cmyk.shape == (64, 64, 3)
    assert np.abs(cmyk.astype(int) - smooth).max() < 40


def test_of_an_animation_the_first_picture_counts() -> None:
    image = pytest.importorskip("PIL.Image")
    frames = [image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (40, 200)]
    for kind in ("WEBP", "PNG", "GIF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, format=kind, save_all=True, append_images=frames[1:], duration=100)
        assert np.abs(decode(buffer.getvalue()).astype(int) - 40).max() <= 4, kind


def test_a_picture_of_one_pixel_is_a_picture() -> None:
    picture = decode(encoded(np.full((1, 1, 3), 9, np.uint8), ".png"))
    for settings in (CropSettings(4), CropSettings(4, margin=0.2)):
        assert (FaceCutter(settings).cut(picture)[0].image == 9).all()
    with pytest.raises(DataError, match="no face found"):
        FaceCutter(CropSettings(4, "haar")).cut(picture)


def test_a_yunet_is_asked_for_plain_faces_and_its_stores_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV's own score of 0.9 leaves out a fifth of plain faces."""
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *given: asked.append(given))
    model = tmp_path / "yunet.onnx"
    model.write_bytes(b"weights")
    make_detector("yunet", str(model))
    assert asked == [(str(model), "", (320, 320), 0.6)]
    assert CropSettings(8, "yunet", str(model)).to_dict()["detector_score"] == 0.6
    assert "detector_score" not in CropSettings(8, "haar").to_dict()
