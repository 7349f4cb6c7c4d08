"""Task-wise early stopping: a stopped task's loss leaves the sum, its own layers stay, the trunk goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import taskloom as tl
from _freezing import PLANS, TRAIN, VALIDATION, Script, Watch, changed, network
from _training import TASKS
from taskloom.errors import ConfigError
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import Callback, EarlyFreeze, History, TaskStopping, TrainingState, fit

# gender is at its lowest in epoch 2 and stops after 4; the others go on getting better.
TABLE: dict[str, list[float | None]] = {
    "age": [9.0, 8.0, 7.0, 6.0, 5.0, 4.0],
    "gender": [2.0, 1.0, 3.0, 3.0, 0.0, 0.0],
    "mood": [9.0, 8.0, 7.0, 6.0, 5.0, 4.0],
}


def train(name: str, *callbacks: Callback, **changes: Any) -> tuple[MultiTaskNetwork, History]:
    model = network(name, **{key: changes.pop(key) for key in ("norm", "dropout") if key in changes})
    settings = {
        "epochs": 6,
        "batch": 16,
        "seed": 5,
        "device": "cpu",
        "optimizer": {"adamw": {"lr": 0.02, "weight_decay": 0.1}},
        **changes,
    }
    return model, fit(model, TRAIN, VALIDATION, callbacks=callbacks, **settings)


ADVERSARY = tl.TaskSet(
    tl.Regression("age", center=1.0, scale=2.0), tl.Binary("gender", role="adversarial"), TASKS["mood"]
)
FORGOTTEN: dict[str, list[float | None]] = {**TABLE, "gender": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
"""An adversarial task that does as it should: its loss rises while the others' falls."""


@pytest.mark.parametrize("callback", [EarlyFreeze(patience=2), TaskStopping(patience=2)])
def test_what_is_forgotten_has_not_converged(callback: Callback) -> None:
    model = network("hard sharing from the input", tasks=ADVERSARY)
    settings = {"epochs": 6, "batch": 16, "seed": 5, "device": "cpu"}
    history = fit(model, TRAIN, VALIDATION, callbacks=[Script(FORGOTTEN), callback], **settings)
    assert history.shared_frozen is None
    assert history.task_ends == {}
    assert len(history.epochs) == 6


def test_an_adversarial_task_stops_where_it_is_named() -> None:
    model = network("hard sharing from the input", tasks=ADVERSARY)
    settings = {"epochs": 6, "batch": 16, "seed": 5, "device": "cpu"}
    callbacks = [Script(FORGOTTEN), TaskStopping(patience=2, tasks=["gender"])]
    history = fit(model, TRAIN, VALIDATION, callbacks=callbacks, **settings)
    assert {task: end.stopped for task, end in history.task_ends.items()} == {"gender": 3}


@pytest.mark.parametrize("callback", [EarlyFreeze(patience=2), TaskStopping(patience=2)])
def test_training_ends_when_only_adversarial_tasks_are_left(callback: Callback) -> None:
    table: dict[str, list[float | None]] = {
        "age": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "gender": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
        "mood": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    }
    model = network("hard sharing from the input", tasks=ADVERSARY)
    settings = {"epochs": 6, "batch": 16, "seed": 5, "device": "cpu"}
    history = fit(model, TRAIN, VALIDATION, callbacks=[Script(table), callback], **settings)
    assert {"age", "mood"} <= {*history.task_ends}
    assert len(history.epochs) < 6


@pytest.mark.parametrize("name", PLANS)
def test_only_what_the_stopped_task_alone_reads_stays(name: str) -> None:
    watch = Watch()
    model, history = train(name, Script(TABLE), TaskStopping(patience=2), watch)
    assert {task: (end.converged, end.stopped) for task, end in history.task_ends.items()} == {
        "gender": (2, 4)
    }
    assert history.shared_frozen is None
    moved = changed(watch.weights[3], watch.weights[5])
    still = set(watch.weights[3]) - moved
    prefixes = {"heads.gender."}
    if name.startswith("hard sharing from the input"):
        prefixes.add("stages.dense_2.gender.")
    if name == "hard sharing from the output":
        prefixes |= {"stages.dense_0.gender.", "stages.dense_1.gender."}
    if name == "soft sharing":
        prefixes |= {f"stages.dense_{number}.gender." for number in range(3)}
    if name == "cross-stitch after the first":  # its first column is heard by the others
        prefixes |= {"stages.dense_1.gender.", "stages.dense_2.gender."}
    expected = {entry for entry in watch.weights[3] if any(entry.startswith(p) for p in prefixes)}
    assert still == expected
    parameters = {entry for entry, _ in model.named_parameters()}
    assert watch.optimised[5] == watch.with_state[5] == parameters - expected
    assert (
        "task-wise early stopping: task gender converged in epoch 2 and stopped after epoch 4"
        in history.notes
    )


def test_the_others_follow_the_sum_of_their_own_losses() -> None:
    """Epoch 5 by hand: plain gradient descent on the losses of age and mood over everything they read."""
    watch = Watch()
    name = "hard sharing from the input"
    train(
        name,
        Script(TABLE),
        TaskStopping(patience=2),
        watch,
        optimizer={"sgd": {"lr": 0.1}},
        norm=None,
        dropout=0.0,
    )
    plain = network(name, norm=None, dropout=0.0)
    plain.load_state_dict(watch.weights[3])
    parameters = list(plain.parameters())
    sampler = tl.data.batch.EpochBatchSampler(len(TRAIN), 16, shuffle=True, seed=5)
    sampler.set_epoch(5)
    for rows in sampler:
        batch = TRAIN.__getitems__(rows)
        losses = tl.losses.per_task(plain(batch.inputs), batch.labels, TASKS)
        total = losses["age"].mean + losses["mood"].mean
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter -= 0.1 * gradient
    for entry, tensor in plain.state_dict().items():
        torch.testing.assert_close(watch.weights[4][entry], tensor, rtol=1e-4, atol=1e-6)


def test_training_loss_of_a_stopped_task_is_empty_and_its_validation_goes_on() -> None:
    _, history = train("hard sharing from the input", Script(TABLE), TaskStopping(patience=2))
    assert [loss is None for loss in history.curve("train_loss", "gender")] == [False] * 4 + [True] * 2
    assert all(record.validation_metrics["gender"]["accuracy"] is not None for record in history.epochs)


def test_training_ends_with_the_last_task_and_best_epoch_is_the_monitors() -> None:
    table: dict[str, list[float | None]] = {task: [1.0, 2.0, 3.0, 0.0] for task in TASKS}
    table["age"] = [2.0, 1.0, 2.0, 3.0]
    _, history = train("soft sharing", Script(table), TaskStopping(patience=2), epochs=4)
    assert {task: end.stopped for task, end in history.task_ends.items()} == {
        "age": 4,
        "gender": 3,
        "mood": 3,
    }
    monitors = [record.monitor for record in history.epochs]
    assert history.best_epoch == 1 + monitors.index(min(m for m in monitors if m is not None))


def test_only_the_named_tasks_stop() -> None:
    table: dict[str, list[float | None]] = {task: [1.0, 2.0, 3.0, 4.0] for task in TASKS}
    _, history = train(
        "soft sharing", Script(table), TaskStopping(patience=1, tasks=["mood", "age"]), epochs=4
    )
    assert set(history.task_ends) == {"mood", "age"}


@pytest.mark.parametrize("name", ["hard sharing from the input", "cross-stitch after the first"])
def test_a_killed_run_equals_a_whole_one(name: str, tmp_path: Path) -> None:
    class Kill(Callback):
        def __init__(self, epoch: int = 0) -> None:
            self.epoch = epoch

        def batch_end(self, state: TrainingState) -> None:
            if (state.epoch, state.step) == (self.epoch, 3):
                raise KeyboardInterrupt

    def run(folder: str, epoch: int = 0) -> tuple[MultiTaskNetwork, History]:
        return train(name, Script(TABLE), TaskStopping(patience=2), Kill(epoch), folder=tmp_path / folder)

    whole, straight = run("whole")
    for epoch in (3, 5, 6):
        with pytest.raises(KeyboardInterrupt):
            run("parts", epoch)
    parts, history = run("parts")
    assert not changed(whole.state_dict(), parts.state_dict())
    assert history.without_seconds() == straight.without_seconds()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0}, r"task_stopping\.patience: a number of epochs from 1 expected, found 0\."),
        ({"min_delta": "x"}, r"task_stopping\.min_delta: a number of 0 or more expected, found 'x'\."),
        ({"tasks": "age"}, r"task_stopping\.tasks: a list of task names expected"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskStopping(**settings)


def test_two_callbacks_that_stop_tasks_are_refused() -> None:
    message = "callbacks: early_freeze and task_stopping both decide when a task stops; leave one out"
    with pytest.raises(ConfigError, match=message):
        train("soft sharing", EarlyFreeze(), TaskStopping())
