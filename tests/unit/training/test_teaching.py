"""Soft labels: their losses by another route, only where a true label is missing, kept with their teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import taskloom as tl
from taskloom.data.feature_rows import FeatureRows
from taskloom.data.tables import TableDataset
from taskloom.errors import ConfigError
from taskloom.losses import SumCount, per_task
from taskloom.training.augment_config import AugmentConfig
from taskloom.training.teaching import SoftLabels, Teaching, check_teaching, soft_labels, soft_loss

TASKS = tl.TaskSet(
    tl.Multiclass("animal", ("cat", "bird", "bee")),
    tl.Binary("flies", ("no", "yes")),
    tl.Regression("size", center=2.0, scale=3.0),
    tl.Multilabel("parts", ("wings", "fur")),
)


def rows(num_rows: int = 12, *, missing: float = 0.5) -> TableDataset:
    generator = torch.Generator().manual_seed(0)

    def there(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) >= missing

    labels = tl.Labels(
        {
            "animal": torch.randint(0, 3, (num_rows,), generator=generator),
            "flies": torch.randint(0, 2, (num_rows,), generator=generator),
            "size": torch.randn(num_rows, generator=generator) * 3 + 2,
            "parts": torch.randint(0, 2, (num_rows, 2), generator=generator),
        },
        {name: there(num_rows) for name in ("animal", "flies", "size")} | {"parts": there(num_rows, 2)},
    )
    inputs = torch.randn(num_rows, 4, generator=generator).numpy().astype(np.float32)
    return TableDataset(FeatureRows(inputs), np.arange(num_rows), TASKS, labels)


def network(*names: str, seed: int = 0) -> tl.sharing.MultiTaskNetwork:
    torch.manual_seed(seed)
    return tl.sharing.hard_sharing(
        tl.encoders.mlp((4,), hidden=[5]), TASKS.subset(names or TASKS.names), stages=1
    )


def test_soft_labels_are_the_teachers_outputs_where_nothing_is_known() -> None:
    data, teacher = rows(), network("animal", "size").eval()
    soft = soft_labels({"animal": teacher, "size": teacher}, data, teaching=Teaching(temperature=2.0))
    with torch.no_grad():
        outputs = teacher(data.__getitems__(range(12)).inputs)
    torch.testing.assert_close(soft.values["animal"], (outputs["animal"] / 2).softmax(1))
    torch.testing.assert_close(soft.values["size"], outputs["size"])
    assert torch.equal(soft.missing["animal"], ~data.labels.present["animal"])
    assert soft.counts()["size"] == 12 - data.labels.counts()["size"]


def test_a_teachers_value_is_in_the_students_scale() -> None:
    data = rows()
    other = tl.TaskSet(tl.Regression("size", center=-1.0, scale=0.5))
    torch.manual_seed(0)
    teacher = tl.sharing.hard_sharing(tl.encoders.mlp((4,), hidden=[5]), other, stages=1).eval()
    soft = soft_labels({"size": teacher}, data)
    with torch.no_grad():
        output = teacher(data.__getitems__(range(12)).inputs)["size"]
    in_unit = other["size"].decode(output)
    torch.testing.assert_close(TASKS["size"].decode(soft.values["size"]), in_unit)


def test_sure_soft_labels_count_as_the_true_ones() -> None:
    """With probabilities of 0 and 1 in place of the missing labels the loss is that of complete labels."""
    complete, holes = rows(missing=0.0), rows()
    model = network()
    predictions = model(complete.__getitems__(range(12)).inputs)
    values = complete.labels.values
    sure = {
        "animal": F.one_hot(values["animal"], 3).float(),
        "flies": values["flies"][:, None].float(),
        "size": TASKS["size"].standardize(values["size"])[:, None],
        "parts": values["parts"].float(),
    }
    soft = SoftLabels(sure, {name: ~present for name, present in holes.labels.present.items()})
    labels = tl.Labels(values, holes.labels.present)
    found = soft.added(per_task(predictions, labels, TASKS), predictions, torch.arange(12), TASKS)
    expected = per_task(predictions, complete.labels, TASKS)
    for name in TASKS:
        assert found[name].count == expected[name].count
        torch.testing.assert_close(found[name].mean, expected[name].mean)


def test_loss_and_gradient_at_a_temperature_by_hand() -> None:
    output = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    teacher = torch.tensor([[0.2, 0.1, -0.4]])
    target = (teacher / 4).softmax(1)
    loss = soft_loss(TASKS["animal"], output, target, 4.0)
    log = (output / 4).log_softmax(1)[0].tolist()
    by_hand = -16 * sum(p * value for p, value in zip(target[0].tolist(), log, strict=True))
    assert loss.item() == pytest.approx(by_hand)
    loss.sum().backward()
    # d/dz = T (softmax(z / T) - softmax(v / T)): T^2 of the loss over T of the logits.
    torch.testing.assert_close(output.grad, 4 * ((output.detach() / 4).softmax(1) - target))
    yes = soft_loss(TASKS["flies"], torch.tensor([[0.7]]), torch.tensor([[0.3]]), 2.0)
    probability = 1 / (1 + np.exp(-0.35))
    assert yes.item() == pytest.approx(
        -4 * (0.3 * np.log(probability) + 0.7 * np.log(1 - probability)), rel=1e-5
    )


def test_weight_rows_of_a_batch_and_stopped_tasks() -> None:
    soft = SoftLabels(
        {"flies": torch.tensor([[0.9], [0.1], [0.4]])},
        {"flies": torch.tensor([False, True, True])},
        teaching=Teaching(weight=0.5),
    )
    true = {"flies": SumCount(torch.tensor(2.0), torch.tensor(1))}
    outputs = {"flies": torch.tensor([[1.0], [3.0]], requires_grad=True)}
    index = torch.tensor([2, 0])
    found = soft.added(true, outputs, index, TASKS)["flies"]
    own = F.binary_cross_entropy_with_logits(torch.tensor(1.0), torch.tensor(0.4))
    assert float(found.sum.detach()) == pytest.approx(2.0 + 0.5 * float(own))
    assert int(found.count) == 2
    assert soft.added(true, outputs, index, TASKS, active=()) == true
    nothing = soft.added(true, outputs, index, TASKS, counted=False)["flies"]
    nothing.sum.backward()
    assert int(nothing.count) == 1
    assert not outputs["flies"].grad.any()


def test_stored_with_names_and_versions(tmp_path: Path) -> None:
    data = rows()
    soft = soft_labels(
        {"flies": network("flies")},
        data,
        names={"flies": "flies alone, run 12ab"},
        teaching=Teaching(0.5, 3.0),
    )
    soft.save(tmp_path / "soft_labels.npz")
    back = SoftLabels.load(tmp_path / "soft_labels.npz")
    assert back.settings() == {
        "weight": 0.5,
        "temperature": 3.0,
        "teachers": {"flies": "flies alone, run 12ab"},
    }
    assert torch.equal(back.values["flies"], soft.values["flies"])
    assert torch.equal(back.missing["flies"], soft.missing["flies"])


def test_training_learns_from_soft_labels_alone() -> None:
    """A task without its labels in most rows is learned from a teacher that knows it."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(200, 4, generator=generator)
    truth = (inputs[:, 0] > 0).long()
    tasks = tl.TaskSet(tl.Binary("flies", ("no", "yes")))
    present = torch.zeros(200, dtype=torch.bool)
    present[0] = True
    features = FeatureRows(inputs.numpy())
    train = TableDataset(features, np.arange(150), tasks, tl.Labels({"flies": truth}, {"flies": present}))
    test = TableDataset(
        features, np.arange(150, 200), tasks, tl.Labels({"flies": truth}, {"flies": torch.ones(200).bool()})
    )
    sure = SoftLabels({"flies": truth[:150, None].float()}, {"flies": ~present[:150]})
    torch.manual_seed(0)
    student = tl.sharing.hard_sharing(tl.encoders.mlp((4,), hidden=[8]), tasks, stages=1)
    history = tl.fit(
        student,
        train,
        test,
        epochs=25,
        batch=32,
        optimizer={"adam": {"lr": 0.03}},
        device="cpu",
        soft_labels=sure,
    )
    assert history.finished
    assert tl.evaluate(student, test).value("flies", "accuracy") > 0.85


def test_refuses_what_does_not_fit() -> None:
    data = rows()
    with pytest.raises(ConfigError, match="the teacher of task flies predicts animal only"):
        soft_labels({"flies": network("animal")}, data)
    others = tl.TaskSet(tl.Binary("flies", ("yes", "no")))
    torch.manual_seed(0)
    teacher = tl.sharing.hard_sharing(tl.encoders.mlp((4,), hidden=[5]), others, stages=1)
    with pytest.raises(ConfigError, match="knows yes, no; the rows have no, yes"):
        soft_labels({"flies": teacher}, data)
    with pytest.raises(ConfigError, match=r"teachers\.weight: a number above 0 expected, found 0"):
        Teaching(weight=0)
    soft = soft_labels({"flies": network("flies")}, data)
    mirrored = AugmentConfig.model_validate({"flip": {"swap": {"flies": [["no", "yes"]]}}})
    with pytest.raises(ConfigError, match="soft labels of task flies do not change places"):
        check_teaching(soft.values, mirrored, TASKS)
    face = tl.TaskSet(tl.Landmarks("face", 2))
    for moving in ({"flip": {"swap": {"face": []}}}, {"affine": {}}):
        with pytest.raises(ConfigError, match="soft points of task face do not move with their image"):
            check_teaching(["face"], AugmentConfig.model_validate(moving), face)
    check_teaching(["face"], AugmentConfig.model_validate({"colour": {}, "mixup": {}}), face)
