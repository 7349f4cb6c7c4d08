"""Two made-up data sets without a common label: faces with an expression, faces with action units.

A face is a row of features in place of pixels. Its expression switches action units on, each with the chance
that the relatedness table gives it (paper 003, table 1), units that the table does not name rarely; the
features are a mixture of directions, one per active unit, and noise. So the two annotations are related as
the table says, and no row of the two data sets has both. A third, small file has both, as Aff-Wild2 in the
paper, from which relatedness can be estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from taskloom.data.simulate.folder import write_simulation
from taskloom.errors import ConfigError

NUM_FEATURES = 24
_ELSEWHERE = 0.03
_NOISE = 0.9

_README = """\
Made-up data, no faces: expressions.csv has an expression per row, units.csv 1 or 0 per action unit,
both.csv both.
Expressions switch on action units as in a relatedness table. Written by taskloom simulate expressions.
"""


def simulate_expressions(
    folder: Path,
    expressions: Sequence[str],
    units: Sequence[str],
    chances: ArrayLike,
    *,
    num_expressions: int = 600,
    num_units: int = 2400,
    num_both: int = 300,
    seed: int = 0,
    if_missing: bool = False,
) -> Path:
    """Writes `expressions.csv`, `units.csv` and `both.csv`.

    Args:
        folder: Where they go: new or empty.
        expressions, units: Names of classes and attributes.
        chances: p(unit | expression), [classes, units], 0 to 1.
        num_expressions, num_units, num_both: Rows; by default one to four, as RAF-DB (12,200 training images)
            to EmotioNet (46,000) in the paper.
        seed: The same seed gives the same files.
        if_missing: Whether a folder of the same parameters is left as it is.

    Returns:
        The folder.

    Raises:
        ConfigError: Fewer rows than expressions, or chances that do not fit.
        DataError: The folder holds something else, or cannot be written.
    """
    table = np.asarray(chances, dtype=np.float64)
    if table.shape != (len(expressions), len(units)) or table.min() < 0 or table.max() > 1:
        raise ConfigError(
            f"simulate: chances from 0 to 1, {len(expressions)} x {len(units)}, expected, found "
            f"{table.shape}."
        )
    sizes = {"expressions": num_expressions, "units": num_units, "both": num_both}
    for name, size in sizes.items():
        if size < len(expressions):
            raise ConfigError(f"simulate: at least {len(expressions)} rows of {name} expected, found {size}.")
    parameters = {"simulation": "expressions", "version": 1, **sizes, "seed": seed, "units": list(units)}

    def write(target: Path) -> None:
        draw = np.random.default_rng(seed)
        directions = draw.normal(size=(len(units), NUM_FEATURES))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        for name, size in sizes.items():
            frame = _faces(draw, directions, table, expressions, units, size)
            left_out = {"expressions": list(units), "units": ["expression"]}.get(name, [])
            frame.drop(columns=left_out).to_csv(target / f"{name}.csv", index=False)

    return write_simulation(folder, parameters, _README, write, if_missing=if_missing)


def _faces(
    draw: np.random.Generator,
    directions: NDArray[np.float64],
    table: NDArray[np.float64],
    expressions: Sequence[str],
    units: Sequence[str],
    size: int,
) -> pd.DataFrame:
    classes = draw.permutation(np.arange(size) % len(expressions))
    active = (draw.random((size, len(units))) < np.maximum(table[classes], _ELSEWHERE)).astype(np.int64)
    features = active @ directions + _NOISE / np.sqrt(NUM_FEATURES) * 2 * draw.normal(
        size=(size, NUM_FEATURES)
    )
    frame = pd.DataFrame(features.round(4), columns=[f"feature_{number}" for number in range(NUM_FEATURES)])
    frame["expression"] = np.array(expressions)[classes]
    for number, name in enumerate(units):
        frame[name] = active[:, number]
    return frame
