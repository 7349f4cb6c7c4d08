"""Class weights and balanced sampling as a study file has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from _small_study import read, run, values, write_table
from taskloom.errors import ConfigError
from taskloom.study.cells import baselines, expand_cells

WEIGHTED = ("tasks.sex={kind: multiclass, class_weights: balanced}", "repeats=1")
SAMPLED = "training.balanced_sampling=sex"


def test_they_are_other_runs_and_change_what_is_learned(tmp_path: Path) -> None:
    folder = write_table(tmp_path)
    for out, overrides in (
        ("plain", ("tasks.sex={kind: multiclass}", "repeats=1")),
        ("weighted", WEIGHTED),
        ("sampled", (*WEIGHTED, SAMPLED)),
    ):
        outcome = run(folder, *overrides, out=out)
        assert (outcome.done, outcome.failed) == (4, 0)
    runs = [{key[0] for key in values(folder / out)} for out in ("plain", "weighted", "sampled")]
    assert not runs[0] & runs[1]
    assert len(runs[1] & runs[2]) == 1  # age alone is not sampled by sex, and so is the same run


def test_a_cell_without_the_task_takes_every_row_once() -> None:
    study = read(SAMPLED)
    chosen = {
        cell.tasks: cell.training.balanced_sampling for cell in (*baselines(study), *expand_cells(study))
    }
    assert chosen == {("age",): None, ("sex",): "sex", ("age", "sex"): "sex"}


def test_a_task_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"training\.balanced_sampling: `sx` is not a task of this study"):
        baselines(read("training.balanced_sampling=sx"))
