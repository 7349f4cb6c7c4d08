"""Plans as settings: trees against loops written out, ties by stage, ties with mixing, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing import PlanNetwork, build
from taskloom.sharing.checks import check_side_effects
from taskloom.sharing.ties import build as build_tie

TASKS = tl.TaskSet(tl.Binary("a"), tl.Regression("b"), tl.Multiclass("c", 3))
NAMES = TASKS.names
TREE = [[["a", "b", "c"]], [["a", "b"], ["c"]], "alone"]


def mlp() -> Encoder:
    return tl.encoders.mlp((4,), hidden=[6, 5, 3])


def network_of(name: str, encoder: Encoder | None = None, **settings: Any) -> PlanNetwork:
    torch.manual_seed(3)
    network = build(name, encoder or mlp(), TASKS, **settings).double()
    assert isinstance(network, PlanNetwork)
    for unit in network.mixing.children():
        unit.reset_parameters()
    return network


def drawn() -> Tensor:
    return torch.randn(7, 4, dtype=torch.float64)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gradients(network: PlanNetwork, inputs: Tensor, tasks: tuple[str, ...] = NAMES) -> dict[str, Tensor]:
    network.zero_grad(set_to_none=True)
    outputs = network(inputs)
    (sum(outputs[task].square().sum() for task in tasks) + network.penalty()).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_a_tree_is_what_its_loops_written_out_are() -> None:
    network, inputs = network_of("plan", partition=TREE), drawn()
    stages = [dict(module.named_children()) for module in network.stages.values()]
    first = stages[0]["shared"](inputs)
    early, late = stages[1]["c"](first), stages[1]["a+b"](first)
    expected = {
        "a": network.heads["a"](stages[2]["a"](late)),
        "b": network.heads["b"](stages[2]["b"](late)),
        "c": network.heads["c"](stages[2]["c"](early)),
    }
    for task, output in network(inputs).items():
        assert torch.equal(output, expected[task])


def test_a_gradient_reaches_only_the_copies_that_the_task_uses() -> None:
    network = network_of("plan", partition=TREE)
    for task in NAMES:
        reached = set(gradients(network, drawn(), (task,)))
        groups = [
            f"stages.{key}.{'shared' if len(group) == 3 else '+'.join(group)}."
            for key, stage in zip(network.stages, network.plan.stages, strict=True)
            for group in stage.partition
            if task in group
        ]
        expected = {
            name for name, _ in network.named_parameters() if name.startswith((*groups, f"heads.{task}."))
        }
        assert reached == expected


def test_parameter_counts_of_a_tree() -> None:
    sizes = [4 * 6 + 6, 6 * 5 + 5, 5 * 3 + 3]
    heads = (3 + 1) * (1 + 1 + 3)
    assert (
        num_parameters(network_of("plan", partition=TREE)) == sizes[0] + 2 * sizes[1] + 3 * sizes[2] + heads
    )


@pytest.mark.parametrize(
    ("partition", "name", "settings"),
    [
        (["alone"] * 3, "single_task", {}),
        ({}, "single_task", {}),
        ({"1": "together", "dense_1": "together"}, "hard_sharing", {"stages": 2}),
        (["alone", "alone", "together"], "hard_sharing", {"stages": 1, "from": "output"}),
        (
            [[["a", "c"], ["b"]], "alone", "alone"],
            "hard_sharing",
            {"stages": 1, "groups": [["a", "c"], ["b"]]},
        ),
    ],
)
def test_a_plan_may_say_what_other_names_say(partition: Any, name: str, settings: dict[str, Any]) -> None:
    network = network_of("plan", partition=partition, joined=True)
    other, inputs = network_of(name, **settings), drawn()
    assert network.plan.describe() == other.plan.describe()
    for task, output in other(inputs).items():
        assert torch.equal(network(inputs)[task], output)


def test_mixing_and_tie_of_a_plan_are_those_of_cross_stitch() -> None:
    tie = {"exponential_affine": {"weight": {"dense_0": 0.1, "2": 0.02}, "lr_multiplier": 5}}
    mixing = {"after": [1, 3], "per": "channel", "start": {"same": 0.9, "other": 0.1}, "lr_multiplier": 10}
    network = network_of("plan", partition={}, mixing=mixing, tie=tie)
    other, inputs = network_of("cross_stitch", **mixing, tie=tie), drawn()
    for task, output in other(inputs).items():
        assert torch.equal(network(inputs)[task], output)
    assert torch.equal(network.penalty(), other.penalty())
    assert network.penalty() > 0


def test_mixing_without_after_stands_where_every_task_is_alone() -> None:
    assert list(network_of("plan", partition=TREE, mixing="layer").mixing_matrices()) == ["dense_2"]
    tree = ["together", [["a", "b"], ["c"]], "alone"]
    assert set(network_of("plan", partition=tree, tie="l2").ties) == {"dense_1", "dense_2"}


@pytest.mark.parametrize("tie", ["l2", "l1", "trace_norm", "exponential_affine"])
def test_weights_by_stage_weigh_the_penalties_of_the_stages(tie: str) -> None:
    network = network_of("soft_sharing", tie=tie, weight={"1": 0.5, "dense_2": 0.03})
    expected = torch.zeros((), dtype=torch.float64)
    for index, weight in ((0, 0.5), (2, 0.03)):
        copies = list(list(network.stages.values())[index].children())
        plain = build_tie(tie, weight=1.0)
        plain.attach(copies)
        expected = expected + weight * plain.penalty(copies)
    torch.testing.assert_close(network.penalty(), expected)


@pytest.mark.parametrize("tie", ["l2", "trace_norm", "exponential_affine"])
@pytest.mark.parametrize("name", ["soft_sharing", "cross_stitch"])
def test_a_tie_of_weight_0_is_no_tie(name: str, tie: str) -> None:
    settings = {"tie": tie, "weight": 0.0} if name == "soft_sharing" else {"tie": {tie: {"weight": 0.0}}}
    tied = network_of(name, **settings)
    free = network_of("single_task" if name == "soft_sharing" else name)
    inputs = drawn()
    assert tied.penalty() == 0
    for task, output in free(inputs).items():
        assert torch.equal(tied(inputs)[task], output)
    of_tied = gradients(tied, inputs)
    for parameter, gradient in gradients(free, inputs).items():
        assert torch.equal(of_tied.pop(parameter), gradient)
    assert not any(gradient.any() for gradient in of_tied.values())


def test_the_third_network_of_paper_004() -> None:
    """Cross-stitch and exponential affine tie at once, with learning rates of their own."""
    network = network_of(
        "cross_stitch",
        per="channel",
        start={"same": 0.9, "other": 0.1},
        lr_multiplier=10.0,
        tie={"exponential_affine": {"weight": 0.01, "lr_multiplier": 100.0}},
    )
    groups = {group.name: group for group in network.parameter_groups()}
    assert {name: groups[name].lr_multiplier for name in ("mixing", "tie")} == {"mixing": 10.0, "tie": 100.0}
    pairs, stages = 3, 3
    assert sum(p.numel() for p in groups["tie"].parameters) == 2 * pairs * stages
    assert sum(p.numel() for p in groups["mixing"].parameters) == (6 + 5 + 3) * 9
    for matrix in network.mixing_matrices().values():
        expected = torch.full((3, 3), 0.05, dtype=torch.float64).fill_diagonal_(0.9)
        torch.testing.assert_close(matrix, expected.expand_as(matrix), rtol=0, atol=1e-7)
    assert all(gradient.isfinite().all() for gradient in gradients(network, drawn()).values())


def test_units_count_from_either_end() -> None:
    def mixed(**settings: Any) -> list[str]:
        return sorted(network_of("cross_stitch", **settings).mixing_matrices())

    assert mixed(units=2) == ["dense_0", "dense_1"]
    assert mixed(units=2, **{"from": "output"}) == ["dense_1", "dense_2"]
    assert mixed(units=0) == []


@pytest.mark.parametrize("joined", [True, False])
def test_batch_norm_from_the_output_sees_joined_statistics_or_each_tasks_own(joined: bool) -> None:
    stages = [nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)]
    encoder = tl.encoders.from_modules(stages, (4,), names=["linear", "norm"])
    network = network_of("hard_sharing", encoder, stages=1, joined=joined, **{"from": "output"})
    inputs = drawn()
    before = [network.stages["linear"][task](inputs) for task in NAMES]

    def normalised(rows: Tensor) -> Tensor:
        return (rows - rows.mean(dim=0)) / (rows.var(dim=0, unbiased=False) + 1e-5).sqrt()

    expected = normalised(torch.cat(before)).chunk(3) if joined else [normalised(rows) for rows in before]
    features = network.train().features(inputs)
    assert isinstance(features, dict)
    for task, rows in zip(NAMES, expected, strict=True):
        torch.testing.assert_close(features[task], rows)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("plan", {"partition": ["together"]}, r"one entry per stage expected \(dense_0, .* found 1 entries"),
        ("plan", {"partition": "together"}, "one entry per stage expected"),
        ("plan", {"partition": ["together", "alnoe", "alone"]}, r"partition\[1\]: .*Did you mean `alone`"),
        ("plan", {"partition": ["together", ["a", "b", "c"], "alone"]}, "a list of groups of tasks expected"),
        ("plan", {"partition": {"dense_9": "together"}}, "stage 'dense_9' does not exist"),
        ("plan", {"partition": {"9": "together"}}, "stage 9 does not exist"),
        ("plan", {"partition": {"1": "together", "dense_0": "alone"}}, "stage `dense_0` stands twice"),
        ("plan", {"partition": {"1": [["a", "b"]]}}, "`c` stands in none"),
        ("plan", {"partition": {"1": [["a", "b"], ["b", "c"]]}}, "`b` stands 2 times"),
        ("plan", {"partition": {"1": [["a", "b"], ["c", "d"]]}}, "`d` is not a task"),
        ("plan", {"partition": {"3": "together"}}, r"stage `dense_2` is shared by a, b, c, .*`joined: true`"),
        (
            "plan",
            {"partition": ["together", [["a", "b"], ["c"]], [["a", "c"], ["b"]]]},
            "stage `dense_2` is shared by a, c, which an earlier stage has parted",
        ),
        ("plan", {"partition": {}, "joined": "yes"}, "plan.joined: true or false"),
        ("plan", {"partition": {"1": "together"}, "mixing": {"after": [1]}}, "a copy of its own"),
        ("plan", {"partition": ["together"] * 3, "mixing": "layer"}, "every stage is shared by some tasks"),
        ("plan", {"partition": {}, "mixing": {"aftr": [1]}}, "Did you mean `after`"),
        ("plan", {"partition": {}, "mixing": 3}, "plan.mixing: settings by name"),
        ("plan", {"partition": {}, "mixing": "row"}, "per must be layer or channel"),
        ("plan", {"partition": {"1": "together"}, "tie": {"l2": {"stages": [1]}}}, "has one copy"),
        ("plan", {"partition": {}, "tie": {"l2": {"weight": {"1": -0.1}}}}, "a number of at least 0"),
        ("plan", {"partition": {}, "tie": {"l2": {}, "l1": {}}}, "plan.tie: one name with its settings"),
        ("plan", {"partition": {}, "tie": {"l2": 0.1}}, "plan.tie.l2: settings by name expected"),
        ("cross_stitch", {"tie": "l3"}, "`l3` is not a known tie"),
        ("cross_stitch", {"tie": {"l2": {"wieght": 1}}}, "`wieght` is not a setting of tie l2"),
        ("cross_stitch", {"after": [1], "units": 1}, "leave one out"),
        ("cross_stitch", {"from": "output"}, "give `units` too"),
        ("cross_stitch", {"units": 4}, "cross_stitch.units: a whole number from 0 to 3"),
        ("cross_stitch", {"units": 1, "from": "top"}, "cross_stitch.from: input or output"),
        ("soft_sharing", {"weight": {"1": 0.1}, "stages": [1]}, "leave `stages` out"),
        ("soft_sharing", {"weight": {"1": 0.1, "dense_0": 0.2}}, "stands twice"),
        ("soft_sharing", {"weight": {"conv": 0.1}}, "stage 'conv' does not exist"),
        ("soft_sharing", {"weight": {"1": float("nan")}}, "a number of at least 0"),
        ("hard_sharing", {"stages": 1, "groups": "all"}, "one cell per grouping"),
        ("hard_sharing", {"stages": 1, "joined": 1}, "hard_sharing.joined: true or false"),
    ],
)
def test_refused_settings(name: str, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        build(name, mlp(), TASKS, **settings)
    assert "\n" not in str(caught.value)


class Remembers(nn.Module):
    """Adds what it was given the last time."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | float = 0.0

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, self.last = inputs + self.last, inputs
        return outputs


class Leaves(nn.Module):
    """Leaves its input for another stage."""

    def __init__(self) -> None:
        super().__init__()
        self.board: dict[str, Tensor] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        self.board["rows"] = inputs
        return inputs.relu()


class Reads(nn.Module):
    def __init__(self, board: dict[str, Tensor]) -> None:
        super().__init__()
        self.board = board

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.board["rows"]


@pytest.mark.parametrize("name", ["hard_sharing", "mmoe"])
def test_stages_with_side_effects_are_refused(name: str) -> None:
    settings = {"stages": 1} if name == "hard_sharing" else {"experts": 2}
    hidden = tl.encoders.from_modules([nn.Linear(4, 4), Remembers()], (4,), names=["linear", "memory"])
    with pytest.raises(ConfigError, match="stage `memory` gives another output for the same input"):
        build(name, hidden, TASKS, **settings)
    leaves = Leaves()
    skip = tl.encoders.from_modules([leaves, nn.Linear(4, 4), Reads(leaves.board)], (4,))
    with pytest.raises(ConfigError, match=r"stage `stage_2` .*reads what another stage left"):
        build(name, skip, TASKS, **settings)


def test_a_first_stage_that_writes_into_the_networks_input_is_refused() -> None:
    encoder = tl.encoders.from_modules([nn.ReLU(inplace=True), nn.Linear(4, 4)], (4,))
    for name, settings in (("single_task", {}), ("mmoe", {"experts": 2})):
        with pytest.raises(ConfigError, match="`stage_0` works in place on the network's input"):
            build(name, encoder, TASKS.subset(["a"]), **settings)


def test_the_check_for_side_effects_leaves_no_mark_and_takes_what_is_fine() -> None:
    stages = [
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5).train(),
    ]
    encoder = tl.encoders.from_modules(stages, (4,)).train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    random = torch.get_rng_state()
    check_side_effects(encoder)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(module.training for module in encoder.modules())


def test_copies_of_another_shape_are_not_mixed() -> None:
    strides = iter([1, 1, 2])

    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv1d(2, 3, 3, stride=next(strides, 1))

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.convolution(inputs)
            return outputs

    encoder = Encoder([Strided()], input_shape=(2, 9), rebuild=[Strided])
    with pytest.raises(ConfigError, match=r"gives \(3, 7\) per row and a copy of it \(3, 4\)"):
        build("cross_stitch", encoder, TASKS)
