"""Training with a coupling: weight 0, schedules, interruptions, processes, precision, tasks that stop."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from _balancing import make, network
from _coupling import TABLE, TERMS, coupling
from _training import TASKS, rows_with_holes
from taskloom import encoders, sharing
from taskloom.coupling import CoAnnotation, Coupling, Matching, WeightSchedule
from taskloom.errors import ConfigError, TrainingError
from taskloom.losses import per_task
from taskloom.training import CALLBACKS, Callback, fit
from taskloom.training.callbacks import TrainingState
from taskloom.training.kept_features import Remainder

SETTINGS: dict[str, Any] = {"batch": 8, "device": "cpu", "threads": 1}
ROWS = rows_with_holes(30, 1), rows_with_holes(15, 2)
RAMP = WeightSchedule(0.8, start_epoch=1, ramp_epochs=2)


class Killed(Exception):
    pass


class KillAfter(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def epoch_start(self, state: TrainingState) -> None:
        if state.epoch > self.epoch:
            raise Killed


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    weights = second.state_dict()
    return all(torch.equal(tensor, weights[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("balancer", ["weighted_sum", "pcgrad"])
def test_weight_0_is_training_without_coupling_bit_by_bit(balancer: str) -> None:
    plain, coupled, acting = network(), network(), network()
    first = fit(plain, *ROWS, epochs=3, balancer=make(balancer), **SETTINGS)
    second = fit(coupled, *ROWS, epochs=3, balancer=make(balancer), coupling=coupling(0.0), **SETTINGS)
    fit(acting, *ROWS, epochs=3, balancer=make(balancer), coupling=coupling(0.5), **SETTINGS)
    assert same(plain, coupled)
    assert not same(plain, acting)
    assert first.without_seconds() == second.without_seconds()


def test_one_step_is_the_gradient_of_the_written_out_sum() -> None:
    """One batch, plain SGD: the step of losses plus terms, differentiated by hand."""
    rows = rows_with_holes(16, 3)
    trained, by_hand = network(), network()
    terms = coupling(WeightSchedule(0.8, ramp_epochs=1))
    fit(trained, rows, rows, epochs=1, optimizer={"sgd": {"lr": 0.1}}, batch=16, device="cpu", coupling=terms)
    outputs = by_hand(rows.inputs)
    total = sum(loss.mean for loss in per_task(outputs, rows.labels, TASKS).values())
    probabilities, logit = outputs["mood"].softmax(1), outputs["gender"][:, 0]
    wanted = probabilities @ torch.tensor([0.9, 0.2, 0.5])
    given = logit.sigmoid()
    matched = -(given * wanted.log() + (1 - given) * (1 - wanted).log()).mean()
    there = rows.labels.present["gender"]
    # One attribute says the same of every class: the soft label is uniform.
    annotated = -outputs["mood"].log_softmax(1).mean(1)[there].mean()
    (total + 0.4 * matched + 0.4 * annotated).backward()
    for parameter, tensor in zip(by_hand.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(tensor, parameter - 0.1 * parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_schedule_by_epoch_stands_in_the_record() -> None:
    history = fit(network(), *ROWS, epochs=4, coupling=coupling(RAMP), **SETTINGS)
    names = [set(record.coupling) for record in history.epochs]
    assert names == [set(), set(TERMS), set(TERMS), set(TERMS)]
    assert all(value is not None and value > 0 for value in history.epochs[1].coupling.values())
    assert set(history.epochs[0].train_loss) == set(TASKS)
    assert type(history).from_json(history.to_json()) == history


@pytest.mark.parametrize("as_tasks", [False, True])
@pytest.mark.parametrize("balancer", ["gradvac", "dwa"])
def test_a_killed_training_goes_on_as_if_nothing_had_been(
    balancer: str, as_tasks: bool, tmp_path: Path
) -> None:
    runs = []
    for folder, kill in (("whole", 99), ("killed", 2)):
        model = network()
        for last in (kill, 99):
            try:
                history = fit(
                    model,
                    *ROWS,
                    epochs=4,
                    folder=tmp_path / folder,
                    balancer=make(balancer),
                    callbacks=[KillAfter(last)],
                    coupling=coupling(RAMP, as_tasks=as_tasks),
                    **SETTINGS,
                )
                break
            except Killed:
                model = network(seed=8)
        runs.append((model, history))
    (whole, first), (resumed, second) = runs
    assert second.resumed_after == [2]
    assert first.without_seconds() == second.without_seconds()
    assert same(whole, resumed)
    assert (f"weight/{TERMS[0]}" in first.epochs[-1].balancing) == as_tasks


def test_another_coupling_is_another_run(tmp_path: Path) -> None:
    fit(network(), *ROWS, epochs=1, folder=tmp_path, coupling=coupling(0.5), **SETTINGS)
    with pytest.raises(ConfigError, match=r"coupling.*was.*0\.5.*is now.*0\.2"):
        fit(network(), *ROWS, epochs=1, folder=tmp_path, coupling=coupling(0.2), **SETTINGS)
    other = Coupling(
        TABLE.select(), classes="mood", attributes="gender", matching=Matching(0.5), co_annotation=None
    )
    assert other.settings()["relatedness"] == coupling().settings()["relatedness"]


def test_two_real_processes_equal_one() -> None:
    """The last batch has one row: a process without any must not count one."""
    train, validation = rows_with_holes(25, seed=1, holes=0.6), rows_with_holes(15, seed=2)
    alone, joined = network(), network()
    settings = {**SETTINGS, "epochs": 2, "coupling": coupling(RAMP)}
    one = fit(alone, train, validation, **settings)
    two = fit(joined, train, validation, devices=2, **settings)
    for first, second in zip(one.epochs, two.epochs, strict=True):
        assert first.train_loss == pytest.approx(second.train_loss, rel=1e-4)
        assert first.coupling == pytest.approx(second.coupling, rel=1e-4)
    for parameter, tensor in alone.state_dict().items():
        torch.testing.assert_close(joined.state_dict()[parameter], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("balancer", ["weighted_sum", "mgda_ub"])
def test_bfloat16_follows_single_precision(balancer: str) -> None:
    found = []
    for precision in ("32", "bf16-mixed"):
        history = fit(
            network(),
            *ROWS,
            epochs=2,
            balancer=make(balancer),
            coupling=coupling(),
            precision=precision,
            **SETTINGS,
        )
        last = history.epochs[-1]
        found.append([*last.train_loss.values(), *last.coupling.values()])
    assert found[0] == pytest.approx(found[1], rel=0.03)


# -- tasks that stop


class StopAt(Callback):
    """Stops tasks after given epochs."""

    stops_tasks = True

    def __init__(self, stops: dict[str, int], with_shared: bool, features_bytes: int = 2**30) -> None:
        self.stops, self.with_shared, self.features_bytes = stops, with_shared, features_bytes

    def fit_start(self, state: TrainingState) -> None:
        state.freezing.features_bytes = self.features_bytes

    def epoch_end(self, state: TrainingState) -> None:
        for task, epoch in self.stops.items():
            if state.epoch == epoch:
                state.freezing.stop(task, with_shared=self.with_shared)


@pytest.mark.parametrize("architecture", ["hard_sharing", "cross_stitch", "mmoe"])
def test_kept_features_change_nothing(architecture: str) -> None:
    settings = {"hard_sharing": {"stages": 1}, "mmoe": {"experts": 2}}.get(architecture, {})
    runs = []
    for budget in (2**30, 0):
        model = network(architecture, **settings)
        callbacks = [StopAt({"gender": 1, "age": 2}, with_shared=True, features_bytes=budget)]
        history = fit(model, *ROWS, epochs=4, callbacks=callbacks, coupling=coupling(), **SETTINGS)
        runs.append((model, history))
    (kept, first), (anew, second) = runs
    for one, other in zip(first.epochs, second.epochs, strict=True):
        assert one.coupling == pytest.approx(other.coupling, rel=1e-5)
    for parameter, tensor in kept.state_dict().items():
        torch.testing.assert_close(anew.state_dict()[parameter], tensor, rtol=1e-5, atol=1e-6)


def test_a_frozen_front_predicts_a_stopped_task_that_teaches() -> None:
    model = network()
    live = [model.task_copies("mood")[-1]]
    remainder = Remainder(model, ["mood"], live, ROWS[0].inputs[:1])
    remainder.train()
    remainder.heard = ("gender",)
    found, expected = remainder(ROWS[0].inputs), model(ROWS[0].inputs)
    torch.testing.assert_close(found["gender"], expected["gender"])
    assert not found["age"].any()


class KeepWeights(Callback):
    def __init__(self) -> None:
        self.weights: list[Any] = []

    def epoch_start(self, state: TrainingState) -> None:
        self.weights.append(copy.deepcopy(state.model.state_dict()))


@pytest.mark.parametrize("with_shared", [False, True])
def test_a_stopped_task_teaches_and_does_not_learn(with_shared: bool) -> None:
    """Gender stops: its head rests, mood goes on learning from it; mood's learning differs without terms."""
    heads: dict[bool, list[Any]] = {}
    for coupled in (True, False):
        keep = KeepWeights()
        fit(
            network(),
            *ROWS,
            epochs=3,
            callbacks=[StopAt({"gender": 1}, with_shared), keep],
            coupling=coupling(RAMP) if coupled else None,
            **SETTINGS,
        )
        heads[coupled] = keep.weights
    gender = [name for name in heads[True][0] if name.startswith("heads.gender")]
    mood = [name for name in heads[True][0] if name.startswith("heads.mood")]
    assert len(gender) == len(mood) > 0
    for name in gender:
        assert torch.equal(heads[True][1][name], heads[True][2][name])
    assert any(not torch.equal(heads[True][2][name], heads[False][2][name]) for name in mood)


def test_a_term_that_teaches_nobody_any_more_is_left_out() -> None:
    callbacks = [StopAt({"mood": 1, "gender": 2}, with_shared=False)]
    history = fit(network(), *ROWS, epochs=4, callbacks=callbacks, coupling=coupling(), **SETTINGS)
    assert [list(record.coupling) for record in history.epochs] == [[*TERMS], [TERMS[0]], [], []]


def test_early_freeze_as_a_callback_with_coupling() -> None:
    callbacks = [CALLBACKS["early_freeze"](patience=1)]
    history = fit(network(), *ROWS, epochs=6, callbacks=callbacks, coupling=coupling(), **SETTINGS)
    assert all(np.isfinite([v for v in e.coupling.values() if v is not None]).all() for e in history.epochs)


# -- mistakes


def test_refuses_what_does_not_fit_before_training() -> None:
    table = TABLE.renamed(classes={"0": "happy"})
    wrong = Coupling(table, classes="mood", attributes="gender")
    with pytest.raises(ConfigError, match=r"Table: happy, 1, 2\. Tasks: 0, 1, 2\."):
        fit(network(), *ROWS, epochs=1, coupling=wrong, **SETTINGS)
    regression = Coupling(TABLE, classes="mood", attributes="age")
    with pytest.raises(ConfigError, match="task age is a regression; only binary, multiclass and multilabel"):
        fit(network(), *ROWS, epochs=1, coupling=regression, **SETTINGS)
    with pytest.raises(ConfigError, match=r"coupling\.as_tasks: true or false expected, found 1"):
        coupling(as_tasks=1)


def test_a_method_that_needs_every_task_and_terms_that_come_later() -> None:
    ramped = coupling(RAMP, as_tasks=True)
    with pytest.raises(ConfigError, match=r"coupling\.as_tasks: balancing\.pcd needs 5 tasks in every batch"):
        fit(network(), *ROWS, epochs=3, balancer=make("pcd"), coupling=ramped, **SETTINGS)


def test_names_the_term_that_is_no_number() -> None:
    class Broken(Coupling):
        def terms(self, *args: Any, **kwargs: Any) -> Any:
            found = super().terms(*args, **kwargs)
            name = next(iter(found))
            return {**found, name: type(found[name])(found[name].sum * float("nan"), found[name].count)}

    broken = Broken(TABLE, classes="mood", attributes="gender")
    with pytest.raises(TrainingError, match=r"term coupling\.matching_to_attributes became nan in epoch 1"):
        fit(network(), *ROWS, epochs=1, coupling=broken, **SETTINGS)


def test_balancer_is_left_as_it_was() -> None:
    balancer = make("uncertainty")
    fit(network(), *ROWS, epochs=1, balancer=balancer, coupling=coupling(as_tasks=True), **SETTINGS)
    assert balancer.names_of(TASKS) == TASKS.names
    fit(network(), *ROWS, epochs=1, balancer=balancer, **SETTINGS)


def test_attributes_that_are_each_a_binary_task() -> None:
    """Twelve binary columns, as tox21 has them: labels given and labels that follow are the same tasks."""
    import taskloom as tl
    from _training import TensorRows
    from taskloom.coupling import from_labels

    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 4, generator=draw)
    names = [f"NR-{number}" for number in range(4)]
    tasks = tl.TaskSet(*(tl.Binary(name) for name in names))
    values = {name: (inputs[:, number // 2] > 0).long() for number, name in enumerate(names)}
    present = {name: torch.rand(60, generator=draw) > 0.5 for name in names}
    rows = TensorRows(inputs, tl.Labels(values, present), np.arange(60), tasks)
    table = from_labels(rows.labels, tasks, classes=names, attributes=names, minimum_support=3)
    assert table["NR-0", "NR-1"] == 1.0
    assert table["not NR-2", "NR-3"] == 0.0
    coupled = Coupling(table, classes=names, attributes=names, matching=Matching(two_sided=True))
    model = sharing.build("hard_sharing", encoders.mlp((4,), hidden=[8]), tasks, stages=1)
    history = fit(model, rows, rows, epochs=3, coupling=coupled, **SETTINGS)
    assert set(history.epochs[-1].coupling) == {
        "coupling.matching_to_attributes",
        "coupling.co_annotation_to_attributes",
    }
    assert isinstance(coupled._terms[1], CoAnnotation)
