"""docs/balancing.md lists both registries: every balancer and callback with its settings and defaults."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import yaml

from taskloom.balancing import BALANCERS
from taskloom.training import CALLBACKS

PAGE = (Path(__file__).parents[2] / "docs" / "balancing.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", PAGE, flags=re.MULTILINE))
COMMON = ("at", "smooth", "solver")
"""Settings that many have; they stand without a default."""


def test_every_name_has_one_row() -> None:
    assert sorted(ROWS) == sorted([*BALANCERS, *CALLBACKS])
    assert len(re.findall(r"^\| `\w+` \|", PAGE, flags=re.MULTILINE)) == len(ROWS)


def test_settings_that_many_have_have_one_default() -> None:
    for setting in COMMON:
        found = {
            parameter.default
            for name in BALANCERS
            for key, parameter in inspect.signature(BALANCERS[name]).parameters.items()
            if key == setting
        }
        (written,) = re.findall(rf"`{setting}` \(`([\w.]+)`\)", PAGE)
        assert found == {yaml.safe_load(written)}


@pytest.mark.parametrize("name", [*BALANCERS, *CALLBACKS])
def test_its_settings_are_those_of_the_code(name: str) -> None:
    factory = BALANCERS[name] if name in BALANCERS else CALLBACKS[name]
    parameters = inspect.signature(factory).parameters
    expected = {key.removesuffix("_"): given.default for key, given in parameters.items()}
    written = [entry.partition(" ") for entry in ROWS[name].split(", ") if entry != "none"]
    assert sorted(key.strip("`") for key, _, _ in written) == sorted(expected)
    for key, _, default in written:
        value = expected[key.strip("`")]
        if key.strip("`") in COMMON:
            assert default == ""
        elif value is inspect.Parameter.empty:
            assert default == "needed"
        else:
            assert yaml.safe_load(default.strip("`")) == value
