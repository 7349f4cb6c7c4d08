"""Videos with damage in the middle, turned ones, ones of uneven times; sources that are none."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from _predict import loaded, picture_with, read_video, squares, write_video
from taskloom.errors import DataError
from taskloom.predict import PredictSettings, open_source, predict_faces
from taskloom.predict.frames import DAMAGED, Video

FRAMES = 60
_PLAIN = PredictSettings(device="cpu", half_life=0.0, detect_every=1)


def damaged(folder: Path, suffix: str) -> Path:
    """A video of a face that moves by a pixel a frame, with noise in the middle of its file."""
    pictures = [picture_with((10 + number, 20)) for number in range(FRAMES)]
    path = write_video(folder / f"clip{suffix}", pictures)
    content = bytearray(path.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8).tobytes()
    start = len(content) // 2
    content[start : start + len(noise)] = noise
    path.write_bytes(content)
    return path


def plainly_read(path: Path) -> list[bool]:
    """Which frames OpenCV gives, one call after the other."""
    capture = cv2.VideoCapture(str(path))
    given = [bool(capture.read()[0]) for _ in range(FRAMES)]
    capture.release()
    return given


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_what_follows_a_damaged_frame_is_predicted(tmp_path: Path, suffix: str) -> None:
    path = damaged(tmp_path, suffix)
    given = plainly_read(path)
    last = max(place for place, found in enumerate(given) if found) + 1
    if all(given[:last]):
        pytest.skip("this FFmpeg conceals the damage")
    source, bundle = open_source(str(path)), loaded(tmp_path)
    table, overlay = tmp_path / "out.parquet", tmp_path / "out.mp4"
    done = predict_faces(bundle, source, table=table, overlay=overlay, settings=_PLAIN, finder=squares())
    rows = pd.read_parquet(table)
    assert (rows.groupby("frame").problem.first() == DAMAGED).tolist() == [
        not found for found in given[:last]
    ]
    assert rows.time.is_monotonic_increasing
    np.testing.assert_allclose(np.diff(rows.groupby("frame").time.first()), 0.04, atol=1e-3)
    lost = given[:last].count(False)
    assert any(note.startswith(f"{path}: {lost} frame") and "damaged" in note for note in done.notes)
    assert len(read_video(overlay)) == last  # as long as the source
    if suffix == ".avi":  # every frame stands for itself: the last has its own face
        after = rows[(rows.frame == last - 1) & rows.face.notna()]
        assert abs(float(after.x.iloc[0]) - (10 + last - 1)) <= 2


def test_a_video_that_is_cut_off_still_ends(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", [picture_with((10, 20))] * FRAMES)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_source(str(path))
    frames = list(source.frames())
    assert 5 < len(frames) < FRAMES
    assert all(frame.picture is not None for frame in frames)


def test_frames_that_were_asked_for_count_damaged_ones(tmp_path: Path) -> None:
    path = damaged(tmp_path, ".avi")
    given = plainly_read(path)
    first = given.index(False)
    if not any(given[first:]):
        pytest.skip("this FFmpeg conceals the damage")
    for most in (first, first + 1, first + 2):
        frames = list(open_source(str(path), most_frames=most).frames())
        assert [frame.number for frame in frames] == list(range(most))
        assert [frame.picture is None for frame in frames] == [number == first for number in range(most)]


class _Uneven:
    """A capture of four frames, of which the third cannot be read, at uneven times (in ms)."""

    def __init__(self) -> None:
        self.frames = iter([(True, 100.0), (True, 130.0), (False, 0.0), (True, 250.0), (False, 0.0)])
        self.now = 0.0

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_FRAME_COUNT: 5.0, cv2.CAP_PROP_FPS: 20.0, cv2.CAP_PROP_POS_MSEC: self.now}[what]

    def read(self) -> tuple[bool, np.ndarray | None]:
        found, self.now = next(self.frames, (False, 0.0))
        return found, np.zeros((4, 4, 3), np.uint8) if found else None

    def release(self) -> None:
        pass


def test_times_are_the_frames_own_and_a_damaged_one_lies_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskloom.predict.frames._capture", lambda _: _Uneven())
    source = Video("clip", Path("clip.mp4"), None)
    found = [(frame.number, frame.time, frame.picture is None) for frame in source.frames()]
    assert [(number, lost) for number, _, lost in found] == [(0, False), (1, False), (2, True), (3, False)]
    np.testing.assert_allclose([time for _, time, _ in found], [0.0, 0.03, 0.09, 0.15])


def test_a_video_that_says_it_is_turned_is_read_upright(tmp_path: Path) -> None:
    picture = np.full((96, 128, 3), 30, np.uint8)
    picture[:20] = 250  # bright above
    path = write_video(tmp_path / "clip.mp4", [picture] * 4)
    content = bytearray(path.read_bytes())
    matrix = content.find(b"tkhd") + 4 + 4 + 20 + 8 + 8
    upright = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 0x40000000)
    assert bytes(content[matrix : matrix + 36]) == upright
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(content)
    (frame, *_) = open_source(str(path)).frames()
    assert frame.picture is not None
    assert frame.picture.shape == (128, 96, 3)
    assert frame.picture[:, -15:].mean() > 200  # turned clockwise: above is right
    assert frame.picture[:, :60].mean() < 60


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("²", "found no such file"),
        ("99999999999999999999", "camera 99999999999999999999: the number of a camera, or a file, expected"),
        ("/dev/null", "found a pipe or device, which cannot be read twice; write what it gives to a file"),
    ],
)
def test_names_that_are_no_source(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(name)


def test_a_pipe_is_said_to_be_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clip.mp4")
    with pytest.raises(DataError, match="found a pipe"):
        open_source(str(tmp_path / "clip.mp4"))
