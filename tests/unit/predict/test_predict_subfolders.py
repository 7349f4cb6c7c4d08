"""A folder of images with subfolders: none of its images is lost in silence."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from _predict import json_rows, loaded, picture_with, squares
from taskloom.errors import ConfigError
from taskloom.predict import PredictSettings, open_source, predict_faces
from taskloom.predict.frames import check_drawn_outside


def test_images_of_subfolders_are_predicted_and_drawn_under_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["b.png", "Ada/1.png", "Ada/old/1.png", "Alan/1.jpg"]
    left = ["photos.predicted/b.png", ".thumbnails/b.png", "._b.png"]
    for name in [*names, *left]:
        place = tmp_path / "photos" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), picture_with((10, 40)))
    predict_faces(
        loaded(tmp_path),
        open_source("photos"),
        table=Path("out.jsonl"),
        overlay=Path("drawn"),
        settings=PredictSettings(device="cpu"),
        finder=squares(),
    )
    rows = json_rows(Path("out.jsonl"))
    assert [row["file"] for row in rows] == sorted(names)
    assert [row["frame"] for row in rows] == [0, 1, 2, 3]
    # the same picture in two places has the same predictions
    assert rows[0]["age"] == rows[1]["age"] == rows[3]["age"]
    drawn = sorted(path.relative_to("drawn").as_posix() for path in Path("drawn").rglob("*.*"))
    assert drawn == sorted(names)


def test_drawn_images_among_those_of_the_source_are_refused(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "b.png"), picture_with((10, 40)))
    for place in (photos / "drawn", photos / "a" / "drawn"):
        with pytest.raises(
            ConfigError, match=r"drawn: drawn images below the source .* ends in `\.predicted`"
        ):
            check_drawn_outside(str(photos), place)
    for source, place in (
        (photos, tmp_path / "photos.predicted"),
        (photos, photos / "x.predicted"),
        (photos / "b.png", photos / "b.predicted.png"),
    ):
        check_drawn_outside(str(source), place)
