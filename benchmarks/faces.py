"""Faces: the store beside JPEGs, one shared model beside three on a video, memory by the length of a video.

    python benchmarks/faces.py [--images 2000] [--size 64] [--folder UTKFACE] [--frames 60] [--many 10000]

The last line is one JSON object:

- `store_vs_jpeg`: images per second of an epoch over the store of crops, over those of decoding, cropping and
  resizing the JPEGs; best of three taken in turn. Without a folder the images are drawn (200 x 200).
- `shared_vs_three`: frames per second from the video file to table and overlay (640 x 480, four drawn faces,
  ResNet-18 on faces of 64 pixels, detection in every 5th frame) of one network that shares all stages, over
  those of three networks behind the *same* detection. `shared_vs_three_runs`: over three runs of the command.
  `shares` is what each step works, of the shared model; detection, drawing and the network run beside each
  other on threads. `small` is the same for the five-block VGG of thesis 000 and one face, where detection and
  drawing leave little for sharing to save.
- `video_memory_10k_vs_1k`: peak memory of a process that predicts 10,000 frames over one that predicts 1,000.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from _faces_video import shared_vs_three, video_memory

from taskloom.data.batch import make_loader
from taskloom.data.readers.utkface import read_utkface
from taskloom.data.simulate import simulate_utkface
from taskloom.data.sources import load

BATCH = 64


def seconds(run: Callable[[], float]) -> float:
    """Wall time of one epoch."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def store_vs_jpeg(folder: Path, size: int, repeats: int = 3) -> dict[str, float]:
    """Images per second from the store and from JPEGs, and their ratio."""
    with tempfile.TemporaryDirectory() as stores:
        tasks = {"age": {"kind": "regression"}}
        data = load("utkface", {"size": size}, tasks, {"by": "rows"}, folder=folder, stores=Path(stores))
        loader = make_loader(data.train, BATCH, shuffle=True)
        table = read_utkface(folder)
        files = np.array(table.files, dtype=object)[data.train.rows]  # type: ignore[attr-defined]

        def stored() -> float:
            return sum(float(batch.inputs[0, 0, 0, 0]) for batch in loader)

        def decoded() -> float:
            total = 0.0
            for start in range(0, len(files), BATCH):
                pixels = [
                    cv2.resize(
                        cv2.imread(str(table.images / name)), (size, size), interpolation=cv2.INTER_AREA
                    )
                    for name in files[start : start + BATCH]
                ]
                batch = torch.from_numpy(np.stack(pixels)[..., ::-1].copy()).permute(0, 3, 1, 2).float()
                total += float(batch.mul_(1 / 127.5).sub_(1)[0, 0, 0, 0])
            return total

        times = [(seconds(stored), seconds(decoded)) for _ in range(repeats)]
    fast, slow = (len(files) / min(column) for column in zip(*times, strict=True))
    return {"store": round(fast), "jpeg": round(slow), "store_vs_jpeg": round(fast / slow, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--frames", type=int, default=60, help="of the video for shared_vs_three")
    parser.add_argument("--many", type=int, default=10_000, help="frames of the long video")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or simulate_utkface(Path(place) / "faces", images=options.images)
        result: dict[str, Any] = dict(store_vs_jpeg(folder, options.size))
    print(json.dumps(result), flush=True)
    large = shared_vs_three({"name": "resnet18"}, frames=options.frames, faces=4, size=options.size)
    small = shared_vs_three({"name": "vgg5"}, frames=options.frames, faces=1, size=options.size)
    print(json.dumps(large), json.dumps(small), sep="\n", flush=True)
    memory = video_memory(options.many // 10, options.many)
    print(json.dumps({**result, **large, "small": small, **memory}))


if __name__ == "__main__":
    main()
