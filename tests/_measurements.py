"""The table of the README: 600 rows of 150 patients, two columns to predict with holes."""

from __future__ import annotations

import numpy as np
import pandas as pd


def measurements() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = 600
    table = pd.DataFrame(draw.normal(size=(rows, 4)).round(3), columns=["x1", "x2", "x3", "temperature"])
    table.insert(0, "id", np.arange(rows))
    table.insert(1, "patient", [f"P{row // 4:03d}" for row in range(rows)])
    noise = draw.normal(size=(2, rows))
    severity = (20 + 5 * (table.x1 + table.x3) + 5 * noise[0]).clip(0, 40).round(1)
    table["severity"] = severity.where(draw.random(rows) < 0.5)
    relapse = pd.Series(np.where(table.x2 + table.x3 + noise[1] > 0, "yes", "no"))
    table["relapse"] = relapse.where(draw.random(rows) < 0.7)
    return table
