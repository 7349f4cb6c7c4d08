"""Weights per epoch go on after every epoch of a scripted course as if nothing had stopped them."""

from __future__ import annotations

from typing import Any

import pytest

from _balancing import network
from taskloom.balancing import Balancer, build

# Losses and key metrics that change from epoch to epoch, so that nothing forgotten stays unnoticed.
COURSE = [
    ({"age": 9.0, "gender": 4.0, "mood": 7.0}, (0.1, 0.50, 0.30)),
    ({"age": 8.0, "gender": 1.0, "mood": 5.0}, (0.2, 0.90, None)),
    ({"age": 0.5, "gender": 0.9, "mood": 2.0}, (0.4, 0.70, 0.80)),  # now age is the easiest
    ({"age": 3.0, "gender": 0.5, "mood": 1.9}, (0.3, 0.95, 0.60)),
    ({"age": 2.0, "gender": None, "mood": 1.0}, (0.8, 0.60, 0.90)),
    ({"age": 1.0, "gender": 0.4, "mood": 0.9}, (0.9, 0.65, 0.95)),
]
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("dwa", {}),
    ("dynamic_task_prioritization", {"alpha": 0.3}),
    ("self_paced", {"growth": 1.5}),
    ("self_paced", {"regularizer": "hard", "growth": 1.2}),
    ("curriculum", {"measure": 2}),
    ("curriculum", {"measure": 1, "every": 2}),
    ("curriculum", {"order": ["mood", "age", "gender"], "every": 2}),
]


def started(name: str, settings: dict[str, Any]) -> Balancer:
    balancer = build(name, settings)
    balancer.start(network())
    return balancer


def epoch(balancer: Balancer, number: int) -> dict[str, float]:
    losses, (age, gender, mood) = COURSE[number]
    metrics = {"age": {"r2": age}, "gender": {"accuracy": gender}, "mood": {"accuracy": mood}}
    balancer.epoch_end(losses, metrics)
    return balancer.report_state()


@pytest.mark.parametrize("stop", range(1, len(COURSE)))
@pytest.mark.parametrize(("name", "settings"), METHODS)
def test_resumed_after_any_epoch(name: str, settings: dict[str, Any], stop: int) -> None:
    through, stopped = started(name, settings), started(name, settings)
    used = [epoch(through, number) for number in range(len(COURSE))]
    assert len({str(weights) for weights in used}) > 1  # the course tells
    for number in range(stop):
        epoch(stopped, number)
    resumed = started(name, settings)
    resumed.load_state_dict(stopped.state_dict())
    assert [epoch(resumed, number) for number in range(stop, len(COURSE))] == used[stop:]
