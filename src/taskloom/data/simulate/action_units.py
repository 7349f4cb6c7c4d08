"""Expressions and action units of drawn faces: what they have to do with each other, and how they look."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from taskloom.data.simulate.faces import Pen

UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 15, 17, 20, 23, 24, 25, 26)
"""The 17 action units of the shipped relatedness."""
VALENCE_AROUSAL = {
    "neutral": (0.0, 0.0),
    "happiness": (0.8, 0.3),
    "sadness": (-0.7, -0.4),
    "surprise": (0.2, 0.8),
    "fear": (-0.5, 0.8),
    "disgust": (-0.7, 0.2),
    "anger": (-0.6, 0.6),
    "contempt": (-0.5, 0.0),
}
"""Where expressions lie on the two axes; a made-up place for each, in the quadrant of the literature."""

_SPREAD = 0.12
_WHITE, _BLACK, _LIP, _MOUTH = 250.0, 20.0, (50.0, 50.0, 190.0), (20.0, 10.0, 60.0)


def draw_units(random: np.random.Generator, expression: str) -> frozenset[int]:
    """Draws the action units of an expression: each by its weight in the shipped relatedness.

    Prototypical ones (weight 1) are always there, others as often as their weight says, and those of weight 0
    never; neutral and contempt, which the table does not have, have none and AU12 with AU14.

    Example:
        >>> 12 in draw_units(np.random.default_rng(0), "happiness")
        True
        >>> draw_units(np.random.default_rng(0), "neutral")
        frozenset()
    """
    from taskloom.coupling.tables import expression_action_units  # imports PyTorch: only where it is drawn by

    table = expression_action_units()
    lots = random.random(len(UNITS))
    if expression not in table.classes:
        return frozenset({12, 14}) if expression == "contempt" else frozenset()
    weights = table.values[table.classes.index(expression)]
    return frozenset(unit for unit, lot, weight in zip(UNITS, lots, weights, strict=True) if lot < weight)


def draw_valence_arousal(random: np.random.Generator, expression: str) -> tuple[float, float]:
    """Draws valence and arousal near the place of an expression, within -1 to 1."""
    valence, arousal = np.clip(np.array(VALENCE_AROUSAL[expression]) + random.normal(0, _SPREAD, 2), -1, 1)
    return round(float(valence), 3), round(float(arousal), 3)


def draw_expressions(random: np.random.Generator, names: Sequence[str], number: int) -> list[str]:
    """Draws expressions; every name comes up, as often as any other or once less."""
    order = [names[position % len(names)] for position in range(number)]
    return [order[position] for position in random.permutation(number)]


def draw_expression(
    pen: Pen, points: NDArray[np.float64], units: Collection[int], skin: NDArray[np.float64]
) -> None:
    """Draws brows, eyes, nose and mouth by their action units.

    Args:
        pen: Draws in units of the face.
        points: Eyes, nose and corners of the mouth, [5, 2].
        units: Numbers of the action units that are there.
        skin: Tone of the skin, BGR.
    """
    has = frozenset(units)
    ink = skin * 0.35
    _brows(pen, points[:2], has, ink)
    _eyes(pen, points[:2], has, skin, ink)
    _nose(pen, points[2], has, ink)
    _mouth(pen, points[3], points[4], has, ink)


def _brows(pen: Pen, eyes: NDArray[np.float64], has: frozenset[int], ink: NDArray[np.float64]) -> None:
    """AU1 lifts the inner ends, AU2 the outer ones, AU4 lowers and draws together."""
    inner = -0.2 - 0.13 * (1 in has) + 0.1 * (4 in has)
    outer = -0.2 - 0.15 * (2 in has) + 0.03 * (4 in has)
    together = 0.07 * (4 in has)
    for eye, side in zip(eyes, (1.0, -1.0), strict=True):
        pen.line(_off(eye, side * (0.14 + together), inner), _off(eye, -side * 0.16, outer), ink * 0.6)
    if 4 in has:
        middle = eyes.mean(axis=0)
        for shift in (-0.04, 0.04):
            pen.line(_off(middle, shift, -0.22), _off(middle, shift, -0.08), ink)


def _eyes(
    pen: Pen,
    eyes: NDArray[np.float64],
    has: frozenset[int],
    skin: NDArray[np.float64],
    ink: NDArray[np.float64],
) -> None:
    """AU5 opens, AU7 narrows, AU43 closes; AU6 lifts the cheeks beneath."""
    height = 0.08 + 0.06 * (5 in has) - 0.04 * (7 in has)
    for eye in eyes:
        if 43 in has:
            pen.line(_off(eye, -0.11, 0), _off(eye, 0.11, 0), ink)
        else:
            pen.ellipse(eye, (0.11, height), np.full(3, _WHITE))
            pen.ellipse(eye, (0.055, min(0.055, height)), np.full(3, _BLACK))
        if 6 in has:
            cheek = _off(eye, 0.0, 0.24)
            pen.ellipse(cheek, (0.14, 0.08), np.clip(skin * (0.7, 0.7, 1.0) + (0, 0, 40), 0, 255))


def _nose(pen: Pen, nose: NDArray[np.float64], has: frozenset[int], ink: NDArray[np.float64]) -> None:
    """AU9 wrinkles its bridge; AU11 deepens the folds beside it."""
    pen.line(_off(nose, 0, -0.27), _off(nose, 0, -0.05), ink)
    pen.ellipse(nose, (0.09, 0.06), ink)
    if 9 in has:
        for height in (-0.2, -0.13):
            pen.line(_off(nose, -0.12, height), _off(nose, 0.12, height), ink)
    if 11 in has:
        for side in (-1.0, 1.0):
            pen.line(_off(nose, side * 0.14, 0.0), _off(nose, side * 0.26, 0.16), ink)


def _mouth(
    pen: Pen,
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    has: frozenset[int],
    ink: NDArray[np.float64],
) -> None:
    """AU10, 12, 14, 15, 17, 20, 23, 24, 25 and 26."""
    wide = 0.1 * (20 in has) + 0.05 * (12 in has) - 0.1 * (23 in has)
    corners = -0.09 * (12 in has) + 0.12 * (15 in has)
    left, right = _off(left, -wide, corners), _off(right, wide, corners)
    middle = _off((left + right) / 2, 0, -1.6 * corners)
    if 26 in has or 25 in has:
        gap = 0.19 if 26 in has else 0.09
        pen.ellipse(_off((left + right) / 2, 0, gap / 2 - corners), (0.2 + wide, gap), np.array(_MOUTH))
    if 26 not in has:
        lip = np.array(_LIP) * (0.55 if 24 in has else 1.0)
        pen.curve(left, middle, right, lip)
    if 24 in has:
        pen.line(_off(left, 0, 0.06), _off(right, 0, 0.06), ink)
    if 10 in has:
        pen.curve(_off(left, 0, -0.1), _off(middle, 0, -0.2), _off(right, 0, -0.1), ink)
    if 14 in has:
        pen.ellipse(_off(right, 0.1, 0), (0.04, 0.04), ink)
    if 17 in has:
        chin = _off((left + right) / 2, 0, 0.3 - corners)
        pen.curve(_off(chin, -0.14, 0), _off(chin, 0, -0.1), _off(chin, 0.14, 0), ink)


def _off(point: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    return np.asarray(point + np.array((x, y)))
