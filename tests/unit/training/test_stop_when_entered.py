"""Tasks that have no weight yet cannot converge: nothing freezes or stops for them before they enter."""

from __future__ import annotations

from typing import Any

import pytest

import taskloom as tl
from _freezing import TRAIN, VALIDATION, Script, network
from taskloom import Multiclass, TaskSet
from taskloom.training import Callback, EarlyFreeze, History, TaskStopping, fit

TASKS = TRAIN.tasks
# mood gets worse from the start, age is best in epoch 4, gender never gets worse.
TABLE: dict[str, list[float | None]] = {
    "age": [9.0, 8.0, 7.0, 6.0, 6.5, 7.0, 7.5, 8.0],
    "gender": [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
    "mood": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
}


def train(callback: Callback, balancer: tl.balancing.Balancer, tasks: TaskSet = TASKS) -> History:
    return fit(
        network("hard sharing from the input", tasks=tasks),
        TRAIN,
        VALIDATION,
        epochs=8,
        batch=45,
        device="cpu",
        balancer=balancer,
        callbacks=[Script(TABLE), callback],
    )


def curriculum(*order: str, every: int) -> tl.balancing.Balancer:
    return tl.balancing.build("curriculum", {"order": list(order), "every": every})


def ends(history: History) -> dict[str, tuple[int, int | None]]:
    return {task: (end.converged, end.stopped) for task, end in history.task_ends.items()}


def test_early_freeze_waits_for_nobody_who_has_not_entered() -> None:
    # mood would freeze all after epoch 3; it enters in epoch 7, after age has converged in 4.
    history = train(EarlyFreeze(patience=2), curriculum("gender", "age", "mood", every=3))
    assert history.shared_frozen == 6
    # After the freeze it starts from its loss in epoch 4 and waits in 7 and 8, when it learns.
    assert ends(history) == {"age": (4, 6), "mood": (4, 8), "gender": (8, None)}


def test_a_task_stops_only_after_it_has_learnt() -> None:
    history = train(TaskStopping(patience=2), curriculum("gender", "age", "mood", every=2))
    assert ends(history) == {"age": (4, 6), "mood": (5, 7)}  # from epoch 3 and from epoch 5 on


@pytest.mark.parametrize("callback", [EarlyFreeze, TaskStopping])
def test_a_task_of_weight_0_decides_nothing(callback: Any) -> None:
    fixed = tl.balancing.build("weighted_sum", {"weights": {"mood": 0.0}})
    beside = TaskSet(TASKS["age"], TASKS["gender"], Multiclass("mood", 3, role="auxiliary", weight=0.0))
    plain = tl.balancing.build("weighted_sum")
    for history in (train(callback(patience=2), fixed), train(callback(patience=2), plain, beside)):
        assert "mood" not in ends(history) or ends(history)["mood"][1] is None
        assert ends(history)["age"] == (4, 6)


def test_a_method_that_turns_to_others_does_not_stop_the_count() -> None:
    """Weights that fall and rise, but stay above 0, are no reason to wait."""
    history = train(TaskStopping(patience=2), tl.balancing.build("dwa"))
    assert ends(history) == {"mood": (1, 3), "age": (4, 6)}
