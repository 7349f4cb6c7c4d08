"""MTFL-like photographs with a drawn face somewhere in them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from taskloom.data.readers.mtfl import FILES
from taskloom.data.simulate.faces import background, draw_face, draw_traits
from taskloom.data.simulate.folder import write_images

_FOLDERS = ("lfw_5590", "net_7876")
_README = """Drawn faces in the files of MTFL (training.txt, testing.txt), made by taskloom; no person is in
them. The mouth shows the smile, glasses are drawn, long hair is gender 2, and pose moves eyes, nose and mouth
sideways.
"""


def simulate_mtfl(folder: Path, *, images: int = 500, seed: int = 0, if_missing: bool = False) -> Path:
    """Writes drawn faces in the layout of MTFL; the same parameters give the same bytes.

    Photographs have 150 to 300 pixels a side; a face of 30 to 70 pixels radius stands anywhere in them. Three
    quarters are in training.txt, whose lines begin with a space, as some of the real ones do.

    Arguments and errors are those of `taskloom.data.simulate.folder.write_images`.
    """

    def write(place: Path) -> None:
        for name in _FOLDERS:
            (place / name).mkdir()
        random = np.random.default_rng((seed, 5))
        lines: dict[str, list[str]] = {part: [] for part in FILES}
        for number in range(images):
            traits = draw_traits(random, poses=True)
            height, width = random.integers(150, 301, 2).tolist()
            radius = float(random.uniform(30, 70))
            x, y = (float(random.uniform(radius, side - radius)) for side in (width, height))
            picture = background(random, height, width)
            points = draw_face(picture, traits, (x, y), radius)
            name = f"{number:05d}.jpg"
            inside = _FOLDERS[number % len(_FOLDERS)]
            cv2.imwrite(str(place / inside / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
            codes = [1 + traits.female, 2 - traits.smiles, 2 - traits.glasses, traits.pose + 3]
            numbers = [f"{value:.1f}" for value in points.T.ravel()] + [str(code) for code in codes]
            part, start = ("train", " ") if 4 * number < 3 * images else ("test", "")
            lines[part].append(start + " ".join([f"{inside}\\{name}", *numbers]))
        for part, name in FILES.items():
            (place / name).write_text("\n".join(lines[part]) + "\n", encoding="utf-8")

    return write_images(folder, "mtfl", _README, write, images=images, seed=seed, if_missing=if_missing)
