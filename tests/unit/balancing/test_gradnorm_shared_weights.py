"""Where GradNorm compares tasks: the last weights that all losses reach; and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import taskloom as tl
from _planted import planted, planted_encoder
from taskloom.balancing import build
from taskloom.balancing.adaptive import GradNorm, last_shared_weights
from taskloom.errors import ConfigError
from taskloom.losses import SumCount, weighted
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import fit

TASKS = tl.TaskSet(*(tl.Regression(name) for name in "abc"))


REVERSAL = tl.tasks.Reversal(warmup=0.5)


def network(architecture: str, tasks: tl.TaskSet = TASKS, **settings: Any) -> MultiTaskNetwork:
    return tl.sharing.build(architecture, tl.encoders.mlp((5,), hidden=[8, 8, 8]), tasks, **settings)


def losses_of(model: MultiTaskNetwork) -> dict[str, SumCount]:
    outputs = model(torch.ones(7, 5))
    return {task: SumCount((outputs[task] - 1).square().sum(), torch.tensor(7)) for task in model.tasks}


@pytest.mark.parametrize(
    ("architecture", "settings", "expected"),
    [
        ("hard_sharing", {"stages": 2}, "stages.dense_1.shared.0.weight"),
        (
            "plan",
            {"partition": ["together", [["a", "b"], ["c"]], "alone"]},
            "stages.dense_0.shared.0.weight",
        ),
        (
            "plan",
            {"partition": ["together", "together", [["a", "c"], ["b"]]]},
            "stages.dense_1.shared.0.weight",
        ),
        ("hard_sharing", {"stages": 3, "read_out": {"a": 2}}, "stages.dense_1.shared.0.weight"),
        ("hard_sharing", {"stages": 1, "from": "output"}, "stages.dense_2.shared.0.weight"),
        ("mtan", {}, "stages.dense_2.shared.0.weight"),
        ("multilinear_relationship", {}, "stages.dense_1.shared.0.weight"),
        ("cross_stitch", {"after": [1, 2]}, "mixing.dense_1.alpha"),
        ("cross_stitch", {"after": [1, 3], "read_out": {"a": 1}}, "mixing.dense_0.alpha"),
        ("proportional_addition", {}, "stages.dense_2.{}.0.weight"),
        ("proportional_addition", {"after": [1]}, "stages.dense_0.{}.0.weight"),
    ],
)
def test_it_looks_at_the_last_weights_before_the_tasks_part(
    architecture: str, settings: dict[str, Any], expected: str
) -> None:
    model = network(architecture, **settings)
    balancer = build("gradnorm")
    balancer.start(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [names[id(weights)] for weights in last_shared_weights(losses_of(model), model)]
    assert found == list(dict.fromkeys(expected.format(task) for task in TASKS))
    balancer.backward(losses_of(model), model)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("single_task", {}),
        ("soft_sharing", {"weight": 0.1}),
        ("cross_stitch", {"after": [3], "read_out": {"a": 1}}),
        ("proportional_addition", {"after": [3], "read_out": {"a": 1}}),
        ("plan", {"partition": [[["a", "b"], ["c"]], "alone", "alone"]}),
    ],
)
def test_a_refusal_says_what_to_do(architecture: str, settings: dict[str, Any]) -> None:
    message = (
        r"share one stage among all of a, b, c \(they may part after it\), or choose a balancing that looks"
    )
    with pytest.raises(ConfigError, match=message):
        build("gradnorm").start(network(architecture, **settings))


WEIGHTLESS = tl.Regression("c", role="auxiliary", weight=0.0)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("plan", {"partition": [[["a", "b"], ["c"]], "alone", "alone"]}),
        ("hard_sharing", {"stages": 2, "groups": [["a", "b"], ["c"]]}),
        ("proportional_addition", {"after": [3], "read_out": {"c": 1}}),
        ("cross_stitch", {"after": [3], "read_out": {"c": 1}}),
    ],
)
def test_a_task_of_weight_0_that_stands_apart_changes_nothing(
    architecture: str, settings: dict[str, Any]
) -> None:
    """Three steps of the others' weights and gradients, as in the network without it."""
    tasks = tl.TaskSet(TASKS["a"], TASKS["b"], WEIGHTLESS)
    model = network(architecture, tasks, **settings)
    rest = {key: value for key, value in settings.items() if key != "read_out"}
    if "groups" in rest:
        rest["groups"] = [["a", "b"]]
    if "partition" in rest:
        rest["partition"] = ["together", "alone", "alone"]
    small = network(architecture, TASKS.subset(["a", "b"]), **rest)
    given = {name.replace(".a+b.", ".shared."): tensor for name, tensor in model.state_dict().items()}
    own = {name: given.get(name, tensor) for name, tensor in small.state_dict().items()}
    small.load_state_dict(own)
    reports = []
    for each in (model, small):
        balancer = build("gradnorm", {"lr": 0.1})
        balancer.start(each)
        for _ in range(3):
            each.zero_grad()
            balancer.backward(weighted(losses_of(each), each.tasks), each)
            with torch.no_grad():
                for parameter in each.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.05 * parameter.grad
        reports.append(balancer.report_state())
    assert reports[0].pop("weight/c") == 1.0
    assert reports[0] == pytest.approx(reports[1], rel=1e-5)
    assert abs(reports[1]["weight/a"] - reports[1]["weight/b"]) > 0.01
    outputs = [each(torch.ones(2, 5)) for each in (model, small)]
    for task in "ab":
        torch.testing.assert_close(outputs[0][task], outputs[1][task])


@pytest.mark.parametrize(
    ("tasks", "settings"),
    [
        (tl.TaskSet(TASKS["a"], TASKS["b"], dataclasses.replace(WEIGHTLESS, weight=0.1)), {}),
        (  # heard after its warm-up, by a stage that it shares with b alone
            tl.TaskSet(TASKS["a"], TASKS["b"], tl.Regression("c", role="adversarial", reversal=REVERSAL)),
            {
                "partition": [[["a", "b"], ["c"]], [["a"], ["b", "c"]], "alone"],
                "joined": True,
            },
        ),
        (  # fewer than two are left to compare
            tl.TaskSet(TASKS["a"], dataclasses.replace(WEIGHTLESS, name="b"), WEIGHTLESS),
            {},
        ),
    ],
)
def test_a_task_apart_that_counts_is_refused(tasks: tl.TaskSet, settings: dict[str, Any]) -> None:
    model = network("plan", tasks, **({"partition": [[["a", "b"], ["c"]], "alone", "alone"]} | settings))
    model.set_progress(0.0)
    with pytest.raises(ConfigError, match="share one stage among all of a, b, c"):
        build("gradnorm").start(model)


@pytest.mark.parametrize("name", ["gradnorm", "mgda_ub"])
def test_a_network_that_may_part_to_the_ground_is_refused_before_training(name: str) -> None:
    """It went on until the first stage parted, and failed in the epoch after that."""
    rows, tasks = planted("mlp", 3, num_rows=64), planted("mlp", 3, num_rows=64).tasks

    def train(after_epochs: list[int]) -> int:
        torch.manual_seed(2)
        settings: dict[str, Any] = {"after_epochs": after_epochs, "branch_cost": 0.0}
        model = tl.sharing.build("adaptive_branching", planted_encoder("mlp"), tasks, **settings)
        rest = {"epochs": 5, "batch": 32, "device": "cpu", "balancer": build(name)}
        return len(fit(model, rows, planted("mlp", 3, num_rows=32, seed=1), **rest))

    with pytest.raises(ConfigError, match=r"may part its first stage .* the last of its `after_epochs`"):
        train([1, 2, 3])
    assert train([1, 2]) == 5


def test_where_tasks_hear_each_others_copies_norms_are_over_all_of_them() -> None:
    """One step of the rule by hand, with gradients of each loss in copies that autograd gives one by one."""
    model = network("proportional_addition", start=0.3)
    balancer = build("gradnorm", {"alpha": 0.0, "lr": 0.1})
    balancer.start(model)
    losses = losses_of(model)
    copies = [model.get_parameter(f"stages.dense_2.{task}.0.weight") for task in TASKS]
    norms = {
        task: sum(
            torch.autograd.grad(loss.mean, copy, retain_graph=True)[0].square().sum() for copy in copies
        ).sqrt()
        for task, loss in losses.items()
    }
    balancer.backward(losses, model)
    by_hand = build("gradnorm", {"alpha": 0.0, "lr": 0.1})
    assert isinstance(by_hand, GradNorm)
    by_hand.start(model)
    by_hand.load_state_dict({**by_hand.state_dict(), "first": dict.fromkeys(TASKS, 1.0)})
    by_hand.follow({task: float(norm) for task, norm in norms.items()}, dict.fromkeys(TASKS, 1.0))
    assert balancer.report_state() == pytest.approx(by_hand.report_state(), rel=1e-5)
    assert len(set(balancer.report_state().values())) > 1


def test_copies_that_are_frozen_let_it_rest() -> None:
    model = network("proportional_addition")
    balancer = build("gradnorm")
    balancer.start(model)
    for task in TASKS:
        for index in range(3):
            model.get_submodule(f"stages.dense_{index}.{task}").requires_grad_(False)
    balancer.backward(losses_of(model), model)
    assert balancer.report_state() == {
        "weight/a": 1.0,
        "weight/b": 1.0,
        "weight/c": 1.0,
        "shared_frozen": 1.0,
    }


def test_no_weight_falls_to_0_or_below_and_their_sum_stays() -> None:
    """One step by hand, as long as it pleases: a's share of the norms is far above its target."""
    balancer = build("gradnorm", {"alpha": 0.0, "lr": 10.0})
    assert isinstance(balancer, GradNorm)
    balancer.start(network("hard_sharing", stages=2))
    balancer.load_state_dict({**balancer.state_dict(), "first": {"a": 1.0, "b": 1.0, "c": 1.0}})
    balancer.follow({"a": 4.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0})
    # 1 - 10 * 4 would be -39, and is 0.01; the others rise to 1 + 10 * 1; all times 3 / 22.01.
    weights = balancer.state_dict()["weights"]
    assert weights == pytest.approx({"a": 0.03 / 22.01, "b": 33 / 22.01, "c": 33 / 22.01})
