"""The network that executes a plan, against each task's path written out by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing import CrossStitchSpec, HeadSpec, Plan, PlanNetwork, StagePlan, TieSpec
from taskloom.sharing.executor import compile_plan
from taskloom.sharing.ties import tucker_trace_norm

NAMES = ("a", "b", "c", "d")
TASKS = tl.TaskSet(tl.Binary("a"), tl.Regression("b", size=2), tl.Multiclass("c", 3), tl.Binary("d"))
ALONE = tuple((name,) for name in NAMES)


def mlp(hidden: tuple[int, ...] = (6, 5, 4)) -> Encoder:
    return tl.encoders.from_modules(
        [nn.Sequential(nn.Linear(i, o), nn.Tanh()) for i, o in zip((3, *hidden), hidden, strict=False)],
        (3,),
        names=[f"dense_{index}" for index in range(len(hidden))],
    )


def cnn() -> Encoder:
    return tl.encoders.build("opportunity_cnn", (64, 5), width=0.1, dense=())


def random_plan(seed: int, num_stages: int) -> Plan:
    """Any set partition at each stage, in any order of groups."""
    draw = random.Random(seed)
    stages = []
    for _ in range(num_stages):
        groups: dict[int, list[str]] = {}
        for name in NAMES:
            groups.setdefault(draw.randrange(len(NAMES)), []).append(name)
        partition = list(groups.values())
        draw.shuffle(partition)
        stages.append(StagePlan(tuple(map(tuple, partition)), joined=draw.random() < 0.7))
    return Plan(NAMES, tuple(stages))


def path(network: PlanNetwork, task: str) -> list[nn.Module]:
    """The copies that a task goes through, and its head."""
    copies = []
    for stage, module in zip(network.plan.stages, network.stages.values(), strict=True):
        copies.append(list(module.children())[stage.group_of(task)])
    return [*copies, network.heads[task]]


def follow(modules: list[nn.Module], inputs: Tensor) -> Tensor:
    for module in modules:
        inputs = module(inputs)
    return inputs


def gradients_of(output: Tensor, network: nn.Module) -> list[Tensor]:
    """Gradients of the squared output by all parameters; zeros where none arrives."""
    return list(
        torch.autograd.grad(
            output.square().sum(), list(network.parameters()), retain_graph=True, materialize_grads=True
        )
    )


def reached(output: Tensor, network: nn.Module) -> set[str]:
    """Names of the parameters whose gradient is not all zeros."""
    gradients = gradients_of(output, network)
    return {n for (n, _), g in zip(network.named_parameters(), gradients, strict=True) if g.any()}


def names_of(parameters: list[nn.Parameter], network: nn.Module) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in network.named_parameters() if id(parameter) in wanted}


@pytest.mark.parametrize("seed", range(20))
def test_any_partition_gives_what_each_task_gets_on_its_own_path(seed: int) -> None:
    network = PlanNetwork(mlp(), TASKS, random_plan(seed, 3)).double()
    inputs = torch.randn(5, 3, dtype=torch.float64)
    predictions = network(inputs)
    assert list(predictions) == list(NAMES)
    for task in NAMES:
        expected = follow(path(network, task), inputs)
        torch.testing.assert_close(predictions[task], expected, rtol=1e-12, atol=1e-12)
        # A gradient reaches the path and nothing else: exact zeros elsewhere.
        gradients = gradients_of(predictions[task], network)
        torch.testing.assert_close(gradients, gradients_of(expected, network), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("seed", range(20))
def test_gradients_of_all_tasks_at_once(seed: int) -> None:
    network = PlanNetwork(mlp(), TASKS, random_plan(seed, 3)).double()
    inputs = torch.randn(5, 3, dtype=torch.float64)
    parameters = list(network.parameters())
    loss = sum(output.square().sum() for output in network(inputs).values())
    expected = sum(follow(path(network, task), inputs).square().sum() for task in NAMES)
    assert isinstance(loss, Tensor)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    )


@pytest.mark.parametrize("seed", range(20))
def test_shared_and_task_parameters(seed: int) -> None:
    """A parameter is a task's own exactly where no other task's gradient reaches it."""
    network = PlanNetwork(mlp(), TASKS, random_plan(seed, 3))
    predictions = network(torch.randn(5, 3))
    touched = {task: reached(predictions[task], network) for task in NAMES}
    for task in NAMES:
        others = set().union(*(touched[other] for other in NAMES if other != task))
        assert names_of(network.task_parameters(task), network) == touched[task] - others
    shared = {name for name, _ in network.named_parameters() if sum(name in t for t in touched.values()) > 1}
    assert names_of(network.shared_parameters(), network) == shared


def test_a_copy_runs_once_for_all_tasks_that_feed_it_the_same_tensor() -> None:
    network = PlanNetwork(mlp(), TASKS, Plan(NAMES, (StagePlan((NAMES,)),) * 3))
    rows = count_rows(network)
    network(torch.zeros(5, 3))
    assert rows == {f"dense_{stage}.shared": [5] for stage in range(3)}


def test_sharing_from_the_output_runs_once_on_the_joined_batch() -> None:
    plan = Plan(
        NAMES,
        (
            StagePlan(ALONE),
            StagePlan((("a", "c"), ("b", "d")), joined=True),
            StagePlan((NAMES,), joined=True),
        ),
    )
    network = PlanNetwork(mlp(), TASKS, plan)
    rows = count_rows(network)
    network(torch.zeros(5, 3))
    assert rows == {
        **{f"dense_0.{name}": [5] for name in NAMES},
        "dense_1.a+c": [10],
        "dense_1.b+d": [10],
        "dense_2.shared": [20],
    }


def test_an_output_that_stays_joined_is_not_split_in_between() -> None:
    shared = StagePlan((NAMES,), joined=True)
    steps = compile_plan(Plan(NAMES, (StagePlan(ALONE), shared, shared)))
    assert steps[1].calls[0].whole is None
    assert steps[2].calls[0].whole == 0


def count_rows(network: PlanNetwork) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for stage, module in network.stages.items():
        for group, copy in module.named_children():
            key = f"{stage}.{group}"
            copy.register_forward_hook(
                lambda _, inputs, __, key=key: rows.setdefault(key, []).append(len(inputs[0]))
            )
    return rows


@pytest.mark.parametrize("joined", [True, False])
def test_batch_norm_over_joined_streams(joined: bool) -> None:
    """Joined: one normalisation over the rows of all tasks. Else each task's rows by themselves."""
    encoder = tl.encoders.from_modules([nn.Linear(3, 4), nn.BatchNorm1d(4)], (3,))
    names = ("a", "b")
    alone = StagePlan((("a",), ("b",)))
    plan = Plan(names, (alone, StagePlan((names,), joined=joined)))
    network = PlanNetwork(encoder, TASKS.subset(names), plan)
    inputs = torch.randn(50, 3)
    first = [copy(inputs) for copy in network.stages["stage_0"].children()]
    streams = [torch.cat(first)] if joined else first
    expected = torch.cat([(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in streams])
    features = network.features(inputs)
    assert isinstance(features, dict)
    torch.testing.assert_close(torch.cat(list(features.values())), expected)


def test_features_are_the_seam() -> None:
    shared, alone = StagePlan((NAMES,), joined=True), StagePlan(ALONE)
    network = PlanNetwork(mlp(), TASKS, Plan(NAMES, (shared, shared, alone)))
    inputs = torch.randn(7, 3)
    features = network.features(inputs)
    assert isinstance(features, Tensor)
    torch.testing.assert_close(features, follow(path(network, "a")[:2], inputs))
    whole, parts = network(inputs), network.from_features(features)
    assert all(torch.equal(whole[task], parts[task]) for task in NAMES)
    # Behind the seam are the tasks' own parameters, before it the shared ones.
    behind = reached(network.from_features(features.detach())["a"], network)
    assert behind == names_of(network.task_parameters("a"), network)
    assert reached(features, network) == names_of(network.shared_parameters(), network)


def test_features_where_no_first_stage_is_shared() -> None:
    network = PlanNetwork(
        mlp(), TASKS, Plan(NAMES, (StagePlan(ALONE),) * 2 + (StagePlan((NAMES,), joined=True),))
    )
    inputs = torch.randn(7, 3)
    features = network.features(inputs)
    assert isinstance(features, dict)
    for task in NAMES:
        torch.testing.assert_close(features[task], follow(path(network, task)[:3], inputs))
    assert torch.equal(network.from_features(features)["c"], network(inputs)["c"])


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_mixing_stands_between_the_stages(per: str) -> None:
    spec = CrossStitchSpec(per=per, start="uniform")  # type: ignore[arg-type]
    plan = Plan(NAMES, (StagePlan(ALONE, mixing=spec), StagePlan(ALONE), StagePlan(ALONE, mixing=spec)))
    network = PlanNetwork(cnn(), TASKS, plan).double()
    streams = [torch.randn(2, 64, 5, dtype=torch.float64)] * 4
    inputs = streams[0]
    for stage, module in network.stages.items():
        streams = [copy(x) for copy, x in zip(module.children(), streams, strict=True)]
        if stage in ("conv_0", "conv_2"):
            alpha = network.mixing_matrices()[stage].expand(streams[0].shape[1], 4, 4)
            streams = [
                sum(alpha[:, i, j].reshape(1, -1, 1, 1) * streams[j] for j in range(4)) for i in range(4)
            ]
    predictions = network(inputs)
    for task, stream in zip(NAMES, streams, strict=True):
        torch.testing.assert_close(predictions[task], network.heads[task](stream))
    assert sorted(network.mixing_matrices()) == ["conv_0", "conv_2"]


def test_mixing_before_a_joined_stage() -> None:
    mixed = StagePlan(ALONE, mixing=CrossStitchSpec(start={"same": 0.9, "other": 0.1}))
    network = PlanNetwork(mlp((6, 5)), TASKS, Plan(NAMES, (mixed, StagePlan((NAMES,), joined=True))))
    inputs = torch.randn(3, 3)
    copies = torch.stack([copy(inputs) for copy in network.stages["dense_0"].children()])
    blended = torch.einsum("ij,jnf->inf", network.mixing_matrices()["dense_0"], copies)
    (trunk,) = network.stages["dense_1"].children()
    torch.testing.assert_close(network(inputs)["d"], network.heads["d"](trunk(blended[3])))


def test_after_the_last_unit_a_gradient_reaches_its_own_column_only() -> None:
    mixed, alone = StagePlan(ALONE, mixing=CrossStitchSpec(start="equal")), StagePlan(ALONE)
    network = PlanNetwork(mlp(), TASKS, Plan(NAMES, (mixed, alone, alone)))
    assert reached(network(torch.randn(3, 3))["b"], network) == {
        "mixing.dense_0.alpha",
        *(name for name, _ in network.named_parameters() if name.startswith("stages.dense_0")),
        *(name for name, _ in network.named_parameters() if ".b." in name),
    }


def test_parameter_groups_hold_every_trainable_parameter_once() -> None:
    stages = (
        StagePlan((("a", "b"), ("c",), ("d",))),
        StagePlan(ALONE, mixing=CrossStitchSpec(lr_multiplier=10.0)),
        StagePlan(ALONE, mixing=CrossStitchSpec(lr_multiplier=10.0)),
    )
    network = PlanNetwork(mlp(), TASKS, Plan(NAMES, stages))
    network.heads["d"].requires_grad_(False)
    groups = network.parameter_groups()
    assert [(group.name, group.lr_multiplier) for group in groups] == [
        ("shared", 1.0),
        *((f"task:{name}", 1.0) for name in NAMES),
        ("mixing", 10.0),
    ]
    identities = [id(parameter) for group in groups for parameter in group.parameters]
    assert len(identities) == len(set(identities))
    assert set(identities) == {id(p) for p in network.parameters() if p.requires_grad}
    assert len(groups[-1].parameters) == 2


def test_units_of_different_learning_rates_are_in_groups_of_their_own() -> None:
    stages = tuple(StagePlan(ALONE, mixing=CrossStitchSpec(lr_multiplier=factor)) for factor in (1.0, 0.5))
    groups = PlanNetwork(mlp((6, 5)), TASKS, Plan(NAMES, stages)).parameter_groups()
    assert [(group.name, group.lr_multiplier) for group in groups[-2:]] == [
        ("mixing:1", 1.0),
        ("mixing:0.5", 0.5),
    ]


def test_penalty_is_the_sum_of_weighted_ties() -> None:
    stages = (
        StagePlan((NAMES,)),
        StagePlan((("a", "b"), ("c", "d")), tie=TieSpec("trace_norm", 0.5)),
        StagePlan(ALONE, tie=TieSpec("l2", 2.0)),
    )
    network = PlanNetwork(mlp(), TASKS, Plan(NAMES, stages)).double()

    def weights(stage: str) -> list[Tensor]:
        return [p for n, p in network.stages[stage].named_parameters() if n.endswith("weight")]

    trace = tucker_trace_norm(torch.stack(weights("dense_1"), dim=-1))
    pairs = [(first, second) for first in weights("dense_2") for second in weights("dense_2")]
    distances = sum((first - second).square().sum() for first, second in pairs) / 2
    penalty = network.penalty()
    torch.testing.assert_close(penalty, 0.5 * trace + 2.0 * distances)
    penalty.backward()
    tied = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert tied == {
        name for name, _ in network.named_parameters() if "weight" in name and "dense_0" not in name
    } - {name for name, _ in network.named_parameters() if name.startswith("heads")}


def test_no_tie_is_a_plain_zero() -> None:
    penalty = PlanNetwork(mlp(), TASKS, Plan(NAMES, (StagePlan(ALONE),) * 3)).penalty()
    assert penalty.shape == ()
    assert penalty.item() == 0.0
    assert not penalty.requires_grad


def test_one_task_has_nothing_to_tie() -> None:
    tied = StagePlan((("a",),), tie=TieSpec())
    network = PlanNetwork(mlp(), TASKS.subset(["a"]), Plan(("a",), (tied,) * 3))
    assert network.penalty().item() == 0.0


def test_state_dict_round_trip_and_names() -> None:
    tasks = tl.TaskSet(tl.Binary("state"), tl.Binary("a.b/c"), tl.Binary("a_b_c"), tl.Binary("train"))
    names = tasks.names
    stages = (StagePlan((names,)), StagePlan((names[:2], names[2:])), StagePlan(tuple((n,) for n in names)))

    def network() -> PlanNetwork:
        return PlanNetwork(mlp(), tasks, Plan(names, stages))

    first, second = network(), network()
    modules = {name.rsplit(".", 2)[0] for name in first.state_dict()}
    assert modules >= {
        "stages.dense_0.shared",
        "stages.dense_1.state+a_b_c",
        "stages.dense_2.a_b_c_",
        "stages.dense_2.train_",
        "heads.train_",
    }
    inputs = torch.randn(4, 3)
    assert not torch.equal(first(inputs)["train"], second(inputs)["train"])
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(first(inputs)[name], second(inputs)[name]) for name in names)


def test_the_encoder_stays_as_it_is_and_gives_its_weights_on_demand() -> None:
    encoder = mlp()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    plan = Plan(NAMES, (StagePlan(ALONE),) * 3)
    same = PlanNetwork(encoder, TASKS, plan, copies="same")
    fresh = PlanNetwork(encoder, TASKS, plan)
    for network, equal in ((same, True), (fresh, False)):
        copies = list(network.stages["dense_0"].children())
        own = next(encoder.stages[0].parameters())
        for copy in copies:
            weight = next(copy.parameters())
            assert weight is not own
            assert torch.equal(weight, own) is equal
        assert torch.equal(next(copies[0].parameters()), next(copies[1].parameters())) is equal
    with torch.no_grad():
        next(same.parameters()).zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    with pytest.raises(ConfigError, match="copies must be fresh or same, found 'tied'"):
        PlanNetwork(encoder, TASKS, plan, copies="tied")  # type: ignore[arg-type]


class AddsOne(nn.Module):
    """Works in place on its input."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.add_(1.0)


def test_a_stage_in_place_is_refused_where_other_copies_read_its_input() -> None:
    encoder = tl.encoders.from_modules([nn.Linear(3, 4), AddsOne()], (3,))
    shared, alone = StagePlan((NAMES,), joined=True), StagePlan(ALONE)
    with pytest.raises(ConfigError, match="stage `stage_1` works in place on its input"):
        PlanNetwork(encoder, TASKS, Plan(NAMES, (shared, alone)))
    for first, second in ((shared, shared), (alone, alone)):
        network = PlanNetwork(encoder, TASKS, Plan(NAMES, (first, second)))
        inputs = torch.randn(2, 3)
        expected = network.heads["a"](path(network, "a")[0](inputs) + 1.0)
        torch.testing.assert_close(network(inputs)["a"], expected)


def test_building_is_decided_by_the_seed() -> None:
    def outputs() -> Tensor:
        torch.manual_seed(3)
        mixed = StagePlan(ALONE, mixing=CrossStitchSpec(start="uniform"))
        return PlanNetwork(mlp(), TASKS, Plan(NAMES, (mixed,) * 3))(torch.ones(1, 3))["c"]

    assert torch.equal(outputs(), outputs())


@pytest.fixture
def one_process(tmp_path: object) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_under_ddp_every_parameter_gets_the_same_gradient() -> None:
    stages = (StagePlan(ALONE, mixing=CrossStitchSpec(start="equal")), StagePlan((NAMES,), joined=True))
    network = PlanNetwork(mlp((6, 5)), TASKS, Plan(NAMES, stages))
    inputs = torch.randn(4, 3)

    def gradients(model: nn.Module) -> list[Tensor]:
        network.zero_grad()
        sum(output.square().sum() for output in model(inputs).values()).backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    torch.testing.assert_close(gradients(nn.parallel.DistributedDataParallel(network)), gradients(network))


def test_under_autocast() -> None:
    mixed = StagePlan(ALONE, mixing=CrossStitchSpec(start="equal"))
    network = PlanNetwork(cnn(), TASKS, Plan(NAMES, (mixed,) * 3), HeadSpec((8,)))
    inputs = torch.randn(4, 64, 5)
    full = network(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(inputs)
    assert {output.dtype for output in half.values()} == {torch.bfloat16}
    sum(output.float().square().sum() for output in half.values()).backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
    for task in NAMES:
        torch.testing.assert_close(half[task].float(), full[task], rtol=0.05, atol=0.05)
