"""Linear heads as one layer: predictions, gradients and inner products are those of the heads one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from _balancing import batch, descend, gradients, in_two_processes, losses_of, make, network, step
from _training import TASKS
from taskloom import Binary, TaskSet, encoders, sharing
from taskloom.balancing.read_outs import linear_heads
from taskloom.losses import per_task
from taskloom.sharing import MultiTaskNetwork

ABSENT: list[tuple[str, ...]] = [(), ("mood",), ("age", "gender")]


def shared_to_the_end(**settings: object) -> MultiTaskNetwork:
    """The tasks have one, one and several outputs."""
    return network(stages=2, **settings)


def test_predictions_are_those_of_the_heads() -> None:
    model, rows, balancer = shared_to_the_end(), batch(), make("upgrad")
    with balancer.watching(model):
        found = model(rows.inputs)
    assert balancer._feature.read_outs is not None  # type: ignore[attr-defined]
    expected = model(rows.inputs)
    assert list(found) == list(expected)
    for task, output in expected.items():
        torch.testing.assert_close(found[task], output)


@pytest.mark.parametrize("absent", ABSENT)
@pytest.mark.parametrize("name", ["mgda_ub", "upgrad", "graddrop", "gradient_sum"])
def test_a_step_is_that_of_taps(name: str, absent: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = shared_to_the_end(), batch(absent=absent)
    found = step(make(name), model, rows)
    without = {key for key, p in model.named_parameters() if p.grad is None}
    monkeypatch.setattr("taskloom.balancing.features.linear_heads", lambda model: None)
    for parameter, gradient in step(make(name), model, rows).items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6)
    # What belongs to an absent task has no gradient: an optimiser with momentum leaves it alone.
    assert without == {key for key, p in model.named_parameters() if p.grad is None}
    assert bool(without) == bool(absent)


@pytest.mark.parametrize("name", ["mgda_ub", "upgrad", "graddrop"])
def test_what_stands_beside_reaches_heads_and_trunk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A term of two tasks' predictions, as couplings have it."""
    model, rows, results = shared_to_the_end(), batch(), []
    for one_by_one in (False, True):
        if one_by_one:
            monkeypatch.setattr("taskloom.balancing.features.linear_heads", lambda model: None)
        model.zero_grad()
        balancer = make(name)
        with balancer.watching(model):
            predictions = model(rows.inputs)
        beside = (predictions["age"] * predictions["gender"]).mean()
        balancer.backward(per_task(predictions, rows.labels, TASKS), model, beside)
        results.append((balancer.total, gradients(model)))
    (total, found), (expected_total, expected) = results
    torch.testing.assert_close(total, expected_total)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6)


def test_inner_products_at_the_feature_are_those_of_autograd() -> None:
    model, rows, balancer = shared_to_the_end(), batch(), make("mgda_ub")
    losses = losses_of(model, rows, balancer)
    read = balancer._feature.read_outs  # type: ignore[attr-defined]
    trunk: Tensor = balancer._feature.trunk  # type: ignore[attr-defined]
    tasks = ["mood", "age"]
    at_trunk = [torch.autograd.grad(losses[t].sum, trunk, retain_graph=True)[0].flatten() for t in tasks]
    matrix = torch.stack(at_trunk).double()
    total = losses["mood"].sum + losses["age"].sum
    (at_outputs,) = torch.autograd.grad(total, read.outputs)
    np.testing.assert_allclose(read.gramian(at_outputs, tasks), matrix @ matrix.T, rtol=1e-5)
    by_task = read.at_feature_by_task(at_outputs, tasks)
    torch.testing.assert_close(by_task.flatten(1), torch.stack(at_trunk))


def test_a_frozen_head_takes_no_gradient() -> None:
    model, rows = shared_to_the_end(), batch()
    for parameter in model.task_parameters("mood"):
        parameter.requires_grad_(False)
    step(make("upgrad"), model, rows)
    assert all(p.grad is None for p in model.task_modules("mood")[-1].parameters())
    assert all(p.grad is not None for p in model.task_parameters("age"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("mgda_ub", {}), ("upgrad", {"at": "features"}), ("upgrad", {}), ("pcgrad", {}), ("graddrop", {})],
)
def test_two_processes_follow_the_joined_batch(name: str, settings: dict[str, str]) -> None:
    rows = batch(12)
    rows.labels.present["mood"][6:] = False  # absent in one process, present in the other
    shares = [rows.__getitems__(list(range(6))), rows.__getitems__(list(range(6, 12)))]
    balancer, alone = make(name, **settings), shared_to_the_end()
    balancer.start(alone, seed=3)
    for _ in range(2):
        step(balancer, alone, rows)
        descend(balancer, alone)
    fresh = make(name, **settings)
    for joined in in_two_processes(fresh, shared_to_the_end(), shares, steps=2):  # type: ignore[arg-type]
        for parameter, tensor in alone.state_dict().items():
            torch.testing.assert_close(joined.state_dict()[parameter], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mgda_ub", "mgda", "nash_mtl"])
def test_scaled_losses_give_scaled_gradients_and_the_same_decisions(name: str) -> None:
    model, rows, plain, scaled = shared_to_the_end(), batch(), make(name), make(name)
    scaled.scale = lambda tensor: tensor * 512.0
    expected, found = step(plain, model, rows), step(scaled, model, rows)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], 512.0 * gradient, rtol=1e-3, atol=1e-3)
    assert plain.report_state() == pytest.approx(scaled.report_state(), rel=1e-4, abs=1e-6)
    scaled.scale = lambda tensor: tensor * 3e38 * 1e6
    found = step(scaled, model, rows)  # an overflow reaches the scaler, which skips the step
    assert not all(gradient.isfinite().all() for gradient in found.values())


def test_which_heads_are_read_out_as_one() -> None:
    assert linear_heads(shared_to_the_end()) is not None
    assert linear_heads(network()) is None  # a stage of its own per task
    assert linear_heads(network(stages=2, head={"hidden": [4]})) is None
    deep = encoders.mlp((4,), hidden=[8])
    without_bias = sharing.build("hard_sharing", deep, TaskSet(Binary("a"), Binary("b")), stages=1)
    head = without_bias.task_modules("a")[-1]
    assert isinstance(head, nn.Sequential)
    head[0] = nn.Linear(8, 1, bias=False)
    assert linear_heads(without_bias) is None


def test_a_hook_at_a_head_is_heard() -> None:
    model, rows, balancer = shared_to_the_end(), batch(), make("upgrad")
    expected, calls = step(make("upgrad"), model, rows), []
    handle = model.task_modules("age")[-1].register_forward_hook(lambda *_: calls.append(1))
    for parameter, gradient in step(balancer, model, rows).items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-6)
    assert calls == [1]
    handle.remove()
    step(balancer, model, rows)
    assert calls == [1]
