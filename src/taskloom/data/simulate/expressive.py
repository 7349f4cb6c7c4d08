"""Drawn faces that show an expression: what several simulators share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from taskloom.data.simulate.action_units import draw_units
from taskloom.data.simulate.faces import Traits, background, draw_face, draw_traits

EXPRESSIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
OLDEST_WITHOUT_WRINKLES = 29


def draw_person(random: np.random.Generator) -> Traits:
    """Draws a face without wrinkles, which would hide its brows."""
    traits = draw_traits(random)
    return replace(traits, age=1 + traits.age % OLDEST_WITHOUT_WRINKLES, smiles=False, glasses=False)


def showing(random: np.random.Generator, person: Traits, expression: str) -> Traits:
    """The person with action units drawn for an expression."""
    return replace(person, units=draw_units(random, expression))


def draw_picture(
    random: np.random.Generator,
    traits: Traits,
    size: tuple[int, int],
    *,
    radius: float | None = None,
    centre: tuple[float, float] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Draws a picture of one face.

    Args:
        random: Draws the background, and the place of the face where `centre` is None.
        traits: What the face looks like.
        size: Height and width, in pixels.
        radius: Of the face; 0.4 of the smaller side where None.
        centre: Of the face; about the middle of the picture where None.

    Returns:
        BGR [H, W, 3], and the five points of the face, [5, 2] in pixels.
    """
    height, width = size
    picture = background(random, height, width)
    side = min(height, width)
    if centre is None:
        x, y = random.normal((width / 2, height / 2), side / 60)
        centre = (float(x), float(y))
    return picture, draw_face(picture, traits, centre, radius or 0.4 * side)


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes a JPEG, its folder with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Writes lines of text, the folder with them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
