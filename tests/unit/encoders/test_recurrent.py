"""lstm and deep_conv_lstm against torch's own LSTM, a loop over its equations, counts, and every sharing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

import taskloom as tl
from taskloom.encoders import Encoder, build, deep_conv_lstm, lstm
from taskloom.errors import ConfigError
from taskloom.sharing import PlanNetwork
from taskloom.sharing import build as share

SMALL: dict[str, Callable[[], Encoder]] = {
    "lstm": lambda: lstm((7, 3), hidden=(6, 5, 4), dropout=0.1),
    "bidirectional": lambda: lstm((7, 3), hidden=(4, 3), bidirectional=True, steps="mean"),
    "deep_conv_lstm": lambda: deep_conv_lstm((14, 3), filters=(3, 4), hidden=(6, 5)),
}
TASKS = tl.TaskSet(tl.Binary("a"), tl.Multiclass("b", 3), tl.Regression("c"))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def joined(layers: list[nn.LSTM]) -> nn.LSTM:
    """One torch LSTM of several layers, batch first, with the weights of ours."""
    first = layers[0]
    whole = nn.LSTM(
        first.input_size,
        first.hidden_size,
        num_layers=len(layers),
        batch_first=True,
        bidirectional=first.bidirectional,
    ).to(first.weight_ih_l0.dtype)
    whole.load_state_dict(
        {
            name.replace("_l0", f"_l{index}"): value
            for index, layer in enumerate(layers)
            for name, value in layer.state_dict().items()
        }
    )
    return whole


def lstm_layers(encoder: Encoder) -> list[nn.LSTM]:
    return [module for module in encoder.modules() if isinstance(module, nn.LSTM)]


def read(states: Tensor, steps: str, num_units: int) -> Tensor:
    """What `steps` means, from all states [N, time, units]; backward units have read all at step 0."""
    if steps == "mean":
        return states.mean(1)
    if steps == "all":
        return states.transpose(1, 2)
    return torch.cat([states[:, -1, :num_units], states[:, 0, num_units:]], dim=1)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("steps", ["last", "mean", "all"])
def test_lstm_equals_one_torch_lstm_with_its_gradients(steps: str, bidirectional: bool) -> None:
    torch.manual_seed(0)
    encoder = lstm((6, 3), hidden=(5, 5, 5), steps=steps, bidirectional=bidirectional).double()
    whole = joined(lstm_layers(encoder))
    windows = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    outputs, expected = encoder(windows), read(whole(windows)[0], steps, 5)
    torch.testing.assert_close(outputs, expected)
    upstream = torch.randn_like(outputs)
    of_ours = torch.autograd.grad(outputs, [windows, *encoder.parameters()], upstream)
    of_theirs = torch.autograd.grad(expected, [windows, *whole.parameters()], upstream)
    for gradient, wanted in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_lstm_equals_its_equations_sample_by_sample() -> None:
    torch.manual_seed(0)
    encoder = lstm((9, 3), hidden=(4,)).double()
    weights, recurrent, bias, other_bias = encoder.parameters()
    windows = torch.randn(5, 9, 3, dtype=torch.float64)
    state, cell = torch.zeros(5, 4, dtype=torch.float64), torch.zeros(5, 4, dtype=torch.float64)
    for sample in windows.unbind(1):
        into, forget, candidate, out = (sample @ weights.T + bias + state @ recurrent.T + other_bias).chunk(
            4, 1
        )
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * torch.tanh(candidate)
        state = torch.sigmoid(out) * torch.tanh(cell)
    torch.testing.assert_close(encoder(windows), state)


def test_deep_conv_lstm_equals_its_layers_as_the_paper_writes_them() -> None:
    torch.manual_seed(0)
    encoder = deep_conv_lstm((15, 4), filters=(3, 5), kernel=4, hidden=(6, 6)).double().eval()
    windows = torch.randn(5, 15, 4, dtype=torch.float64, requires_grad=True)
    parameters = list(encoder.parameters())
    maps = windows.unsqueeze(1)
    for weight, bias in (parameters[:2], parameters[2:4]):
        maps = torch.relu(functional.conv2d(maps, weight, bias))
    assert maps.shape == (5, 5, 9, 4)
    whole = joined(lstm_layers(encoder))
    expected = whole(maps.permute(0, 2, 3, 1).flatten(2))[0][:, -1]
    outputs = encoder(windows)
    torch.testing.assert_close(outputs, expected)
    upstream = torch.randn_like(outputs)
    of_ours = torch.autograd.grad(outputs, [windows, *parameters], upstream)
    of_theirs = torch.autograd.grad(expected, [windows, *parameters[:4], *whole.parameters()], upstream)
    for gradient, wanted in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(gradient, wanted)


def lstm_count(num_inputs: int, num_units: int) -> int:
    return 4 * (num_inputs * num_units + num_units * num_units + 2 * num_units)


def test_parameters_of_lstm() -> None:
    encoder = lstm((64, 107))
    assert [num_parameters(stage) for stage in encoder.stages] == [lstm_count(107, 128), lstm_count(128, 128)]
    assert num_parameters(encoder) == 253_440
    both = lstm((64, 107), hidden=(128, 32), bidirectional=True)
    assert num_parameters(both) == 2 * lstm_count(107, 128) + 2 * lstm_count(256, 32) == 316_928
    assert both.stage_shapes == ((256, 64), (64,))


def test_parameters_of_deep_conv_lstm() -> None:
    encoder = deep_conv_lstm((24, 113))
    expected = [
        5 * 64 + 64,
        *[5 * 64 * 64 + 64] * 3,
        lstm_count(64 * 113, 128),
        lstm_count(128, 128),
    ]
    counts = [num_parameters(stage) for stage in encoder.stages]
    assert counts == expected == [384, 20_544, 20_544, 20_544, 3_769_344, 132_096]
    assert sum(counts) == 3_963_456
    assert f"{sum(counts):,}" in (deep_conv_lstm.__doc__ or "")
    assert encoder.stage_names == ("conv_0", "conv_1", "conv_2", "conv_3", "lstm_0", "lstm_1")
    assert encoder.stage_shapes == (
        (64, 113, 20),
        (64, 113, 16),
        (64, 113, 12),
        (64, 113, 8),
        (128, 8),
        (128,),
    )


@pytest.mark.parametrize("name", SMALL)
def test_no_state_passes_between_batches_or_rows(name: str) -> None:
    torch.manual_seed(0)
    encoder = SMALL[name]().double().eval()
    windows = torch.randn(6, *encoder.input_shape, dtype=torch.float64)
    first = encoder(windows)
    encoder(100.0 * windows)
    assert torch.equal(encoder(windows), first)
    one_by_one = torch.cat([encoder(window.unsqueeze(0)) for window in windows])
    torch.testing.assert_close(one_by_one, first)


def test_dropout_stands_between_layers() -> None:
    torch.manual_seed(0)
    encoder = lstm((20, 3), hidden=(30, 30, 30), dropout=0.4)
    tensor, shares = torch.randn(16, 20, 3), []
    for stage in encoder.stages:
        tensor = stage(tensor)
        shares.append((tensor == 0).float().mean().item())
    assert shares == [pytest.approx(0.4, abs=0.03), pytest.approx(0.4, abs=0.03), 0.0]
    encoder.eval()
    assert torch.equal(encoder(torch.ones(2, 20, 3)), encoder(torch.ones(2, 20, 3)))


def test_dropout_of_deep_conv_lstm_is_in_front_of_every_lstm_layer_and_the_head() -> None:
    encoder = deep_conv_lstm((24, 2), filters=(4, 4), dropout=0.3)
    rates = [[m.p for m in stage.modules() if isinstance(m, nn.Dropout)] for stage in encoder.stages]
    assert rates == [[], [0.3], [0.3], [0.3]]
    torch.manual_seed(0)
    kept = encoder.stages[:2].eval()
    windows = torch.randn(50, 24, 2)
    whole = kept[1](kept[0](windows))
    dropped = kept[1].train()(kept[0](windows))
    alive = whole > 0
    assert (dropped[alive] == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    torch.testing.assert_close(dropped[dropped > 0], (whole / 0.7)[dropped > 0])


@pytest.mark.parametrize("name", SMALL)
def test_copies_of_a_stage(name: str) -> None:
    encoder = SMALL[name]().double().eval()
    for index, stage in enumerate(encoder.stages):
        same = encoder.copy_stage(index, fresh=False)
        torch.manual_seed(3)
        fresh = encoder.copy_stage(index)
        torch.manual_seed(3)
        again = encoder.copy_stage(index)
        state = stage.state_dict()
        assert list(fresh.state_dict()) == list(state)
        for key, value in state.items():
            assert torch.equal(same.state_dict()[key], value)
            assert torch.equal(fresh.state_dict()[key], again.state_dict()[key])
            assert fresh.state_dict()[key].dtype == torch.float64
            if value.count_nonzero() > 0:  # convolutions start with biases 0
                assert not torch.equal(fresh.state_dict()[key], value)
        assert not fresh.training


@pytest.mark.parametrize("steps", ["last", "all"])
def test_mixing_per_channel_mixes_unit_by_unit(steps: str) -> None:
    """A matrix that swaps the tasks at unit 2 swaps exactly that unit, at every time step."""
    torch.manual_seed(0)
    encoder = lstm((6, 3), hidden=(5, 4), steps=steps)
    network = share("cross_stitch", encoder, TASKS.subset(["a", "b"]), per="channel", after=[1])
    assert isinstance(network, PlanNetwork)
    inputs = torch.randn(3, 6, 3)
    first, second = (stage(inputs) for stage in network.stages["lstm_0"].children())
    (unit,) = network.mixing.children()
    assert unit.alpha.shape == (5, 2, 2)
    with torch.no_grad():
        unit.alpha[2] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    mixed = network.after_stages(inputs, 1)
    for task, own, other in (("a", first, second), ("b", second, first)):
        expected = own.clone()
        expected[:, 2] = other[:, 2]
        torch.testing.assert_close(mixed[task], expected)
    last = next(iter(network.stages["lstm_1"].children()))
    torch.testing.assert_close(network.features(inputs)["a"], last(mixed["a"]))


def every_sharing(num_stages: int) -> list[tuple[str, dict[str, Any]]]:
    depths = [
        ("hard_sharing", {"stages": stages, "from": end})
        for stages in range(num_stages + 1)
        for end in ("input", "output")
    ]
    return [
        *depths,
        ("single_task", {}),
        ("cross_stitch", {"per": "layer", "start": {"same": 0.9, "other": 0.1}}),
        ("cross_stitch", {"per": "channel", "start": {"same": 0.9, "other": 0.1}}),
        ("soft_sharing", {"weight": 0.01}),
        ("soft_sharing", {"tie": "l2", "weight": 0.01}),
    ]


@pytest.mark.parametrize("name", SMALL)
def test_every_sharing_learns_and_reaches_every_parameter(name: str) -> None:
    encoder = SMALL[name]()
    for sharing, settings in every_sharing(len(encoder.stages)):
        torch.manual_seed(1)
        network = share(sharing, encoder, TASKS, head={"hidden": [4]}, **settings)
        inputs = torch.randn(6, *encoder.input_shape)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)

        def loss(network: Any = network, inputs: Tensor = inputs) -> Tensor:
            outputs = network(inputs)
            terms = [
                functional.binary_cross_entropy_with_logits(outputs["a"][:, 0], torch.arange(6) % 2.0),
                functional.cross_entropy(outputs["b"], torch.arange(6) % 3),
                functional.mse_loss(outputs["c"][:, 0], torch.arange(6) / 6),
            ]
            total: Tensor = torch.stack(terms).sum() + network.penalty()
            return total

        before = loss(network.eval()).item()
        for step in range(8):
            optimizer.zero_grad()
            loss(network.train()).backward()
            if step == 0:
                silent = [key for key, p in network.named_parameters() if p.grad is None]
                assert silent == [], (sharing, settings)
            optimizer.step()
        assert loss(network.eval()).item() < before, (sharing, settings)


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("name", SMALL)
def test_cross_stitch_at_identity_is_single_task(name: str, per: str) -> None:
    encoder = SMALL[name]().double()
    networks = []
    for sharing, settings in (("cross_stitch", {"per": per}), ("single_task", {})):
        torch.manual_seed(1)
        networks.append(share(sharing, encoder, TASKS, **settings).double().eval())
    inputs = torch.randn(4, *encoder.input_shape, dtype=torch.float64)
    mixed, single = (network(inputs) for network in networks)
    for task in TASKS:
        torch.testing.assert_close(mixed[task], single[task], rtol=1e-12, atol=1e-12)


def test_gradients_of_many_rows_at_once_equal_those_one_by_one() -> None:
    """Balancers take Jacobians by vmap."""
    torch.manual_seed(0)
    encoder = lstm((6, 3), hidden=(4, 4))
    losses = encoder(torch.randn(3, 6, 3)).square().sum(1)
    parameters = list(encoder.parameters())
    together = torch.autograd.grad(losses, parameters, torch.eye(3), is_grads_batched=True, retain_graph=True)
    for row in range(3):
        alone = torch.autograd.grad(losses[row], parameters, retain_graph=True)
        for jacobian, gradient in zip(together, alone, strict=True):
            torch.testing.assert_close(jacobian[row], gradient)


def test_all_steps_feed_a_head_per_sample() -> None:
    torch.manual_seed(0)
    encoder = lstm((7, 3), hidden=(5,), steps="all")
    network = share("hard_sharing", encoder, TASKS, stages=1, head={"per_sample": True})
    inputs = torch.randn(2, 7, 3)
    outputs = network(inputs)["b"]
    weight, bias = list(network.task_parameters("b"))
    states = network.features(inputs)
    assert isinstance(states, Tensor)
    expected = torch.einsum("nut,cu->nct", states, weight[:, :, 0]) + bias[:, None]
    torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize(
    ("name", "shape", "settings", "message"),
    [
        ("lstm", (64,), {}, r"lstm takes windows .* got an input of shape \(64,\)"),
        ("lstm", (0, 3), {}, "input_shape must be whole numbers above 0"),
        ("lstm", (64, 3), {"hidden": []}, "hidden must have at least one number"),
        (
            "lstm",
            (64, 3),
            {"hidden": [8, 0]},
            r"hidden must be a list of whole numbers above 0; got \[8, 0\]",
        ),
        ("lstm", (64, 3), {"dropout": 1.0}, "dropout must be a number from 0 to below 1; got 1.0"),
        (
            "lstm",
            (64, 3),
            {"steps": "lst"},
            "steps must be last, mean or all; got 'lst'. Did you mean `last`",
        ),
        ("lstm", (64, 3), {"bidirectional": 1}, "bidirectional must be true or false; got 1"),
        ("lstm", (64, 3), {"layers": 2}, "`layers` is not a setting of encoder lstm"),
        ("deep_conv_lstm", (3, 8, 8), {}, r"deep_conv_lstm takes windows .* shape \(3, 8, 8\)"),
        ("deep_conv_lstm", (16, 3), {}, "at least 17 samples for 4 convolutions of kernel 5; .* have 16"),
        ("deep_conv_lstm", (5, 3), {"filters": [2, 2], "kernel": 4}, "at least 7 samples for 2 conv"),
        ("deep_conv_lstm", (64, 3), {"kernel": 0}, "kernel must be a whole number above 0; got 0"),
        ("deep_conv_lstm", (64, 3), {"kernel": [5, 5]}, "kernel must be a whole number above 0"),
        ("deep_conv_lstm", (64, 3), {"filters": ()}, "filters must have at least one number"),
    ],
)
def test_bad_input(name: str, shape: tuple[int, ...], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, shape, **settings)


def test_the_shortest_window_that_fits() -> None:
    assert deep_conv_lstm((17, 2), hidden=(3,)).stage_shapes[3:] == ((64, 2, 1), (3,))
