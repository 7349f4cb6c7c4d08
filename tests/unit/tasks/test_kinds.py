"""Task kinds: widths and shapes, decoding by closed forms, dictionaries there and back, mistakes named."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from taskloom.errors import ConfigError
from taskloom.tasks import (
    HIGHER_IS_BETTER,
    KINDS,
    Binary,
    Landmarks,
    Multiclass,
    Multilabel,
    Ordinal,
    Regression,
    Task,
    task_from_dict,
)

EVERY_KIND = [
    Binary("sex", ("F", "M"), metric="auc"),
    Multiclass("digit", ("zero", "one", "two"), metric="f1_macro"),
    Multilabel("attributes", ("hat", "scarf"), role="auxiliary"),
    Regression("age", unit="years", center=40.0, scale=10.0, range=(0, 116), loss="huber"),
    Regression("pose", size=3),
    Ordinal("grade", range=(1, 5), loss="dex"),
    Landmarks("face", 5, reference=(0, 1), center=32.0, scale=8.0),
]


@pytest.mark.parametrize(
    ("task", "width", "value_shape", "presence_shape", "dtype"),
    [
        (EVERY_KIND[0], 1, (), (), torch.int64),
        (EVERY_KIND[1], 3, (), (), torch.int64),
        (EVERY_KIND[2], 2, (2,), (2,), torch.int64),
        (EVERY_KIND[3], 1, (), (), torch.float32),
        (EVERY_KIND[4], 3, (3,), (), torch.float32),
        (EVERY_KIND[5], 5, (), (), torch.float32),
        (EVERY_KIND[6], 10, (5, 2), (5,), torch.float32),
    ],
    ids=lambda value: value.name if isinstance(value, Task) else "",
)
def test_shapes_are_those_of_the_table_in_the_module(
    task: Task, width: int, value_shape: Any, presence_shape: Any, dtype: torch.dtype
) -> None:
    assert task.width == width
    assert task.value_shape == value_shape
    assert task.presence_shape == presence_shape
    assert task.value_dtype == dtype
    assert task.decode(torch.zeros(4, width)).shape == (
        (4, 3) if isinstance(task, Multiclass) else (4, *value_shape)
    )


@pytest.mark.parametrize("task", EVERY_KIND, ids=lambda task: task.name)
def test_a_task_survives_the_way_through_json(task: Task) -> None:
    assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.kind)
def test_every_metric_has_a_direction(kind: type[Task]) -> None:
    assert set(kind.known_metrics) <= set(HIGHER_IS_BETTER)


def test_binary_decodes_to_the_logistic_function() -> None:
    logits = [-2.0, 0.0, 3.0]
    expected = [1 / (1 + math.exp(-x)) for x in logits]
    decoded = Binary("sex").decode(torch.tensor(logits)[:, None])
    assert decoded.tolist() == pytest.approx(expected, abs=1e-6)


def test_binary_decodes_labels_per_sample() -> None:
    decoded = Binary("moving").decode(torch.zeros(2, 1, 7))
    assert decoded.shape == (2, 7)
    assert torch.all(decoded == 0.5)


def test_multiclass_decodes_to_the_softmax_over_classes_also_per_sample() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    total = sum(math.exp(x) for x in (1.0, 2.0, 3.0))
    expected = [math.exp(x) / total for x in (1.0, 2.0, 3.0)]
    task = Multiclass("digit", 3)
    assert task.decode(logits)[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert task.decode(logits[:, :, None].expand(1, 3, 4))[0, :, 2].tolist() == pytest.approx(
        expected, abs=1e-6
    )


def test_multilabel_decodes_each_label_by_itself() -> None:
    decoded = Multilabel("attributes", 2).decode(torch.tensor([[0.0, math.log(3.0)]]))
    assert decoded[0].tolist() == pytest.approx([0.5, 0.75], abs=1e-6)


def test_regression_decode_undoes_standardize_and_clips_to_the_range() -> None:
    task = Regression("age", center=40.0, scale=10.0, range=(0.0, 100.0))
    ages = torch.tensor([0.0, 33.5, 100.0])
    assert torch.allclose(task.decode(task.standardize(ages)[:, None]), ages)
    assert task.decode(torch.tensor([[99.0], [-99.0]])).tolist() == [100.0, 0.0]


def test_a_vector_regression_keeps_its_vectors() -> None:
    task = Regression("pose", size=2, center=1.0, scale=2.0)
    assert task.decode(torch.tensor([[0.0, 1.0]])).tolist() == [[1.0, 3.0]]


def test_fit_gives_values_of_mean_0_and_population_deviation_1() -> None:
    task = Regression("age").fit(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert task.center == 3.0
    assert task.scale == pytest.approx(math.sqrt(3.5))


@pytest.mark.parametrize(
    ("values", "center"), [(torch.empty(0), 0.0), (torch.full((3,), 7.0), 7.0)], ids=["none", "constant"]
)
def test_fit_without_spread_leaves_scale_1(values: torch.Tensor, center: float) -> None:
    task = Regression("age").fit(values)
    assert (task.center, task.scale) == (center, 1.0)


def test_landmarks_decode_to_pixels_x_before_y() -> None:
    task = Landmarks("face", 2, center=10.0, scale=2.0)
    decoded = task.decode(torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
    assert decoded.tolist() == [[[10.0, 12.0], [14.0, 16.0]]]
    assert torch.allclose(task.standardize(decoded).flatten(), torch.tensor([0.0, 1.0, 2.0, 3.0]))


def test_a_number_of_classes_names_them_by_their_codes() -> None:
    assert Multiclass("digit", 3).class_names == ("0", "1", "2")
    assert Multiclass("digit", [3, 1]).class_names == ("3", "1")  # type: ignore[arg-type]  # as YAML gives them


def test_classes_that_are_not_given_differ_from_classes_named_0_and_1() -> None:
    assert Binary("sex").class_names == Binary("sex", ("0", "1")).class_names
    assert Binary("sex").width == 1
    assert Binary("sex") != Binary("sex", ("0", "1"))
    for asked in ("width", "class_names"):
        with pytest.raises(ConfigError, match=r"tasks\.digit\.classes: not known yet.*`data\.tasks`"):
            getattr(Multiclass("digit"), asked)


def test_the_primary_metric_comes_first_and_every_other_follows_once() -> None:
    task = Binary("sex", metric="auc")
    assert task.metrics == ("auc", "accuracy", "balanced_accuracy", "f1", "afa")
    assert task.higher_is_better
    assert not Regression("age").higher_is_better
    assert Regression("age", metric="r2").higher_is_better


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "binry", "name": "sex"}, ["tasks.sex.kind", "`binry`", "Did you mean `binary`?"]),
        ({"name": "sex"}, ["tasks.sex", "`kind` is missing"]),
        ({"kind": "binary"}, ["binary", "`name`"]),
        ({"kind": "binary", "name": ""}, ["needs a name"]),
        ({"kind": "binary", "name": "sex", "metrc": "auc"}, ["tasks.sex.metrc", "Did you mean `metric`?"]),
        ({"kind": "binary", "name": "sex", "metric": "mae"}, ["tasks.sex.metric", "`mae`", "binary", "auc"]),
        (
            {"kind": "regression", "name": "age", "loss": "hubber"},
            ["tasks.age.loss", "Did you mean `huber`?"],
        ),
        ({"kind": "binary", "name": "sex", "role": "auxilliary"}, ["tasks.sex.role", "`auxiliary`"]),
        ({"kind": "binary", "name": "sex", "classes": ["F", "M", "X"]}, ["two classes", "found 3"]),
        ({"kind": "multiclass", "name": "digit", "classes": 1}, ["tasks.digit.classes", "found 1"]),
        ({"kind": "multiclass", "name": "digit", "classes": ["a", "b", "a"]}, ["`a` stands twice"]),
        ({"kind": "multiclass", "name": "digit", "classes": "yes"}, ["tasks.digit.classes", "'yes'"]),
        ({"kind": "multiclass", "name": "digit", "classes": True}, ["tasks.digit.classes", "True"]),
        ({"kind": "multilabel", "name": "tags"}, ["tasks.tags.labels", "at least one"]),
        ({"kind": "regression", "name": "age", "size": 0}, ["tasks.age.size", "found 0"]),
        ({"kind": "regression", "name": "age", "scale": 0}, ["tasks.age.scale", "above 0"]),
        ({"kind": "regression", "name": "age", "scale": "ten"}, ["tasks.age.scale", "ten"]),
        ({"kind": "regression", "name": "age", "range": [9, 3]}, ["tasks.age.range", "low < high"]),
        ({"kind": "regression", "name": "age", "range": [9]}, ["tasks.age.range", "[low, high]"]),
        ({"kind": "regression", "name": "age", "range": 9}, ["tasks.age.range", "[low, high]"]),
        ({"kind": "landmarks", "name": "face", "points": 0}, ["tasks.face.points", "at least one"]),
        ({"kind": "landmarks", "name": "face", "points": 2, "reference": [0, 2]}, ["below 2", "[0, 2]"]),
        ({"kind": "landmarks", "name": "face", "points": 2, "reference": [1, 1]}, ["different", "[1, 1]"]),
        ({"kind": "landmarks", "name": "face", "points": 2, "reference": "bux"}, ["reference", "'bux'"]),
        ({"kind": "landmarks", "name": "face", "points": 2, "reference": -3}, ["reference", "-3"]),
        ({"kind": "landmarks", "name": "face", "points": 2, "threshold": 0}, ["threshold", "above 0"]),
    ],
)
def test_a_mistake_is_named(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        task_from_dict(settings)
    for word in words:
        assert word in str(caught.value)
