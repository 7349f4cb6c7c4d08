"""IMTL's two halves at once: learned scales of the losses, equal projections of their gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from _balancing import batch, descend, jacobian, losses_of, make, network, step, task_gradients
from _training import TASKS
from taskloom.balancing import build
from taskloom.balancing.impartial import ImpartialBoth
from taskloom.balancing.weightings import impartial
from taskloom.errors import ConfigError
from taskloom.losses import SumCount, per_task
from taskloom.tasks import TaskSet

SCALES = [0.3, -0.5, 0.9]


def started(model: Any, scales: list[float] | None = SCALES, **settings: Any) -> ImpartialBoth:
    balancer = build("imtl", settings)
    assert isinstance(balancer, ImpartialBoth)
    balancer.start(model)
    (vector,) = balancer.parameters()
    if scales is not None:
        with torch.no_grad():
            vector.copy_(torch.tensor(scales))
    return balancer


def learned(balancer: ImpartialBoth) -> Tensor:
    (vector,) = balancer.parameters()
    assert vector.grad is not None
    return vector.grad


@pytest.mark.parametrize("absent", [(), ("gender",)])
def test_a_step_by_hand(absent: tuple[str, ...]) -> None:
    model, rows = network(), batch(absent=absent)
    there = [task for task in TASKS if task not in absent]
    factors = dict(zip(TASKS, torch.tensor(SCALES).exp(), strict=True))
    alone = task_gradients(model, rows)
    scaled = {task: {n: factors[task] * g for n, g in alone[task].items()} for task in there}
    names = [name for name, _ in model.named_parameters() if name.startswith("stages.dense_0")]
    matrix = jacobian(scaled, names)
    weights = torch.from_numpy(impartial((matrix.double() @ matrix.double().T).numpy())).float()
    balancer = started(model)
    found = step(balancer, model, rows)
    shared = torch.cat([found[name].flatten() for name in names])
    torch.testing.assert_close(shared, weights @ matrix, rtol=1e-4, atol=1e-6)
    for name, gradient in found.items():
        if name not in names:
            expected = torch.stack([gradients[name] for gradients in scaled.values()]).sum(0)
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    means = {task: loss.mean.detach() for task, loss in losses_of(model, rows).items()}
    slopes = [float(factors[t] * means[t] - 1) if t in there else 0.0 for t in TASKS]
    torch.testing.assert_close(learned(balancer), torch.tensor(slopes), rtol=1e-5, atol=1e-6)
    total = sum(float(factors[t] * means[t]) - s for t, s in zip(TASKS, SCALES, strict=True) if t in there)
    assert balancer.total is not None
    assert float(balancer.total) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("at", ["parameters", "features"])
def test_at_the_start_it_is_imtl_g(at: str) -> None:
    model, rows = network(), batch()
    other = make("imtl_g", at=at)
    other.start(model)
    expected = step(other, model, rows)
    found = step(started(model, None, at=at), model, rows)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_what_it_learns_is_imtl_ls() -> None:
    model, rows = network(), batch()
    other = make("imtl_l")
    other.start(model)
    (vector,) = other.parameters()
    with torch.no_grad():
        vector.copy_(torch.tensor(SCALES))
    step(other, model, rows)
    balancer = started(model)
    step(balancer, model, rows)
    torch.testing.assert_close(learned(balancer), vector.grad)


def test_weighted_losses_go_to_1() -> None:
    """For losses that stay, exp(s) L = 1 is where the scales come to rest."""
    model, rows = network(), batch()
    balancer = started(model)
    for _ in range(400):
        step(balancer, model, rows)
        (vector,) = balancer.parameters()
        with torch.no_grad():
            vector -= 0.1 * learned(balancer)
    means = torch.stack([loss.mean.detach() for loss in losses_of(model, rows).values()])
    torch.testing.assert_close(vector.detach().exp() * means, torch.ones(3), rtol=1e-3, atol=1e-3)


def test_a_batch_in_parts_is_the_whole_batch() -> None:
    model, rows = network(), batch(12)
    expected_by = started(model)
    expected = step(expected_by, model, rows)
    balancer = started(model)
    balancer.check_parts()
    whole = losses_of(model, rows)
    model.zero_grad()
    parts = [rows.__getitems__(list(indices)) for indices in (range(5), range(5, 12))]
    for number, part in enumerate(parts):
        losses = {
            task: SumCount(loss.sum, whole[task].count)
            for task, loss in per_task(model(part.inputs), part.labels, model.tasks).items()
        }
        (balancer.backward if number else balancer.accumulate)(losses, model)
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(learned(balancer), learned(expected_by), rtol=1e-4, atol=1e-6)


def test_parts_of_an_abandoned_batch_teach_no_scale() -> None:
    model, rows = network(), batch(12)
    expected_by = started(model)
    step(expected_by, model, rows)
    balancer = started(model)
    balancer.accumulate(losses_of(model, batch(12, seed=3)), model)
    step(balancer, model, rows)  # takes all gradients away first
    torch.testing.assert_close(learned(balancer), learned(expected_by), rtol=1e-5, atol=1e-6)


def test_slopes_of_the_scales_have_the_factor_of_16_bit_precision() -> None:
    model, rows = network(), batch()
    plain, scaled = started(model), started(model)
    expected = step(plain, model, rows)
    scaled.scale = lambda tensor: 1024 * tensor
    found = step(scaled, model, rows)
    torch.testing.assert_close(learned(scaled) / 1024, learned(plain), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close({n: g / 1024 for n, g in found.items()}, expected, rtol=1e-4, atol=1e-6)


def test_a_task_of_weight_0_has_no_scale_to_learn() -> None:
    silent = TaskSet(*(dataclasses.replace(t, role="auxiliary", weight=0.0) if name == "mood" else t
                       for name, t in TASKS.items()))  # fmt: skip
    model = network(tasks=silent)
    balancer = started(model)
    step(balancer, model, batch())
    place = list(TASKS).index("mood")
    assert learned(balancer)[place] == 0
    assert learned(balancer).count_nonzero() == 2


def test_scales_are_part_of_the_state() -> None:
    model = network()
    balancer = started(model)
    for seed in range(3):
        step(balancer, model, batch(seed=seed))
        descend(balancer, model)
    again = started(model, None)
    again.load_state_dict(balancer.state_dict())
    first, second = step(balancer, model, batch(seed=9)), step(again, model, batch(seed=9))
    assert all(torch.equal(second[name], gradient) for name, gradient in first.items())
    assert torch.equal(learned(again), learned(balancer))


def test_it_is_told_the_network_first() -> None:
    model = network()
    with pytest.raises(ConfigError, match=r"balancing\.imtl: it was not started .*call balancer\.start"):
        build("imtl").backward(losses_of(model, batch()), model)
