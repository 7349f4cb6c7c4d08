"""A batch in parts trains to what the whole batch trains to, holes, class weights and all."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import taskloom as tl
from _training import TASKS, TensorRows, TinyNetwork, rows_with_holes
from taskloom.errors import ConfigError
from taskloom.tasks import Labels
from taskloom.training import fit
from taskloom.training.parts import parts_of

SETTINGS: dict[str, Any] = {"epochs": 3, "batch": 8, "clip": 0.5, "device": "cpu", "threads": 1}


def _trained(settings: dict[str, Any], train: TensorRows, balancer: str | None = None) -> Any:
    torch.manual_seed(0)
    network = TinyNetwork(dropout=0.0)
    more = {} if balancer is None else {"balancer": tl.balancing.build(balancer, {})}
    history = fit(network, train, rows_with_holes(31, seed=2), **SETTINGS, **settings, **more)
    return network, history


@pytest.mark.parametrize("balancer", [None, "pcgrad"])
@pytest.mark.parametrize("parts", [3, 100])
def test_parts_equal_the_whole(parts: int, balancer: str | None) -> None:
    # 41 rows: the last batch has one row. With 85 % holes tasks are often absent from a part or batch.
    train = rows_with_holes(41, seed=1, holes=0.85)
    whole, first = _trained({}, train, balancer)
    parted, second = _trained({"accumulate": parts}, train, balancer)
    for one, other in zip(first.epochs, second.epochs, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-4)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parted.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_part_holds_the_activations_of_its_rows_only() -> None:
    seen: list[int] = []
    network = TinyNetwork(dropout=0.0)
    next(network.children()).register_forward_pre_hook(
        lambda module, inputs: seen.append(len(inputs[0])) if module.training else None
    )
    fit(
        network,
        rows_with_holes(16, seed=1),
        rows_with_holes(8, seed=2),
        **{**SETTINGS, "epochs": 1},
        accumulate=3,
    )
    assert seen == [3, 3, 2, 3, 3, 2]


@pytest.mark.parametrize("rows", range(1, 12))
@pytest.mark.parametrize("parts", range(1, 6))
def test_parts_hold_every_row_once_and_none_holds_one_row(rows: int, parts: int) -> None:
    inputs = torch.arange(rows, dtype=torch.float32)[:, None]
    labels = Labels({"age": inputs[:, 0]}, {"age": torch.ones(rows, dtype=torch.bool)})
    found = list(parts_of(inputs, labels, parts))
    assert torch.cat([part for part, _ in found]).tolist() == inputs.tolist()
    assert all(torch.equal(part[:, 0], part_labels.values["age"]) for part, part_labels in found)
    assert len(found) <= parts
    if rows > 1:
        assert min(len(part) for part, _ in found) >= 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"augment": {"mixup": {"alpha": 0.2}}}, "mixup and MixAugment blend rows"),
        ({"devices": 2}, "several processes divide the batch already"),
    ],
)
def test_refuses_what_cannot_be_right(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        _trained({"accumulate": 2, **settings}, rows_with_holes(16, seed=1))


def test_refuses_weights_that_follow_the_losses_of_the_batch() -> None:
    with pytest.raises(ConfigError, match=r"accumulate: 2: .* last part"):
        _trained({"accumulate": 2}, rows_with_holes(16, seed=1), "famo")


def test_identity_and_checkpoints_know_only_what_is_set() -> None:
    assert "accumulate" not in tl.training.TrainingConfig().model_dump()
    assert tl.training.TrainingConfig(accumulate=2).model_dump()["accumulate"] == 2
    assert len(TASKS) == 3
