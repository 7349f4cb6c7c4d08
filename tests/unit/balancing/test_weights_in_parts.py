"""Learned, drawn and mean weights of a batch in parts are those of the whole batch; others are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from _balancing import batch, descend, gradients, losses_of, make, network
from _training import TASKS, rows_with_holes
from taskloom import Multiclass, TaskSet
from taskloom.balancing import BALANCERS, Balancer
from taskloom.errors import ConfigError
from taskloom.losses import SumCount
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import fit

IN_PARTS = ["mean", "learned_weights", "uncertainty", "imtl_l", "random_weights"]
WHOLE_ONLY = ["famo", "gradnorm", "stch", "uw_so", "geometric_mean", "pbi", "cosmos", "db_mtl", "mgda_ub"]


def step_in_parts(balancer: Balancer, model: MultiTaskNetwork, rows: Any, size: int) -> None:
    counts = {task: loss.count for task, loss in losses_of(model, rows).items()}
    starts = range(0, len(rows), size)
    for begin in starts:
        part = rows.__getitems__(list(range(begin, min(begin + size, len(rows)))))
        losses = {task: SumCount(loss.sum, counts[task]) for task, loss in losses_of(model, part).items()}
        (balancer.backward if begin == starts[-1] else balancer.accumulate)(losses, model)


@pytest.mark.parametrize("name", IN_PARTS)
def test_steps_in_parts_are_steps_of_the_whole_batch(name: str) -> None:
    """Gradients of the network and of what is learned, the total and the next step's draw, with holes."""
    whole, parted = (make(name) for _ in range(2))
    first, second = network(), network()
    whole.start(first, seed=4)
    parted.start(second, seed=4)
    for seed, absent in ((1, ()), (2, ("gender",)), (3, ())):
        rows = batch(13, seed=seed, absent=absent)
        rows.labels.present["mood"][:4] = False  # absent from the first part, not from the batch
        first.zero_grad()
        second.zero_grad()
        whole.backward(losses_of(first, rows, whole), first)
        step_in_parts(parted, second, rows, 4)
        expected, found = gradients(first), gradients(second)
        for parameter, gradient in expected.items():
            torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6, msg=parameter)
        for one, other in zip(whole.parameters(), parted.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6)
        assert whole.total is not None
        assert parted.total is not None
        torch.testing.assert_close(parted.total, whole.total, rtol=1e-4, atol=1e-6)
        descend(whole, first)
        descend(parted, second)


@pytest.mark.parametrize("name", ["learned_weights", "random_weights"])
def test_training_in_parts_is_training_by_whole_batches(name: str) -> None:
    train, validation = rows_with_holes(30, 1, holes=0.6), rows_with_holes(15, 2)
    ends = []
    for parts in (1, 3):
        model = network(seed=3)
        history = fit(
            model,
            train,
            validation,
            epochs=3,
            batch=12,
            accumulate=parts,
            device="cpu",
            optimizer={"sgd": {"lr": 0.2}},
            balancer=make(name),
        )
        ends.append((model.state_dict(), history.epochs[-1].balancing))
    (whole, weights), (parted, same) = ends
    for entry, tensor in whole.items():
        torch.testing.assert_close(parted[entry], tensor, rtol=1e-3, atol=1e-5)
    assert same == pytest.approx(weights, rel=1e-4)


@pytest.mark.parametrize("name", WHOLE_ONLY)
def test_what_needs_the_whole_batch_is_refused_before_training(name: str) -> None:
    balancer = make(name)
    with pytest.raises(ConfigError, match=r"in parts"):
        balancer.check_parts()
    with pytest.raises(ConfigError, match=r"training\.accumulate: 2: .* in parts.*; use "):
        fit(
            network(),
            rows_with_holes(12, 1),
            rows_with_holes(12, 2),
            epochs=1,
            accumulate=2,
            device="cpu",
            balancer=balancer,
        )


def test_every_balancer_takes_parts_or_says_that_it_does_not() -> None:
    for name in BALANCERS:
        if name in WHOLE_ONLY:
            continue
        balancer, model = make(name), network()
        balancer.start(model, seed=1)
        balancer.check_parts()
        model.zero_grad()
        step_in_parts(balancer, model, batch(12), 4)
        assert all(found.isfinite().all() for found in gradients(model).values()), name


def test_the_own_weight_of_an_auxiliary_task_counts_in_parts_as_well() -> None:
    tasks = TaskSet(TASKS["age"], TASKS["gender"], Multiclass("mood", 3, role="auxiliary", weight=0.05))
    train, validation = rows_with_holes(24, 1), rows_with_holes(15, 2)
    train.tasks = validation.tasks = tasks
    ends = []
    for parts in (1, 4):
        model = network(tasks=tasks, seed=3)
        settings: dict[str, Any] = {"epochs": 2, "batch": 12, "device": "cpu", "accumulate": parts}
        fit(model, train, validation, optimizer={"sgd": {"lr": 0.5}}, **settings)
        ends.append(model.state_dict())
    for entry, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][entry], tensor, rtol=1e-3, atol=1e-5)
