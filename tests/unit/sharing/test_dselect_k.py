"""DSelect-k: against naive loops, and against MMoE, single-task and hard sharing where choices are made."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import pytest
import torch
from scipy.stats import entropy
from torch import Tensor, nn

import taskloom as tl
from _balancing import batch, descend, in_two_processes, losses_of, make, network
from _module_networks import (
    KINDS,
    NUMBERS,
    check_ownership,
    check_training,
    gradients,
    inputs_of,
    load_where_named_alike,
    network_of,
    permuted,
)
from _planted import planted, planted_encoder, planted_tasks
from taskloom.errors import ConfigError
from taskloom.losses import per_task
from taskloom.sharing import build
from taskloom.sharing.modules.selecting import SelectionNetwork
from taskloom.sharing.modules.selection_gates import SelectionGate, code_products, smooth_step
from taskloom.training import EarlyFreeze, fit

STATIC = {"gate_input": "static"}


def selecting(kind: str, number: int, **settings: Any) -> SelectionNetwork:
    network = network_of("dselect_k", kind, number, **settings)
    assert isinstance(network, SelectionNetwork)
    return network


def choose(gate: SelectionGate, experts: list[int]) -> None:
    """Drives every selector of a static gate to one expert, a little beyond where its steps end."""
    with torch.no_grad():
        for selector, expert in enumerate(experts):
            for digit in range(gate.num_digits):
                is_one = expert >> (gate.num_digits - 1 - digit) & 1
                gate.codes[selector, digit] = 0.6 * gate.gamma if is_one else -0.6 * gate.gamma


# -- the parts


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_smooth_step_is_the_piecewise_cubic(gamma: float) -> None:
    values = torch.linspace(-2 * gamma, 2 * gamma, 41, dtype=torch.float64, requires_grad=True)
    expected, slopes = [], []
    for t in values.tolist():
        inside = -gamma / 2 < t < gamma / 2
        cubic = -2 / gamma**3 * t**3 + 3 / (2 * gamma) * t + 0.5
        expected.append(cubic if inside else float(t > 0))
        slopes.append(-6 / gamma**3 * t**2 + 3 / (2 * gamma) if inside else 0.0)
    found = smooth_step(values, gamma)
    torch.testing.assert_close(found.tolist(), expected)
    (slope,) = torch.autograd.grad(found.sum(), values)
    torch.testing.assert_close(slope.tolist(), slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_experts", [2, 3, 4, 5, 8, 11])
def test_products_over_codes_are_those_of_the_loop(num_experts: int) -> None:
    size = math.ceil(math.log2(num_experts))
    digits = torch.rand(3, 2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = code_products(digits, num_experts)
    assert found.shape == (3, 2, num_experts)
    for row, selector, expert in itertools.product(range(3), range(2), range(num_experts)):
        product = 1.0
        for place, sign in enumerate(format(expert, f"0{size}b")):
            digit = float(digits[row, selector, place])
            product *= digit if sign == "1" else 1 - digit
        assert float(found[row, selector, expert]) == pytest.approx(product)
    unused = code_products(digits, 2**size)[..., num_experts:].sum(-1)
    torch.testing.assert_close(found.sum(-1) + unused, torch.ones(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("gate_input", ["flat", "pooled", "static"])
@pytest.mark.parametrize("num_experts", [3, 4])
def test_a_gate_is_the_sum_over_its_selectors(num_experts: int, gate_input: Any) -> None:
    torch.manual_seed(2)
    gate = SelectionGate((3, 4), num_experts, 2, gate_input=gate_input, gamma=2.0).double()
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.normal_()
    inputs = torch.randn(5, 3, 4, dtype=torch.float64)
    weights = gate(inputs)
    for row in range(5):
        read = inputs[row].mean(1) if gate_input == "pooled" else inputs[row].flatten()
        if isinstance(gate.codes, nn.Linear) and isinstance(gate.weights, nn.Linear):
            codes = (gate.codes.weight @ read + gate.codes.bias).reshape(2, 2)
            scores = gate.weights.weight @ read + gate.weights.bias
        else:
            assert isinstance(gate.codes, nn.Parameter)
            assert isinstance(gate.weights, nn.Parameter)
            codes, scores = gate.codes, gate.weights
        total = torch.zeros(num_experts, dtype=torch.float64)
        for selector in range(2):
            share = scores[selector].exp() / scores.exp().sum()
            total = total + share * code_products(smooth_step(codes[selector], 2.0), num_experts)
        torch.testing.assert_close(weights[row], total)


def test_the_start_is_the_authors() -> None:
    gate = SelectionGate((50,), 8, 3, gamma=4.0)
    assert isinstance(gate.codes, nn.Linear)
    assert isinstance(gate.weights, nn.Linear)
    for part, spread in ((gate.codes, 0.04), (gate.weights, 0.05)):
        for parameter in part.parameters():
            assert float(parameter.detach().abs().max()) <= spread
        assert float(part.weight.detach().abs().max()) > 0.9 * spread
    assert SelectionGate((50,), 8, 3, gate_input="static").choice().detach().sub(1 / 8).abs().max() < 0.01


# -- the penalty


@pytest.mark.parametrize("gate_input", ["flat", "static"])
def test_the_penalty_is_the_mean_entropy_of_the_selectors(gate_input: Any) -> None:
    torch.manual_seed(3)
    gate = SelectionGate((6,), 4, 3, gate_input=gate_input, entropy=0.3).double()
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.uniform_(-0.2, 0.2)
    inputs = torch.randn(7, 6, dtype=torch.float64)
    gate(inputs)
    selected = gate._selected(None if gate.is_static else inputs).detach().numpy()
    rows = [sum(entropy(selector) for selector in row) for row in selected]
    assert gate.penalty().item() == pytest.approx(0.3 * sum(rows) / len(rows))


def test_entropy_of_choices() -> None:
    """m digits at 1/2 are 2^m equal weights; a choice that is made has none, nor any slope."""
    gate = SelectionGate((1,), 8, 2, gate_input="static", entropy=1.0).double()
    nn.init.zeros_(gate.codes)  # type: ignore[arg-type]
    assert gate.penalty().item() == pytest.approx(2 * math.log(8))
    choose(gate, [3, 5])
    assert gate.penalty().item() == 0.0
    gate.penalty().backward()
    assert isinstance(gate.codes, nn.Parameter)
    assert gate.codes.grad is not None
    assert not gate.codes.grad.any()


def test_codes_of_no_expert_are_punished_by_the_reciprocal() -> None:
    """n = 3: a selector that gives the experts s costs 1/s - 1; from 1/4 down the tangent 7 - 16 s."""
    gate = SelectionGate((1,), 3, 1, gate_input="static").double()
    assert isinstance(gate.codes, nn.Parameter)
    for code, reached in (([0.0, 0.0], 3 / 4), ([0.25, 0.25], 1 - 0.84375**2), ([9.0, 0.0], 1 / 2)):
        with torch.no_grad():
            gate.codes.copy_(torch.tensor([code]))
        assert gate.choice().sum().item() == pytest.approx(reached)
        assert gate.penalty().item() == pytest.approx(1 / reached - 1)
    with torch.no_grad():
        gate.codes.fill_(0.4)
    reached = 1 - smooth_step(torch.tensor(0.4, dtype=torch.float64)).item() ** 2
    assert reached < 0.25
    assert gate.penalty().item() == pytest.approx(7 - 16 * reached)
    with torch.no_grad():
        gate.codes.fill_(9.0)  # all of it on the fourth code
    assert gate.penalty().item() == pytest.approx(7.0)
    assert not SelectionGate((1,), 4, 1, gate_input="static").has_penalty
    for expert in range(3):
        choose(gate, [expert])
        assert gate.penalty().item() == 0.0


def test_descent_leaves_codes_of_no_expert() -> None:
    """From where the fourth code of three experts weighs most, the penalty alone brings all to experts."""
    gate = SelectionGate((1,), 3, 4, gate_input="static").double()
    assert isinstance(gate.codes, nn.Parameter)
    with torch.no_grad():
        gate.codes.copy_(torch.tensor([[0.3, 0.3], [0.2, 0.3], [0.4, 0.1], [0.45, 0.45]]))
    optimizer = torch.optim.Adam([gate.codes], lr=0.01)
    for _ in range(400):
        optimizer.zero_grad()
        gate.penalty().backward()
        optimizer.step()
    assert float(gate.choice().detach().sum()) == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("experts", [3, 4])
def test_penalties_of_rows_reach_the_gates_alone_and_join_parts(experts: int) -> None:
    network = selecting("conv1d", 2, experts=experts, entropy=0.2, stages=[2], gate_input="pooled")
    network.train()
    inputs = inputs_of("conv1d", rows=6)

    def slopes() -> dict[str, Tensor]:
        network.zero_grad()
        network.penalty().backward()
        return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    network.set_step(0)
    network(inputs)
    whole = slopes()
    assert {name.split(".")[0] for name in whole} == {"gates"}
    assert {name.split(".")[3] for name in whole} == {"codes"}
    network.stages.eval()  # batch norm would see other statistics in parts
    network.set_step(1)
    network(inputs)
    whole = slopes()
    network.set_step(2)
    network(inputs[:2])
    network(inputs[2:])  # a batch in parts is one step
    torch.testing.assert_close(slopes(), whole)
    network.set_step(None)
    network(inputs[:2])
    network(inputs)  # in a loop of one's own every pass is a step
    torch.testing.assert_close(slopes(), whole)


def test_in_evaluation_the_penalty_is_the_running_mean_of_the_batches() -> None:
    network = selecting("mlp", 2, experts=4, entropy=0.5)
    assert network.penalty().item() == 0.0
    expected = 0.0
    for seed in range(3):
        network.set_step(seed)
        network(inputs_of("mlp", seed=seed))
        expected = 0.9 * expected + 0.1 * network.penalty().item()
    network.eval()
    network(inputs_of("mlp", seed=9))
    assert network.penalty().item() == pytest.approx(expected)
    again = selecting("mlp", 2, experts=4, entropy=0.5)
    again.load_state_dict(network.state_dict())
    assert again.eval().penalty().item() == network.penalty().item()


def test_static_gates_have_one_penalty_at_all_times() -> None:
    network = selecting("mlp", 3, experts=4, entropy=0.5, **STATIC)
    before = network.penalty().item()
    network(inputs_of("mlp"))
    assert network.penalty().item() == network.eval().penalty().item() == before
    assert before == pytest.approx(3 * 2 * 0.5 * math.log(4), rel=1e-3)


# -- what it is where choices are made


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_with_an_expert_of_its_own_is_single_task(kind: str) -> None:
    network = selecting(kind, 3, experts=4, selected=1, **STATIC)
    for gate, expert in zip(network.selection_gates(), (2, 0, 3), strict=True):
        choose(gate, [expert])
    single = network_of("single_task", kind, 3, seed=5)
    for task, expert in zip(network.tasks, (2, 0, 3), strict=True):
        single.heads[task].load_state_dict(network.heads[task].state_dict())
        for stage in network.stage_names:
            copies = network.stages[stage]
            single.stages[stage][task].load_state_dict(copies[f"shared_{expert + 1}"].state_dict())
    inputs = inputs_of(kind)
    ours, theirs = network(inputs), single(inputs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    of_single = gradients(single, theirs.values())
    reader = dict(zip(("shared_3", "shared_1", "shared_4"), network.tasks, strict=True))
    for name, gradient in gradients(network, ours.values()).items():
        if name.startswith("stages."):
            _, stage, copy_of, rest = name.split(".", 3)
            task = reader.get(copy_of)
            expected = torch.zeros_like(gradient)
            if task is not None:
                expected = of_single[f"stages.{stage}.{task}.{rest}"]
            assert torch.equal(gradient, expected)
        elif name.startswith("gates."):  # a choice that is made stays
            assert not gradient.any()


@pytest.mark.parametrize("kind", KINDS)
def test_one_expert_for_all_is_hard_sharing(kind: str) -> None:
    for settings, expert in (
        ({"experts": 1, "selected": 1}, 0),
        ({"experts": 4, "selected": 2, **STATIC}, 2),
    ):
        network = selecting(kind, 3, **settings)
        for gate in network.selection_gates():
            choose(gate, [expert] * 2)
        shared = network_of("hard_sharing", kind, 3, seed=5, stages=3)
        shared.heads.load_state_dict(network.heads.state_dict())
        for stage in network.stage_names:
            shared.stages[stage]["shared"].load_state_dict(
                network.stages[stage][f"shared_{expert + 1}"].state_dict()
            )
        inputs = inputs_of(kind)
        torch.testing.assert_close(network(inputs), shared(inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_selector_per_expert_is_mmoe_with_constant_gates(kind: str, number: int) -> None:
    network = selecting(kind, number, experts=3, selected=3, **STATIC)
    mixture = network_of("mmoe", kind, number, experts=3, gate_bias=True, seed=7)
    load_where_named_alike(mixture, network)
    for task, gate in zip(network.tasks, network.selection_gates(), strict=True):
        choose(gate, [0, 1, 2])
        linear = mixture.gates[0][task].linear
        with torch.no_grad():
            gate.weights.normal_()  # type: ignore[operator]
            linear.weight.zero_()
            linear.bias.copy_(gate.weights)
    inputs = inputs_of(kind)
    ours, theirs = network(inputs), mixture(inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    of_mixture = gradients(mixture, theirs.values())
    for name, gradient in gradients(network, ours.values()).items():
        if name.startswith(("stages.", "heads.")):
            torch.testing.assert_close(gradient, of_mixture[name], rtol=1e-10, atol=1e-12)
        elif name.endswith(".weights"):
            expected = of_mixture[name.replace("weights", "linear.bias")]
            torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["mlp", "conv2d"])
def test_in_use_only_chosen_experts_run(kind: str) -> None:
    network = selecting(kind, 3, experts=6, selected=2, stages=[2, 3], **STATIC).eval()
    choices = ([1, 4], [4, 4], [1, 1])
    for gate, experts in zip(network.selection_gates(), choices, strict=True):
        choose(gate, experts)
        assert sorted(gate.choice().nonzero().flatten().tolist()) == sorted(set(experts))
    run: list[str] = []
    for name, expert in network.stages[network.stage_names[1]].items():
        expert.register_forward_hook(lambda *_, name=name: run.append(name))
    with_gradients = network(inputs_of(kind))
    assert sorted(run) == [f"shared_{number}" for number in range(1, 7)]
    run.clear()
    with torch.no_grad():
        found = network(inputs_of(kind))
    assert run == ["shared_2", "shared_5"]
    torch.testing.assert_close(found, with_gradients, rtol=0, atol=0)
    with network.decided(), torch.no_grad():
        torch.testing.assert_close(network(inputs_of(kind)), with_gradients, rtol=0, atol=0)
    assert network.describe().splitlines()[1:4] == [
        f"{network.stage_names[0]:7s}  A       A       A       -",
        f"{network.stage_names[1]:7s}  BE      E       B       6 experts",
        f"{network.stage_names[2]:7s}  BE      E       B       6 experts, 2 selected for all rows",
    ]


def test_a_task_that_stands_on_codes_of_no_expert_reads_nothing() -> None:
    network = selecting("mlp", 2, experts=3, selected=1, **STATIC).eval()
    astray, _ = network.selection_gates()
    with torch.no_grad():
        astray.codes.fill_(1.0)  # type: ignore[operator]  # the fourth code, of three experts
    inputs = inputs_of("mlp")
    with_gradients = network.features(inputs)
    with torch.no_grad():
        found = network.features(inputs)
    torch.testing.assert_close(found, with_gradients, rtol=1e-12, atol=1e-12)
    assert [bool(feature.any()) for feature in found.values()] == [False, True]


def test_overlap_of_choices() -> None:
    network = selecting("mlp", 2, experts=4, selected=2, **STATIC)
    first, second = network.selection_gates()
    choose(first, [0, 3])
    choose(second, [3, 2])
    with torch.no_grad():
        first.weights.copy_(torch.tensor([0.0, math.log(3)]))
        second.weights.zero_()  # type: ignore[operator]
    means = torch.tensor([[0.25, 0, 0, 0.75], [0, 0, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(network.gate_means()["dense_2"], means)
    expected = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(network.mixing_matrices()["dense_2"], expected)


def test_choices_are_made_in_training() -> None:
    """Every task ends with at most k experts of a positive weight; a larger entropy only makes it sooner."""
    rows = planted("mlp", 3)
    torch.manual_seed(1)
    network = build(
        "dselect_k", planted_encoder("mlp"), rows.tasks, experts=5, selected=2, entropy=0.1, **STATIC
    )
    assert isinstance(network, SelectionNetwork)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    first = None
    for _ in range(120):
        losses = per_task(network(rows.inputs), rows.labels, rows.tasks)
        total = torch.stack([loss.mean for loss in losses.values()]).sum()
        first = first or float(total.detach())
        optimizer.zero_grad()
        (total + network.penalty()).backward()
        optimizer.step()
    assert float(total.detach()) < 0.6 * first
    weights = network.gate_means()["dense_2"]
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert all(1 <= int((row > 0).sum()) <= 2 for row in weights)
    assert network.penalty().item() == pytest.approx(0.0, abs=1e-6)


# -- as every network


@pytest.mark.parametrize("settings", [{"experts": 3}, {"experts": 4, "entropy": 0.0, **STATIC}])
@pytest.mark.parametrize("kind", KINDS)
def test_trains_saves_and_loads(kind: str, settings: dict[str, Any]) -> None:
    for number in (1, 3):
        network = check_training("dselect_k", kind, number, **settings)
        for matrix in network.mixing_matrices().values():
            torch.testing.assert_close(matrix, matrix.T)


@pytest.mark.parametrize("settings", [{}, STATIC, {"stages": [2], "gate_input": "pooled"}])
def test_parameters_belong_to_those_they_serve(settings: dict[str, Any]) -> None:
    for number in (1, 2, 3):
        check_ownership(network_of("dselect_k", "mlp", number, **settings), inputs_of("mlp"))


@pytest.mark.parametrize("settings", [{"experts": 3}, {"experts": 5, **STATIC}])
def test_permuted_tasks_permute_results(settings: dict[str, Any]) -> None:
    first, second = permuted("dselect_k", "conv1d", 3, **settings)
    second.load_state_dict(first.state_dict())
    inputs = inputs_of("conv1d")
    theirs = second(inputs)
    for task, output in first(inputs).items():
        torch.testing.assert_close(theirs[task], output, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(second.penalty(), first.penalty(), rtol=1e-10, atol=1e-12)


def test_gates_learn_at_their_own_rate_and_do_not_decay() -> None:
    network = network_of("dselect_k", "mlp", 2, lr_multiplier=10.0)
    (group,) = (group for group in network.parameter_groups() if group.name == "gates")
    assert (group.lr_multiplier, group.decays) == (10.0, False)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert all(names[id(parameter)].startswith("gates.") for parameter in group.parameters)
    assert len(group.parameters) == 2 * 4


@pytest.mark.parametrize("balancing", ["pcgrad", "gradient_sum", "uncertainty"])
def test_the_penalty_stands_beside_every_balancing(balancing: str) -> None:
    """Its rows are read again: gradient aggregation has let go of the graph by then."""
    network = selecting("mlp", 3, experts=3)
    rows = planted("mlp", 3)
    before = copy.deepcopy(network)
    balancer = tl.balancing.build(balancing)
    balancer.start(network)
    network.set_step(0)
    inputs = rows.inputs.double()
    balancer.backward(per_task(network(inputs), rows.labels, rows.tasks), network)
    before.set_step(0)
    before(inputs)
    before.penalty().backward()
    if balancing == "gradient_sum":
        losses = per_task(before(inputs), rows.labels, rows.tasks)
        torch.stack([loss.mean for loss in losses.values()]).sum().backward()
        for (name, ours), theirs in zip(network.named_parameters(), before.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    assert all(gate.codes.weight.grad is not None for gate in network.selection_gates())


def test_pickles_and_copies_without_the_rows_it_has_seen() -> None:
    network = selecting("mlp", 2, experts=3)
    network(inputs_of("mlp"))
    assert network.selection_gates()[0]._rows
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert not other.selection_gates()[0]._rows
        assert torch.equal(
            other.eval()(inputs_of("mlp"))["task_1"], network.eval()(inputs_of("mlp"))["task_1"]
        )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"experts": 0}, r"dselect_k\.experts: a whole number of at least 1 expected, found 0"),
        ({"selected": 5}, r"dselect_k\.selected: at most 4, the number of experts, expected, found 5"),
        ({"selected": 1.0}, r"dselect_k\.selected: a whole number of at least 1 expected, found 1\.0"),
        ({"gate_input": "none"}, r"dselect_k\.gate_input: flat, pooled or static expected, found 'none'"),
        ({"gamma": 0}, r"dselect_k\.gamma: a number above 0 expected, found 0"),
        ({"entropy": -0.1}, r"dselect_k\.entropy: a number of at least 0 expected, found -0\.1"),
        ({"lr_multiplier": 0}, r"dselect_k\.lr_multiplier: a number above 0 expected"),
        ({"stages": [1, 3]}, r"`dense_1` is missing between `dense_0` and `dense_2`"),
        ({"select": 2}, r"dselect_k\.select is not a setting\. Did you mean `selected`\?"),
    ],
)
def test_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build("dselect_k", planted_encoder("mlp"), planted_tasks(2), **settings)


@pytest.mark.parametrize("balancing", ["pcgrad", "weighted_sum", "gradnorm", "uncertainty"])
def test_processes_share_the_penalty_of_their_rows(balancing: str) -> None:
    """Each process has rows of its own, so that their penalties differ: the gates must not part."""
    rows = batch(12)
    shares: list[Any] = [rows.__getitems__(list(range(6))), rows.__getitems__(list(range(6, 12)))]
    alone = network("dselect_k", experts=3, entropy=0.5, stages=[1])
    model = copy.deepcopy(alone)
    balancer = make(balancing)
    balancer.start(alone, seed=3)
    for _ in range(2):
        alone.zero_grad()
        balancer.backward(losses_of(alone, rows, balancer), alone)
        descend(balancer, alone)
    for joined in in_two_processes(make(balancing), model, shares, steps=2):
        for (name, ours), theirs in zip(joined.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("kept_mb", [1024.0, 0.0])
@pytest.mark.parametrize("gate_input", ["flat", "static"])
def test_it_goes_on_where_what_is_shared_freezes(gate_input: str, kept_mb: float) -> None:
    """What a task reads is looked at with other tensors in place of its parameters."""
    rows = planted("mlp", 3, num_rows=64), planted("mlp", 3, num_rows=32, seed=1)
    torch.manual_seed(5)
    network = build("dselect_k", planted_encoder("mlp"), rows[0].tasks, experts=3, gate_input=gate_input)
    freeze = EarlyFreeze(1, features_mb=kept_mb)
    optimizer = {"adam": {"lr": 0.05}}
    history = fit(
        network, *rows, seed=3, callbacks=[freeze], epochs=8, batch=16, optimizer=optimizer, device="cpu"
    )
    assert history.shared_frozen is not None
    replaced = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    found = torch.func.functional_call(network, replaced, (rows[1].inputs,))
    torch.testing.assert_close(found, network(rows[1].inputs), rtol=0, atol=0)
