"""Tasks that stop in a network with a head per stage: a task's heads at all stages stop with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import taskloom as tl
from _freezing import PLANS, TRAIN, VALIDATION, Script, Watch, changed
from _training import TASKS
from taskloom.sharing import PlanNetwork
from taskloom.tasks import StageOutput
from taskloom.training import Callback, EarlyFreeze, History, TaskStopping, TrainingState, fit
from taskloom.training.freezing import Freezing

# gender converges in epoch 2 and is frozen after 4, mood stops after 8 (best in 6), age learns to the end.
TABLE: dict[str, list[float | None]] = {
    "age": [9.0, 8.0, 7.0, 6.0, 5.0, 4.9, 4.8, 4.7, 4.6],
    "gender": [2.0, 1.0, 3.0, 3.0] + [1.0] * 5,
    "mood": [5.0, 5.0, 5.0, 5.0, 4.0, 3.0, 6.0, 6.0, 3.0],
}
FROZEN_STAGES = {
    "hard sharing from the input": 2,
    "hard sharing from the output": 0,
    "cross-stitch everywhere": 3,
    "cross-stitch after the first": 1,
    "soft sharing": 0,
}
"""Stages from the input on in which nothing of age and mood learns after the freeze."""


def deep_network(name: str, *, norm: str | None = "batch", dropout: float = 0.2) -> PlanNetwork:
    architecture, settings = PLANS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = tl.encoders.mlp((4,), hidden=[8, 8, 6], dropout=dropout, norm=norm)
        model = tl.sharing.build(architecture, encoder, TASKS, deep_supervision=0.5, **settings)
    assert isinstance(model, PlanNetwork)
    assert len(model.deep_heads) == 6
    return model


def train(model: PlanNetwork, *callbacks: Callback, folder: Path | None = None, **changes: Any) -> History:
    settings = {"epochs": 9, "batch": 30, "optimizer": {"adamw": {"lr": 0.02, "weight_decay": 0.1}}}
    settings |= {"device": "cpu", "seed": 5, **changes}
    return fit(model, TRAIN, VALIDATION, callbacks=[Script(TABLE), *callbacks], folder=folder, **settings)


def entries(model: PlanNetwork, task: str, *, frozen_stages: int = 0) -> set[str]:
    """State dict entries of the task's own stages after the first few and of its heads over them."""
    stages = [f"stages.{stage}.{task}." for stage in model.stage_names[frozen_stages:]]
    deep = [f"deep_heads.{stage}-{task}." for stage in model.stage_names[frozen_stages:]]
    return {n for n in model.state_dict() if n.startswith((*stages, *deep, f"heads.{task}."))}


@pytest.mark.parametrize("name", PLANS)
def test_after_the_freeze_heads_learn_where_stages_below_them_do(name: str) -> None:
    watch, model = Watch(), deep_network(name)
    history = train(model, EarlyFreeze(patience=2), watch)
    assert history.shared_frozen == 4
    assert {task: (end.converged, end.stopped) for task, end in history.task_ends.items()} == {
        "gender": (2, 4),
        "mood": (6, 8),
        "age": (9, None),
    }
    own = {task: entries(model, task, frozen_stages=FROZEN_STAGES[name]) for task in ("age", "mood")}
    assert any("deep_heads" in n for n in own["age"]) == (FROZEN_STAGES[name] < 2)
    assert not changed(watch.weights[1], watch.weights[3])  # back to epoch 2, whole
    parameters = {n for n, _ in model.named_parameters()}
    for epoch in range(5, 10):
        learning = own["age"] | own["mood"] if epoch <= 8 else own["age"]
        assert changed(watch.weights[epoch - 2], watch.weights[epoch - 1]) == learning
        left = own["age"] | own["mood"] if epoch <= 7 else own["age"]
        assert watch.optimised[epoch - 1] == watch.with_state[epoch - 1] == left & parameters
        assert torch.equal(watch.predictions[1]["gender"], watch.predictions[epoch - 1]["gender"])
    for entry, tensor in model.state_dict().items():
        epoch = 9 if entry in own["age"] else 6 if entry in own["mood"] else 2
        assert torch.equal(tensor, watch.weights[epoch - 1][entry]), entry


@pytest.mark.parametrize("name", PLANS)
def test_after_the_freeze_an_epoch_follows_all_losses_of_the_tasks_that_go_on(name: str) -> None:
    watch, model = Watch(), deep_network(name, norm=None, dropout=0.0)
    train(model, EarlyFreeze(patience=2), watch, epochs=5, optimizer={"sgd": {"lr": 0.1}})
    plain = deep_network(name, norm=None, dropout=0.0)
    plain.load_state_dict(watch.weights[1])
    wanted = set().union(*(entries(plain, t, frozen_stages=FROZEN_STAGES[name]) for t in ("age", "mood")))
    own = [parameter for entry, parameter in plain.named_parameters() if entry in wanted]
    sampler = tl.data.batch.EpochBatchSampler(len(TRAIN), 30, shuffle=True, seed=5)
    sampler.set_epoch(5)
    plain.train()
    for rows in sampler:
        batch = TRAIN.__getitems__(rows)
        losses = tl.losses.per_task(plain(batch.inputs), batch.labels, TASKS)  # own and lower heads
        total = losses["age"].mean + losses["mood"].mean + plain.penalty()
        gradients = torch.autograd.grad(total, own)
        with torch.no_grad():
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter -= 0.1 * gradient
    for entry, tensor in plain.state_dict().items():
        torch.testing.assert_close(watch.weights[4][entry], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["hard sharing from the input", "cross-stitch after the first"])
def test_kept_features_give_what_recomputed_ones_do(name: str) -> None:
    ends = []
    for budget in (64.0, 0.0):
        model = deep_network(name)
        history = train(model, EarlyFreeze(patience=2, features_mb=budget))
        assert any("kept in memory" in note for note in history.notes) == (budget > 0)
        ends.append((model.state_dict(), [epoch.train_loss for epoch in history.epochs]))
    for entry, tensor in ends[0][0].items():
        torch.testing.assert_close(ends[1][0][entry], tensor, rtol=1e-5, atol=1e-6)
    for first, second in zip(ends[0][1], ends[1][1], strict=True):
        assert first.keys() == second.keys()
        pairs = [(loss, second[task]) for task, loss in first.items() if loss is not None]
        assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs], rel=1e-5)


class Crash(Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def epoch_end(self, state: TrainingState) -> None:
        if state.epoch == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [EarlyFreeze, TaskStopping])
def test_a_killed_run_equals_a_whole_one(kind: Any, tmp_path: Path) -> None:
    name = "cross-stitch after the first"
    whole, killed, again = (deep_network(name) for _ in range(3))
    history = train(whole, kind(patience=2), Crash(0))
    with pytest.raises(KeyboardInterrupt):
        train(killed, kind(patience=2), Crash(7), folder=tmp_path)
    resumed = train(again, kind(patience=2), Crash(0), folder=tmp_path)
    assert resumed.resumed_after == [6]
    assert resumed.without_seconds() == history.without_seconds()
    assert not changed(whole.state_dict(), again.state_dict())


@pytest.mark.parametrize("name", PLANS)
def test_a_task_that_stops_alone_takes_its_heads_along(name: str) -> None:
    watch, model = Watch(), deep_network(name)
    history = train(model, TaskStopping(patience=2), watch)
    assert {task: end.stopped for task, end in history.task_ends.items()} == {"gender": 4, "mood": 8}
    still = {n for n in entries(model, "gender") if ".gender." in n and "stages" not in n}
    still |= {n for n in model.state_dict() if n.startswith("deep_heads") and "-gender." in n}
    assert {n.split(".")[0] for n in still} == {"heads", "deep_heads"}
    lower = [n for n in still if n.startswith("deep_heads")]
    assert len({n.split(".")[1] for n in lower}) == 2
    for epoch in range(5, 10):
        moved = changed(watch.weights[epoch - 2], watch.weights[epoch - 1])
        assert not moved & still
        assert {n for n in model.state_dict() if n.startswith("deep_heads") and "-age." in n} <= moved
        gone = {"gender"} if epoch <= 7 else {"gender", "mood"}
        assert not {n for n in watch.optimised[epoch - 1] if any(f"-{t}." in n for t in gone)}
    assert any(n.startswith("stages.") for n in changed(watch.weights[7], watch.weights[8]))


def test_tasks_of_other_depths_and_adversaries_stop_with_their_heads() -> None:
    """gender is read out within the frozen front, mood is to be forgotten; after the freeze both go on."""
    tasks = tl.TaskSet(TASKS["age"], TASKS["gender"], tl.Multiclass("mood", 3, role="adversarial"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = tl.encoders.mlp((4,), hidden=[8, 8, 6])
        model = tl.sharing.build(
            "hard_sharing", encoder, tasks, stages=2, read_out={"gender": 2}, deep_supervision=0.5
        )
    assert isinstance(model, PlanNetwork)
    assert sorted(model.deep_heads) == [
        "dense_0-age",
        "dense_0-gender",
        "dense_0-mood",
        "dense_1-age",
        "dense_1-mood",
    ]
    watch = Watch()
    table: dict[str, list[float | None]] = {
        "age": [1.0, 2.0, 3.0, 3.0, 3.0, 3.0],
        "gender": [9.0, 8.0, 7.0, 6.0, 5.0, 4.0],
        "mood": [9.0, 8.0, 7.0, 6.0, 7.0, 8.0],
    }
    history = fit(
        model,
        TRAIN,
        VALIDATION,
        callbacks=[Script(table), EarlyFreeze(patience=2), watch],
        epochs=6,
        batch=30,
        device="cpu",
    )
    assert {task: end.stopped for task, end in history.task_ends.items()} == {
        "age": 3,
        "mood": 6,
        "gender": None,
    }
    moved = changed(watch.weights[2], watch.weights[4])
    assert {n.rsplit(".", 2)[0] for n in moved} == {"heads.gender", "heads.mood", "stages.dense_2.mood"}


def test_only_heads_that_learn_are_run_after_the_freeze() -> None:
    """A tree: gender and mood part after age has; of mood's lower heads none has anything left to teach."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = tl.encoders.mlp((4,), hidden=[8, 8, 6])
        tree = ["together", [["age"], ["gender", "mood"]], "alone"]
        model = tl.sharing.build("plan", encoder, TASKS, partition=tree, deep_supervision=0.5)
    assert isinstance(model, PlanNetwork)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    freezing = Freezing(model, optimizer, example=lambda: torch.zeros(1, 4))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    freezing.stop("gender", with_shared=True)
    assert all(p.requires_grad == (p.grad is not None) for p in model.parameters())  # memory is given back
    remainder = freezing.remainder
    assert remainder is not None

    def lower() -> set[tuple[str, str]]:
        found = remainder.train()(VALIDATION.inputs)
        return {(n.task, str(n)) for n in found if isinstance(n, StageOutput)}

    assert lower() == {("age", str(StageOutput.of("age", "dense_1", 0.5)))}
    model.train()
    freezing.set_modes()
    learning = {name for name, head in model.deep_heads.items() if head.training}
    assert learning == {"dense_1-age"}
    remainder.heard = ("age",)  # by a coupling, which listens to its predictions alone
    freezing.stop("age")
    assert lower() == set()
    assert remainder(VALIDATION.inputs)["age"].any()
