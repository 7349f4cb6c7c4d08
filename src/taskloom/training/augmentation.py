"""Augmentation of training batches on the device; its draws follow from seed, epoch, step and rank alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taskloom.data.batch import Batch, TaskDataset
from taskloom.errors import ConfigError, did_you_mean
from taskloom.losses import SumCount, counts_of_labels, masked, per_task
from taskloom.tasks import Binary, Labels, Landmarks, Multiclass, Multilabel, StageOutput, Task, TaskSet
from taskloom.training.augment_config import AugmentConfig, FlipConfig
from taskloom.training.image_ops import affine_maps, coloured, flipped, flipped_points, moved, moved_points

SoftLosses = Callable[[dict[str, SumCount], Mapping[str, Tensor], Tensor | None], dict[str, SumCount]]
"""Adds losses on soft labels to those on true ones: of predictions whose row i has the soft labels of row
`rows[i]` of the batch, or of row i where `rows` is None."""


@dataclass(frozen=True)
class Mixture:
    """How rows of a batch were blended: row i is `share` of itself and the rest of row `partner[i]`.

    Args:
        share: lambda.
        partner: [B].
        with_real: Whether the rows as they are follow the blended ones in the inputs.
    """

    share: float
    partner: Tensor
    with_real: bool


@dataclass(frozen=True)
class Augmented:
    """A batch to train on: inputs [B, ...], or [2 B, ...] where real rows stand beside blended ones."""

    inputs: Tensor
    labels: Labels
    mixture: Mixture | None = None

    def unblended(self, predictions: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Of predictions of `inputs`, those of the rows as they are, [B, ...]; none where all are blended."""
        if self.mixture is None:
            return predictions
        return {name: output[len(self.mixture.partner) :] for name, output in predictions.items()}


class Augmentation:
    """Changes training batches, and computes the losses that belong to them.

    Args:
        config: What is done; None does nothing.
        dataset: The training rows: their shape, tasks, and the standardisation of their pixels.
        seed: Of the run.
        rank: This process.

    Raises:
        ConfigError: Something for images is asked of other inputs, or the settings do not fit the tasks.

    Example:
        >>> from taskloom.data.feature_rows import FeatureRows
        >>> from taskloom.data.tables import TableDataset
        >>> tasks = TaskSet(Binary("sex"))
        >>> labels = Labels({"sex": torch.tensor([0, 1])}, {"sex": torch.tensor([True, True])})
        >>> rows = TableDataset(FeatureRows(np.eye(2, dtype=np.float32)), np.arange(2), tasks, labels)
        >>> augmentation = Augmentation(AugmentConfig(mixup={"alpha": 1.0}), rows, seed=0)
        >>> augmented = augmentation(rows.__getitems__([0, 1]), epoch=1, step=1)
        >>> torch.allclose(augmented.inputs.sum(dim=1), torch.ones(2))
        True
    """

    def __init__(
        self, config: AugmentConfig | None, dataset: TaskDataset, *, seed: int, rank: int = 0
    ) -> None:
        self.config, self.seed, self.rank = config, seed, rank
        self.swaps: dict[str, Tensor] = {}
        self.pixels: tuple[Tensor, Tensor] | None = None
        if config is None:
            return
        for name in ("flip", "affine", "colour"):
            if getattr(config, name) is not None and len(dataset.input_shape) != 3:
                raise ConfigError(
                    f"training.augment.{name}: inputs of shape [3, height, width] expected, found "
                    f"{list(dataset.input_shape)}; it is for images."
                )
        if config.flip is not None:
            self.swaps = _swaps(config.flip, dataset.tasks)
        if config.colour is not None:
            self.pixels = _pixel_scale(dataset)

    def check_alone(self, coupled: bool) -> None:
        """Refuses batches of blended rows alone beside coupled tasks.

        MixAugment, with which paper 003 trains, has the rows as they are beside the blended ones: a coupling
        compares those, with their labels.

        Raises:
            ConfigError: Says what to leave out.
        """
        if coupled and self.config is not None and self.config.mixup:
            raise ConfigError(
                "training.augment.mixup: blended rows have no label of their own that `coupling` could "
                "compare; use mixaugment, which has the rows as they are beside them, or leave mixup, or the "
                "coupling, out."
            )

    def __call__(self, batch: Batch, *, epoch: int, step: int) -> Augmented:
        """Augments one batch."""
        if self.config is None:
            return Augmented(batch.inputs, batch.labels)
        random = np.random.default_rng((self.seed, 7, epoch, step, self.rank))
        inputs, labels = self._image(batch.inputs, batch.labels, random)
        return self._mixed(inputs, labels, random)

    def losses(
        self,
        predictions: Mapping[str, Tensor],
        augmented: Augmented,
        labels: Labels,
        tasks: TaskSet,
        soft: SoftLosses | None = None,
    ) -> dict[str, SumCount]:
        """Losses per task of an augmented batch; counts are those of the batch itself.

        Args:
            predictions: Of `augmented.inputs`.
            augmented: What `__call__` gave.
            labels: Its labels, perhaps of fewer tasks.
            tasks: The tasks.
            soft: What adds the losses on soft labels, which blend as true ones do; None where there are none.
        """
        mixture = augmented.mixture
        if mixture is None:
            return self._plain(predictions, labels, tasks, soft)
        rows = len(mixture.partner)
        blended = {name: output[:rows] for name, output in predictions.items()}
        own = self._plain(blended, labels, tasks, soft)
        other = self._plain(blended, labels[mixture.partner], tasks, soft, mixture.partner)
        mixed = _weighted((mixture.share, own), (1 - mixture.share, other))
        if not mixture.with_real:
            return mixed
        # The loss of Psaroudakis and Kollias has three terms: the blend's, and those of both its rows. Over a
        # batch the rows and their partners are the same ones. Their mean keeps the scale of a plain loss.
        real = self._plain(augmented.unblended(predictions), labels, tasks, soft)
        return _weighted((1 / 3, mixed), (2 / 3, real))

    def _plain(
        self,
        predictions: Mapping[str, Tensor],
        labels: Labels,
        tasks: TaskSet,
        soft: SoftLosses | None,
        rows: Tensor | None = None,
    ) -> dict[str, SumCount]:
        losses = per_task(predictions, labels, tasks)
        smoothing = self.config.label_smoothing if self.config is not None else 0.0
        if smoothing:
            for name, even in _even_losses(predictions, labels, tasks).items():
                total = (1 - smoothing) * losses[name].sum + smoothing * even
                losses[name] = SumCount(total, losses[name].count)
        return losses if soft is None else soft(losses, predictions, rows)

    def _image(self, inputs: Tensor, labels: Labels, random: np.random.Generator) -> tuple[Tensor, Labels]:
        config, rows = self.config, len(inputs)
        assert config is not None
        values = dict(labels.values)
        points = [name for name, value in values.items() if value.ndim == 3 and value.shape[-1] == 2]

        def drawn(low: float, high: float, *shape: int) -> Tensor:
            numbers = random.uniform(low, high, (rows, *shape)).astype(np.float32)
            return torch.from_numpy(numbers).to(inputs.device)

        if config.flip is not None:
            which = drawn(0, 1) < config.flip.probability
            inputs = flipped(inputs, which)
            for name, order in self.swaps.items():
                if name not in values:
                    continue
                order = order.to(inputs.device)
                if name in points:
                    values[name] = flipped_points(values[name], which, inputs.shape[3], order)
                else:
                    # Whatever stands where no label is, such as -100, is no place in the order.
                    there = which & labels.present[name]
                    codes = torch.where(there, values[name], 0)
                    values[name] = torch.where(there, order[codes], values[name])
        if config.affine is not None:
            affine, (height, width) = config.affine, inputs.shape[2:]
            shift = drawn(-1, 1, 2) * affine.translation * torch.tensor([width, height], device=inputs.device)
            turn, scale = drawn(-affine.rotation, affine.rotation), drawn(*affine.scale)
            maps = affine_maps(turn, scale, shift, height, width)
            inputs = moved(inputs, maps)
            values |= {name: moved_points(values[name], maps) for name in points}
        if config.colour is not None:
            assert self.pixels is not None
            colour = config.colour
            amounts = (colour.brightness, colour.contrast, colour.saturation)
            factors = [drawn(1 - amount, 1 + amount) for amount in amounts]
            mean, deviation = (part.to(inputs.device) for part in self.pixels)
            inputs = (coloured(inputs * deviation + mean, *factors) - mean) / deviation
        presence = dict(labels.present)
        if config.flip is not None:
            for name, order in self.swaps.items():
                if name in points:
                    present = presence[name]
                    presence[name] = torch.where(
                        which[:, None], present[:, order.to(present.device)], present
                    )
        return inputs, Labels(values, presence)

    def _mixed(self, inputs: Tensor, labels: Labels, random: np.random.Generator) -> Augmented:
        assert self.config is not None
        config = self.config.mixup or self.config.mixaugment
        if config is None:
            return Augmented(inputs, labels)
        share = float(random.beta(config.alpha, config.alpha))
        partner = torch.from_numpy(random.permutation(len(inputs))).to(inputs.device)
        blended = share * inputs + (1 - share) * inputs[partner]
        with_real = self.config.mixaugment is not None
        inputs = torch.cat([blended, inputs]) if with_real else blended
        return Augmented(inputs, labels, Mixture(share, partner, with_real))


def _weighted(*parts: tuple[float, Mapping[str, SumCount]]) -> dict[str, SumCount]:
    """Weighted sums of losses over equal counts."""
    first = parts[0][1]
    return {
        name: SumCount(torch.stack([w * losses[name].sum for w, losses in parts]).sum(), first[name].count)
        for name in first
    }


def _even_losses(predictions: Mapping[str, Tensor], labels: Labels, tasks: TaskSet) -> dict[str, Tensor]:
    """Per task of classes, the sum of its losses against all classes evenly; lower stages as they weigh."""
    found: dict[str, Tensor] = {}
    for name, output in predictions.items():
        task, factor = (name.task, name.weight) if isinstance(name, StageOutput) else (name, 1.0)
        even = _even_loss(tasks[task], output, labels)
        if even is not None:
            found[task] = factor * even.sum + found.get(task, 0)
    return found


def _even_loss(task: Task, output: Tensor, labels: Labels) -> SumCount | None:
    """The loss against all classes evenly, counted as the labels are; None for a task that has none."""
    if task.name not in labels.values or not isinstance(task, Binary | Multiclass | Multilabel):
        return None
    output = output.float()
    present = labels.present[task.name]
    if isinstance(task, Multiclass):
        scores = output.movedim(1, -1)
        times = counts_of_labels(task, labels.values[task.name], present)
        return masked(
            lambda out, often: -F.log_softmax(out, dim=-1).mean(dim=-1) * often, scores, times, present
        )
    scores = output.squeeze(1) if isinstance(task, Binary) else output
    return masked(lambda out, _: (F.softplus(out) + F.softplus(-out)) / 2, scores, present.long(), present)


def _swaps(config: FlipConfig, tasks: TaskSet) -> dict[str, Tensor]:
    """Per task with a left and a right, what stands in the place of each point or class in the mirror."""
    for name in config.swap:
        if name not in tasks:
            raise ConfigError(
                f"training.augment.flip.swap: `{name}` is not a task.{did_you_mean(name, tasks)} Tasks: "
                f"{', '.join(tasks)}."
            )
    found = {}
    for name, task in tasks.items():
        if isinstance(task, Landmarks):
            pairs = config.swap[name] if name in config.swap else _named_pairs(task)
            found[name] = _order(name, task.class_names, pairs)
        elif name in config.swap:
            if not isinstance(task, Binary | Multiclass):
                raise ConfigError(
                    f"training.augment.flip.swap.{name}: points or classes change places, not a {task.kind}."
                )
            found[name] = _order(name, task.class_names, config.swap[name])
    return found


def _named_pairs(task: Landmarks) -> list[tuple[str, str]]:
    """Points whose names differ by left and right."""
    names = task.class_names
    pairs = [
        (name, name.replace("left", "right"))
        for name in names
        if "left" in name and name.replace("left", "right") in names
    ]
    if not pairs and len(names) > 1:
        raise ConfigError(
            f"training.augment.flip.swap.{task.name}: the pairs of points that change places in the mirror "
            f"expected, as [[left_eye, right_eye]], or [] for none; its points are {', '.join(names)}."
        )
    return pairs


def _order(task: str, names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Tensor:
    order = list(range(len(names)))
    for pair in pairs:
        for name in pair:
            if name not in names:
                raise ConfigError(
                    f"training.augment.flip.swap.{task}: `{name}` is none of its points or classes."
                    f"{did_you_mean(name, names)} They are {', '.join(names)}."
                )
        first, second = (names.index(name) for name in pair)
        order[first], order[second] = second, first
    return torch.tensor(order)


def _pixel_scale(dataset: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the standardised pixels per channel, [1, 3, 1, 1], on the scale 0..1."""
    while not hasattr(dataset, "standardization") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset  # a view of some of its rows
    fitted = getattr(dataset, "standardization", None)
    if fitted is None:
        raise ConfigError(
            "training.augment.colour: images of a store expected, whose standardisation is known; found "
            f"{type(dataset).__name__}."
        )
    mean, deviation = torch.tensor(fitted.mean), torch.tensor(fitted.deviation)
    return mean.view(1, 3, 1, 1), deviation.view(1, 3, 1, 1)
