"""Tasks that have no weight yet cannot converge: nothing freezes or stops for them before they enter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import taskloom as tl
from _freezing import TRAIN, VALIDATION, Script, network
from taskloom import Multiclass, TaskSet
from taskloom.training import Callback, EarlyFreeze, EarlyStopping, History, TaskStopping, TrainingState, fit

TASKS = TRAIN.tasks
# mood gets worse from the start, age is best in epoch 4, gender never gets worse.
TABLE: dict[str, list[float | None]] = {
    "age": [9.0, 8.0, 7.0, 6.0, 6.5, 7.0, 7.5, 8.0],
    "gender": [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
    "mood": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
}


def train(
    callback: Callback,
    balancer: tl.balancing.Balancer,
    folder: Path | None = None,
    *more: Callback,
    tasks: TaskSet = TASKS,
    script: Callback | None = None,
) -> History:
    return fit(
        network("hard sharing from the input", tasks=tasks),
        TRAIN,
        VALIDATION,
        epochs=8,
        batch=45,
        device="cpu",
        balancer=balancer,
        callbacks=[script or Script(TABLE), callback, *more],
        folder=folder,
    )


def curriculum(*order: str, every: int) -> tl.balancing.Balancer:
    return tl.balancing.build("curriculum", {"order": list(order), "every": every})


def ends(history: History) -> dict[str, tuple[int, int | None]]:
    return {task: (end.converged, end.stopped) for task, end in history.task_ends.items()}


def test_early_freeze_counts_from_the_epoch_in_which_the_last_task_enters() -> None:
    # age is best in epoch 4 and would freeze all after 6; mood enters in 5, and only then the count begins.
    history = train(EarlyFreeze(patience=2), curriculum("gender", "age", "mood", every=2))
    assert history.shared_frozen == 7
    assert ends(history) == {"age": (5, 7), "mood": (5, None), "gender": (8, None)}


def test_a_measured_curriculum_is_waited_for_too() -> None:
    # All train in the first epoch, which measures; then mood, as the rest, comes back one by one to epoch 6.
    history = train(EarlyFreeze(patience=1), tl.balancing.build("curriculum", {"measure": 1, "every": 2}))
    weights = [[epoch.balancing[f"weight/{task}"] for task in TASKS] for epoch in history.epochs]
    full = [number for number, row in enumerate(weights, start=1) if all(row)]
    assert full == [1, 6, 7, 8]
    assert history.shared_frozen == 7
    assert ends(history)["age"] == (6, 7)


def test_epochs_that_measure_the_order_do_not_count() -> None:
    # age gets worse from epoch 5 on; the order is measured for six epochs and nobody has entered by then.
    history = train(EarlyFreeze(patience=2), tl.balancing.build("curriculum", {"measure": 6, "every": 9}))
    assert history.shared_frozen is None


def test_epochs_in_which_self_paced_weights_measure_do_not_count() -> None:
    """All train in two epochs, one task alone in the third, then all: mood, worse in epoch 2, froze there."""
    history = train(EarlyFreeze(patience=1), tl.balancing.build("self_paced", {"start": 0.3, "growth": 50.0}))
    weights = [[epoch.balancing[f"weight/{task}"] for task in TASKS] for epoch in history.epochs]
    full = [number for number, row in enumerate(weights, start=1) if all(row)]
    assert full == [1, 2, 4, 5, 6, 7, 8]
    assert history.shared_frozen == 5
    # Where all are in from the start, nobody is waited for.
    history = train(EarlyFreeze(patience=1), tl.balancing.build("self_paced", {"start": 1.0}))
    assert history.shared_frozen == 2


def test_tasks_that_never_enter_are_said() -> None:
    history = train(EarlyFreeze(patience=1), curriculum("gender", "age", "mood", every=4))
    assert history.shared_frozen is None
    assert "early freeze: mood never entered within 8 epochs; nothing froze" in history.notes
    said = "balancing.curriculum: mood would enter in epoch 9, but the training has 8: lower"
    assert any(note.startswith(said) for note in history.notes)


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ({"order": ["gender", "age", "mood"], "every": 3}, 7),
        ({"order": ["gender", ["age", "mood"]], "every": 3}, 4),
        ({"measure": 2, "every": 2}, 7),
    ],
)
def test_an_order_that_the_training_does_not_reach_is_said_before_it(
    settings: dict[str, Any], last: int
) -> None:
    balancer = tl.balancing.build("curriculum", settings)
    model = network("hard sharing from the input", tasks=TASKS)
    balancer.start(model)
    assert balancer.remarks(last) == []
    (remark,) = balancer.remarks(last - 1)
    assert f"would enter in epoch {last}, but the training has {last - 1}" in remark
    entered = []
    for epoch in range(1, last + 1):
        balancer.epoch_end(dict.fromkeys(TASKS, 1.0 / epoch))
        entered.append(all(balancer.trains(task) for task in TASKS))
    assert entered[last - 2 :] == [False, True]


def test_a_resumed_run_counts_the_same(tmp_path: Path) -> None:
    class Crash(Callback):
        at = 6

        def epoch_end(self, state: TrainingState) -> None:
            if state.epoch == self.at:
                raise KeyboardInterrupt

    def run(folder: Path | None) -> History:
        given = curriculum("gender", "age", "mood", every=2)
        return train(EarlyFreeze(patience=2), given, folder, Crash())

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    Crash.at = 0
    again = run(tmp_path)
    assert again.resumed_after == [5]
    assert ends(again) == ends(run(None))


def test_stopping_by_the_monitor_waits_until_all_have_entered() -> None:
    # The sum of the losses is least in the first epoch; mood enters in the fifth.
    rising: dict[str, list[float | None]] = {task: [1.0 + n for n in range(8)] for task in TASKS}

    class Worse(Callback):
        def epoch_end(self, state: TrainingState) -> None:
            record = state.history.epochs[-1]
            record.monitor = sum(losses[record.epoch - 1] or 0.0 for losses in rising.values())

    lengths = []
    for balancer in (curriculum("gender", "age", "mood", every=2), tl.balancing.build("mean")):
        lengths.append(len(train(EarlyStopping(patience=2), balancer, script=Worse())))
    assert lengths == [6, 3]  # epochs 5 and 6 count; without a curriculum 2 and 3


def test_a_task_stops_only_after_it_has_learnt() -> None:
    history = train(TaskStopping(patience=2), curriculum("gender", "age", "mood", every=2))
    assert ends(history) == {"age": (4, 6), "mood": (5, 7)}  # from epoch 3 and from epoch 5 on


@pytest.mark.parametrize("callback", [EarlyFreeze, TaskStopping])
def test_a_task_of_weight_0_decides_nothing(callback: Any) -> None:
    fixed = tl.balancing.build("weighted_sum", {"weights": {"mood": 0.0}})
    beside = TaskSet(TASKS["age"], TASKS["gender"], Multiclass("mood", 3, role="auxiliary", weight=0.0))
    plain = tl.balancing.build("weighted_sum")
    for history in (train(callback(patience=2), fixed), train(callback(patience=2), plain, tasks=beside)):
        assert "mood" not in ends(history) or ends(history)["mood"][1] is None
        assert ends(history)["age"] == (4, 6)


@pytest.mark.parametrize("callback", [EarlyFreeze, TaskStopping])
@pytest.mark.parametrize("how", ["auxiliary", "balancer"])
def test_nobody_waits_for_a_task_of_weight_0_at_the_end(callback: Any, how: str) -> None:
    """age stops after epoch 5 and gender after 6: what is left of the epochs would train nothing."""
    tasks, weights = TASKS, {"mood": 0.0}
    if how == "auxiliary":
        mood = Multiclass("mood", 3, role="auxiliary", weight=0.0)
        tasks, weights = TaskSet(TASKS["age"], TASKS["gender"], mood), {}
    table = {**TABLE, "gender": [8.0, 7.0, 6.0, 5.0, 4.0, 6.0, 6.0, 7.0]}
    fixed = tl.balancing.build("weighted_sum", {"weights": weights})
    history = train(callback(patience=1), fixed, tasks=tasks, script=Script(table))
    assert len(history) == 6
    assert history.stopped_early
    assert history.notes[-1].endswith("all tasks converged")


def test_a_method_that_turns_to_others_does_not_stop_the_count() -> None:
    """Weights that fall and rise, but stay above 0, are no reason to wait."""
    history = train(TaskStopping(patience=2), tl.balancing.build("dwa"))
    assert ends(history) == {"mood": (1, 3), "age": (4, 6)}
