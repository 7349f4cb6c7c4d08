"""CelebA-like folders of drawn faces: 40 attributes, identities, landmarks, the official partition."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from taskloom.data.readers.celeba import (
    ATTRIBUTES_FILE,
    IDENTITY_FILE,
    IMAGES_FOLDER,
    LANDMARKS_FILE,
    PARTITION_FILE,
)
from taskloom.data.simulate.faces import Traits, background, draw_face, draw_traits
from taskloom.data.simulate.folder import write_images

WIDTH, HEIGHT = 178, 218
ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)
"""The 40 attributes in the order of the file."""
DRAWN = ("Eyeglasses", "Gray_Hair", "Male", "Pale_Skin", "Smiling", "Young")
"""Those that can be read off the picture; the others are drawn by lot, with a share of their own."""

_YOUNG_BELOW = 40
_PER_PERSON = 4
_README = """Drawn faces in the files of CelebA, made by taskloom; no person is in them. Eyeglasses,
Gray_Hair, Male, Pale_Skin, Smiling and Young can be read off the picture; the others are drawn by lot.
"""


def simulate_celeba(folder: Path, *, images: int = 500, seed: int = 0, if_missing: bool = False) -> Path:
    """Writes drawn faces in the layout of CelebA; the same parameters give the same bytes.

    Four images in a row show one person: age, gender and skin stay, smile and glasses change. The first 70 %
    of the people are train, then 15 % each validation and test.

    Arguments and errors are those of `taskloom.data.simulate.folder.write_images`.
    """

    def write(place: Path) -> None:
        (place / IMAGES_FOLDER).mkdir()
        random = np.random.default_rng((seed, 4))
        shares = random.uniform(0.2, 0.8, len(ATTRIBUTES))
        names = [f"{number + 1:06d}.jpg" for number in range(images)]
        attributes, landmarks = [], []
        person = draw_traits(random)
        for number, name in enumerate(names):
            if number % _PER_PERSON == 0:
                person = draw_traits(random)
            other = draw_traits(random)
            traits = Traits(
                person.age, person.female, person.race, other.smiles, other.glasses, 0, person.tone
            )
            picture = background(random, HEIGHT, WIDTH)
            x, y = random.normal((WIDTH / 2, HEIGHT / 2), 3)
            points = draw_face(picture, traits, (float(x), float(y)), WIDTH * 0.42)
            cv2.imwrite(str(place / IMAGES_FOLDER / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
            landmarks.append(
                f"{name} " + " ".join(str(value) for value in np.rint(points).astype(int).ravel())
            )
            lots = dict(zip(ATTRIBUTES, random.random(len(ATTRIBUTES)) < shares, strict=True)) | seen(traits)
            attributes.append(f"{name} " + " ".join(f"{1 if lots[one] else -1:2d}" for one in ATTRIBUTES))
        people = [number // _PER_PERSON for number in range(images)]
        cuts = 0.7 * (people[-1] + 1), 0.85 * (people[-1] + 1)
        parts = [sum(one >= cut for cut in cuts) for one in people]
        axes = " ".join(f"{point}_{axis}" for point in _POINT_NAMES for axis in "xy")
        _lines(place / ATTRIBUTES_FILE, [str(images), " ".join(ATTRIBUTES), *attributes])
        _lines(place / LANDMARKS_FILE, [str(images), axes, *landmarks])
        _lines(place / PARTITION_FILE, [f"{name} {part}" for name, part in zip(names, parts, strict=True)])
        _lines(place / IDENTITY_FILE, [f"{name} {one + 1}" for name, one in zip(names, people, strict=True)])

    return write_images(folder, "celeba", _README, write, images=images, seed=seed, if_missing=if_missing)


_POINT_NAMES = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")


def seen(traits: Traits) -> dict[str, bool]:
    """The attributes that can be read off a picture."""
    return {
        "Eyeglasses": traits.glasses,
        "Gray_Hair": traits.age >= 55,
        "Male": not traits.female,
        "Pale_Skin": traits.race == 0,
        "Smiling": traits.smiles,
        "Young": traits.age < _YOUNG_BELOW,
    }


def _lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
