"""Small convex problems over T numbers, solved exactly on the CPU in double precision.

Every method of gradient aggregation that needs a solver needs only the Gramian G = J J' of the gradients
(J: one row per task), so a problem has T unknowns however large the network. Three of them are one problem
in disguise, non-negative least squares, which SciPy's active-set method solves exactly in microseconds;
the fourth is a smooth barrier problem for Newton's method. None needs a package that is not installed.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, nnls

Array = NDArray[np.float64]


class SolverError(Exception):
    """A solver found no solution; the message says why. Balancers add the method and the step."""


def factor(gramian: Array) -> Array:
    """A matrix A [m, m] with A' A = G; negative eigenvalues, which are rounding, count as 0."""
    values, vectors = np.linalg.eigh(gramian)
    scaled: Array = np.sqrt(np.clip(values, 0.0, None))[:, None] * vectors.T
    return scaled


def least_squares(matrix: Array, target: Array) -> Array:
    """argmin over x >= 0 of ||A x - b||.

    Raises:
        SolverError: SciPy's active-set method did not end.
    """
    try:
        solution: Array = nnls(matrix, target)[0]
    except RuntimeError as error:
        raise SolverError(f"non-negative least squares (SciPy) found no solution ({error})") from error
    return solution


def min_norm(gramian: Array) -> Array:
    """Weights of the shortest vector in the convex hull of the gradients (Désidéri 2012; MGDA).

    w = argmin over the simplex of w' G w. For w = s p with p on the simplex, ||J' w||^2 + (sum w - 1)^2 is
    smallest over s at ||J' p||^2 / (1 + ||J' p||^2), which rises with ||J' p||: so the non-negative least
    squares solution of [J'; 1'] w = [0; 1] is a multiple of the solution on the simplex.

    Args:
        gramian: G [m, m].

    Returns:
        [m], non-negative, sum 1; equal weights where all gradients are 0.

    Raises:
        SolverError: See `least_squares`.

    Example:
        >>> min_norm(np.array([[1.0, 0.0], [0.0, 4.0]])).round(6)
        array([0.8, 0.2])
    """
    trace, size = gramian.trace(), len(gramian)
    if trace <= 0:
        return np.full(size, 1 / size)
    if 2 <= size <= 3 and (closed := _shortest_of_three(gramian)) is not None:
        return closed
    matrix = np.vstack([factor(gramian / trace), np.ones(size)])
    solution = least_squares(matrix, np.append(np.zeros(size), 1.0))
    weights: Array = solution / solution.sum()
    return weights


def project_on_dual_cone(target: Array, gramian: Array) -> Array:
    """Weights v of the projection of J' u onto {d: J d >= 0}: argmin over v >= u of v' G v.

    With v = u + s this is non-negative least squares in s (Quinton and Rey 2024, proposition 1).

    Args:
        target: u [m].
        gramian: G [m, m].

    Returns:
        [m], no entry below that of u.

    Raises:
        SolverError: See `least_squares`.

    Example:
        >>> project_on_dual_cone(np.array([1.0, 0.0]), np.array([[1.0, -1.0], [-1.0, 2.0]]))
        array([1. , 0.5])
    """
    return project_factored(target, factor(gramian))


def project_factored(target: Array, matrix: Array) -> Array:
    """`project_on_dual_cone` from a matrix A with A' A = G, where several targets are projected."""
    projected: Array = target + least_squares(matrix, -matrix @ target)
    return projected


_REGULAR = 1e-4
"""Added to the diagonal of a Gramian of trace 1 before gradients are projected, as TorchJD does: gradients
that are opposed up to rounding would otherwise get weights in the thousands."""


def regular(gramian: Array) -> Array:
    """The Gramian divided by its trace, with `_REGULAR` on its diagonal: positive definite."""
    added: Array = gramian / gramian.trace()
    added.flat[:: len(gramian) + 1] += _REGULAR
    return added


def unconflicting(gramian: Array) -> Array:
    """Weights of UPGrad (Quinton and Rey 2024, equation 6): mean of all gradients, each projected.

    Each g_i / m is projected onto {d: J d >= 0} (`project_on_dual_cone`), with G made `regular`. One that
    conflicts with no other stands in the cone and stays as it is, without a problem to solve.

    Args:
        gramian: G [m, m], not all 0.

    Returns:
        [m], each 1 / m or more.

    Raises:
        SolverError: See `least_squares`.

    Example:
        >>> unconflicting(np.array([[1.0, 0.5], [0.5, 2.0]]))
        array([0.5, 0.5])
    """
    size, positive = len(gramian), regular(gramian)
    weights: Array = np.full(size, 1 / size)
    conflicting = (positive.min(axis=1) < 0).nonzero()[0].tolist()
    if conflicting:
        # `regular` has made it positive definite.
        matrix: Array = np.linalg.cholesky(positive).T.astype(np.float64, copy=False)
        for place in conflicting:
            weights += least_squares(matrix, matrix[:, place] / -size)
    return weights


def _shortest_of_three(gramian: Array) -> Array | None:
    """`min_norm` of two or three gradients in closed form; None where rounding would decide.

    The optimum stands at a vertex, on an edge or inside of the hull. At each candidate p the condition
    g_k . p >= ||p||^2 for all k is checked (Désidéri 2012, theorem 2.2), which only the optimum meets.
    """
    size, rows = len(gramian), gramian.tolist()
    for i in range(size):
        if all(rows[i][j] >= rows[i][i] for j in range(size)):
            vertex: Array = np.eye(size)[i]
            return vertex
    slack = -1e-13 * max(rows[i][i] for i in range(size))
    for i in range(size):
        for j in range(i):
            apart = rows[i][i] + rows[j][j] - 2 * rows[i][j]
            if apart <= -1e4 * slack:
                return None
            share = (rows[j][j] - rows[i][j]) / apart  # of g_i
            if not 0 < share < 1:
                continue
            inner = [share * rows[i][k] + (1 - share) * rows[j][k] for k in range(size)]
            if all(inner[k] - inner[i] >= slack for k in range(size)):
                edge = np.zeros(size)
                edge[i], edge[j] = share, 1 - share
                return edge
    if size == 2:
        return None
    (a, d, e), (_, b, f), (_, _, c) = rows
    # The adjugate of G times 1: a multiple of G^-1 1, whose share of each gradient is the same inner product.
    inside: Array = np.array(
        [
            b * c - f * f + e * f - d * c + d * f - e * b,
            e * f - d * c + a * c - e * e + d * e - a * f,
            d * f - b * e + d * e - a * f + a * b - d * d,
        ]
    )
    total = float(inside.sum())
    # Where the gradients nearly stand in one line, the sums above are differences of equal numbers.
    if total <= 1e-9 * max(a, b, c) ** 2 or inside.min() <= 0:
        return None
    inside /= total
    return inside


def conflict_averse(gramian: Array, c: float) -> Array:
    """Weights of CAGrad's direction (Liu et al. 2021, equation 4 and algorithm 1).

    With g0 the mean gradient and g_w = J' w, w on the simplex minimises g_w . g0 + c ||g0|| ||g_w||, and the
    direction is g0 + c ||g0|| g_w / ||g_w||. The norm is the minimum over t > 0 of (||g_w||^2 / t + t) / 2:
    for a fixed t the problem is the shortest vector in a shifted hull (`min_norm`), and t solves
    ||g_w(t)|| = t, a root of a monotone function.

    Args:
        gramian: G [m, m].
        c: Radius of the ball around g0, as a share of ||g0||; 0 or more.

    Returns:
        [m], weights of the gradients in the direction; zeros at a Pareto-stationary point, where no
        direction helps every task.

    Raises:
        SolverError: See `least_squares`; or the search for t found no root.

    Example:
        >>> conflict_averse(np.array([[1.0, 0.0], [0.0, 1.0]]), c=0.5)  # alike: half more than 1 / 2
        array([0.75, 0.75])
    """
    size = len(gramian)
    scale = float(np.trace(gramian))
    normal = gramian / scale
    with_mean = normal.mean(axis=1)  # g_i . g0
    mean_squared = max(float(with_mean.mean()), 0.0)  # ||g0||^2
    radius = c * np.sqrt(mean_squared)
    if radius == 0.0:
        return np.full(size, 1 / size)

    def weights_at(t: float) -> Array:
        # g0 . g_w + radius / (2 t) ||g_w||^2: up to a constant, the squared distance of g_w from
        # -g0 t / radius.
        shift = t / radius
        shifted = normal + shift * (with_mean[:, None] + with_mean[None, :]) + shift**2 * mean_squared
        return min_norm(shifted)

    def length(weights: Array) -> float:
        return math.sqrt(max(float(weights @ normal @ weights), 0.0))

    shortest = length(min_norm(normal))
    longest = math.sqrt(float(np.diag(normal).max()))
    if shortest < 1e-5 * longest:
        return np.zeros(size)
    if size == 1 or longest - shortest < 1e-12:
        weights = min_norm(normal) if size > 1 else np.ones(1)
    else:
        try:
            root = brentq(lambda t: length(weights_at(t)) - t, 0.5 * shortest, 2 * longest, xtol=1e-13)
        except (ValueError, RuntimeError) as error:
            raise SolverError(f"the root search of the norm (SciPy) failed ({error})") from error
        weights = weights_at(root)
    direction: Array = 1 / size + radius / length(weights) * weights
    return direction


def fair(gramian: Array, alpha: float = 1.0, max_steps: int = 200) -> Array:
    """The positive x with G x = x^(-1 / alpha): alpha-fair progress (Ban and Ji 2024, equation 4).

    alpha = 1 is the Nash bargaining solution (Navon et al. 2022, claim 3.1). x minimises the strictly convex
    x' G x / 2 - sum phi(x_i) with phi'(x) = x^(-1 / alpha), here by Newton's method with a step that stays
    positive. There is a solution exactly where some direction improves every task.

    Args:
        gramian: G [m, m].
        alpha: Fairness, above 0; large values help the task that gains least.
        max_steps: Newton steps after which it gives up.

    Returns:
        [m], all above 0.

    Raises:
        SolverError: There is no solution (a gradient is 0, or the point is Pareto-stationary), or it was not
            found in so many steps.

    Example:
        >>> fair(np.array([[1.0, 0.0], [0.0, 4.0]]))
        array([1. , 0.5])
    """
    norms = np.sqrt(np.diag(gramian))
    if norms.min() <= 1e-12 * norms.max():
        raise SolverError("there is no solution: the gradient of one task is 0")
    scale = float(np.linalg.norm(gramian))
    normal, power = gramian / scale, 1 / alpha
    # Every task's own solution, were it alone; scaled so that the sum of gradients cannot overshoot.
    x = (scale / np.square(norms)) ** (1 / (1 + power)) / np.sqrt(len(normal))
    for _ in range(max_steps):
        rate = x**-power
        gradient = normal @ x - rate
        if np.abs(gradient / rate).max() < 1e-10:
            break
        hessian = normal + np.diag(power * rate / x)
        step = np.linalg.solve(hessian, -gradient)
        slope = gradient @ step
        length = 1.0 if step.min() >= 0 else min(1.0, 0.99 / float((-step / x).max()))
        value = _fair_objective(normal, x, power)
        while length > 1e-12 and (
            _fair_objective(normal, x + length * step, power)
            > value + 1e-4 * length * slope + 1e-14 * abs(value)
        ):
            length /= 2
        x = x + length * step
        if x.max() > 1e8:
            raise SolverError("there is no solution: no direction helps every task (Pareto-stationary)")
    rate = x**-power
    if not np.abs((normal @ x - rate) / rate).max() < 1e-5:
        raise SolverError(f"Newton's method did not converge in {max_steps} steps")
    solution: Array = x * scale ** (-1 / (1 + power))
    return solution


def _fair_objective(gramian: Array, x: Array, power: float) -> float:
    barrier = np.log(x) if power == 1 else x ** (1 - power) / (1 - power)
    return float(0.5 * x @ gramian @ x - barrier.sum())


Solver = Literal["own", "torchjd"]
"""Who solves: this module, or TorchJD with the package it needs for it."""
