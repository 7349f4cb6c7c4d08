"""All tasks judged together: the mean of their gains, resampled as one number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from _small_study import Watcher
from taskloom.metrics import METRICS
from taskloom.study import load_study, run_study
from taskloom.study.mean_of_tasks import MeanOfTasks
from taskloom.study.resampling import Resampling
from taskloom.study.statistics import Scores, compare
from taskloom.terminal import print_verdicts

GROUPS = 9
STUDY = """\
data: {table: t.csv, group: who}
tasks:
  a: {kind: binary}
  b: {kind: binary}
  c: {kind: regression}
split: {by: group, test: 0.3, validation: 0.2}
encoder: {name: mlp, hidden: [4]}
training: {epochs: 1, batch: 32, device: cpu}
repeats: 3
cells:
  - hard_sharing: {stages: 1}
"""


def errors(seed: int) -> NDArray[np.float64]:
    """Squared errors of three runs, [R, G]."""
    return np.random.default_rng(seed).gamma(4.0, size=(3, GROUPS))


def scores(*tasks: NDArray[np.float64], mean: MeanOfTasks) -> Scores:
    ones = np.ones(GROUPS, dtype=np.int64)
    joined = {
        repeat: mean.join(
            {
                name: {"rows": ones, "squared": task[repeat][:, None]}
                for name, task in zip(mean.tasks, tasks, strict=True)
            }
        )
        for repeat in range(3)
    }
    return Scores({r: float(np.mean([task[r].mean() for task in tasks])) for r in range(3)}, joined)


def test_of_one_task_it_is_that_tasks_gain() -> None:
    mean = MeanOfTasks("mse", ["a"])
    ones = np.ones(GROUPS, dtype=np.int64)
    plain = [
        Scores(
            {r: float(line.mean()) for r, line in enumerate(errors(seed))},
            {r: {"rows": ones, "squared": line[:, None]} for r, line in enumerate(errors(seed))},
        )
        for seed in (0, 1)
    ]
    joined = [scores(errors(seed), mean=mean) for seed in (0, 1)]
    expected = compare("a", "mse", plain[0], {"cell": plain[1]})["cell"]
    assert (
        compare("a", "mse", joined[0], {"cell": joined[1]}, resampling=Resampling(mean))["cell"] == expected
    )


def test_of_two_tasks_it_is_the_gain_of_their_mean_error() -> None:
    """Errors that are averaged over tasks group by group first give the same mean and the same resamples."""
    mean = MeanOfTasks("mse", ["a", "b"])
    alone = scores(errors(0), errors(1), mean=mean)
    shared = scores(errors(2), errors(3), mean=mean)
    together = compare("mean", "mse", alone, {"cell": shared}, resampling=Resampling(mean))["cell"]
    one = MeanOfTasks("mse", ["a"])
    pooled = compare(
        "mean",
        "mse",
        scores((errors(0) + errors(1)) / 2, mean=one),
        {"cell": scores((errors(2) + errors(3)) / 2, mean=one)},
        resampling=Resampling(one),
    )["cell"]
    for field in ("gain", "low", "high", "p_value", "variance_repeats", "variance_clusters"):
        assert getattr(together, field) == pytest.approx(getattr(pooled, field), rel=1e-9)


def test_undefined_for_one_task_is_undefined_for_the_mean() -> None:
    mean = MeanOfTasks("mse", ["a", "b"])
    full = {"rows": np.ones(2, dtype=np.int64), "squared": np.ones((2, 1))}
    empty = {"rows": np.array([0, 1]), "squared": np.array([[0.0], [1.0]])}
    joined = mean.join({"a": full, "b": empty})
    assert METRICS["mse"].evaluate(empty, np.array([[1.0, 0.0]])).tolist() == pytest.approx(
        [np.nan], nan_ok=True
    )
    assert np.isnan(mean.evaluate(joined, np.array([[1.0, 0.0]]))).all()
    assert mean.label_counts(joined).tolist() == [1, 2]


@pytest.mark.parametrize(("same_metric", "expected"), [(True, "mean of 2 tasks"), (False, None)])
def test_a_study_has_the_row_only_where_one_metric_judges_all(
    tmp_path: Path, same_metric: bool, expected: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    table = pd.DataFrame(draw.normal(size=(120, 3)), columns=list("xyz"))
    table["who"] = np.arange(120) // 3
    table["a"], table["b"], table["c"] = (table.x > 0).astype(int), (table.y > 0).astype(int), table.z
    table.to_csv(tmp_path / "t.csv", index=False)
    text = STUDY.replace("  c: {kind: regression}\n", "") if same_metric else STUDY
    text = text if same_metric else text.replace("data: {", "data: {features: [x, y], ")
    (tmp_path / "s.yaml").write_text(text)
    run_study(load_study(tmp_path / "s.yaml"), tmp_path / "out", Watcher(), data=tmp_path)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    print_verdicts(summary)
    assert ("mean of" in capsys.readouterr().out) == (expected is not None)
    if expected is None:
        assert summary["overall"] is None
        return
    assert summary["overall"]["task"]["name"] == expected
    (gain,) = summary["overall"]["gains"]
    assert gain["gain"] == pytest.approx(np.mean([row["gain"] for row in summary["gains"]]))
    assert gain["baseline"] == pytest.approx(np.mean([row["baseline"] for row in summary["gains"]]))


@pytest.mark.parametrize(("unit", "times", "has_one"), [("", 100, False), ("", 1.5, True), ("m", 100, True)])
def test_errors_of_another_size_have_no_mean_where_no_unit_is_given(
    tmp_path: Path, unit: str, times: float, has_one: bool
) -> None:
    draw = np.random.default_rng(0)
    table = pd.DataFrame(draw.normal(size=(90, 4)), columns=["x", "y", "a", "b"])
    table.assign(who=np.arange(90) // 3, b=times * table.b).to_csv(tmp_path / "t.csv", index=False)
    tasks = "".join(f"  {name}: {{kind: regression, unit: '{unit}'}}\n" for name in "ab")
    begin, _, end = STUDY.partition("  a: {kind: binary}\n  b: {kind: binary}\n  c: {kind: regression}\n")
    (tmp_path / "s.yaml").write_text(begin + tasks + end)
    run_study(load_study(tmp_path / "s.yaml"), tmp_path / "out", Watcher(), data=tmp_path)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["overall"] is not None) == has_one
