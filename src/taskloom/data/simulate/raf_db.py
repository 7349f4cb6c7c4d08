"""RAF-DB-like folders of drawn faces with seven expressions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from taskloom.data.readers.raf_db import ALIGNED, EXPRESSIONS, LIST_FILE
from taskloom.data.simulate.action_units import draw_expressions
from taskloom.data.simulate.expressive import draw_person, draw_picture, showing, write_lines, write_picture
from taskloom.data.simulate.folder import write_images

SIZE = 100
_README = """Drawn faces in the files of RAF-DB, made by taskloom; no person is in them. Brows, eyes, nose and
mouth follow the action units of the expression, drawn by the shipped table of expressions and action units.
"""


def simulate_raf_db(folder: Path, *, images: int = 500, seed: int = 0, if_missing: bool = False) -> Path:
    """Writes drawn faces in the layout of RAF-DB; the same parameters give the same bytes.

    Four fifths are called train_00001 and on, the others test_0001 and on; every expression is as frequent as
    any other.

    Arguments and errors are those of `taskloom.data.simulate.folder.write_images`.
    """

    def write(place: Path) -> None:
        random = np.random.default_rng((seed, 6))
        lines = []
        num_train = 4 * images // 5
        for part, digits, number in (("train", 5, num_train), ("test", 4, images - num_train)):
            for position, expression in enumerate(draw_expressions(random, EXPRESSIONS, number)):
                traits = showing(random, draw_person(random), expression)
                picture, _ = draw_picture(random, traits, (SIZE, SIZE))
                name = f"{part}_{position + 1:0{digits}d}"
                write_picture(place / "Image" / "aligned" / f"{name}{ALIGNED}.jpg", picture)
                lines.append(f"{name}.jpg {EXPRESSIONS.index(expression) + 1}")
        write_lines(place / "EmoLabel" / LIST_FILE, lines)

    return write_images(folder, "raf_db", _README, write, images=images, seed=seed, if_missing=if_missing)
