"""Face detectors by name: OpenCV's Haar cascade, any YuNet file, dlib's HOG where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from taskloom.errors import ConfigError
from taskloom.registry import Registry

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the upright source image."""

LONGEST_SIDE = 800
"""Larger pictures are made smaller for detection: a face that matters is large in them."""
_SMALLEST_FACE = 20
YUNET_SCORE = 0.6
"""Score from which on a YuNet's find is a face. OpenCV's default, 0.9, lies among the scores of plain faces:
in 50 frames of two people it left out 23 of 100 faces; 0.3 to 0.85 left out none and found nothing else."""


@dataclass(frozen=True)
class Detection:
    """A face that was found.

    Args:
        box: Around it, in pixels of the picture; parts may lie outside.
        score: The detector's own confidence.
        points: Left eye, right eye, nose, left and right corner of the mouth (left as one looks at the
            picture), [5, 2] in pixels; None where the detector finds none.
    """

    box: Box
    score: float
    points: NDArray[np.float64] | None = None


class Detector(Protocol):
    """Finds faces. Detectors keep state, so every thread has its own."""

    def detect(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """Finds the faces of a picture, BGR [H, W, 3]; in no order."""
        ...


DETECTORS: Registry[Callable[[str | None], Detector]] = Registry("face detector")
"""Detectors by name: functions of the path of a model file (None where they take none)."""


def make_detector(name: str, model: str | None = None) -> Detector:
    """Builds a detector.

    Raises:
        ConfigError: An unknown name, a model file that is not there or not of this detector, or a package
            that is not installed.

    Example:
        >>> make_detector("haar").detect(np.zeros((60, 60, 3), np.uint8))
        []
    """
    return DETECTORS[name](model)


@DETECTORS.register("haar")
class HaarDetector:
    """The frontal-face cascade that comes with OpenCV (Viola and Jones 2001; Lienhart et al. 2003)."""

    def __init__(self, _: str | None = None) -> None:
        path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
        self.cascade = cv2.CascadeClassifier(str(path))

    def detect(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """Finds upright frontal faces of at least 20 pixels."""
        small, scale = _reduced(picture)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
        boxes, _, scores = self.cascade.detectMultiScale3(
            grey,
            scaleFactor=1.1,
            minNeighbors=5,
            minSize=(_SMALLEST_FACE, _SMALLEST_FACE),
            outputRejectLevels=True,
        )
        return [
            Detection(_scaled(box, scale), float(np.ravel(score)[0]))
            for box, score in zip(boxes, scores, strict=True)
        ]


@DETECTORS.register("yunet")
class YuNetDetector:
    """Any YuNet network in ONNX form (Wu, Peng and Yu 2023), run by OpenCV; it gives five points too."""

    def __init__(self, model: str | None) -> None:
        if model is None or not Path(model).is_file():
            raise ConfigError(f"data.detector_model: the ONNX file of a YuNet expected, found {model!r}.")
        try:
            self.network: Any = cv2.FaceDetectorYN.create(model, "", (320, 320), YUNET_SCORE)
        except cv2.error as error:
            raise ConfigError(f"data.detector_model: {model} is no YuNet network ({error.err}).") from error

    def detect(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """Finds faces and their five points."""
        small, scale = _reduced(picture)
        self.network.setInputSize((small.shape[1], small.shape[0]))
        _, rows = self.network.detect(small)
        return [] if rows is None else [_from_yunet(row, scale) for row in np.asarray(rows, np.float64)]


@DETECTORS.register("dlib")
class DlibDetector:
    """dlib's detector by histograms of oriented gradients (King 2009), where dlib is installed."""

    def __init__(self, _: str | None = None) -> None:
        try:
            import dlib  # an optional package without wheels for every platform
        except ImportError as error:
            raise ConfigError(
                "data.detector: dlib is not installed; install it (pip install dlib) or use haar."
            ) from error
        self.find: Any = dlib.get_frontal_face_detector()

    def detect(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """Finds upright frontal faces of about 80 pixels and more."""
        small, scale = _reduced(picture)
        rectangles, scores, _ = self.find.run(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), 0, 0.0)
        return [
            Detection(_scaled((r.left(), r.top(), r.width(), r.height()), scale), float(score))
            for r, score in zip(rectangles, scores, strict=True)
        ]


def _from_yunet(row: NDArray[np.float64], scale: float) -> Detection:
    """A row of 15: box, then the person's right eye, left eye, nose, right and left corner, then the score.

    The person's right is the picture's left, so the points stand in our order already.
    """
    points = (row[4:14].reshape(5, 2) + 0.5) / scale - 0.5
    return Detection(_scaled(row[:4], scale), float(row[14]), points)


def _reduced(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """The picture with its longer side at most `LONGEST_SIDE`, and the factor."""
    scale = min(1.0, LONGEST_SIDE / max(picture.shape[:2]))
    if scale == 1.0:
        return picture, scale
    width, height = (max(1, round(side * scale)) for side in (picture.shape[1], picture.shape[0]))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8), scale


def _scaled(box: Any, scale: float) -> Box:
    x, y, width, height = (float(value) / scale for value in box)
    return x, y, width, height
