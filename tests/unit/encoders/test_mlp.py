"""The fully connected encoder against a hand-written one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from taskloom.encoders import mlp
from taskloom.errors import ConfigError


def test_equals_a_hand_written_network() -> None:
    torch.manual_seed(0)
    encoder = mlp((5,), hidden=(7, 3), activation="tanh")
    inputs = torch.randn(4, 5)
    weights = [parameter.detach() for parameter in encoder.parameters()]
    expected = torch.tanh(torch.tanh(inputs @ weights[0].T + weights[1]) @ weights[2].T + weights[3])
    torch.testing.assert_close(encoder(inputs), expected)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 5 * 7 + 7 + 7 * 3 + 3 == 66


def test_longer_inputs_are_flattened_row_by_row() -> None:
    torch.manual_seed(0)
    encoder = mlp((2, 3), hidden=(4,))
    weight, bias = (parameter.detach() for parameter in encoder.parameters())
    inputs = torch.randn(5, 2, 3)
    torch.testing.assert_close(encoder(inputs), torch.relu(inputs.reshape(5, 6) @ weight.T + bias))


def test_dropout_is_in_training_only_and_at_its_rate() -> None:
    torch.manual_seed(0)
    encoder = mlp((4,), hidden=(2000,), dropout=0.3)
    nn.init.constant_(encoder.stages[0][0].bias, 100.0)  # no zero comes from ReLU
    inputs = torch.randn(10, 4)
    assert (encoder(inputs) == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert (encoder.eval()(inputs) == 0).sum().item() == 0


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_norm_stands_before_the_activation(norm: str) -> None:
    torch.manual_seed(0)
    outputs = mlp((4,), hidden=(50,), norm=norm, activation="leaky_relu")(torch.randn(200, 4))
    before = torch.where(outputs < 0, outputs * 100, outputs)  # leaky ReLU undone
    axis = 0 if norm == "batch" else 1
    torch.testing.assert_close(before.mean(axis), torch.zeros(before.shape[1 - axis]), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        before.std(axis, correction=0), torch.ones(before.shape[1 - axis]), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": ()}, "hidden must have at least one number"),
        ({"hidden": (3, 0)}, r"hidden must be a list of whole numbers above 0; got \(3, 0\)"),
        ({"hidden": "64"}, "hidden must be a list of whole numbers above 0; got '64'"),
        ({"hidden": (3.5,)}, "hidden must be a list of whole numbers"),
        ({"dropout": 1.0}, r"dropout must be a number from 0 to below 1; got 1\.0"),
        ({"activation": "rleu"}, r"`rleu` is not a known activation\. Did you mean `relu`\?"),
        ({"norm": "group"}, "norm must be `batch`, `layer` or left out; got 'group'"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mlp((4,), **settings)  # type: ignore[arg-type]
