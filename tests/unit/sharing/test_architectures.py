"""Equalities between architectures, parameter counts by formula, and settings that are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import _architecture_table
import taskloom as tl
from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing import ARCHITECTURES, MultiTaskNetwork, PlanArchitecture, PlanNetwork, build
from taskloom.sharing.plan import Plan

OWN: dict[str, list[dict[str, Any]]] = {
    "single_task": [{}],
    "hard_sharing": [{"stages": 2}, {"stages": 2, "from": "output"}],
    "soft_sharing": [{"weight": 0.01}, {"tie": "l2", "weight": 0.1, "stages": [1]}],
    "plan": [
        {"partition": ["together", "together", "alone"], "mixing": "layer"},
        {"partition": {"1": "together", "3": "together"}, "joined": True},
    ],
    "cross_stitch": [
        {},
        {"tie": "exponential_affine", "units": 2, "from": "output"},
        {"after": [1, 3], "per": "channel", "start": {"same": 0.9, "other": 0.1}},
    ],
    "proportional_addition": [{"start": 0.2}, {"after": [2]}],
}
SETTINGS = {
    name: OWN.get(name, [settings])
    for name, settings in _architecture_table.SETTINGS.items()
    if isinstance(ARCHITECTURES[name], PlanArchitecture)
}
EVERY_SETTING = [(name, settings) for name, entries in SETTINGS.items() for settings in entries]
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "mlp": lambda: tl.encoders.build("mlp", (6,), hidden=[8, 7, 5]),
    "conv": lambda: tl.encoders.build("opportunity_cnn", (64, 5), width=0.1, dense=()),
}
NUMBERS = [1, 2, 3, 8]


def tasks_of(number: int) -> tl.TaskSet:
    return tl.TaskSet(*(tl.Multiclass(f"task {index}", 2 + index % 3) for index in range(number)))


def network_of(encoder: Encoder, tasks: tl.TaskSet, name: str, **settings: Any) -> PlanNetwork:
    torch.manual_seed(1)
    network = build(name, encoder, tasks, **settings)
    assert isinstance(network, PlanNetwork)
    network.double()
    for unit in network.mixing.children():
        unit.reset_parameters()  # 1/3 in double precision
    return network


def drawn_inputs(encoder: Encoder) -> Tensor:
    return torch.randn(4, *encoder.input_shape, dtype=torch.float64)


def gradients(network: MultiTaskNetwork, inputs: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    sum(output.square().sum() for output in network(inputs).values()).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_filling_of_the_plan_is_in_this_table() -> None:
    plans = [name for name in ARCHITECTURES if isinstance(ARCHITECTURES[name], PlanArchitecture)]
    assert sorted(plans) == sorted(SETTINGS)
    assert set(OWN) <= set(SETTINGS)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("encoder_name", ENCODERS)
@pytest.mark.parametrize(("name", "settings"), EVERY_SETTING)
def test_loss_falls_and_state_loads(
    name: str, settings: dict[str, Any], encoder_name: str, number: int
) -> None:
    encoder, tasks = ENCODERS[encoder_name](), tasks_of(number)
    network = network_of(encoder, tasks, name, **settings, head={"hidden": [6]})
    inputs = drawn_inputs(encoder)
    targets = {task: torch.arange(4) % kind.width for task, kind in tasks.items()}
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)

    def loss() -> Tensor:
        terms = [nn.functional.cross_entropy(out, targets[task]) for task, out in network(inputs).items()]
        return torch.stack(terms).sum() + network.penalty()

    first = loss().item()
    for _ in range(8):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < first
    again = network_of(encoder, tasks, name, **settings, head={"hidden": [6]})
    again.load_state_dict(network.state_dict())
    for task in tasks:
        assert torch.equal(again(inputs)[task], network(inputs)[task])


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("encoder_name", ENCODERS)
@pytest.mark.parametrize("per", ["layer", "channel"])
def test_cross_stitch_at_identity_is_single_task(per: str, encoder_name: str, number: int) -> None:
    encoder, tasks = ENCODERS[encoder_name](), tasks_of(number)
    mixed = network_of(encoder, tasks, "cross_stitch", per=per)
    single = network_of(encoder, tasks, "single_task")
    inputs = drawn_inputs(encoder)
    for task, output in single(inputs).items():
        assert torch.equal(mixed(inputs)[task], output)
    of_mixed = gradients(mixed, inputs)
    for name, gradient in gradients(single, inputs).items():
        assert torch.equal(of_mixed[name], gradient)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("encoder_name", ENCODERS)
@pytest.mark.parametrize("per", ["layer", "channel"])
def test_cross_stitch_at_1_over_t_with_equal_copies_is_hard_sharing(
    per: str, encoder_name: str, number: int
) -> None:
    encoder, tasks = ENCODERS[encoder_name](), tasks_of(number)
    mixed = network_of(encoder, tasks, "cross_stitch", per=per, start="equal", copies="same")
    shared = network_of(encoder, tasks, "hard_sharing", stages=3, copies="same")
    inputs = drawn_inputs(encoder)
    for task, output in shared(inputs).items():
        torch.testing.assert_close(mixed(inputs)[task], output, rtol=1e-12, atol=1e-12)
    # The trunk's gradient is the sum over the copies' gradients.
    of_mixed = gradients(mixed, inputs)
    for name, gradient in gradients(shared, inputs).items():
        if name.startswith("stages."):
            _, stage, _, parameter = name.split(".", 3)
            parts = [
                g
                for other, g in of_mixed.items()
                if other.startswith(f"stages.{stage}.") and other.endswith(parameter)
            ]
            assert len(parts) == number
            torch.testing.assert_close(torch.stack(parts).sum(dim=0), gradient)
        else:
            torch.testing.assert_close(of_mixed[name], gradient)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("start", ["input", "output"])
def test_hard_sharing_of_no_stage_is_single_task(start: str, number: int) -> None:
    encoder, tasks = ENCODERS["conv"](), tasks_of(number)
    shared = network_of(encoder, tasks, "hard_sharing", stages=0, start=start)
    single = network_of(encoder, tasks, "single_task")
    inputs = drawn_inputs(encoder)
    assert shared.state_dict().keys() == single.state_dict().keys()
    assert all(torch.equal(shared(inputs)[task], output) for task, output in single(inputs).items())


@pytest.mark.parametrize("number", NUMBERS)
def test_hard_sharing_of_all_stages_is_one_trunk_from_either_end(number: int) -> None:
    encoder, tasks = ENCODERS["conv"](), tasks_of(number)
    trunk = encoder.double()
    inputs = drawn_inputs(encoder)
    for start in ("input", "output"):
        network = network_of(trunk, tasks, "hard_sharing", stages=3, start=start, copies="same")
        assert num_parameters(network.stages) == num_parameters(encoder)
        for task, output in network(inputs).items():
            torch.testing.assert_close(output, network.heads[task](trunk(inputs)))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("stages", range(4))
@pytest.mark.parametrize("start", ["input", "output"])
def test_parameter_counts(start: str, stages: int, number: int) -> None:
    encoder, tasks = ENCODERS["conv"](), tasks_of(number)
    sizes = [num_parameters(stage) for stage in encoder.stages]
    heads = sum((encoder.num_features + 1) * task.width for task in tasks.values())
    shared = sizes[:stages] if start == "input" else sizes[len(sizes) - stages :]
    network = network_of(encoder, tasks, "hard_sharing", stages=stages, start=start)
    expected = sum(shared) + number * (sum(sizes) - sum(shared)) + heads
    assert num_parameters(network) == expected
    mixed = network_of(encoder, tasks, "cross_stitch", per="channel", after=[1, 2])
    channels = encoder.stage_shapes[0][0] + encoder.stage_shapes[1][0]
    assert num_parameters(mixed) == number * sum(sizes) + heads + channels * number**2


@pytest.mark.parametrize(("name", "settings"), EVERY_SETTING)
def test_permuting_tasks_permutes_results(name: str, settings: dict[str, Any]) -> None:
    encoder, tasks = ENCODERS["conv"](), tasks_of(3)
    order = [2, 0, 1]
    turned = tl.TaskSet(*(tasks[tasks.names[index]] for index in order))
    first = network_of(encoder, tasks, name, **settings)
    second = network_of(encoder, turned, name, **settings)
    state = first.state_dict()
    for key, tensor in state.items():
        if key.startswith("mixing."):
            torch.nn.init.uniform_(tensor)
    first.load_state_dict(state)

    def in_order(mixing: Tensor) -> Tensor:  # a matrix, or one share per donor
        return mixing[order] if mixing.dim() == 1 else mixing[..., order, :][..., order]

    second.load_state_dict(
        {key: in_order(tensor) if key.startswith("mixing.") else tensor for key, tensor in state.items()}
    )
    inputs = drawn_inputs(encoder)
    for task, output in first(inputs).items():
        torch.testing.assert_close(second(inputs)[task], output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second.penalty(), first.penalty())


def test_groups_share_among_themselves() -> None:
    tasks = tasks_of(3)
    a, b, c = tasks.names
    network = network_of(ENCODERS["mlp"](), tasks, "hard_sharing", stages=2, groups=[[a, c], [b]])
    assert network.describe().splitlines()[1:] == [
        "dense_0  A       B       A       -       -",
        "dense_1  A       B       A       -       -",
        "dense_2  A       B       C       -       -",
        "head     A       B       C       -       -",
    ]
    with pytest.raises(ConfigError, match="`task 1` stands in none"):
        build("hard_sharing", ENCODERS["mlp"](), tasks, stages=1, groups=[[a, c]])


def test_which_stages_are_mixed_and_tied() -> None:
    encoder, tasks = ENCODERS["conv"](), tasks_of(2)

    def matrices(after: object) -> list[str]:
        return sorted(network_of(encoder, tasks, "cross_stitch", after=after).mixing_matrices())

    assert matrices("all") == ["conv_0", "conv_1", "conv_2"]
    assert matrices([1, "conv_2"]) == ["conv_0", "conv_2"]
    assert matrices([]) == []
    blank = nn.ReLU()
    plan = tl.sharing.soft_sharing.plan(
        tl.encoders.from_modules([nn.Linear(3, 3), blank, nn.BatchNorm1d(3)], (3,)), tasks, weight=0.5
    )
    assert [stage.tie is not None for stage in plan.stages] == [True, False, False]


def test_an_architecture_is_called_by_its_own_name_too() -> None:
    encoder, tasks = ENCODERS["mlp"](), tasks_of(2)
    torch.manual_seed(1)
    network = tl.sharing.cross_stitch(encoder, tasks, per="channel", head={"hidden": [3]}).double()
    same = network_of(encoder, tasks, "cross_stitch", per="channel", head={"hidden": [3]})
    inputs = drawn_inputs(encoder)
    assert all(torch.equal(network(inputs)[task], output) for task, output in same(inputs).items())
    assert tl.sharing.cross_stitch.plan(encoder, tasks, per="channel") == same.plan
    own = ("stages", "from", "groups", "joined")
    assert tl.sharing.hard_sharing.settings == (*own, "copies", "read_out", "deep_supervision", "execution")


def test_a_new_way_of_sharing_is_one_function() -> None:
    @tl.sharing.register("first_two_share")
    def first_two_share(encoder: Encoder, tasks: tl.TaskSet, *, stages: int) -> Plan:
        """The first stages shared by the first two tasks, everything else alone."""
        first, second, *rest = tasks.names
        groups = [[first, second], *([name] for name in rest)]
        return tl.sharing.hard_sharing.plan(encoder, tasks, stages=stages, groups=groups)

    try:
        network = build("first_two_share", ENCODERS["mlp"](), tasks_of(3), stages=1)
        assert isinstance(network, PlanNetwork)
        assert len(list(network.stages["dense_0"].children())) == 2
        with pytest.raises(
            ConfigError, match=r"first_two_share.stagse is not a setting. Did you mean `stages`"
        ):
            first_two_share(ENCODERS["mlp"](), tasks_of(3), stagse=1)
    finally:
        del ARCHITECTURES._entries["first_two_share"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hard_shairing", {}, "`hard_shairing` is not a known way of sharing. Did you mean `hard_sharing`"),
        ("hard_sharing", {}, "hard_sharing.stages is missing"),
        ("hard_sharing", {"stages": 4}, r"hard_sharing.stages: a whole number from 0 to 3 .* found 4"),
        ("hard_sharing", {"stages": "two"}, "hard_sharing.stages: .* found 'two'"),
        ("hard_sharing", {"stages": 1, "from": "top"}, "hard_sharing.from: input or output .* found 'top'"),
        (
            "hard_sharing",
            {"stage": 1},
            "stage is not a setting. Did you mean `stages`.* stages, from, groups, joined, copies",
        ),
        ("hard_sharing", {"stages": 1, "groups": ["task 0"]}, "a list of lists of task names"),
        ("hard_sharing", {"stages": 1, "groups": 5}, "groups: a list of lists of task names .* found 5"),
        ("hard_sharing", {"stages": 1, "groups": [5]}, r"groups: a list of lists .* found \[5\]"),
        ("hard_sharing", {"stages": 1, "groups": [[5]]}, "stage 1: `5` is not a task"),
        ("plan", {"partition": {"1": [[["task 0"]], ["task 1"]]}}, r"`\['task 0'\]` is not a task"),
        ("plan", {"partition": {"1": "alone"}, "mixing": {1: "layer"}}, "plan.mixing.1 is not a setting"),
        ("cross_stitch", {"tie": {1: None}}, "`1` is not a known tie"),
        ("soft_sharing", {"tie_settings": 5}, "soft_sharing.tie_settings: .* found 5"),
        ("soft_sharing", {"tie_settings": {"weight": 5}}, "tie_settings: .* without `weight`"),
        ("soft_sharing", {"weight": {}}, "soft_sharing.weight: a factor for at least one stage"),
        ("soft_sharing", {"tie": "l3"}, "`l3` is not a known tie"),
        ("soft_sharing", {"weight": -0.1}, "weight of the tie .* found -0.1"),
        ("soft_sharing", {"stages": [7]}, "stage 7 does not exist"),
        ("soft_sharing", {"tie_settings": {"shift": 1}}, "`shift` is not a setting of tie trace_norm"),
        ("cross_stitch", {"after": "first"}, "cross_stitch.after: all, or a list"),
        ("cross_stitch", {"after": ["dense_4"]}, "stage 'dense_4' does not exist. Did you mean `dense_"),
        ("cross_stitch", {"per": "unit"}, "per must be layer or channel"),
        ("cross_stitch", {"lr_multiplier": -1}, "lr_multiplier must be a number above 0"),
        ("single_task", {"stages": 1}, "single_task.stages is not a setting"),
    ],
)
def test_refused_settings(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, ENCODERS["mlp"](), tasks_of(2), **settings)
