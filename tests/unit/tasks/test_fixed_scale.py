"""Numbers whose center and scale stay as declared, so that losses are in the papers' own units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import taskloom as tl
from taskloom.data.sources import resolve_tasks
from taskloom.errors import ConfigError
from taskloom.study.config import load_study
from taskloom.tasks import Landmarks, Ordinal, Regression, Task, task_from_dict

RECIPES = Path(__file__).parents[3] / "recipes"


def loss_in_years(age: Task, years: np.ndarray, predicted: np.ndarray) -> float:
    """The loss of predictions in years, through the outputs that stand for them."""
    assert isinstance(age, Regression)
    outputs = torch.from_numpy((predicted - age.center) / age.scale).float()[:, None]
    labels = tl.Labels(
        {"age": torch.from_numpy(years).float()}, {"age": torch.ones(len(years), dtype=torch.bool)}
    )
    return float(tl.losses.per_task({"age": outputs}, labels, tl.TaskSet(age))["age"].mean)


@pytest.mark.parametrize("name", ["thesis_001_balancing", "thesis_001_utkface_coral"])
def test_the_recipes_of_thesis_001_have_the_loss_of_equation_3_2(name: str) -> None:
    declared = load_study(RECIPES / f"{name}.yaml", []).config.tasks["age"]
    draw = np.random.default_rng(0)
    years, predicted = draw.integers(21, 61, 50).astype(float), draw.uniform(21, 60, 50)
    age = resolve_tasks({"age": declared}, {})["age"]
    assert isinstance(age, Regression)
    age = age.fit(torch.from_numpy(years))
    # Section 3.3.2: ages 21 to 60 are 0 to 39, divided by 40; half the square, summed, divided by the batch.
    target, output = (years - 21) / 40, (predicted - 21) / 40
    expected = (0.5 * (target - output) ** 2).sum() / len(years)
    assert loss_in_years(age, years, predicted) == pytest.approx(expected, rel=1e-5)


def test_thesis_000s_loss_is_the_squared_error_in_years() -> None:
    age = Regression("age", fixed_scale=True).fit(torch.tensor([20.0, 60.0]))
    years, predicted = np.array([30.0, 50.0]), np.array([33.0, 46.0])
    assert loss_in_years(age, years, predicted) == pytest.approx((9 + 16) / 2)


@pytest.mark.parametrize(
    "task",
    [Regression("age", center=3.0, scale=2.0, fixed_scale=True), Landmarks("face", 2, fixed_scale=True)],
    ids=lambda task: task.kind,
)
def test_a_fixed_task_is_itself_whatever_the_labels(task: Regression | Landmarks) -> None:
    assert task.fit(torch.tensor([[1.0, 5.0], [2.0, 9.0]])) == task
    assert task_from_dict(task.to_dict()) == task
    assert "fixed_scale" not in Regression("age").to_dict()  # run ids and bundles of before stay


def test_a_table_keeps_the_scale_that_is_declared(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    table = pd.DataFrame({"x": draw.normal(size=40), "age": draw.integers(20, 60, 40)})
    table.to_csv(tmp_path / "table.csv", index=False)
    fitted, fixed = (
        tl.data.table(
            tmp_path / "table.csv",
            tl.TaskSet(Regression("age", center=21.0, scale=40.0, fixed_scale=keeps)),
            features=["x"],
        ).tasks["age"]
        for keeps in (False, True)
    )
    assert isinstance(fitted, Regression)
    assert isinstance(fixed, Regression)
    assert (fixed.center, fixed.scale) == (21.0, 40.0)
    assert fitted.scale < 20


@pytest.mark.parametrize("key", ["center", "scale"])
@pytest.mark.parametrize("kind", ["regression", "landmarks"])
def test_a_scale_that_would_be_replaced_is_refused(kind: str, key: str) -> None:
    settings = {"kind": kind, key: 40, **({"points": 5} if kind == "landmarks" else {})}
    with pytest.raises(ConfigError, match=rf"^tasks\.age\.{key}: .* replace this 40; set `fixed_scale"):
        resolve_tasks({"age": settings}, {})
    kept = resolve_tasks({"age": {**settings, "fixed_scale": True}}, {})["age"]
    assert getattr(kept, key) == 40


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^tasks\.age\.fixed_scale: true or false expected, found 'yes'"):
        Regression("age", fixed_scale="yes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no center or scale"):
        Ordinal("grade", range=(1, 5), fixed_scale=True)
