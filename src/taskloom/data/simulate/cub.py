"""CUB-200-2011-like folders of drawn birds: species, 312 attributes with certainties, boxes, parts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from taskloom.data.readers.cub import ARCHIVE_FOLDER
from taskloom.data.simulate.cub_attributes import COLOURS, GROUPS, NAMES, SAME_AS
from taskloom.data.simulate.expressive import write_lines, write_picture
from taskloom.data.simulate.faces import Pen, background
from taskloom.data.simulate.folder import check_numbers, write_simulation
from taskloom.errors import ConfigError

MOST_SPECIES = 200

_HEIGHT, _WIDTH = 96, 128
_AS_SPECIES = 0.9
"""How often an attribute of an image is that of its species; otherwise its value is drawn anew."""
_CERTAINTIES = (0.1, 0.15, 0.25, 0.5)
"""Shares of the certainties 1 to 4."""
_WRONG_GUESSES = 0.3
_EXTRA_COLUMNS_EVERY = 500
_README = """Drawn birds in the files of CUB-200-2011, made by taskloom. Colours of wing, breast, crown,
throat, bill, leg, tail and eye, the patterns of breast and wing, the length of the bill and the shape of the
tail can be read off the picture. A species has a value per group of attributes, which nine in ten of its
images show.
What was guessed (certainty 2) is wrong in three of ten attributes that are there; what was not visible
(certainty 1) counts as absent.
"""


def simulate_cub(
    folder: Path, *, images: int = 300, species: int = 10, seed: int = 0, if_missing: bool = False
) -> Path:
    """Writes drawn birds in the layout of CUB-200-2011; the same parameters give the same bytes.

    Every other image of a species is in train. Every 500th line of the attribute labels carries an extra
    column, as some of the real ones do.

    Args:
        folder: Where they go: new or empty.
        images: How many.
        species: Number of classes, at most 200.
        seed: Decides the birds.
        if_missing: Whether a folder of the same parameters is left as it is instead of being an error.

    Raises:
        ConfigError: Fewer than 16 images, or not 2 to 200 species with 4 images each.
        DataError: The folder holds something else, or cannot be written.
    """
    check_numbers(images=images)
    if not 2 <= species <= min(MOST_SPECIES, images // 4):
        raise ConfigError(
            f"species: 2 to {min(MOST_SPECIES, images // 4)} for {images} images expected, found {species}."
        )
    parameters = {"simulate": "cub", "images": images, "species": species, "seed": seed}

    def write(place: Path) -> None:
        random = np.random.default_rng((seed, 10))
        data = place / ARCHIVE_FOLDER
        typical = [_draw_values(random) for _ in range(species)]
        names = [f"{number + 1:03d}.Drawn_bird_{number + 1}" for number in range(species)]
        lines: dict[str, list[str]] = {
            name: [] for name in ("images", "image_class_labels", "train_test_split")
        }
        boxes: list[str] = []
        labels: list[str] = []
        for number in range(1, images + 1):
            kind, position = (number - 1) % species, (number - 1) // species
            values = _draw_values(random, typical[kind])
            picture, box = draw_bird(random, values)
            file = f"{names[kind]}/Drawn_Bird_{number:04d}.jpg"
            write_picture(data / "images" / file, picture)
            lines["images"].append(f"{number} {file}")
            lines["image_class_labels"].append(f"{number} {kind + 1}")
            lines["train_test_split"].append(f"{number} {1 - position % 2}")
            boxes.append(f"{number} " + " ".join(f"{value:.1f}" for value in box))
            labels += _label_lines(random, number, values, len(labels))
        for name, content in {
            **lines,
            "bounding_boxes": boxes,
            "attributes/image_attribute_labels": labels,
        }.items():
            write_lines(data / f"{name}.txt", content)
        write_lines(data / "classes.txt", [f"{code} {name}" for code, name in enumerate(names, start=1)])
        # The archive keeps this file beside the folder of the others.
        write_lines(place / "attributes.txt", [f"{code} {name}" for code, name in enumerate(NAMES, start=1)])

    return write_simulation(folder, parameters, _README, write, if_missing=if_missing)


def _draw_values(random: np.random.Generator, typical: dict[str, str] | None = None) -> dict[str, str]:
    """A value per group: that of the species where one is given, now and then another."""
    values: dict[str, str] = {}
    for group, known in GROUPS.items():
        drawn = known[int(random.integers(len(known)))]
        keep = random.random() < _AS_SPECIES
        values[group] = typical[group] if typical is not None and keep else drawn
    return {group: values[SAME_AS.get(group, group)] for group in GROUPS}


def draw_bird(
    random: np.random.Generator, values: dict[str, str]
) -> tuple[NDArray[np.uint8], tuple[float, float, float, float]]:
    """Draws a bird that looks to the right.

    Args:
        random: Draws the background and the place.
        values: Value of every group of attributes.

    Returns:
        BGR [96, 128, 3], and the box around the bird: x, y, width, height in pixels.
    """
    picture = background(random, _HEIGHT, _WIDTH)
    picture = np.asarray(cv2.addWeighted(picture, 0.35, np.full_like(picture, 150), 0.65, 0), np.uint8)
    radius = 34.0
    x, y = random.normal((_WIDTH / 2 - 4, _HEIGHT / 2), 3).tolist()
    pen = Pen(picture, (x, y), radius)

    def colour(part: str) -> NDArray[np.float64]:
        return np.array(COLOURS[values[f"has_{part}_color"]], dtype=np.float64)

    for side in (-0.1, 0.15):
        pen.line((side, 0.5), (side, 0.95), colour("leg"))
    _tail(pen, values["has_tail_shape"], colour("upper_tail"))
    pen.ellipse((0, 0.15), (0.75, 0.5), colour("breast"))
    _pattern(pen, values["has_breast_pattern"], (0.3, 0.3), colour("breast"))
    pen.ellipse((-0.25, 0.05), (0.55, 0.3), colour("wing"))
    _pattern(pen, values["has_wing_pattern"], (-0.3, 0.05), colour("wing"))
    long = {"longer_than_head": 0.55, "about_the_same_as_head": 0.4}.get(values["has_bill_length"], 0.25)
    pen.line((0.85, -0.4), (0.85 + long, -0.36), colour("bill"), 3)
    pen.ellipse((0.62, -0.4), (0.32, 0.32), colour("crown"))
    pen.ellipse((0.64, -0.2), (0.2, 0.16), colour("throat"))
    pen.ellipse((0.72, -0.47), (0.09, 0.09), np.full(3, 250.0))
    pen.ellipse((0.72, -0.47), (0.06, 0.06), colour("eye"))
    left, top, right, bottom = x - 1.35 * radius, y - 0.75 * radius, x + (0.9 + long) * radius, y + radius
    left, top = max(0.0, left), max(0.0, top)
    return picture, (left, top, min(right, _WIDTH) - left, min(bottom, _HEIGHT) - top)


def _tail(pen: Pen, shape: str, colour: NDArray[np.float64]) -> None:
    width = 5
    ends = {
        "forked_tail": ((-1.3, -0.25), (-1.3, 0.4)),
        "notched_tail": ((-1.2, -0.05), (-1.2, 0.25)),
        "pointed_tail": ((-1.35, 0.1),),
        "fan-shaped_tail": ((-1.05, -0.3), (-1.15, -0.1), (-1.15, 0.2), (-1.05, 0.4)),
    }
    for end in ends.get(shape, ((-1.1, 0.1),)):
        pen.line((-0.6, 0.1), end, colour, width)
    if shape == "rounded_tail":
        pen.ellipse((-1.1, 0.1), (0.18, 0.18), colour)


def _pattern(pen: Pen, pattern: str, centre: tuple[float, float], colour: NDArray[np.float64]) -> None:
    """Marks that stand out from a colour: dots, lines, or both halves of a second colour."""
    mark = np.full(3, 255.0) - colour if np.abs(colour - 127).max() > 60 else np.zeros(3)
    x, y = centre
    if pattern == "spotted":
        for dx in (-0.2, 0.0, 0.2):
            for dy in (-0.1, 0.1):
                pen.ellipse((x + dx, y + dy), (0.05, 0.05), mark)
    elif pattern == "striped":
        for dx in (-0.24, -0.08, 0.08, 0.24):
            pen.line((x + dx, y - 0.14), (x + dx, y + 0.14), mark)
    elif pattern == "multi-colored":
        pen.ellipse((x, y), (0.22, 0.14), mark)


def _label_lines(
    random: np.random.Generator, image: int, values: dict[str, str], num_before: int
) -> list[str]:
    """Lines of all attributes of one image."""
    certainties = random.choice(4, len(GROUPS), p=_CERTAINTIES) + 1
    wrong = random.random(len(GROUPS)) < _WRONG_GUESSES
    seconds = random.gamma(2.0, 3.0, len(GROUPS))
    lines: list[str] = []
    code = 0
    for position, (group, known) in enumerate(GROUPS.items()):
        certainty = int(certainties[position])
        value = values[group]
        if certainty == 1:
            value = ""
        elif certainty == 2 and wrong[position]:
            value = known[(known.index(value) + 1) % len(known)]
        for name in known:
            code += 1
            extra = " 0" if (num_before + code) % _EXTRA_COLUMNS_EVERY == 0 else ""
            lines.append(f"{image} {code} {int(name == value)} {certainty}{extra} {seconds[position]:.3f}")
    return lines
