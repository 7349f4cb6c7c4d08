"""Sluice networks: against cross-stitch, naive loops and finite differences; counts, order, refusals."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from _module_networks import (
    KINDS,
    NUMBERS,
    check_training,
    gradients,
    head_parameters,
    inputs_of,
    load_where_named_alike,
    names_of,
    network_of,
    num_parameters,
    permuted,
    stage_parameters,
)
from _planted import planted_encoder, planted_tasks
from taskloom.errors import ConfigError
from taskloom.sharing import MultiTaskNetwork, build
from taskloom.sharing.mixing import mix
from taskloom.sharing.modules.sluice import SluiceNetwork
from taskloom.sharing.modules.subspaces import SubspaceMixing, channel_weights, subspace_overlap


def drawn(network: MultiTaskNetwork, seed: int = 4) -> MultiTaskNetwork:
    """Mixing matrices and stage weights as after a training."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("mixing.", "skips.")):
                noise = torch.rand(parameter.shape, generator=draw, dtype=parameter.dtype)
                parameter.copy_(noise)
    return network


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_trains_saves_and_loads(kind: str, number: int) -> None:
    check_training("sluice", kind, number, subspaces=1 + number % 2, skips="concatenate", skip_start="equal")


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_subspace_and_no_skips_is_cross_stitch(kind: str, number: int) -> None:
    start = {"same": 0.8, "other": 0.3}
    network = network_of("sluice", kind, number, subspaces=1, skips="none", start=start)
    stitched = network_of("cross_stitch", kind, number, start=start)
    # The same random numbers: nothing has to be carried over.
    assert network.state_dict().keys() == stitched.state_dict().keys()
    inputs = inputs_of(kind)
    ours, theirs = network(inputs), stitched(inputs)
    assert all(torch.equal(ours[task], output) for task, output in theirs.items())
    of_network = gradients(network, ours.values())
    for name, gradient in gradients(stitched, theirs.values()).items():
        assert torch.equal(of_network[name], gradient)
    assert network.penalty().item() == 0.0
    for stage, matrix in stitched.mixing_matrices().items():
        assert torch.equal(network.mixing_matrices()[stage], matrix)


def test_at_the_start_it_is_single_task() -> None:
    """Identity matrices, and heads that hear the last stage alone."""
    encoder, tasks = tl.encoders.mlp((10,), hidden=[6, 6]), planted_tasks(3)
    torch.manual_seed(0)
    network = build("sluice", encoder, tasks).double()
    single = build("single_task", encoder, tasks).double()
    load_where_named_alike(single, network)
    inputs = inputs_of("mlp")
    assert all(torch.equal(network(inputs)[task], output) for task, output in single(inputs).items())


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3), (5, 6, 3, 2)])
@pytest.mark.parametrize("subspaces", [1, 2, 3])
def test_mixing_is_the_double_loop_over_subspaces(subspaces: int, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(1)
    size = 2 * subspaces
    alpha = torch.randn(size, size, generator=draw, dtype=torch.float64, requires_grad=True)
    copies = [torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights = [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2)]
    parts = [part for copy in copies for part in copy.chunk(subspaces, dim=1)]
    rows = [sum(alpha[i, j] * parts[j] for j in range(size)) for i in range(size)]
    naive = [torch.cat(rows[t * subspaces : (t + 1) * subspaces], dim=1) for t in range(2)]  # type: ignore[arg-type]
    found = mix(alpha, copies, subspaces)
    for one, other in zip(found, naive, strict=True):
        torch.testing.assert_close(one, other)

    def of(outputs: Any) -> tuple[Tensor, ...]:
        total = sum((w * o.square()).sum() for w, o in zip(weights, outputs, strict=True))
        return torch.autograd.grad(total, [alpha, *copies])

    for one, other in zip(of(found), of(naive), strict=True):
        torch.testing.assert_close(one, other)
    # One output alone, as when a single loss is differentiated.
    (alone,) = torch.autograd.grad(mix(alpha, copies, subspaces)[1].sum(), [alpha])
    (expected,) = torch.autograd.grad(
        torch.cat(
            [
                sum(alpha[i, j] * parts[j] for j in range(size))  # type: ignore[misc]
                for i in range(subspaces, size)
            ],
            dim=1,
        ).sum(),
        [alpha],
    )
    torch.testing.assert_close(alone, expected)


def test_mixing_under_vmap_is_mixing_one_by_one() -> None:
    alphas = torch.randn(3, 4, 4, dtype=torch.float64)
    copies = [torch.randn(5, 6, dtype=torch.float64) for _ in range(2)]
    together = torch.func.vmap(lambda alpha: mix(alpha, copies, 2))(alphas)
    for place, alpha in enumerate(alphas):
        for one, other in zip(together, mix(alpha, copies, 2), strict=True):
            torch.testing.assert_close(one[place], other)


@pytest.mark.parametrize("skips", ["sum", "concatenate"])
@pytest.mark.parametrize("kind", ["mlp", "conv2d"])
def test_outputs_are_those_of_the_formula(kind: str, skips: str) -> None:
    """One stage, subspace and task at a time."""
    encoder, tasks = planted_encoder(kind), planted_tasks(2)
    same = [i + 1 for i, shape in enumerate(encoder.stage_shapes) if shape[0] == encoder.stage_shapes[-1][0]]
    stages: Any = same if skips == "sum" else "all"
    torch.manual_seed(0)
    network = build("sluice", encoder, tasks, skips=skips, skip_stages=stages).double().eval()
    drawn(network)
    assert isinstance(network, SluiceNetwork)
    inputs = inputs_of(kind)
    streams, outputs = [inputs, inputs], []
    for index, key in enumerate(network.stages):
        copies = [
            copy(x)
            for copy, x in zip(network.stages[key].children(), streams, strict=True)  # type: ignore[arg-type]
        ]
        alpha = network.mixing[key].alpha
        halves = [half for copy in copies for half in copy.chunk(2, dim=1)]
        streams = [
            torch.cat(
                [
                    sum(alpha[2 * t + g, j] * halves[j] for j in range(4))  # type: ignore[misc]
                    for g in range(2)
                ],
                dim=1,
            )
            for t in range(2)
        ]
        if stages == "all" or index + 1 in same or index == len(network.stages) - 1:
            outputs.append(streams)
    for place, task in enumerate(tasks):
        beta = network.skips[task].beta
        last = outputs[-1][place]
        terms = []
        for weight, stage in zip(beta, outputs, strict=True):
            h = stage[place]
            if h.dim() > last.dim():
                h = h.flatten(2).mean(2)
            elif h.shape[2:] != last.shape[2:]:
                h = nn.functional.adaptive_avg_pool2d(h, last.shape[2:])  # type: ignore[arg-type]
            terms.append(weight * h)
        features = sum(terms) if skips == "sum" else torch.cat(terms, dim=1)
        torch.testing.assert_close(network(inputs)[task], network.heads[task](features))


@pytest.mark.parametrize("subspaces", [2, 3])
def test_overlap_is_a_sum_over_pairs_of_channels(subspaces: int) -> None:
    weight = torch.randn(6, 4, 3, dtype=torch.float64)
    size = 6 // subspaces
    naive = sum(
        (weight[i] * weight[j]).sum() ** 2
        for i, j in itertools.combinations(range(6), 2)
        if i // size != j // size
    )
    torch.testing.assert_close(subspace_overlap(weight, 6, subspaces), naive)
    # An orthogonal matrix has subspaces that do not overlap.
    orthogonal, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    assert subspace_overlap(orthogonal, 6, subspaces).item() < 1e-25


def test_overlap_of_a_recurrent_layer_takes_a_units_gates_together() -> None:
    weight = torch.randn(4 * 6, 5, dtype=torch.float64)
    unit = lambda i: [gate * 6 + i for gate in range(4)]  # noqa: E731
    first = [row for i in range(3) for row in unit(i)]
    second = [row for i in range(3, 6) for row in unit(i)]
    expected = (weight[first] @ weight[second].T).square().sum()
    torch.testing.assert_close(subspace_overlap(weight, 6, 2), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_penalty_against_finite_differences(kind: str) -> None:
    network = network_of("sluice", kind, 2, orthogonality=0.7, skips="none")
    weights = [p for name, p in network.named_parameters() if name.startswith("stages.") and p.dim() > 1]
    grads = torch.autograd.grad(network.penalty(), weights, materialize_grads=True)
    assert any(gradient.any() for gradient in grads)
    draw = torch.Generator().manual_seed(2)
    step = 1e-5
    for weight, gradient in zip(weights, grads, strict=True):
        direction = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                weight.add_(sign * step * direction)
                values.append(network.penalty().item())
                weight.sub_(sign * step * direction)
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-6, abs=1e-9)


def test_which_layer_gives_the_channels() -> None:
    first, last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
    (found,) = channel_weights(nn.Sequential(first, nn.ReLU(), last, nn.BatchNorm2d(6)), 6)
    assert found is last.weight
    recurrent = nn.LSTM(5, 6, num_layers=2)
    assert [p is q for p, q in zip(
        channel_weights(recurrent, 6), (recurrent.weight_ih_l1, recurrent.weight_hh_l1), strict=True
    )] == [True, True]  # fmt: skip
    assert channel_weights(nn.LSTM(5, 3, bidirectional=True), 6) == []
    assert channel_weights(nn.ConvTranspose1d(6, 6, 3), 6) == []


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_parameter_counts(kind: str, number: int) -> None:
    network = network_of("sluice", kind, number, skips="none")
    encoder, tasks = planted_encoder(kind), planted_tasks(number)
    stages = stage_parameters(encoder)
    expected = number * sum(stages) + head_parameters(encoder, tasks) + len(stages) * (2 * number) ** 2
    assert num_parameters(network) == expected
    joined = network_of("sluice", kind, number, skips="concatenate")
    width = sum(shape[0] for shape in encoder.stage_shapes) * (
        encoder.num_features // encoder.stage_shapes[-1][0]
    )
    more = number * ((width - encoder.num_features) * 6 + len(stages))
    assert num_parameters(joined) == expected + more


@pytest.mark.parametrize("kind", KINDS)
def test_no_loss_reaches_what_belongs_to_another_task(kind: str) -> None:
    """At identity no task hears another; another task's head and stage weights are never reached."""
    network = network_of("sluice", kind, 3, skips="concatenate", skip_start="equal")
    tasks = list(network.tasks)
    for task, output in network(inputs_of(kind)).items():
        touched = {name for name, g in gradients(network, [output]).items() if g.any()}
        for other in tasks:
            if other != task:
                assert not touched & names_of(network.task_parameters(other), network)
    drawn(network)
    for task, output in network(inputs_of(kind)).items():
        touched = {name for name, g in gradients(network, [output]).items() if g.any()}
        for other in tasks:
            if other != task:
                assert not any(name.startswith((f"heads.{other}.", f"skips.{other}.")) for name in touched)
    groups = network.parameter_groups()
    grouped = [id(p) for group in groups for p in group.parameters]
    assert len(grouped) == len(set(grouped)) == len(list(network.parameters()))
    assert [(group.name, group.decays) for group in groups if not group.decays] == [("mixing", False)]


@pytest.mark.parametrize("skips", ["none", "concatenate"])
@pytest.mark.parametrize("kind", KINDS)
def test_permuting_tasks_permutes_results(kind: str, skips: str) -> None:
    first, second = permuted("sluice", kind, 3, skips=skips)
    drawn(first)
    order = [4, 5, 2, 3, 0, 1]
    second.load_state_dict(
        {
            key: tensor[order][:, order] if key.startswith("mixing.") else tensor
            for key, tensor in first.state_dict().items()
        }
    )
    inputs = inputs_of(kind)
    turned = second(inputs)
    for task, output in first(inputs).items():
        torch.testing.assert_close(turned[task], output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second.penalty(), first.penalty())


def test_matrix_of_tasks_sums_over_donors() -> None:
    unit = SubspaceMixing(2, 2)
    unit.alpha.data = torch.arange(16.0).reshape(4, 4)
    assert unit.matrix().tolist() == [[(0 + 1 + 4 + 5) / 2, (2 + 3 + 6 + 7) / 2], [21.0, 25.0]]


def blank(shape: tuple[int, ...]) -> tl.encoders.Encoder:
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8)]
    return tl.encoders.from_modules(layers, shape)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subspaces": 3}, r"sluice.subspaces: 3 subspaces .* stage `\S+` has 8 channels"),
        ({"subspaces": 0}, "sluice.subspaces: a whole number of at least 1"),
        ({"orthogonality": -0.1}, "sluice.orthogonality: a number of at least 0 expected, found -0.1"),
        ({"skips": "all"}, "sluice.skips: none, sum, concatenate expected, found 'all'"),
        ({"skip_start": "first"}, "sluice.skip_start: last, equal expected"),
        ({"skip_stages": [9]}, "stage 9 does not exist"),
        ({"lr_multiplier": 0}, "sluice.lr_multiplier: a number above 0"),
        ({"start": "even"}, "start must be identity"),
        ({"after": [2]}, "sluice.orthogonality: stage `.*` has no layer that gives its channels"),
        ({"betas": 1}, "sluice.betas is not a setting"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("sluice", blank((4,)), planted_tasks(2), **settings)


def test_an_adversarial_task_needs_something_mixed() -> None:
    encoder = tl.encoders.mlp((5,), hidden=[8, 8])
    tasks = tl.TaskSet(tl.Regression("a"), tl.Binary("who", role="adversarial"))
    with pytest.raises(ConfigError, match=r"tasks\.who\.role: .* use another way of sharing"):
        SluiceNetwork(encoder, tasks, mixed=())
    SluiceNetwork(encoder, tasks, mixed=(0,), skipped=(0,))  # mixed and unmixed stages in one head


def test_stages_that_cannot_be_brought_together() -> None:
    encoder = tl.encoders.mlp((5,), hidden=[8, 6])
    with pytest.raises(ConfigError, match=r"same number of channels; stage `dense_0` has 8 .* last one 6"):
        build("sluice", encoder, planted_tasks(2))
    build("sluice", encoder, planted_tasks(2), skips="concatenate")
    build("sluice", encoder, planted_tasks(2), skip_stages=[2])
    widening = tl.encoders.from_modules(
        [nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.Unflatten(1, (4, 2)))], (4,)
    )
    with pytest.raises(ConfigError, match=r"gives \(8,\) and the last stage \(4, 2\); .* `skip_stages`"):
        build("sluice", widening, planted_tasks(2), skips="concatenate")
    in_place = tl.encoders.from_modules([nn.Linear(4, 8), nn.ReLU(inplace=True)], (4,))
    with pytest.raises(ConfigError, match="works in place on its input, which other copies and heads read"):
        build("sluice", in_place, planted_tasks(2), orthogonality=0)
