"""Sources: what is no image, no video and no camera is refused in one sentence; odd images are read."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import taskloom.predict.frames as module
from _predict import picture_with, read_video, write_video
from taskloom.errors import DataError
from taskloom.predict import open_source


def pictures_of(path: Path) -> list[np.ndarray]:
    return [frame.picture for frame in open_source(str(path)).frames() if frame.picture is not None]


def jpeg(picture: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", picture)[1].tobytes())


def test_frames_of_a_video_are_all_its_frames_with_their_times(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", [picture_with((4 * n, 20)) for n in range(9)], rate=12.5)
    source = open_source(str(path))
    frames = list(source.frames())
    assert (source.kind, source.expected, source.rate_hz, source.notes) == ("video", 9, 12.5, [])
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(9) / 12.5, atol=1e-6)
    for frame, picture in zip(frames, read_video(path), strict=True):
        np.testing.assert_array_equal(frame.picture, picture)
    assert len(list(open_source(str(path), most_frames=4).frames())) == 4


def test_a_video_that_ends_early_gives_what_there_is_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", [picture_with((n, 20)) for n in range(40)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    source = open_source(str(path))
    count = len(list(source.frames()))
    assert 5 < count < 35
    (note,) = source.notes
    assert note.endswith(f"{count} could be read; it ends early, the rest is cut off or damaged.")


def test_a_video_that_lost_its_index_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [picture_with((n, 20)) for n in range(40)])
    path.write_bytes(path.read_bytes()[:2000])  # the index of an MP4 stands at its end
    with pytest.raises(DataError, match="it can open no video in this file, which is cut off"):
        open_source(str(path))


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48)).release()
    with pytest.raises(DataError, match=r"clip\.avi: (the video has no frame|.*can open no video)"):
        open_source(str(path))


def test_a_video_whose_first_frame_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hollow:
        def __init__(self, _: str) -> None: ...

        def isOpened(self) -> bool:
            return True

        def read(self) -> tuple[bool, None]:
            return False, None

        def release(self) -> None: ...

    monkeypatch.setattr(module.cv2, "VideoCapture", Hollow)
    (tmp_path / "clip.mp4").write_bytes(b"something")
    with pytest.raises(DataError, match=r"clip\.mp4: the video has no frame that can be read\.$"):
        open_source(str(tmp_path / "clip.mp4"))


def test_a_camera_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"camera 97: no such camera, or another program has it"):
        open_source("97")


@pytest.mark.parametrize("name", ["a.jpg", "a.mp4"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"{name}: the file is empty"):
        open_source(str(tmp_path / name))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an image, a folder of images, a video or the number of a camera"):
        open_source(str(tmp_path / "nothing.jpg"))
    with pytest.raises(DataError, match="a folder of images expected, found none"):
        open_source(str(tmp_path))


def test_a_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    data = jpeg(picture_with((10, 20)))
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.jpg: an image expected; the file is cut off\.$"):
        open_source(str(tmp_path / "a.jpg"))


def test_text_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(DataError, match=r"notes\.txt: an image, or a video that OpenCV can read, expected"):
        open_source(str(tmp_path / "notes.txt"))


def test_one_pixel_grey_deep_cmyk_and_animated_images_are_read_as_eight_bit_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "dot.png"), np.full((1, 1, 3), 9, np.uint8))
    cv2.imwrite(str(tmp_path / "grey.png"), colour[..., 0])
    cv2.imwrite(str(tmp_path / "deep.png"), colour.astype(np.uint16) * 257)
    rgb = Image.fromarray(np.full((20, 30, 3), (200, 40, 90), np.uint8))
    rgb.convert("CMYK").save(tmp_path / "ink.jpg", quality=95)
    rgb.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (30, 20))])
    assert pictures_of(tmp_path / "dot.png")[0].tolist() == [[[9, 9, 9]]]
    assert (pictures_of(tmp_path / "grey.png")[0] == colour[..., :1]).all()
    assert (pictures_of(tmp_path / "deep.png")[0] == colour).all()
    assert np.abs(pictures_of(tmp_path / "ink.jpg")[0].astype(int) - (90, 40, 200)).max() < 12
    (first,) = pictures_of(tmp_path / "moving.gif")
    assert np.abs(first.astype(int) - (90, 40, 200)).max() < 4


def test_an_image_is_turned_upright_by_its_exif_orientation(tmp_path: Path) -> None:
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:12, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(stored, "jpeg", exif=exif, quality=95)
    (tmp_path / "a.jpg").write_bytes(stored.getvalue())
    (found,) = pictures_of(tmp_path / "a.jpg")
    assert np.abs(found.astype(int) - upright).mean() < 3
