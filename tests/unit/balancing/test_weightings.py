"""Weights from Gramians: closed forms of two tasks, pinned numbers, TorchJD's own results, invariances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchjd.aggregation as torchjd
from numpy.typing import NDArray

from taskloom.balancing import BALANCERS, GradientAggregation, build
from taskloom.balancing.method import Weighting
from taskloom.balancing.methods import GradDrop
from taskloom.balancing.solvers import SolverError
from taskloom.balancing.torchjd_methods import TorchJDWeighting
from taskloom.balancing.weightings import GradVac, NashMTL, PCGrad, Smoothed

Array = NDArray[np.float64]


def weighting(name: str, num_tasks: int = 3, seed: int = 0, **settings: Any) -> Weighting:
    balancer = build(name, settings)
    assert isinstance(balancer, GradientAggregation)
    method = balancer._method
    assert isinstance(method, Weighting)
    method.start(num_tasks, seed)
    return method


def jacobian(size: int, columns: int = 7, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(size, columns))


def weigh(name: str, rows: Array, **settings: Any) -> Array:
    return weighting(name, len(rows), **settings).weights(rows @ rows.T, range(len(rows)))


def conflicting(size: int, seed: int) -> Array:
    """Rows of which some conflict, yet one direction helps all."""
    rows = jacobian(size, 7, seed)
    rows[:, 0] = np.abs(rows[:, 0]) + 0.5
    rows[1, 1:] = -rows[0, 1:]
    return rows


# -- closed forms of two tasks


def test_pcgrad_of_two() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 1.0]])
    # g1 - (g1.g2 / ||g2||^2) g2 + g2 - (g1.g2 / ||g1||^2) g1, with g1.g2 = -1.
    np.testing.assert_allclose(weigh("pcgrad", rows) @ rows, [1 - 0.5 + 0, 0.5 + 1])
    agreeing = np.array([[1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(weigh("pcgrad", agreeing), [1, 1])


def test_nash_of_two_and_its_limit_of_length() -> None:
    rows = np.array([[3.0, 0.0], [0.0, 0.5]])
    # w_i = 1 / ||g_i|| up to a factor: both tasks gain equally; the Frobenius norm of G is sqrt(81.0625 ...).
    free = weigh("nash_mtl", rows, max_norm=0)
    assert free[0] / free[1] == pytest.approx(0.5 / 3)
    frobenius = np.sqrt(81 + 0.0625)
    np.testing.assert_allclose(free, np.sqrt(frobenius) / np.array([3, 0.5]))
    limited = weigh("nash_mtl", rows, max_norm=1.0)
    assert np.linalg.norm(limited @ rows) == pytest.approx(1.0)
    np.testing.assert_allclose(limited / limited[0], free / free[0])


def test_imtl_g_and_config_of_two() -> None:
    rows = np.array([[2.0, 0.0], [0.0, 1.0]])
    update = weigh("imtl_g", rows) @ rows
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    projections = units @ update
    assert projections[0] == pytest.approx(projections[1])
    assert weigh("imtl_g", rows).sum() == pytest.approx(1)
    # Equal cosines: the bisector; its length is the sum of projections, (2 + 1) / sqrt 2.
    np.testing.assert_allclose(weigh("config", rows) @ rows, [1.5, 1.5])


PINNED = {
    "upgrad": [0.292902, 1.900352, 1.900352],  # TorchJD's documentation has this one
    "dualproj": [0.556316, 1.110921, 1.110921],
    "mgda": [0.0, 1.0, 1.0],
    "pcgrad": [0.584795, 3.80117, 3.80117],
    "cagrad": [0.183503, 1.204124, 1.204124],
    "gradvac": [0.584795, 3.80117, 3.80117],
    "imtl_g": [0.076697, 1.0, 1.0],
    "nash_mtl": [0.054153, 0.706069, 0.706069],
    "fairgrad": [0.076584, 0.998533, 0.998533],
    "aligned_mtl": [0.213279, 0.967333, 0.967333],
    "config": [0.158809, 2.070607, 2.070607],
}


@pytest.mark.parametrize("name", PINNED)
def test_pinned_update(name: str) -> None:
    # Checked once against TorchJD 0.18 with quadprog, ECOS and Clarabel installed: equal to 4 digits.
    rows = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    np.testing.assert_allclose(weigh(name, rows) @ rows, PINNED[name], atol=2e-6)


# -- against TorchJD


def torch_weights(module: Any, rows: Array) -> Array:
    result: Array = module(torch.from_numpy(rows @ rows.T)).numpy()
    return result


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_pcgrad_is_torchjds(size: int, seed: int) -> None:
    rows = conflicting(size, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = torch_weights(torchjd.PCGradWeighting(), rows)
    ours = PCGrad()
    ours.start(size, seed)
    np.testing.assert_allclose(ours.weights(rows @ rows.T, range(size)), expected)


def test_gradvac_is_torchjds_over_steps() -> None:
    ours, theirs = GradVac(0.5), torchjd.GradVacWeighting(beta=0.5)
    ours.start(4, 5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for seed in range(5):
            rows = conflicting(4, seed)
            found = ours.weights(rows @ rows.T, range(4))
            np.testing.assert_allclose(found, torch_weights(theirs, rows), rtol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_fairgrad_is_torchjds(alpha: float) -> None:
    rows = conflicting(4, 1)
    expected = torch_weights(torchjd.FairGradWeighting(alpha=alpha), rows)
    np.testing.assert_allclose(weigh("fairgrad", rows, alpha=alpha), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "aggregator"),
    [("config", torchjd.ConFIG()), ("imtl_g", torchjd.IMTLG()), ("aligned_mtl", torchjd.AlignedMTL())],
)
@pytest.mark.parametrize("seed", range(3))
def test_updates_are_torchjds(name: str, aggregator: Any, seed: int) -> None:
    rows = conflicting(4, seed)
    expected = aggregator(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(weigh(name, rows) @ rows, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
@pytest.mark.parametrize("columns", [2, 7])  # rank 2 and 4
def test_aligned_mtl_is_torchjds_with_every_scale(scale: Any, columns: int) -> None:
    rows = jacobian(4, columns)
    expected = torchjd.AlignedMTL(scale_mode=scale)(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(weigh("aligned_mtl", rows, scale=scale) @ rows, expected, rtol=1e-6)


def test_mgda_is_at_least_as_short_as_torchjds() -> None:
    rows = conflicting(6, 0) * np.array([[1], [3], [0.3], [1], [2], [5]])
    lengths = [np.linalg.norm(weigh("mgda", rows, solver=solver) @ rows) for solver in ("own", "torchjd")]
    assert lengths[0] <= lengths[1] + 1e-12
    assert lengths[0] == pytest.approx(lengths[1], rel=0.02)


@pytest.mark.parametrize("name", ["upgrad", "dualproj", "cagrad"])
def test_own_solvers_equal_those_with_extras(name: str) -> None:
    pytest.importorskip("cvxpy" if name == "cagrad" else "quadprog", reason="the extra is not installed")
    for seed in range(3):
        rows = conflicting(4, seed)
        own, theirs = (weigh(name, rows, solver=solver) @ rows for solver in ("own", "torchjd"))
        np.testing.assert_allclose(own, theirs, rtol=2e-3, atol=1e-4)
        if name == "cagrad":  # Clarabel stops a little short: the worst-off task gains more by ours
            assert (rows @ own).min() >= (rows @ theirs).min() - 1e-9


def test_graddrop_is_torchjds(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.from_numpy(jacobian(3, 200)).float()
    rows[:, :20], rows[:, 20:40] = rows[:, :20].abs(), -rows[:, 20:40].abs()
    rows[:, 40:45] = 0
    ours = GradDrop(leak=0.0)
    ours.start(3, 7)
    drawn = ours._drawn(200)
    ours.start(3, 7)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: (drawn + 1) / 2)  # theirs lie between 0 and 1
    torch.testing.assert_close(ours.aggregate(rows, range(3)), torchjd.GradDrop()(rows))
    # A leak of 1 lets everything pass.
    torch.testing.assert_close(GradDrop(leak=1.0).aggregate(rows, range(3)), rows.sum(0))
    half = GradDrop(leak=0.5)
    half.start(3, 7)
    expected = (torchjd.GradDrop()(rows) + rows.sum(0)) / 2
    torch.testing.assert_close(half.aggregate(rows, range(3)), expected)


def test_graddrop_keeps_the_positive_sign_as_often_as_its_share() -> None:
    method = GradDrop(leak=0.0)
    method.start(3, 0)
    number = 400_000
    column = torch.tensor([3.0, -1.0, 0.5])
    kept = method.aggregate(column[:, None].expand(3, number).contiguous(), range(3))
    assert {*kept.tolist()} == {3.5, -1.0}
    share = 3.5 / 4.5
    deviation = (share * (1 - share) / number) ** 0.5
    assert (kept > 0).double().mean().item() == pytest.approx(share, abs=4 * deviation)


def test_graddrop_draws_the_same_from_the_same_seed_in_every_version() -> None:
    """A resumed run goes on as it began: what a seed draws is part of what a checkpoint says."""
    method = GradDrop(leak=0.0)
    method.start(3, 7)
    places = [-6972, 14898, -3921, 5000, 10742, 20904]
    assert method._drawn(6).tolist() == [(place + 0.5) / 2**15 for place in places]
    rows = torch.tensor([[1.0, -2.0, 3.0, -1.0], [-1.0, 1.0, -2.0, 4.0], [0.5, 0.5, 0.5, -0.5]])
    method.start(3, 7)
    assert method.aggregate(rows, range(3)).tolist() == [1.5, -2.0, 3.5, 4.0]


def test_graddrop_draws_every_number_of_its_16_bits_equally_often() -> None:
    method = GradDrop(leak=0.0)
    method.start(1, 3)
    number = 1 << 22
    drawn = method._drawn(number)
    places = ((drawn + 1) * 2**15 - 0.5).to(torch.int64)
    counts = torch.bincount(places, minlength=1 << 16).double()
    assert len(counts) == 1 << 16
    expected = number / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi_square - len(counts)) < 5 * (2 * len(counts)) ** 0.5
    # Nor do the four of one draw know of each other.
    pairs = drawn.view(-1, 4).double()
    assert torch.corrcoef(pairs.T).triu(1).abs().max().item() < 5 / (number / 4) ** 0.5


# -- what each method promises

NON_CONFLICTING = ["upgrad", "dualproj", "mgda", "nash_mtl", "fairgrad", "config"]


@pytest.mark.parametrize("name", NON_CONFLICTING)
@pytest.mark.parametrize("seed", range(3))
def test_update_conflicts_with_no_task(name: str, seed: int) -> None:
    rows = conflicting(4, seed)
    update = weigh(name, rows) @ rows
    # TorchJD's regularisation of 1e-4 leaves a conflict of that order.
    assert (rows @ update).min() > -1e-3 * np.linalg.norm(rows) * np.linalg.norm(update)


PERMUTED = ["upgrad", "dualproj", "mgda", "cagrad", "imtl_g", "nash_mtl", "fairgrad", "aligned_mtl", "config"]


@pytest.mark.parametrize("name", PERMUTED)
def test_order_of_tasks_does_not_matter(name: str) -> None:
    rows = conflicting(5, 2)
    order = [3, 0, 4, 2, 1]
    np.testing.assert_allclose(
        weigh(name, rows[order]) @ rows[order], weigh(name, rows) @ rows, rtol=1e-5, atol=1e-8
    )


EQUIVARIANT = ["upgrad", "dualproj", "mgda", "cagrad", "imtl_g", "pcgrad", "aligned_mtl", "config", "gradvac"]


@pytest.mark.parametrize("name", EQUIVARIANT)
@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_update_scales_with_the_gradients(name: str, factor: float) -> None:
    rows = conflicting(4, 1)
    expected = factor * weigh(name, rows) @ rows
    np.testing.assert_allclose(
        weigh(name, factor * rows) @ (factor * rows), expected, rtol=1e-4, atol=1e-7 * factor
    )


@pytest.mark.parametrize("name", ["nash_mtl", "config"])
def test_direction_does_not_change_with_the_scale_of_one_task(name: str) -> None:
    rows = conflicting(4, 1)
    scaled = rows * np.array([[1.0], [10.0], [0.1], [3.0]])
    updates = [weigh(name, given) @ given for given in (rows, scaled)]
    first, second = (update / np.linalg.norm(update) for update in updates)
    np.testing.assert_allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("name", ["mgda", "config"])
def test_a_task_given_twice_changes_nothing(name: str) -> None:
    # The hull of the gradients is the same; so is the direction of equal cosines (its length counts tasks).
    rows = conflicting(4, 3)
    twice = np.vstack([rows, rows[1]])
    update, again = weigh(name, rows) @ rows, weigh(name, twice) @ twice
    np.testing.assert_allclose(
        again / np.linalg.norm(again), update / np.linalg.norm(update), rtol=1e-4, atol=1e-6
    )


def test_one_task_gets_its_own_gradient() -> None:
    rows = jacobian(1)
    for name in ("upgrad", "dualproj", "mgda", "pcgrad", "gradvac", "imtl_g", "aligned_mtl", "config"):
        np.testing.assert_allclose(weigh(name, rows), [1.0], rtol=1e-6, err_msg=name)


# -- memory by task


def test_memory_stays_with_its_task() -> None:
    # Task 1 is absent from the second step; the third step must see its targets as the first one left them.
    rows, with_memory = conflicting(3, 0), GradVac(0.5)
    with_memory.start(3, 0)
    with_memory.weights(rows @ rows.T, [0, 1, 2])
    before = with_memory.state_dict()["targets"].clone()
    part = rows[[0, 2]]
    with_memory.weights(part @ part.T, [0, 2])
    after = with_memory.state_dict()["targets"]
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[:, 1], before[:, 1])
    assert not torch.equal(after[0, 2], before[0, 2])


def test_smoothed_weights_are_the_recursion() -> None:
    smoothed = Smoothed(weighting("mgda"), 0.9)
    smoothed.start(3, 0)
    expected = None
    for seed in range(4):
        rows = jacobian(3, seed=seed)
        new = weigh("mgda", rows)
        expected = new if expected is None else 0.9 * expected + 0.1 * new
        np.testing.assert_allclose(smoothed.weights(rows @ rows.T, range(3)), expected)


def test_nash_keeps_its_weights_between_solutions() -> None:
    method = NashMTL(max_norm=0.0, update_every=2)
    method.start(2, 0)
    first = method.weights(np.diag([1.0, 4.0]), [0, 1])
    np.testing.assert_array_equal(method.weights(np.diag([9.0, 1.0]), [0, 1]), first)
    assert not np.allclose(method.weights(np.diag([9.0, 1.0]), [0, 1]), first)


def test_a_method_with_memory_in_torchjd_wants_every_task() -> None:
    method = TorchJDWeighting(torchjd.PCDWeighting(), remembers=True)
    method.start(3, 0)
    with pytest.raises(SolverError, match=r"needs every task in every batch, but 2 of 3"):
        method.weights(np.eye(2), [0, 2])


STATEFUL: list[tuple[str, Callable[[], Any]]] = [
    ("pcgrad", lambda: weighting("pcgrad")),
    ("gradvac", lambda: weighting("gradvac")),
    ("nash_mtl", lambda: weighting("nash_mtl", update_every=3)),
    ("pcd", lambda: weighting("pcd")),
    ("smoothed", lambda: weighting("gradvac", smooth=0.5)),
]


@pytest.mark.parametrize(("name", "fresh"), STATEFUL, ids=[name for name, _ in STATEFUL])
def test_resumed_weighting_equals_one_that_went_on(name: str, fresh: Callable[[], Any]) -> None:
    def weights(method: Any, seed: int) -> Array:
        rows = conflicting(3, seed)
        return np.asarray(method.weights(rows @ rows.T, range(3)))

    through, stopped, resumed = fresh(), fresh(), fresh()
    for seed in range(2):
        weights(through, seed)
        weights(stopped, seed)
    weights(resumed, 99)  # what it remembers of another life must go
    resumed.load_state_dict(stopped.state_dict())
    for seed in range(2, 6):
        np.testing.assert_array_equal(weights(resumed, seed), weights(through, seed))


def test_every_gradient_method_of_torchjd_is_there() -> None:
    left_out = {"MoDo", "CRMOGM", "Constant", "Random"}  # see methods.py; CR-MOGM is `smooth`
    names = {name.removesuffix("Weighting") for name in torchjd.__all__ if name[0].isupper()}
    names -= {"Aggregator", "GramianWeightedAggregator", "WeightedAggregator", ""}
    spelled = {"Sum": "gradient_sum", "Mean": "gradient_mean", "NashMTL": "nash_mtl", "IMTLG": "imtl_g"}
    spelled |= {"AlignedMTL": "aligned_mtl", "ExcessMTL": "excess_mtl", "TrimmedMean": "trimmed_mean"}
    for name in names - left_out:
        assert spelled.get(name, name.lower()) in BALANCERS, name
