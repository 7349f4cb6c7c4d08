"""Cutting faces out of pictures: by a box, with a margin, or aligned by five points.

Every cut is an affine map from the picture to the stored image, so that landmarks move with it: a stored
point is `transform @ (x, y, 1)`, where 0, 0 is the centre of the first pixel in both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from taskloom.data.face_detectors import DETECTORS, YUNET_SCORE, Box, Detection, Detector, make_detector
from taskloom.data.face_framing import Framing
from taskloom.errors import ConfigError, DataError, did_you_mean

CHOICES = ("largest", "all", "box")
CROP_SETTINGS = ("size", "detector", "detector_model", "choose", "margin", "align")

ALIGNED_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Left eye, right eye, nose, left and right corner of the mouth of an aligned face of 112 x 112 pixels, as
the face recognition literature has them (Liu et al. 2017, SphereFace; Deng et al. 2019, ArcFace)."""
_ALIGNED_SIZE = 112
_MOST_OVERSAMPLED = 8


@dataclass(frozen=True)
class CropSettings:
    """How faces are cut out.

    Args:
        size: Height and width of the stored images, in pixels.
        detector: "none" (the box of the row, or the whole image), or a detector: haar, yunet, dlib.
        detector_model: Checkpoint of the detector: the ONNX file of `yunet`.
        choose: Of several faces the "largest" or "all"; "box" takes the row's own box and detects only where
            there is none.
        margin: Added on each side of the box, as a share of it. The cut is then a square around the box, and
            what lies outside the picture repeats its edge. Without a margin and a detector a box is clipped
            to the picture and stretched.
        align: Whether faces are turned, moved and scaled until their five points lie where they should.
        framing: Of the images that a network was trained on: detected faces are cut as these lie around
            theirs, and the margin does not count. No setting of a study; see `face_framing`.

    Raises:
        ConfigError: A value out of range.
    """

    size: int = 64
    detector: str = "none"
    detector_model: str | None = None
    choose: str = "largest"
    margin: float = 0.0
    align: bool = False
    framing: Framing | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise ConfigError(f"data.size: a whole number of pixels above 0 expected, found {self.size!r}.")
        known = ["none", *DETECTORS]
        if self.detector not in known:
            raise ConfigError(
                f"data.detector: one of {', '.join(known)} expected, found `{self.detector}`."
                f"{did_you_mean(str(self.detector), known)}"
            )
        if (self.detector == "yunet") != (self.detector_model is not None):
            raise ConfigError(
                "data.detector_model: the path of an ONNX file, which `detector: yunet` needs and no other "
                "detector takes."
            )
        if self.choose not in CHOICES:
            raise ConfigError(
                f"data.choose: one of {', '.join(CHOICES)} expected, found `{self.choose}`."
                f"{did_you_mean(str(self.choose), CHOICES)}"
            )
        number = isinstance(self.margin, int | float) and not isinstance(self.margin, bool)
        if not number or not -0.5 < self.margin <= 5:
            raise ConfigError(
                f"data.margin: a share of the box above -0.5 and up to 5 expected, found {self.margin!r}."
            )
        if not isinstance(self.align, bool):
            raise ConfigError(f"data.align: true or false expected, found {self.align!r}.")

    @property
    def plain(self) -> bool:
        """Whether boxes are clipped and stretched, without any detection."""
        return self.detector == "none" and self.margin == 0 and not self.align

    def to_dict(self) -> dict[str, Any]:
        """Plain values that decide the result, JSON-serialisable; a model file by its checksum."""
        plain: dict[str, Any] = {"size": self.size}
        if self.detector != "none":
            plain |= {"detector": self.detector, "choose": self.choose}
        if self.detector_model is not None:
            plain["detector_model"] = _checksum(Path(self.detector_model))
        if self.detector == "yunet":
            plain["detector_score"] = YUNET_SCORE
        if not self.plain:
            plain |= {"margin": self.margin, "align": self.align}
        if self.framing is not None:
            plain["framing"] = self.framing.to_dict()
        return plain


@dataclass(frozen=True)
class Face:
    """A face cut out of a picture.

    Args:
        image: RGB pixels, [size, size, 3].
        transform: The map from picture to pixels, [2, 3].
        picture_size: Width and height of the picture.
    """

    image: NDArray[np.uint8]
    transform: NDArray[np.float64]
    picture_size: tuple[int, int]


class FaceCutter:
    """Cuts faces by settings; one per thread, as detectors keep state.

    Args:
        settings: How.
    """

    def __init__(self, settings: CropSettings) -> None:
        self.settings = settings
        self.detector: Detector | None = None
        if settings.detector != "none":
            self.detector = make_detector(settings.detector, settings.detector_model)

    def cut(
        self, picture: NDArray[np.uint8], box: Box | None = None, points: NDArray[np.float64] | None = None
    ) -> list[Face]:
        """Cuts the faces of one row.

        Args:
            picture: BGR pixels, [H, W, 3].
            box: The row's own box.
            points: The row's own landmarks, [K, 2] in pixels of the picture, NaN where missing.

        Returns:
            One face; with `choose: all` one or more, from left to right.

        Raises:
            DataError: No face was found, a box lies outside the picture, or points to align by are missing.
        """
        settings = self.settings
        if self.detector is None or (settings.choose == "box" and box is not None):
            found = [Detection(box, 1.0, points)] if box is not None else []
        else:
            found = choose(self.detector.detect(picture), settings.choose)
            if not found:
                raise DataError("no face found")
            if points is not None and len(found) == 1:  # annotated points are better than detected ones
                found = [Detection(found[0].box, found[0].score, points)]
        height, width = picture.shape[:2]
        whole = Detection((0.0, 0.0, float(width), float(height)), 1.0, points)
        return [cut_detection(picture, entry, settings) for entry in found or [whole]]


def cut_detection(picture: NDArray[np.uint8], found: Detection, settings: CropSettings) -> Face:
    """Cuts out one face that has been found; stores and predictions both cut by this.

    Args:
        picture: BGR pixels, [H, W, 3].
        found: Its box, and its points where it is aligned.
        settings: How it is cut; the detector among them is not asked.

    Raises:
        DataError: The box lies outside the picture, or points to align by are missing.
    """
    if settings.align:
        return aligned_face(picture, found.points, settings)
    if settings.plain:
        return stretched(picture, found.box, settings.size)
    if settings.framing is not None and settings.detector != "none":
        return squared(picture, settings.framing.box(found), replace(settings, margin=0.0))
    return squared(picture, found.box, settings)


def choose(found: Sequence[Detection], which: str) -> list[Detection]:
    """Of the faces found, all from left to right, or the largest (of equal ones the first).

    Example:
        >>> faces = [Detection((9, 0, 2, 2), 1.0), Detection((0, 0, 3, 3), 0.5)]
        >>> [face.box[0] for face in choose(faces, "largest")], [face.box[0] for face in choose(faces, "all")]
        ([0], [0, 9])
    """
    if which == "all":
        return sorted(found, key=lambda face: face.box)
    return [max(found, key=lambda face: face.box[2] * face.box[3])] if found else []


def stretched(picture: NDArray[np.uint8], box: Box | None, size: int) -> Face:
    """A box, rounded to whole pixels and clipped to the picture, resized to size x size."""
    left, top, width, height = clipped(box, picture.shape[1], picture.shape[0])
    crop = picture[top : top + height, left : left + width]
    # Averaging over areas keeps small images free of aliasing; it is not defined for growing ones.
    shrinks = height >= size and width >= size
    resized = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    across, down = size / width, size / height
    transform = np.array(
        [[across, 0, (0.5 - left) * across - 0.5], [0, down, (0.5 - top) * down - 0.5]], dtype=np.float64
    )
    return Face(
        np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), dtype=np.uint8), transform, _size(picture)
    )


def squared(picture: NDArray[np.uint8], box: Box, settings: CropSettings) -> Face:
    """The square around a box with its margin; what lies outside the picture repeats its edge."""
    clipped(box, picture.shape[1], picture.shape[0])  # refuses a box that lies outside altogether
    side = max(box[2], box[3]) * (1 + 2 * settings.margin)
    left, top = box[0] + box[2] / 2 - side / 2, box[1] + box[3] / 2 - side / 2
    scale = settings.size / side
    transform = np.array(
        [[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]], dtype=np.float64
    )
    return Face(warped(picture, transform, settings.size), transform, _size(picture))


def aligned_face(
    picture: NDArray[np.uint8], points: NDArray[np.float64] | None, settings: CropSettings
) -> Face:
    """The face turned, scaled and moved so that its five points lie where they should."""
    if points is None or len(points) != len(ALIGNED_POINTS) or np.isnan(points).any():
        raise DataError("the five points to align by are missing")
    if np.ptp(points, axis=0).max() < 1:
        raise DataError("the five points to align by lie on one spot")
    inside = (points >= -0.5) & (points < np.array([picture.shape[1], picture.shape[0]]) - 0.5)
    if not inside.all(axis=1).any():
        raise DataError("the five points to align by lie outside the picture")
    target = (ALIGNED_POINTS + 0.5) / _ALIGNED_SIZE  # pixel centres to shares of the image
    target = ((target - 0.5) / (1 + 2 * settings.margin) + 0.5) * settings.size - 0.5
    transform = similarity(points, target)
    return Face(warped(picture, transform, settings.size), transform, _size(picture))


def similarity(points: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation, scale and shift (no mirroring) that brings points nearest to targets.

    In complex numbers the map is z -> a z + b, so that least squares is one division.

    Args:
        points, target: [K, 2], K >= 2.

    Returns:
        The map, [2, 3].

    Example:
        >>> corners = np.array([[0.0, 0], [2, 0], [2, 1]])
        >>> similarity(corners, corners @ np.array([[0.0, 1], [-1, 0]]) + 5).round(12) + 0.0
        array([[ 0., -1.,  5.],
               [ 1.,  0.,  5.]])
    """
    z, w = points[:, 0] + 1j * points[:, 1], target[:, 0] + 1j * target[:, 1]
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred)
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def warped(picture: NDArray[np.uint8], transform: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """The picture under a map, RGB [size, size, 3]; shrinking averages, the outside repeats the edge."""
    scale = math.sqrt(abs(np.linalg.det(transform[:, :2])))
    times = min(_MOST_OVERSAMPLED, max(1, math.ceil(1 / max(scale, 1e-6))))
    # Sampled so finely that no pixel of the picture is skipped, then averaged.
    fine = transform * times
    fine[:, 2] += 0.5 * times - 0.5
    large = cv2.warpAffine(
        picture, fine, (size * times, size * times), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    small = large if times == 1 else cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def clipped(box: Box | None, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of a box, rounded to whole pixels, that lies in an image; the whole image for None.

    Raises:
        DataError: No part of it does.
    """
    if box is None:
        return 0, 0, width, height
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[0] + box[2])), min(height, round(box[1] + box[3]))
    if right <= left or bottom <= top:
        raise DataError(f"the box {[round(v, 1) for v in box]} lies outside the image of {width} x {height}")
    return left, top, right - left, bottom - top


def _size(picture: NDArray[np.uint8]) -> tuple[int, int]:
    return int(picture.shape[1]), int(picture.shape[0])


def _checksum(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"data.detector_model: {path} cannot be read ({error.strerror}).") from error
