"""Every balancer takes coupling terms: beside what it makes of the losses, or as tasks of their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import _balancing
from _balancing import NEEDED, batch, gradients, in_two_processes, make, network
from _coupling import TERMS, coupling
from taskloom.balancing import BALANCERS, Balancer
from taskloom.errors import ConfigError
from taskloom.losses import SumCount, per_task
from taskloom.sharing import MultiTaskNetwork
from taskloom.training.coupled import CoupledLosses

ALL = list(BALANCERS)
NETWORKS: dict[str, dict[str, Any]] = {
    "hard_sharing": {"stages": 1},
    "cross_stitch": {},
    "mmoe": {"experts": 2},
    "dselect_k": {"experts": 3},
}
AT_FEATURE = "mgda_ub"


def forward(model: MultiTaskNetwork, balancer: Balancer, rows: Any) -> tuple[dict[str, SumCount], Tensor]:
    """Losses of the tasks, and the sum of the coupling terms' means, from one forward pass."""
    with balancer.watching(model):
        outputs = model(rows.inputs)
    losses = coupled_losses(model, outputs, rows)
    parts = CoupledLosses(coupling(), model.tasks)
    parts.begin(1, model.tasks.names)
    tasks, _, beside = parts.parted(losses, model)
    assert beside is not None
    return tasks, beside


def coupled_losses(model: MultiTaskNetwork, outputs: dict[str, Tensor], rows: Any) -> dict[str, SumCount]:
    return per_task(outputs, rows.labels, model.tasks) | coupling().terms(outputs, rows.labels, model.tasks)


def with_weights_of_terms(name: str) -> dict[str, Any]:
    """Settings in which every term has its weight, where every task must have one."""
    if "weights" not in NEEDED.get(name, {}):
        return {}
    return {"weights": {**NEEDED[name]["weights"], **dict.fromkeys(TERMS, 0.5)}}


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("name", ALL)
def test_what_stands_beside_is_added_as_it_is(name: str, architecture: str) -> None:
    model, rows = network(architecture, **NETWORKS[architecture]), batch()
    started = make(name)
    if name == AT_FEATURE and architecture != "hard_sharing":
        with pytest.raises(ConfigError, match="no feature that all tasks read"):
            forward(model, started, rows)  # as without any coupling
        return
    started.start(model, seed=2)
    found = []
    for with_terms in (False, True):
        balancer = copy.deepcopy(started)
        model.zero_grad()
        losses, beside = forward(model, balancer, rows)
        balancer.backward(losses, model, beside if with_terms else None)
        assert balancer.total is not None
        found.append((gradients(model), float(balancer.total)))
    model.zero_grad()
    alone = forward(model, make("weighted_sum"), rows)[1]
    alone.backward()
    expected = gradients(model)
    (without, total_without), (added, total_with) = found
    assert total_with - total_without == pytest.approx(float(alone.detach()), abs=2e-5)
    for parameter, gradient in expected.items():
        difference = added[parameter] - without[parameter]
        torch.testing.assert_close(difference, gradient, rtol=1e-3, atol=1e-5, msg=parameter)
    assert any(gradient.any() for gradient in expected.values())


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("name", ALL)
def test_terms_as_tasks(name: str, architecture: str) -> None:
    if name == AT_FEATURE and architecture != "hard_sharing":
        return  # refused without coupling, too
    model, rows = network(architecture, **NETWORKS[architecture]), batch()
    balancer = make(name, **with_weights_of_terms(name))
    balancer.with_terms(TERMS)
    balancer.start(model, seed=2)
    for _ in range(2):
        model.zero_grad()
        with balancer.watching(model):
            outputs = model(rows.inputs)
        balancer.backward(coupled_losses(model, outputs, rows), model)
        assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    means = {"age": 1.0, "gender": 0.5, "mood": 0.7, **dict.fromkeys(TERMS, 0.4)}
    metrics = {"age": {"r2": 0.3}, "gender": {"accuracy": 0.8}, "mood": {"accuracy": 0.5}}
    balancer.epoch_end(means, metrics)  # type: ignore[arg-type]
    reported = balancer.report_state()
    weights = {key.removeprefix("weight/") for key in reported if key.startswith("weight/")}
    assert not weights or weights >= set(TERMS)


def test_as_tasks_of_a_plain_sum_is_beside() -> None:
    rows, found = batch(), []
    for as_task in (False, True):
        model, balancer = network(), make("weighted_sum")
        balancer.with_terms(TERMS)
        losses, beside = forward(model, balancer, rows)
        if as_task:
            losses = coupled_losses(model, model(rows.inputs), rows)
        balancer.backward(losses, model, None if as_task else beside)
        found.append(gradients(model))
    for parameter, gradient in found[0].items():
        torch.testing.assert_close(found[1][parameter], gradient, rtol=1e-5, atol=1e-7)


def test_a_term_shares_the_heads_of_what_it_couples() -> None:
    """The cosine that PCGrad reports is over all that the term reaches, heads among it."""
    model, rows, balancer = network(), batch(), make("pcgrad")
    balancer.with_terms(TERMS)
    balancer.start(model, seed=0)
    outputs = model(rows.inputs)
    balancer.backward(coupled_losses(model, outputs, rows), model)
    conflicts = balancer.report_state()
    by_task = {}
    for name in (*model.tasks, *TERMS):
        model.zero_grad()
        coupled_losses(model, model(rows.inputs), rows)[name].mean.backward()
        by_task[name] = gradients(model)
    shared = [p for p in by_task["mood"] if "age" not in p or "heads" not in p]
    flat = {name: torch.cat([found[p].flatten() for p in shared]) for name, found in by_task.items()}
    first, second = flat["gender"], flat[TERMS[0]]
    cosine = torch.dot(first, second) / first.norm() / second.norm()
    assert conflicts[f"cosine/gender/{TERMS[0]}"] == pytest.approx(float(cosine), abs=1e-4)


def taking_terms_beside(balancer: Balancer) -> Balancer:
    """The same balancer, which finds the terms among the losses it is given."""

    class Taking(type(balancer)):  # type: ignore[misc]
        def backward(self, losses: dict[str, SumCount], model: MultiTaskNetwork, beside: Any = None) -> None:
            terms = torch.stack([losses[name].mean for name in TERMS]).sum()
            super().backward({name: losses[name] for name in model.tasks}, model, terms)

    balancer.__class__ = Taking
    return balancer


@pytest.mark.parametrize("name", ["weighted_sum", "pcgrad", "mgda_ub", "gradnorm", "uncertainty"])
def test_two_processes_with_terms_beside(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(model: MultiTaskNetwork, rows: Any, balancer: Balancer) -> dict[str, SumCount]:
        with balancer.watching(model):
            outputs = model(rows.inputs)
        return coupled_losses(model, outputs, rows)

    rows = batch(12)
    shares = [rows.__getitems__(list(range(6))), rows.__getitems__(list(range(6, 12)))]
    alone, balancer = network(), make(name)
    balancer.start(alone, seed=3)
    losses, beside = forward(alone, balancer, rows)
    balancer.backward(losses, alone, beside)
    expected, start = gradients(alone), network().state_dict()
    monkeypatch.setattr(_balancing, "losses_of", everything)
    for joined in in_two_processes(taking_terms_beside(make(name)), network(), shares):  # type: ignore[arg-type]
        for parameter, tensor in joined.state_dict().items():
            moved = (start[parameter] - tensor) / 0.1
            torch.testing.assert_close(moved, expected[parameter], rtol=1e-3, atol=1e-5)


def test_a_loss_nobody_told_of() -> None:
    model, rows = network(), batch()
    losses = coupled_losses(model, model(rows.inputs), rows)
    for name in ("pcgrad", "uncertainty"):
        balancer = make(name)
        balancer.start(model)
        with pytest.raises(ConfigError, match=r"coupling\.matching_to_attributes belongs to none of age, g"):
            balancer.backward(losses, model)


def test_parts_of_a_batch_with_terms_beside() -> None:
    """Two halves, counts of the whole: the gradient of the whole batch."""
    rows = batch(12)
    for name in ("weighted_sum", "dwa", "pcgrad"):
        whole, model = network(), network()
        balancer = make(name)
        balancer.start(whole, seed=1)
        losses, beside = forward(whole, balancer, rows)
        balancer.backward(losses, whole, beside)
        counts = {key: loss.count for key, loss in coupled_losses(whole, whole(rows.inputs), rows).items()}
        parted = make(name)
        parted.start(model, seed=1)
        for number, part in enumerate((range(5), range(5, 12))):
            half = rows.__getitems__(list(part))
            found = coupled_losses(model, model(half.inputs), half)
            found = {key: SumCount(loss.sum, counts[key]) for key, loss in found.items()}
            terms = torch.stack([found.pop(term).mean for term in TERMS]).sum()
            (parted.backward if number else parted.accumulate)(found, model, terms)
        for parameter, gradient in gradients(whole).items():
            torch.testing.assert_close(gradients(model)[parameter], gradient, rtol=1e-4, atol=1e-6)
