"""Faces: an epoch over the store of crops beside decoding, cropping and resizing the JPEGs in every epoch.

    python benchmarks/faces.py [--images 2000] [--size 64] [--folder UTKFACE]

Prints one line of JSON: `store_vs_jpeg`, images per second of the store over those of decoding, best of three
taken in turn. Without a folder the images are drawn (200 x 200, as UTKFace has them).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or simulate_utkface(Path(place) / "faces", images=options.images)
        print(json.dumps(store_vs_jpeg(folder, options.size)))


if __name__ == "__main__":
    main()
