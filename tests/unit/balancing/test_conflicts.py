"""Cosines, conflicts and weights of an epoch against a naive loop over its steps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from taskloom.balancing.conflicts import Conflicts

NAMES = ("age", "gender", "mood", "smile")


def test_means_over_the_steps_in_which_both_tasks_had_a_gradient() -> None:
    draw, conflicts = np.random.default_rng(0), Conflicts(NAMES)
    cosines: dict[tuple[int, int], list[float]] = {}
    weights: dict[int, list[float]] = {}
    for step in range(30):
        index = sorted(draw.choice(4, size=2 + step % 3, replace=False))
        rows = draw.normal(size=(len(index), 3))
        if step % 5 == 0:
            rows[0] = 0.0  # no gradient, no cosine
        if step % 7 == 0:
            rows[0], rows[1] = [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]  # at right angles: no conflict
        given = draw.random(len(index))
        conflicts.add(rows @ rows.T, index)
        conflicts.add_weights(given, index)
        for place, task in enumerate(index):
            weights.setdefault(task, []).append(given[place])
        for (i, first), (j, second) in itertools.combinations(enumerate(index), 2):
            length = np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])
            if length > 0:
                cosines.setdefault((first, second), []).append(float(rows[i] @ rows[j] / length))
    expected = {f"weight/{NAMES[task]}": np.mean(values) for task, values in weights.items()}
    for (first, second), values in cosines.items():
        expected[f"cosine/{NAMES[first]}/{NAMES[second]}"] = np.mean(values)
        expected[f"conflicts/{NAMES[first]}/{NAMES[second]}"] = np.mean([value < 0 for value in values])
    together = [value for values in cosines.values() for value in values]
    expected["conflict_rate"] = np.mean([value < 0 for value in together])
    assert 0.0 in together
    assert conflicts.report() == pytest.approx(expected)


def test_an_epoch_begins_with_nothing() -> None:
    conflicts = Conflicts(NAMES)
    conflicts.add(np.eye(2), [1, 3])
    assert conflicts.report() == {
        "cosine/gender/smile": 0.0,
        "conflicts/gender/smile": 0.0,
        "conflict_rate": 0.0,
    }
    assert conflicts.report() == {}
