"""MMoE and PLE: against a loop over experts, hard sharing and each other; gradients, counts, settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from _module_networks import (
    KINDS,
    NUMBERS,
    check_ownership,
    check_training,
    gradients,
    head_parameters,
    inputs_of,
    load_where_named_alike,
    network_of,
    num_parameters,
    permuted,
    stage_parameters,
)
from _planted import planted_encoder, planted_tasks
from taskloom.errors import ConfigError
from taskloom.sharing import MultiTaskNetwork, build
from taskloom.sharing.modules.experts import ExpertNetwork, Gate, combine

WAYS: list[tuple[str, dict[str, Any]]] = [
    ("mmoe", {"experts": 3}),
    ("mmoe", {"experts": 2, "stages": [2], "gate_input": "pooled", "gate_bias": True}),
    ("ple", {}),
    ("ple", {"shared_experts": 2, "task_experts": 0, "levels": 2}),
    ("ple", {"shared_experts": 1, "task_experts": 2, "stages": [2, 3], "levels": 1}),
]


EVERYWHERE = [(*WAYS[way], kind, number) for way in (0, 2) for kind in KINDS for number in NUMBERS]


@pytest.mark.parametrize(
    ("name", "settings", "kind", "number"), [*EVERYWHERE, *((*WAYS[way], "conv2d", 3) for way in (1, 3, 4))]
)
def test_trains_saves_and_loads(name: str, settings: dict[str, Any], kind: str, number: int) -> None:
    network = check_training(name, kind, number, **settings)
    for matrix in network.mixing_matrices().values():
        assert matrix.shape == (number, number)
        torch.testing.assert_close(matrix.diagonal(), torch.ones(number))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mmoe", "ple"])
def test_one_expert_is_hard_sharing(name: str, kind: str, number: int) -> None:
    settings = {"experts": 1} if name == "mmoe" else {"shared_experts": 1, "task_experts": 0}
    experts = network_of(name, kind, number, **settings)
    shared = network_of("hard_sharing", kind, number, stages=3)
    assert num_parameters(experts) == num_parameters(shared)
    # The same numbers are drawn in the same order: one seed gives one start.
    for one, other in zip(experts.parameters(), shared.parameters(), strict=True):
        assert torch.equal(one, other)
    inputs = inputs_of(kind)
    ours, theirs = experts(inputs), shared(inputs)
    assert all(torch.equal(ours[task], output) for task, output in theirs.items())
    found = gradients(experts, ours.values()).values()
    for one, other in zip(found, gradients(shared, theirs.values()).values(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(experts.buffers(), shared.buffers(), strict=True):
        assert torch.equal(one, other)  # statistics of batch norm


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_level_without_own_experts_is_mmoe(kind: str, number: int) -> None:
    levels = network_of("ple", kind, number, shared_experts=3, task_experts=0, levels=1)
    mixture = network_of("mmoe", kind, number, experts=3, seed=7)
    mixture.load_state_dict(levels.state_dict())
    inputs = inputs_of(kind)
    ours, theirs = levels(inputs), mixture(inputs)
    assert all(torch.equal(ours[task], output) for task, output in theirs.items())
    of_mixture = gradients(mixture, theirs.values())
    for name, gradient in gradients(levels, ours.values()).items():
        assert torch.equal(gradient, of_mixture[name])


def by_hand(network: ExpertNetwork, inputs: Tensor) -> dict[str, Tensor]:
    """PLE as the paper draws it: a loop over levels, tasks and experts; stages are [N, F] or longer."""
    shared, own = network.shared_experts, network.task_experts
    state = dict.fromkeys(network.tasks, inputs)
    common = inputs
    for number, level in enumerate(network.levels):
        outputs: dict[str, Tensor] = {}
        for owner in ("shared", *network.tasks):
            for count in range(1, (shared if owner == "shared" else own) + 1):
                value = common if owner == "shared" else state[owner]
                for index in level:
                    value = network.stages[network.stage_names[index]][f"{owner}_{count}"](value)
                outputs[f"{owner}_{count}"] = value

        def mixed(gate: nn.Module, value: Tensor, names: list[str], table: dict[str, Tensor]) -> Tensor:
            logits = value.flatten(1) @ gate.linear.weight.T
            weights = logits.exp() / logits.exp().sum(1, keepdim=True)
            total = torch.zeros_like(table[names[0]])
            for position, name in enumerate(names):
                for row in range(len(value)):
                    total[row] += weights[row, position] * table[name][row]
            return total

        of_all = [f"shared_{count}" for count in range(1, shared + 1)]
        following = {
            task: mixed(
                network.gates[number][task],
                state[task],
                of_all + [f"{task}_{count}" for count in range(1, own + 1)],
                outputs,
            )
            for task in network.tasks
        }
        if number + 1 < len(network.levels):
            common = mixed(network.gates[number]["shared"], common, list(outputs), outputs)
        state = following
    return {task: network.heads[task](state[task]) for task in network.tasks}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "settings"), [WAYS[0], WAYS[2], WAYS[3]])
def test_outputs_and_gradients_are_those_of_the_loop(name: str, settings: dict[str, Any], kind: str) -> None:
    network = network_of(name, kind, 3, **settings)
    assert isinstance(network, ExpertNetwork)
    network.eval()
    ours, theirs = network(inputs_of(kind)), by_hand(network, inputs_of(kind))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        gradients(network, ours.values()), gradients(network, theirs.values()), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(("name", "settings"), [*WAYS[:2], ("ple", {"levels": 1}), *WAYS[3:]])
def test_parameters_belong_to_those_they_serve(name: str, settings: dict[str, Any], number: int) -> None:
    check_ownership(network_of(name, "mlp", number, **settings), inputs_of("mlp"))


def test_own_experts_of_one_level_hear_one_task_only() -> None:
    network = network_of("ple", "mlp", 3, levels=1)
    for task, output in network(inputs_of("mlp")).items():
        for name, gradient in gradients(network, [output]).items():
            owner = name.rsplit("task_", 1)[-1][:1] if "task_" in name else "shared"
            assert gradient.any() or owner not in ("shared", task[-1]) or "bias" in name
            assert owner in ("shared", task[-1]) or not gradient.any()


@pytest.mark.parametrize(("name", "settings"), WAYS)
def test_permuted_tasks_permute_results(name: str, settings: dict[str, Any]) -> None:
    first, second = permuted(name, "conv1d", 3, **settings)
    state = first.state_dict()
    if name == "ple":  # the gate of what is shared counts its experts in the order of the tasks
        own = settings.get("task_experts", 1)
        common = settings.get("shared_experts", 1)
        order = [*range(common), *(common + t * own + e for t in (2, 1, 0) for e in range(own))]
        state = {k: v[order] if "gates" in k and "shared" in k else v for k, v in state.items()}
    second.load_state_dict(state)
    inputs = inputs_of("conv1d")
    theirs = second(inputs)
    for task, output in first(inputs).items():
        torch.testing.assert_close(theirs[task], output, rtol=1e-10, atol=1e-12)
    for stage, matrix in first.mixing_matrices().items():
        torch.testing.assert_close(second.mixing_matrices()[stage].flip(0, 1), matrix)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_parameter_counts(kind: str, number: int) -> None:
    encoder, tasks = planted_encoder(kind), planted_tasks(number)
    sizes, heads = stage_parameters(encoder), head_parameters(encoder, tasks)
    flat = [int(torch.tensor(shape).prod()) for shape in (encoder.input_shape, *encoder.stage_shapes)]
    mixture = network_of("mmoe", kind, number, experts=5)
    assert num_parameters(mixture) == 5 * sum(sizes) + number * 5 * flat[0] + heads
    levels = network_of("ple", kind, number, shared_experts=2, task_experts=1)
    experts = (2 + number) * sum(sizes)
    gates = sum(number * 3 * flat[level] for level in range(3))
    of_shared = sum((2 + number) * flat[level] for level in range(2))
    assert num_parameters(levels) == experts + gates + of_shared + heads
    some = network_of("mmoe", kind, number, experts=2, stages=[2])
    towers = number * sizes[2]
    assert num_parameters(some) == sizes[0] + 2 * sizes[1] + number * 2 * flat[1] + towers + heads


def test_features_are_the_seam() -> None:
    network = network_of("mmoe", "conv1d", 2, experts=2, stages=[2])
    inputs = inputs_of("conv1d")
    features = network.features(inputs)
    assert isinstance(features, dict)
    assert {tuple(part.shape) for part in features.values()} == {(5, 8, 4)}
    network.eval()
    for task, output in network.from_features(network.features(inputs)).items():
        assert torch.equal(output, network(inputs)[task])


def test_running_means_of_gates() -> None:
    """The buffer is the moving average of the batch means, and evaluation leaves it alone."""
    gate = Gate((3,), 2).double()
    expected = torch.full((2,), 0.5, dtype=torch.float64)
    for seed in range(3):
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)).double()
        expected = 0.9 * expected + 0.1 * gate(inputs).mean(0)
    torch.testing.assert_close(gate.mean, expected.detach())
    gate.eval()(torch.randn(4, 3).double())
    torch.testing.assert_close(gate.mean, expected.detach())


def test_overlap_of_gates() -> None:
    network = network_of("ple", "mlp", 2, levels=1)
    assert isinstance(network, ExpertNetwork)
    gates = network.gates[0]
    gates["task_0"].mean.copy_(torch.tensor([0.7, 0.3]))
    gates["task_1"].mean.copy_(torch.tensor([0.4, 0.6]))
    torch.testing.assert_close(
        network.gate_means()["dense_2"], torch.tensor([[0.7, 0.3, 0.0], [0.4, 0.0, 0.6]]).double()
    )
    torch.testing.assert_close(
        network.mixing_matrices()["dense_2"], torch.tensor([[1.0, 0.4], [0.4, 1.0]]).double()
    )


def test_combine_against_sums() -> None:
    experts = [torch.randn(2, 3, 4) for _ in range(3)]
    weights = [torch.rand(2, 3) for _ in range(2)]
    for receiver, mixed in zip(weights, combine(weights, experts), strict=True):
        expected = sum(receiver[:, k, None, None] * expert for k, expert in enumerate(experts))
        torch.testing.assert_close(mixed, expected)


def test_names_with_dots_and_names_of_the_trunk() -> None:
    tasks = tl.TaskSet(tl.Binary("shared"), tl.Binary("v1.0"), tl.Binary("keys"))
    for way in ("mmoe", "ple"):
        network = build(way, tl.encoders.mlp((3,), hidden=[4, 4]), tasks)
        assert list(network(torch.zeros(2, 3))) == ["shared", "v1.0", "keys"]
        again = build(way, tl.encoders.mlp((3,), hidden=[4, 4]), tasks)
        load_where_named_alike(again, network)
        assert torch.equal(again(torch.ones(2, 3))["shared"], network(torch.ones(2, 3))["shared"])


def test_pickles_and_copies() -> None:
    import copy
    import pickle

    network = network_of("ple", "mlp", 2).eval()
    inputs = inputs_of("mlp")
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert isinstance(other, MultiTaskNetwork)
        assert torch.equal(other(inputs)["task_1"], network(inputs)["task_1"])


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("mmoe", {"experts": 0}, r"mmoe\.experts: a whole number of at least 1 expected, found 0"),
        ("mmoe", {"experts": 2.0}, r"mmoe\.experts: a whole number"),
        ("mmoe", {"expert": 2}, r"mmoe\.expert is not a setting\. Did you mean `experts`\?"),
        ("mmoe", {"stages": [1, 3]}, r"`dense_1` is missing between `dense_0` and `dense_2`"),
        ("mmoe", {"stages": []}, r"mmoe\.stages: all, or a list"),
        ("mmoe", {"stages": ["dense_9"]}, r"stage 'dense_9' does not exist"),
        ("mmoe", {"gate_input": "mean"}, r"mmoe\.gate_input: flat or pooled expected, found 'mean'"),
        ("mmoe", {"gate_bias": 1}, r"mmoe\.gate_bias: true or false expected"),
        ("mmoe", {"copies": "new"}, r"copies must be fresh or same, found 'new'"),
        ("ple", {"levels": 4}, r"ple\.levels: at most 3 levels"),
        ("ple", {"shared_experts": 0}, r"ple\.shared_experts: a whole number of at least 1"),
        ("ple", {"task_experts": -1}, r"ple\.task_experts: a whole number of at least 0"),
    ],
)
def test_refused(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(name, planted_encoder("mlp"), planted_tasks(2), **settings)


def test_stages_in_place_are_refused() -> None:
    stages = [nn.Linear(3, 3), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 4))]
    encoder = tl.encoders.from_modules(stages, (3,))
    with pytest.raises(ConfigError, match="stage `stage_1` works in place on its input, which other experts"):
        build("mmoe", encoder, planted_tasks(2), stages=[2])
    build("mmoe", encoder, planted_tasks(2), stages=[2], experts=1)


def test_copies_same_start_from_the_encoder() -> None:
    encoder = planted_encoder("mlp")
    network = build("mmoe", encoder, planted_tasks(2), experts=2, copies="same")
    for expert in network.stages["dense_0"].values():
        assert torch.equal(expert[0].weight, encoder.stages[0][0].weight)


@pytest.mark.parametrize("kind", ["mlp", "conv2d"])
def test_one_level_is_customised_gate_control(kind: str) -> None:
    """CGC (Tang et al. 2020): a gate per task over the shared experts and its own."""
    network = network_of("ple", kind, 3, levels=1, shared_experts=2, task_experts=2)
    assert isinstance(network, ExpertNetwork)
    inputs = inputs_of(kind)
    network.eval()

    def expert(name: str) -> Tensor:
        value = inputs
        for stage in network.stage_names:
            value = network.stages[stage][name](value)
        return value

    for task, output in network(inputs).items():
        heard = [expert(name) for name in ("shared_1", "shared_2", f"{task}_1", f"{task}_2")]
        scores = inputs.flatten(1) @ network.gates[0][task].linear.weight.T
        weights = (scores - scores.logsumexp(1, keepdim=True)).exp()
        selected = torch.einsum("nk,knf->nf", weights, torch.stack(heard).flatten(2)).reshape(heard[0].shape)
        torch.testing.assert_close(output, network.heads[task](selected), rtol=1e-10, atol=1e-12)
    assert list(network.gates[0]) == list(network.tasks)  # nothing shared goes on: there is no further level
