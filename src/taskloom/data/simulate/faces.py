"""Drawn faces whose labels can be read off the picture: what the simulators of face data have in common.

Age makes hair grey and adds wrinkles, gender decides the length of the hair, race the tone of the skin, a
smile bends the mouth, glasses are glasses, and pose moves nose, eyes and mouth sideways. Nothing of this says
anything about people; it says that a reader, a store and a network do what they should.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from taskloom.data.simulate.action_units import draw_expression

SKIN = ((199, 224, 255), (66, 100, 141), (150, 205, 245), (95, 140, 190), (120, 170, 215))
"""Tones of the skin, BGR, one per race code."""
OLDEST = 80

_HAIR_YOUNG = np.array([25.0, 35.0, 50.0])
_HAIR_OLD = np.array([225.0, 225.0, 225.0])
_TURN = 0.17
_SHIFT = 4
"""Coordinates are drawn in sixteenths of a pixel."""


@dataclass(frozen=True)
class Traits:
    """What a face is drawn by.

    Args:
        age: In years.
        female: Whether the hair is long.
        race: Code 0 to 4.
        smiles, glasses: Whether.
        pose: From -2 (left profile) to 2 (right profile).
        tone: What the single face differs by, about 0: added to the tone of the skin.
        units: Numbers of the action units that the face shows; None for a face that only smiles or does not.
    """

    age: int
    female: bool
    race: int
    smiles: bool = False
    glasses: bool = False
    pose: int = 0
    tone: float = 0.0
    units: frozenset[int] | None = None


def draw_traits(random: np.random.Generator, *, poses: bool = False) -> Traits:
    """Draws traits with the relations that are planted between them.

    Older faces wear glasses more often (from 10 to 70 %), women smile more often (65 against 40 %), and
    gender and race have nothing to do with each other.
    """
    age = int(random.integers(1, OLDEST + 1))
    female = bool(random.random() < 0.5)
    return Traits(
        age=age,
        female=female,
        race=int(random.choice(5, p=(0.35, 0.2, 0.2, 0.15, 0.1))),
        smiles=bool(random.random() < (0.65 if female else 0.4)),
        glasses=bool(random.random() < 0.1 + 0.6 * age / OLDEST),
        pose=int(random.choice(5, p=(0.1, 0.2, 0.4, 0.2, 0.1))) - 2 if poses else 0,
        tone=float(random.normal(0, 4)),
    )


def draw_face(
    picture: NDArray[np.uint8], traits: Traits, centre: tuple[float, float], radius: float
) -> NDArray[np.float64]:
    """Draws a face into a picture.

    Args:
        picture: BGR [H, W, 3]; changed in place.
        traits: What it looks like.
        centre: Of the face, in pixels.
        radius: Half its height, in pixels.

    Returns:
        Left eye, right eye, nose, left and right corner of the mouth, [5, 2] in pixels.

    Example:
        >>> points = draw_face(np.zeros((64, 64, 3), np.uint8), Traits(30, True, 0), (32, 32), 20)
        >>> bool(points[0, 0] < points[2, 0] < points[1, 0]), bool(points[3, 1] > points[2, 1])
        (True, True)
    """
    pen = Pen(picture, centre, radius)
    skin = np.clip(np.array(SKIN[traits.race], dtype=np.float64) + traits.tone, 0, 255)
    grey = min(1.0, max(0.0, (traits.age - 15) / (OLDEST - 25)))
    hair = _HAIR_YOUNG * (1 - grey) + _HAIR_OLD * grey
    turn = _TURN * traits.pose
    pen.ellipse((0, -0.1), (0.95, 1.05), hair)
    if traits.female:
        pen.box((-1.0, -0.1), (1.0, 1.3), hair)
    pen.ellipse((0, 0.1), (0.72, 0.9), skin)
    ink = skin * 0.35
    points = np.array([[-0.28, -0.05], [0.28, -0.05], [0.0, 0.25], [-0.27, 0.55], [0.27, 0.55]])
    # A turned head shows its nearer half wider: the points move with the nose, and come closer together.
    points[:, 0] = points[:, 0] * (1 - 0.12 * abs(traits.pose)) + turn
    points[2, 0] += 0.5 * turn
    if traits.units is None:
        _draw_smile(pen, points, traits, ink)
    else:
        draw_expression(pen, points, traits.units, skin)
    for wrinkle in range(max(0, traits.age - 30) // 15):
        height = -0.34 - 0.09 * wrinkle
        pen.line((-0.35, height), (0.35, height), ink)
    if traits.glasses:
        for eye in points[:2]:
            pen.ring(eye, (0.2, 0.16), np.full(3, 10.0))
        pen.line(points[0] + (0.2, 0), points[1] - (0.2, 0), np.full(3, 10.0))
    return np.asarray(points * radius + np.array(centre))


def _draw_smile(pen: Pen, points: NDArray[np.float64], traits: Traits, ink: NDArray[np.float64]) -> None:
    """Eyes, nose and mouth of a face that smiles or does not."""
    turn = _TURN * traits.pose
    for eye in points[:2]:
        pen.ellipse(eye, (0.11, 0.08), np.full(3, 250.0))
        pen.ellipse(eye, (0.055, 0.055), np.full(3, 20.0))
    pen.line((points[2, 0], -0.02), (points[2, 0] + 0.3 * turn, 0.2), ink)
    pen.ellipse(points[2], (0.09, 0.06), ink)
    left, right = points[3], points[4]
    middle = (left + right) / 2 + (0, 0.16 if traits.smiles else 0.0)
    pen.curve(left, middle, right, np.array([50.0, 50.0, 190.0]))


class Pen:
    """Draws in units of the face: 0, 0 is its centre, 1 its radius."""

    def __init__(self, picture: NDArray[np.uint8], centre: tuple[float, float], radius: float) -> None:
        self.picture, self.centre, self.radius = picture, np.array(centre), radius
        self.width = max(1, round(radius / 14))

    def at(self, point: Any) -> tuple[int, int]:
        x, y = np.round((np.asarray(point) * self.radius + self.centre) * 2**_SHIFT).astype(int).tolist()
        return x, y

    def axes(self, axes: Any) -> tuple[int, int]:
        x, y = np.maximum(1, np.round(np.asarray(axes) * self.radius * 2**_SHIFT)).astype(int).tolist()
        return x, y

    def ellipse(self, point: Any, axes: Any, colour: NDArray[np.float64]) -> None:
        cv2.ellipse(
            self.picture, self.at(point), self.axes(axes), 0, 0, 360, colour.tolist(), -1, cv2.LINE_AA, _SHIFT
        )

    def ring(self, point: Any, axes: Any, colour: NDArray[np.float64]) -> None:
        place, size = self.at(point), self.axes(axes)
        cv2.ellipse(self.picture, place, size, 0, 0, 360, colour.tolist(), self.width, cv2.LINE_AA, _SHIFT)

    def box(self, corner: Any, other: Any, colour: NDArray[np.float64]) -> None:
        cv2.rectangle(self.picture, self.at(corner), self.at(other), colour.tolist(), -1, cv2.LINE_AA, _SHIFT)

    def line(self, start: Any, end: Any, colour: NDArray[np.float64], width: int = 0) -> None:
        """A line of a width in pixels, that of the pen where it is 0."""
        place = self.at(start), self.at(end)
        cv2.line(self.picture, *place, colour.tolist(), width or self.width, cv2.LINE_AA, _SHIFT)

    def curve(self, start: Any, middle: Any, end: Any, colour: NDArray[np.float64]) -> None:
        """A parabola through three points, the middle one at half way."""
        share = np.linspace(0, 1, 13)[:, None]
        start, middle, end = (np.asarray(point, dtype=np.float64) for point in (start, middle, end))
        bow = 4 * share * (1 - share) * (middle - (start + end) / 2)
        track = np.array([self.at(point) for point in start + share * (end - start) + bow], np.int32)
        width = 2 * self.width
        cv2.polylines(self.picture, [track], False, colour.tolist(), width, cv2.LINE_AA, _SHIFT)


def background(random: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth noise, BGR [height, width, 3]."""
    coarse = random.integers(60, 200, (4, 4, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
