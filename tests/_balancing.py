"""Networks, batches and several processes for the tests of balancing, without any process."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _training import TASKS, TensorRows, rows_with_holes
from taskloom import encoders, sharing
from taskloom.balancing import Balancer, LossWeighting, Processes, build
from taskloom.balancing.numbers import Weighed
from taskloom.losses import SumCount, per_task
from taskloom.sharing import MultiTaskNetwork
from taskloom.tasks import TaskSet

NEEDED: dict[str, dict[str, Any]] = {
    "pbi": {"weights": {"age": 1.0, "gender": 1.0, "mood": 2.0}},
    "cosmos": {"weights": {"age": 1.0, "gender": 1.0, "mood": 2.0}},
    "curriculum": {"order": ["mood", ["age", "gender"]]},
}
"""Settings without which a balancer cannot be built."""

NEEDS_ALL = ("krum", "pcd", "trimmed_mean", "excess_mtl")
"""Methods that need every task in every batch."""


def make(name: str, **settings: Any) -> Balancer:
    return build(name, {**NEEDED.get(name, {}), **settings})


def network(
    architecture: str = "hard_sharing", tasks: TaskSet = TASKS, *, seed: int = 0, **settings: Any
) -> MultiTaskNetwork:
    """A multilayer perceptron with two stages, the first one shared."""
    if architecture == "hard_sharing" and not settings:
        settings = {"stages": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = encoders.mlp((4,), hidden=[16, 8])
        return sharing.build(architecture, encoder, tasks, **settings)


def batch(num_rows: int = 12, seed: int = 1, absent: tuple[str, ...] = ()) -> TensorRows:
    rows = rows_with_holes(num_rows, seed, holes=0.3)
    for task in absent:
        rows.labels.present[task][:] = False
    return rows


def losses_of(
    model: MultiTaskNetwork, rows: TensorRows, balancer: Balancer | None = None
) -> dict[str, SumCount]:
    """The losses of a batch; the forward pass inside the balancer's context."""
    if balancer is None:
        return per_task(model(rows.inputs), rows.labels, model.tasks)
    with balancer.watching(model):
        return per_task(model(rows.inputs), rows.labels, model.tasks)


def step(balancer: Balancer, model: MultiTaskNetwork, rows: TensorRows) -> dict[str, Tensor]:
    """One backward pass; the gradients by parameter name."""
    model.zero_grad()
    for parameter in balancer.parameters():
        parameter.grad = None
    balancer.backward(losses_of(model, rows, balancer), model)
    return gradients(model)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def weigh(
    balancer: Balancer, means: list[float], present: list[bool] | None = None, index: list[int] | None = None
) -> Weighed:
    """What a balancer makes of these mean losses; of all tasks, all of them there, unless said otherwise."""
    assert isinstance(balancer, LossWeighting)
    there = np.ones(len(means), dtype=bool) if present is None else np.array(present)
    return balancer.weigh(np.array(means), there, index or list(range(len(means))))


def task_gradients(model: MultiTaskNetwork, rows: TensorRows) -> dict[str, dict[str, Tensor]]:
    """Per task the gradient of its mean loss by every parameter, one plain backward pass each."""
    found = {}
    for task in model.tasks:
        model.zero_grad()
        losses_of(model, rows)[task].mean.backward()
        found[task] = gradients(model)
    model.zero_grad()
    return found


def jacobian(by_task: Mapping[str, Mapping[str, Tensor]], names: list[str]) -> Tensor:
    return torch.stack([torch.cat([found[name].flatten() for name in names]) for found in by_task.values()])


def in_two_processes(
    balancer: Balancer, model: MultiTaskNetwork, shares: list[TensorRows], steps: int = 1
) -> list[MultiTaskNetwork]:
    """What two processes do, in two threads: each its share of the rows, joint counts, plain SGD."""
    barrier, given = threading.Barrier(2, timeout=60), [torch.zeros(0), torch.zeros(0)]
    models: list[Any] = [None, None]
    errors: list[BaseException] = []

    def mean_in(rank: int) -> Callable[[Tensor], Tensor]:
        def mean(tensor: Tensor) -> Tensor:
            given[rank] = tensor.detach().clone()
            barrier.wait()
            result = (given[0] + given[1]) / 2
            barrier.wait()
            return result

        return mean

    def run(rank: int) -> None:
        try:
            mine, own = copy.deepcopy((balancer, model))
            mine.processes, mine.backpropagate = (
                Processes(2, mean_in(rank)),
                _backward_with(own, mean_in(rank)),
            )
            mine.start(own, seed=3)
            for _ in range(steps):
                own.zero_grad()
                local = losses_of(own, shares[rank], mine)
                joined = {
                    task: SumCount(2 * loss.sum, (2 * mean_in(rank)(loss.count.float())).long())
                    for task, loss in local.items()
                }
                mine.backward(joined, own)
                descend(mine, own)
            models[rank] = own
        except BaseException as error:  # noqa: BLE001  the other thread must not wait for ever
            barrier.abort()
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return models


def _backward_with(model: MultiTaskNetwork, mean: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    """What DDP does: the mean of the gradients over the processes."""

    def backward(total: Tensor, gradient: Tensor | None = None) -> None:
        total.backward(gradient)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = mean(parameter.grad)

    return backward


def descend(balancer: Balancer, model: MultiTaskNetwork, rate: float = 0.1) -> None:
    """A step of gradient descent on the network and on what the balancer learns."""
    with torch.no_grad():
        for parameter in [*model.parameters(), *balancer.parameters()]:
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None
