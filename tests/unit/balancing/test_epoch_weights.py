"""Weights per epoch against TorchJD, formulas by hand and scripted loss tables."""

from __future__ import annotations

import math

import pytest
import torch
from torchjd import scalarization

from _balancing import make, weigh
from _training import TinyNetwork
from taskloom import Landmarks, Regression
from taskloom.balancing import Balancer
from taskloom.balancing.epochs import key_metric
from taskloom.errors import ConfigError

Table = list[tuple[float | None, float | None, float | None]]


def started(name: str, **settings: object) -> Balancer:
    balancer = make(name, **settings)
    balancer.start(TinyNetwork())  # type: ignore[arg-type]
    return balancer


def run(balancer: Balancer, table: Table) -> list[list[float]]:
    """The weights that every epoch used, for a table of mean training losses."""
    used = []
    for losses in table:
        balancer.epoch_end(dict(zip(("age", "gender", "mood"), losses, strict=True)))
        used.append(list(balancer.report_state().values()))
    return used


def test_dwa_is_torchjds() -> None:
    table: Table = [(1.0, 2.0, 3.0), (0.5, 1.9, 2.0), (0.4, 1.8, 2.5), (0.39, 1.0, 2.0)]
    theirs = scalarization.DWA(temperature=2.0)
    expected = []
    for losses in table:
        values = torch.tensor(losses, requires_grad=True)
        theirs(values).backward()
        theirs.step()
        assert values.grad is not None
        expected.append(values.grad.tolist())
    for found, wanted in zip(run(started("dwa"), table), expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)


def test_dwa_takes_an_unknown_loss_for_one_that_stands_still() -> None:
    table: Table = [(1.0, 2.0, 3.0), (0.5, None, 3.0), (1.0, 1.0, 1.0)]
    half, one = math.exp(0.5 / 2), math.exp(1 / 2)
    expected = [3 * share / (half + 2 * one) for share in (half, one, one)]
    assert run(started("dwa"), table)[2] == pytest.approx(expected)


def test_prioritisation_is_the_papers_formula() -> None:
    balancer = started("dynamic_task_prioritization", gamma=2.0, alpha=0.3)
    metrics = [
        {"age": {"r2": 0.2}, "gender": {"accuracy": 0.9}, "mood": {"accuracy": 0.5}},
        {"age": {"r2": -3.0}, "gender": {"accuracy": None}, "mood": {"accuracy": 1.0}},
    ]
    for given in metrics:
        balancer.epoch_end({}, given)
    balancer.epoch_end({}, metrics[1])
    # Used in epoch 3: averages 0.3 new + 0.7 old, an r2 below 0 as 0; gender was not measured again.
    averages = [0.7 * 0.2, 0.9, 0.3 * 1.0 + 0.7 * 0.5]
    expected = [-((1 - k) ** 2) * math.log(k) for k in averages]
    assert list(balancer.report_state().values()) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="needs the metrics on validation"):
        balancer.epoch_end({})


def test_a_first_epoch_that_failed_is_forgotten_like_any_other() -> None:
    """An r2 of -1000 would have kept the largest weight for eleven epochs of an r2 of 0.9."""
    balancer = started("dynamic_task_prioritization")
    rest: dict[str, dict[str, float | None]] = {"gender": {"accuracy": 0.5}, "mood": {"accuracy": 0.5}}
    for r2 in (-1000.0, 0.9, 0.9, 0.9):
        balancer.epoch_end({}, {"age": {"r2": r2}, **rest})
    average = 0.9 * (1 - 0.5**2)
    assert balancer.report_state()["weight/age"] == pytest.approx(-(1 - average) * math.log(average))


def test_key_metrics() -> None:
    assert key_metric(Regression("age")) == "r2"
    assert key_metric(Landmarks("points", 3)) == "failure_rate"


def test_self_paced_by_hand() -> None:
    table: Table = [(1.0, 2.0, 4.0), (0.5, 1.6, 3.6), (0.4, 1.4, 3.2), (0.4, 1.4, 3.2), (0.1, 0.2, 0.4)]
    # Relative losses after epoch 2: 0.5, 0.8, 0.9. Half of the tasks (2 of 3): age = 0.8 * 1.01 = 0.808.
    weights = run(started("self_paced", growth=2.0), table)
    assert weights[0] == weights[1] == [1.0, 1.0, 1.0]
    assert weights[2] == pytest.approx([1 - 0.5 / 0.808, 1 - 0.8 / 0.808, 0.0])
    assert weights[3] == pytest.approx([1 - 0.4 / 1.616, 1 - 0.7 / 1.616, 1 - 0.8 / 1.616])
    hard = run(started("self_paced", regularizer="hard", growth=1.1), table)
    assert hard[2:] == [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]


def test_curriculum_by_plan() -> None:
    balancer = started("curriculum", order=["mood", ["age", "gender"]], every=2)
    table: Table = [(1.0, 1.0, 1.0)] * 4
    late, everyone = [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]
    assert run(balancer, table) == [late, late, everyone, everyone]


def test_curriculum_by_measured_difficulty() -> None:
    balancer = started("curriculum", order=None, measure=2)
    # Remaining after two epochs: 0.9, 0.2, 0.5: gender is easiest, then mood, then age.
    table: Table = [(1.0, 5.0, 2.0), (0.9, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)]
    used = run(balancer, table)
    assert used[:2] == [[1.0] * 3] * 2
    assert used[2:] == [[0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]


def test_weights_multiply_the_losses() -> None:
    balancer = started("curriculum", order=["mood", "age", "gender"])
    assert weigh(balancer, [3.0, 5.0, 7.0]).weights.tolist() == [0.0, 0.0, 1.0]
    assert weigh(balancer, [7.0, 3.0], index=[2, 0]).weights.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["age", "gender"], "to be named once, but mood is named nowhere"),
        (["age", "gender", "mood", "age"], "to be named once, but age is named more than once"),
        (["age", "gendre", "mood"], r"gendre: there is no such task\. Did you mean `gender`\?"),
    ],
)
def test_refuses_a_plan_that_is_none(order: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        started("curriculum", order=order)
