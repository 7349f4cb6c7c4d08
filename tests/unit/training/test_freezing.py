"""Early freeze against algorithm 1 done by hand; what is frozen moves no bit; a killed run equals a whole."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import taskloom as tl
from _freezing import PLANS, TRAIN, VALIDATION, Script, Watch, changed, network
from _training import TASKS
from taskloom.errors import ConfigError
from taskloom.sharing import MultiTaskNetwork
from taskloom.sharing.network import PlanNetwork
from taskloom.training import Callback, EarlyFreeze, EpochRecord, History, TrainingConfig, TrainingState, fit
from taskloom.training.checkpoints import load_checkpoint
from taskloom.training.freezing import Freezing, plan_reads, reads
from taskloom.training.optimizers import make_optimizer
from taskloom.training.stopping import Patience

Table = dict[str, list[float | None]]


@dataclass
class Expected:
    """What algorithm 1 does to a table: per task, the epoch whose weights it ends with."""

    frozen_after: int | None = None
    back_to: int | None = None
    first: str | None = None
    weights_of: dict[str, int] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    last_epoch: int = 0


def by_hand(table: dict[str, list[float]], patience: int) -> Expected:
    """Thesis 001, algorithm 1, line by line, and what its text says of the time after it."""
    tasks, result = list(table), Expected()
    num_epochs = len(table[tasks[0]])
    counter, minimum, zero_at = dict.fromkeys(tasks, 0), dict.fromkeys(tasks, float("inf")), {}
    epoch = 0
    while epoch < num_epochs and result.first is None:
        epoch += 1
        loss = {task: table[task][epoch - 1] for task in tasks}
        for task in tasks:  # line 3
            if loss[task] > minimum[task]:  # line 5
                counter[task] += 1  # line 6
            else:
                minimum[task] = loss[task]  # line 8
                counter[task], zero_at[task] = 0, epoch
        for task in tasks:
            if counter[task] >= patience:  # line 9
                result.first, result.frozen_after, result.back_to = task, epoch, zero_at[task]  # 10, 11
                break  # line 12
    result.last_epoch = epoch
    if result.first is None:
        return result
    result.weights_of = dict.fromkeys(tasks, result.back_to)
    result.stopped[result.first] = epoch
    for task in tasks:
        if task == result.first:
            continue
        lowest, waited = table[task][result.back_to - 1], 0
        for later in range(result.frozen_after + 1, num_epochs + 1):
            if table[task][later - 1] > lowest:
                waited += 1
            else:
                lowest, waited, result.weights_of[task] = table[task][later - 1], 0, later
            result.last_epoch = max(result.last_epoch, later)
            if waited == patience:
                result.stopped[task] = later
                break
    return result


@dataclass
class Outcome:
    history: History
    weights: dict[str, Tensor]
    trained_in: dict[str, float]


def play(table: dict[str, list[float]], patience: int, *, again_from: Sequence[int] = ()) -> Outcome:
    """Runs the callback over a table; "training" an epoch sets whatever still learns to the epoch's number.

    Args:
        table: Losses per task and epoch.
        patience: P.
        again_from: Epochs after which everything is built anew from the state that a checkpoint would hold.
    """
    tasks = tl.TaskSet(*(tl.Regression(name) for name in table))
    num_epochs = len(next(iter(table.values())))

    def build() -> tuple[TrainingState, EarlyFreeze]:
        model = tl.sharing.build("hard_sharing", tl.encoders.mlp((2,), hidden=[3]), tasks, stages=1)
        config = TrainingConfig(epochs=num_epochs)
        optimizer = make_optimizer(model, config, tl.balancing.WeightedSum())
        state = TrainingState(model, optimizer, tl.balancing.WeightedSum(), config, History("loss", seed=0))
        state.freezing.example = lambda: torch.zeros(1, 2)
        return state, EarlyFreeze(patience)

    state, callback = build()
    for epoch in range(1, num_epochs + 1):
        with torch.no_grad():
            for parameter in state.model.parameters():
                if parameter.requires_grad:
                    parameter.fill_(epoch)
        state.epoch = epoch
        losses: dict[str, float | None] = {task: values[epoch - 1] for task, values in table.items()}
        state.history.epochs.append(EpochRecord(epoch, {}, 0.0, losses, {}, 0.0, {}, 0.0, 0.0))
        callback.epoch_end(state)
        if epoch in again_from:
            old, kept = state, callback.state_dict()
            state, callback = build()
            state.history, state.stop_reason = old.history, old.stop_reason
            state.model.load_state_dict(old.model.state_dict())
            state.freezing.load_state_dict(old.freezing.state_dict())
            state.best = copy.deepcopy(old.best)
            callback.load_state_dict(copy.deepcopy(kept))
        if state.stop_reason is not None:
            break
    weights = state.best.weights or state.model.state_dict()
    values = {name: float(tensor.flatten()[0]) for name, tensor in weights.items()}
    return Outcome(state.history, weights, values)


TABLES: list[dict[str, list[float]]] = [
    # a converges in 2; b would have been best in 3, but goes back with it and goes on to 7.
    {"a": [5, 4, 6, 6, 0, 0, 0, 0, 0, 0, 0], "b": [9, 8, 1, 9, 9, 7, 6, 7, 7, 9, 9]},
    # An equal loss is no worse (line 5 has >), so a waits from 3 on.
    {"a": [4, 4, 4, 5, 5, 1], "b": [1, 1, 1, 1, 1, 1]},
    # Both reach the patience in one epoch: the first in order freezes, the other goes on.
    {"a": [1, 2, 2, 2, 2, 2], "b": [1, 2, 2, 0, 0, 0]},
    # Never.
    {"a": [3, 2, 1, 0.5], "b": [3, 4, 2, 1]},
    # A single bad epoch in between sets nothing back but the counter.
    {"a": [5, 6, 4, 5, 3, 4, 4, 1], "b": [9, 8, 7, 6, 5, 4, 3, 2]},
]


def random_table(seed: int) -> dict[str, list[float]]:
    """Whole numbers from few, so that equal losses are common."""
    draw = torch.Generator().manual_seed(seed)
    return {
        task: [float(x) for x in torch.randint(0, 6, (12,), generator=draw)] for task in ("a", "b", "c", "d")
    }


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("table", [*TABLES, *map(random_table, range(12))])
@pytest.mark.parametrize("again_from", [(), (2, 5, 6)])
def test_algorithm_1_line_by_line(
    table: dict[str, list[float]], patience: int, again_from: tuple[int, ...]
) -> None:
    expected, found = by_hand(table, patience), play(table, patience, again_from=again_from)
    history = found.history
    assert history.shared_frozen == expected.frozen_after
    assert len(history) == expected.last_epoch
    if expected.first is None:
        assert history.notes == [
            f"early freeze: no task waited {patience} epochs within {len(history)}; nothing froze"
        ]
        return
    assert {task: end.stopped for task, end in history.task_ends.items() if end.stopped} == expected.stopped
    assert {task: end.converged for task, end in history.task_ends.items()} == expected.weights_of
    for name, epoch in found.trained_in.items():
        task = name.split(".")[1]
        assert epoch == expected.weights_of.get(task, expected.back_to), name
    assert history.best_epoch == max(expected.weights_of.values())


def test_a_table_worked_out_on_paper() -> None:
    found = play(TABLES[0], patience=2)
    assert found.history.shared_frozen == 4
    assert {task: (end.converged, end.stopped) for task, end in found.history.task_ends.items()} == {
        "a": (2, 4),
        "b": (7, 9),
    }
    assert found.trained_in == {
        name: 7.0 if name.startswith("heads.b") or ".b." in name else 2.0 for name in found.trained_in
    }
    assert found.history.notes == [
        "early freeze: task a converged in epoch 2; after epoch 4 the model went back to it, and everything "
        "shared froze. Going on: b",
        "early freeze: task b converged in epoch 7 and stopped after epoch 9",
    ]


def test_a_task_without_validation_labels_never_waits() -> None:
    counter = Patience()
    for epoch in range(1, 5):
        assert counter.see(None, epoch, 0.0)
    assert (counter.epoch, counter.waited) == (4, 0)


def test_min_delta_asks_for_more_than_no_worse() -> None:
    counter = Patience()
    seen = [counter.see(loss, epoch, 0.5) for epoch, loss in enumerate([4.0, 4.0, 3.6, 3.5, 3.2], start=1)]
    assert seen == [True, False, False, True, False]


def train(name: str, callbacks: list[Callback], **changes: Any) -> tuple[MultiTaskNetwork, History]:
    model = network(name)
    settings = {
        "epochs": 12,
        "batch": 16,
        "optimizer": {"adamw": {"lr": 0.02, "weight_decay": 0.1}},
        "device": "cpu",
        "seed": 5,
        **changes,
    }
    return model, fit(model, TRAIN, VALIDATION, callbacks=callbacks, **settings)


# gender converges in epoch 2 and is frozen after 4, mood stops after 8 (best in 6), age learns to the end.
TABLE: Table = {
    "age": [9.0, 8.0, 7.0, 6.0, 5.0, 4.9, 4.8, 4.7, 4.6, 4.5, 4.4, 4.3],
    "gender": [2.0, 1.0, 3.0, 3.0] + [1.0] * 8,
    "mood": [5.0, 5.0, 5.0, 5.0, 4.0, 3.0, 6.0, 6.0] + [3.0] * 4,
}


def names_of(model: MultiTaskNetwork, *tasks: str) -> set[str]:
    """State dict entries below the modules that belong to these tasks."""
    inside = {id(part) for task in tasks for module in model.task_modules(task) for part in module.modules()}
    prefixes = [prefix for prefix, module in model.named_modules() if id(module) in inside]
    return {name for name in model.state_dict() if any(name.startswith(f"{p}.") for p in prefixes)}


def up_to_mixing(model: MultiTaskNetwork, last_stage: int) -> set[str]:
    assert isinstance(model, PlanNetwork)
    return {
        name
        for name in model.state_dict()
        if name.startswith("mixing.")
        or any(name.startswith(f"stages.{stage}.") for stage in model.stage_names[:last_stage])
    }


@pytest.mark.parametrize("name", PLANS)
def test_what_is_frozen_moves_no_bit_and_has_no_place_in_the_optimiser(name: str) -> None:
    watch = Watch()
    model, history = train(name, [Script(TABLE), EarlyFreeze(patience=2), watch])
    assert (history.shared_frozen, history.stopped_early) == (4, False)
    parameters = dict(model.named_parameters())
    live = names_of(model, "age", "mood")
    if name.startswith("cross-stitch"):
        live -= up_to_mixing(model, 3 if name.endswith("everywhere") else 1)
    # Back to epoch 2, whole.
    assert not changed(watch.weights[1], watch.weights[3])
    for epoch in range(5, 12):
        before, now = watch.weights[epoch - 2], watch.weights[epoch - 1]
        learning = live if epoch <= 8 else live & names_of(model, "age")
        assert changed(before, now) == learning
        left = live if epoch <= 7 else live & names_of(model, "age")
        assert watch.optimised[epoch - 1] == watch.with_state[epoch - 1] == left & set(parameters)
        assert torch.equal(watch.predictions[1]["gender"], watch.predictions[epoch - 1]["gender"])
        if epoch >= 8:
            assert torch.equal(watch.predictions[5]["mood"], watch.predictions[epoch - 1]["mood"])
    # The end: gender and everything frozen of epoch 2, mood's own of epoch 6, age's own of epoch 12.
    final = model.state_dict()
    for entry, tensor in final.items():
        epoch = 2
        if entry in live:
            epoch = 12 if entry in names_of(model, "age") else 6
        assert torch.equal(tensor, watch.weights[epoch - 1][entry]), entry
    assert history.best_epoch == 12
    assert history.notes[-1] == "early freeze: task age learnt to the end and is best in epoch 12"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_moments_start_anew_where_the_model_goes_back() -> None:
    steps: list[set[float]] = []

    class Steps(Callback):
        def epoch_end(self, state: TrainingState) -> None:
            steps.append({float(entry["step"]) for entry in state.optimizer.state.values()})

    train("hard sharing from the input", [Script(TABLE), EarlyFreeze(patience=2), Steps()], epochs=6)
    per_epoch = -(-len(TRAIN) // 16)
    assert steps == [{1.0 * per_epoch}, {2.0 * per_epoch}, {3.0 * per_epoch}, set(), {6.0}, {12.0}]


@pytest.mark.parametrize("name", ["hard sharing from the input", "hard sharing from the output"])
def test_after_the_freeze_an_epoch_is_plain_training_on_a_fixed_trunk(name: str) -> None:
    watch = Watch()
    model = network(name, norm=None, dropout=0.0)
    fit(
        model,
        TRAIN,
        VALIDATION,
        callbacks=[Script(TABLE), EarlyFreeze(patience=2), watch],
        optimizer={"sgd": {"lr": 0.1}},
        epochs=5,
        batch=16,
        seed=5,
        device="cpu",
    )
    plain = network(name, norm=None, dropout=0.0)
    plain.load_state_dict(watch.weights[1])
    own = [parameter for task in ("age", "mood") for parameter in plain.task_parameters(task)]
    sampler = tl.data.batch.EpochBatchSampler(len(TRAIN), 16, shuffle=True, seed=5)
    sampler.set_epoch(5)
    for rows in sampler:
        batch = TRAIN.__getitems__(rows)
        losses = tl.losses.per_task(plain(batch.inputs), batch.labels, TASKS)
        gradients = torch.autograd.grad(losses["age"].mean + losses["mood"].mean, own)
        with torch.no_grad():
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter -= 0.1 * gradient
    for entry, tensor in plain.state_dict().items():
        torch.testing.assert_close(watch.weights[4][entry], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PLANS)
def test_readers_by_differentiation_are_those_of_the_plan(name: str) -> None:
    model = network(name)
    assert isinstance(model, PlanNetwork)
    modules = [module for task in TASKS for module in model.task_modules(task)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found, planned = reads(model, VALIDATION.inputs[:1], modules), plan_reads(model)
    wanted = {id(module) for module in modules} | {id(parameter) for parameter in model.parameters()}
    for task in TASKS:
        assert found[task] & wanted == planned[task] & wanted
    assert not changed(before, model.state_dict())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_branched_plan_freezes_what_two_tasks_share_apart_from_the_first() -> None:
    plan = tl.sharing.Plan(
        TASKS.names,
        (
            tl.sharing.StagePlan((("age", "gender", "mood"),)),
            tl.sharing.StagePlan((("age",), ("gender", "mood"))),
            tl.sharing.StagePlan((("age",), ("gender",), ("mood",))),
        ),
    )
    model = PlanNetwork(tl.encoders.mlp((4,), hidden=[6, 6, 6]), TASKS, plan)
    watch = Watch()
    fit(
        model,
        TRAIN,
        VALIDATION,
        callbacks=[Script({**TABLE, "age": TABLE["gender"], "gender": TABLE["age"]}), EarlyFreeze(2), watch],
        epochs=6,
        device="cpu",
    )
    moved = {name.rsplit(".", 2)[0] for name in changed(watch.weights[3], watch.weights[5])}
    assert moved == {"stages.dense_2.gender", "stages.dense_2.mood", "heads.gender", "heads.mood"}


@pytest.mark.parametrize(
    ("name", "kills", "keep"),
    [
        ("hard sharing from the input", [(2, 3), (5, 1), (9, 2)], 1024.0),
        ("hard sharing from the input", [(6, 2), (11, 0)], 0.0),
        ("hard sharing from the output", [(4, 0), (7, 2)], 1024.0),
        ("cross-stitch after the first", [(8, 0), (10, 4)], 1024.0),
        ("soft sharing", [(6, 1)], 1024.0),
    ],
)
def test_a_killed_run_equals_a_whole_one(
    name: str, kills: list[tuple[int, int]], keep: float, tmp_path: Path
) -> None:
    class Kill(Callback):
        def __init__(self, at: tuple[int, int] = (0, 0)) -> None:
            self.at = at

        def batch_end(self, state: TrainingState) -> None:
            if (state.epoch, state.step) == self.at:
                raise KeyboardInterrupt

        def epoch_end(self, state: TrainingState) -> None:
            if (state.epoch, 0) == self.at:
                raise KeyboardInterrupt

    def run(folder: str, kill: Kill) -> tuple[MultiTaskNetwork, History]:
        callbacks: list[Callback] = [Script(TABLE), EarlyFreeze(patience=2, features_mb=keep), kill]
        schedule = {"plateau": {"patience": 1, "factor": 0.5}}
        return train(name, callbacks, folder=tmp_path / folder, schedule=schedule)

    whole, straight = run("whole", Kill())
    for at in kills:
        with pytest.raises(KeyboardInterrupt):
            run("parts", Kill(at))
    model, history = run("parts", Kill())
    assert not changed(whole.state_dict(), model.state_dict())
    assert history.without_seconds() == straight.without_seconds()
    assert history.resumed_after == [epoch - 1 for epoch, _ in kills]
    for file in ("last.ckpt", "best.ckpt"):
        first, second = (load_checkpoint(tmp_path / folder / file) for folder in ("whole", "parts"))
        for state in (first, second):
            if "history" in state:
                state["history"] = History.from_dict(state["history"]).without_seconds()
        assert_equal_trees(first, second)
    again, same = run("parts", Kill((1, 1)))  # finished: it would raise if a step were made
    assert not changed(again.state_dict(), model.state_dict())
    assert same.task_ends == history.task_ends


def assert_equal_trees(first: Any, second: Any) -> None:
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal_trees(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal_trees(one, other)
    else:
        assert first == second


def test_two_processes_freeze_as_one() -> None:
    models, records = [], []
    for devices in (1, 2):
        model = network("hard sharing from the input", norm=None, dropout=0.0)
        script, freeze = Script(TABLE), EarlyFreeze(patience=2)
        records.append(
            fit(
                model,
                TRAIN,
                VALIDATION,
                callbacks=[script, freeze],
                epochs=7,
                batch=32,
                devices=devices,
                device="cpu",
                threads=1,
                optimizer={"sgd": {"lr": 0.05, "momentum": 0.9}},
            )
        )
        models.append(model.state_dict())
    assert records[0].task_ends == records[1].task_ends
    assert records[0].notes[-3:] == records[1].notes[-3:]
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_mixed_precision_keeps_and_freezes() -> None:
    watch = Watch()
    _, history = train(
        "hard sharing from the input",
        [Script(TABLE), EarlyFreeze(patience=2), watch],
        precision="bf16-mixed",
        epochs=7,
    )
    assert history.shared_frozen == 4
    moved = changed(watch.weights[4], watch.weights[6])
    assert moved
    assert not any("shared" in name or "gender" in name for name in moved)


def test_an_interrupted_training_leaves_the_model_trainable() -> None:
    class Stop(Callback):
        def epoch_start(self, state: TrainingState) -> None:
            if state.epoch == 6:
                assert not all(parameter.requires_grad for parameter in state.model.parameters())
                raise KeyboardInterrupt

    model = network("soft sharing")
    with pytest.raises(KeyboardInterrupt):
        fit(
            model,
            TRAIN,
            VALIDATION,
            epochs=8,
            callbacks=[Script(TABLE), EarlyFreeze(2), Stop()],
            device="cpu",
        )
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_the_user_froze_before_stays_frozen() -> None:
    model = network("hard sharing from the input")
    frozen = list(model.stages["dense_0"].parameters())  # type: ignore[index,operator]
    for parameter in frozen:
        parameter.requires_grad_(False)
    fit(model, TRAIN, VALIDATION, epochs=6, callbacks=[Script(TABLE), EarlyFreeze(2)], device="cpu")
    assert not any(parameter.requires_grad for parameter in frozen)
    assert sum(not parameter.requires_grad for parameter in model.parameters()) == len(frozen)


def test_training_stop_gives_way_and_a_single_task_stops_at_its_best() -> None:
    tasks = tl.TaskSet(TASKS["age"])
    model = tl.sharing.single_task(tl.encoders.mlp((4,), hidden=[4]), tasks)
    watch = Watch()
    script = Script({"age": [3.0, 1.0, 2.0, 2.0, 2.0, 2.0]})
    history = fit(
        model,
        TRAIN,
        VALIDATION,
        epochs=6,
        stop={"patience": 1},
        callbacks=[script, EarlyFreeze(patience=3), watch],
        device="cpu",
    )
    assert len(history) == 5
    assert "training.stop does not act: a callback decides for every task by itself" in history.notes
    assert history.notes[-1] == "stopped after epoch 5: all tasks converged"
    assert not changed(model.state_dict(), watch.weights[1])


def test_rates_of_what_is_frozen_leave_the_record() -> None:
    _, history = train("cross-stitch after the first", [Script(TABLE), EarlyFreeze(patience=2)])
    assert set(history.epochs[0].lr) == {"task:age", "task:gender", "task:mood", "mixing"}
    assert set(history.epochs[4].lr) == {"task:age", "task:mood"}
    assert set(history.epochs[8].lr) == {"task:age"}


def test_history_round_trips_with_its_ends() -> None:
    _, history = train("hard sharing from the input", [Script(TABLE), EarlyFreeze(patience=2)])
    assert History.from_json(history.to_json()) == history
    assert history.task_ends["age"].stopped is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0}, r"early_freeze\.patience: a number of epochs from 1 expected, found 0\."),
        ({"patience": 2.5}, "found 2.5"),
        ({"patience": True}, "found True"),
        ({"min_delta": -1.0}, r"early_freeze\.min_delta: a number of 0 or more expected, found -1\.0\."),
        ({"min_delta": float("nan")}, "found nan"),
        ({"tasks": []}, r"early_freeze\.tasks: a list of task names expected, found \[\]\."),
        ({"tasks": "age"}, "a list of task names expected, found 'age'"),
        ({"features_mb": -1}, r"early_freeze\.features_mb: MiB from 0 expected, found -1\."),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EarlyFreeze(**settings)


def test_a_task_that_is_not_there() -> None:
    message = r"early_freeze\.tasks: there is no task `genders`\. Did you mean `gender`\? Tasks: age, gender"
    with pytest.raises(ConfigError, match=message):
        train("soft sharing", [EarlyFreeze(tasks=["age", "genders"])])
    model = network("soft sharing")
    freezing = Freezing(model, make_optimizer(model, TrainingConfig(), tl.balancing.WeightedSum()))
    freezing.example = lambda: VALIDATION.inputs[:1]
    with pytest.raises(ConfigError, match="there is no task `moods`"):
        freezing.stop("moods")
    freezing.stop("mood")
    with pytest.raises(ConfigError, match="task mood has stopped already"):
        freezing.stop("mood")


def test_a_checkpoint_of_another_patience_is_refused(tmp_path: Path) -> None:
    train("soft sharing", [EarlyFreeze(patience=2)], folder=tmp_path, epochs=1)
    with pytest.raises(ConfigError, match=r"callback_settings was .*'patience': 2.* is now .*'patience': 3"):
        train("soft sharing", [EarlyFreeze(patience=3)], folder=tmp_path, epochs=1)
