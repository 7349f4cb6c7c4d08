"""Gains, intervals and verdicts: closed forms, coverage by simulation, hand-worked corrections."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

import taskloom as tl
from taskloom.errors import ConfigError
from taskloom.metrics import METRICS
from taskloom.study.advice import what_would_help
from taskloom.study.statistics import Gain, Scores, choose_on_validation, compare, holm

NUM_GROUPS = 12


def scores(losses: NDArray[np.float64], *, groups: bool = True, first: int = 0) -> Scores:
    """Runs judged by MSE whose squared errors are given, [R, G]: one row per group."""
    ones = np.ones(losses.shape[1], dtype=np.int64)
    summaries = {r: {"rows": ones, "squared": line[:, None]} for r, line in enumerate(losses, first)}
    return Scores(
        {r: float(line.mean()) for r, line in enumerate(losses, first)}, summaries if groups else {}
    )


def losses(repeats: int, seed: int = 0, mean: float = 10.0) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    of_repeats, of_groups = generator.normal(size=(repeats, 1)), generator.normal(size=NUM_GROUPS)
    return mean + of_repeats + of_groups + generator.normal(size=(repeats, NUM_GROUPS))


def one(baseline: Scores, cell: Scores, metric: str = "mse", **settings: object) -> Gain:
    return compare("task", metric, baseline, {"cell": cell}, **settings)["cell"]


def test_fixed_test_set_follows_the_written_formula() -> None:
    alone, ours = losses(4, seed=1), losses(4, seed=2, mean=7.0)
    gain = one(scores(alone), scores(ours), num_resamples=20_000)
    paired = alone - ours  # MSE: smaller is better
    of_repeats = paired.mean(axis=1).var(ddof=1) / 4
    # Variance of a mean of G groups of one size: s^2 / G. The bootstrap comes near it, up to its own chance.
    of_groups = paired.mean(axis=0).var(ddof=1) / NUM_GROUPS
    assert gain.gain == pytest.approx(paired.mean())
    assert (gain.baseline_value, gain.cell_value) == pytest.approx((alone.mean(), ours.mean()))
    assert gain.variance_repeats == pytest.approx(of_repeats)
    assert gain.variance_clusters == pytest.approx(of_groups, rel=0.04)
    assert gain.variance_overlap == 0
    assert (gain.degrees_repeats, gain.degrees_clusters) == pytest.approx((3, NUM_GROUPS - 1))
    quantiles = [stats.t.ppf(0.975, degrees) for degrees in (3, NUM_GROUPS - 1)]
    half = math.sqrt(quantiles[0] ** 2 * gain.variance_repeats + quantiles[1] ** 2 * gain.variance_clusters)
    assert (gain.low, gain.high) == pytest.approx((gain.gain - half, gain.gain + half))
    at_p = compare(
        "task", "mse", scores(alone), {"c": scores(ours)}, num_resamples=20_000, alpha=gain.p_value
    )
    assert at_p["c"].low == pytest.approx(0, abs=1e-9)  # p is the level at which the interval ends at 0
    assert (gain.num_repeats, gain.num_clusters, gain.note) == (4, NUM_GROUPS, "")
    assert gain.dominant == ("repeats" if of_repeats > of_groups else "clusters")


def test_without_groups_it_is_the_paired_t_test() -> None:
    alone, ours = losses(5, seed=1), losses(5, seed=2)
    gain = one(scores(alone, groups=False), scores(ours, groups=False))
    test = stats.ttest_rel(alone.mean(axis=1), ours.mean(axis=1))
    assert gain.p_value == pytest.approx(test.pvalue)
    assert (gain.low, gain.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert "groups are not at hand" in gain.note
    assert gain.num_clusters == 0


def test_redrawn_splits_follow_nadeau_and_bengio() -> None:
    alone, ours = losses(6, seed=1), losses(6, seed=2)
    paired = (alone - ours).mean(axis=1)
    gain = one(scores(alone), scores(ours), test_over_train=0.25)
    error = math.sqrt(paired.var(ddof=1) * (1 / 6 + 0.25))
    assert (gain.degrees_repeats, gain.degrees_clusters) == (5, 0)
    assert gain.standard_error == pytest.approx(error)
    assert (gain.low, gain.high) == pytest.approx(stats.t.interval(0.95, 5, loc=paired.mean(), scale=error))
    assert gain.variance_clusters == 0
    assert gain.dominant == "overlap"


@pytest.mark.parametrize(("repeats", "groups"), [(3, 20), (5, 10)])
def test_intervals_cover_under_crossed_effects_of_seeds_and_groups(repeats: int, groups: int) -> None:
    generator = np.random.default_rng(0)
    covered, narrow, trials = 0, 0, 500
    for _ in range(trials):
        gains = 0.5 + 0.3 * generator.normal(size=(repeats, 1)) + generator.normal(size=groups)
        gains = gains + 0.5 * generator.normal(size=(repeats, groups))
        gain = one(scores(np.full_like(gains, 10.0)), scores(10.0 - gains), num_resamples=200)
        covered += gain.low <= 0.5 <= gain.high
        alone = stats.ttest_1samp(gains.mean(axis=1), 0).confidence_interval(0.95)
        narrow += alone.low <= 0.5 <= alone.high
    # Binomial standard error at 0.95 is 0.01. From the seeds alone the interval would miss far too often.
    assert 0.925 <= covered / trials <= 0.985
    assert narrow / trials < 0.9


def test_under_no_difference_few_verdicts_are_given() -> None:
    generator = np.random.default_rng(1)
    shown = 0
    for _ in range(200):
        base = scores(10 + generator.normal(size=(3, 15)))
        cells = {str(cell): scores(10 + generator.normal(size=(3, 15))) for cell in range(5)}
        gains = compare("task", "mse", base, cells, num_resamples=100)
        shown += any(gain.verdict != "no difference shown" for gain in gains.values())
    assert shown / 200 <= 0.08


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", 1), ("mae", -1), ("r2", 1), ("failure_rate", -1)])
def test_positive_is_better_whatever_the_direction(metric: str, sign: int) -> None:
    low, high = Scores({0: 1.0, 1: 1.01, 2: 0.99}), Scores({0: 2.0, 1: 2.02, 2: 2.0})
    up, down = one(low, high, metric), one(high, low, metric)
    assert up.gain == pytest.approx(sign * 1.0067, abs=1e-4)
    assert (up.gain, up.low, up.high) == pytest.approx((-down.gain, -down.high, -down.low))
    assert (up.verdict, down.verdict) == (("helped", "hurt") if sign > 0 else ("hurt", "helped"))


def test_scaling_the_metric_scales_the_interval_and_keeps_the_verdict() -> None:
    alone, ours = losses(4, seed=1), losses(4, seed=2, mean=7.0)
    first, second = one(scores(alone), scores(ours)), one(scores(1e6 * alone), scores(1e6 * ours))
    assert (second.gain, second.low, second.high) == pytest.approx(
        (1e6 * first.gain, 1e6 * first.low, 1e6 * first.high)
    )
    assert (second.p_value, second.verdict) == (pytest.approx(first.p_value), first.verdict)


@pytest.mark.parametrize("test_over_train", [None, 0.25])
def test_identical_runs_gain_nothing(test_over_train: float | None) -> None:
    runs = scores(losses(3))
    gain = one(runs, runs, test_over_train=test_over_train)
    assert (gain.gain, gain.p_value) == (0.0, 1.0)
    assert math.isnan(gain.low)  # [0, 0] would say that the difference is known to be none
    assert math.isnan(gain.high)
    assert "spread cannot be estimated" in gain.note
    assert "more rows in test" in what_would_help(gain).text  # not "3 repeats are needed": there are 3
    assert (gain.verdict, gain.dominant, gain.standard_error) == ("no difference shown", "", 0.0)


@pytest.mark.parametrize("test_over_train", [None, 0.25])
def test_the_same_gain_everywhere_is_not_taken_for_certainty(test_over_train: float | None) -> None:
    alone = losses(3)
    gain = one(scores(alone), scores(alone - 0.1), test_over_train=test_over_train)
    assert gain.gain == pytest.approx(0.1)
    assert math.isnan(gain.low)
    assert math.isnan(gain.p_value)
    assert gain.verdict == "no difference shown"
    assert "spread cannot be estimated" in gain.note


@pytest.mark.parametrize("test_over_train", [None, 0.25])
def test_one_repeat_rests_on_the_groups_and_says_so(test_over_train: float | None) -> None:
    alone, ours = losses(1, seed=1), losses(1, seed=2, mean=2.0)
    gain = one(scores(alone), scores(ours), num_resamples=20_000, test_over_train=test_over_train)
    error = math.sqrt((alone - ours)[0].var(ddof=1) / NUM_GROUPS)
    assert (gain.degrees_repeats, gain.degrees_clusters) == pytest.approx((0, NUM_GROUPS - 1))
    assert gain.standard_error == pytest.approx(error, rel=0.03)
    assert gain.note == (
        "one repeat: the interval says nothing about other training seeds; "
        "a verdict needs 3 repeats, there is 1"
    )
    assert gain.p_adjusted < 0.05
    assert gain.verdict == "no verdict"


def test_one_repeat_and_one_group_give_no_interval() -> None:
    gain = one(scores(np.array([[3.0]])), scores(np.array([[2.0]])))
    assert gain.gain == 1.0
    assert all(math.isnan(number) for number in (gain.low, gain.high, gain.p_value, gain.p_adjusted))
    assert gain.verdict == "no verdict"
    assert "fewer than two repeats (or folds) and fewer than two groups" in gain.note
    assert what_would_help(gain).repeats is None


def test_one_group_and_several_repeats_rest_on_the_repeats() -> None:
    gain = one(scores(np.array([[3.0], [3.1], [3.2]])), scores(np.array([[2.0], [2.0], [2.1]])))
    assert (gain.degrees_repeats, gain.degrees_clusters) == (2, 0)
    assert gain.dominant == "repeats"
    assert "one group in test" in gain.note


def test_missing_runs_are_left_out_of_both_sides_and_named() -> None:
    alone, ours = losses(5, seed=1), losses(5, seed=2)
    base, cell = scores(alone), scores(ours)
    partial = Scores({**cell.values, 2: math.nan}, cell.summaries)
    del partial.values[4]
    found = one(base, partial)
    kept = [0, 1, 3]
    expected = one(scores(alone[kept]), scores(ours[kept]))
    assert (found.gain, found.low, found.high) == pytest.approx((expected.gain, expected.low, expected.high))
    assert found.baseline_value == pytest.approx(alone[kept].mean())
    assert found.note == "paired on 3 of 5 repeats: a run or its value is missing in repeat 3, 5"


def test_nothing_in_common_is_said() -> None:
    gain = one(Scores({0: 1.0}), Scores({1: 2.0}))
    assert math.isnan(gain.gain)
    assert (gain.verdict, gain.num_repeats) == ("no verdict", 0)
    assert gain.note == "no repeat in which both sides have a value"
    assert one(Scores({}), Scores({})).num_repeats == 0


def test_repeats_are_paired_by_number_and_not_by_position() -> None:
    alone, ours = losses(3, seed=1), losses(3, seed=2)
    base, cell = scores(alone), scores(ours)
    turned = Scores(dict(reversed(cell.values.items())), dict(reversed(cell.summaries.items())))
    assert one(base, turned) == one(base, cell)


def test_permuting_the_cells_permutes_the_results() -> None:
    base = scores(losses(3, seed=0))
    cells = {str(seed): scores(losses(3, seed=seed, mean=10.0 - seed)) for seed in range(1, 6)}
    forward = compare("task", "mse", base, cells)
    backward = compare("task", "mse", base, dict(reversed(cells.items())))
    assert list(forward) == list(cells)
    assert list(backward) == list(reversed(cells))
    assert forward == backward


def test_verdicts_rest_on_the_adjusted_p_value() -> None:
    base = Scores({0: 0.50, 1: 0.50, 2: 0.50})
    good = Scores({0: 0.53, 1: 0.55, 2: 0.54})
    other = Scores({0: 0.47, 1: 0.55, 2: 0.50})
    alone = compare("task", "accuracy", base, {"good": good})["good"]
    crowd = compare("task", "accuracy", base, {"good": good, **{f"cell {i}": other for i in range(4)}})[
        "good"
    ]
    assert alone.p_value == crowd.p_value == alone.p_adjusted < 0.05
    assert crowd.p_adjusted == pytest.approx(5 * crowd.p_value)
    assert crowd.p_adjusted > 0.05
    assert (alone.low, alone.high) == (crowd.low, crowd.high)
    assert crowd.low > 0  # the plain interval is reported as it is
    assert (alone.verdict, crowd.verdict) == ("helped", "no difference shown")


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last is raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.04]) == [0.04]
    adjusted = holm([math.nan, 0.02, 0.03])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.04, 0.04])


def test_real_metrics_agree_with_a_bootstrap_that_repeats_rows() -> None:
    generator = np.random.default_rng(0)
    task, num_groups, rows = tl.Binary("t"), 10, 80
    values = torch.tensor(generator.integers(0, 2, rows))
    groups = generator.integers(0, num_groups, rows)
    present = torch.ones(rows).bool()
    outputs = [(values * 2 - 1 + torch.tensor(generator.normal(size=rows)) * s)[:, None] for s in (3, 1)]
    summaries = [METRICS["auc"].summarize(task, o, values, present, groups, num_groups) for o in outputs]
    sides = [Scores({0: METRICS["auc"].evaluate(s)}, {0: s}) for s in summaries]
    gain = one(*sides, metric="auc", num_resamples=3000)
    gains = []
    for _ in range(600):
        chosen = np.concatenate(
            [np.flatnonzero(groups == group) for group in generator.integers(0, num_groups, num_groups)]
        )
        one_group = np.zeros(len(chosen), dtype=np.int64)
        pair = [
            METRICS["auc"].evaluate(
                METRICS["auc"].summarize(task, o[chosen], values[chosen], present[chosen], one_group, 1)
            )
            for o in outputs
        ]
        gains.append(pair[1] - pair[0])
    assert gain.variance_clusters == pytest.approx(np.var(gains, ddof=1) * 10 / 9, rel=0.2)


def test_groups_without_labels_do_not_count() -> None:
    alone, ours = losses(3, seed=1), losses(3, seed=2)
    padded = []
    for side in (alone, ours):
        ones = np.r_[np.ones(NUM_GROUPS, dtype=np.int64), np.zeros(30, dtype=np.int64)]
        summaries = {
            r: {"rows": ones, "squared": np.r_[line, np.zeros(30)][:, None]} for r, line in enumerate(side)
        }
        padded.append(Scores({r: float(line.mean()) for r, line in enumerate(side)}, summaries))
    found, expected = one(*padded), one(scores(alone), scores(ours))
    assert found.num_clusters == NUM_GROUPS
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_resamples_in_which_the_metric_is_undefined_are_said() -> None:
    # Two groups, each of one class: half of the resamples draw one of them twice and have no AUC.
    summary = {
        "scores": np.array([0.0, 1.0, 2.0, 0.5]),
        "positive": np.array([False, False, True, True]),
        "column": np.zeros(4, dtype=np.int64),
        "group": np.array([0, 0, 1, 1]),
        "num_groups": np.array(2),
        "num_columns": np.array(1),
    }
    gain = one(Scores({0: 0.7}, {0: summary}), Scores({0: 0.8}, {0: summary}), metric="auc")
    assert "auc was undefined in" in gain.note
    assert "of 1000 resamples" in gain.note


def test_the_same_seed_gives_the_same_interval_also_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    from taskloom.study import resampling

    base, cell = scores(losses(3, seed=1)), scores(losses(3, seed=2))
    first = one(base, cell)
    assert one(base, cell) == first
    assert one(base, cell, seed=1) != first
    monkeypatch.setattr(resampling, "_MOST_ELEMENTS", 7 * NUM_GROUPS)
    in_portions = one(base, cell)
    assert (in_portions.low, in_portions.high) == pytest.approx((first.low, first.high))


def test_bad_input_is_named() -> None:
    base = scores(losses(2))
    with pytest.raises(ValueError, match="tested on different labels"):
        one(base, scores(losses(2)[:, :5]))
    with pytest.raises(ValueError, match="test_over_train above 0 expected, found 0"):
        one(base, base, test_over_train=0.0)
    with pytest.raises(ConfigError, match=r"`acuracy` is not a known metric\. Did you mean `accuracy`"):
        one(base, base, metric="acuracy")


def test_choice_looks_at_validation_means_and_direction() -> None:
    validation = {
        "age": {"a": {0: 5.0, 1: 6.0}, "b": {0: 4.0, 1: 6.5}, "c": {0: 9.0, 1: 9.0}},
        "gender": {"a": {0: 0.8, 1: 0.9}, "b": {0: 0.7, 1: 0.9}, "c": {0: 0.85, 1: 0.85}},
        "none": {"a": {}, "b": {0: math.nan}},
    }
    metrics = {"age": "mae", "gender": "accuracy", "none": "accuracy"}
    assert choose_on_validation(validation, metrics) == {"age": "b", "gender": "a"}  # the first of equals


def test_choice_compares_cells_on_the_repeats_they_share() -> None:
    # b failed in the hard repeat 1, which must not make it the best.
    validation = {"t": {"a": {0: 0.9, 1: 0.5, 2: 0.9}, "b": {0: 0.8, 2: 0.8}, "failed": {0: math.nan}}}
    assert choose_on_validation(validation, {"t": "accuracy"}) == {"t": "a"}
    # A cell that shares no repeat with the others is left out.
    validation = {"t": {"b": {7: 1.0}, "a": {0: 0.9, 1: 0.5}}}
    assert choose_on_validation(validation, {"t": "accuracy"}) == {"t": "a"}


def half_width(gain: Gain) -> float:
    return (gain.high - gain.low) / 2


def test_advice_halves_the_interval_when_it_is_followed() -> None:
    # Parts known exactly: more repeats or groups of the same spread.
    def with_parts(repeats: int, groups: int) -> Gain:
        of_repeats = 3 * np.resize([1.0, -1.0], repeats) / np.resize([1.0, -1.0], repeats).std(ddof=1)
        of_groups = np.resize([0.5, -0.5], groups) / np.resize([1.0, -1.0], groups).std(ddof=1)
        gains = 1.0 + of_repeats[:, None] + of_groups
        return one(scores(np.full_like(gains, 10.0)), scores(10.0 - gains), num_resamples=4000)

    now = with_parts(4, 20)
    assert now.dominant == "repeats"
    advice = what_would_help(now)
    assert advice.clusters is None  # the seeds alone are more than half of it
    then = with_parts(advice.repeats, 20)
    assert half_width(then) <= 0.52 * half_width(now)
    assert half_width(with_parts(advice.repeats - 2, 20)) > 0.5 * half_width(now)
    assert advice.text.startswith("Chance in training")
    assert f"about {advice.repeats} repeats instead of 4 would halve the interval" in advice.text


def test_advice_knows_that_repeats_do_not_remove_the_overlap() -> None:
    gain = one(scores(losses(30, seed=1)), scores(losses(30, seed=2)), test_over_train=0.25)
    advice = what_would_help(gain)
    assert (advice.repeats, advice.clusters) == (None, None)
    assert "only more data would halve the interval" in advice.text


def test_a_gain_becomes_plain_values() -> None:
    gain = one(scores(losses(3, seed=1)), scores(losses(3, seed=2)))
    assert Gain(**gain.to_dict()) == gain
    assert all(isinstance(value, str | int | float) for value in gain.to_dict().values())
