"""What a whole network's penalty is, by another route; what another branch costs below pooled stages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import taskloom as tl
from taskloom.sharing.changing import Look
from taskloom.sharing.modules.branching import BranchingNetwork, num_reductions_above
from taskloom.sharing.modules.grouping import affinity_of, separation
from taskloom.tasks import Labels

TASKS = tl.TaskSet(*(tl.Binary(name) for name in "abcd"))


@pytest.mark.parametrize("subspaces", [2, 3])
def test_a_sluice_networks_penalty_is_that_of_a_loop_over_channels(subspaces: int) -> None:
    """Squares of all inner products between weights of channels in different subspaces."""
    network = tl.sharing.build(
        "sluice", tl.encoders.mlp((5,), hidden=[6, 12]), TASKS, subspaces=subspaces, orthogonality=0.3,
        skips="none",
    )  # fmt: skip
    expected = 0.0
    for task, (stage, channels) in itertools.product("abcd", (("dense_0", 6), ("dense_1", 12))):
        state = {k: v for k, v in network.state_dict().items() if k.startswith(f"stages.{stage}.{task}.")}
        (weight,) = (v.double().numpy() for k, v in state.items() if k.endswith("weight"))
        parts = np.arange(channels) // (channels // subspaces)
        for one, other in itertools.combinations(range(channels), 2):
            if parts[one] != parts[other]:
                expected += 0.3 * float(weight[one] @ weight[other]) ** 2
    assert network.penalty().item() == pytest.approx(expected, rel=1e-5)


def scripted(hard: dict[str, list[bool]]) -> Look:
    """Outputs that are far off for the rows that are hard for a task."""
    outputs = {task: torch.tensor([[-3.0 if row else 3.0] for row in rows]) for task, rows in hard.items()}
    number = len(next(iter(hard.values())))
    ones = {task: torch.ones(number, dtype=torch.int64) for task in hard}
    return Look(outputs, Labels(ones, {task: torch.ones(number).bool() for task in hard}))


def test_a_branch_below_a_stage_that_pools_costs_twice_as_much() -> None:
    # a and b err on the same rows, so do c and d; between the pairs errors are as good as independent.
    first, second = [True, True, False, False], [True, False, True, False]
    look = scripted({"a": first, "b": first, "c": second, "d": second})
    whole = separation(affinity_of(TASKS, look.outputs, look.labels), ((0, 1, 2, 3),))
    encoder = tl.encoders.conv1d((32, 3), filters=[4, 6, 8])
    assert num_reductions_above(encoder) == [1, 0, 0]
    for share, partition in ((0.75, 1), (0.4, 2)):  # of what sharing costs: below it at a price of twice that
        network = tl.sharing.build(
            "adaptive_branching", encoder, TASKS, after_epochs=[1, 2, 3], branch_cost=share * whole
        )
        assert isinstance(network, BranchingNetwork)
        for epoch in (2, 3, 4):
            network.change(epoch, lambda: look)
        assert [len(stage.partition) for stage in network.plan.stages] == [partition, 2, 2]
