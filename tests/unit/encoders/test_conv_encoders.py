"""conv1d and vgg5 against plain torch, their counts by formula, and bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from taskloom.encoders import build, conv1d, vgg5
from taskloom.errors import ConfigError


def test_conv1d_equals_its_layers_by_hand() -> None:
    torch.manual_seed(0)
    encoder = conv1d((32, 3), filters=(4, 5), kernel=5, pool=2).eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    state = encoder.state_dict()
    inputs = torch.randn(6, 32, 3)
    maps = inputs.transpose(1, 2)
    for stage, (convolution, norm) in enumerate([(1, 2), (0, 1)]):
        kernel = state[f"stages.{stage}.{convolution}.weight"]
        padded = functional.pad(maps, (2, 2))
        maps = torch.einsum("nctk,fck->nft", padded.unfold(2, 5, 1), kernel)
        prefix = f"stages.{stage}.{norm}."
        mean, variance = state[prefix + "running_mean"], state[prefix + "running_var"]
        maps = torch.relu((maps - mean[:, None]) / (variance[:, None] + 1e-5).sqrt())
        if stage == 0:
            maps = torch.maximum(maps[..., 0::2], maps[..., 1::2])
    torch.testing.assert_close(encoder(inputs), maps.sum(2) / 16)


def test_conv1d_counts_and_shapes() -> None:
    encoder = conv1d((256, 21))
    expected = (21 * 7 * 32 + 2 * 32) + (32 * 7 * 64 + 2 * 64) + (64 * 7 * 64 + 2 * 64)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected == 48_032
    assert encoder.stage_shapes == ((32, 128), (64, 64), (64,))


def test_conv1d_features_of_a_constant_do_not_depend_on_the_length_away_from_the_ends() -> None:
    torch.manual_seed(0)
    encoder = conv1d((64, 2), filters=(3,), kernel=1).eval()
    short, long = torch.ones(1, 64, 2), torch.ones(1, 200, 2)
    torch.testing.assert_close(encoder(short), encoder(long))


def test_conv1d_dropout_takes_whole_filters_between_blocks() -> None:
    torch.manual_seed(0)
    encoder = conv1d((64, 4), filters=(40, 8), dropout=0.5)
    outputs = encoder.stages[0](torch.randn(20, 64, 4))
    empty = (outputs == 0).all(2).float().mean().item()
    assert empty == pytest.approx(0.5, abs=0.08)
    assert not any(isinstance(module, torch.nn.Dropout1d) for module in encoder.stages[1].modules())


def test_vgg5_equals_its_layers_by_hand() -> None:
    torch.manual_seed(0)
    encoder = vgg5((3, 32, 40), filters=(4, 5)).double()
    inputs = torch.randn(3, 3, 32, 40, dtype=torch.float64)
    maps = inputs
    for stage in encoder.stages:
        weight, bias = stage.parameters()
        maps = functional.max_pool2d(torch.relu(functional.conv2d(maps, weight, bias, padding=1)), 2)
    torch.testing.assert_close(encoder(inputs), maps)


def test_vgg5_counts_and_shapes() -> None:
    encoder = vgg5()
    sizes = [3, 16, 16, 32, 32, 64]
    expected = [9 * sizes[i] * sizes[i + 1] + sizes[i + 1] for i in range(5)]
    assert [
        sum(parameter.numel() for parameter in stage.parameters()) for stage in encoder.stages
    ] == expected
    assert sum(expected) == 35_152
    assert encoder.stage_shapes == ((16, 32, 32), (16, 16, 16), (32, 8, 8), (32, 4, 4), (64, 2, 2))


@pytest.mark.parametrize(
    ("name", "shape", "settings", "message"),
    [
        ("conv1d", (64,), {}, r"conv1d takes windows .* got an input of shape \(64,\)"),
        ("conv1d", (3, 5), {}, "at least 4 samples; the windows have 3"),
        ("conv1d", (64, 5), {"kernel": 4}, "kernel must be odd"),
        ("conv1d", (64, 5), {"filters": ()}, "filters must have at least one number"),
        ("conv1d", (64, 5), {"pool": 0}, "pool must be a list of whole numbers above 0; got 0"),
        ("vgg5", (64, 64), {}, r"vgg5 takes images .* got an input of shape \(64, 64\)"),
        ("vgg5", (3, 16, 64), {}, "at least 32 x 32 pixels; the images have 16 x 64"),
        ("vgg5", (3, 64, 64), {"kernel": 2}, "kernel must be odd"),
    ],
)
def test_bad_input(name: str, shape: tuple[int, ...], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, shape, **settings)
