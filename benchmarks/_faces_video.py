"""Faces in videos: one shared model beside three, and memory by length; see `faces.py`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from taskloom import Binary, Multiclass, Regression, TaskSet, encoders, sharing
from taskloom.data.face_detectors import make_detector
from taskloom.data.simulate.faces import Traits, background, draw_face, draw_traits
from taskloom.deploy import load_bundle, save_bundle
from taskloom.predict import PredictSettings, Summary, open_source, predict_faces
from taskloom.training.devices import PeakMemory

TASKS = (Regression("age", unit="years"), Binary("gender", ("male", "female")), Multiclass("ethnicity", 5))
SETTINGS = PredictSettings(device="cpu")


def drawn_video(path: Path, frames: int, width: int, height: int, faces: int) -> Path:
    """Faces that drift over a still background; motion JPEG, 25 frames a second."""
    random = np.random.default_rng(1)
    still = background(random, height, width)
    radius = 0.3 * min(height, width / faces)
    centres = [(position + 0.5) * width / faces for position in range(faces)]
    traits = [found_traits(random, still, (centre, height / 2), radius) for centre in centres]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (width, height))
    for number in range(frames):
        picture = still.copy()
        for position, person in enumerate(traits):
            x = centres[position] + 0.1 * radius * np.sin(number / 17 + position)
            draw_face(picture, person, (float(x), height / 2), radius)
        writer.write(picture)
    writer.release()
    return path


def found_traits(
    random: np.random.Generator, still: NDArray[np.uint8], centre: tuple[float, float], radius: float
) -> Traits:
    """Traits of a drawn face that Haar's cascade, which was made for photographs, finds."""
    detector = make_detector("haar")
    while True:
        picture, traits = still.copy(), draw_traits(random)
        draw_face(picture, traits, centre, radius)
        if len(detector.detect(picture)) == 1:
            return traits


def bundle_of(folder: Path, name: str, tasks: TaskSet, encoder: dict[str, Any], size: int, way: str) -> Path:
    """A bundle with weights as they were drawn: speed does not depend on them."""
    settings = dict(encoder)
    built = encoders.build(settings.pop("name"), (3, size, size), **settings)
    shared = {"stages": len(built.stages)} if way == "hard_sharing" else {}
    return save_bundle(
        folder / name,
        sharing.build(way, built, tasks, **shared),
        input_shape=(3, size, size),
        encoder=encoder,
        sharing={"name": way, **shared},
        preprocessing={
            "reader": "images",
            "size": size,
            "standardization": {"mean": [0.5] * 3, "deviation": [0.25] * 3},
        },
    )


def timed(bundle: Path, video: Path, folder: Path) -> tuple[float, Summary]:
    """Seconds from the file to table and overlay, and what was done."""
    loaded, source = load_bundle(bundle), open_source(str(video))
    start = time.perf_counter()
    summary = predict_faces(
        loaded, source, table=folder / "t.csv", overlay=folder / "o.avi", settings=SETTINGS
    )
    return time.perf_counter() - start, summary


def shared_vs_three(encoder: dict[str, Any], *, frames: int, faces: int, size: int = 64) -> dict[str, Any]:
    """Frames per second of one shared model over three single-task models, from file to overlay.

    `shared_vs_three` detects once for all three models too (they stand in one bundle); `shared_vs_three_runs`
    runs the command three times, once with each model.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        video = drawn_video(folder / "clip.avi", frames, 640, 480, faces)
        whole = TaskSet(*TASKS)
        shared = bundle_of(folder, "shared", whole, encoder, size, "hard_sharing")
        three = bundle_of(folder, "three", whole, encoder, size, "single_task")
        alone = [bundle_of(folder, task.name, TaskSet(task), encoder, size, "single_task") for task in TASKS]
        timed(shared, video, folder)  # warm
        rounds = []
        for _ in range(2):
            one, summary = timed(shared, video, folder)
            rounds.append(
                (one, timed(three, video, folder)[0], sum(timed(b, video, folder)[0] for b in alone))
            )
        one, once, runs = (min(column) for column in zip(*rounds, strict=True))
    work = sum(summary.seconds.values())
    return {
        "encoder": encoder["name"],
        "faces_per_frame": round(summary.faces / summary.frames, 2),
        "frames_per_second": round(frames / one, 1),
        "shares": {step: round(seconds / work, 3) for step, seconds in summary.seconds.items()},
        "shared_vs_three": round(once / one, 2),
        "shared_vs_three_runs": round(runs / one, 2),
    }


def video_memory(few: int, many: int) -> dict[str, float]:
    """Peak memory of a process that predicts `many` frames over that of one that predicts `few`."""
    peaks = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for frames in (few, many):
            video = drawn_video(folder / f"{frames}.avi", frames, 160, 120, 1)
            called = subprocess.run(
                [sys.executable, __file__, str(video), place], check=True, capture_output=True, text=True
            )
            peaks.append(json.loads(called.stdout.splitlines()[-1]))
    return {
        "peak_mb": [round(peak["mb"]) for peak in peaks],  # type: ignore[dict-item]
        "frames": [peak["frames"] for peak in peaks],  # type: ignore[dict-item]
        "video_memory_10k_vs_1k": round(peaks[1]["mb"] / peaks[0]["mb"], 3),
    }


def _alone(video: Path, folder: Path) -> None:
    """Predicts a video in this process and prints its peak memory."""
    memory = PeakMemory(torch.device("cpu"))  # ru_maxrss would begin with that of the parent
    bundle = bundle_of(folder, f"b{video.stem}", TaskSet(*TASKS), {"name": "vgg5"}, 32, "hard_sharing")
    _, summary = timed(bundle, video, folder)
    print(json.dumps({"mb": memory.bytes() / 2**20, "frames": summary.frames, "faces": summary.faces}))


if __name__ == "__main__":
    _alone(Path(sys.argv[1]), Path(sys.argv[2]))
