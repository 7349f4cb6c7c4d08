"""A study of an animal and its parts: few animals are named, no training row has labels of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from taskloom.study.config import Study, check_study
from taskloom.study.overrides import apply_overrides
from taskloom.study.yaml_lines import parse_document

ANIMALS = ("cat", "bird", "fish", "bee")
PARTS = ("fur", "wings", "fins", "legs", "tail", "eggs")
TABLE = np.array(
    [[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 1, 1], [0, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 1]], dtype=np.float64
)
"""What has what; the data follow it without exception."""

TEXT = """\
data: {table: animals.csv}
tasks:
  animal: {kind: multiclass}
  fur:    {kind: binary}
  wings:  {kind: binary}
  fins:   {kind: binary}
  legs:   {kind: binary}
  tail:   {kind: binary}
  eggs:   {kind: binary}
split: {by: column, column: part}
encoder: {name: mlp, hidden: [16]}
training: {epochs: 12, batch: 32, optimizer: {adam: {lr: 0.01}}, device: cpu}
repeats: 2
cells:
  - hard_sharing: {stages: 1}
  - hard_sharing: {stages: 1}
    coupling:
      relatedness: table.csv
      matching: {two_sided: true, direction: distillation, stop_gradient: attributes}
      co_annotation: {direction: distillation, label_temperature: 0.1}
"""


def write_animals(folder: Path, *, disjoint: bool = True, seed: int = 0) -> Path:
    """Writes `animals.csv`, the right table and a wrong one (its rows the wrong way round)."""
    draw = np.random.default_rng(seed)
    num_rows, num_named, num_train = 700, 24, 300
    codes = draw.integers(0, len(ANIMALS), size=num_rows)
    means = draw.normal(size=(len(ANIMALS), 8))
    table = pd.DataFrame(means[codes] + 1.4 * draw.normal(size=(num_rows, 8)), columns=list("abcdefgh"))
    part = np.array(["train"] * num_train + ["validation"] * 150 + ["test"] * 250)
    table["part"] = part
    table["animal"] = np.array(ANIMALS)[codes]
    for number, name in enumerate(PARTS):
        table[name] = np.where(TABLE[codes, number] > 0, "yes", "no")
    if disjoint:
        table.loc[num_named : num_train - 1, "animal"] = None
        table.loc[: num_named - 1, list(PARTS)] = None
    table.to_csv(folder / "animals.csv", index=False)
    write_relatedness(folder / "table.csv", TABLE)
    write_relatedness(folder / "wrong.csv", TABLE[::-1])
    return folder


def write_relatedness(path: Path, values: np.ndarray) -> None:
    frame = pd.DataFrame(values, index=list(ANIMALS), columns=list(PARTS))
    frame.to_csv(path, index_label="animal")


def read(*overrides: str, text: str = TEXT) -> Study:
    return check_study(apply_overrides(parse_document(text, "animals.yaml"), overrides), "animals")
