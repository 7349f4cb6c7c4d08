"""AdaShare: against its formula and hard sharing; policies, curriculum, penalties, settings."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
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
from taskloom.sharing import build
from taskloom.sharing.modules.positions import skip
from taskloom.sharing.modules.skipping import Policy, SkippingNetwork


def skipping(kind: str, number: int, **settings: Any) -> SkippingNetwork:
    network = network_of("adashare", kind, number, **settings)
    assert isinstance(network, SkippingNetwork)
    return network


def set_logits(network: SkippingNetwork, rows: list[list[float]]) -> None:
    with torch.no_grad():
        for policy, row in zip(network.policies.values(), rows, strict=True):
            policy.logits.copy_(torch.tensor(row))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_trains_saves_and_loads(kind: str, number: int) -> None:
    network = check_training("adashare", kind, number, lr_multiplier=3.0, temperature=2.0)
    assert sorted(network.mixing_matrices()) == list(network.stage_names[1:])


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["evaluation", "warm-up", "certain"])
def test_an_all_on_policy_is_hard_sharing(mode: str, kind: str, number: int) -> None:
    network = skipping(kind, number, warmup_epochs=1, stages=[1, 2, 3])
    shared = network_of("hard_sharing", kind, number, stages=3, seed=5)
    load_where_named_alike(shared, network)
    if mode == "warm-up":
        network.set_epoch(1)
    else:
        set_logits(network, [[1e9] * 3] * number)
        network.train(mode == "certain")
        shared.train(mode == "certain")
    inputs = inputs_of(kind)
    ours, theirs = network(inputs), shared(inputs)
    # Certain policies run every task by itself: other sums, the same numbers but for rounding.
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if mode == "certain" else {"rtol": 0.0, "atol": 0.0}
    of_network = gradients(network, ours.values())
    for task, output in theirs.items():
        torch.testing.assert_close(ours[task], output, **tolerance)
    for name, gradient in gradients(shared, theirs.values()).items():
        torch.testing.assert_close(of_network[name], gradient, **tolerance)


def by_hand(network: SkippingNetwork, inputs: Tensor, shares: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """One task after the other, every stage executed to its share."""
    found = {}
    for task in network.tasks:
        value = inputs
        for name, share in zip(network.stage_names, shares[task], strict=True):
            outputs = next(iter(network.stages[name].children()))(value)
            value = share * outputs + (1 - share) * skip(value, outputs.shape[1:])
        found[task] = network.heads[task](value)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_training_follows_the_formula(kind: str) -> None:
    network = skipping(kind, 3, temperature=1.5)
    set_logits(network, [[0.5, -1.0], [0.0, 0.3], [2.0, -0.2]])
    inputs = inputs_of(kind)
    torch.manual_seed(11)
    ours = network(inputs)
    torch.manual_seed(11)
    one = torch.ones(())
    shares = {task: [one, *network.policies[task].sample(1.5)] for task in network.tasks}
    theirs = by_hand(network, inputs, shares)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        gradients(network, ours.values()), gradients(network, theirs.values()), rtol=1e-7, atol=1e-10
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", list(itertools.product([-1.0, 1.0], repeat=4)))
def test_evaluation_follows_the_hard_policy(rows: tuple[float, ...], kind: str) -> None:
    network = skipping(kind, 2).eval()
    set_logits(network, [list(rows[:2]), list(rows[2:])])
    shares = {
        task: [torch.tensor(1.0), *(torch.tensor(float(x > 0)) for x in row)]
        for task, row in zip(network.tasks, (rows[:2], rows[2:]), strict=True)
    }
    inputs = inputs_of(kind)
    torch.testing.assert_close(network(inputs), by_hand(network, inputs, shares), rtol=1e-9, atol=1e-11)


def test_no_gradient_reaches_skipped_stages_and_none_run() -> None:
    network = skipping("mlp", 2).eval()
    set_logits(network, [[-1.0, 1.0], [-1.0, -1.0]])
    runs = []
    network.stages["dense_1"].shared.register_forward_hook(lambda *_: runs.append(1))
    outputs = network(inputs_of("mlp"))
    assert runs == []
    outputs["task_0"].sum().backward()
    assert all(p.grad is None for p in network.stages["dense_1"].parameters())
    assert all(p.grad is not None for p in network.stages["dense_2"].parameters())
    network.zero_grad()
    network(inputs_of("mlp"))["task_1"].sum().backward()
    assert all(p.grad is None for p in network.stages["dense_2"].parameters())


def test_tasks_of_one_policy_are_one_tensor() -> None:
    network = skipping("mlp", 3).eval()
    set_logits(network, [[1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])
    features = network.features(inputs_of("mlp"))
    assert features["task_0"] is features["task_2"]
    assert features["task_0"] is not features["task_1"]


def test_samples_are_those_of_a_gumbel_softmax() -> None:
    """The same distribution as torch's, by its quantiles over 20,000 draws."""
    policy = Policy(1).double()
    torch.nn.init.constant_(policy.logits, 0.7)
    torch.manual_seed(0)
    ours = torch.cat([policy.sample(0.8).detach() for _ in range(20_000)])
    logits = torch.tensor([0.7, 0.0], dtype=torch.float64).expand(20_000, 2)
    theirs = functional.gumbel_softmax(logits, tau=0.8)[:, 0]
    levels = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    torch.testing.assert_close(ours.quantile(levels), theirs.quantile(levels), rtol=0, atol=0.015)
    # It executes more than it skips with probability sigmoid(0.7), at any temperature.
    assert abs((ours > 0.5).double().mean().item() - 1 / (1 + math.exp(-0.7))) < 0.011


def test_curriculum_opens_from_the_last_stage() -> None:
    network = skipping("mlp", 2, warmup_epochs=2, curriculum_epochs=3, stages=[1, 2, 3])
    assert network.num_open == 3  # nobody has told the epoch
    set_logits(network, [[-1.0] * 3, [-1.0] * 3])
    opened = []
    for epoch in range(1, 13):
        network.set_epoch(epoch)
        opened.append(network.num_open)
        executed = network.hard_policy()
        assert executed[:, : 3 - network.num_open].all()
        assert not executed[:, 3 - network.num_open :].any()
    assert opened == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    other = skipping("mlp", 2, warmup_epochs=2, curriculum_epochs=3, stages=[1, 2, 3])
    network.set_epoch(4)
    other.load_state_dict(network.state_dict())
    assert (other.num_open, other.temperature) == (1, network.temperature)
    assert torch.equal(other.hard_policy(), network.hard_policy())
    at_once = skipping("mlp", 2, curriculum_epochs=0)
    at_once.set_epoch(1)
    assert at_once.num_open == 2


def test_closed_policies_are_out_of_the_penalty_with_a_gradient_of_zero() -> None:
    network = skipping("mlp", 2)
    network.set_epoch(1)
    set_logits(network, [[3.0, 0.5], [1.0, -0.5]])
    (network.penalty() + sum(output.sum() for output in network(inputs_of("mlp")).values())).backward()
    for policy in network.policies.values():
        assert policy.logits.grad[0] == 0.0
        assert policy.logits.grad[1] != 0.0


def test_temperature_cools() -> None:
    network = skipping("mlp", 1, temperature=4.0, temperature_decay=0.5)
    assert network.temperature == 4.0
    network.set_epoch(3)
    assert network.temperature == 1.0


def test_penalty_is_the_formula() -> None:
    network = skipping("conv1d", 3, sparsity=0.3, sharing=0.7)
    rows = [[0.5, -1.0], [0.1, 0.3], [2.0, -0.2]]
    set_logits(network, rows)
    alpha = [[1 / (1 + math.exp(-x)) for x in row] for row in rows]
    sparsity = sum(-math.log(1 - a) / 2 for row in alpha for a in row)
    # Stages 2 and 3 of 3 have the weights (3 - 2) / 3 and 0.
    sharing = sum(abs(one[0] - two[0]) / 3 for one, two in itertools.combinations(alpha, 2))
    assert network.penalty().item() == pytest.approx(0.3 * sparsity + 0.7 * sharing, rel=1e-6)


def test_gradient_of_the_penalty_against_finite_differences() -> None:
    network = skipping("mlp", 3, sparsity=0.3, sharing=0.7)
    set_logits(network, [[0.5, -1.0], [0.1, 0.3], [2.0, -0.2]])
    names = [name for name, _ in network.named_parameters() if name.startswith("policies")]

    def penalty(*logits: Tensor) -> Tensor:
        return functional_penalty(network, dict(zip(names, logits, strict=True)))

    logits = [network.get_parameter(name).detach().double().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(penalty, logits)


class PenaltyOf(nn.Module):
    def __init__(self, network: SkippingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self) -> Tensor:
        return self.network.penalty()


def functional_penalty(network: SkippingNetwork, values: dict[str, Tensor]) -> Tensor:
    named = {f"network.{name}": value for name, value in values.items()}
    return torch.func.functional_call(PenaltyOf(network), named, ())


def test_sparsity_alone_closes_stages_and_sharing_alone_joins_tasks() -> None:
    for settings, check in (
        ({"sparsity": 1.0, "sharing": 0.0}, lambda alpha: bool((alpha[:, 1:] < 0.3).all())),
        (
            {"sparsity": 0.0, "sharing": 1.0},
            lambda alpha: float((alpha[0, :3] - alpha[1, :3]).abs().max()) < 0.05,
        ),
    ):
        encoder = tl.encoders.build("mlp", (4,), hidden=[4, 4, 4, 4])
        network = build("adashare", encoder, planted_tasks(2), **settings)
        assert isinstance(network, SkippingNetwork)
        set_logits(network, [[2.0, 1.0, 0.5], [-2.0, 1.0, 0.7]])
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        for _ in range(60):
            optimizer.zero_grad()
            network.penalty().backward()
            optimizer.step()
        assert check(network.probabilities().detach())


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((4,), (6,)), ((6,), (4,)), ((4, 8), (4, 4)), ((3, 8, 8), (8, 4, 4)), ((8, 2, 2), (5,)), ((6,), (4, 3))],
)
def test_skipping_keeps_the_mean_where_channels_are_averaged(
    given: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    inputs = torch.randn(3, *given, dtype=torch.float64)
    outputs = skip(inputs, wanted)
    assert outputs.shape == (3, *wanted)
    if wanted[0] >= given[0]:  # channels keep their places, zeros follow
        means = outputs.flatten(2).mean(2) if len(wanted) > 1 else outputs
        expected = inputs.flatten(2).mean(2) if len(given) > 1 else inputs
        torch.testing.assert_close(means[:, : given[0]], expected)
        assert not outputs[:, given[0] :].any()
    elif given[0] % wanted[0] == 0:
        torch.testing.assert_close(outputs.mean(), inputs.mean())
    same = torch.randn(2, *wanted)
    assert skip(same, wanted) is same


@pytest.mark.parametrize("number", [1, 2, 3])
def test_parameters_belong_to_those_they_serve(number: int) -> None:
    network = skipping("conv2d", number)
    check_ownership(network, inputs_of("conv2d"))
    (policy,) = [group for group in network.parameter_groups() if group.name == "policy"]
    assert (len(policy.parameters), policy.lr_multiplier) == (number, 10.0)


def test_permuted_tasks_permute_results() -> None:
    first, second = permuted("adashare", "conv1d", 3)
    assert isinstance(first, SkippingNetwork)
    set_logits(first, [[0.5, -1.0], [-0.1, 0.3], [2.0, -0.2]])
    second.load_state_dict(first.state_dict())
    first.eval()
    second.eval()
    inputs = inputs_of("conv1d")
    theirs = second(inputs)
    for task, output in first(inputs).items():
        torch.testing.assert_close(theirs[task], output, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(second.penalty(), first.penalty())
    for stage, matrix in first.mixing_matrices().items():
        assert torch.equal(second.mixing_matrices()[stage].flip(0, 1), matrix)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_parameter_counts(kind: str, number: int) -> None:
    encoder, tasks = planted_encoder(kind), planted_tasks(number)
    expected = sum(stage_parameters(encoder)) + 2 * number + head_parameters(encoder, tasks)
    assert num_parameters(skipping(kind, number)) == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sparsity": -0.1}, r"adashare\.sparsity: a number of at least 0 expected, found -0\.1"),
        ({"sharing": math.nan}, r"adashare\.sharing: a number of at least 0 expected, found nan"),
        ({"temperature": 0}, r"adashare\.temperature: a number above 0 expected, found 0"),
        ({"temperature_decay": 1.1}, r"adashare\.temperature_decay: a number above 0 and up to 1 expected"),
        ({"lr_multiplier": "10"}, r"adashare\.lr_multiplier: a number above 0 expected, found '10'"),
        ({"curriculum_epochs": -1}, r"adashare\.curriculum_epochs: a whole number of at least 0"),
        ({"warmup_epochs": 0.5}, r"adashare\.warmup_epochs: a whole number of at least 0"),
        ({"joined": 0}, r"adashare\.joined: true or false expected"),
        ({"temprature": 1.0}, r"adashare\.temprature is not a setting\. Did you mean `temperature`\?"),
    ],
)
def test_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build("adashare", planted_encoder("mlp"), planted_tasks(2), **settings)


def test_encoders_that_cannot_be_skipped_are_refused() -> None:
    with pytest.raises(ConfigError, match="two stages or more is expected, found one"):
        build("adashare", tl.encoders.mlp((3,), hidden=[4]), planted_tasks(2))
    stages = [nn.Linear(3, 4), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))]
    with pytest.raises(ConfigError, match="`stage_1` works in place on its input, which skipping reads"):
        build("adashare", tl.encoders.from_modules(stages, (3,)), planted_tasks(2))
