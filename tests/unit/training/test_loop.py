"""`fit` against a hand-written loop, the best epoch, and what it refuses."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from _training import TASKS, TensorRows, TinyNetwork, rows_with_holes
from taskloom import Labels, TaskSet
from taskloom.balancing import WeightedSum
from taskloom.errors import ConfigError, DataError, TrainingError
from taskloom.losses import per_task
from taskloom.training import Callback, TrainingState, evaluate, fit

TRAIN, VALIDATION = rows_with_holes(41, seed=1), rows_with_holes(30, seed=2)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


class KeepWeights(Callback):
    def __init__(self) -> None:
        self.epochs: list[dict[str, torch.Tensor]] = []

    def epoch_end(self, state: TrainingState) -> None:
        self.epochs.append(weights(state.model))


def hand_written(
    model: TinyNetwork, epochs: int, batch: int, seed: int, clip: float | None
) -> list[dict[str, float]]:
    """The same epochs in plain PyTorch: our order of rows, our dropout."""
    optimizer = torch.optim.Adam(
        [{"params": model.shared.parameters()}, {"params": model.heads.parameters(), "lr": 0.02}], lr=0.01
    )
    torch.manual_seed(seed)
    losses = []
    for epoch in range(1, epochs + 1):
        model.train()
        order = np.random.default_rng((seed, epoch)).permutation(len(TRAIN))
        sums, counts = dict.fromkeys(TASKS, 0.0), dict.fromkeys(TASKS, 0)
        for start in range(0, len(order), batch):
            rows = torch.from_numpy(order[start : start + batch])
            optimizer.zero_grad()
            each = per_task(model(TRAIN.inputs[rows]), TRAIN.labels[rows], TASKS)
            (sum(loss.mean for loss in each.values()) + model.penalty()).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            for task, loss in each.items():
                sums[task] += loss.sum.item()
                counts[task] += int(loss.count)
        losses.append({task: sums[task] / counts[task] for task in TASKS})
    return losses


@pytest.mark.parametrize("clip", [None, 0.1])
def test_equals_a_hand_written_loop(clip: float | None) -> None:
    ours, theirs, keep = TinyNetwork(), TinyNetwork(), KeepWeights()
    optimizer = {"adam": {"lr": 0.01}}
    history = fit(
        ours, TRAIN, VALIDATION, epochs=3, batch=8, seed=4, optimizer=optimizer, clip=clip, callbacks=[keep]
    )
    expected = hand_written(theirs, 3, 8, 4, clip)
    for found, tensor in zip(keep.epochs[-1].values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(found, tensor, rtol=1e-5, atol=1e-7)
    for record, losses in zip(history.epochs, expected, strict=True):
        assert record.train_loss == pytest.approx(losses, rel=1e-5)
    assert history.epochs[0].lr == {"shared": 0.01, "heads": 0.02}


def test_ends_with_the_best_epoch_of_validation() -> None:
    keep, model = KeepWeights(), TinyNetwork()
    # A rate so large that later epochs are worse than earlier ones.
    history = fit(
        model, TRAIN, VALIDATION, epochs=12, batch=8, optimizer={"adam": {"lr": 0.3}}, callbacks=[keep]
    )
    monitors = [record.monitor for record in history.epochs]
    best = int(np.argmin(monitors))
    assert best < len(monitors) - 1
    assert history.best_epoch == best + 1
    assert_same(weights(model), keep.epochs[best])
    assert evaluate(model, VALIDATION).losses == pytest.approx(history.best.validation_loss)
    assert history.best.monitor == pytest.approx(sum(history.best.validation_loss.values()))
    assert not model.training


def test_monitor_by_metric_is_the_signed_mean_and_larger_is_better() -> None:
    history = fit(TinyNetwork(), TRAIN, VALIDATION, epochs=6, batch=8, monitor="metric", device="cpu")
    for record in history.epochs:
        by_task = record.validation_metrics
        expected = (-by_task["age"]["mae"] + by_task["gender"]["accuracy"] + by_task["mood"]["accuracy"]) / 3
        assert record.monitor == pytest.approx(expected)
    monitors = [record.monitor for record in history.epochs]
    assert history.best_epoch == int(np.argmax(monitors)) + 1


def test_weights_of_the_balancer_count_in_the_monitor_and_auxiliary_tasks_do_not() -> None:
    tasks = TASKS.replaced(type(TASKS["mood"])("mood", 3, role="auxiliary"))
    history = fit(
        TinyNetwork(tasks), TRAIN, VALIDATION, epochs=1, balancer=WeightedSum({"age": 3.0, "mood": 7.0})
    )
    loss = history.best.validation_loss
    assert history.best.monitor == pytest.approx(3.0 * loss["age"] + loss["gender"])


def test_same_seed_same_result_and_the_caller_is_left_alone() -> None:
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    first, second, third = TinyNetwork(), TinyNetwork(), TinyNetwork()
    one = fit(first, TRAIN, VALIDATION, epochs=2, seed=5)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(1234)
    two = fit(second, TRAIN, VALIDATION, epochs=2, seed=5)
    fit(third, TRAIN, VALIDATION, epochs=2, seed=6)
    assert_same(weights(first), weights(second))
    assert one.without_seconds() == two.without_seconds()
    assert not torch.equal(first.shared.weight, third.shared.weight)


def test_record_of_the_run() -> None:
    model = TinyNetwork()
    history = fit(model, TRAIN, VALIDATION, epochs=2)
    assert history.num_parameters == sum(p.numel() for p in model.parameters())
    assert history.finished
    assert not history.stopped_early
    assert history.seconds_training > 0
    assert history.peak_memory_bytes > 10_000_000
    assert history.epochs[1].mixing == {"shared": torch.eye(3).tolist()}
    assert history.epochs[history.best_epoch - 1].penalty == pytest.approx(model.penalty().item())
    if not torch.cuda.is_available():
        assert (history.device, history.notes) == ("cpu", ["device auto: cpu, PyTorch finds no CUDA device"])


def test_early_stopping_ends_the_run() -> None:
    history = fit(
        TinyNetwork(),
        TRAIN,
        VALIDATION,
        epochs=50,
        optimizer={"sgd": {"lr": 1e-9}},
        stop={"patience": 2, "min_delta": 0.1},
    )
    assert len(history) == 3
    assert history.stopped_early
    assert history.notes[-1] == "stopped after epoch 3: the monitor did not improve for 2 epochs"


def test_loader_workers_change_nothing() -> None:
    alone, workers = TinyNetwork(), TinyNetwork()
    fit(alone, TRAIN, VALIDATION, epochs=2, device="cpu")
    fit(workers, TRAIN, VALIDATION, epochs=2, device="cpu", num_workers=1)
    assert_same(weights(alone), weights(workers))


def test_mixed_precision_stays_close_to_single() -> None:
    single, mixed = TinyNetwork(dropout=0.0), TinyNetwork(dropout=0.0)
    one = fit(single, TRAIN, VALIDATION, epochs=2, device="cpu", clip=1.0)
    two = fit(mixed, TRAIN, VALIDATION, epochs=2, device="cpu", clip=1.0, precision="bf16-mixed")
    assert two.best.monitor == pytest.approx(one.best.monitor, rel=0.02)
    assert two.best.monitor != one.best.monitor
    assert mixed.shared.weight.dtype == torch.float32


def test_a_batch_without_any_label_changes_nothing() -> None:
    labels = Labels(
        {name: value.clone() for name, value in TRAIN.labels.values.items()},
        {name: torch.zeros(41, dtype=torch.bool) for name in TASKS},
    )
    for present in labels.present.values():
        present[0] = True
    model, reference, keep = TinyNetwork(weight=0.0, dropout=0.0), TinyNetwork(dropout=0.0), KeepWeights()
    rows = TensorRows(TRAIN.inputs, labels, TRAIN.groups)
    fit(model, rows, VALIDATION, epochs=1, batch=1, optimizer={"sgd": {"lr": 0.1}}, callbacks=[keep])
    # 40 of the 41 steps had no label: one step of gradient descent, on row 0, is all that happened.
    losses = per_task(reference(TRAIN.inputs[:1]), labels[:1], TASKS)
    sum(loss.sum for loss in losses.values()).backward()
    for name, parameter in reference.named_parameters():
        rate = 0.1 if name.startswith("shared") else 0.2
        torch.testing.assert_close(keep.epochs[0][name], (parameter - rate * parameter.grad).detach())


# -- what is refused


class Poison(Callback):
    """Makes a weight huge or NaN before a step."""

    def __init__(self, value: float, epoch: int, step: int) -> None:
        self.value, self.at = value, (epoch, step)
        self.before: dict[str, torch.Tensor] = {}

    def batch_end(self, state: TrainingState) -> None:
        if (state.epoch, state.step + 1) == self.at:
            with torch.no_grad():
                state.model.heads["gender"].weight.fill_(self.value)
            self.before = weights(state.model)


def test_a_loss_that_becomes_nan_names_task_epoch_and_step(tmp_path: Path) -> None:
    model, poison = TinyNetwork(), Poison(math.nan, epoch=2, step=3)
    with pytest.raises(
        TrainingError, match=r"run 3f2a: the loss of task gender became nan in epoch 2, step 3"
    ):
        fit(
            model,
            TRAIN,
            VALIDATION,
            epochs=3,
            batch=8,
            folder=tmp_path / "3f2a",
            callbacks=[poison],
            device="cpu",
        )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7.0), poison.before[name].nan_to_num(7.0)), "no step was made"


def test_a_penalty_that_becomes_infinite_is_noticed() -> None:
    class Growing(TinyNetwork):
        def penalty(self) -> torch.Tensor:
            return self.shared.weight.square().sum() * torch.tensor(math.inf)

    with pytest.raises(TrainingError, match="the sum of losses and penalty became inf in epoch 1, step 1"):
        fit(Growing(), TRAIN, VALIDATION, epochs=1)


def test_nan_in_inputs_is_blamed_on_the_data() -> None:
    rows = copy.deepcopy(TRAIN)
    rows.inputs[5, 0] = math.nan
    with pytest.raises(DataError, match="found NaN or infinity in row 5"):
        fit(TinyNetwork(), rows, VALIDATION, epochs=1)
    with pytest.raises(DataError, match="found NaN or infinity in row 5"):
        fit(TinyNetwork(), TRAIN, rows, epochs=1)


def test_a_task_without_a_label() -> None:
    rows = copy.deepcopy(TRAIN)
    rows.labels.present["mood"][:] = False
    with pytest.raises(DataError, match="task mood has no label in any of the 41 training rows"):
        fit(TinyNetwork(), rows, VALIDATION)
    del rows.labels.present["mood"], rows.labels.values["mood"]
    with pytest.raises(DataError, match="task mood has no label"):
        fit(TinyNetwork(), rows, VALIDATION)
    history = fit(TinyNetwork(), TRAIN, rows, epochs=1)
    assert history.best.validation_loss["mood"] is None
    assert history.best.validation_metrics["mood"]["accuracy"] is None


def test_a_validation_that_cannot_judge() -> None:
    rows = copy.deepcopy(TRAIN)
    for present in rows.labels.present.values():
        present[:] = False
    with pytest.raises(DataError, match="none of the 41 validation rows has a label of age, gender, mood"):
        fit(TinyNetwork(), TRAIN, rows)
    one_class = TaskSet(type(TASKS["gender"])("gender", metric="auc"))
    rows.labels.present["gender"][:] = True
    rows.labels.values["gender"][:] = 1
    with pytest.raises(DataError, match="no main task has a defined metric on validation"):
        fit(TinyNetwork(one_class), TRAIN, rows, monitor="metric")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="Did you mean `epochs`"):
        fit(TinyNetwork(), TRAIN, VALIDATION, epoch=3)
    with pytest.raises(ConfigError, match="there is no such task"):
        fit(TinyNetwork(), TRAIN, VALIDATION, balancer=WeightedSum({"ages": 1.0}))
    wide = TASKS.replaced(type(TASKS["mood"])("mood", 4))
    with pytest.raises(ConfigError, match="task mood: the network has a multiclass head of width 4"):
        fit(TinyNetwork(wide), TRAIN, VALIDATION)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cuda was asked for, but PyTorch"):
            fit(TinyNetwork(), TRAIN, VALIDATION, device="cuda")
        with pytest.raises(ConfigError, match="16-mixed needs a GPU"):
            fit(TinyNetwork(), TRAIN, VALIDATION, precision="16-mixed")


def test_a_network_built_from_declared_tasks_equals_one_built_from_the_tasks_of_the_data() -> None:
    declared = TASKS.replaced(type(TASKS["age"])("age"))
    first, second = TinyNetwork(declared), TinyNetwork(TASKS)
    notes = [fit(model, TRAIN, VALIDATION, epochs=3, device="cpu").notes for model in (first, second)]
    assert notes == [["task age: center 1.0, scale 2.0 taken from the training data's task"], []]
    assert first.tasks == TASKS  # what a bundle says
    assert_same(weights(first), weights(second))
    results = [evaluate(model, VALIDATION, device="cpu") for model in (first, second)]
    values = [result.value("age", "mae") for result in results]
    assert values[0] == values[1]


def test_classes_that_the_data_found_reach_the_network() -> None:
    kind = type(TASKS["gender"])
    found = TASKS.replaced(kind("gender", ("F", "M")))
    rows = [TensorRows(part.inputs, part.labels, part.groups, found) for part in (TRAIN, VALIDATION)]
    model = TinyNetwork(TASKS)
    fit(model, *rows, epochs=1, device="cpu")
    assert model.tasks == found


def test_other_settings_than_the_data_are_noted() -> None:
    other = TASKS.replaced(type(TASKS["age"])("age", unit="years"))
    model = TinyNetwork(other)
    assert fit(model, TRAIN, VALIDATION, epochs=1, device="cpu").notes == [
        "task age: the network's settings differ from the training data's; its own are used"
    ]
    assert model.tasks == other
