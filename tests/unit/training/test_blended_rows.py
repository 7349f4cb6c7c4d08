"""Blended rows beside teachers and couplings: paper 003 trains all its settings with MixAugment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import taskloom as tl
from taskloom.coupling import Coupling, expression_action_units
from taskloom.coupling.losses import distribution_matching, soft_co_annotation
from taskloom.data.batch import Batch
from taskloom.data.feature_rows import FeatureRows
from taskloom.data.tables import TableDataset
from taskloom.sharing import MultiTaskNetwork
from taskloom.training.augment_config import AugmentConfig
from taskloom.training.augmentation import Augmentation
from taskloom.training.teaching import SoftLabels, Teaching, soft_labels
from taskloom.training.trainer import Trainer

TABLE = expression_action_units()
TASKS = tl.TaskSet(tl.Multiclass("face", TABLE.classes), tl.Multilabel("units", TABLE.attributes))
ROWS = 16


def rows() -> TableDataset:
    """Half of the rows have only their expression, half only their action units."""
    draw = torch.Generator().manual_seed(0)
    first = torch.arange(ROWS) < ROWS // 2
    labels = tl.Labels(
        {
            "face": torch.randint(0, 6, (ROWS,), generator=draw),
            "units": torch.randint(0, 2, (ROWS, 17), generator=draw),
        },
        {"face": first, "units": (~first)[:, None].expand(ROWS, 17).clone()},
    )
    inputs = torch.randn(ROWS, 4, generator=draw).numpy()
    return TableDataset(FeatureRows(inputs), np.arange(ROWS), TASKS, labels)


def network(seed: int = 0) -> MultiTaskNetwork:
    torch.manual_seed(seed)
    return tl.sharing.hard_sharing(tl.encoders.mlp((4,), hidden=[5]), TASKS, stages=1)


def one_step(model: MultiTaskNetwork, data: TableDataset, augment: dict[str, Any], **beside: Any) -> None:
    """One batch of all rows, by plain gradient descent of rate 1."""
    tl.fit(
        model,
        data,
        data,
        epochs=1,
        batch=ROWS,
        optimizer={"sgd": {"lr": 1.0}},
        augment=augment,
        device="cpu",
        progress=False,
        seed=3,
        **beside,
    )


def class_loss(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(1)).sum()


def unit_loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")


@pytest.mark.parametrize("kind", ["mixup", "mixaugment"])
def test_blended_rows_take_the_blend_of_both_rows_labels_true_or_soft(kind: str) -> None:
    data, augment = rows(), {kind: {"alpha": 0.8}}
    teacher = network(7)
    soft = soft_labels(dict.fromkeys(TASKS, teacher), data, teaching=Teaching(temperature=1.0))
    augmentation = Augmentation(AugmentConfig.model_validate(augment), data, seed=3)
    batch = data.__getitems__(range(ROWS))
    found = augmentation(batch, epoch=1, step=1)
    assert found.mixture is not None
    share, partner = found.mixture.share, found.mixture.partner
    predictions = network(1)(found.inputs)

    def with_soft(losses: Any, given: Any, where: Tensor | None) -> Any:
        return soft.added(losses, given, batch.index if where is None else batch.index[where], TASKS)

    losses = augmentation.losses(predictions, found, batch.labels, TASKS, with_soft)
    # Both losses are linear in their target, so that a blended row has one target: the blend of two.
    full = {name: full_targets(data, soft, name)[0] for name in TASKS}
    count = {"face": ROWS, "units": ROWS * 17}
    for name, loss in (("face", class_loss), ("units", unit_loss)):
        target = share * full[name] + (1 - share) * full[name][partner]
        expected = loss(predictions[name][:ROWS], target)
        if kind == "mixaugment":
            expected = (expected + 2 * loss(predictions[name][ROWS:], full[name])) / 3
        assert int(losses[name].count) == count[name]
        torch.testing.assert_close(losses[name].sum, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["mixup", "mixaugment"])
def test_a_training_step_with_teachers_is_that_of_the_blended_targets(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, augment = rows(), {kind: {"alpha": 0.8}}
    soft = soft_labels(dict.fromkeys(TASKS, network(7)), data)
    trained, plain, step, seen = network(), network(), Trainer.step, []

    def watched(trainer: Trainer, batch: Batch, *others: Any) -> Any:
        seen.append(batch)
        return step(trainer, batch, *others)

    monkeypatch.setattr(Trainer, "step", watched)
    one_step(trained, data, augment, soft_labels=soft)
    (batch,) = seen  # training draws an order of its own: laid back into that of the data set
    found = Augmentation(AugmentConfig.model_validate(augment), data, seed=3)(batch, epoch=1, step=1)
    assert found.mixture is not None
    back, share = torch.argsort(batch.index), found.mixture.share
    blended, partner = found.inputs[:ROWS][back], batch.index[found.mixture.partner][back]
    real = batch.inputs[back]
    outputs = plain(torch.cat([blended, real]))
    total = torch.zeros(())
    for name, loss in (("face", class_loss), ("units", unit_loss)):
        labels, there = full_targets(data, soft, name)
        target = share * labels + (1 - share) * labels[partner]
        part = loss(outputs[name][:ROWS], target)
        if kind == "mixaugment":
            part = (part + 2 * loss(outputs[name][ROWS:], labels)) / 3
        total = total + part / there
    total.backward()
    for before, after in zip(plain.parameters(), trained.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(after, before - before.grad, rtol=1e-4, atol=1e-5)


def full_targets(data: TableDataset, soft: SoftLabels, name: str) -> tuple[Tensor, int]:
    """Targets with the soft labels in the holes, and how many labels that are."""
    value, there = data.labels.values[name], data.labels.present[name]
    true = F.one_hot(value, 6) if name == "face" else value
    where = there[:, None] if name == "face" else there
    return torch.where(where, true.float(), soft.values[name]), there.numel()


def test_a_coupling_beside_mixaugment_compares_the_rows_as_they_are() -> None:
    data, augment = rows(), {"mixaugment": {"alpha": 0.8}}
    trained, without, plain = network(), network(), network()
    one_step(trained, data, augment, coupling=Coupling(TABLE, classes="face", attributes="units"))
    one_step(without, data, augment)
    labels = data.labels
    outputs = plain(data.__getitems__(range(ROWS)).inputs)
    weights = torch.from_numpy(TABLE.values)
    matching = distribution_matching(outputs["face"], outputs["units"], (weights > 0).double())
    annotated = soft_co_annotation(
        outputs["face"], labels.values["units"], labels.present["units"], weights.float()
    )
    (matching.mean + annotated.mean).backward()
    for before, beside, after in zip(
        plain.parameters(), without.parameters(), trained.parameters(), strict=True
    ):
        assert before.grad is not None
        torch.testing.assert_close(after, beside - before.grad, rtol=1e-4, atol=1e-5)


def test_unblended_rows_are_the_second_half_or_all() -> None:
    data = rows()
    batch = data.__getitems__(range(ROWS))
    for settings, kept in (({}, ROWS), ({"mixaugment": {}}, ROWS), ({"mixup": {}}, 0)):
        found = Augmentation(AugmentConfig.model_validate(settings), data, seed=0)(batch, epoch=1, step=1)
        unblended = found.unblended({"inputs": found.inputs})["inputs"]
        assert torch.equal(unblended, batch.inputs[:kept])
