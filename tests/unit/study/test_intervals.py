"""Intervals of sums of variances, rare classes, folds tested on again: closed forms and error rates."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import taskloom as tl
from _metric_inputs import CASES, GROUPS, TASKS, example
from _small_study import TEXT, read, run, write_table
from taskloom.metrics import METRICS
from taskloom.study.advice import what_would_help
from taskloom.study.intervals import Part, half_width, over_splits, p_value
from taskloom.study.mean_of_tasks import MeanOfTasks
from taskloom.study.paired import Sample
from taskloom.study.prepare import prepare_data
from taskloom.study.resampling import support
from taskloom.study.results import ResultsStore
from taskloom.study.statistics import Gain, Scores, compare
from taskloom.study.verdicts import by_cell_and_task, gain_between
from taskloom.study.worker import DataCache
from taskloom.tasks import TaskSet


def test_one_part_is_the_t_test() -> None:
    values = np.random.default_rng(0).normal(0.4, 1.0, 6)
    test = stats.ttest_1samp(values, 0)
    part = [Part(values.var(ddof=1) / 6, 5)]
    assert p_value(values.mean(), part) == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.95)
    assert float(half_width(part, 0.05)) == pytest.approx((high - low) / 2)


@pytest.mark.parametrize("mean", [0.0, 0.3, 2.0, 40.0, -40.0, 1e60])
def test_the_p_value_is_the_level_at_which_the_interval_ends_at_zero(mean: float) -> None:
    parts = [Part(0.5, 2), Part(0.1, 30.5)]
    p = p_value(mean, parts)
    assert p == p_value(-mean, parts)
    if p > 1e-99:
        assert float(half_width(parts, p)) == pytest.approx(abs(mean), abs=1e-9)
    else:
        assert mean > 1e49


def test_a_part_without_variance_changes_nothing() -> None:
    parts = [Part(0.5, 2), Part(0.0, 30)]
    assert p_value(1.0, parts) == pytest.approx(p_value(1.0, parts[:1]))
    assert float(half_width(parts, 0.1)) == pytest.approx(float(half_width(parts[:1], 0.1)))


@pytest.mark.parametrize("share", [0.03, 1.0, 30.0])
@pytest.mark.parametrize("level", [0.05, 0.05 / 30])
def test_the_error_is_at_most_nominal_whatever_the_parts_are_to_each_other(
    share: float, level: float
) -> None:
    # Three seeds and 50 groups. By Welch and Satterthwaite it is up to ten times nominal at 0.05 / 30.
    generator, trials = np.random.default_rng(0), 200_000
    mean = generator.normal(size=trials) * math.sqrt(share + 1)
    seeds = Part(share * generator.chisquare(2, trials) / 2, 2)
    groups = Part(generator.chisquare(49, trials) / 49, 49)
    rate = float(np.mean(np.abs(mean) > half_width([seeds, groups], level)))
    assert rate <= level + 3 * math.sqrt(level / trials)
    total = seeds.variance + groups.variance
    degrees = total**2 / (seeds.variance**2 / 2 + groups.variance**2 / 49)
    welch = float(np.mean(np.abs(mean) > stats.t.ppf(1 - level / 2, degrees) * np.sqrt(total)))
    assert (welch > 5 * level) == (share == 30.0 and level < 0.05)


def scores(losses: np.ndarray) -> Scores:
    ones = np.ones(losses.shape[1], dtype=np.int64)
    summaries = {r: {"rows": ones, "squared": line[:, None]} for r, line in enumerate(losses)}
    return Scores({r: float(line.mean()) for r, line in enumerate(losses)}, summaries)


def test_many_cells_and_few_seeds_give_wrong_verdicts_in_no_more_than_five_per_cent_of_studies() -> None:
    # Seeds matter more than groups; with Welch and Satterthwaite there was a verdict in 28 % of the studies.
    generator, studies, wrong = np.random.default_rng(0), 120, 0

    def cell() -> Scores:
        rows = generator.normal(size=(1, 100)) + 0.5 * generator.normal(size=(3, 100))
        return scores(10 + 0.5 * generator.normal(size=(3, 1)) + rows)

    for _ in range(studies):
        gains = compare("t", "mse", cell(), {str(c): cell() for c in range(30)}, num_resamples=50)
        wrong += any(gain.verdict in ("helped", "hurt") for gain in gains.values())
    assert wrong / studies <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)


# -- rare classes


def auc_study(generator: np.random.Generator, positives: int, rows: int = 200) -> Gain:
    """Three seeds on one test set; what a side makes of the rows is chance, and the same for both sides."""
    task, metric = tl.Binary("t"), METRICS["auc"]
    labels = torch.zeros(rows, dtype=torch.long)
    labels[:positives] = 1
    sides = []
    for _ in range(2):
        shared = generator.normal(size=rows)
        summaries = {}
        for repeat in range(3):
            outputs = torch.tensor(labels.numpy() + shared + 0.3 * generator.normal(size=rows))[:, None]
            present = torch.ones(rows).bool()
            summaries[repeat] = metric.summarize(task, outputs, labels, present, np.arange(rows), rows)
        sides.append(Scores({r: metric.evaluate(each) for r, each in summaries.items()}, summaries))
    return compare("t", "auc", sides[0], {"c": sides[1]}, num_resamples=200)["c"]


@pytest.mark.parametrize("positives", [2, 4])
def test_few_positives_do_not_pass_for_many_rows(positives: int) -> None:
    # With the degrees of freedom of 200 rows, 13 % of the studies with four positives had a verdict.
    generator = np.random.default_rng(1)
    gains = [auc_study(generator, positives) for _ in range(400)]
    assert np.mean([gain.verdict in ("helped", "hurt") for gain in gains]) <= 0.05
    assert gains[0].num_clusters == 200
    assert gains[0].degrees_clusters == pytest.approx(positives - 1, rel=0.1)


def test_a_single_positive_gives_hardly_a_verdict_and_is_said() -> None:
    generator = np.random.default_rng(2)
    gains = [auc_study(generator, 1) for _ in range(200)]
    assert all("auc: a class stands in one group of test alone" in gain.note for gain in gains)
    assert np.mean([gain.verdict in ("helped", "hurt") for gain in gains]) <= 0.05


def test_support_is_what_independent_means_of_the_classes_have() -> None:
    # Mean of two classes' means, of 4 and 25 groups with one spread; what the bootstrap sees is simulated.
    generator, trials = np.random.default_rng(0), 4000
    values = [generator.normal(size=(trials, number)) for number in (4, 25)]
    seen = sum(each.var(axis=1) / each.shape[1] for each in values) / 4
    factor, degrees = support(np.array([4, 25]), 29)
    true = (1 / 4 + 1 / 25) / 4
    assert factor * seen.mean() == pytest.approx(true, rel=0.03)
    assert degrees == pytest.approx(2 * seen.mean() ** 2 / seen.var(), rel=0.15)
    assert support(np.array([29]), 29) == pytest.approx((29 / 28, 28))
    assert support(np.array([29] * 12), 29) == pytest.approx((29 / 28, 28))  # twelve tasks, the same groups
    assert support(np.array([1, 1]), 2) == (2.0, 1.0)


@pytest.mark.parametrize(("case", "name"), CASES)
def test_the_groups_behind_each_class_are_counted(case: str, name: str) -> None:
    task = TASKS[case]
    outputs, values, present, groups = example(task)
    summary = METRICS[name].summarize(task, outputs, values, present, groups, GROUPS)
    having: dict[tuple[int, int], set[int]] = {}  # by column and class, the groups that have it
    for row, column in np.argwhere(present.reshape(len(groups), -1).numpy()).tolist():
        of_row = values.reshape(len(groups), -1) if case in ("binary", "multiclass", "multilabel") else None
        code = 0 if of_row is None else int(of_row[row, column])
        having.setdefault((column, code), set()).add(int(groups[row]))
    alike = {"balanced_accuracy": (0, 1, 2, 3, 4), "auc": (1, 0), "f1": (1,), "afa": (1,), "f1_macro": (1,)}
    if case == "multiclass":
        alike["f1_macro"] = (0, 1, 2, 3, 4)
    if name in alike:
        columns = sorted({column for column, _ in having})
        expected = [
            having[column, code] for column in columns for code in alike[name] if (column, code) in having
        ]
    elif name in ("f1_weighted", "f1_micro") and case == "multilabel":
        expected = [set().union(*(found for (_, code), found in having.items() if code == 1))]
    else:
        expected = [set().union(*having.values())]
    assert METRICS[name].part_counts(summary).tolist() == [len(found) for found in expected]


def test_parts_of_a_mean_of_tasks_are_those_of_its_tasks() -> None:
    outputs, values, present, groups = example(TASKS["binary"])
    auc = METRICS["auc"].summarize(TASKS["binary"], outputs, values, present, groups, GROUPS)
    mean = MeanOfTasks("auc", ["a", "b"])
    assert mean.part_counts(mean.join({"a": auc, "b": auc})).tolist() == 2 * [
        *METRICS["auc"].part_counts(auc)
    ]


# -- folds that are tested on again


@pytest.mark.parametrize(("folds", "repeats"), [(3, 9), (2, 10)])
def test_testing_on_the_same_folds_again_is_not_taken_for_more_splits(folds: int, repeats: int) -> None:
    # Folds differ, seeds hardly: counted as so many splits, 14 and 34 % of such studies were wrong.
    generator, wrong, trials = np.random.default_rng(0), 0, 600
    for _ in range(trials):
        # Gains of folds correlated by 0.1, as those that train on mostly the same rows are.
        of_folds = 0.33 * generator.normal() + 0.95 * generator.normal(size=folds)
        gains = np.resize(of_folds, repeats) + 0.1 * generator.normal(size=repeats)
        alone = Scores(dict.fromkeys(range(repeats), 10.0))
        cell = Scores({r: 10.0 - gain for r, gain in enumerate(gains)})
        ratio = 1 / (folds - 1)
        gain = compare("t", "mse", alone, {"c": cell}, test_over_train=ratio, same_folds=folds)["c"]
        wrong += gain.verdict in ("helped", "hurt")
    assert wrong / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_folds_count_by_their_means() -> None:
    values = np.random.default_rng(0).normal(size=8)
    of_repeats, overlap, degrees = over_splits(values, [0, 1, 2] * 2 + [0, 1], 0.5)
    means = [values[[0, 3, 6]].mean(), values[[1, 4, 7]].mean(), values[[2, 5]].mean()]
    spread = float(np.var(means, ddof=1))
    assert (overlap, degrees) == (pytest.approx(0.5 * spread), 2)
    assert of_repeats == pytest.approx(spread * (9 + 9 + 4) / 64)
    sample = Sample(values, None, 9, tuple("abcabcab"))
    half = stats.t.ppf(0.975, 2) * math.sqrt(of_repeats + overlap)
    assert sample.estimate(0.5)["high"] == pytest.approx(values.mean() + half)
    assert (sample - sample).splits == sample.splits


def test_one_fold_alone_has_no_interval() -> None:
    alone, cell = Scores({0: 1.0, 3: 1.1, 6: 1.2}), Scores({0: 0.9, 3: 0.9, 6: 0.8})
    gain = compare("t", "mse", alone, {"c": cell}, test_over_train=0.5, same_folds=3)["c"]
    assert math.isnan(gain.low)
    assert gain.verdict == "no difference shown"
    assert "fewer than two repeats (or folds)" in gain.note
    again = compare("t", "mse", alone, {"c": cell}, test_over_train=0.5)["c"]
    assert math.isfinite(again.low)


def test_advice_of_folds_counts_folds() -> None:
    alone = Scores(dict.fromkeys(range(20), 10.0))
    cell = Scores({r: 10.0 - (0.5, 1.0, 0.8, 1.4)[r % 4] for r in range(20)})
    gain = compare("t", "mse", alone, {"c": cell}, test_over_train=0.05, same_folds=4)["c"]
    advice = what_would_help(gain, same_folds=4)
    assert advice.repeats is not None
    spread = np.var([0.5, 1.0, 0.8, 1.4], ddof=1)
    halves = [
        stats.t.ppf(0.975, number - 1) * math.sqrt(spread * (1 / number + 0.05))
        for number in (advice.repeats, advice.repeats - 1)
    ]
    assert halves[0] <= (gain.high - gain.low) / 4 < halves[1]


def test_a_study_of_folds_knows_its_folds(tmp_path: Path) -> None:
    """Six repeats on three folds: the intervals of a study are those of three folds."""
    text = TEXT.replace("split: {by: person, test: 0.3, validation: 0.2}", "split: {by: person, folds: 3}")
    text = text.replace("repeats: 2", "repeats: 6").replace("epochs: 3", "epochs: 1")
    table = pd.read_csv(write_table(tmp_path) / "people.csv")
    table["heart"] = 42 + 9 * table.b + table.c
    table.to_csv(tmp_path / "people.csv", index=False)
    text = text.replace("  sex:  {kind: binary}", "  heart: {kind: regression, unit: years}")
    text = text.replace("group: person}", "group: person, features: [a, b, c, d]}")
    outcome = run(tmp_path, text=text[: text.index("  - cross_stitch")])
    rows = pd.read_parquet(outcome.folder / "results.parquet")
    rows = rows[(rows.part == "test") & (rows.metric == "mae")]
    rows = rows.set_index(["task", "cell_name", "repeat"]).value.sort_index()
    of_age, of_heart = (
        rows[task, f"{task} alone"] - rows[task, "hard sharing 2"] for task in ("age", "heart")
    )
    (row,) = (row for row in outcome.summary["gains"] if row["task"] == "age")
    (both,) = outcome.summary["overall"]["gains"]
    facts = ResultsStore(outcome.folder / "results.sqlite", read_only=True)
    with facts as store:
        known, done = store.facts(), by_cell_and_task(store.records())
    ratio = known["test_over_train"]
    for told, gains in ((row, of_age), (both, (of_age + of_heart) / 2)):
        by_fold = [gains[[fold, fold + 3]].mean() for fold in range(3)]
        half = stats.t.ppf(0.975, 2) * math.sqrt(np.var(by_fold, ddof=1) * (1 / 3 + ratio))
        assert told["gain"] == pytest.approx(gains.mean())
        assert (told["high"] - told["low"]) / 2 == pytest.approx(half)
    task, cell = TaskSet.from_dicts(known["tasks"])["age"], row["cell"]
    between = gain_between(  # as coupled cells are compared with their like
        outcome.folder, task, known, done["single_task", "age"], done[cell, "age"], cell
    )
    assert between is not None
    assert (between.gain, between.low) == (pytest.approx(row["gain"]), pytest.approx(row["low"]))


def test_the_share_of_test_rows_is_a_mean_over_the_folds(tmp_path: Path) -> None:
    table = pd.read_csv(write_table(tmp_path) / "people.csv")
    table.loc[:59, "person"] = "P0"  # one person has half of the rows
    table.to_csv(tmp_path / "people.csv", index=False)
    text = TEXT.replace("split: {by: person, test: 0.3, validation: 0.2}", "split: {by: person, folds: 3}")
    study = read(text=text.replace("repeats: 2", "repeats: 3"))
    cache = DataCache()
    prepared = prepare_data(study, tmp_path, tmp_path / "stores", cache)
    sizes = [(len(splits.test), len(splits.train)) for splits in map(cache.get, prepared.requests)]
    ratios = [test / train for test, train in sizes]
    assert max(ratios) > 2 * min(ratios)
    assert prepared.facts["test_over_train"] == pytest.approx(np.mean(ratios))
