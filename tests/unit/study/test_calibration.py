"""How often a verdict is given where there is nothing to find, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from taskloom.study.statistics import LEAST_REPEATS, Gain, Scores, compare

NUM_GROUPS = 15


def scores(losses: np.ndarray) -> Scores:
    """Runs judged by MSE whose squared errors are given, [R, G]: one row per group."""
    ones = np.ones(losses.shape[1], dtype=np.int64)
    summaries = {r: {"rows": ones, "squared": line[:, None]} for r, line in enumerate(losses)}
    return Scores({r: float(line.mean()) for r, line in enumerate(losses)}, summaries)


def simulated(repeats: int, trials: int, shift: float = 0.0, **settings: object) -> list[Gain]:
    """Gains with crossed effects of seeds, groups and both; equal chances for either side at shift 0."""
    generator = np.random.default_rng(4)
    found = []
    for _ in range(trials):
        gains = shift + 0.5 * generator.normal(size=(repeats, 1)) + generator.normal(size=NUM_GROUPS)
        gains = gains + 0.5 * generator.normal(size=(repeats, NUM_GROUPS))
        base, cell = scores(np.full_like(gains, 10.0)), scores(10.0 - gains)
        found.append(compare("t", "mse", base, {"c": cell}, num_resamples=100, **settings)["c"])
    return found


def shown(gains: list[Gain]) -> float:
    return float(np.mean([gain.verdict in ("helped", "hurt") for gain in gains]))


@pytest.mark.parametrize("repeats", [3, 5])
def test_without_a_difference_verdicts_are_as_rare_as_their_level_says(repeats: int) -> None:
    # Nominal 0.05; the standard error of a rate from 500 studies is 0.01.
    assert shown(simulated(repeats, 500)) <= 0.075


@pytest.mark.parametrize("settings", [{}, {"test_over_train": 0.25}])
def test_two_repeats_give_no_verdict_however_large_the_gain(settings: dict[str, object]) -> None:
    gains = simulated(2, 40, shift=50.0, **settings)
    assert shown(gains) == 0
    assert all(np.isfinite([gain.low, gain.high]).all() for gain in gains)
    assert all("a verdict needs 3 repeats, there are 2" in gain.note for gain in gains)
    assert shown(simulated(3, 10, shift=50.0, **settings)) == 1


def test_repeats_that_only_one_side_finished_do_not_count() -> None:
    rng = np.random.default_rng(0)
    alone, ours = scores(10 + rng.normal(size=(5, 9))), scores(1 + rng.normal(size=(5, 9)))
    halves = Scores({r: ours.values[r] for r in (0, 1)}, {r: ours.summaries[r] for r in (0, 1)})
    assert compare("t", "mse", alone, {"c": ours})["c"].verdict == "helped"
    gain = compare("t", "mse", alone, {"c": halves})["c"]
    assert (gain.verdict, gain.num_repeats) == ("no verdict", LEAST_REPEATS - 1)
