"""Class weights against `torch.nn.functional.cross_entropy`, and sampling by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

import taskloom as tl
from taskloom.data.balanced_rows import balanced_weights
from taskloom.data.batch import EpochBatchSampler
from taskloom.errors import ConfigError
from taskloom.losses import SumCount, per_task
from taskloom.tasks.kinds import task_from_dict
from taskloom.training.config import TrainingConfig

CLASSES = ("NULL", "open", "close", "drink")
WEIGHTS = {"gesture": (0.1, 1.0, 2.5, 1.0), "other": (1.0, 0.0, 3.0, 0.25)}


def drawn(rows: int, seed: int) -> tuple[tl.Labels, dict[str, Tensor]]:
    """Codes of two tasks with holes (garbage inside), mostly NULL, and logits."""
    generator = torch.Generator().manual_seed(seed)
    values, present, outputs = {}, {}, {}
    for task in WEIGHTS:
        codes = torch.multinomial(torch.tensor([0.85, 0.05, 0.05, 0.05]), rows, True, generator=generator)
        there = torch.rand(rows, generator=generator) < 0.8
        values[task], present[task] = torch.where(there, codes, -7), there
        outputs[task] = torch.randn(rows, 4, generator=generator, dtype=torch.float64).requires_grad_()
    return tl.Labels(values, present), outputs


def of_torch(labels: tl.Labels, outputs: dict[str, Tensor], task: str) -> Tensor:
    there = labels.present[task]
    weight = torch.tensor(WEIGHTS[task], dtype=torch.float64)
    return F.cross_entropy(outputs[task][there], labels.values[task][there], weight=weight)


@pytest.mark.parametrize("names", [["gesture"], ["gesture", "other"]])  # alone, and stacked as alike
def test_mean_and_gradient_are_those_of_torch(names: list[str]) -> None:
    tasks = tl.TaskSet(*(tl.Multiclass(name, CLASSES, class_weights=WEIGHTS[name]) for name in names))
    labels, outputs = drawn(200, seed=0)
    losses = per_task({name: outputs[name] for name in names}, labels, tasks)
    for name in names:
        expected = of_torch(labels, outputs, name)
        torch.testing.assert_close(losses[name].mean, expected, rtol=2e-6, atol=0)
        (found,) = torch.autograd.grad(losses[name].mean, outputs[name], retain_graph=True)
        (gradient,) = torch.autograd.grad(expected, outputs[name])
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-9)


def test_sums_and_counts_of_parts_add_up_to_the_whole() -> None:
    """What several processes, and an evaluation batch by batch, do: one division at the end."""
    tasks = tl.TaskSet(tl.Multiclass("gesture", CLASSES, class_weights=WEIGHTS["gesture"]))
    labels, outputs = drawn(101, seed=1)
    parts = [
        per_task({"gesture": outputs["gesture"][rows]}, labels[rows], tasks)["gesture"]
        for rows in torch.arange(101).split(13)
    ]
    joined = SumCount(
        sum((part.sum for part in parts), torch.zeros(())), torch.stack([p.count for p in parts]).sum()
    )
    torch.testing.assert_close(joined.mean, of_torch(labels, outputs, "gesture"), rtol=2e-6, atol=0)
    assert joined.count.dtype == torch.int64


def test_a_batch_of_the_lightest_class_alone_and_one_of_weight_nothing() -> None:
    tasks = tl.TaskSet(tl.Multiclass("gesture", CLASSES, class_weights=(1e-9, 1.0, 1.0, 0.0)))
    outputs = {"gesture": torch.zeros(2, 4, requires_grad=True)}
    light = tl.Labels({"gesture": torch.tensor([0, 0])}, {"gesture": torch.ones(2).bool()})
    assert per_task(outputs, light, tasks)["gesture"].mean.item() == pytest.approx(np.log(4))
    nothing = tl.Labels({"gesture": torch.tensor([3, 3])}, {"gesture": torch.ones(2).bool()})
    loss = per_task(outputs, nothing, tasks)["gesture"]
    assert (loss.mean.item(), loss.count.item()) == (0.0, 0)


class TestDeclared:
    def test_balanced_is_scikit_learns_and_of_the_labels_given(self) -> None:
        codes = torch.tensor([0] * 70 + [1] * 20 + [2] * 6 + [3] * 4 + [1] * 50)
        there = torch.ones(150).bool()
        there[100:] = False
        tasks = tl.TaskSet(tl.Multiclass("a", CLASSES, class_weights="balanced"))
        (task,) = tasks.fit(tl.Labels({"a": codes}, {"a": there})).values()
        expected = compute_class_weight("balanced", classes=np.arange(4), y=codes[:100].numpy())
        assert task.to_dict()["class_weights"] == pytest.approx(tuple(expected))
        assert task_from_dict(task.to_dict()) == task

    def test_by_name(self) -> None:
        tasks = tl.TaskSet(tl.Multiclass("a", CLASSES, class_weights={"NULL": 0.1}))
        labels = tl.Labels({"a": torch.tensor([1])}, {"a": torch.ones(1).bool()})
        assert tasks.fit(labels)["a"].to_dict()["class_weights"] == (0.1, 1.0, 1.0, 1.0)
        with pytest.raises(ValueError, match="class_weights are not numbers yet"):
            per_task({"a": torch.zeros(1, 4)}, labels, tasks)

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ("balance", "tasks.a.class_weights: balanced, weights by class or a list expected"),
            ({"nul": 0.1}, "tasks.a.class_weights.nul is not a class"),
            ((1.0, 2.0), r"one weight for each of the 4 classes .* expected, found 2"),
            ((1.0, -2.0, 1.0, 1.0), "numbers from 0 expected, found -2.0"),
            ((0.0, 0.0, 0.0, 0.0), "a weight above 0 expected"),
        ],
    )
    def test_mistakes(self, given: object, sentence: str) -> None:
        labels = tl.Labels({"a": torch.tensor([1])}, {"a": torch.ones(1).bool()})
        with pytest.raises(ConfigError, match=sentence):
            tl.TaskSet(tl.Multiclass("a", CLASSES, class_weights=given)).fit(labels)  # type: ignore[arg-type]

    def test_none_leaves_settings_as_they_were(self) -> None:
        assert "class_weights" not in tl.Multiclass("a", CLASSES).to_dict()
        assert "balanced_sampling" not in TrainingConfig().model_dump()


class TestSampling:
    def test_every_class_comes_equally_often_and_rows_without_a_label_as_before(self) -> None:
        codes = torch.tensor([0] * 800 + [1] * 100 + [2] * 20 + [0] * 80)
        there = torch.arange(1000) < 920
        labels = tl.Labels({"a": codes}, {"a": there})
        tasks = tl.TaskSet(tl.Multiclass("a", ("0", "1", "2")))
        weights = balanced_weights(labels, tasks, "a")
        shares = [weights[(codes == code).numpy() & there.numpy()].sum() / weights.sum() for code in range(3)]
        assert shares == pytest.approx([0.92 / 3] * 3)
        assert weights[~there.numpy()].sum() / weights.sum() == pytest.approx(0.08)
        sampler = EpochBatchSampler(1000, 50, shuffle=True, seed=4, row_weights=weights)
        drawn_rows = np.concatenate([np.concatenate(list(sampler))] * 1)
        found = np.bincount(codes[drawn_rows][there[drawn_rows]].numpy(), minlength=3) / 1000
        assert len(drawn_rows) == 1000
        assert found == pytest.approx([0.307] * 3, abs=0.06)

    def test_order_follows_from_seed_and_epoch_and_is_shared_out(self) -> None:
        weights = np.linspace(1, 9, 40)

        def order(epoch: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
            sampler = EpochBatchSampler(
                40, 8, shuffle=True, seed=1, rank=rank, world_size=world_size, row_weights=weights
            )
            sampler.set_epoch(epoch)
            return list(sampler)

        assert order(3) == order(3) != order(4)
        for alone, first, second in zip(order(2), order(2, 0, 2), order(2, 1, 2), strict=True):
            assert (alone[0::2], alone[1::2]) == (first, second)

    def test_a_regression_has_no_classes(self) -> None:
        labels = tl.Labels({"a": torch.zeros(3)}, {"a": torch.ones(3).bool()})
        with pytest.raises(ConfigError, match="a binary or multiclass task expected, found regression a"):
            balanced_weights(labels, tl.TaskSet(tl.Regression("a")), "a")
