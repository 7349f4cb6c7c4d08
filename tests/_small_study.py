"""A study that trains in a second: 120 rows of 30 people, two tasks, two cells, two repeats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from taskloom.study.config import Study, check_study
from taskloom.study.overrides import apply_overrides
from taskloom.study.results import ResultsStore, RunRecord
from taskloom.study.runner import Outcome, run_study
from taskloom.study.runs import RunSpec
from taskloom.study.yaml_lines import parse_document

TEXT = """\
data: {table: people.csv, group: person}
tasks:
  age:  {kind: regression, unit: years}
  sex:  {kind: binary}
split: {by: person, test: 0.3, validation: 0.2}
encoder: {name: mlp, hidden: [6, 5]}
training: {epochs: 3, batch: 16, optimizer: {adam: {lr: 0.01}}, device: cpu}
repeats: 2
cells:
  - hard_sharing: {stages: 2}
  - cross_stitch: {per: layer}
"""
NUM_RUNS = 2 * (2 + 2)
FACES = """\
data: {reader: utkface, size: 32}
tasks:
  age:    {kind: regression, unit: years}
  gender: {kind: binary}
split: {by: rows, test: 0.4, validation: 0.2}
encoder: {name: vgg5}
training: {epochs: 1, batch: 16, device: cpu}
repeats: 1
cells:
  - hard_sharing: {stages: 3}
"""


def write_table(tmp_path: Path) -> Path:
    """A table of 120 rows of 30 people; a fifth of the ages is missing."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 4))
    age = 40 + 10 * features[:, 0] + rng.normal(size=120)
    table = pd.DataFrame(features, columns=list("abcd"))
    table["age"] = np.where(rng.random(120) < 0.2, np.nan, age)
    table["sex"] = np.where(features[:, 0] + features[:, 1] > 0, "F", "M")
    table["person"] = [f"P{row // 4}" for row in range(120)]
    table.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path


def read(*overrides: str, text: str = TEXT) -> Study:
    return check_study(apply_overrides(parse_document(text, "people.yaml"), overrides), "people")


class Watcher:
    """Notes what ran; calls `after` with every record."""

    def __init__(self, after: Callable[[RunRecord], None] | None = None) -> None:
        self.begun: list[RunSpec] = []
        self.ended: list[RunRecord] = []
        self._after = after

    def begin(self, total: int, done: int, failed: int, jobs: int) -> None:
        self.total, self.done = total, done

    def started(self, spec: RunSpec) -> None:
        self.begun.append(spec)

    def finished(self, record: RunRecord) -> None:
        self.ended.append(record)
        if self._after is not None:
            self._after(record)

    def end(self) -> None:
        pass


def run(folder: Path, *overrides: str, out: str = "out", text: str = TEXT, **options: object) -> Outcome:
    progress = options.pop("progress", None) or Watcher()
    return run_study(read(*overrides, text=text), folder / out, progress, data=folder, **options)


def values(out: Path) -> dict[tuple[str, str, str, str], float]:
    with ResultsStore(out / "results.sqlite", read_only=True) as store:
        return {
            (record.id, value.task, value.part, value.metric): value.value
            for record in store.records()
            for value in record.metrics
        }
