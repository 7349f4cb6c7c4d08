"""Small random studies over a table, for laws that whole studies obey: what is changed, what must not change.

Every study has the same kinds of tasks (numbers, two classes, several classes, levels), labels with holes,
people as groups and a column that names the parts; what is drawn from a seed are the numbers, the training
settings and the cells.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from taskloom.study.config import load_study
from taskloom.study.results import ResultsStore, RunRecord
from taskloom.study.runner import Outcome, run_study

FEATURES = ("a", "b", "c", "d", "e")
TASKS: dict[str, dict[str, Any]] = {
    "age": {"kind": "regression", "unit": "years"},
    "sex": {"kind": "binary", "classes": ["man", "woman"]},
    "place": {"kind": "multiclass", "classes": ["hill", "lake", "town"]},
    "grade": {"kind": "ordinal", "range": [1, 5]},
}
ARCHITECTURES: tuple[dict[str, Any], ...] = (
    {"hard_sharing": {"stages": 1}},
    {"hard_sharing": {"stages": 2, "groups": [["age", "grade"], ["sex", "place"]]}},
    {"cross_stitch": {"per": "channel"}},
    {"soft_sharing": {"tie": "l2", "weight": 0.01}},
    {"soft_sharing": {"tie": "trace_norm", "weight": 0.001}},
    {"proportional_addition": None},
    {"sluice": {"skips": "concatenate"}},
    {"mmoe": {"experts": 2}},
    {"ple": None},
    {"task_routing": {"sharing": 0.5}},
    {"adaptive_branching": {"after_epochs": [1]}},
    {"adashare": None},
)
BESIDE: tuple[dict[str, Any], ...] = (
    {},
    {"balancing": {"pcgrad": None}},
    {"balancing": {"gradnorm": None}},
    {"balancing": {"dwa": None}},
    {"balancing": {"uncertainty": None}},
    {"balancing": {"famo": None}},
    {"balancing": {"mgda": None}},
    {"callbacks": [{"early_freeze": {"patience": 1}}]},
    {"callbacks": [{"task_stopping": {"patience": 1}}]},
    {"warm_start": "single_task"},
    {"teachers": "single_task"},
    {"head": {"hidden": [4], "dropout": 0.2}},
)
NO_BESIDE = {"adaptive_branching", "adashare"}  # change in training: not every companion goes with them
TRAINING: tuple[dict[str, Any], ...] = (
    {"optimizer": {"adam": {"lr": 0.02}}},
    {"optimizer": {"adamw": {"lr": 0.02, "weight_decay": 0.1}}, "schedule": {"cosine": {"warmup": 1}}},
    {"optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}}, "schedule": {"plateau": {"patience": 0}}},
    {"optimizer": {"adam": {"lr": 0.03}}, "clip": 0.5, "stop": {"patience": 1}, "monitor": "metric"},
    {"optimizer": {"adam": {"lr": 0.02}}, "augment": {"mixup": {"alpha": 0.3}, "label_smoothing": 0.1}},
    {"optimizer": {"rmsprop": {"lr": 0.01}}, "drop_last": True, "balanced_sampling": "place"},
)


@dataclass
class RandomStudy:
    """A table and the settings of a study over it; `settings["data"]` is filled in by `run`."""

    table: pd.DataFrame
    settings: dict[str, Any]

    def changed(self, change: Callable[[RandomStudy], None]) -> RandomStudy:
        """A copy to which something was done."""
        other = RandomStudy(self.table.copy(), copy.deepcopy(self.settings))
        change(other)
        return other


def random_table(draw: np.random.Generator, num_people: int = 24) -> pd.DataFrame:
    """Rows of people, five each, with labels that depend on the features; every part has every class."""
    num_rows = 5 * num_people
    features = draw.normal(size=(num_rows, len(FEATURES))).round(3)
    hidden = features @ draw.normal(size=(len(FEATURES), 3)) + 0.3 * draw.normal(size=(num_rows, 3))
    table = pd.DataFrame(features, columns=list(FEATURES))
    table["age"] = (40 + 8 * hidden[:, 0]).round(2)
    table["sex"] = np.where(hidden[:, 1] > 0, "woman", "man")
    table["place"] = np.array(["hill", "lake", "town"])[np.digitize(hidden[:, 2], [-0.6, 0.6])]
    table["grade"] = np.digitize(hidden[:, 0] + hidden[:, 1], [-2, -0.7, 0.7, 2]) + 1
    for task in TASKS:
        table[task] = table[task].astype(object).where(draw.random(num_rows) >= 0.25, None)
    people = np.repeat(np.arange(num_people), 5)
    table["person"] = [f"P{number:02d}" for number in people]
    table["part"] = np.array(["train"] * 4 + ["validation", "test"])[people % 6]
    return table


def random_study(seed: int, *, num_cells: int = 3, epochs: int = 3, repeats: int = 1) -> RandomStudy:
    """The study of a seed."""
    draw = np.random.default_rng(seed)
    table = random_table(draw)
    cells: list[dict[str, Any]] = []
    for number in draw.choice(len(ARCHITECTURES), num_cells, replace=False):
        architecture = copy.deepcopy(ARCHITECTURES[number])
        fits = not NO_BESIDE & set(architecture)
        beside = BESIDE[draw.integers(len(BESIDE))] if fits else {}
        cells.append({**architecture, **copy.deepcopy(beside)})
    training = {"epochs": epochs, "batch": int(draw.choice([7, 16, 32])), "device": "cpu"}
    training |= copy.deepcopy(TRAINING[draw.integers(len(TRAINING))])
    if "augment" in training:
        for cell in cells:
            cell.pop("teachers", None)
    settings = {
        "data": {"group": "person", "features": list(FEATURES)},
        "tasks": copy.deepcopy(TASKS),
        "split": {"by": "column", "column": "part"},
        "encoder": {"name": "mlp", "hidden": [8, 6]},
        "training": training,
        "repeats": repeats,
        "seed": int(draw.integers(1000)),
        "cells": cells,
    }
    return RandomStudy(table, settings)


class Silent:
    """Tells nothing of the runs."""

    def begin(self, total: int, done: int, failed: int, jobs: int) -> None:
        pass

    def started(self, spec: Any) -> None:
        pass

    def finished(self, record: RunRecord) -> None:
        assert record.status == "done", f"{record.cell_name}: {record.message}"

    def end(self) -> None:
        pass


def run(study: RandomStudy, folder: Path, *, suffix: str = ".csv", **options: Any) -> Outcome:
    """Writes the table, and runs the study; every run must end well."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"table{suffix}"
    if suffix == ".parquet":
        study.table.to_parquet(file, index=False)
    else:
        study.table.to_csv(file, index=False, sep="\t" if suffix == ".tsv" else ",")
    settings = {**study.settings, "data": {"table": file.name, **study.settings["data"]}}
    return run_study(load_study(settings), folder / "out", Silent(), data=folder, **options)


Key = tuple[str, int, str, str, str]


def measured(out: Path, parts: tuple[str, ...] = ("validation", "test")) -> dict[Key, float]:
    """Every metric value by cell name, repeat, task, part and metric."""
    return {
        (record.cell_name, record.repeat, value.task, value.part, value.metric): value.value
        for record in records(out)
        for value in record.metrics
        if value.part in parts
    }


def records(out: Path) -> list[RunRecord]:
    """The runs that have ended."""
    with ResultsStore(out / "results.sqlite", read_only=True) as store:
        return store.records()


def courses(out: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """What every epoch of every run came to, without the times, by cell name and repeat."""
    return {
        (record.cell_name, record.repeat): [
            {name: value for name, value in epoch.items() if not name.startswith("seconds")}
            for epoch in record.history["epochs"]
        ]
        for record in records(out)
    }
