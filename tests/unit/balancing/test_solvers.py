"""Small convex problems against closed forms, optimality conditions, dense grids and SciPy's solver."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from taskloom.balancing.solvers import (
    SolverError,
    conflict_averse,
    factor,
    fair,
    min_norm,
    project_on_dual_cone,
)

Array = NDArray[np.float64]


def rows(size: int, columns: int, seed: int, spread: float = 0.0) -> Array:
    draw = np.random.default_rng(seed)
    scales = 10 ** draw.uniform(-spread, spread, size=(size, 1))
    return np.asarray(draw.normal(size=(size, columns)) * scales)


@pytest.mark.parametrize("seed", range(6))
def test_shortest_vector_of_two_is_the_closed_form(seed: int) -> None:
    # Sener and Koltun 2018, equation 4: gamma = clip((g2 - g1) . g2 / ||g1 - g2||^2, 0, 1).
    first, second = jacobian = rows(2, 3, seed, spread=0.5)
    gamma = np.clip((second - first) @ second / np.square(first - second).sum(), 0, 1)
    np.testing.assert_allclose(min_norm(jacobian @ jacobian.T), [gamma, 1 - gamma], atol=1e-9)


@pytest.mark.parametrize(("size", "columns"), [(3, 5), (6, 4), (10, 30)])
def test_shortest_vector_is_optimal(size: int, columns: int) -> None:
    gramian = (jacobian := rows(size, columns, size, spread=0.5)) @ jacobian.T
    weights = min_norm(gramian)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    # No vertex of the hull leads to a shorter vector (the optimality condition on the simplex).
    squared = weights @ gramian @ weights
    assert (gramian @ weights).min() >= squared - 1e-9 * np.trace(gramian)


def test_shortest_vector_of_zeros_is_their_mean() -> None:
    np.testing.assert_array_equal(min_norm(np.zeros((4, 4))), np.full(4, 0.25))


@pytest.mark.parametrize("seed", range(4))
def test_projection_meets_its_optimality_conditions(seed: int) -> None:
    jacobian, target = rows(4, 6, seed), np.array([1.0, 0.0, 0.5, 2.0])
    gramian = jacobian @ jacobian.T
    weights = project_on_dual_cone(target, gramian)
    products = gramian @ weights  # inner products of the projection with every gradient
    assert products.min() >= -1e-9
    assert (weights - target).min() >= -1e-12
    np.testing.assert_allclose((weights - target) * products, 0, atol=1e-9)


def test_projection_of_two_is_the_closed_form() -> None:
    # g1 conflicts with g2: the projection of g1 is g1 less its component along g2.
    gramian = np.array([[1.0, -0.5], [-0.5, 4.0]])
    np.testing.assert_allclose(project_on_dual_cone(np.array([1.0, 0.0]), gramian), [1, 0.125])
    agreeing = np.array([[1.0, 0.5], [0.5, 4.0]])
    np.testing.assert_allclose(project_on_dual_cone(np.array([1.0, 0.0]), agreeing), [1, 0])


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_conflict_averse_direction_of_two_by_a_grid(seed: int, c: float) -> None:
    jacobian = rows(2, 3, seed, spread=0.3)
    mean = jacobian.mean(0)
    shares = np.linspace(0, 1, 20001)
    vectors = shares[:, None] * jacobian[0] + (1 - shares[:, None]) * jacobian[1]
    values = vectors @ mean + c * np.linalg.norm(mean) * np.linalg.norm(vectors, axis=1)
    best = vectors[values.argmin()]
    expected = mean + c * np.linalg.norm(mean) * best / np.linalg.norm(best)
    found = conflict_averse(jacobian @ jacobian.T, c) @ jacobian
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.linalg.norm(mean))


def test_conflict_averse_direction_maximises_the_worst_progress_in_its_ball() -> None:
    jacobian = rows(5, 8, 0)
    mean, c = jacobian.mean(0), 0.6
    direction = conflict_averse(jacobian @ jacobian.T, c) @ jacobian
    assert np.linalg.norm(direction - mean) == pytest.approx(c * np.linalg.norm(mean))
    worst = (jacobian @ direction).min()
    draw = np.random.default_rng(1)
    for _ in range(2000):
        other = draw.normal(size=8)
        other = mean + c * np.linalg.norm(mean) * other / np.linalg.norm(other)
        assert (jacobian @ other).min() <= worst + 1e-9
    # And SciPy's general solver, which knows nothing of the dual, finds no better one.
    start = np.append(mean, -10.0)
    found = minimize(
        lambda x: -x[-1],
        start,
        constraints=[
            {"type": "ineq", "fun": lambda x: jacobian @ x[:-1] - x[-1]},
            {
                "type": "ineq",
                "fun": lambda x: (c * np.linalg.norm(mean)) ** 2 - np.square(x[:-1] - mean).sum(),
            },
        ],
    )
    assert found.x[-1] == pytest.approx(worst, rel=1e-4)


def test_conflict_averse_edge_cases() -> None:
    gramian = np.array([[4.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(conflict_averse(gramian, 0.0), [0.5, 0.5])
    np.testing.assert_allclose(conflict_averse(np.array([[4.0]]), 0.5), [1.5])
    # Opposed gradients: Pareto-stationary, no update.
    triangle = np.array([[1.1, 0.0], [-0.4, 0.75**0.5], [-0.4, -(0.75**0.5)]])
    np.testing.assert_array_equal(conflict_averse(triangle @ triangle.T, 0.5), [0, 0, 0])


def test_fair_of_two_is_the_closed_form() -> None:
    # Nash of orthogonal gradients: w_i = 1 / ||g_i||. Of unit gradients with cosine r: w = 1 / sqrt(1 + r).
    np.testing.assert_allclose(fair(np.diag([9.0, 0.25])), [1 / 3, 2])
    for cosine in (-0.9, 0.0, 0.7):
        gramian = np.array([[1.0, cosine], [cosine, 1.0]])
        np.testing.assert_allclose(fair(gramian), np.full(2, 1 / np.sqrt(1 + cosine)), rtol=1e-8)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(("size", "columns"), [(1, 3), (3, 4), (10, 40)])
def test_fair_solves_its_equation(size: int, columns: int, alpha: float) -> None:
    gramian = (jacobian := rows(size, columns, size, spread=1.5)) @ jacobian.T
    weights = fair(gramian, alpha)
    assert weights.min() > 0
    np.testing.assert_allclose(gramian @ weights * weights ** (1 / alpha), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("gramian", "reason"),
    [
        (np.array([[1.0, -1.0], [-1.0, 1.0]]), "Pareto-stationary"),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), "gradient of one task is 0"),
    ],
)
def test_fair_says_that_there_is_no_solution(gramian: Array, reason: str) -> None:
    with pytest.raises(SolverError, match=reason):
        fair(gramian)


def test_factor_gives_the_gramian_back() -> None:
    gramian = (jacobian := rows(5, 3, 0)) @ jacobian.T  # rank 3
    matrix = factor(gramian)
    np.testing.assert_allclose(matrix.T @ matrix, gramian, atol=1e-12)
