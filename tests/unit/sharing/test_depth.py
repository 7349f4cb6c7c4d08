"""Tasks at different depths: equalities, exact parameter counts, gradients that stay where they belong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from _training import rows_with_holes
from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.losses import per_task
from taskloom.sharing import Plan, PlanNetwork, ReadOut, StagePlan, build, with_read_outs
from taskloom.tasks import StageOutput

TASKS = tl.TaskSet(tl.Multiclass("posture", 3), tl.Binary("gesture"), tl.Multiclass("object", 4))
PLANS: list[tuple[str, dict[str, Any]]] = [
    ("hard_sharing", {"stages": 2}),
    ("hard_sharing", {"stages": 3}),
    ("hard_sharing", {"stages": 2, "from": "output"}),
    ("hard_sharing", {"stages": 2, "groups": [["posture", "gesture"], ["object"]]}),
    ("cross_stitch", {"start": {"same": 0.8, "other": 0.2}}),
    ("proportional_addition", {"start": 0.1}),
    ("soft_sharing", {"weight": 0.1}),
    ("single_task", {}),
]


def mlp() -> Encoder:
    return tl.encoders.build("mlp", (6,), hidden=[8, 7, 5])


def conv() -> Encoder:
    return tl.encoders.build("opportunity_cnn", (64, 5), width=0.1, dense=())


def network_of(name: str, encoder: Encoder | None = None, **settings: Any) -> PlanNetwork:
    torch.manual_seed(1)
    network = build(name, encoder or mlp(), TASKS, **settings)
    assert isinstance(network, PlanNetwork)
    return network


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def touched(network: nn.Module, total: Tensor) -> set[str]:
    """Names of the parameters that this scalar has a gradient for."""
    network.zero_grad()
    total.backward()
    return {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize(("name", "settings"), PLANS)
def test_everything_at_the_last_stage_is_the_plain_network(name: str, settings: dict[str, Any]) -> None:
    plain = network_of(name, **settings)
    depths = {"posture": 3, "gesture": "dense_2", "object": {"stage": 3, "features": "flat"}}
    same = network_of(name, **settings, read_out=depths)
    assert plain.plan == same.plan
    assert plain.state_dict().keys() == same.state_dict().keys()
    inputs = torch.randn(5, 6)
    for task, output in plain(inputs).items():
        assert torch.equal(same(inputs)[task], output)


@pytest.mark.parametrize(("name", "settings"), PLANS)
@pytest.mark.parametrize("depth", [1, 2])
def test_a_task_that_is_read_out_low_owns_nothing_above(
    name: str, settings: dict[str, Any], depth: int
) -> None:
    network = network_of(name, **settings, read_out={"posture": depth})
    sizes, widths = [6 * 8 + 8, 8 * 7 + 7, 7 * 5 + 5], [8, 7, 5]
    copies = 0
    for number, (size, stage) in enumerate(zip(sizes, network.plan.stages, strict=True), start=1):
        left = {task for group in stage.partition for task in group}
        assert left == set(TASKS) - ({"posture"} if number > depth else set())
        copies += size * len(stage.partition)
        assert len(list(network.stages[f"dense_{number - 1}"].children())) == len(stage.partition)
    heads = (widths[depth - 1] + 1) * 3 + (5 + 1) * 1 + (5 + 1) * 4
    mixing = sum(p.numel() for p in network.mixing.parameters())
    numbers = [3 if number <= depth else 2 for number in (1, 2, 3)]
    learned = {"cross_stitch": sum(n**2 for n in numbers), "proportional_addition": sum(numbers)}
    assert mixing == learned.get(name, 0)
    assert num_parameters(network) == copies + heads + mixing
    total = sum(num_parameters(nn.ParameterList(group.parameters)) for group in network.parameter_groups())
    assert total == num_parameters(network)


def test_a_stage_that_only_one_task_would_use_is_not_there() -> None:
    network = network_of("hard_sharing", stages=1, read_out={"posture": 1, "gesture": 2, "object": 2})
    assert [len(stage.partition) for stage in network.plan.stages] == [1, 2, 0]
    assert list(network.stages["dense_2"].children()) == []
    assert network.describe().splitlines()[3].split() == ["dense_2", "-", "-", "-", "-", "-"]
    assert network(torch.randn(2, 6))["object"].shape == (2, 4)


def test_the_same_as_three_stages_written_out() -> None:
    network = network_of("hard_sharing", stages=3, read_out={"posture": 1, "gesture": 2})
    inputs = torch.randn(4, 6)
    first = network.stages["dense_0"]["shared"](inputs)
    second = network.stages["dense_1"]["gesture+object"](first)
    third = network.stages["dense_2"]["object"](second)
    predictions = network(inputs)
    for task, features in (("posture", first), ("gesture", second), ("object", third)):
        assert torch.equal(predictions[task], network.heads[task](features))
    features = network.features(inputs)
    assert isinstance(features, Tensor)
    assert torch.equal(features, first)
    after = network.after_stages(inputs, 2)
    assert torch.equal(after["posture"], first)
    assert torch.equal(after["object"], second)
    assert touched(network, network(inputs)["posture"].sum()) == {
        "stages.dense_0.shared.0.weight",
        "stages.dense_0.shared.0.bias",
        "heads.posture.0.weight",
        "heads.posture.0.bias",
    }
    assert {id(p) for p in network.task_parameters("object")} == {
        id(p) for p in [*network.stages["dense_2"].parameters(), *network.heads["object"].parameters()]
    }


def test_sharing_from_the_top_joins_only_who_is_left() -> None:
    network = network_of("hard_sharing", stages=2, **{"from": "output"}, read_out={"posture": 2})
    inputs = torch.randn(4, 6)
    own = {task: network.stages["dense_0"][task](inputs) for task in TASKS}
    second = {task: network.stages["dense_1"]["shared"](tensor) for task, tensor in own.items()}
    third = {
        task: network.stages["dense_2"]["gesture+object"](second[task]) for task in ("gesture", "object")
    }
    features = {"posture": second["posture"], **third}
    for task, output in network(inputs).items():
        torch.testing.assert_close(output, network.heads[task](features[task]))


def test_mixing_matrices_have_zeros_where_a_task_has_left() -> None:
    network = network_of("cross_stitch", start={"same": 0.8, "other": 0.2}, read_out={"gesture": 1})
    matrices = network.mixing_matrices()
    torch.testing.assert_close(
        matrices["dense_0"], torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    )
    torch.testing.assert_close(
        matrices["dense_1"], torch.tensor([[0.8, 0.0, 0.2], [0.0, 0.0, 0.0], [0.2, 0.0, 0.8]])
    )
    reached = touched(network, network(torch.randn(3, 6))["gesture"].square().sum())
    assert not any("dense_1" in name or "dense_2" in name for name in reached)
    assert any(name.startswith("stages.dense_0.object") for name in reached)


@pytest.mark.parametrize("features", ["flat", "pooled"])
def test_what_a_head_reads_of_a_convolution(features: str) -> None:
    encoder = conv()
    depths = {"posture": {"stage": 1, "features": features}}
    network = network_of("hard_sharing", encoder, stages=3, read_out=depths)
    inputs = torch.randn(2, *encoder.input_shape)
    outputs = network.after_stages(inputs, 1)["posture"]
    assert outputs.dim() > 2
    read = outputs.flatten(1) if features == "flat" else outputs.flatten(2).mean(2)
    linear = next(module for module in network.heads["posture"] if isinstance(module, nn.Linear))
    assert linear.in_features == read.shape[1]
    torch.testing.assert_close(network(inputs)["posture"], linear(read))


def labels(rows: int) -> tl.Labels:
    drawn = torch.Generator().manual_seed(3)
    values = {
        name: torch.randint(len(task.class_names), (rows,), generator=drawn) for name, task in TASKS.items()
    }
    return tl.Labels(values, {name: torch.rand(rows, generator=drawn) > 0.3 for name in TASKS})


@pytest.mark.parametrize(("name", "settings"), PLANS)
def test_deep_supervision_adds_its_weighted_losses_and_nothing_else(
    name: str, settings: dict[str, Any]
) -> None:
    inputs, given = torch.randn(9, 6), labels(9)
    plain, off = network_of(name, **settings), network_of(name, **settings, deep_supervision=0)
    assert plain.state_dict().keys() == off.state_dict().keys()
    assert all(torch.equal(off(inputs)[task], output) for task, output in plain(inputs).items())
    deep = network_of(name, **settings, deep_supervision=0.25)
    assert list(deep.eval()(inputs)) == list(TASKS)
    deep.train()
    predictions = deep(inputs)
    lower = [key for key in predictions if isinstance(key, StageOutput)]
    assert len(lower) == 2 * len(TASKS)
    assert all(torch.equal(predictions[task], output) for task, output in plain(inputs).items())
    found, own = per_task(predictions, given, TASKS), per_task(plain(inputs), given, TASKS)
    assert list(found) == list(TASKS)
    for task in TASKS:
        by_hand = own[task].sum
        for number in (0, 1):
            features = deep.after_stages(inputs, number + 1)[task]
            outputs = {task: deep.deep_heads[f"dense_{number}-{task}"](features)}
            by_hand = by_hand + 0.25 * per_task(outputs, given, TASKS)[task].sum
        torch.testing.assert_close(found[task].sum, by_hand)
        assert found[task].count == own[task].count


def test_heads_of_deep_supervision_belong_to_their_task() -> None:
    network = network_of(
        "hard_sharing",
        stages=3,
        read_out={"posture": 2},
        deep_supervision={"weight": 1.0, "stages": [1], "tasks": ["posture", "object"]},
    )
    assert sorted(network.deep_heads) == ["dense_0-object", "dense_0-posture"]
    predictions = network(torch.randn(4, 6))
    reached = touched(network, predictions[StageOutput.of("object", "dense_0", 1.0)].square().sum())
    assert {name.partition(".0.")[0] for name in reached} == {
        "stages.dense_0.shared",
        "deep_heads.dense_0-object",
    }
    mine = {id(p) for p in network.task_parameters("object")}
    assert {id(p) for p in network.deep_heads["dense_0-object"].parameters()} <= mine
    total = sum(len(group.parameters) for group in network.parameter_groups())
    assert total == len(list(network.parameters()))


def test_training_a_hierarchy_with_deep_supervision_resumes_to_the_same_weights(tmp_path: Any) -> None:
    data = rows_with_holes(60, seed=1)
    settings = {"stages": 2, "read_out": {"gender": 1}, "deep_supervision": 0.5}

    def network() -> PlanNetwork:
        torch.manual_seed(0)
        encoder = tl.encoders.mlp(data.input_shape, hidden=[6, 5])
        built = build("hard_sharing", encoder, data.tasks, **settings)
        assert isinstance(built, PlanNetwork)
        return built

    whole = network()
    tl.fit(whole, data, data, epochs=4, batch=16, device="cpu", progress=False)
    tl.fit(network(), data, data, epochs=4, batch=16, device="cpu", folder=tmp_path, progress=False)
    again = network()
    history = tl.fit(again, data, data, epochs=4, batch=16, device="cpu", folder=tmp_path, progress=False)
    assert history.finished
    for key, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"read_out": {"posture": 4}}, r"read_out\.posture: stage 4 does not exist.*1 to 3"),
        ({"read_out": {"posture": "dense_9"}}, r"read_out\.posture: stage 'dense_9' does not exist"),
        ({"read_out": {"postur": 1}}, r"read_out: `postur` is not a task\. Did you mean `posture`"),
        ({"read_out": {"posture": {"features": "flat"}}}, r"read_out\.posture\.stage is missing"),
        ({"read_out": {"posture": {"stage": 1, "features": "max"}}}, r"flat or pooled expected, found 'max'"),
        ({"read_out": 2}, r"read_out: a stage by task expected"),
        ({"read_out": {"posture": {"stage": 1, "pool": True}}}, r"read_out\.posture\.pool is not a setting"),
        ({"deep_supervision": -0.1}, r"deep_supervision\.weight: a number of at least 0 expected"),
        ({"deep_supervision": {"weight": 1, "stages": [3]}}, r"`dense_2` is the last stage"),
        ({"deep_supervision": {"weight": 1, "stages": [7]}}, r"deep_supervision\.stages: stage 7 does not"),
        ({"deep_supervision": {"weight": 1, "tasks": ["x"]}}, r"deep_supervision\.tasks: `x` is not a task"),
        ({"deep_supervision": {"stages": [1]}}, r"deep_supervision\.weight: .* found None"),
        ({"deep_supervision": {"wait": 1}}, r"deep_supervision\.wait is not a setting"),
    ],
)
def test_what_does_not_fit_is_refused_when_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network_of("hard_sharing", stages=2, **settings)


def test_a_plan_that_holds_a_task_above_its_read_out_is_refused() -> None:
    together = StagePlan((("a", "b"),))
    with pytest.raises(ConfigError, match="stage 2 holds `a`, which is read out after stage 1"):
        Plan(("a", "b"), (together, together), {"a": ReadOut(1)})
    with pytest.raises(ConfigError, match="read-out of `c` after stage 1"):
        Plan(("a", "b"), (together, together), {"c": ReadOut(1)})
    with pytest.raises(ConfigError, match=r"read_out\.a: stage 3 does not exist"):
        with_read_outs(Plan(("a", "b"), (together, together)), {"a": ReadOut(3)})


def test_a_stage_that_would_spoil_what_a_head_reads_is_refused() -> None:
    modules = [nn.Linear(4, 4), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))]
    encoder = tl.encoders.from_modules(modules, (4,))
    build("hard_sharing", encoder, TASKS, stages=2)
    for settings in ({"read_out": {"posture": 1}}, {"deep_supervision": 0.1}):
        with pytest.raises(
            ConfigError, match=r"`.*1` works in place on its input, which other copies of it or"
        ):
            build("hard_sharing", encoder, TASKS, stages=2, **settings)
