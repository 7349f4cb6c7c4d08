"""recipes/tox21_balancing.yaml: a cell per method, on the data and network of recipes/tox21.yaml."""

from __future__ import annotations

from pathlib import Path

import yaml

from taskloom.balancing import BALANCERS
from taskloom.study import load_study
from taskloom.study.cells import expand_cells

RECIPES = Path(__file__).parents[3] / "recipes"
LEFT_OUT = {"pcd", "krum", "excess_mtl", "pbi", "cosmos", "gradient_sum"}
LEFT_OUT |= {"moco", "db_mtl", "sdmgrad", "uw_so", "imtl"}
"""The recipe's comment says why."""


def test_every_balancer_has_a_cell_but_those_that_the_recipe_names() -> None:
    cells = expand_cells(load_study(RECIPES / "tox21_balancing.yaml"))
    found = [name for cell in cells for name in (cell.balancing or {})]
    assert {*found} == {*BALANCERS} - LEFT_OUT
    comment = (RECIPES / "tox21_balancing.yaml").read_text(encoding="utf-8").split("data:")[0]
    assert all(name in comment for name in LEFT_OUT)
    # Nothing else differs: the report compares them with the plain sum.
    assert len({(cell.architecture, str(cell.settings), cell.tasks) for cell in cells}) == 1
    assert len({cell.name for cell in cells}) == len(cells) == 30


def test_everything_but_the_cells_is_that_of_the_recipe_on_sharing() -> None:
    first, second = (
        yaml.safe_load((RECIPES / name).read_text(encoding="utf-8"))
        for name in ("tox21.yaml", "tox21_balancing.yaml")
    )
    for document in (first, second):
        del document["cells"]
    assert first == second
