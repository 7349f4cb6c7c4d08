"""Summaries: weights equal repeated rows, merging equals all at once, files come back, bad input is named."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

import taskloom as tl
from _metric_inputs import CASES, GROUPS, ROWS, TASKS, example
from taskloom import metrics
from taskloom.errors import DataError, TrainingError
from taskloom.metrics import METRICS, load_summaries, merge_all, save_summaries, summarize_all


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_integer_weights_equal_repeated_rows(name: str, metric: str) -> None:
    task = TASKS[name]
    outputs, values, present, groups = example(task)
    summary = METRICS[metric].summarize(task, outputs, values, present, groups, GROUPS)
    weights = np.random.default_rng(1).multinomial(GROUPS, [1 / GROUPS] * GROUPS, size=20).astype(float)
    found = METRICS[metric].evaluate(summary, weights)
    few = METRICS[metric].evaluate(summary, weights[:2])
    for line, multiplicity in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(ROWS), multiplicity[groups])
        repeated = METRICS[metric].summarize(
            task, outputs[rows], values[rows], present[rows], np.zeros(len(rows), dtype=np.int64), 1
        )
        assert found[line] == pytest.approx(METRICS[metric].evaluate(repeated), rel=1e-9, nan_ok=True)
    assert few == pytest.approx(found[:2], rel=1e-12, nan_ok=True)  # fewer lines than groups: the other route
    assert METRICS[metric].evaluate(summary, np.ones((1, GROUPS)))[0] == METRICS[metric].evaluate(summary)
    assert METRICS[metric].evaluate(summary, 2.5 * weights) == pytest.approx(found, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_merged_batches_equal_all_at_once(name: str, metric: str) -> None:
    task = TASKS[name]
    outputs, values, present, groups = example(task)
    whole = METRICS[metric].summarize(task, outputs, values, present, groups, GROUPS)
    parts = [
        METRICS[metric].summarize(task, outputs[s], values[s], present[s], groups[s], GROUPS)
        for s in (slice(0, 13), slice(13, 13), slice(13, ROWS))
    ]
    merged = METRICS[metric].merge(METRICS[metric].merge(parts[0], parts[1]), parts[2])
    weights = np.random.default_rng(2).random((9, GROUPS))
    assert METRICS[metric].evaluate(merged) == pytest.approx(METRICS[metric].evaluate(whole), rel=1e-12)
    assert METRICS[metric].evaluate(merged, weights) == pytest.approx(
        METRICS[metric].evaluate(whole, weights)
    )
    assert np.array_equal(METRICS[metric].label_counts(merged), METRICS[metric].label_counts(whole))


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_what_stands_in_holes_does_not_matter(name: str, metric: str) -> None:
    task = TASKS[name]
    outputs, values, present, groups = example(task)
    elements = present.reshape(ROWS, -1).repeat_interleave(
        task.width // present.reshape(ROWS, -1).shape[1], dim=1
    )
    spoilt_outputs = outputs.masked_fill(~elements, float("nan"))
    spoilt_values = values.clone()
    spoilt_values[~present] = float("nan") if values.is_floating_point() else -(2**40)
    clean = METRICS[metric].summarize(task, outputs, values, present, groups, GROUPS)
    spoilt = METRICS[metric].summarize(task, spoilt_outputs, spoilt_values, present, groups, GROUPS)
    assert METRICS[metric].evaluate(spoilt) == METRICS[metric].evaluate(clean)
    assert not np.isnan(METRICS[metric].evaluate(clean))


@pytest.mark.parametrize("name", ["binary", "multiclass"])
def test_labels_per_sample_equal_rows(name: str) -> None:
    task = TASKS[name]
    outputs, values, present, groups = example(task)
    windows, samples = ROWS // 5, 5
    for metric in task.metrics:
        rows = METRICS[metric].summarize(
            task, outputs, values, present, np.repeat(groups[:windows], samples), GROUPS
        )
        per_sample = METRICS[metric].summarize(
            task,
            outputs.reshape(windows, samples, -1).movedim(1, 2),
            values.reshape(windows, samples),
            present.reshape(windows, samples),
            groups[:windows],
            GROUPS,
        )
        weights = np.random.default_rng(0).random((4, GROUPS))
        assert METRICS[metric].evaluate(per_sample, weights) == pytest.approx(
            METRICS[metric].evaluate(rows, weights)
        )


def test_auc_of_many_resamples_is_the_same_by_all_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    from taskloom.metrics import ranking

    task = TASKS["multilabel"]
    outputs, values, present, groups = example(task)
    summary = METRICS["auc"].summarize(task, outputs, values, present, groups, GROUPS)
    weights = np.random.default_rng(0).random((50, GROUPS))
    weights[:, 0] = 0
    by_pairs = METRICS["auc"].evaluate(summary, weights)
    assert by_pairs == pytest.approx([naive_auc(summary, line) for line in weights], rel=1e-12)
    # A single line of weights is not worth the comparison of all pairs.
    monkeypatch.setattr(ranking, "_wins", None)
    alone = [METRICS["auc"].evaluate(summary, weights[line : line + 1])[0] for line in range(3)]
    assert alone == pytest.approx(by_pairs[:3], rel=1e-12)
    monkeypatch.setattr(ranking, "_PRODUCT_OVER_SORTED", 0)  # too many groups of both classes
    assert METRICS["auc"].evaluate(summary, weights) == pytest.approx(by_pairs, rel=1e-12)
    monkeypatch.setattr(
        ranking, "_MOST_ELEMENTS", 100
    )  # no room for a matrix, and only a line or two at once
    assert METRICS["auc"].evaluate(summary, weights) == pytest.approx(by_pairs, rel=1e-12)


def naive_auc(summary: metrics.Summary, weights: np.ndarray) -> float:
    """Mean over labels of the weighted share of pairs that stand right, ties half, by a loop over pairs."""
    found = []
    for column in range(int(summary["num_columns"])):
        rows = np.flatnonzero(summary["column"] == column)
        won = total = 0.0
        for i in rows[summary["positive"][rows]]:
            for j in rows[~summary["positive"][rows]]:
                weight = weights[summary["group"][i]] * weights[summary["group"][j]]
                first, second = summary["scores"][i], summary["scores"][j]
                won += weight * ((first > second) + 0.5 * (first == second))
                total += weight
        if total > 0:
            found.append(won / total)
    return float(np.mean(found))


def all_summaries(seed: int = 0) -> metrics.Summaries:
    tasks = tl.TaskSet(tl.Binary("a/b c"), tl.Multilabel("l", 4), tl.Regression("r"), tl.Landmarks("p", 3))
    drawn = {name: example(task, seed) for name, task in tasks.items()}
    labels = tl.Labels({n: d[1] for n, d in drawn.items()}, {n: d[2] for n, d in drawn.items()})
    return summarize_all(tasks, {n: d[0] for n, d in drawn.items()}, labels, drawn["r"][3], GROUPS)


def test_summarize_all_is_every_metric_of_every_predicted_task() -> None:
    tasks = tl.TaskSet(tl.Binary("b", metric="auc"), tl.Regression("r"), tl.Multiclass("m", 3))
    labels = tl.Labels({"b": torch.tensor([1, 0])}, {"b": torch.ones(2).bool()})
    outputs = {"m": torch.zeros(2, 3, 5), "b": torch.tensor([[1.0], [0.0]])}
    found = metrics.values(summarize_all(tasks, outputs, labels, np.array([0, 1]), 2))
    assert list(found) == ["b", "m"]
    assert list(found["b"]) == ["auc", "accuracy", "balanced_accuracy", "f1", "afa"]
    assert set(found["b"].values()) == {1.0}
    assert all(np.isnan(number) for number in found["m"].values())  # no labels of it at all


def test_merge_all_merges_every_metric() -> None:
    first, second = all_summaries(0), all_summaries(1)
    merged = merge_all(first, second)
    counts = metrics.label_counts(merged)
    for task, by_metric in metrics.label_counts(first).items():
        for metric, count in by_metric.items():
            assert counts[task][metric] == count + metrics.label_counts(second)[task][metric] > 0


def test_summaries_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    summaries = all_summaries()
    save_summaries(tmp_path / "test.npz", summaries)
    assert [path.name for path in tmp_path.iterdir()] == ["test.npz"]
    loaded = load_summaries(tmp_path / "test.npz")
    assert metrics.values(loaded) == metrics.values(summaries)
    for task, by_metric in summaries.items():
        for metric, summary in by_metric.items():
            assert list(loaded[task][metric]) == list(summary)
            for key, array in summary.items():
                assert loaded[task][metric][key].dtype == array.dtype
                assert np.array_equal(loaded[task][metric][key], array)


def test_one_metric_of_one_task_can_be_read_alone(tmp_path: Path) -> None:
    summaries = all_summaries()
    save_summaries(tmp_path / "test.npz", summaries)
    loaded = load_summaries(tmp_path / "test.npz", only=("r", "mae"))
    assert {task: list(by_metric) for task, by_metric in loaded.items()} == {"r": ["mae"]}
    for key, array in summaries["r"]["mae"].items():
        assert np.array_equal(loaded["r"]["mae"][key], array)


def test_a_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    save_summaries(path, all_summaries())
    whole = path.read_bytes()
    middle = len(whole) // 2
    array = io.BytesIO()
    np.save(array, np.ones(3))
    for content in (
        whole[:middle],
        whole[:60] + bytes(20) + whole[80:],
        b"",
        b"no archive",
        array.getvalue(),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"test\.npz: metric summaries expected"):
            load_summaries(path)
    np.savez(path, something=np.ones(3))
    with pytest.raises(DataError, match=r"test\.npz: metric summaries expected"):
        load_summaries(path)
    np.savez(path, contents=np.array('["taskloom metric summaries 99", []]'))
    with pytest.raises(
        DataError, match="`taskloom metric summaries 1` expected, found `taskloom metric summaries 99`"
    ):
        load_summaries(path)
    with pytest.raises(DataError, match=r"missing\.npz"):
        load_summaries(tmp_path / "missing.npz")


def test_a_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        save_summaries(tmp_path / "test.npz", all_summaries())
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_named() -> None:
    task = tl.Multiclass("gesture", 3)
    accuracy = METRICS["accuracy"]
    outputs, codes, present, groups = (
        torch.zeros(4, 3),
        torch.tensor([0, 1, 2, 0]),
        torch.ones(4).bool(),
        np.arange(4),
    )
    with pytest.raises(DataError, match=r"task gesture: class codes 0\.\.2 expected, found 7"):
        accuracy.summarize(task, outputs, torch.tensor([0, 1, 7, 0]), present, groups, 4)
    with pytest.raises(
        TrainingError, match="task gesture: the network's outputs are NaN or infinite for 1 of 4"
    ):
        accuracy.summarize(
            task, outputs.index_fill(0, torch.tensor([2]), torch.nan), codes, present, groups, 4
        )
    ages = tl.Regression("age")
    with pytest.raises(TrainingError, match="task age: the network's outputs are NaN or infinite for 2 of 4"):
        METRICS["mae"].summarize(
            ages, torch.tensor([[0.0], [torch.inf], [1.0], [-torch.inf]]), torch.zeros(4), present, groups, 4
        )
    with pytest.raises(ValueError, match=r"groups 0\.\.2 expected, found 0\.\.3"):
        accuracy.summarize(task, outputs, codes, present, groups, 3)
    with pytest.raises(ValueError, match="one group per row expected"):
        accuracy.summarize(task, outputs, codes, present, groups[:2], 4)
    with pytest.raises(ValueError, match=r"outputs of shape \[4, 3\] expected, found \[4, 2\]"):
        accuracy.summarize(task, outputs[:, :2], codes, present, groups, 4)
    summary = accuracy.summarize(task, outputs, codes, present, groups, 4)
    with pytest.raises(ValueError, match=r"weights of shape \[B, 4\] expected, found \(2, 3\)"):
        accuracy.evaluate(summary, np.ones((2, 3)))
    other = accuracy.summarize(task, outputs, codes, present, groups, 5)
    with pytest.raises(ValueError, match="summaries of one evaluation expected"):
        accuracy.merge(summary, other)
    for metric in ("mae", "landmark_error", "auc"):
        with pytest.raises(TypeError, match="found a multiclass task"):
            METRICS[metric].summarize(task, outputs, codes, present, groups, 4)
