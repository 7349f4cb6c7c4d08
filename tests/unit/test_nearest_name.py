"""The nearest name of a misspelt one: near, a part of it, or none."""

from __future__ import annotations

import pytest

from taskloom.errors import did_you_mean

REGRESSION = ("mae", "mse", "rmse", "r2", "ccc")


@pytest.mark.parametrize(
    ("name", "valid", "expected"),
    [
        ("accurcy", REGRESSION, ""),  # three letters of seven in common, all of them c
        ("accurcy", ("ccc", "accuracy"), "accuracy"),
        ("weights", ("mean", "learned_weights"), "learned_weights"),  # a part counts, however short
        ("resnet", ("resnet18", "vgg5"), "resnet18"),
        ("rmes", REGRESSION, "rmse"),
        ("age", ("hat", "who"), ""),
    ],
)
def test_the_nearest_name(name: str, valid: tuple[str, ...], expected: str) -> None:
    assert did_you_mean(name, valid) == (f" Did you mean `{expected}`?" if expected else "")
