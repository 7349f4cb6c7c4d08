"""Rows and sentences about balancing, from histories written by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from taskloom.study.balancing_facts import (
    LEARNED_WEIGHTS,
    balancing_row,
    best_weights,
    learned_weights_note,
    task_end_lines,
)

CELL = {"id": "c", "name": "hard sharing 2", "tasks": ["age", "sex"]}


def runs(*histories: dict[str, Any], balancing: dict[str, Any] | None = None) -> Any:
    resolved = {"balancing": balancing}
    return {
        ("c", "age"): [
            SimpleNamespace(repeat=number, history=history, resolved=resolved)
            for number, history in reversed(list(enumerate(histories)))  # as a pool may finish them
        ]
    }


def history(*states: dict[str, float], **more: Any) -> dict[str, Any]:
    epochs = [
        {"epoch": number, "balancing": state, "train_loss": {"age": 2.0 / number, "sex": 0.5}}
        for number, state in enumerate(states, start=1)
    ]
    return {"epochs": epochs, **more}


@pytest.mark.parametrize("factor", [0.001, 0.1, 0.6, 1.0, 30.0])
def test_the_minimum_of_the_weights_is_that_of_a_general_solver(factor: float) -> None:
    losses = np.array([0.9, 0.4, 1.3, 0.5])
    found = minimize(
        lambda w: float(w @ losses + factor * w @ w),
        np.full(4, 0.25),
        jac=lambda w: losses + 2 * factor * w,
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: float(w.sum() - 1), "jac": lambda w: np.ones(4)},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(best_weights(losses, factor), found.x, atol=1e-5)
    # Every task keeps a weight exactly while lambda exceeds half the sum of the distances from the largest.
    assert (min(best_weights(losses, factor)) > 0) == (factor > (1.3 - losses).sum() / 2)
    assert best_weights(losses, 0.0) == [0.0, 1.0, 0.0, 0.0]


def test_a_series_keeps_its_place_where_epochs_have_no_value() -> None:
    states = [
        {"weight/age": 1.0, "weight/sex": 1.0},
        {"weight/age": 2.0, "weight/sex": 0.5, "cosine/age/sex": -0.2, "conflict_rate": 1.0},
        {"shared_frozen": 1.0, "weight/age": 2.0},
    ]
    another = history({"weight/age": 9.0}, {"weight/age": 8.0})
    row = balancing_row(CELL, runs(history(*states, shared_frozen=2), another))
    assert row == {
        "cell": "c",
        "weights": {"age": [1.0, 2.0, 2.0], "sex": [1.0, 0.5, None]},
        "cosines": {"age, sex": [None, -0.2, None]},
        "conflict_rate": [None, 1.0, None],
        "frozen": 2,
        "note": "",
        "remark": "",
        "reversal": {},
    }
    assert balancing_row(CELL, runs(history({"weight/age": 1.0}, {"weight/age": 1.0}))) is None
    assert balancing_row(CELL, {}) is None


def test_the_reversal_of_an_adversary_is_told_though_weights_never_change() -> None:
    states = [{"weight/age": 1.0, "reversal/sex": 0.0}, {"weight/age": 1.0, "reversal/sex": 0.46}]
    row = balancing_row(CELL, runs(history(*states)))
    assert row is not None
    assert row["reversal"] == {"sex": [0.0, 0.46]}
    assert row["weights"] == {}  # a panel of straight lines says nothing


def test_the_note_on_learned_weights() -> None:
    states = [{"weight/age": 0.4, "weight/sex": 0.6}, {"weight/age": 0.3, "weight/sex": 0.7}]
    balancing = {"learned_weights": {"lambda": 0.5}}
    row = balancing_row(CELL, runs(history(*states), balancing=balancing))
    assert row is not None
    assert row["note"].startswith(
        "With the training losses of epoch 2 (age 1, sex 0.5) the minimum over the weights at lambda 0.5 "
        "lies at age 0.25, sex 0.75; below lambda 0.25 not every task keeps a weight there."
    )
    assert row["remark"] == LEARNED_WEIGHTS
    assert "at lambda 0.1 " in learned_weights_note({"balancing": {"learned_weights": {}}}, history(*states))
    assert learned_weights_note({"balancing": {"mean": {}}}, history(*states)) == ""
    # An auxiliary task's own factor comes before the learned weight: 0.2 times 0.5 is what counts.
    tasks = {"age": {"kind": "regression"}, "sex": {"kind": "binary", "role": "auxiliary", "weight": 0.2}}
    resolved = {"balancing": balancing, "tasks": tasks}
    assert "(age 1, sex 0.1)" in learned_weights_note(resolved, history(*states))


def end(converged: int, stopped: int | None) -> dict[str, int | None]:
    return {"converged": converged, "stopped": stopped}


def test_one_sentence_per_cell_on_when_tasks_stopped() -> None:
    first = {"epochs": [], "shared_frozen": 4, "task_ends": {"sex": end(2, 4), "age": end(9, None)}}
    assert task_end_lines(CELL, runs(first)) == [
        "hard sharing 2: sex converged in epoch 2 and stopped after epoch 4; what is shared froze after "
        "epoch 4; age learnt to the end (best in epoch 9)."
    ]
    second = {"epochs": [], "task_ends": {}}
    assert task_end_lines(CELL, runs(first, second)) == [
        "hard sharing 2: sex converged in epochs 2, – and stopped after epochs 4, –; what is shared froze "
        "after epochs 4, –; age learnt to the end (best in epochs 9, –). By repeat; – where it did not "
        "happen."
    ]
    assert task_end_lines(CELL, runs(second)) == []


def test_terms_that_are_balanced_as_tasks_count_in_the_minimum() -> None:
    """The smallest loss of all is a coupling's: at lambda 0.5 a general solver gives it a weight."""
    term, other = "coupling.matching_to_attributes", "coupling.co_annotation_to_classes"
    state = {"weight/age": 0.3, "weight/sex": 0.4, f"weight/{term}": 0.2, f"weight/{other}": 0.1}
    later = {**state, "weight/age": 0.2}
    epochs = [{**epoch, "coupling": {term: 0.25, other: 1.5}} for epoch in history(state, later)["epochs"]]
    resolved = {"balancing": {"learned_weights": {"lambda": 0.5}}}
    losses = np.array([1.0, 0.5, 0.25, 1.5])  # age and sex after two epochs, then the terms
    found = minimize(
        lambda w: float(w @ losses + 0.5 * w @ w),
        np.full(4, 0.25),
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: float(w.sum() - 1)},
        method="SLSQP",
        options={"ftol": 1e-14},
    ).x
    note = learned_weights_note(resolved, {"epochs": epochs})
    names = ("age", "sex", "matching to attributes", "co-annotation to classes")
    expected = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(names, found.round(6), strict=True))
    assert f"lies at {expected};" in note
    row = balancing_row(CELL, runs({"epochs": epochs}, balancing=resolved["balancing"]))
    assert row is not None
    assert set(row["weights"]) == set(names)
    # beside the losses, not among them: the weights are those of the tasks alone
    apart = [{**epoch, "balancing": {"weight/age": 0.5, "weight/sex": 0.5}} for epoch in epochs]
    assert "matching" not in learned_weights_note(resolved, {"epochs": apart})
