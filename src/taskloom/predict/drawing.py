"""Drawing what was found: boxes, identities, a line of text per task, points."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from taskloom.data.face_detectors import Box

COLOURS = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
"""RGB, told apart by the colour-blind too (Okabe and Ito 2008); an identity keeps its own."""
_TEXT, _PANEL = (255, 255, 255), (20, 20, 20)
_OPACITY = 0.78


def draw_face(
    picture: NDArray[np.uint8], face: int, box: Box, lines: Sequence[str], points: NDArray[np.float64]
) -> None:
    """Draws one face into a picture.

    Args:
        picture: BGR [H, W, 3]; changed in place.
        face: Its identity, which decides the colour.
        box: In pixels; what lies outside the picture is not drawn.
        lines: What is written beside it, the identity first.
        points: Landmarks in pixels, [P, 2].
    """
    height, width = picture.shape[:2]
    red, green, blue = COLOURS[(face - 1) % len(COLOURS)]
    colour = (blue, green, red)
    unit = max(1, round(max(height, width) / 300))
    left, top, right, bottom = _corners(box)
    cv2.rectangle(picture, (left, top), (right, bottom), colour, unit, cv2.LINE_AA)
    for x, y in points:
        centre = (int(np.clip(round(x), -width, 2 * width)), int(np.clip(round(y), -height, 2 * height)))
        cv2.circle(picture, centre, 2 * unit, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, 2 * unit, colour, max(1, unit // 2), cv2.LINE_AA)
    if not lines:
        return
    label = _label("\n".join(lines), text_size(height, width), colour)
    x, y = _place(label.shape[1], label.shape[0], (left, top, right, bottom), width, height)
    part = label[max(0, -y) : height - y, max(0, -x) : width - x]
    under = picture[max(0, y) : max(0, y) + part.shape[0], max(0, x) : max(0, x) + part.shape[1]]
    share = part[..., 3:].astype(np.float32) / 255
    under[:] = (under * (1 - share) + part[..., :3] * share + 0.5).astype(np.uint8)


def text_size(height: int, width: int) -> int:
    """Size of the letters in pixels: readable when the picture fills a screen, at least 11.

    Example:
        >>> text_size(1080, 1920), text_size(90, 120)
        (36, 11)
    """
    return max(11, round(min(height, width) / 30))


def _place(
    label_width: int, label_height: int, box: tuple[int, int, int, int], width: int, height: int
) -> tuple[int, int]:
    """Above the box, below it where there is no room, else beside it; inside the picture where it fits."""
    left, top, right, bottom = box
    x = min(max(0, left), max(0, width - label_width))
    if top - label_height >= 0:
        return x, top - label_height
    if bottom + label_height <= height:
        return x, bottom
    x = right if right + label_width <= width else max(0, left - label_width)
    return x, min(max(0, top), max(0, height - label_height))


def _corners(box: Box) -> tuple[int, int, int, int]:
    x, y, width, height = box
    return round(x), round(y), round(x + width), round(y + height)


@lru_cache(maxsize=512)
def _label(text: str, size: int, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A panel with text and a bar in the face's colour, BGRA; frames of one face often say the same."""
    font = _font(size)
    pad, bar = max(3, size // 3), max(3, size // 5)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox(
        (0, 0), text, font=font, spacing=size // 4
    )
    shape = (round(right - left) + 2 * pad + bar, round(bottom - top) + 2 * pad)
    panel = Image.new("RGBA", shape, (*_PANEL, round(255 * _OPACITY)))
    pen = ImageDraw.Draw(panel)
    pen.rectangle((0, 0, bar - 1, shape[1]), fill=(colour[2], colour[1], colour[0], 255))
    pen.multiline_text((bar + pad - left, pad - top), text, font=font, fill=(*_TEXT, 255), spacing=size // 4)
    return np.ascontiguousarray(np.asarray(panel)[..., [2, 1, 0, 3]])


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has the letters of most languages."""
    import matplotlib  # where something is drawn, and nowhere else

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
