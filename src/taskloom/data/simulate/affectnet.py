"""AffectNet-like lists of drawn faces: box, 68 landmarks, expression, valence and arousal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskloom.data.readers.affectnet import COLUMNS, EXPRESSIONS, FILES, NO_VALUE
from taskloom.data.simulate.action_units import draw_expressions, draw_valence_arousal
from taskloom.data.simulate.expressive import draw_person, draw_picture, showing, write_lines, write_picture
from taskloom.data.simulate.folder import write_images

IMAGES_FOLDER = "Manually_Annotated_Images"

_NO_BASIC = 0.1
_FOLDERS = 4
_README = """Drawn faces in the files of AffectNet, made by taskloom; no person is in them. Brows, eyes, nose
and mouth follow the action units of the expression; a tenth of the faces has the codes 8 to 10 (no basic
expression) and neither valence nor arousal. Eyes and nose of the 68 landmarks lie where they are drawn, the
mouth near it, the others on outlines.
"""


def simulate_affectnet(folder: Path, *, images: int = 500, seed: int = 0, if_missing: bool = False) -> Path:
    """Writes drawn faces in the layout of AffectNet; the same parameters give the same bytes.

    Photographs have 110 to 160 pixels a side; a face of 30 to 45 pixels radius stands anywhere in them. Four
    fifths are in training.csv, the others in validation.csv.

    Arguments and errors are those of `taskloom.data.simulate.folder.write_images`.
    """

    def write(place: Path) -> None:
        random = np.random.default_rng((seed, 7))
        num_train = 4 * images // 5
        number = 0
        for name, count in ((FILES["train"], num_train), (FILES["test"], images - num_train)):
            lines = [",".join(COLUMNS)]
            for expression in draw_expressions(random, EXPRESSIONS, count):
                number += 1
                file = f"{number % _FOLDERS + 1}/{number:08x}.jpg"
                lines.append(_write_face(random, place / IMAGES_FOLDER, file, expression))
            write_lines(place / name, lines)

    return write_images(folder, "affectnet", _README, write, images=images, seed=seed, if_missing=if_missing)


def _write_face(random: np.random.Generator, folder: Path, file: str, expression: str) -> str:
    """Writes one photograph; returns its line of the list."""
    code: int = EXPRESSIONS.index(expression)
    valence, arousal = draw_valence_arousal(random, expression)
    traits = showing(random, draw_person(random), expression)
    if random.random() < _NO_BASIC:
        code = int(random.integers(8, 11))
        valence = arousal = float(NO_VALUE)
    height, width = random.integers(110, 161, 2).tolist()
    radius = float(random.uniform(30, 45))
    x, y = (float(random.uniform(1.1 * radius, side - 1.1 * radius)) for side in (width, height))
    picture, five = draw_picture(random, traits, (height, width), radius=radius, centre=(x, y))
    write_picture(folder / file, picture)
    box = [round(x - radius), round(y - radius), round(2 * radius), round(2 * radius)]
    points = ";".join(f"{value:.2f}" for value in _sixty_eight(five, (x, y), radius).ravel())
    return ",".join(map(str, [file, *box, points, code, valence, arousal]))


def _sixty_eight(
    five: NDArray[np.float64], centre: tuple[float, float], radius: float
) -> NDArray[np.float64]:
    """Jaw, brows, nose, eyes and mouth around the five points, [68, 2] in the usual order."""
    middle = np.array(centre)
    jaw = middle + radius * _arc(0.72, 0.9, 180, 0, 17) + (0, 0.1 * radius)
    eyes = [eye + radius * _arc(0.11, 0.08, 180, 540, 7)[:6] for eye in five[:2]]
    brows = [
        eye + radius * np.stack([np.linspace(-0.16, 0.16, 5), np.full(5, -0.2)], axis=1) for eye in five[:2]
    ]
    bridge = five[2] + radius * np.stack([np.zeros(4), np.linspace(-0.27, 0.0, 4)], axis=1)
    nostrils = five[2] + radius * np.stack([np.linspace(-0.09, 0.09, 5), np.full(5, 0.06)], axis=1)
    wide, lips = np.linalg.norm(five[4] - five[3]) / 2, (five[3] + five[4]) / 2
    outer = lips + np.stack([1.0, 0.5]) * wide * _arc(1.0, 1.0, 180, 540, 13)[:12]
    inner = lips + np.stack([0.8, 0.2]) * wide * _arc(1.0, 1.0, 180, 540, 9)[:8]
    return np.concatenate([jaw, *brows, bridge, nostrils, *eyes, outer, inner])


def _arc(width: float, height: float, start: float, stop: float, number: int) -> NDArray[np.float64]:
    """Points of an ellipse about 0, 0 between two angles in degrees; positive y is down."""
    angle = np.deg2rad(np.linspace(start, stop, number))
    return np.stack([width * np.cos(angle), height * np.sin(angle)], axis=1)
