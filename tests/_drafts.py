"""What tests of `taskloom init` share: a table of two tasks, and data as the written study reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from taskloom.data.batch import DataSplits
from taskloom.study import load_study
from taskloom.study.single import load_data

ROWS = 200


def people(rows: int = ROWS) -> pd.DataFrame:
    """Features `a`, `b`, `c`, a binary task `ill` and numbers `score`."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(rows, 3)), columns=list("abc"))
    noisy = frame.a + draw.normal(size=rows)
    return frame.assign(ill=(noisy > 0).astype(int), score=frame.b + draw.normal(size=rows))


def loaded(text: str) -> DataSplits:
    """Data by a study file, which is written beside them."""
    Path("study.yaml").write_text(text, encoding="utf-8")
    return load_data(load_study(Path("study.yaml")), None, Path("stores"))
