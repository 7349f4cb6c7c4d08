"""The networks of tables C.1 to C.8: counts by formula and as numbers, arithmetic against plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from taskloom.encoders import Encoder, build, deap_cnn, opportunity_cnn, thesis_002
from taskloom.errors import ConfigError

OPPORTUNITY_CONVOLUTIONS = (11 * 1 * 50 + 50) + (10 * 50 * 40 + 40) + (6 * 40 * 30 + 30)
OPPORTUNITY_DENSE = (3210 * 1000 + 1000) + 2 * (1000 * 1000 + 1000)
DEAP_CONVOLUTIONS = (8 * 1 * 64 + 64) + (6 * 64 * 32 + 32) + (4 * 32 * 16 + 16)


def opportunity_head(num_inputs: int, first: int, classes: int) -> int:
    return (num_inputs * first + first) + (first * 500 + 500) + (500 * classes + classes)


DEAP_HEAD = (1280 * 56 + 56) + (56 * 2 + 2)
DEAP_LONG_HEAD = (1280 * 48 + 48) + (48 * 32 + 32) + (32 * 16 + 16) + (16 * 2 + 2)

TWO_COLUMNS = (
    2 * OPPORTUNITY_CONVOLUTIONS + opportunity_head(3210, 1000, 18) + opportunity_head(3210, 1000, 6)
)
COUNTS = {
    "C.1": (OPPORTUNITY_CONVOLUTIONS + OPPORTUNITY_DENSE + opportunity_head(1000, 500, 18), 6_000_888),
    "C.2": (DEAP_CONVOLUTIONS + DEAP_HEAD, 86_810),
    "C.3": (
        OPPORTUNITY_CONVOLUTIONS
        + OPPORTUNITY_DENSE
        + opportunity_head(1000, 500, 18)
        + opportunity_head(1000, 500, 6),
        6_754_894,
    ),
    "C.4": (DEAP_CONVOLUTIONS + 2 * DEAP_LONG_HEAD, 142_196),
    "C.5": (TWO_COLUMNS, 7_490_764),
    "C.6": (2 * (DEAP_CONVOLUTIONS + DEAP_HEAD), 173_620),
    "C.7": (TWO_COLUMNS, 7_490_764),
    "C.8": (2 * (DEAP_CONVOLUTIONS + DEAP_HEAD), 173_620),
}


def num_parameters(encoder: Encoder) -> int:
    return sum(parameter.numel() for parameter in encoder.parameters())


@pytest.mark.parametrize("table", sorted(COUNTS))
def test_parameters_of_every_table(table: str) -> None:
    network = thesis_002.TABLES[table]
    shape = (64, 107) if network.encoder == "opportunity_cnn" else (128, 40)
    encoder = build(network.encoder, shape, **network.settings)
    alone = network.architecture in ("soft_sharing", "cross_stitch")
    total = num_parameters(encoder) * (len(network.classes) if alone else 1)
    for classes in network.classes:
        widths = (encoder.num_features, *thesis_002.head_hidden(table), classes)
        total += sum(given * taken + taken for given, taken in pairwise(widths))
    assert total == COUNTS[table][0] == COUNTS[table][1]
    assert f"{total:,}" in (thesis_002.__doc__ or "")


def test_layers_of_opportunity_one_by_one() -> None:
    encoder = opportunity_cnn((64, 107))
    counts = [sum(parameter.numel() for parameter in stage.parameters()) for stage in encoder.stages]
    assert counts == [600, 20_040, 7_230, 3_211_000, 1_001_000, 1_001_000]
    assert encoder.stage_names == ("conv_0", "conv_1", "conv_2", "dense_0", "dense_1", "dense_2")
    assert encoder.stage_shapes[:4] == ((50, 107, 27), (40, 107, 6), (30, 107, 1), (1000,))


def test_layers_of_deap_one_by_one() -> None:
    encoder = deap_cnn((128, 40))
    counts = [sum(parameter.numel() for parameter in stage.parameters()) for stage in encoder.stages]
    assert counts == [576, 12_320, 2_064]
    assert encoder.stage_shapes == ((64, 40, 30), (32, 40, 8), (16, 40, 2))
    assert encoder.num_features == 1280


def plain(encoder: Encoder, windows: Tensor, pools: Sequence[int]) -> Tensor:
    """The thesis' layers as written: convolution (kernel, 1), ReLU, max pooling (pool, 1) over time."""
    maps = windows.unsqueeze(1)
    parameters = [parameter for stage in encoder.stages for parameter in stage.parameters()]
    for pool in pools:
        weight, bias, *parameters = parameters
        maps = functional.max_pool2d(torch.relu(functional.conv2d(maps, weight, bias)), (pool, 1))
    maps = maps.transpose(2, 3).flatten(1) if parameters else maps.transpose(2, 3)
    while parameters:
        weight, bias, *parameters = parameters
        maps = torch.relu(maps @ weight.T + bias)
    return maps


@pytest.mark.parametrize(
    ("name", "shape", "settings", "pools"),
    [
        ("opportunity_cnn", (64, 9), {"width": 0.1, "dropout": 0.0}, (2, 3, 1)),
        ("opportunity_cnn", (70, 3), {"width": 0.1, "dense": ()}, (2, 3, 1)),
        ("deap_cnn", (128, 6), {"width": 0.2, "dense": (5,)}, (4, 3, 2)),
        ("deap_cnn", (90, 2), {"filters": (3, 4), "kernels": (5, 2), "pools": (1, 7)}, (1, 7)),
    ],
)
def test_values_and_gradients_equal_the_layers_as_written(
    name: str, shape: tuple[int, int], settings: dict[str, object], pools: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    encoder = build(name, shape, **settings).double()
    windows = torch.randn(5, *shape, dtype=torch.float64)
    outputs, expected = encoder(windows), plain(encoder, windows, pools)
    torch.testing.assert_close(outputs, expected)
    upstream = torch.randn_like(outputs)
    gradients = torch.autograd.grad(outputs, list(encoder.parameters()), upstream)
    expected_gradients = torch.autograd.grad(expected, list(encoder.parameters()), upstream)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_start_is_glorot_as_in_keras() -> None:
    torch.manual_seed(0)
    encoder = opportunity_cnn((64, 20), width=0.5)
    for stage in encoder.stages:
        parameters = dict(stage.named_parameters())
        for name, parameter in parameters.items():
            if parameter.dim() == 1:
                assert parameter.count_nonzero() == 0
                continue
            area = parameter[0, 0].numel()
            bound = (6 / ((parameter.shape[0] + parameter.shape[1]) * area)) ** 0.5
            assert parameter.abs().max().item() <= bound + 1e-7, name
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name


def test_dropout_follows_each_dense_layer_only() -> None:
    encoder = opportunity_cnn((64, 2), width=0.01)
    rates = [[m.p for m in stage.modules() if isinstance(m, torch.nn.Dropout)] for stage in encoder.stages]
    assert rates == [[], [], [], [0.4], [0.4], [0.4]]


@pytest.mark.parametrize(("samples", "fits"), [(64, True), (63, False), (10, False)])
def test_windows_that_are_too_short_are_told_the_length_they_need(samples: int, fits: bool) -> None:
    if fits:
        assert opportunity_cnn((samples, 2), width=0.02).stage_shapes[2][-1] == 1
        return
    with pytest.raises(ConfigError, match=f"windows of at least 64 samples .* the windows have {samples}"):
        opportunity_cnn((samples, 2), width=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": (3, 4)}, "filters, kernels and pools must be of one length; got 2, 3 and 3"),
        ({"kernels": (11, 10, 0)}, "kernels must be a list of whole numbers above 0"),
        ({"width": 0}, "width must be a number above 0; got 0"),
        ({"width": "half"}, "width must be a number above 0; got 'half'"),
        ({"dropout": -0.1}, "dropout must be a number from 0 to below 1"),
    ],
)
def test_bad_settings_of_the_thesis_networks(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opportunity_cnn((64, 3), **settings)  # type: ignore[arg-type]


def test_other_inputs_and_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"deap_cnn takes windows .* got an input of shape \(128,\)"):
        deap_cnn((128,))
    with pytest.raises(ConfigError, match=r"`C\.9` is not a table of thesis 002; the tables are C\.1, C\.2"):
        thesis_002.head_hidden("C.9")
