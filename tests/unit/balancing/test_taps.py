"""Gradients per task through taps at the shared feature: the same numbers as one plain pass per task."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from _balancing import batch, gradients, jacobian, losses_of, make, network, step, task_gradients
from _training import TASKS, TensorRows
from taskloom import Binary, Labels, TaskSet, encoders, sharing
from taskloom.balancing import GradientAggregation
from taskloom.balancing.features import is_alone_behind
from taskloom.errors import TrainingError
from taskloom.losses import SumCount, per_task
from taskloom.sharing import MultiTaskNetwork

SIX = TaskSet(*(Binary(f"task_{number}") for number in range(6)))


def six_tasks(stages: int) -> tuple[MultiTaskNetwork, TensorRows]:
    """Enough tasks for one vectorised pass by the rule."""
    draw = torch.Generator().manual_seed(3)
    labels = Labels(
        {name: torch.randint(2, (12,), generator=draw) for name in SIX},
        {name: torch.rand(12, generator=draw) > 0.3 for name in SIX},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = sharing.build("hard_sharing", encoders.mlp((4,), hidden=[16, 8]), SIX, stages=stages)
    rows = TensorRows(torch.randn(12, 4, generator=draw), labels, batch().groups, SIX)
    return model, rows


@pytest.mark.parametrize("batched", [None, True, False])
@pytest.mark.parametrize("absent", [(), ("task_2",), ("task_0", "task_1", "task_3", "task_4", "task_5")])
@pytest.mark.parametrize("stages", [1, 2])
def test_rows_at_taps_are_plain_gradients(
    stages: int, absent: tuple[str, ...], batched: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = six_tasks(stages)
    for task in absent:
        rows.labels.present[task][:] = False
    by_task = task_gradients(model, rows)
    present = [task for task in SIX if task not in absent]
    shared = [name for name, _ in model.named_parameters() if ".shared." in name]
    expected = jacobian({task: by_task[task] for task in present}, shared)
    taken: list[Tensor] = []
    products: list[np.ndarray] = []
    balancer = make("gradient_sum")
    assert isinstance(balancer, GradientAggregation)
    balancer.batched = batched
    update = balancer._update
    monkeypatch.setattr(balancer, "_update", lambda m, n: taken.append(m.clone()) or update(m, n))
    given = balancer._products
    monkeypatch.setattr(balancer, "_products", lambda m: products.append(given(m)) or products[-1])
    found = step(balancer, model, rows)
    if batched is not None:  # otherwise there are no rows
        torch.testing.assert_close(taken[0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(products[0], expected @ expected.T, rtol=1e-4, atol=1e-7)
    for name, gradient in found.items():
        plain = sum(by_task[task][name] for task in present)
        torch.testing.assert_close(gradient, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["upgrad", "mgda", "aligned_mtl", "graddrop", "trimmed_mean", "cagrad"])
def test_with_and_without_taps(name: str) -> None:
    """Outside of the context there are no taps: a pass per task through the whole network."""
    model, rows = six_tasks(2)
    found, balancer = step(make(name), model, rows), make(name)
    model.zero_grad()
    balancer.backward(losses_of(model, rows), model)
    for parameter, gradient in gradients(model).items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("name", ["mgda_ub", "upgrad", "nash_mtl"])
def test_taps_and_leaf_give_the_same_at_the_feature(
    name: str, stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {} if name == "mgda_ub" else {"at": "features"}
    model, rows = six_tasks(stages)
    found = step(make(name, **settings), model, rows)
    monkeypatch.setattr("taskloom.balancing.features.is_alone_behind", lambda model: False)
    for parameter, gradient in step(make(name, **settings), model, rows).items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("settings", "trunk"), [({}, 1), ({"batched": False}, 6), ({"at": "features"}, 1)])
def test_one_pass_through_the_heads(settings: dict[str, Any], trunk: int) -> None:
    class Tapped(torch.autograd.Function):
        passes = 0

        @staticmethod
        def forward(tensor: Tensor) -> Tensor:
            return tensor.clone()

        @staticmethod
        def setup_context(ctx: object, inputs: object, output: object) -> None: ...

        @staticmethod
        def vmap(info: object, in_dims: Any, tensor: Tensor) -> Any:
            return tensor.clone(), in_dims[0]

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            Tapped.passes += 1
            return gradient

    class Head(nn.Module):
        passes = 0

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.inner(inputs)
            output.register_hook(Head.count)
            return output

        @staticmethod
        def count(gradient: Tensor) -> None:
            Head.passes += 1

    model, rows = six_tasks(2)
    for key, head in list(model.heads.items()):  # type: ignore[union-attr, operator]
        model.heads[key] = Head(head)  # type: ignore[index, operator]
    ends = model.features
    object.__setattr__(model, "features", lambda inputs: Tapped.apply(ends(inputs)))
    batched = settings.pop("batched", None)
    balancer = make("upgrad", **settings)
    balancer.batched = batched  # type: ignore[attr-defined]
    Tapped.passes = Head.passes = 0
    step(balancer, model, rows)
    assert (Head.passes, Tapped.passes) == (6, trunk)  # each of six heads once


def test_a_batch_in_parts_through_taps() -> None:
    model, rows = six_tasks(1)
    whole = step(make("upgrad"), model, rows)
    counts = {task: loss.count for task, loss in losses_of(model, rows).items()}
    model.zero_grad()
    parted = make("upgrad")
    for number, begin in enumerate(range(0, 12, 4)):
        part = rows.__getitems__(list(range(begin, begin + 4)))
        losses = losses_of(model, part, parted)  # type: ignore[arg-type]
        given = {task: SumCount(loss.sum, counts[task]) for task, loss in losses.items()}
        (parted.backward if number == 2 else parted.accumulate)(given, model)
    for parameter, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[parameter], rtol=1e-4, atol=1e-6)


def test_two_passes_in_one_context() -> None:
    model, rows = network(), batch()
    balancer = make("mgda")
    expected = step(balancer, model, rows)
    model.zero_grad()
    with balancer.watching(model):
        first = model(rows.inputs)
        second = model(rows.inputs)
    mixed = {"age": first["age"], "gender": second["gender"], "mood": second["mood"]}
    balancer.backward(per_task(mixed, rows.labels, TASKS), model)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    balancer = make("mgda", at="features")
    with balancer.watching(model):
        model(rows.inputs)
        with pytest.raises(TrainingError, match="ran twice"):
            model(rows.inputs)
    assert "from_features" not in vars(model)


def test_which_networks_have_taps() -> None:
    assert is_alone_behind(network())
    assert not is_alone_behind(network("cross_stitch"))
    assert not is_alone_behind(network("soft_sharing", tie="l2", weight=0.1))
    assert not is_alone_behind(network(tasks=TASKS.subset(["age"])))


def test_a_balancer_can_be_copied_after_a_step() -> None:
    model, balancer = network(), make("mgda")
    step(balancer, model, batch())
    for other in (copy.deepcopy(balancer), pickle.loads(pickle.dumps(balancer))):
        assert step(other, network(), batch())
