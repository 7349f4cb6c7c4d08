"""UTKFace-like folders of drawn faces, and the files of its CORAL split."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from taskloom.data.readers.utkface import CORAL_FIRST_AGE
from taskloom.data.simulate.faces import background, draw_face, draw_traits
from taskloom.data.simulate.folder import check_numbers, write_simulation
from taskloom.errors import ConfigError

CORAL_LAST_AGE = 60
IMAGES_FOLDER = "UTKFace"

_README = """Drawn faces under the names of UTKFace ({age}_{gender}_{race}_{date}.jpg.chip.jpg), made by
taskloom; no person is in them. Hair turns grey and the forehead wrinkles with age, long hair is gender 1, the
tone of the skin is the race. utk_train.csv and utk_test.csv split the ages 21 to 60 as CORAL does.
"""


def simulate_utkface(
    folder: Path,
    *,
    images: int = 500,
    size: int = 200,
    lacking: int = 3,
    seed: int = 0,
    if_missing: bool = False,
) -> Path:
    """Writes drawn faces in the layout of UTKFace; the same parameters give the same bytes.

    Args:
        folder: Where they go: new or empty.
        images: How many.
        size: Height and width, in pixels.
        lacking: How many of the names lack the race.
        seed: Decides the faces.
        if_missing: Whether a folder of the same parameters is left as it is instead of being an error.

    Raises:
        ConfigError: A number out of range.
        DataError: The folder holds something else, or cannot be written.
    """
    check_numbers(images=images, size=size)
    if not 0 <= lacking <= images:
        raise ConfigError(f"lacking: 0 to {images} names expected, found {lacking}.")
    parameters = {
        "simulate": "utkface",
        "images": images,
        "size": size,
        "lacking": lacking,
        "seed": seed,
    }

    def write(place: Path) -> None:
        (place / IMAGES_FOLDER).mkdir()
        random = np.random.default_rng((seed, 3))
        coral: list[tuple[str, int]] = []
        for number in range(images):
            traits = draw_traits(random)
            picture = background(random, size, size)
            centre = size / 2 + random.normal(0, size / 60, 2)
            draw_face(picture, traits, (float(centre[0]), float(centre[1])), size * 0.4)
            fields = [traits.age, int(traits.female), traits.race, 20170100000000000 + number]
            if number < lacking:
                del fields[2]
            name = "_".join(map(str, fields)) + ".jpg.chip.jpg"
            cv2.imwrite(str(place / IMAGES_FOLDER / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
            if CORAL_FIRST_AGE <= traits.age <= CORAL_LAST_AGE:
                coral.append((name, traits.age - CORAL_FIRST_AGE))
        cut = len(coral) * 4 // 5
        for part, rows in (("train", coral[:cut]), ("test", coral[cut:])):
            lines = [",file,age", *(f"{row},{name},{age}" for row, (name, age) in enumerate(rows))]
            (place / f"utk_{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return write_simulation(folder, parameters, _README, write, if_missing=if_missing)
