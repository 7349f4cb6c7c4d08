"""Every balancer while tasks stop one by one: what it goes on doing, and what is refused before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from _balancing import NEEDS_ALL, make
from _balancing import network as plain_network
from _freezing import TRAIN, VALIDATION, Script, Watch, changed, network
from _training import TASKS
from taskloom.balancing import BALANCERS
from taskloom.errors import ConfigError
from taskloom.training import EarlyFreeze, History, TaskStopping, fit

# gender is best in epoch 1 and stops after 2; mood is best in 2 and stops after 4 (early freeze counts anew).
TABLE: dict[str, list[float | None]] = {
    "age": [9.0, 8.0, 7.0, 6.0],
    "gender": [2.0, 3.0, 3.0, 3.0],
    "mood": [9.0, 8.0, 8.5, 8.6],
}

# Nobody waits for a task of weight 0 (test_stop_when_entered.py): here gender and mood always have one.
SETTINGS: dict[str, dict[str, Any]] = {
    "curriculum": {"order": [["gender", "mood"], "age"]},
    "self_paced": {"start": 1.0},
}


def train(name: str, callback: Any, plan: str = "hard sharing from the input", **settings: Any) -> Any:
    model, watch = network(plan), Watch()
    history = fit(
        model,
        TRAIN,
        VALIDATION,
        epochs=4,
        batch=45,
        device="cpu",
        threads=1,
        clip=1.0,
        optimizer={"adam": {"lr": 0.01}},
        balancer=make(name, **{**SETTINGS.get(name, {}), **settings}),
        callbacks=[Script(TABLE), callback, watch],
    )
    return watch, history


def ends(history: History) -> dict[str, int | None]:
    return {task: end.stopped for task, end in history.task_ends.items()}


@pytest.mark.parametrize("name", list(BALANCERS))
def test_after_an_early_freeze_the_others_go_on(name: str) -> None:
    # Early freeze counts nobody before all have entered.
    entered = {"order": [list(TASKS)]} if name == "curriculum" else {}
    watch, history = train(name, EarlyFreeze(patience=1), **entered)
    assert history.shared_frozen == 2
    assert ends(history) == {"gender": 2, "mood": 4, "age": None}
    moved = changed(watch.weights[1], watch.weights[2])
    # Only what belongs to age and mood alone.
    assert moved
    own = {entry for entry in watch.weights[1] if ".age." in entry or ".mood." in entry}
    assert moved <= own
    assert all(torch.isfinite(tensor).all() for tensor in watch.weights[-1].values())


@pytest.mark.parametrize("name", [name for name in BALANCERS if name not in NEEDS_ALL])
def test_after_a_task_has_stopped_the_trunk_goes_on(name: str) -> None:
    watch, history = train(name, TaskStopping(patience=1))
    assert ends(history) == {"gender": 2, "mood": 3}
    for epoch in (2, 3):
        moved = changed(watch.weights[epoch - 1], watch.weights[epoch])
        assert any(".shared." in entry or "age.gender.mood" in entry or ".all." in entry for entry in moved)
        assert not any("heads.gender" in entry for entry in moved)
    assert all(torch.isfinite(tensor).all() for tensor in watch.weights[-1].values())


@pytest.mark.parametrize("name", NEEDS_ALL)
def test_methods_that_need_every_task_refuse_task_stopping_before_training(name: str) -> None:
    message = rf"balancing\.{name} needs 3 of the 3 .* callbacks\.task_stopping may stop all but 2 of them"
    with pytest.raises(ConfigError, match=message):
        train(name, TaskStopping(patience=1, tasks=["mood"]))
    # Whoever stops nothing is welcome: the check is about those that may stop.
    assert make(name).least_tasks(3) == 3


def test_too_few_tasks_are_refused_before_training() -> None:
    pair = TASKS.subset(["age", "gender"])
    for name, settings in (("krum", {}), ("trimmed_mean", {}), ("krum", {"byzantine": 1})):
        least = 3 + settings.get("byzantine", 0)
        with pytest.raises(ConfigError, match=rf"{name}: at least {least} tasks expected .* found 2 \(age,"):
            make(name, **settings).start(plain_network(tasks=pair))
    make("trimmed_mean", trim=0).start(plain_network(tasks=pair))


def test_gradnorm_rests_once_nothing_shared_is_trainable() -> None:
    _, history = train("gradnorm", EarlyFreeze(patience=1))
    states = [record.balancing for record in history.epochs]
    assert ["shared_frozen" in state for state in states] == [False, False, True, True]
    assert states[0] != states[1]
    weights = [{key: value for key, value in state.items() if "weight" in key} for state in states]
    assert weights[1] == weights[2] == weights[3]


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("soft_sharing", {"tie": "l2", "weight": 0.1}),
        ("single_task", {}),
        ("hard_sharing", {"stages": 1, "groups": [["age", "gender"], ["mood"]]}),
    ],
)
def test_gradnorm_refuses_a_plan_in_which_not_all_share(architecture: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no weights that the losses of all tasks reach"):
        make("gradnorm").start(plain_network(architecture, **settings))


@pytest.mark.parametrize(
    ("architecture", "settings"), [("hard_sharing", {"stages": 1, "from": "output"}), ("cross_stitch", {})]
)
def test_gradnorm_takes_what_all_share_or_hear(architecture: str, settings: dict[str, Any]) -> None:
    make("gradnorm").start(plain_network(architecture, **settings))
