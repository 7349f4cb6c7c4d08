"""6 x 2-fold cross-validation: repeats beyond the folds draw the folds anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from _small_study import read, write_table
from taskloom.study.prepare import prepare_data
from taskloom.study.worker import DataCache

FOLDS = ("split={by: person, folds: 2, redraw: true}", "repeats=6")


def test_every_round_of_folds_has_a_draw_of_its_own() -> None:
    study = read(*FOLDS, "seed=10")
    asked = [study.split_of(repeat) for repeat in range(6)]
    assert [split["fold"] for split, _ in asked] == [0, 1, 0, 1, 0, 1]
    assert [seed for _, seed in asked] == [10, 10, 11, 11, 12, 12]
    assert [study.seed_of(repeat) for repeat in range(6)] == [10, 11, 12, 13, 14, 15]
    fixed = read("split={by: person, folds: 2}")
    assert {fixed.split_of(repeat)[1] for repeat in range(6)} == {0}


def test_two_folds_are_halves_and_rounds_differ(tmp_path: Path) -> None:
    folder = write_table(tmp_path)
    study = read(*FOLDS)
    cache = DataCache()
    prepared = prepare_data(study, folder, folder / "stores", cache, repeats=4)
    tests = []
    for request in prepared.requests:
        rows = request.load().test.rows  # type: ignore[attr-defined]
        tests.append(set(rows.tolist()))
    assert tests[0] | tests[1] == set(range(120))
    assert not tests[0] & tests[1]
    assert tests[2] | tests[3] == set(range(120))
    assert tests[0] not in (tests[2], tests[3])
    assert np.isclose(len(tests[0]), 60)
