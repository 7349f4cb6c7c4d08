"""Ways of sharing from a study file: what they found stands in the summary, what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from _small_study import TEXT, read, run, write_table
from taskloom.errors import ConfigError
from taskloom.study.cells import expand_cells

CELLS = TEXT.partition("cells:")[0] + "cells:\n"


def test_the_tree_over_time_is_in_the_summary(tmp_path: Path) -> None:
    text = CELLS + "  - adaptive_branching: {after_epochs: [1], branch_cost: 0.0}\n"
    run(write_table(tmp_path), "repeats=1", text=text)
    (mixing,) = json.loads((tmp_path / "out" / "summary.json").read_text())["mixing"]
    together, apart = [[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]
    assert mixing["over_time"] == {"dense_0": [together] * 3, "dense_1": [together, apart, apart]}


def test_branches_beyond_the_training_are_named_with_their_line(tmp_path: Path) -> None:
    text = CELLS + "  - hard_sharing: {stages: 2}\n  - adaptive_branching: {after_epochs: [1, 3]}\n"
    with pytest.raises(
        ConfigError, match=r"^people.yaml:11: .*after_epochs: epochs below the training's last"
    ):
        run(write_table(tmp_path), text=text)


def test_a_list_of_lists_is_one_cell_per_list() -> None:
    text = CELLS + "  - adaptive_branching: {after_epochs: [[1], [1, 2]]}\n"
    names = [cell.name for cell in expand_cells(read(text=text))]
    assert names == ["adaptive branching after epochs 1", "adaptive branching after epochs 1 2"]
