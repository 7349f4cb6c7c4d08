"""scikit-learn's handwritten digits as a table: 1,797 images of 8 x 8 pixels, their digit and its segments.

The images are real (UCI ML hand-written digits, test set); what is added is a second annotation that follows
from the digit without exception: which segments of a seven-segment display show it. Digit and segments are
thus classes and attributes with a known relatedness, written beside the table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from taskloom.data.simulate.folder import write_simulation

SEGMENTS = ("top", "upper_right", "lower_right", "bottom", "lower_left", "upper_left", "middle")
"""Segments of a display, clockwise from the top, the middle last."""

DISPLAY = (
    "1111110",
    "0110000",
    "1101101",
    "1111001",
    "0110011",
    "1011011",
    "1011111",
    "1110000",
    "1111111",
    "1111011",
)
"""Which segments show each digit, in the order of `SEGMENTS`."""

_README = """\
scikit-learn's digits (sklearn.datasets.load_digits; UCI ML hand-written digits, 1,797 images of 8 x 8 pixels
of 0 to 16) as digits.csv: pixel_0 to pixel_63, digit, and 1 or 0 per segment of a seven-segment display that
shows the digit. segments.csv is the relatedness table: digits x segments.
Written by taskloom simulate digits.
"""


def simulate_digits(folder: Path, *, if_missing: bool = False) -> Path:
    """Writes `digits.csv` and `segments.csv`.

    Args:
        folder: Where they go: new or empty.
        if_missing: Whether a folder that has them is left as it is instead of being an error.

    Returns:
        The folder.

    Raises:
        DataError: The folder holds something else, or cannot be written.
    """
    return write_simulation(
        folder, {"simulation": "digits", "version": 1}, _README, _write, if_missing=if_missing
    )


def _write(folder: Path) -> None:
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    shown = np.array([[int(mark) for mark in line] for line in DISPLAY])
    pixels = {f"pixel_{number}": images[:, number].astype(int) for number in range(images.shape[1])}
    segments = {name: shown[digits, number] for number, name in enumerate(SEGMENTS)}
    pd.DataFrame({**pixels, "digit": digits, **segments}).to_csv(folder / "digits.csv", index=False)
    table = pd.DataFrame(shown, index=[str(digit) for digit in range(10)], columns=list(SEGMENTS))
    table.to_csv(folder / "segments.csv", index_label="digit")
