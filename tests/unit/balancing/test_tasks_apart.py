"""A task that shares nothing says nothing about what the others share: no method listens to its zeros."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import taskloom as tl
from taskloom.balancing import BALANCERS, build
from taskloom.balancing.gradients import tasks_that_share
from taskloom.errors import ConfigError
from taskloom.losses import SumCount
from taskloom.sharing import MultiTaskNetwork

NAMES = ("a", "b", "alone")
REFUSE_PARTS = ("famo", "gradnorm", "stch", "uw_so", "geometric_mean", "pbi", "cosmos", "db_mtl", "mgda_ub")
METHODS = ("mgda", "cagrad", "upgrad", "nash_mtl", "fairgrad", "aligned_mtl", "imtl_g", "config", "pcgrad")


def network(names: tuple[str, ...], *, grouped: bool = False) -> MultiTaskNetwork:
    """a and b share a stage; the third task, where it is there, shares none."""
    torch.manual_seed(6)
    groups = [["a", "b"], *([name] for name in names if name == "alone")]
    return tl.sharing.build(
        "hard_sharing",
        tl.encoders.mlp((5,), hidden=[7, 4]),
        tl.TaskSet(*(tl.Regression(name) for name in names)),
        stages=1,
        groups=groups,
        execution="grouped" if grouped else "one_by_one",
    )


def step(balancer: tl.balancing.Balancer, model: MultiTaskNetwork) -> dict[str, Tensor]:
    """Gradients after one step, by parameter."""
    balancer.start(model, seed=2)
    inputs = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    with balancer.watching(model):
        outputs = model(inputs)
    balancer.backward(
        {
            task: SumCount((output - 1 - number).square().sum(), torch.tensor(9))
            for number, (task, output) in enumerate(outputs.items())
        },
        model,
    )
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_the_others_move_as_without_it(name: str, grouped: bool) -> None:
    large, small = network(NAMES, grouped=grouped), network(NAMES[:2])
    # With all three tasks the copy of two is named after them, with two it is everybody's.
    state = {key.replace(".a+b.", ".shared."): value for key, value in large.state_dict().items()}
    small.load_state_dict({key: value for key, value in state.items() if "alone" not in key})
    balancer = build(name)
    found, expected = step(balancer, large), step(build(name), small)
    for key, gradient in expected.items():
        mine = found[key.replace(".shared.", ".a+b.")]
        assert gradient.any()
        torch.testing.assert_close(mine, gradient, rtol=1e-4, atol=1e-7)
    assert all(found[key].any() for key in found if "alone" in key)  # it follows its own loss
    weights = [key for key in balancer.report_state() if key.startswith("weight/")]
    assert weights == ["weight/a", "weight/b"]


def test_who_shares() -> None:
    def sharing(name: str, **settings: Any) -> list[str]:
        tasks = tl.TaskSet(*(tl.Binary(task) for task in NAMES))
        return tasks_that_share(
            tl.sharing.build(name, tl.encoders.mlp((5,), hidden=[8, 8, 8]), tasks, **settings)
        )

    assert sharing("soft_sharing", weight=0.1) == []
    assert sharing("hard_sharing", stages=1) == [*NAMES]
    assert sharing("plan", partition=["alone", [["a", "alone"], ["b"]], "alone"], joined=True) == [
        "a",
        "alone",
    ]
    assert sharing("cross_stitch", after=[3], read_out={"b": 2}) == ["a", "alone"]
    assert sharing("cross_stitch", after=[2, 3], read_out={"b": 2}) == [*NAMES]
    assert sharing("mmoe") == [*NAMES]


@pytest.mark.parametrize("name", ["krum", "trimmed_mean", "pcd", "excess_mtl"])
def test_methods_that_need_more_that_share_refuse(name: str) -> None:
    said = rf"balancing\.{name}: at least 3 tasks that share parameters expected .* found 2 \(a, b\); choose"
    with pytest.raises(ConfigError, match=said):
        build(name).start(network(NAMES))


@pytest.mark.parametrize(
    "architecture", ["sluice", "mmoe", "dselect_k", "ple", "mtan", "task_routing", "adashare"]
)
@pytest.mark.parametrize(("name", "instead"), [("mgda_ub", "use `mgda`"), ("pcgrad", "use `at: parameters`")])
def test_a_feature_for_all_is_asked_for_before_training(architecture: str, name: str, instead: str) -> None:
    tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))
    model = tl.sharing.build(architecture, tl.encoders.mlp((5,), hidden=[8, 8]), tasks)
    balancer = build(name, {"at": "features"} if name == "pcgrad" else {})
    with pytest.raises(ConfigError, match=rf"balancing\.{name} works at the shared feature.*; {instead}, or"):
        balancer.start(model)


def test_messages_name_what_a_study_file_names() -> None:
    settings = {"pbi": {"weights": {}}, "cosmos": {"weights": {}}}
    for name in BALANCERS:
        balancer = build(name, settings.get(name))
        assert balancer.called == name
        said = "use `mgda`, or a smaller batch" if name == "mgda_ub" else "cannot take a batch in parts"
        if name in REFUSE_PARTS:
            with pytest.raises(ConfigError, match=rf"^balancing\.{name}\b.* {said}"):
                balancer.check_parts()
        else:
            balancer.check_parts()

    class Mine(tl.balancing.WeightedSum): ...

    assert Mine().called == "Mine"
