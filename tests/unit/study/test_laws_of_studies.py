"""Laws of whole studies: what is said in another way, or is none of a run's business, changes no number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn import metrics
from typer.testing import CliRunner

from _random_studies import FEATURES, TASKS, RandomStudy, courses, measured, random_study, run
from taskloom.cli import app
from taskloom.study.runner import Outcome
from taskloom.training.trainer import Trainer

SEEDS = [4, 12]
UNIT = 16.0  # a power of two: numbers in another unit are rounded as before


class Base:
    """A study and what it came to."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.study, self.folder = random_study(seed, num_cells=2, epochs=2, repeats=3), folder
        self.outcome: Outcome = run(self.study, folder)
        self.values, self.courses = measured(self.outcome.folder), courses(self.outcome.folder)

    def again(self, name: str, change: Any, **options: Any) -> Outcome:
        return run(self.study.changed(change), self.folder / name, **options)


@pytest.fixture(scope="module", params=SEEDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(request.param, tmp_path_factory.mktemp("base"))


def nothing(study: RandomStudy) -> None:
    pass


def assert_same(base: Base, outcome: Outcome) -> None:
    np.testing.assert_equal(measured(outcome.folder), base.values)
    np.testing.assert_equal(courses(outcome.folder), base.courses)


def test_another_form_of_the_same_table(base: Base) -> None:
    assert_same(base, base.again("parquet", nothing, suffix=".parquet"))


def test_other_names_and_other_places(base: Base) -> None:
    """Classes, people and parts by other names, labels before features, tabs, cells in another order."""

    def change(study: RandomStudy) -> None:
        table, settings = study.table, study.settings
        table["sex"] = table["sex"].map({"man": "0", "woman": "1"})
        settings["tasks"]["sex"]["classes"] = ["0", "1"]
        table["person"] = "someone " + table["person"]
        table["part"] = table["part"].map({"train": "learn", "validation": "dev", "test": "held out"})
        settings["split"] |= {"validation": "dev", "test": "held out"}
        study.table = table[[*TASKS, "part", *FEATURES, "person"]]
        settings["cells"].reverse()

    assert_same(base, base.again("names", change, suffix=".tsv"))


def test_the_test_part_decides_nothing(base: Base) -> None:
    """Neither its labels nor its inputs: training and validation are the same to the last bit."""

    def change(study: RandomStudy) -> None:
        draw, rows = np.random.default_rng(1), study.table["part"] == "test"
        for name in FEATURES:
            study.table.loc[rows, name] = 50 * draw.normal(size=rows.sum()) + 7
        for task in TASKS:
            study.table.loc[rows, task] = draw.choice(study.table[task].dropna().unique(), rows.sum())

    folder = base.again("corrupted", change).folder
    np.testing.assert_equal(courses(folder), base.courses)
    assert_kept = {key: value for key, value in base.values.items() if key[3] == "validation"}
    np.testing.assert_equal(measured(folder, ("validation",)), assert_kept)
    assert measured(folder, ("test",)) != measured(base.outcome.folder, ("test",))


def test_a_unit_is_a_unit(base: Base) -> None:
    """Ages in sixteenths of a year: errors and gains are as many times larger, verdicts stay."""

    def change(study: RandomStudy) -> None:
        study.table["age"] = [None if age is None else UNIT * age for age in study.table["age"]]

    if base.study.settings["training"].get("monitor") == "metric":
        pytest.skip("the mean of metrics of several units depends on the units")
    outcome = base.again("unit", change)
    power = {"mae": 1, "rmse": 1, "mse": 2}
    expected = {
        key: value * (UNIT ** power.get(key[4], 0) if key[2] == "age" else 1)
        for key, value in base.values.items()
    }
    np.testing.assert_equal(measured(outcome.folder), expected)
    here, before = (one.to_frame().set_index("task") for one in (outcome, base.outcome))
    assert here["verdict"].tolist() == before["verdict"].tolist()
    for column in before.select_dtypes("number"):
        times = UNIT if column in ("alone", "test", "gain", "low", "high") else 1.0
        assert here.loc["age", column] == pytest.approx(times * before.loc["age", column], nan_ok=True)


def test_labels_of_another_task_are_not_seen(base: Base) -> None:
    """A task that is trained alone, when half of the labels of another one are blank."""

    def change(study: RandomStudy) -> None:
        study.table.loc[np.random.default_rng(3).random(len(study.table)) < 0.5, "sex"] = None
        study.settings["training"].pop("balanced_sampling", None)
        study.settings["cells"] = [{"hard_sharing": {"stages": 1}}]

    if "balanced_sampling" in base.study.settings["training"]:
        pytest.skip("rows are drawn by another task's classes")
    found = measured(base.again("blank", change).folder)
    kept = {key for key in base.values if key[0].endswith(" alone") and key[2] != "sex"}
    assert {key[2] for key in kept} == {"age", "place", "grade"}
    np.testing.assert_equal({key: found[key] for key in kept}, {key: base.values[key] for key in kept})


def test_interruptions_leave_no_trace(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped within steps drawn at random, and started again, as often as it takes."""
    steps, plain = [0], Trainer.step

    def counting(trainer: Trainer, *given: Any, **named: Any) -> Any:
        steps[0] += 1
        if steps[0] in stops:
            raise KeyboardInterrupt
        return plain(trainer, *given, **named)

    total = sum(
        math.ceil(len(base.study.table) * 2 / 3 / base.study.settings["training"]["batch"]) * len(course)
        for course in base.courses.values()
    )
    stops = set(np.random.default_rng(2).choice(total // 2, 4, replace=False).tolist())
    monkeypatch.setattr(Trainer, "step", counting)
    interrupted = 0
    while True:
        try:
            outcome = base.again("interrupted", nothing)
            break
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted >= 2
    assert_same(base, outcome)


def test_one_number_by_many_routes(base: Base) -> None:
    """The store, `results.parquet` and the report's rows; a bundle's predictions, judged by scikit-learn."""
    table = pd.read_parquet(base.outcome.folder / "results.parquet")
    for key, value in base.values.items():
        name, repeat, task, part, metric = key
        of_run = (table["cell_name"] == name) & (table["repeat"] == repeat) & (table["task"] == task)
        (row,) = table[of_run & (table["part"] == part) & (table["metric"] == metric)]["value"]
        assert row == value or (math.isnan(row) and math.isnan(value))
    settings = {**base.study.settings, "data": {"table": "table.csv", **base.study.settings["data"]}}
    file, bundle, new = (base.folder / name for name in ("study.yaml", "a.bundle", "new.csv"))
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    rows = base.study.table[base.study.table["part"] == "test"]
    rows[[*reversed(FEATURES), "person"]].to_csv(new, index=False)
    for name in sorted({key[0] for key in base.values}):
        command(["train", file, "--cell", name, "--data", base.folder, "--out", bundle])
        command(["predict", bundle, new, "--out", base.folder / "found.csv"])
        found = pd.read_csv(base.folder / "found.csv").set_index(rows.index)
        for task in {key[2] for key in base.values if key[0] == name}:
            there = rows[task].notna()
            for metric, value in by_sklearn(task, rows.loc[there, task], found.loc[there, task]).items():
                assert value == pytest.approx(base.values[name, 0, task, "test", metric], rel=1e-4, abs=1e-4)


def command(words: list[Any]) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def by_sklearn(task: str, true: Any, found: Any) -> dict[str, float]:
    if TASKS[task]["kind"] in ("regression", "ordinal"):
        true = true.astype(float)
        return {
            "mae": metrics.mean_absolute_error(true, found),
            "mse": metrics.mean_squared_error(true, found),
            "r2": metrics.r2_score(true, found),
        }
    return {"accuracy": metrics.accuracy_score(true, found)}
