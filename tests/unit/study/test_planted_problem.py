"""The planted problem: what is in the file; the right sharing wins and shows in the mixing matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import taskloom
import taskloom as tl
from _training import TensorRows
from taskloom.cli import app
from taskloom.data.simulate.planted import GROUPS, simulate_planted
from taskloom.errors import ConfigError, DataError
from taskloom.sharing import MultiTaskNetwork, build
from taskloom.study.cells import expand_cells
from taskloom.study.config import check_study
from taskloom.study.yaml_lines import parse_document
from taskloom.training import fit

NAMES = [name for group in GROUPS.values() for name in group]
GROUP_OF = np.array([number for number, group in enumerate(GROUPS.values()) for _ in group])
WITHIN = (GROUP_OF[:, None] == GROUP_OF) & ~np.eye(len(NAMES), dtype=bool)
ACROSS = GROUP_OF[:, None] != GROUP_OF
RECIPE = Path(taskloom.__file__).parents[2] / "recipes" / "planted.yaml"


def test_tasks_of_a_group_are_related_and_others_are_not(tmp_path: Path) -> None:
    table = pd.read_csv(simulate_planted(tmp_path / "planted", seed=3) / "planted.csv")
    assert table["part"].value_counts().to_dict() == {"train": 300, "validation": 300, "test": 1500}
    test = table[table["part"] == "test"]
    assert not test[NAMES].isna().any(axis=None)
    correlations = test[NAMES].corr().to_numpy()
    assert correlations[WITHIN].min() > 0.6  # at most 1 / (1 + 0.3 ** 2) = 0.92
    assert np.abs(correlations[ACROSS]).max() < 0.12
    share = table[table["part"] == "train"][NAMES].isna().to_numpy().mean()
    assert 0.45 < share < 0.55
    np.testing.assert_allclose(test[NAMES].std(), (1 + 0.3**2) ** 0.5, rtol=0.1)
    inputs = test.filter(like="x_").to_numpy()
    assert np.abs(np.corrcoef(inputs.T, test[NAMES].T)[:12, 12:]).max() < 0.12  # no linear model helps


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    first = CliRunner().invoke(app, ["simulate", "planted", str(tmp_path / "a"), "--rows", "40"])
    assert first.exit_code == 0, first.output
    second = simulate_planted(tmp_path / "b", rows=40)
    assert (tmp_path / "a" / "planted.csv").read_bytes() == (second / "planted.csv").read_bytes()
    other = simulate_planted(tmp_path / "c", rows=40, seed=1)
    assert (other / "planted.csv").read_bytes() != (second / "planted.csv").read_bytes()
    assert simulate_planted(second, rows=40, if_missing=True) == second
    with pytest.raises(DataError, match="holds a simulation with other parameters"):
        simulate_planted(second, rows=50, if_missing=True)


@pytest.mark.parametrize("wrong", [{"rows": 9}, {"missing": 1.0}, {"noise": -0.1}, {"noise": float("nan")}])
def test_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="simulate planted: at least 10 rows"):
        simulate_planted(tmp_path / "planted", **wrong)


def test_the_recipe_names_the_tasks_and_groups_of_the_file() -> None:
    study = check_study(parse_document(RECIPE.read_text(encoding="utf-8"), RECIPE.name), "planted")
    assert list(study.config.tasks) == NAMES
    first = expand_cells(study)[0]
    assert [tuple(group) for group in first.settings["groups"]] == list(GROUPS.values())


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TensorRows]:
    table = pd.read_csv(simulate_planted(tmp_path_factory.mktemp("planted") / "data") / "planted.csv")
    tasks, found = tl.TaskSet(*(tl.Regression(name) for name in NAMES)), {}
    for part, rows in table.groupby("part"):
        values = torch.tensor(rows[NAMES].to_numpy(), dtype=torch.float32)
        inputs = torch.tensor(rows.filter(like="x_").to_numpy(), dtype=torch.float32)
        labels = tl.Labels(
            {name: values[:, index].nan_to_num() for index, name in enumerate(NAMES)},
            {name: ~values[:, index].isnan() for index, name in enumerate(NAMES)},
        )
        found[str(part)] = TensorRows(inputs, labels, np.arange(len(rows)), tasks)
    return found


def trained(parts: dict[str, TensorRows], name: str, seed: int, **settings: Any) -> MultiTaskNetwork:
    torch.manual_seed(seed)
    network = build(name, tl.encoders.build("mlp", (12,), hidden=[16, 4]), parts["train"].tasks, **settings)
    optimizer = {"adamw": {"lr": 5e-3, "weight_decay": 1e-2}}
    fit(
        network,
        parts["train"],
        parts["validation"],
        seed=seed,
        epochs=40,
        batch=32,
        optimizer=optimizer,
        device="cpu",
    )
    return network.eval()


def errors(network: MultiTaskNetwork, rows: TensorRows) -> np.ndarray[Any, Any]:
    """Mean absolute error per task."""
    with torch.no_grad():
        outputs = network(rows.inputs)
    return np.array([(outputs[n][:, 0] - rows.labels.values[n]).abs().mean().item() for n in NAMES])


def test_sharing_within_the_groups_wins_and_the_matrices_show_them(parts: dict[str, TensorRows]) -> None:
    groups = [list(group) for group in GROUPS.values()]
    test, seeds = parts["test"], (0, 1)
    alone = np.mean([errors(trained(parts, "single_task", s), test) for s in seeds], axis=0)
    right, mixed = (
        np.mean([errors(trained(parts, "hard_sharing", s, stages=2, **more), test) for s in seeds], axis=0)
        for more in ({"groups": groups}, {})
    )
    assert (alone - right)[:-1].mean() > 0.03  # of a standard deviation of 1
    assert (alone - right)[:-1].mean() > (alone - mixed)[:-1].mean()
    assert (alone - mixed)[-1] < 0.0  # the unrelated task is better off by itself
    stitched = trained(
        parts,
        "cross_stitch",
        0,
        start={"same": 0.6, "other": 0.4},
        copies="same",
        lr_multiplier=3.0,
    )
    for matrix in stitched.mixing_matrices().values():
        weights = matrix.abs().numpy()
        assert weights[WITHIN].mean() > 1.2 * weights[ACROSS].mean()
