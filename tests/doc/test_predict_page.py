"""What docs/predict.md says of cutting faces outside taskloom gives the pixels that a store holds."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from taskloom.data.face_crop import CropSettings, squared, stretched
from taskloom.data.face_detectors import Detection
from taskloom.data.face_framing import Framing

PAGE = Path(__file__).resolve().parents[2] / "docs" / "predict.md"


def on_the_page(name: str = "cut") -> Any:
    (block,) = re.findall(r"```python\n(def cut.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"cv2": cv2, "math": math, "np": np}
    exec(block, names)
    return names[name]


def picture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.6, -0.2])
@pytest.mark.parametrize(
    "box", [(40, 30, 90, 110), (2.5, 3.25, 20.5, 17), (-30, 50, 300, 200), (100, 60, 64, 64)]
)
def test_faces_cut_as_the_page_says_are_those_of_a_store(box: tuple[float, ...], margin: float) -> None:
    given = picture(240, 320)
    stored = squared(given, box, CropSettings(64, detector="haar", margin=margin)).image  # type: ignore[arg-type]
    np.testing.assert_array_equal(on_the_page()(given, box, 64, margin), stored)


def test_faces_framed_as_the_page_says_are_those_of_predict() -> None:
    framing, box = Framing(0.9, 0.02, 0.11, 100, 128), (40.0, 30.0, 90.0, 90.0)
    found = on_the_page("framed")(box, framing.to_dict())
    np.testing.assert_allclose(found, framing.box(Detection(box, 1.0)))


@pytest.mark.parametrize("shape", [(240, 320), (64, 64), (64, 50), (20, 300), (65, 64)])
def test_whole_pictures_are_resized_as_the_page_says(shape: tuple[int, int]) -> None:
    given = picture(*shape)
    way = cv2.INTER_AREA if min(shape) >= 64 else cv2.INTER_LINEAR
    resized = cv2.cvtColor(cv2.resize(given, (64, 64), interpolation=way), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(stretched(given, None, 64).image, resized)
