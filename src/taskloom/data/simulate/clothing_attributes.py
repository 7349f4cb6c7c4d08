"""Clothing-Attributes-like folders of drawn clothes: 23 binary and 3 multiclass attributes with holes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskloom.data.readers.clothing_attributes import ENDING, LABELS_FOLDER, VARIABLE
from taskloom.data.simulate.expressive import write_picture
from taskloom.data.simulate.faces import SKIN, Pen, background
from taskloom.data.simulate.folder import write_images, write_mat

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (25, 25, 25),
    "blue": (200, 90, 30),
    "brown": (30, 65, 110),
    "cyan": (200, 200, 40),
    "gray": (130, 130, 130),
    "green": (50, 150, 40),
    "purple": (150, 40, 120),
    "red": (30, 30, 220),
    "white": (245, 245, 245),
    "yellow": (40, 220, 240),
}
"""Binary attributes of colour, BGR; `many_colors` is the one that is none of them."""
PATTERNS = ("floral", "graphics", "plaid", "solid", "spot", "stripe")
CATEGORIES = ("shirt", "sweater", "t-shirt", "outerwear", "suit", "tank top", "dress")
"""What the codes 1 to 7 of `category` are drawn as."""
OTHERS = ("collar", "gender", "necktie", "placket", "scarf", "skin_exposure")
BINARY = (*COLOURS, "many_colors", *(f"pattern_{name}" for name in PATTERNS), *OTHERS)
MULTICLASS = {"category": 7, "neckline": 3, "sleevelength": 3}

# Per category: probabilities of collar, necktie, placket, scarf, long hair; sleeves 1 none, 2 short, 3 long.
_PLANTED = {
    "shirt": (1.0, 0.2, 1.0, 0.05, 0.4, 3),
    "sweater": (0.0, 0.0, 0.1, 0.3, 0.5, 3),
    "t-shirt": (0.05, 0.0, 0.0, 0.05, 0.5, 2),
    "outerwear": (0.9, 0.05, 1.0, 0.5, 0.5, 3),
    "suit": (1.0, 0.9, 0.9, 0.0, 0.2, 3),
    "tank top": (0.0, 0.0, 0.0, 0.05, 0.7, 1),
    "dress": (0.05, 0.0, 0.0, 0.1, 1.0, 1),
}
_HOLES = 0.08
_HEIGHT, _WIDTH = 120, 80
_README = """Drawn clothes in the files of Clothing Attributes, made by taskloom; no person is in them.
Collar, necktie, placket, scarf, sleeves and long hair (gender) go with the category as often as a table says;
suits are dark. Colours and patterns can be read off the picture. A twelfth of every vector is NaN.
"""


def simulate_clothing_attributes(
    folder: Path, *, images: int = 400, seed: int = 0, if_missing: bool = False
) -> Path:
    """Writes drawn clothes in the layout of Clothing Attributes; the same parameters give the same bytes.

    Arguments and errors are those of `taskloom.data.simulate.folder.write_images`.
    """

    def write(place: Path) -> None:
        random = np.random.default_rng((seed, 11))
        codes: dict[str, list[float]] = {name: [] for name in (*BINARY, *MULTICLASS)}
        order = random.permutation(images) % len(CATEGORIES)
        for number in range(images):
            wear = draw_clothes(random, CATEGORIES[order[number]])
            write_picture(place / "images" / f"{number + 1:06d}.jpg", draw_person(random, wear))
            for name, code in wear.items():
                codes[name].append(float(code))
        (place / LABELS_FOLDER).mkdir()
        for name, values in codes.items():
            vector = np.array(values)
            vector[random.random(images) < _HOLES] = np.nan
            write_mat(place / LABELS_FOLDER / f"{name}{ENDING}", {VARIABLE: vector[:, None]})

    return write_images(
        folder, "clothing_attributes", _README, write, images=images, seed=seed, if_missing=if_missing
    )


def draw_clothes(random: np.random.Generator, category: str) -> dict[str, int]:
    """Draws the codes of all attributes: binary ones 1 no and 2 yes, the others from 1."""
    collar, necktie, placket, scarf, long_hair, sleeves = _PLANTED[category]
    lots = random.random(5) < (collar, necktie, placket, scarf, long_hair)
    names = ["black", "blue", "gray"] if category == "suit" else [*COLOURS, "many_colors"]
    colour = names[int(random.integers(len(names)))]
    pattern = PATTERNS[int(random.integers(len(PATTERNS)))]
    if category == "suit" or colour == "many_colors":
        pattern = "solid" if category == "suit" else "plaid"
    wear = dict.fromkeys(BINARY, 1) | {colour: 2, f"pattern_{pattern}": 2}
    wear |= zip(("collar", "necktie", "placket", "scarf", "gender"), (1 + lots).tolist(), strict=True)
    wear["skin_exposure"] = 1 + int(sleeves < 3)
    neckline = 3 if lots[0] else int(random.integers(1, 3))
    return wear | {"category": CATEGORIES.index(category) + 1, "neckline": neckline, "sleevelength": sleeves}


def draw_person(random: np.random.Generator, wear: dict[str, int]) -> NDArray[np.uint8]:
    """Draws a person from head to hip, BGR [120, 80, 3]."""
    picture = background(random, _HEIGHT, _WIDTH)
    x, y = random.normal((_WIDTH / 2, _HEIGHT * 0.55), 1.5).tolist()
    pen = Pen(picture, (x, y), 40.0)
    skin = np.array(SKIN[int(random.integers(len(SKIN)))], dtype=np.float64)
    hair = random.uniform(20, 90, 3)
    colour = next((COLOURS[name] for name in COLOURS if wear[name] == 2), (120, 60, 200))
    cloth = np.array(colour, dtype=np.float64)
    category = CATEGORIES[wear["category"] - 1]
    if wear["gender"] == 2:
        pen.box((-0.38, -1.1), (0.38, -0.45), hair)
    pen.ellipse((0, -0.95), (0.26, 0.32), skin)
    pen.box((-0.1, -0.75), (0.1, -0.5), skin)
    for side in (-1.0, 1.0):
        pen.line((side * 0.5, -0.4), (side * 0.75, 0.6), skin, 7)
        end = {1: None, 2: (0.58, -0.05), 3: (0.75, 0.6)}[wear["sleevelength"]]
        if end is not None:
            pen.line((side * 0.5, -0.4), (side * end[0], end[1]), cloth, 9)
    pen.box((-0.5, -0.5), (0.5, 0.7), cloth)
    if category == "dress":
        pen.box((-0.72, 0.35), (0.72, 1.2), cloth)
    _pattern(pen, wear, cloth)
    _front(pen, wear, category, skin)
    return picture


def _front(pen: Pen, wear: dict[str, int], category: str, skin: NDArray[np.float64]) -> None:
    """Neckline, collar, placket, necktie and scarf; sweaters have a hem, coats are open."""
    white, ink = np.full(3, 250.0), np.full(3, 15.0)
    if category in ("outerwear", "suit"):
        pen.box((-0.14, -0.5), (0.14, 0.7), white)
    if category == "sweater":
        pen.box((-0.5, 0.55), (0.5, 0.72), ink)
    if wear["neckline"] == 1:
        pen.line((-0.16, -0.5), (0, -0.22), skin, 4)
        pen.line((0.16, -0.5), (0, -0.22), skin, 4)
    elif wear["neckline"] == 2:
        pen.ellipse((0, -0.5), (0.2, 0.14), skin)
    if wear["collar"] == 2:
        pen.line((-0.24, -0.52), (-0.06, -0.34), white, 4)
        pen.line((0.24, -0.52), (0.06, -0.34), white, 4)
    if wear["placket"] == 2:
        pen.line((0, -0.4), (0, 0.68), ink)
        for height in (-0.2, 0.05, 0.3, 0.55):
            pen.ellipse((0.05, height), (0.035, 0.035), ink)
    if wear["necktie"] == 2:
        pen.line((0, -0.4), (0, 0.3), np.array((40.0, 40.0, 170.0)), 5)
    if wear["scarf"] == 2:
        pen.line((-0.26, -0.55), (0.26, -0.55), np.array((30.0, 160.0, 250.0)), 7)


def _pattern(pen: Pen, wear: dict[str, int], cloth: NDArray[np.float64]) -> None:
    mark = np.full(3, 255.0) - cloth if np.abs(cloth - 127).max() > 60 else np.zeros(3)
    places = [(x, y) for x in (-0.34, 0.34) for y in (-0.3, 0.0, 0.3)]
    if wear["pattern_stripe"] == 2 or wear["pattern_plaid"] == 2:
        for y in (-0.35, -0.1, 0.15, 0.4):
            pen.line((-0.48, y), (0.48, y), mark, 2)
    if wear["pattern_plaid"] == 2:
        for x in (-0.35, -0.2, 0.2, 0.35):
            pen.line((x, -0.48), (x, 0.68), mark, 2)
    if wear["many_colors"] == 2:
        pen.box((-0.5, 0.1), (0.5, 0.7), np.array((60.0, 200.0, 60.0)))
    for x, y in places:
        if wear["pattern_spot"] == 2:
            pen.ellipse((x, y), (0.07, 0.07), mark)
        elif wear["pattern_floral"] == 2:
            for dx, dy in ((-0.08, 0), (0.08, 0), (0, -0.08), (0, 0.08)):
                pen.ellipse((x + dx, y + dy), (0.045, 0.045), mark)
    if wear["pattern_graphics"] == 2:
        pen.box((-0.3, 0.0), (0.3, 0.4), mark)
        pen.ellipse((0, 0.2), (0.15, 0.15), cloth)
