"""GradNorm's alpha decides on which side of its target a task's gradient norm stands."""

from __future__ import annotations

import pytest

from _balancing import make, network
from taskloom.balancing.adaptive import GradNorm


@pytest.mark.parametrize(("alpha", "rises"), [(0.0, True), (1.0, True), (1.5, False), (3.0, False)])
def test_a_fast_task_is_slowed_only_where_alpha_asks_for_it(alpha: float, rises: bool) -> None:
    # Remaining losses 0.8, 1.0, 1.2 of the first ones: relative rates as they stand, mean norm 1. The norm
    # of age is 0.75, its target 0.8^alpha: 1, 0.8, 0.716 and 0.512.
    balancer = make("gradnorm", alpha=alpha, lr=0.01)
    assert isinstance(balancer, GradNorm)
    balancer.start(network())
    balancer._first = {"age": 1.0, "gender": 1.0, "mood": 1.0}
    balancer.follow({"age": 0.75, "gender": 1.0, "mood": 1.25}, {"age": 0.8, "gender": 1.0, "mood": 1.2})
    weights = balancer.report_state()
    assert (weights["weight/age"] > 1.0) is rises
    assert sum(weights.values()) == pytest.approx(3.0)
