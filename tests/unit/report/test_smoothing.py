"""Local regression against a naive loop and closed forms; intervals against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from taskloom.report.smoothing import loess, mean_interval


def naive(x: np.ndarray, y: np.ndarray, place: float, span: float) -> float:
    """One place, by weighted least squares of a design matrix."""
    count = max(2, math.floor(span * len(x) + 0.5))
    distance = np.abs(x - place)
    reach = np.sort(distance)[count - 1]
    weight = np.where(distance < reach, (1 - (distance / reach) ** 3) ** 3, 0.0)
    design = np.stack([np.ones_like(x), x - place], axis=1) * np.sqrt(weight)[:, None]
    return float(np.linalg.lstsq(design, y * np.sqrt(weight), rcond=None)[0][0])


@pytest.mark.parametrize("span", [0.3, 0.75, 1.0])
def test_it_is_weighted_least_squares(span: float) -> None:
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 10, 40))
    y = np.sin(x) + rng.normal(scale=0.1, size=40)
    places = np.linspace(0.5, 9.5, 13)
    expected = [naive(x, y, place, span) for place in places]
    np.testing.assert_allclose(loess(x, y, places, span=span), expected, rtol=1e-6)


def test_a_line_stays_a_line_and_repeats_share_epochs() -> None:
    epochs = np.tile(np.arange(1.0, 31.0), 3)
    line = 0.2 + 0.01 * epochs
    np.testing.assert_allclose(loess(epochs, line, span=0.4), 0.2 + 0.01 * np.arange(1, 31), atol=1e-12)
    # Three repeats of one curve smooth as that curve does, at three times the points.
    wave = np.sin(np.arange(1.0, 31.0))
    np.testing.assert_allclose(
        loess(epochs, np.tile(wave, 3), span=0.5), loess(np.arange(1.0, 31.0), wave, span=0.5), atol=0.02
    )


def test_a_constant_an_equidistant_pair_one_place_and_nothing() -> None:
    assert loess([1, 2, 3], [5.0, 5.0, 5.0], span=0.7).tolist() == pytest.approx([5, 5, 5])
    assert loess([0.0, 1.0], [2.0, 4.0], [0.5], span=1.0).tolist() == pytest.approx([3.0])
    assert loess([2, 2], [1.0, 3.0]).tolist() == [2.0]  # all at one epoch: their mean
    assert np.isnan(loess([1, 2], [np.nan, np.nan])).all()
    assert loess([1, 2, 3], [1.0, np.nan, 3.0], [2.0], span=1.0).tolist() == pytest.approx([2.0])


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="span"):
        loess([1], [1], span=0)
    with pytest.raises(ValueError, match="one length"):
        loess([1, 2], [1])


def test_the_interval_is_students() -> None:
    values = np.random.default_rng(1).normal(0.7, 0.01, 10)
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, 9, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    mean, half = mean_interval([0.5])
    assert mean == 0.5
    assert math.isnan(half)
    assert all(math.isnan(value) for value in mean_interval([math.nan]))
