"""What counts as shared in gradient aggregation, against the gradients that really arrive."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from _balancing import batch, losses_of, make, step, task_gradients
from _training import TASKS
from taskloom import encoders, sharing
from taskloom.balancing.gradients import find_seam
from taskloom.sharing import MultiTaskNetwork

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("mtan", {}),
    ("mtan", {"stages": [1, 3]}),
    ("mmoe", {"experts": 3}),
    ("dselect_k", {"entropy": 0.0}),  # its penalty stands beside the tasks
    ("dselect_k", {"entropy": 0.0, "gate_input": "static"}),
    ("ple", {}),
    ("ple", {"levels": 2, "task_experts": 2}),
    ("ple", {"levels": 1}),
    ("ple", {"shared_experts": 2, "task_experts": 0}),
]


def built(name: str, settings: dict[str, Any]) -> MultiTaskNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = encoders.mlp((4,), hidden=[16, 12, 8])
        return sharing.build(name, encoder, TASKS, **settings).double()


@pytest.mark.parametrize(("name", "settings"), [*NETWORKS, ("adashare", {})])
def test_only_what_another_task_hears_is_shared(name: str, settings: dict[str, Any]) -> None:
    # All tasks go through one node of autograd's graph, which alone would call masks and policies shared.
    model, rows = built(name, settings), batch()
    rows.inputs = rows.inputs.double()
    seam = find_seam(losses_of(model, rows), model)
    found = task_gradients(model, rows)
    parameters = dict(model.named_parameters())
    shared = {id(parameter) for parameter in seam.shared}
    for task in TASKS:
        mine = {id(parameter) for parameter in model.task_parameters(task)}
        heard = {
            key
            for key, parameter in parameters.items()
            if id(parameter) in mine and any(found[other][key].any() for other in TASKS if other != task)
        }
        assert {key for key, p in parameters.items() if id(p) in mine & shared} == heard
        assert {id(p) for p in seam.own[task]} == mine - shared


@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_no_method_changes_the_gradient_of_what_a_task_has_alone(name: str, settings: dict[str, Any]) -> None:
    model, rows = built(name, settings), batch()
    rows.inputs = rows.inputs.double()
    alone = task_gradients(model, rows)
    balancer = make("mgda")
    balancer.start(model)
    balanced = step(balancer, model, rows)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    for task, own in find_seam(losses_of(model, rows), model).own.items():
        assert own
        for key in (names[id(parameter)] for parameter in own):
            torch.testing.assert_close(balanced[key], alone[task][key])
