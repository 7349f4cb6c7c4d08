"""A camera played by a script ends by Ctrl-C and keeps what it gave; a stopped video leaves nothing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import taskloom.predict.frames as module
from _predict import json_rows, loaded, picture_with, read_video, squares, write_video
from taskloom.predict import PredictSettings, open_source, predict_faces

SETTINGS = PredictSettings(device="cpu", detect_every=2)


class ScriptedCamera:
    """What OpenCV gives for a camera without end."""

    made: list[ScriptedCamera] = []  # noqa: RUF012  # the test looks at what was made

    def __init__(self, _: int) -> None:
        self.released, self.number = False, 0
        self.made.append(self)

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        return 0.0  # cameras often do not say their rate

    def read(self) -> tuple[bool, np.ndarray]:
        assert not self.released
        self.number += 1
        return True, picture_with((20 + self.number % 5, 20))

    def release(self) -> None:
        self.released = True


def stop_after(frames: int):  # type: ignore[no-untyped-def]
    def report(done: int, _: int | None) -> None:
        if done >= frames:
            raise KeyboardInterrupt

    return report


def test_ctrl_c_ends_a_camera_and_keeps_what_it_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = loaded(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(module.cv2, "VideoCapture", ScriptedCamera)
        summary = predict_faces(
            bundle,
            open_source("7"),
            table=tmp_path / "out.jsonl",
            overlay=tmp_path / "out.avi",
            settings=SETTINGS,
            finder=squares(),
            report=stop_after(9),
        )
    rows = json_rows(tmp_path / "out.jsonl")
    assert (summary.stopped, summary.frames) == (True, 9)
    assert [(row["frame"], row["file"], row["face"]) for row in rows] == [
        (n, "camera 7", 1) for n in range(9)
    ]
    assert len(read_video(tmp_path / "out.avi")) == 9
    assert ScriptedCamera.made[-1].released
    assert any("does not say its frames per second; 25 are assumed" in note for note in summary.notes)


def test_a_camera_ends_after_the_frames_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = loaded(tmp_path)
    monkeypatch.setattr(module.cv2, "VideoCapture", ScriptedCamera)
    source = open_source("7", most_frames=5)
    assert predict_faces(bundle, source, settings=SETTINGS, finder=squares()).frames == 5


def test_ctrl_c_in_a_video_leaves_nothing(tmp_path: Path) -> None:
    bundle = loaded(tmp_path)
    video = write_video(tmp_path / "clip.avi", [picture_with((20, 20)) for _ in range(80)])
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        predict_faces(
            bundle,
            open_source(str(video)),
            table=tmp_path / "out.csv",
            overlay=tmp_path / "out.mp4",
            settings=SETTINGS,
            finder=squares(),
            report=stop_after(1),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert cv2.VideoCapture(str(video)).isOpened()
