"""The average relative improvement Delta m: by hand from a study's values, its interval by other routes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from _small_study import TEXT, run, write_table
from taskloom.metrics import load_summaries
from taskloom.report.load import render_report
from taskloom.study.improvement import average_improvement
from taskloom.study.results import ResultsStore, run_folder
from taskloom.study.runner import Outcome
from taskloom.study.statistics import holm
from taskloom.study.verdicts import Groups, by_cell_and_task
from taskloom.tasks import TaskSet

THREE = TEXT.replace("repeats: 2", "repeats: 3").replace("epochs: 3", "epochs: 12")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(write_table(tmp_path_factory.mktemp("people")), text=THREE)


def means(outcome: Outcome, part: str = "test") -> pd.Series:
    rows = pd.read_parquet(outcome.folder / "results.parquet")
    rows = rows[(rows.part == part) & rows.metric.isin(["mae", "accuracy"])]
    return rows[(rows.metric == "mae") == (rows.task == "age")].groupby(["cell_name", "task"]).value.mean()


def by_hand(values: pd.Series, cell: str) -> float:
    age, sex = values["age alone", "age"], values["sex alone", "sex"]
    return 100 * ((age - values[cell, "age"]) / age + (values[cell, "sex"] - sex) / sex) / 2


def test_it_is_what_a_reader_of_the_means_gets_by_hand(outcome: Outcome) -> None:
    found = outcome.summary["improvement"]
    names = {cell["id"]: cell["name"] for cell in outcome.summary["cells"]}
    values = means(outcome)
    assert len(found["gains"]) == 2
    for gain in found["gains"]:
        assert gain["gain"] == pytest.approx(by_hand(values, names[gain["cell"]]))
    on_validation = means(outcome, "validation")
    best = max(names.values(), key=lambda cell: by_hand(on_validation, cell))
    assert names[found["task"]["chosen_cell"]] == best
    assert (found["tasks"], found["left_out"]) == (["age", "sex"], [])


def test_it_stands_in_terminal_frame_and_report(outcome: Outcome) -> None:
    name = "average relative gain, 2 tasks"
    row = outcome.to_frame().set_index("task").loc[name]
    (gain,) = (
        gain
        for gain in outcome.summary["improvement"]["gains"]
        if gain["cell"] == outcome.summary["improvement"]["task"]["chosen_cell"]
    )
    assert (row.metric, row.unit, row.gain, row.low) == ("delta_m", "%", gain["gain"], gain["low"])
    assert math.isnan(row.alone)
    assert math.isnan(row.test)
    (line,) = (line for line in str(outcome).splitlines() if line.startswith(f"{name}  "))
    sign = "−" if gain["gain"] < 0 else "+"
    assert " Δm " in line
    assert f"{sign}{abs(gain['gain']):.2f} [" in line
    assert "] %" in line
    assert f"{name} (Δm): the gain of each task in % of its value alone" in str(outcome)
    page = render_report(outcome.folder).read_text(encoding="utf-8")
    assert page.count(name) >= 3  # the matrix, its sentence, what it is over
    assert "tasks gain " in page


def test_its_interval_by_loops_over_repeats_and_resamples(outcome: Outcome) -> None:
    with ResultsStore(outcome.folder / "results.sqlite", read_only=True) as store:
        records = store.records()
    cell = outcome.summary["cells"][0]["id"]
    done = by_cell_and_task(records)
    metrics = {"age": ("mae", "absolute", -1), "sex": ("accuracy", "hits", 1)}
    sums: dict[tuple[str, str], list[np.ndarray]] = {}
    for task, (metric, key, _) in metrics.items():
        for side, runs in (("alone", done["single_task", task]), ("shared", done[cell, task])):
            for one in sorted(runs, key=lambda run: run.repeat):
                path = run_folder(outcome.folder, one.id) / "test_summary.npz"
                summary = load_summaries(path)[task][metric]
                total = summary[key].reshape(len(summary[key]), -1).sum(axis=1)
                count = summary["rows"] if task == "age" else summary["labels"].sum(axis=(1, 2))
                sums.setdefault((task, side), []).append(np.stack([total, count], axis=1))

    def delta(pick: np.ndarray, repeats: list[int]) -> float:
        changes = []
        for task, (_, _, sign) in metrics.items():
            alone, shared = (
                np.mean([each[:, 0] @ pick / (each[:, 1] @ pick) for each in np.array(sums[key])[repeats]])
                for key in ((task, "alone"), (task, "shared"))
            )
            changes.append(100 * sign * (shared - alone) / alone)
        return float(np.mean(changes))

    number = len(sums["age", "alone"][0])
    once = np.ones(number)
    generator = np.random.default_rng(5)
    picks = (np.bincount(generator.integers(0, number, number), minlength=number) for _ in range(4000))
    draws = [delta(pick, [0, 1, 2]) for pick in picks]
    of_groups = np.var(draws, ddof=1) * number / (number - 1)
    # The jackknife over repeats, another route than the linear function.
    left_out = [delta(once, [r for r in range(3) if r != out]) for out in range(3)]
    of_repeats = 2 / 3 * np.sum((left_out - np.mean(left_out)) ** 2)
    found = average_improvement(outcome.folder, *changed(outcome, cell, "", 0.0))
    assert found is not None
    (parts,) = (gain for gain in found.gains if gain.cell == cell)
    assert [gain.p_adjusted for gain in found.gains] == holm([gain.p_value for gain in found.gains])
    assert parts.variance_clusters == pytest.approx(of_groups, rel=0.08)
    assert parts.variance_repeats == pytest.approx(of_repeats, rel=0.1)
    half = math.hypot(
        stats.t.ppf(0.975, 2) * math.sqrt(of_repeats), stats.t.ppf(0.975, number - 1) * math.sqrt(of_groups)
    )
    (gain,) = (gain for gain in outcome.summary["improvement"]["gains"] if gain["cell"] == cell)
    assert gain["gain"] == pytest.approx(delta(once, [0, 1, 2]))
    assert (gain["high"] - gain["low"]) / 2 == pytest.approx(half, rel=0.1)


def changed(
    outcome: Outcome,
    cell: str,
    task: str,
    value: float,
    part: str = "test",
    repeats: Sequence[int] = (0, 1, 2),
) -> tuple[TaskSet, dict[str, object], Groups]:
    """The study as if the runs of a cell had another value of a task in a part."""
    with ResultsStore(outcome.folder / "results.sqlite", read_only=True) as store:
        records, facts = store.records(), store.facts()
    found = []
    for one in records:
        metrics = [
            dataclasses.replace(m, value=value)
            if (one.cell, m.task, m.part) == (cell, task, part) and one.repeat in repeats
            else m
            for m in one.metrics
        ]
        found.append(dataclasses.replace(one, metrics=metrics))
    return TaskSet.from_dicts(facts["tasks"]), facts, by_cell_and_task(found)


def test_a_task_near_zero_alone_is_left_out_and_named(outcome: Outcome) -> None:
    tasks, facts, done = changed(outcome, "single_task", "sex", 0.01)
    assert average_improvement(outcome.folder, tasks, facts, done) is None  # one task is no mean


def test_a_repeat_without_a_value_on_validation_has_no_part_in_the_choice(outcome: Outcome) -> None:
    tasks, facts, done = changed(outcome, "single_task", "sex", math.nan, "validation", [1])
    found = average_improvement(outcome.folder, tasks, facts, done)
    names = {cell["id"]: cell["name"] for cell in outcome.summary["cells"]}
    rows = pd.read_parquet(outcome.folder / "results.parquet")
    rows = rows[(rows.part == "validation") & ((rows.metric == "mae") == (rows.task == "age"))]
    rows = rows[rows.metric.isin(["mae", "accuracy"]) & ~((rows.task == "sex") & (rows.repeat == 1))]
    values = rows.groupby(["cell_name", "task"]).value.mean()
    assert found is not None
    assert names[found.chosen] == max(names.values(), key=lambda cell: by_hand(values, cell))


def test_three_tasks_one_of_which_has_an_r2_near_zero(tmp_path: Path) -> None:
    table = pd.read_csv(write_table(tmp_path) / "people.csv")
    table["noise"] = np.random.default_rng(0).normal(size=len(table))
    table.to_csv(tmp_path / "people.csv", index=False)
    text = THREE.replace("  sex: ", "  noise: {kind: regression, metric: r2}\n  sex: ").replace(
        "group: person}", "group: person, features: [a, b, c, d]}"
    )
    found = run(tmp_path, text=text[: text.index("  - cross_stitch")]).summary["improvement"]
    assert found["tasks"] == ["age", "sex"]
    (reason,) = found["left_out"]
    assert reason.startswith("noise (alone its r2 is -")
    assert reason.endswith("too near 0 to be divided by)")
    assert found["task"]["name"] == "average relative gain, 2 tasks"


def test_folds_have_the_interval_of_folds(tmp_path: Path) -> None:
    """Six repeats on three folds: the linear function by repeat, then by fold, with what three folds say."""
    text = THREE.replace("split: {by: person, test: 0.3, validation: 0.2}", "split: {by: person, folds: 3}")
    text = text.replace("repeats: 3", "repeats: 6").replace("epochs: 12", "epochs: 4")
    outcome = run(write_table(tmp_path), text=text[: text.index("  - cross_stitch")])
    (gain,) = outcome.summary["improvement"]["gains"]
    assert gain["gain"] == pytest.approx(by_hand(means(outcome), "hard sharing 2"))
    rows = pd.read_parquet(outcome.folder / "results.parquet")
    rows = rows[(rows.part == "test") & (rows.metric == np.where(rows.task == "age", "mae", "accuracy"))]
    by_repeat = rows.set_index(["cell_name", "task", "repeat"]).value.unstack()
    changes = []
    for task, sign in (("age", -1), ("sex", 1)):
        shared, alone = by_repeat.loc["hard sharing 2", task], by_repeat.loc[f"{task} alone", task]
        changes.append(100 * sign * (shared - shared.mean() * alone / alone.mean()) / alone.mean())
    of_folds = np.mean(changes, axis=0).reshape(2, 3).mean(axis=0)
    with ResultsStore(outcome.folder / "results.sqlite", read_only=True) as store:
        ratio = store.facts()["test_over_train"]
    half = stats.t.ppf(0.975, 2) * math.sqrt(np.var(of_folds, ddof=1) * (1 / 3 + ratio))
    assert (gain["high"] - gain["low"]) / 2 == pytest.approx(half)


def test_groups_that_only_some_tasks_have_labels_of_are_drawn_too(tmp_path: Path) -> None:
    table = pd.read_csv(write_table(tmp_path) / "people.csv")
    without = table.person.str[1:].astype(int) % 3 == 0
    table.loc[without, "age"] = np.nan
    table.to_csv(tmp_path / "people.csv", index=False)
    outcome = run(tmp_path, text=THREE[: THREE.index("  - cross_stitch")])
    with ResultsStore(outcome.folder / "results.sqlite", read_only=True) as store:
        records, facts = store.records(), store.facts()
    done = by_cell_and_task(records)
    found = average_improvement(outcome.folder, TaskSet.from_dicts(facts["tasks"]), facts, done)
    assert found is not None
    path = run_folder(outcome.folder, done["single_task", "age"][0].id) / "test_summary.npz"
    of_age = load_summaries(path)["age"]["mae"]["rows"]
    assert np.count_nonzero(of_age) < len(of_age) == found.gains[0].num_clusters
