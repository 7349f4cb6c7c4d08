"""What is solved in closed form, or not at all, against the solvers that stand behind it and SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchjd.aggregation as torchjd
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from _balancing import jacobian, make, network, step, task_gradients
from _training import TASKS, rows_with_holes
from taskloom.balancing import GradientAggregation
from taskloom.balancing.conflicts import Conflicts
from taskloom.balancing.gradients import gramian as gramian_of
from taskloom.balancing.solvers import factor, least_squares, min_norm, regular, unconflicting
from taskloom.balancing.torchjd_methods import OwnProjector
from taskloom.losses import per_task

Array = NDArray[np.float64]


def gramians(count: int, sizes: tuple[int, ...]) -> list[Array]:
    """Random ones, of very different lengths, of too few columns, with equal, opposed and zero rows."""
    draw, found = np.random.default_rng(0), []
    for number in range(count):
        size = int(draw.choice(sizes))
        rows = draw.normal(size=(size, draw.integers(1, 7))) * 10.0 ** draw.integers(-3, 3, size=(size, 1))
        rows += draw.choice([0, 0, 1, -1])
        if number % 4 == 0:
            rows[0] = rows[-1] * draw.choice([1, -1, 2, 0])
        found.append(rows @ rows.T)
    return [gramian for gramian in found if np.trace(gramian) > 0]


def test_shortest_of_two_or_three_is_that_of_the_active_set() -> None:
    for gramian in gramians(600, (2, 3)):
        weights, trace, size = min_norm(gramian), np.trace(gramian), len(gramian)
        matrix = np.vstack([factor(gramian / trace), np.ones(size)])
        solution = least_squares(matrix, np.append(np.zeros(size), 1.0))
        other = solution / solution.sum()
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)
        # Weights need not be unique; the length is. And no vertex leads to a shorter vector.
        assert weights @ gramian @ weights <= other @ gramian @ other + 1e-12 * trace
        assert (gramian @ weights).min() >= weights @ gramian @ weights - 1e-9 * trace


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_upgrad_is_torchjds_and_meets_the_optimality_conditions(size: int) -> None:
    theirs = torchjd.UPGradWeighting(projector=OwnProjector())
    for gramian in gramians(40, (size,)):
        weights = unconflicting(gramian)
        np.testing.assert_allclose(weights, theirs(torch.from_numpy(gramian)), rtol=1e-6, atol=1e-9)
        # The projections one by one, by SciPy's bounded least squares: v >= u with the least v' G v.
        matrix, summed = factor(regular(gramian)), np.zeros(size)
        for target in np.eye(size) / size:
            extra = lsq_linear(matrix, -matrix @ target, (0, np.inf), method="bvls", tol=1e-14).x
            summed += target + extra
        np.testing.assert_allclose(weights, summed, rtol=1e-5, atol=1e-7)


def test_pcgrad_without_conflict_is_the_sum_and_draws_as_ever() -> None:
    from taskloom.balancing.weightings import PCGrad

    conflicting, peaceful = np.array([[1.0, -0.5], [-0.5, 2.0]]), np.array([[1.0, 0.5], [0.5, 2.0]])
    skipped, always = PCGrad(), PCGrad()
    skipped.start(2, 0)
    always.start(2, 0)
    np.testing.assert_array_equal(skipped.weights(peaceful, [0, 1]), [1.0, 1.0])
    for _ in range(2):
        always.order(2)
    assert torch.equal(skipped.state_dict()["generator"], always.state_dict()["generator"])
    # g1 loses -0.5 / 2 of g2, g2 loses -0.5 / 1 of g1: weights 1 + 0.5 and 1 + 0.25.
    np.testing.assert_allclose(skipped.weights(conflicting, [0, 1]), [1.5, 1.25])


def test_conflicts_counted_together_are_those_counted_one_by_one() -> None:
    names, draw = ("a", "b", "c"), np.random.default_rng(1)
    together = Conflicts(names)
    cosines, steps, negative = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))
    for number in range(600):
        index = [0, 1, 2] if number < 520 else [2, 0]
        rows = draw.normal(size=(len(index), 4))
        rows[0] *= number % 7 > 0
        gramian = rows @ rows.T
        together.add(gramian, index)
        for i, first in enumerate(index):
            for j, second in enumerate(index):
                if (scale := np.sqrt(gramian[i, i] * gramian[j, j])) > 0:
                    cosines[first, second] += gramian[i, j] / scale
                    negative[first, second] += gramian[i, j] < 0
                    steps[first, second] += 1
    report = together.report()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert report[f"cosine/{names[i]}/{names[j]}"] == pytest.approx(cosines[i, j] / steps[i, j])
        assert report[f"conflicts/{names[i]}/{names[j]}"] == pytest.approx(negative[i, j] / steps[i, j])
    assert together.report() == {}


@pytest.mark.parametrize("columns", [7, 4096, 4097, 3 * 4096 + 5])
def test_inner_products_are_those_in_double_precision(columns: int) -> None:
    rows = torch.randn(4, columns, generator=torch.Generator().manual_seed(0))
    expected = rows.double() @ rows.double().T
    np.testing.assert_allclose(gramian_of(rows), expected, rtol=1e-5, atol=1e-2 * np.sqrt(columns) / 64)


@pytest.mark.parametrize("absent", [(), ("gender",)])
def test_one_pass_to_the_feature_is_a_pass_per_task_in_double_precision(absent: tuple[str, ...]) -> None:
    """Losses in another order than the tasks, too: every row is its own task's."""
    model, rows = network().double(), rows_with_holes(12, 1, holes=0.3)
    rows.inputs = rows.inputs.double()
    for task in absent:
        rows.labels.present[task][:] = False
    present = [task for task in reversed(TASKS.names) if task not in absent]
    features = model.features(rows.inputs)
    alone = per_task(model.from_features(features), rows.labels, TASKS)
    expected = torch.stack(
        [torch.autograd.grad(alone[task].mean, features, retain_graph=True)[0].flatten() for task in present]
    )
    by_task = task_gradients(model, rows)
    balancer, taken = make("gradient_sum", at="features"), []
    assert isinstance(balancer, GradientAggregation)
    balancer.start(model)
    update = balancer._update
    balancer._update = lambda matrix, columns: taken.append(matrix.clone()) or update(matrix, columns)  # type: ignore[method-assign]
    with balancer.watching(model):
        losses = per_task(model(rows.inputs), rows.labels, TASKS)
    model.zero_grad()
    balancer.backward({task: losses[task] for task in reversed(TASKS.names)}, model)
    torch.testing.assert_close(taken[0], expected, rtol=1e-10, atol=1e-12)
    for name, parameter in model.named_parameters():
        summed = jacobian({task: by_task[task] for task in present}, [name]).sum(0)
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(grad.flatten(), summed, rtol=1e-8, atol=1e-12)
    assert step(balancer, model, rows)
