"""TaskSet and Labels: order, subsets, fitting on what is present, indexing with holes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from taskloom.errors import ConfigError
from taskloom.tasks import Binary, Labels, Landmarks, Multiclass, Multilabel, Regression, TaskSet

TASKS = TaskSet(
    Regression("age"),
    Binary("sex"),
    Multilabel("tags", 3),
    Landmarks("face", 2),
    Regression("pose", size=2),
)


def random_labels(num_rows: int, seed: int = 0) -> Labels:
    """Labels of every kind with about half of them missing, NaN where a number is missing."""
    generator = torch.Generator().manual_seed(seed)
    values, present = {}, {}
    for name, task in TASKS.items():
        there = torch.rand(num_rows, *task.presence_shape, generator=generator) < 0.5
        drawn = torch.randint(0, 2, (num_rows, *task.value_shape), generator=generator).to(task.value_dtype)
        if drawn.is_floating_point():
            drawn = torch.randn(drawn.shape, generator=generator)
            drawn[~there] = float("nan")
        values[name], present[name] = drawn, there
    return Labels(values, present)


def test_the_set_keeps_its_order_and_subsets_follow_it() -> None:
    assert TASKS.names == ("age", "sex", "tags", "face", "pose")
    assert TASKS.index("tags") == 2
    assert TASKS.subset(["pose", "age"]).names == ("age", "pose")
    assert "sex" in TASKS
    assert "sexx" not in TASKS


def test_replaced_keeps_the_place() -> None:
    replaced = TASKS.replaced(Regression("age", unit="years"))
    assert replaced.names == TASKS.names
    assert replaced["age"].unit == "years"  # type: ignore[attr-defined]
    assert replaced["pose"] is TASKS["pose"]


def test_the_set_survives_the_way_through_json() -> None:
    again = TaskSet.from_dicts(json.loads(json.dumps(TASKS.to_dicts())))
    assert again.names == TASKS.names
    assert dict(again) == dict(TASKS)


def test_an_unknown_task_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"`ages` is not a task\. Did you mean `age`"):
        TASKS["ages"]
    with pytest.raises(ConfigError, match="`ages`"):
        TASKS.subset(["ages"])


def test_doubled_and_no_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="`age` stands twice"):
        TaskSet(Regression("age"), Binary("age"))
    with pytest.raises(ConfigError, match="at least one task"):
        TaskSet()


def test_fit_looks_at_present_labels_only() -> None:
    labels = random_labels(200)
    fitted = TASKS.fit(labels)
    for name in ("age", "pose", "face"):
        numbers = labels.values[name].double().numpy()
        task = fitted[name]
        assert task.center == pytest.approx(np.nanmean(numbers))  # type: ignore[attr-defined]
        assert task.scale == pytest.approx(np.nanstd(numbers))  # type: ignore[attr-defined]
    assert fitted["sex"] is TASKS["sex"]
    assert fitted.names == TASKS.names


def test_fit_without_any_label_leaves_the_scale_alone() -> None:
    fitted = TASKS.fit(Labels.empty(TASKS, 5))
    assert (fitted["age"].center, fitted["age"].scale) == (0.0, 1.0)  # type: ignore[attr-defined]
    assert TASKS.fit(Labels({}, {})).names == TASKS.names


def test_counts_count_what_is_present() -> None:
    labels = random_labels(50)
    counts = labels.counts()
    for name in ("age", "pose"):
        numbers = labels.values[name].reshape(50, -1)
        assert counts[name] == int((~numbers[:, 0].isnan()).sum())
    assert counts["face"] == int((~labels.values["face"].isnan()).all(dim=2).sum())
    assert Labels.empty(TASKS, 4).counts() == dict.fromkeys(TASKS.names, 0)


@pytest.mark.parametrize(
    "index",
    [slice(3, 9, 2), torch.tensor([9, 0, 0, 4]), torch.arange(10) % 3 == 0],
    ids=["slice", "indices", "mask"],
)
def test_indexing_takes_the_same_rows_of_everything(index: object) -> None:
    labels = random_labels(10)
    wanted = torch.arange(10)[index]  # type: ignore[index]
    taken = labels[index]
    assert len(taken) == len(wanted)
    for name in TASKS:
        for row, source in enumerate(wanted.tolist()):
            there = taken.present[name][row]
            assert torch.equal(there, labels.present[name][source])
            assert torch.equal(taken.values[name][row][there], labels.values[name][source][there])


def test_concatenate_undoes_cutting() -> None:
    labels = random_labels(10)
    joined = Labels.concatenate([labels[:4], labels[4:4], labels[4:]])
    for name in TASKS:
        assert torch.equal(joined.present[name], labels.present[name])
        assert torch.equal(joined.values[name].nan_to_num(), labels.values[name].nan_to_num())


def test_a_subset_of_labels_has_the_order_asked_for_and_leaves_out_what_is_not_there() -> None:
    labels = random_labels(4)
    assert list(labels.subset(["pose", "nothing", "age"]).values) == ["pose", "age"]


def test_empty_has_the_shapes_of_the_tasks() -> None:
    empty = Labels.empty(TaskSet(Multiclass("digit", 4), Landmarks("face", 5)), 3)
    assert empty.values["digit"].dtype == torch.int64
    assert empty.values["face"].shape == (3, 5, 2)
    assert empty.present["face"].shape == (3, 5)
    assert not empty.present["face"].any()


def test_labels_that_do_not_fit_each_other_are_refused() -> None:
    there = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="different tasks"):
        Labels({"age": torch.zeros(2)}, {"sex": there})
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        Labels({"age": torch.zeros(3)}, {"age": there})


def test_classes_from_the_data_reach_only_the_tasks_that_were_built_without() -> None:
    tasks = TaskSet(Binary("sex"), Multiclass("digit"), Binary("given", ("0", "1")), Regression("age"))
    assert tasks.without_classes == ("sex", "digit")
    known = dict.fromkeys(tasks, ("b", "a"))
    assert tasks.with_classes(known) == TaskSet(
        Binary("sex", ("b", "a")), Multiclass("digit", ("b", "a")), Binary("given", ("0", "1")), tasks["age"]
    )
    with pytest.raises(ConfigError, match=r"tasks\.sex\.classes: .* found 3"):
        tasks.with_classes({"sex": ("a", "b", "c")})
