"""What tests of predictions share: small bundles of images, a detector of white squares, drawn videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from taskloom import Binary, Landmarks, Multiclass, Multilabel, Regression, Task, TaskSet, encoders, sharing
from taskloom.data.face_detectors import Detection
from taskloom.deploy import Bundle, load_bundle, save_bundle
from taskloom.predict.faces import FaceFinder

SIZE = 32
STANDARDIZATION = {"mean": [0.5, 0.4, 0.3], "deviation": [0.2, 0.25, 0.3]}
TASKS = (
    Regression("age", unit="years", center=40.0, scale=10.0),
    Binary("gender", ("male", "female")),
    Multiclass("mood", ("glad", "sad", "calm")),
    Multilabel("wears", ("hat", "scarf")),
    Landmarks("points", ("eye", "nose"), reference=10.0, center=16.0, scale=4.0),
)


class SquareDetector:
    """Finds bright squares: a detector that is exact."""

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, picture: NDArray[np.uint8]) -> list[Detection]:
        self.calls += 1
        bright = (picture.min(axis=2) > 200).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(bright)
        return [Detection(tuple(map(float, stats[part][:4])), 1.0) for part in range(1, count)]  # type: ignore[arg-type]


def squares(side: int = 4000, which: str = "all") -> FaceFinder:
    return FaceFinder(SquareDetector(), side, which)


def picture_with(
    *corners: tuple[int, int], side: int = 24, shape: tuple[int, int] = (96, 128)
) -> NDArray[np.uint8]:
    """A dark picture [H, W, 3] with bright squares at corners (x, y)."""
    picture = np.full((*shape, 3), 30, np.uint8)
    for x, y in corners:
        picture[max(0, y) : y + side, max(0, x) : x + side] = 250
    return picture


def image_bundle(
    folder: Path, tasks: Sequence[Task] = TASKS, crop: dict[str, Any] | None = None, way: str = "hard_sharing"
) -> Path:
    """A bundle of images with weights that were drawn, in a new folder."""
    torch.manual_seed(0)
    task_set = TaskSet(*tasks)
    settings: dict[str, Any] = {"stages": 5} if way == "hard_sharing" else {}
    model = sharing.build(way, encoders.build("vgg5", (3, SIZE, SIZE)), task_set, **settings)
    preprocessing: dict[str, Any] = {"reader": "images", "size": SIZE, "standardization": STANDARDIZATION}
    if crop is not None:
        preprocessing["crop"] = crop
    return save_bundle(
        folder / "faces.bundle",
        model,
        input_shape=(3, SIZE, SIZE),
        encoder={"name": "vgg5"},
        sharing={"name": way, **settings},
        preprocessing=preprocessing,
    )


def loaded(folder: Path, **settings: Any) -> Bundle:
    return load_bundle(image_bundle(folder, **settings))


def write_video(path: Path, pictures: Sequence[NDArray[np.uint8]], rate: float = 25.0) -> Path:
    code = "MJPG" if path.suffix == ".avi" else "mp4v"
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), rate, (width, height))
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


def read_video(path: Path) -> list[NDArray[np.uint8]]:
    capture, pictures = cv2.VideoCapture(str(path)), []
    while True:
        found, picture = capture.read()
        if not found:
            return pictures
        pictures.append(picture)


def json_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
