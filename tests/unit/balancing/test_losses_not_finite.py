"""One loss that is NaN or infinite, in one's own loop: it is told, and it is not remembered."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from _balancing import batch, descend, gradients, losses_of, make, network, weigh
from taskloom.balancing import BALANCERS, Balancer
from taskloom.balancing.famo import FAMO
from taskloom.errors import TrainingError
from taskloom.losses import SumCount
from taskloom.sharing import MultiTaskNetwork

NOT_FINITE = [math.nan, math.inf]
METRICS = {"age": {"r2": 0.3}, "gender": {"accuracy": 0.8}, "mood": {"accuracy": 0.5}}


def one_step(balancer: Balancer, model: MultiTaskNetwork, seed: int, factor: float = 1.0) -> bool:
    """A backward pass with the loss of gender times a factor; returns whether gradients are finite."""
    losses = losses_of(model, batch(seed=seed), balancer)
    losses["gender"] = SumCount(losses["gender"].sum * factor, losses["gender"].count)
    for parameter in [*model.parameters(), *balancer.parameters()]:
        parameter.grad = None
    balancer.backward(losses, model)
    return all(gradient.isfinite().all() for gradient in gradients(model).values())


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("name", list(BALANCERS))
def test_it_is_told_and_the_steps_after_it_are_finite(name: str, at: int, bad: float) -> None:
    model, balancer = network(), make(name)
    balancer.start(model, seed=3)
    for seed in range(at):
        assert one_step(balancer, model, seed)
        descend(balancer, model, 0.01)
    try:
        one_step(balancer, model, at, bad)
    except TrainingError as error:
        assert "task gender" in str(error)  # noqa: PT017  some methods say it so, the others by their total
    else:
        assert balancer.total is not None
        assert not balancer.total.isfinite()
    for seed in range(10, 13):
        assert one_step(balancer, model, seed)
        assert balancer.total is not None
        assert balancer.total.isfinite()
        descend(balancer, model, 0.01)
    balancer.epoch_end({"age": 1.0, "gender": bad, "mood": 0.5}, METRICS)
    balancer.epoch_end({"age": 0.8, "gender": 0.4, "mood": 0.5}, METRICS)
    assert one_step(balancer, model, 14)
    assert all(math.isfinite(value) for value in balancer.report_state().values())


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("few", [True, False])
def test_famo_remembers_as_if_the_task_had_been_absent(few: bool, bad: float) -> None:
    told, spared = FAMO(), FAMO()
    for balancer, third in ((told, [0.7, bad, 2.0]), (spared, [0.7, 0.0, 2.0])):
        balancer.start(network())
        for means in ([1.0, 2.0, 3.0], [0.8, 1.5, 2.9], third, [0.6, 1.4, 1.0]):
            there = [True, balancer is told or means is not third, True]
            if few:
                balancer.weigh_few(list(means), there, [0, 1, 2])
            else:
                with np.errstate(invalid="ignore"):
                    weigh(balancer, means, there)
    kept, expected = told.state_dict(), spared.state_dict()
    assert kept.pop("tasks") == expected.pop("tasks")
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, expected[name], msg=name)
        assert tensor.isfinite().all()


def test_gradnorm_takes_no_first_loss_that_is_infinite() -> None:
    model, balancer = network(), make("gradnorm")
    balancer.start(model)
    one_step(balancer, model, 0, math.inf)
    kept = balancer.state_dict()["first"]
    assert set(kept) == {"age", "mood"}


def test_self_paced_measures_from_the_first_finite_loss() -> None:
    balancer = make("self_paced")
    balancer.start(network())
    for loss in (math.inf, 4.0, 2.0):
        balancer.epoch_end({"age": 1.0, "gender": loss, "mood": 1.0})
    assert balancer.state_dict()["first"]["gender"] == 4.0


@pytest.mark.parametrize("name", ["stch", "geometric_mean", "pbi", "cosmos"])
def test_counts_in_single_precision_give_what_whole_ones_give(name: str) -> None:
    found = []
    for kind in (torch.int64, torch.float32):
        model, balancer = network(), make(name)
        losses = losses_of(model, batch())
        balancer.backward({t: SumCount(loss.sum, loss.count.to(kind)) for t, loss in losses.items()}, model)
        found.append(gradients(model))
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, msg=key)
