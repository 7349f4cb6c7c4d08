"""EmotioNet-like lists of drawn faces with action units."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from taskloom.data.readers.emotionet import IMAGES_FOLDER, MISSING
from taskloom.data.simulate.action_units import UNITS, draw_expressions
from taskloom.data.simulate.expressive import (
    EXPRESSIONS,
    draw_person,
    draw_picture,
    showing,
    write_lines,
    write_picture,
)
from taskloom.data.simulate.folder import write_images

SIZE = 100
LAST_UNIT = 60
TABLE_FILE = "EmotioNet_FACS.csv"

_HOLES = 0.15
_GONE = 50
_README = """Drawn faces in the files of EmotioNet, made by taskloom; no person is in them. Seventeen of the
60 columns of action units are annotated, the others are 999 throughout. The units of a face follow an
expression that stands nowhere in the files, by the shipped table of expressions and action units.
"""


def simulate_emotionet(folder: Path, *, images: int = 500, seed: int = 0, if_missing: bool = False) -> Path:
    """Writes drawn faces in the layout of EmotioNet; the same parameters give the same bytes.

    15 % of the annotations of every unit are 999. Every fiftieth image of the list is not there, as the
    addresses of the real list go out of date.

    Arguments and errors are those of `taskloom.data.simulate.folder.write_images`.
    """

    def write(place: Path) -> None:
        random = np.random.default_rng((seed, 8))
        lines = [",".join(["URL", *(f"AU {unit}" for unit in range(1, LAST_UNIT + 1))])]
        for number, expression in enumerate(draw_expressions(random, EXPRESSIONS, images), start=1):
            traits = showing(random, draw_person(random), expression)
            picture, _ = draw_picture(random, traits, (SIZE, SIZE))
            name = f"N_{number:010d}.jpg"
            if number % _GONE:
                write_picture(place / IMAGES_FOLDER / name, picture)
            hidden = random.random(LAST_UNIT) < _HOLES
            codes = [
                MISSING if unit not in UNITS or hidden[unit - 1] else int(unit in (traits.units or ()))
                for unit in range(1, LAST_UNIT + 1)
            ]
            lines.append(",".join([f"http://images.example.org/{name}", *map(str, codes)]))
        write_lines(place / TABLE_FILE, lines)

    return write_images(folder, "emotionet", _README, write, images=images, seed=seed, if_missing=if_missing)
