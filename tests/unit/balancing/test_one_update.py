"""However a batch is computed, the update is the same: clipping, half precision, processes; memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from _balancing import NEEDS_ALL, batch, losses_of, make, network, step
from _training import TASKS, rows_with_holes
from taskloom import Binary, Labels, TaskSet, encoders, sharing
from taskloom.balancing import BALANCERS, GradientAggregation
from taskloom.errors import TrainingError
from taskloom.losses import SumCount, per_task
from taskloom.training import fit

ONE_OF_EACH = ["pcgrad", "uncertainty", "mgda_ub"]
"""An aggregation, a method of weights, a method at the shared feature."""


@pytest.mark.parametrize("name", ["uncertainty", "mgda_ub"])
def test_two_real_processes_equal_one(name: str) -> None:
    """Two gloo processes with holes on one side only, clipped, against one process on the whole batch; for an
    aggregation see `test_every_balancer`."""
    train, validation = rows_with_holes(26, seed=1, holes=0.6), rows_with_holes(15, seed=2)
    alone, joined = network(), network()
    settings: dict[str, Any] = {"batch": 8, "device": "cpu", "threads": 1, "clip": 0.5, "epochs": 1}
    one = fit(alone, train, validation, balancer=make(name), **settings)
    two = fit(joined, train, validation, balancer=make(name), devices=2, **settings)
    assert two.num_processes == 2
    for first, second in zip(one.epochs, two.epochs, strict=True):
        assert first.train_loss == pytest.approx(second.train_loss, rel=1e-4)
        assert first.balancing == pytest.approx(second.balancing, rel=1e-3, abs=1e-5)
    for parameter, tensor in alone.state_dict().items():
        torch.testing.assert_close(joined.state_dict()[parameter], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_clipping_is_that_of_the_balanced_gradient(name: str) -> None:
    """One step of gradient descent by hand: the gradient of the balancer, scaled to the norm of `clip`."""
    rows, clip, rate = rows_with_holes(16, 3, holes=0.2), 0.05, 0.1
    model, by_hand = network(), network()
    settings: dict[str, Any] = {"batch": 16, "device": "cpu", "optimizer": {"sgd": {"lr": rate}}}
    fit(model, rows, rows, epochs=1, clip=clip, balancer=make(name), **settings)
    balancer = make(name)
    balancer.start(by_hand)
    found = step(balancer, by_hand, rows)
    learned = [p.grad for p in balancer.parameters() if p.grad is not None]  # in the optimiser as well
    norm = torch.cat([gradient.flatten() for gradient in [*found.values(), *learned]]).norm()
    assert norm > 2 * clip
    for parameter, tensor in by_hand.named_parameters():
        expected = tensor.detach() - rate * clip / norm * found[parameter]
        torch.testing.assert_close(model.get_parameter(parameter), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_gradients_under_bfloat16_follow_single_precision(name: str) -> None:
    model, rows = network(), batch(64)
    balancer = make(name)
    balancer.start(model)
    expected = step(balancer, model, rows)
    model.zero_grad()
    balancer.start(model)
    with balancer.watching(model), torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = model(rows.inputs)
    balancer.backward(per_task(predictions, rows.labels, TASKS), model)
    flat = [torch.cat([g[n].flatten() for n in expected]) for g in (expected, _gradients(model))]
    assert all(gradient.dtype == torch.float32 for gradient in _gradients(model).values())
    assert float(torch.cosine_similarity(*flat, dim=0)) > 0.995
    assert float(flat[1].norm() / flat[0].norm()) == pytest.approx(1.0, abs=0.05)


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


# -- batches that say nothing


@pytest.mark.parametrize("name", list(BALANCERS))
def test_a_batch_without_any_label_is_no_step(name: str) -> None:
    model, balancer = network(), make(name)
    balancer.start(model)
    if name not in NEEDS_ALL:
        step(balancer, model, batch())
    found = step(balancer, model, batch(absent=TASKS.names))
    assert not any(gradient.any() for gradient in found.values())
    assert balancer.total is not None
    assert balancer.total.isfinite()
    assert all(torch.isfinite(torch.tensor(value)) for value in balancer.report_state().values())


@pytest.mark.parametrize("name", list(BALANCERS))
def test_a_loss_without_gradient_is_refused(name: str) -> None:
    model, balancer = network(), make(name)
    balancer.start(model)
    losses = losses_of(model, batch(), balancer)
    losses["mood"] = SumCount(losses["mood"].sum.detach(), losses["mood"].count)
    with pytest.raises(TrainingError, match="the loss of task mood has no gradient"):
        balancer.backward(losses, model)


# -- memory


def peak_bytes(
    name: str, num_tasks: int, width: int, *, batched: bool | None = None, **settings: Any
) -> tuple[int, int]:
    """Most memory that a backward pass took beyond what stood before it, and the size of a gradient."""
    tasks = TaskSet(*(Binary(f"task_{number}") for number in range(num_tasks)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = sharing.build("hard_sharing", encoders.mlp((width,), hidden=[width]), tasks, stages=1)
    labels = Labels(
        {task: torch.arange(4) % 2 for task in tasks}, {task: torch.ones(4).bool() for task in tasks}
    )
    balancer = make(name, **settings)
    assert isinstance(balancer, GradientAggregation)
    balancer.batched = batched
    balancer.start(model)
    inputs = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    with balancer.watching(model):
        losses = per_task(model(inputs), labels, tasks)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        balancer.backward(losses, model)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    peak = total = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak, sum(p.numel() * p.element_size() for p in model.shared_parameters())


@pytest.mark.parametrize("num_tasks", [3, 10])
@pytest.mark.parametrize("name", ["pcgrad", "upgrad", "graddrop", "trimmed_mean"])
def test_memory_is_at_most_a_copy_per_task_and_one(name: str, num_tasks: int) -> None:
    peak, size = peak_bytes(name, num_tasks, 1536, batched=False)
    # Methods of the matrix work on blocks of columns, whose size does not grow with the network.
    blocks = 0.4 if name in ("graddrop", "trimmed_mean") else 0.1
    assert num_tasks < peak / size < num_tasks + 1 + blocks


@pytest.mark.parametrize("at", ["parameters", "features"])
def test_memory_without_rows_is_one_gradient(at: str) -> None:
    peak, size = peak_bytes("pcgrad", 10, 512, at=at)
    assert peak / size < 1.2


def test_rows_in_one_pass_take_up_to_twice_as_much() -> None:
    peak, size = peak_bytes("pcgrad", 10, 100, batched=True)
    assert peak / size < 2 * 10 + 2
