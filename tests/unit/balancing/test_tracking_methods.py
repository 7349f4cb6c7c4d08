"""MoCo, DB-MTL, SDMGrad's direction and UW-SO against naive loops, closed forms and SciPy."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from _balancing import batch, jacobian, losses_of, make, network, step, task_gradients, weigh
from _training import TASKS
from taskloom.balancing import GradientAggregation, build
from taskloom.balancing.solvers import min_norm
from taskloom.balancing.tracking import EqualLengths, MoCo, Tracking, onto_simplex
from taskloom.balancing.weightings import direction_oriented
from taskloom.errors import ConfigError, TrainingError
from taskloom.losses import SumCount, weighted
from taskloom.tasks import TaskSet

Array = NDArray[np.float64]

TRACKING: list[tuple[str, dict[str, Any]]] = [("moco", {"gamma": 2.0}), ("db_mtl", {"beta": 0.6})]


def rows_of(num_tasks: int, seed: int, columns: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(num_tasks, columns, generator=draw, dtype=torch.float64)


def on_simplex(objective: Any, size: int, total: float = 1.0) -> Array:
    found = minimize(
        objective,
        np.full(size, total / size),
        method="SLSQP",
        bounds=[(0, None)] * size,
        constraints={"type": "eq", "fun": lambda w: w.sum() - total},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    solution: Array = found.x
    return solution


# -- the projection


def test_the_projection_is_the_nearest_point() -> None:
    draw = np.random.default_rng(0)
    for total in (1.0, 0.3):
        for size in (1, 2, 3, 7):
            for _ in range(5):
                values = draw.normal(size=size) * draw.choice([0.1, 1.0, 10.0])
                found = onto_simplex(values, total)
                assert found.min() >= 0
                assert found.sum() == pytest.approx(total)
                expected = on_simplex(lambda w, v=values: ((w - v) ** 2).sum(), size, total)
                np.testing.assert_allclose(found, expected, atol=2e-6)


# -- MoCo


def test_moco_is_the_naive_loop() -> None:
    """Algorithm 1 with what is not in a batch left as it is."""
    beta, gamma, rho, decay = 0.6, 0.2, 0.1, 0.5
    method = MoCo(beta, gamma, rho, decay)
    method.start(3, 0)
    tracked, weights, seen = np.zeros((3, 5)), np.full(3, 1 / 3), [0, 0, 0]
    for number, index in enumerate(([0, 1, 2], [0, 2], [0, 1, 2], [1], [2, 1]), start=1):
        given = rows_of(len(index), number)
        for row, task in zip(given.numpy(), index, strict=True):
            seen[task] += 1
            share = beta / seen[task] ** decay
            tracked[task] = tracked[task] - share * (tracked[task] - row)
        here, total = weights[index], weights[index].sum()
        slope = np.array(
            [sum(tracked[i] @ tracked[j] * weights[j] for j in index) + rho * weights[i] for i in index]
        )
        here = onto_simplex(here - gamma / number**decay * slope, total)
        weights[index] = here
        expected = sum(weights[task] / total * tracked[task] for task in index)
        np.testing.assert_allclose(method.aggregate(given, index), expected, rtol=1e-10, atol=1e-12)
        assert weights.sum() == pytest.approx(1.0)


def test_moco_comes_to_the_weights_of_mgda_where_gradients_stay() -> None:
    """Orthogonal gradients of lengths a and b: b^2 / (a^2 + b^2), whatever noise stood in the first ones."""
    method = MoCo(0.5, 0.05, 0.0, 0.0)
    method.start(2, 0)
    method.aggregate(rows_of(2, 0, 2), [0, 1])
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    for _ in range(300):
        update = method.aggregate(rows, [0, 1])
    torch.testing.assert_close(update, torch.tensor([0.8, 0.4], dtype=torch.float64))


def test_averages_lose_noise() -> None:
    """The mean of k independent gradients has 1/k of their variance: beta 1 and decay 1 make that mean."""
    method = MoCo(1.0, 1e-9, 0.0, 1.0)
    method.start(1, 0)
    rows = [rows_of(1, seed) for seed in range(6)]
    for row in rows:
        update = method.aggregate(row, [0])
    torch.testing.assert_close(update, torch.cat(rows).mean(0))


def test_weights_of_tasks_that_come_back_go_on() -> None:
    method = MoCo(1.0, 10.0, 0.0, 0.0)
    method.start(3, 0)
    method.aggregate(torch.diag(torch.tensor([9.0, 9.0, 0.1])).double(), [0, 1, 2])  # all on the third
    np.testing.assert_allclose(method._weights, [0, 0, 1], atol=1e-12)
    alone = method.aggregate(torch.eye(3, dtype=torch.float64)[:2], [0, 1])  # nothing is left for these two
    torch.testing.assert_close(alone, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    np.testing.assert_allclose(method._weights, [0, 0, 1], atol=1e-12)


# -- DB-MTL


@pytest.mark.parametrize("absent", [(), ("gender",)])
def test_db_mtl_is_the_sum_of_logarithms_with_gradients_made_as_long(absent: tuple[str, ...]) -> None:
    model, rows = network(), batch(absent=absent)
    there = [task for task in TASKS if task not in absent]
    names = [name for name, _ in model.named_parameters() if name.startswith("stages.dense_0")]
    by_task = {}
    for task in there:
        model.zero_grad()
        (losses_of(model, rows)[task].mean + 1e-8).log().backward()
        by_task[task] = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                         for n, p in model.named_parameters()}  # fmt: skip
    matrix = jacobian(by_task, names)
    lengths = matrix.norm(dim=1)
    shared = (matrix * (lengths.max() / lengths)[:, None]).sum(0)
    balancer = make("db_mtl", beta=0.0)
    balancer.start(model)
    found = step(balancer, model, rows)
    torch.testing.assert_close(
        torch.cat([found[name].flatten() for name in names]), shared, rtol=1e-5, atol=1e-7
    )
    for name, gradient in found.items():
        if name not in names:
            expected = torch.stack([gradients[name] for gradients in by_task.values()]).sum(0)
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    logs = sum(float((losses_of(model, rows)[task].mean.detach() + 1e-8).log()) for task in there)
    assert balancer.total is not None
    assert float(balancer.total) == pytest.approx(logs, rel=1e-5)


def test_a_task_of_weight_0_has_no_logarithm_in_the_total() -> None:
    silent = TaskSet(*(dataclasses.replace(task, role="auxiliary", weight=0.0) if name == "mood" else task
                       for name, task in TASKS.items()))  # fmt: skip
    model, balancer = network(tasks=silent), make("db_mtl")
    balancer.start(model)
    losses = losses_of(model, batch())
    balancer.backward(weighted(losses, silent), model)
    means = {task: float(loss.mean.detach()) for task, loss in losses.items()}
    assert balancer.total is not None
    assert float(balancer.total) == pytest.approx(
        math.log(means["age"]) + math.log(means["gender"]), rel=1e-5
    )


def test_averages_of_db_mtl_are_the_naive_loop() -> None:
    method = EqualLengths(0.8, 0.5)
    method.start(3, 0)
    tracked, seen = np.zeros((3, 5)), [0, 0, 0]
    for number, index in enumerate(([0, 1, 2], [0, 2], [2, 1, 0], [1]), start=1):
        given = rows_of(len(index), number)
        for row, task in zip(given.numpy(), index, strict=True):
            seen[task] += 1
            tracked[task] = row + 0.8 / seen[task] ** 0.5 * (tracked[task] - row)
        lengths = [np.linalg.norm(tracked[task]) for task in index]
        expected = sum(max(lengths) / length * tracked[t] for t, length in zip(index, lengths, strict=True))
        np.testing.assert_allclose(method.aggregate(given, index), expected, rtol=1e-10, atol=1e-12)


def test_a_gradient_of_zeros_stays_zero() -> None:
    method = EqualLengths(0.0, 0.0)
    method.start(2, 0)
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    assert method.aggregate(rows, [0, 1]).tolist() == [3.0, 4.0]


def test_db_mtl_does_not_hear_how_large_losses_are() -> None:
    """Losses times a number have logarithms that differ by a constant: the update is the same."""
    model, rows, found = network().double(), batch(), []
    rows.inputs = rows.inputs.double()
    for factor in (1.0, 50.0):
        balancer = make("db_mtl")
        balancer.start(model)
        model.zero_grad()
        losses = losses_of(model, rows)
        losses["age"] = SumCount(losses["age"].sum * factor, losses["age"].count)
        balancer.backward(losses, model)
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-9)


def test_db_mtl_refuses_a_loss_below_0_by_its_name() -> None:
    model, balancer = network(), make("db_mtl")
    balancer.start(model)
    losses = losses_of(model, batch())
    losses["mood"] = SumCount(losses["mood"].sum - 1000.0, losses["mood"].count)
    with pytest.raises(TrainingError, match="db_mtl: the gradient of task mood is not finite at step 1"):
        balancer.backward(losses, model)


# -- what both remember


def trained(balancer: Any, model: Any, seeds: range, factors: list[float] | None = None) -> list[Tensor]:
    """Steps of a loop of one's own; the update of the last one, without the factor of 16-bit precision."""
    for seed in seeds:
        factor = 1.0 if factors is None else factors[seed]
        if factors is not None:
            balancer.scale = lambda tensor, factor=factor: tensor * factor
        found = step(balancer, model, batch(seed=seed))
    return [gradient / factor for gradient in found.values()]


@pytest.mark.parametrize(("name", "settings"), [*TRACKING, ("excess_mtl", {})])
def test_rows_are_remembered_without_the_factor_of_16_bit_precision(
    name: str, settings: dict[str, Any]
) -> None:
    """A scaler changes its factor between steps; averages of scaled gradients would mix them."""
    plain, scaled, model = build(name, settings), build(name, settings), network()
    plain.start(model)
    scaled.start(model)
    expected = trained(plain, model, range(1, 4))
    found = trained(scaled, model, range(1, 4), [1.0, 1024.0, 64.0, 2.0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "settings"), TRACKING)
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumed_after_any_step(name: str, settings: dict[str, Any], stop: int) -> None:
    model = network()
    through, stopped, resumed = (build(name, settings) for _ in range(3))
    for balancer in (through, stopped, resumed):
        balancer.start(model)
    trained(stopped, model, range(stop))
    trained(resumed, model, range(5, 7))  # what it remembers of another life must go
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    trained(stopped, model, range(7, 9))  # the state is a copy
    expected = trained(through, model, range(5))
    assert all(
        torch.equal(one, other)
        for one, other in zip(trained(resumed, model, range(stop, 5)), expected, strict=True)
    )
    anew = build(name, settings)
    anew.start(model)
    forgot = trained(anew, model, range(stop, 5))
    assert not all(torch.equal(one, other) for one, other in zip(forgot, expected, strict=True))


@pytest.mark.parametrize("method", [MoCo(0.5, 0.1, 0.0, 0.5), EqualLengths(0.9, 0.0)])
def test_a_network_that_has_changed_begins_anew(method: Tracking) -> None:
    method.start(2, 0)
    method.aggregate(rows_of(2, 1, 7), [0, 1])
    found = method.track(rows_of(2, 2, 5), [0, 1])
    assert found.shape == (2, 5)
    torch.testing.assert_close(found, method.share(1) * rows_of(2, 2, 5))


# -- SDMGrad


def test_the_direction_is_scipys() -> None:
    for seed in range(12):
        size, regularizer = 2 + seed % 4, (0.0, 0.3, 2.0)[seed % 3]
        rows = rows_of(size, seed).numpy()
        gramian, mean = rows @ rows.T, rows.mean(0)
        found = direction_oriented(gramian, regularizer)
        shifted = rows + regularizer * mean  # weights sum to 1
        weights = on_simplex(lambda w, shifted=shifted: ((w @ shifted) ** 2).sum(), size)
        expected = (weights @ rows + regularizer * mean) / (1 + regularizer)
        np.testing.assert_allclose(found @ rows, expected, atol=2e-5)
        assert found.sum() == pytest.approx(1.0)


def test_the_direction_lies_between_mgda_and_the_mean() -> None:
    rows = rows_of(3, 4).numpy()
    gramian = rows @ rows.T
    np.testing.assert_allclose(direction_oriented(gramian, 0.0), min_norm(gramian))
    np.testing.assert_allclose(direction_oriented(gramian, 1e6), np.full(3, 1 / 3), atol=1e-5)
    # Orthogonal gradients of squared lengths a and b: b / (a + b), kept lambda / (2 (1 + lambda)) from 0.
    for lambda_, expected in ((0.1, 0.9), (0.25, 0.9), (1.0, 0.75)):
        found = direction_oriented(np.diag([1.0, 9.0]), lambda_)
        np.testing.assert_allclose(found, [expected, 1 - expected], atol=1e-9)


def test_sdmgrad_of_a_network_is_its_direction() -> None:
    model, rows = network(), batch()
    names = [name for name, _ in model.named_parameters() if name.startswith("stages.dense_0")]
    matrix = jacobian(task_gradients(model, rows), names)
    balancer = make("sdmgrad", **{"lambda": 0.5})
    balancer.start(model)
    found = step(balancer, model, rows)
    gramian = (matrix.double() @ matrix.double().T).numpy()
    expected = torch.from_numpy(direction_oriented(gramian, 0.5)).float() @ matrix
    torch.testing.assert_close(
        torch.cat([found[name].flatten() for name in names]), expected, rtol=1e-4, atol=1e-6
    )


# -- UW-SO


def test_weights_are_the_softmax_of_inverse_losses() -> None:
    balancer = build("uw_so", {"temperature": 2.0})
    balancer.start(network())
    powers = np.exp(np.array([1 / 0.5, 1 / 4.0, 1 / 1.0]) / 2.0)
    np.testing.assert_allclose(weigh(balancer, [0.5, 4.0, 1.0]).weights, powers / powers.sum())
    powers[1] = 0.0  # no label in the batch
    found = weigh(balancer, [0.5, 0.0, 1.0], [True, False, True]).weights
    np.testing.assert_allclose(found, powers / powers.sum())
    np.testing.assert_allclose(weigh(balancer, [0.0, 4.0, 1.0]).weights, [1, 0, 0])  # a loss of 0 is no error
    assert not weigh(balancer, [0.0] * 3, [False] * 3).weights.any()


def test_uw_so_is_the_solution_that_uncertainty_goes_to() -> None:
    """Of L / s + log s the best s is L, which makes the weight 1 / L; weights differ as that does."""
    balancer = build("uw_so", {"temperature": 1e4})  # nearly equal weights, which differ by 1 / L
    balancer.start(network())
    weights = weigh(balancer, [0.2, 0.5, 1.0]).weights
    slopes = (3 * weights - 1) * 1e4
    inverses = np.array([5.0, 2.0, 1.0])
    np.testing.assert_allclose(slopes, inverses - inverses.mean(), rtol=1e-2)


def test_the_weights_have_no_slope() -> None:
    model, rows = network(), batch()
    alone = task_gradients(model, rows)
    means = {task: float(loss.mean.detach()) for task, loss in losses_of(model, rows).items()}
    balancer = make("uw_so")
    balancer.start(model)
    found = step(balancer, model, rows)
    powers = {task: np.exp(1 / mean) for task, mean in means.items()}
    for name, gradient in found.items():
        expected = sum(powers[t] / sum(powers.values()) * alone[t][name] for t in TASKS)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("moco", {"beta": 0.0}, r"balancing\.moco\.beta"),
        ("moco", {"beta": 1.5}, r"balancing\.moco\.beta"),
        ("moco", {"gamma": 0}, r"balancing\.moco\.gamma"),
        ("moco", {"rho": -1}, r"balancing\.moco\.rho"),
        ("moco", {"decay": -0.5}, r"balancing\.moco\.decay"),
        ("moco", {"at": "features"}, r"balancing\.moco\.at is not a setting"),
        ("db_mtl", {"beta": 1.0}, r"balancing\.db_mtl\.beta"),
        ("db_mtl", {"decay": "slow"}, r"balancing\.db_mtl\.decay"),
        ("sdmgrad", {"lambda": -0.1}, r"balancing\.sdmgrad\.lambda"),
        ("sdmgrad", {"niter": 20}, r"balancing\.sdmgrad\.niter is not a setting"),
        ("uw_so", {"temperature": 0}, r"balancing\.uw_so\.temperature"),
    ],
)
def test_refused(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(name, settings)


def test_settings_stand_in_a_checkpoint() -> None:
    balancer = build("sdmgrad", {"lambda": 0.7})
    assert isinstance(balancer, GradientAggregation)
    assert balancer.settings()["lambda"] == 0.7
    assert build("uw_so", {"temperature": 3}).settings()["temperature"] == 3
