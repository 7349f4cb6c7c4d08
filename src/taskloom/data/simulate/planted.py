"""A table of tasks whose right sharing is known: two groups of related tasks and one unrelated task.

All tasks read the same inputs. The tasks of a group are sums of the same nonlinear features, each with
weights of its own; no feature is common to two groups, and the unrelated task has features of its own. Each
label is there for some rows alone, so that a group sees far more of its features than each of its tasks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taskloom.data.simulate.folder import write_simulation
from taskloom.errors import ConfigError

GROUPS: dict[str, tuple[str, ...]] = {
    "a": ("a_1", "a_2", "a_3"),
    "b": ("b_1", "b_2", "b_3"),
    "alone": ("alone",),
}
"""Names of the tasks by group: what is right to share."""

_WORLD = 1  # raise it when the same parameters give other files
_NUM_INPUTS = 12
_NUM_FEATURES = 2  # of each group
_VALIDATION_ROWS, _TEST_ROWS = 300, 1500
_README = """\
planted.csv: made-up rows. Inputs x_1 to x_12 are standard normal. Tasks a_1 to a_3 are weighted sums of the
same two nonlinear features of the inputs, b_1 to b_3 of two others, alone of two others again; noise is
added, and labels of training and validation rows are missing at random. `part` says which rows are which.
Written by taskloom simulate planted.
"""


@dataclass(frozen=True)
class PlantedSimulation:
    """What decides the file, bit for bit."""

    rows: int
    noise: float
    missing: float
    seed: int
    world: int = _WORLD


def simulate_planted(
    folder: str | Path,
    *,
    rows: int = 300,
    noise: float = 0.3,
    missing: float = 0.5,
    seed: int = 0,
    if_missing: bool = False,
) -> Path:
    """Writes `planted.csv`: 12 inputs, seven regressions (`GROUPS`) and the part each row belongs to.

    Args:
        folder: Where it goes: new or empty.
        rows: Training rows; 300 rows validate and 1,500 test.
        noise: Standard deviation of the noise on each task, whose signal has standard deviation 1.
        missing: Share of the labels that are missing outside of test.
        seed: Seed of everything that is drawn.
        if_missing: Whether a folder with the same simulation is left as it is instead of being an error.

    Returns:
        The folder.

    Raises:
        ConfigError: Fewer than 10 rows, a negative noise, or a share outside of [0, 1).
        DataError: The folder holds something else, or cannot be written.

    Example:
        >>> import tempfile
        >>> made = simulate_planted(tempfile.mkdtemp(), rows=50)
        >>> len(pd.read_csv(made / "planted.csv"))
        1850
    """
    if rows < 10 or not 0 <= missing < 1 or not 0 <= noise < float("inf"):
        raise ConfigError(
            "simulate planted: at least 10 rows, a noise of at least 0 and a share of missing labels from 0 "
            f"to below 1 expected, found rows {rows}, noise {noise:g} and missing {missing:g}."
        )
    simulation = PlantedSimulation(rows, noise, missing, seed)
    return write_simulation(
        Path(folder),
        {"simulation": "planted", **asdict(simulation)},
        _README,
        lambda partial: _table(simulation).to_csv(partial / "planted.csv", index=False),
        if_missing=if_missing,
    )


def _table(simulation: PlantedSimulation) -> pd.DataFrame:
    draw = np.random.default_rng(simulation.seed)
    num_rows = simulation.rows + _VALIDATION_ROWS + _TEST_ROWS
    inputs = draw.standard_normal((num_rows, _NUM_INPUTS))
    parts = np.repeat(["train", "validation", "test"], [simulation.rows, _VALIDATION_ROWS, _TEST_ROWS])
    columns: dict[str, NDArray[np.float64]] = {
        f"x_{number}": column for number, column in enumerate(inputs.T, start=1)
    }
    directions, _ = np.linalg.qr(draw.standard_normal((_NUM_INPUTS, _NUM_INPUTS)))
    for group, tasks in enumerate(GROUPS.values()):
        own = directions[:, _NUM_FEATURES * group : _NUM_FEATURES * (group + 1)]
        features = (np.abs(inputs @ own) - np.sqrt(2 / np.pi)) / np.sqrt(1 - 2 / np.pi)  # mean 0, variance 1
        for task in tasks:
            weights = draw.uniform(0.5, 1.5, _NUM_FEATURES)
            signal = features @ (weights / np.linalg.norm(weights))
            noisy = signal + simulation.noise * draw.standard_normal(num_rows)
            hidden = (draw.random(num_rows) < simulation.missing) & (parts != "test")
            columns[task] = np.where(hidden, np.nan, noisy)
    return pd.DataFrame(columns).round(4).assign(part=parts)
