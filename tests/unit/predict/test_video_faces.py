"""Stores of faces from videos: which frames, which labels, which groups."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from taskloom.data.face_store import read_rows
from taskloom.errors import ConfigError, DataError
from taskloom.predict.video_faces import prepare_video


def video(path: Path, frames: int, brightness: int) -> None:
    """Frames of one colour, brighter by one step each ten frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), brightness + 2 * number, np.uint8))
    writer.release()


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    video(tmp_path / "videos" / "ann_1.avi", 21, 20)
    video(tmp_path / "videos" / "ann_2.avi", 10, 100)
    video(tmp_path / "videos" / "bob.avi", 5, 200)
    return tmp_path


WHOLE = {"detector": "none", "size": 8}


def test_every_nth_frame_is_labelled_by_its_person(videos: Path) -> None:
    (videos / "people.csv").write_text("person,age,gender\nann,31,female\nbob,,male\ncarl,50,male\n")
    table, store = prepare_video(
        videos / "videos", videos / "store", every=10, labels=videos / "people.csv", settings=WHOLE
    )
    kept = read_rows(videos / "store")
    assert kept.text("video").tolist() == ["ann_1.avi"] * 3 + ["ann_2.avi", "bob.avi"]
    assert kept.numbers("frame").tolist() == [0, 10, 20, 0, 0]
    np.testing.assert_allclose(kept.numbers("time"), [0, 0.4, 0.8, 0, 0], atol=1e-3)
    assert kept.text("person").tolist() == ["ann"] * 4 + ["bob"]
    assert kept.text("gender").tolist() == ["female"] * 4 + ["male"]
    np.testing.assert_array_equal(kept.numbers("age"), [31, 31, 31, 31, np.nan])
    assert kept.group == "person"
    brightness = np.asarray(store.images).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(brightness, [20, 40, 60, 100, 200], atol=4)
    assert any("1 row of" in note and "carl" in note for note in table.notes)
    assert not list(videos.glob(".store*"))


def test_progress_counts_every_frame_that_is_read(videos: Path) -> None:
    told: list[tuple[int, int | None]] = []
    prepare_video(
        videos / "videos",
        videos / "store",
        every=10,
        settings=WHOLE,
        cutting=lambda done, total: told.append((done, total)),
    )
    assert told == [(done, 36) for done in range(1, 37)]


def test_one_row_per_video_and_a_single_file(videos: Path) -> None:
    (videos / "films.csv").write_text("video,person,age\nann_1.avi,P7,31\n")
    prepare_video(
        videos / "videos" / "ann_1.avi", videos / "one", every=20, labels=videos / "films.csv", settings=WHOLE
    )
    kept = read_rows(videos / "one")
    assert kept.text("person").tolist() == ["P7", "P7"]
    assert kept.numbers("frame").tolist() == [0, 20]


def test_mistakes_are_named(videos: Path) -> None:
    with pytest.raises(ConfigError, match="--every: a whole number above 0 expected, found 0"):
        prepare_video(videos / "videos", videos / "s", every=0)
    with pytest.raises(DataError, match="a video file or a folder of videos expected"):
        prepare_video(videos / "nothing", videos / "s")
    (videos / "empty").mkdir()
    with pytest.raises(DataError, match="no video there"):
        prepare_video(videos / "empty", videos / "s")
    (videos / "t.csv").write_text("name,age\nann,3\n")
    with pytest.raises(DataError, match="a column `video` or `person` expected"):
        prepare_video(videos / "videos", videos / "s", labels=videos / "t.csv")
    (videos / "t.csv").write_text("person,age\nann,3\nann,4\n")
    with pytest.raises(DataError, match="`ann` stands in an earlier row too"):
        prepare_video(videos / "videos", videos / "s", labels=videos / "t.csv")
    (videos / "t.csv").write_text("person,age\nzoe,3\n")
    with pytest.raises(DataError, match="none of its rows names any of 3 videos"):
        prepare_video(videos / "videos", videos / "s", labels=videos / "t.csv")
