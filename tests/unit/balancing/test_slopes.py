"""Weights and slopes that are written out equal what autograd and torch's Adam make of the objectives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from _balancing import batch, losses_of, make, network, step, weigh
from _training import TASKS, TinyNetwork
from taskloom.balancing import LossWeighting
from taskloom.balancing.famo import FAMO
from taskloom.balancing.learned import LearnedVector
from taskloom.balancing.numbers import as_tensor, at_least, numbers, softmax


def objective(name: str, vector: Tensor, means: Tensor, present: Tensor) -> Tensor:
    """What the docstrings say is minimised, over the present tasks alone."""
    vector, means = vector[present], means[present]
    if name == "learned_weights":
        weights = vector.softmax(0)
        return weights @ means + 0.1 * weights.square().sum()
    if name == "uncertainty":
        factors = torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64)[present]  # age is a squared error
        return (factors * (-vector).exp() * means + vector / 2).sum()
    return (vector.exp() * means - vector).sum()


@pytest.mark.parametrize("name", ["learned_weights", "uncertainty", "imtl_l"])
@pytest.mark.parametrize("present", [[True, True, True], [True, False, True], [False, False, True]])
@pytest.mark.parametrize("index", [[0, 1, 2], [2, 0]])
def test_slopes_are_those_of_autograd(name: str, present: list[bool], index: list[int]) -> None:
    balancer = make(name)
    assert isinstance(balancer, LearnedVector)
    balancer.start(TinyNetwork(), seed=3)  # type: ignore[arg-type]
    with torch.no_grad():
        balancer.vector.copy_(torch.tensor([0.4, -0.7, 1.1]))
    given = torch.tensor([0.3, 1.7, 0.9], dtype=torch.float64) * torch.tensor(present)
    found = weigh(balancer, given[index].tolist(), [present[place] for place in index], index)
    there = torch.tensor([present[place] and place in index for place in range(3)])
    vector = balancer.vector.detach().double().requires_grad_()
    means = given.clone().requires_grad_()
    total = objective(name, vector, means, there)
    total.backward()
    assert means.grad is not None
    few = balancer.weigh_few(given[index].tolist(), [present[place] for place in index], index)
    assert few is not None
    for weighed in (found, few):
        assert weighed.total == pytest.approx(total.item(), rel=1e-6)
        np.testing.assert_allclose(weighed.weights, means.grad[index], rtol=1e-6)
        np.testing.assert_allclose(weighed.slope, vector.grad, rtol=1e-6, atol=1e-9)


def test_famo_follows_by_torchs_adam() -> None:
    """w by `torch.optim.Adam`, with the gradient that autograd takes through the softmax."""
    balancer = FAMO(lr=0.05, weight_decay=0.01)
    balancer.start(TinyNetwork())  # type: ignore[arg-type]
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.05, weight_decay=0.01)
    draw, before = np.random.default_rng(0), None
    for _ in range(8):
        losses = draw.uniform(0.1, 2.0, size=3)
        logs = torch.log(torch.from_numpy(losses) + 1e-8)
        if before is not None:
            adam.zero_grad()
            w.softmax(0).backward(before - logs)
            adam.step()
        before = logs
        slopes = w.detach().softmax(0) / logs.exp()
        np.testing.assert_allclose(weigh(balancer, losses.tolist()).weights, slopes / slopes.sum(), rtol=1e-7)


@pytest.mark.parametrize(
    "name", ["learned_weights", "uncertainty", "imtl_l", "mean", "random_weights", "famo"]
)
def test_tensors_and_arrays_are_weighed_alike(name: str) -> None:
    """What a GPU's tensors go through, on the CPU: the same numbers as with arrays."""
    by_array = make(name)
    assert isinstance(by_array, LossWeighting)
    by_array.start(TinyNetwork(), seed=1)  # type: ignore[arg-type]
    by_tensor, by_few = copy.deepcopy(by_array), copy.deepcopy(by_array)
    for attribute, value in vars(by_tensor).items():
        if isinstance(value, np.ndarray):
            setattr(by_tensor, attribute, torch.from_numpy(value.copy()))
    draw = np.random.default_rng(2)
    for present in ([True, True, True], [True, False, True], [True, True, True]):
        means = draw.uniform(0.1, 2.0, size=3) * present
        found = by_array.weigh(means, np.array(present), [0, 1, 2])
        with pytest.MonkeyPatch.context() as patch:
            for module in ("weights", "learned"):
                patch.setattr(f"taskloom.balancing.{module}.numbers", lambda tensor: tensor.detach().double())
            other = by_tensor.weigh(torch.from_numpy(means), torch.tensor(present), [0, 1, 2])
        few = by_few.weigh_few(means.tolist(), present, [0, 1, 2])
        for mine, theirs in zip(found, few or found, strict=True):
            if mine is not None:
                np.testing.assert_allclose(mine, theirs, rtol=1e-6)  # an array of weights is float32
        for mine, theirs in zip(found, other, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert isinstance(theirs, Tensor)
                np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("index", [[0, 1, 2], [2, 0]])
def test_famo_remembers_the_same_of_few_losses_as_of_many(index: list[int]) -> None:
    """Its memory after steps with absent tasks, by Python's numbers and by arrays."""
    by_array, by_few = FAMO(), FAMO()
    for balancer in (by_array, by_few):
        balancer.start(TinyNetwork())  # type: ignore[arg-type]
    draw = np.random.default_rng(7)
    for _ in range(20):
        present = draw.uniform(size=len(index)) < 0.7
        means = draw.uniform(0.0, 2.0, size=len(index)) * present
        found = by_array.weigh(means, present, index)
        few = by_few.weigh_few(means.tolist(), present.tolist(), index)
        np.testing.assert_allclose(few.weights, found.weights, rtol=1e-12, atol=1e-15)
    mine, theirs = by_few.state_dict(), by_array.state_dict()
    assert mine.keys() == theirs.keys()
    for key in mine.keys() - {"tasks"}:
        assert mine[key].dtype == theirs[key].dtype
        torch.testing.assert_close(mine[key], theirs[key], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("name", ["learned_weights", "uncertainty", "imtl_l", "famo"])
def test_a_step_is_the_same_for_few_losses_and_for_many(
    name: str, tie: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients, total and what is learned, with a batch that lacks a task; `tie`: with a term beside."""
    results = []
    for few in (True, False):
        monkeypatch.setattr("taskloom.balancing.weights.FEW", 32 if few else 0)
        model, balancer = network(), make(name)
        balancer.start(model, seed=5)
        for seed, absent in ((9, ()), (3, ("gender",)), (4, ())):
            model.zero_grad()
            rows = batch(seed=seed, absent=absent)
            losses = losses_of(model, rows)
            beside = sum(p.square().sum() for p in model.parameters()) if tie else None
            balancer.backward(losses, model, beside)
        assert balancer.total is not None
        learned = [p.grad for p in balancer.parameters()]
        results.append([balancer.total, *(p.grad for p in model.parameters()), *learned])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_an_overflow_goes_the_way_of_arrays() -> None:
    model, balancer = network(), make("imtl_l")
    assert isinstance(balancer, LearnedVector)
    balancer.start(model)
    with torch.no_grad():
        balancer.vector.fill_(1000.0)  # its exponential is no number of Python's
    step(balancer, model, batch())
    assert balancer.total is not None
    assert balancer.total.isposinf()


@pytest.mark.parametrize("name", ["learned_weights", "famo", "dwa", "mean"])
def test_gradients_are_the_weights_times_those_of_the_tasks(name: str) -> None:
    """By another route: the weighted sum of the mean losses, each passed back by itself."""
    model, rows, balancer = network(), batch(absent=("mood",)), make(name)
    balancer.start(model, seed=5)
    step(balancer, model, batch(seed=9))
    twin = copy.deepcopy(balancer)
    found = step(balancer, model, rows)
    means = [float(loss.mean.detach()) for loss in losses_of(model, rows).values()]
    weights = weigh(twin, means, [True, True, False]).weights
    model.zero_grad()
    total = sum(
        w * loss.mean for w, loss in zip(weights.tolist(), losses_of(model, rows).values(), strict=True)
    )
    assert isinstance(total, Tensor)
    total.backward()
    for parameter, tensor in model.named_parameters():
        expected = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        torch.testing.assert_close(found[parameter], expected, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_no_number_is_told_by_the_total_and_by_no_warning() -> None:
    for name in ("learned_weights", "uncertainty", "famo"):
        model, balancer = network(), make(name)
        balancer.start(model)
        rows = batch()
        rows.inputs[:] = torch.nan
        step(balancer, model, rows)
        assert balancer.total is not None
        assert not balancer.total.isfinite()
        assert list(TASKS) == [key.removeprefix("weight/") for key in balancer.report_state()]


def test_numbers_of_other_types_are_doubled() -> None:
    assert numbers(torch.tensor([1.5], dtype=torch.bfloat16)).dtype == np.float64
    assert numbers(torch.tensor([True])).dtype == np.bool_
    assert as_tensor(np.array([0.1]), torch.zeros(1)).dtype == torch.float32
    assert torch.equal(at_least(torch.tensor([-1.0, 2.0]), 0.5), torch.tensor([0.5, 2.0]))
    values = softmax(np.array([900.0, 0.0]), np.array([False, False]))
    np.testing.assert_array_equal(values, [0.5, 0.5])
