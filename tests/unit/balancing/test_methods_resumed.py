"""Methods on Gramians go on after every step of a course as if nothing had stopped them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from taskloom.balancing import GradientAggregation, build
from taskloom.balancing.method import Weighting

NUM_STEPS = 7
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("nash_mtl", {"update_every": 3}),
    ("gradvac", {}),
    ("gradvac", {"smooth": 0.5}),
    ("pcgrad", {"smooth": 0.3}),
    ("nash_mtl", {"update_every": 2, "smooth": 0.5}),
    ("pcd", {"beta": 0.5}),
]


def started(name: str, settings: dict[str, Any], seed: int) -> Weighting:
    balancer = build(name, settings)
    assert isinstance(balancer, GradientAggregation)
    assert isinstance(balancer._method, Weighting)
    balancer._method.start(3, seed)
    return balancer._method


def course() -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    draw = np.random.default_rng(3)
    jacobians = [draw.normal(size=(3, 4)) * draw.uniform(0.2, 3.0, size=(3, 1)) for _ in range(NUM_STEPS)]
    return [jacobian @ jacobian.T for jacobian in jacobians]


@pytest.mark.parametrize("stop", range(1, NUM_STEPS))
@pytest.mark.parametrize(("name", "settings"), METHODS)
def test_resumed_after_any_step(name: str, settings: dict[str, Any], stop: int) -> None:
    through, stopped = started(name, settings, 5), started(name, settings, 5)
    used = [through.weights(gramian, range(3)) for gramian in course()]
    for gramian in course()[:stop]:
        stopped.weights(gramian, range(3))
    resumed = started(name, settings, 6)
    resumed.load_state_dict(stopped.state_dict())
    for gramian, expected in zip(course()[stop:], used[stop:], strict=True):
        np.testing.assert_array_equal(resumed.weights(gramian, range(3)), expected)


def test_what_is_forgotten_would_show() -> None:
    """The course tells: a method that starts anew in its middle gives other weights."""
    for name, settings in METHODS:
        through, anew = started(name, settings, 5), started(name, settings, 6)
        used = [through.weights(gramian, range(3)) for gramian in course()]
        found = [anew.weights(gramian, range(3)) for gramian in course()[4:]]
        assert not np.array_equal(used[4:], found), (name, settings)
