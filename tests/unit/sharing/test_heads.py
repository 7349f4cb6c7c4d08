"""Heads: which layers, per sample against sample by sample, and refused settings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import taskloom as tl
from taskloom.errors import ConfigError
from taskloom.sharing import HeadSpec
from taskloom.sharing.heads import head_specs

TASKS = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))


def test_layers_in_order() -> None:
    head = HeadSpec((8, 4), activation="tanh", dropout=0.3, norm="batch").build((5, 2), 3)
    hidden = [nn.BatchNorm1d, nn.Tanh, nn.Dropout]
    assert [type(layer) for layer in head] == [
        nn.Flatten,
        nn.Linear,
        *hidden,
        nn.Linear,
        *hidden,
        nn.Linear,
    ]
    assert [(m.in_features, m.out_features) for m in head if isinstance(m, nn.Linear)] == [
        (10, 8),
        (8, 4),
        (4, 3),
    ]


def test_a_linear_read_out_is_one_matrix() -> None:
    head = HeadSpec().build((5,), 3)
    inputs = torch.randn(4, 5)
    (layer,) = head
    torch.testing.assert_close(head(inputs), inputs @ layer.weight.T + layer.bias)


def test_per_sample_is_the_same_head_at_every_sample() -> None:
    head = HeadSpec((6,), per_sample=True).build((5, 9), 3)
    features = torch.randn(4, 5, 9)
    first, second = head[0], head[2]
    at_one = torch.relu(features[:, :, 7] @ first.weight[..., 0].T + first.bias)
    expected = at_one @ second.weight[..., 0].T + second.bias
    outputs = head(features)
    assert outputs.shape == (4, 3, 9)
    torch.testing.assert_close(outputs[:, :, 7], expected)


def test_a_head_for_each_task() -> None:
    one = head_specs({"hidden": [7], "dropout": 0.1}, TASKS)
    assert one == {"a": HeadSpec((7,), dropout=0.1), "b": HeadSpec((7,), dropout=0.1)}
    each = head_specs({"a": HeadSpec((3,)), "b": {"hidden": 2}}, TASKS)
    assert each == {"a": HeadSpec((3,)), "b": HeadSpec((2,))}
    assert head_specs({"a": {"hidden": [3]}}, TASKS)["b"] == HeadSpec()
    assert head_specs(None, TASKS) == {"a": HeadSpec(), "b": HeadSpec()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hiden": [3]}, r"head.hiden is not a setting. Did you mean `hidden`\? Settings of head: hidden"),
        ({"hidden": [0]}, r"head.hidden: whole numbers above 0 expected, found \[0\]"),
        ({"hidden": "64"}, "head.hidden"),
        ({"hidden": None}, "head.hidden"),
        ({"activation": ["relu"]}, r"head\.activation: `\['relu'\]` is not known"),
        ({"activation": "rely"}, r"`rely` is not known. Did you mean `relu`\?"),
        ({"dropout": 1.0}, r"head.dropout: a number in \[0, 1\) expected, found 1.0"),
        ({"norm": "layer"}, "head.norm"),
        ({"a": {"hidden": [3]}, "c": {}}, "head.c is neither a task nor a setting"),
        (["hidden"], "head: settings by name expected"),
    ],
)
def test_refused_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        head_specs(settings, TASKS)


def test_per_sample_needs_features_per_sample() -> None:
    with pytest.raises(ConfigError, match=r"must give \[N, F, W\].*shape \(5,\)"):
        HeadSpec(per_sample=True).build((5,), 3)
