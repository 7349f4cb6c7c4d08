"""A batch that is abandoned after some of its parts leaves nothing in the one that comes after it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from _balancing import batch, gradients, losses_of, make, network
from _training import rows_with_holes
from taskloom.balancing import BALANCERS, Balancer
from taskloom.errors import ConfigError
from taskloom.losses import SumCount
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import fit


def takes_parts(name: str) -> bool:
    try:
        make(name).check_parts()
    except ConfigError:
        return False
    return True


IN_PARTS = [name for name in BALANCERS if takes_parts(name)]


def part(model: MultiTaskNetwork, rows: Any, begin: int, end: int) -> dict[str, SumCount]:
    counts = {task: loss.count for task, loss in losses_of(model, rows).items()}
    some = rows.__getitems__(list(range(begin, end)))
    return {task: SumCount(loss.sum, counts[task]) for task, loss in losses_of(model, some).items()}


def whole_step(balancer: Balancer, model: MultiTaskNetwork, *, parts: bool) -> dict[str, Tensor]:
    rows = batch(12, seed=8)
    if parts:
        balancer.accumulate(part(model, rows, 0, 5), model)
        balancer.backward(part(model, rows, 5, 12), model)
    else:
        balancer.backward(part(model, rows, 0, 12), model)
    assert balancer.total is not None
    own = {f"own {n}": p.grad for n, p in enumerate(balancer.parameters()) if p.grad is not None}
    return {**gradients(model), **own, "total": balancer.total}


@pytest.mark.parametrize(("by", "parts"), [("None", True), ("None", False), ("zeros", True)])
@pytest.mark.parametrize("name", IN_PARTS)
def test_the_next_batch_is_as_if_there_had_been_none(name: str, by: str, parts: bool) -> None:
    found = []
    for abandoned in (True, False):
        model, balancer = network(), make(name)
        balancer.start(model, seed=3)
        if abandoned:
            rows = batch(12, seed=7)
            balancer.accumulate(part(model, rows, 0, 4), model)
            balancer.accumulate(part(model, rows, 4, 8), model)
            model.zero_grad(set_to_none=by == "None")
            for parameter in balancer.parameters():
                parameter.grad = None
            if by == "zeros":
                balancer.forget_parts()
        found.append(whole_step(balancer, model, parts=parts))
    assert found[0].keys() == found[1].keys()
    for key, value in found[1].items():
        torch.testing.assert_close(found[0][key], value, msg=key)


@pytest.mark.parametrize("name", ["pcgrad", "learned_weights", "mean"])
def test_training_that_broke_off_between_parts_leaves_none(name: str) -> None:
    model, balancer = network(), make(name)
    seen: list[int] = []

    def breaks(module: object, given: tuple[Tensor]) -> None:
        seen.append(len(given[0]))
        if len(seen) == 5:  # the second part of the second batch
            raise KeyboardInterrupt

    first = next(m for m in model.stages.modules() if isinstance(m, torch.nn.Linear))  # type: ignore[union-attr]
    handle = first.register_forward_pre_hook(breaks)
    with pytest.raises(KeyboardInterrupt):
        fit(
            model,
            rows_with_holes(24, 1),
            rows_with_holes(12, 2),
            epochs=1,
            batch=12,
            accumulate=3,
            device="cpu",
            balancer=balancer,
        )
    handle.remove()
    assert len(seen) == 5
    fresh = make(name)
    fresh.start(model)
    fresh.load_state_dict(balancer.state_dict())
    found = []
    for one in (balancer, fresh):
        for parameter in [*model.parameters(), *one.parameters()]:
            parameter.grad = torch.zeros_like(parameter)  # nothing that says that a batch was abandoned
        found.append(whole_step(one, model, parts=False))
    for key, value in found[1].items():
        torch.testing.assert_close(found[0][key], value, msg=key)
