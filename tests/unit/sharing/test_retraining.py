"""AdaShare's phases: turns over halves of the rows, fixed policies, weights from anew; resumed, bundled."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from _module_networks import (
    HEAD,
    KINDS,
    gradients,
    inputs_of,
    load_where_named_alike,
    loss_of,
    network_of,
)
from _planted import PlantedRows, planted, planted_encoder, planted_tasks
from taskloom import Labels, encoders
from taskloom.deploy import load_bundle, save_bundle
from taskloom.errors import ConfigError
from taskloom.sharing import Look, build
from taskloom.sharing.modules import RetrainedNetwork, SkippingNetwork
from taskloom.training import Callback, History, TrainingState, fit
from taskloom.training.turns import Turns

SETTINGS: dict[str, Any] = {"batch": 16, "optimizer": {"adam": {"lr": 0.01}}, "device": "cpu", "seed": 3}


def retrained(kind: str, number: int, **settings: Any) -> RetrainedNetwork:
    network = network_of("adashare", kind, number, **{"retrain_from": 4, **settings})
    assert isinstance(network, RetrainedNetwork)
    return network


def never() -> Look:
    raise AssertionError("AdaShare looks at no rows")


def set_logits(network: SkippingNetwork, rows: list[list[float]]) -> None:
    with torch.no_grad():
        for policy, row in zip(network.policies.values(), rows, strict=True):
            policy.logits.copy_(torch.tensor(row))


@pytest.mark.parametrize("kind", KINDS)
def test_until_then_it_is_adashare(kind: str) -> None:
    network, plain = retrained(kind, 3, alternate=True), network_of("adashare", kind, 3, seed=7)
    load_where_named_alike(plain, network)
    inputs = inputs_of(kind)
    for mode in (True, False):
        outputs = []
        for one in (network, plain):
            torch.manual_seed(2)
            outputs.append(one.train(mode)(inputs))
        assert all(torch.equal(output, outputs[1][task]) for task, output in outputs[0].items())
    assert network.change(3, never) is None
    assert torch.equal(network.penalty(), plain.penalty())


@pytest.mark.parametrize("kind", KINDS)
def test_an_all_on_fixed_policy_is_hard_sharing(kind: str) -> None:
    network = retrained(kind, 3, retrain_policy="hard")
    set_logits(network, [[5.0] * (len(network.stage_names) - 1)] * 3)
    assert network.change(4, never) is not None
    shared = network_of("hard_sharing", kind, 3, stages=3, seed=5)
    load_where_named_alike(shared, network)
    inputs = inputs_of(kind)
    ours, theirs = network(inputs), shared(inputs)  # in training: nothing is drawn any more
    assert all(torch.equal(ours[task], output) for task, output in theirs.items())
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss_of(ours.values()), list(learning.values()))
    of_shared = gradients(shared, theirs.values())
    assert learning.keys() == of_shared.keys()
    for name, gradient in zip(learning, found, strict=True):
        assert torch.equal(of_shared[name], gradient)
    assert network.penalty().item() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_skipped_learns_no_more_and_weights_start_anew(kind: str) -> None:
    network = retrained(kind, 3, retrain_policy="hard")
    begun = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3)
    set_logits(network, [[2.0, -1.0], [-2.0, -1.0], [1.0, -3.0]])
    change = network.change(4, never)
    assert change is not None
    assert change.anew
    assert change.note.endswith("task_0 x-, task_1 --, task_2 x- (x executes a stage, - skips it)")
    for name, tensor in network.state_dict().items():
        if name.startswith(("stages.", "heads.")):
            assert torch.equal(tensor, begun[name])
    learns = {name for name, p in network.named_parameters() if p.requires_grad}
    last = f"stages.{list(network.stages)[-1]}."
    everything = {name for name, _ in network.named_parameters()}
    assert learns == {n for n in everything if not n.startswith(("policies.", last))}
    assert not any(group.name == "policy" for group in network.parameter_groups())
    assert network.hard_policy().tolist() == [[True, True, False], [True, False, False], [True, True, False]]
    # Loading an older state opens the policies again.
    network.load_state_dict(begun)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.fixed.eq(-1).all()


def test_sampled_policies_follow_their_probabilities_and_the_seed() -> None:
    counts = torch.zeros(2, 2)
    for seed in range(60):
        torch.manual_seed(seed)
        network = build("adashare", planted_encoder("mlp"), planted_tasks(2), retrain_from=4)
        assert isinstance(network, RetrainedNetwork)
        set_logits(network, [[0.0, 1.0], [-1.0, 9.0]])
        network.change(4, never)
        counts += network.fixed
    expected = 60 * torch.tensor([[0.0, 1.0], [-1.0, 9.0]]).sigmoid()
    spread = (expected * (1 - expected / 60)).sqrt()
    assert bool(((counts - expected).abs() <= 4 * spread + 1).all())


def test_weights_may_go_on() -> None:
    network = retrained("mlp", 2, retrain_weights="keep", retrain_policy="hard")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    change = network.change(4, never)
    assert change is not None
    assert not change.anew
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items() if n != "fixed")


# -- turns


def test_rows_are_halved_by_groups() -> None:
    rows = planted("mlp", 2)
    network = retrained("mlp", 2, alternate=True)
    sides = Turns(network, rows, seed=5).sides(2)
    for group in np.unique(rows.groups):
        assert len(set(sides[rows.groups == group].tolist())) == 1
    assert sides.bincount().tolist() == [48, 48]
    assert torch.equal(Turns(network, rows, seed=5).sides(2), sides)
    assert not torch.equal(Turns(network, rows, seed=6).sides(2), sides)


def test_a_batch_is_divided_only_while_there_are_turns() -> None:
    rows = planted("mlp", 2)
    network = retrained("mlp", 2, alternate=True, warmup_epochs=1, retrain_from=5)
    turns = Turns(network, rows, seed=5)
    batch = rows.__getitems__(range(10, 30))
    parts = list(turns.of(batch))
    found = torch.cat([part.index for part, _ in parts])
    assert sorted(found.tolist()) == list(range(10, 30))
    for number, (part, resting) in enumerate(parts):
        assert (turns.sides(2)[part.index] == number).all()
        assert torch.equal(part.inputs, rows.inputs[part.index])
        names = {n for n, p in network.named_parameters() if any(p is rests for rests in resting)}
        policies = {n for n, _ in network.named_parameters() if n.startswith("policies.")}
        everything = {n for n, _ in network.named_parameters()}
        assert names == (policies if number == 0 else everything - policies)
    network.set_epoch(1)  # warm-up: no policy is open
    assert [part is batch for part, _ in turns.of(batch)] == [True]
    network.set_epoch(5)
    network.change(5, never)
    assert [part is batch for part, _ in turns.of(batch)] == [True]


def test_a_side_with_a_single_row_of_a_batch_waits_for_the_next() -> None:
    """Batch normalisation cannot run on one row."""
    rows = planted("mlp", 2)
    turns = Turns(retrained("mlp", 2, alternate=True, warmup_epochs=1, retrain_from=5), rows, seed=5)
    sides = turns.sides(2)
    ones, others = (sides == 0).nonzero().flatten().tolist(), (sides == 1).nonzero().flatten().tolist()
    for first, second, expected in ((1, 5, [5]), (5, 1, [5]), (2, 3, [2, 3]), (0, 4, [4]), (1, 1, [])):
        found = turns.of(rows.__getitems__([*ones[:first], *others[:second]]))
        assert [len(part.index) for part, _ in found] == expected


@pytest.mark.parametrize("silent", [0, 1])
def test_each_side_trains_its_own_parameters(silent: int) -> None:
    """Where one side's rows have no labels, what learns from that side stays as it is."""
    rows = planted("mlp", 2, holes=0.0)
    torch.manual_seed(0)
    network = build(
        "adashare", planted_encoder("mlp"), rows.tasks, alternate=True, sparsity=0.0, sharing=0.0,
        curriculum_epochs=0,
    )  # fmt: skip
    heard = Turns(network, rows, seed=3).sides(2) != silent
    labels = Labels(rows.labels.values, {t: p & heard for t, p in rows.labels.present.items()})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fit(
        network, dataclasses.replace(rows, labels=labels), planted("mlp", 2, seed=1),
        epochs=2, batch=16, optimizer={"sgd": {"lr": 0.05}}, device="cpu", seed=3,
    )  # fmt: skip
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    policies = {name for name, _ in network.named_parameters() if name.startswith("policies.")}
    assert moved
    assert moved <= (policies if silent == 0 else {*before} - policies)


# -- training


class Crash(Callback):
    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def epoch_end(self, state: TrainingState) -> None:
        if state.epoch == self.at:
            raise KeyboardInterrupt


def trained(folder: Path | None, crash: int = 0, **more: Any) -> tuple[RetrainedNetwork, History]:
    torch.manual_seed(3)
    rows: PlantedRows = planted("mlp", 3)
    network = build("adashare", planted_encoder("mlp"), rows.tasks, head=HEAD, alternate=True, retrain_from=4)
    assert isinstance(network, RetrainedNetwork)
    history = fit(
        network, rows, planted("mlp", 3, seed=1), folder=folder, callbacks=[Crash(crash)],
        **{**SETTINGS, "epochs": 6, "stop": {"patience": 2}, **more},
    )  # fmt: skip
    return network, history


@pytest.mark.parametrize("crash", [2, 3, 4, 5])
def test_resumed_equals_never_interrupted(crash: int, tmp_path: Path) -> None:
    whole, history = trained(None)
    assert history.best_epoch >= 4  # what was learned before the policies were fixed is no candidate
    assert any(note.startswith("before epoch 4: policies are fixed, weights start") for note in history.notes)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, crash=crash)
    again, resumed = trained(tmp_path)
    assert resumed.without_seconds() == history.without_seconds()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_bundle_holds_the_policies(tmp_path: Path) -> None:
    tasks = planted_tasks(2)
    sharing = {"retrain_from": 4, "alternate": True}
    encoder = {"name": "mlp", "hidden": [6, 6, 6]}
    settings: dict[str, Any] = {
        "input_shape": (10,), "encoder": encoder, "sharing": {"name": "adashare", **sharing}
    }  # fmt: skip
    network = build("adashare", encoders.mlp((10,), hidden=[6, 6, 6]), tasks, **sharing)
    assert isinstance(network, RetrainedNetwork)
    network.change(4, never)
    found = load_bundle(save_bundle(tmp_path / "net", network, **settings)).model
    assert isinstance(found, RetrainedNetwork)
    assert found.describe() == network.describe()
    inputs = torch.randn(5, 10)
    network.eval()
    assert all(torch.equal(found(inputs)[task], output) for task, output in network(inputs).items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retrain_from": 2}, r"adashare.retrain_from: an epoch after 2, .* found 2"),
        ({"retrain_from": 0}, "adashare.retrain_from: a whole number of at least 1"),
        ({"retrain_from": 9, "retrain_policy": "soft"}, "retrain_policy: sampled or hard expected"),
        ({"retrain_from": 9, "retrain_weights": "zero"}, "retrain_weights: start or keep expected"),
        ({"alternate": "yes"}, "adashare.alternate: true or false expected, found 'yes'"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("adashare", planted_encoder("mlp"), planted_tasks(2), **settings)


def test_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="an epoch of the training, which has 3, expected, found 4"):
        trained(None, epochs=3)
    with pytest.raises(ConfigError, match=r"training.devices: parameters that learn by turns .* found 2"):
        trained(None, devices=2)
