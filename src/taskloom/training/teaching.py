"""Student and teacher: trained networks label what is missing in training rows, another one learns from both.

Where a true label is there, it alone counts; where it is missing, the teacher's soft label stands in for it
(paper 003, the row S-T NC MT of table 2; distillation with a temperature after Hinton et al. 2015). Over the
rows of a batch, with n true labels and m soft ones, a task's loss is

    (sum of its losses on true labels + weight * sum of its losses on soft labels) / (n + m)

so that with weight 1 a soft label counts as a true one does. Where a task weighs its classes, n and m are
sums of weights, and a soft label's share in a class weighs as much as that class. The loss on a soft label
is, with logits z of the student, v of the teacher and temperature T,

    classes                  -T^2 sum_c softmax(v / T)_c log softmax(z / T)_c
    yes/no, levels (CORAL)   T^2 times the cross-entropy of sigmoid(z / T) against sigmoid(v / T)
    numbers, points          the task's own loss against the teacher's value

T^2 keeps the gradients' size where T changes (Hinton et al., section 2.1).
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taskloom.data.batch import TaskDataset
from taskloom.errors import ConfigError
from taskloom.losses import LOSSES, SumCount, class_counts
from taskloom.tasks import Labels, Landmarks, Regression, Task, TaskSet
from taskloom.training.checkpoints import write_atomically
from taskloom.training.evaluation import evaluate

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork
    from taskloom.training.augment_config import AugmentConfig

FILE = "soft_labels.npz"


@dataclass(frozen=True)
class Teaching:
    """How much soft labels count.

    Args:
        weight: Factor on the losses of soft labels, above 0.
        temperature: Divides the logits of teacher and student, above 0; more than 1 shows what the teacher
            holds possible besides its choice.

    Raises:
        ConfigError: Not above 0.
    """

    weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("weight", self.weight), ("temperature", self.temperature)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigError(f"teachers.{name}: a number above 0 expected, found {value!r}.")


@dataclass(frozen=True)
class SoftLabels:
    """What teachers say about the N training rows of a student.

    Args:
        values: Per task, probabilities (at the temperature) or standardised values, [N, width] or
            [N, width, W].
        missing: Per task, where no true label is, shaped like the labels' presence.
        teachers: Per task, name and version of its teacher.
        teaching: Weight and temperature.
    """

    values: Mapping[str, Tensor]
    missing: Mapping[str, Tensor]
    teachers: Mapping[str, str] = field(default_factory=dict)
    teaching: Teaching = field(default_factory=Teaching)

    def counts(self) -> dict[str, int]:
        """Number of soft labels per task that stand in for a missing one."""
        return {name: int(missing.sum()) for name, missing in self.missing.items()}

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must agree on with a run that goes on from it."""
        return {
            "weight": self.teaching.weight,
            "temperature": self.teaching.temperature,
            "teachers": dict(self.teachers),
        }

    def added(
        self,
        losses: Mapping[str, SumCount],
        predictions: Mapping[str, Tensor],
        index: Tensor,
        tasks: TaskSet,
        *,
        active: Collection[str] | None = None,
        counted: bool = True,
    ) -> dict[str, SumCount]:
        """Adds the losses on soft labels to those on true ones.

        Args:
            losses: Per task (and term), on true labels; what has no soft labels stays.
            predictions: Head outputs of the batch, [B, width] or [B, width, W].
            index: Which training rows these are, [B], on the CPU.
            tasks: The tasks.
            active: Tasks that still learn; all where None.
            counted: False where the rows are not this process's own: nothing is counted, the gradient is 0.

        Example:
            >>> tasks = tl.TaskSet(tl.Binary("smiling"))
            >>> soft = SoftLabels(
            ...     {"smiling": torch.tensor([[0.5], [0.5]])}, {"smiling": torch.tensor([False, True])}
            ... )
            >>> true = {"smiling": SumCount(torch.tensor(0.1), torch.tensor(1))}
            >>> outputs = {"smiling": torch.zeros(2, 1)}
            >>> both = soft.added(true, outputs, torch.tensor([0, 1]), tasks)["smiling"]
            >>> f"{both.sum:.4f} {both.count}"  # 0.1 + log 2
            '0.7931 2'
        """
        found = dict(losses)
        for name, missing in self.missing.items():
            if name not in predictions or (active is not None and name not in active):
                continue
            output = predictions[name]
            target = self.values[name][index].to(output.device)
            where = missing[index].to(output.device)
            often = _counts_of_classes(tasks[name], target)
            with torch.autocast(output.device.type, enabled=False):
                weighed = target if often is None else target * often
                loss = soft_loss(tasks[name], output.float(), weighed, self.teaching.temperature)
            loss = loss.reshape(*where.shape, -1).mean(dim=-1)
            total = self.teaching.weight * torch.where(where, loss, 0).sum()
            own, factor = found[name], int(counted)
            times = where if often is None else torch.where(where, weighed.sum(dim=1).round().long(), 0)
            found[name] = SumCount(own.sum + factor * total, own.count + factor * times.sum())
        return found

    def save(self, path: Path) -> None:
        """Writes soft labels with their teachers' names and versions, whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        about = json.dumps({**self.settings(), "tasks": list(self.values)})
        arrays: dict[str, Any] = {"about": np.array(about)}
        for number, name in enumerate(self.values):
            arrays[f"values_{number}"] = self.values[name].numpy()
            arrays[f"missing_{number}"] = self.missing[name].numpy()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(path, buffer.getbuffer())

    @classmethod
    def load(cls, path: Path) -> SoftLabels:
        """Reads what `save` wrote; nothing is unpickled."""
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            values = {n: torch.from_numpy(file[f"values_{i}"]) for i, n in enumerate(about["tasks"])}
            missing = {n: torch.from_numpy(file[f"missing_{i}"]) for i, n in enumerate(about["tasks"])}
        return cls(values, missing, about["teachers"], Teaching(about["weight"], about["temperature"]))


def soft_labels(
    teachers: Mapping[str, MultiTaskNetwork],
    rows: TaskDataset,
    *,
    names: Mapping[str, str] | None = None,
    teaching: Teaching | None = None,
    batch: int = 1024,
) -> SoftLabels:
    """Lets every task's teacher label the rows that miss a label of the task.

    Args:
        teachers: Per task, a trained network that predicts it.
        rows: The student's training rows.
        names: Per task, name and version of the teacher, which are kept with its labels.
        teaching: Weight and temperature.
        batch: Rows at a time.

    Returns:
        Soft labels of the tasks that miss any.

    Raises:
        ConfigError: A teacher without its task, or with other classes than the rows.
    """
    teaching = teaching or Teaching()
    labels, nothing = rows.labels, Labels.empty(rows.tasks, len(rows))
    values, missing = {}, {}
    for name, teacher in teachers.items():
        task = rows.tasks[name]
        there = labels.present.get(name, nothing.present[name])
        if bool(there.all()):
            continue
        _check_teacher(name, task, teacher.tasks)
        outputs = evaluate(teacher, rows, batch=batch).outputs[name]
        values[name] = _softened(task, teacher.tasks[name], outputs, teaching.temperature)
        missing[name] = ~there
    given = {name: (names or {}).get(name, "") for name in values}
    return SoftLabels(values, missing, given, teaching)


def soft_loss(task: Task, output: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Losses of head outputs against soft labels, without any reduction.

    Args:
        task: The task.
        output, target: [N, width] or [N, width, W]; see the module for what targets are.
        temperature: Divides logits.

    Returns:
        [N] or [N, W] for classes that exclude each other, else shaped like `output`.
    """
    match task.default_loss:
        case "cross_entropy" | "dex":
            log = (output / temperature).log_softmax(dim=1)
            return -(target * log).sum(dim=1) * temperature**2
        case "binary_cross_entropy" | "coral":
            loss = F.binary_cross_entropy_with_logits(output / temperature, target, reduction="none")
            return loss * temperature**2
        case loss:
            return LOSSES[loss](output, target)


def _counts_of_classes(task: Task, target: Tensor) -> Tensor | None:
    """How often each class counts, as an axis of `target`; None where all count once."""
    counts = class_counts(task, target.device)
    return None if counts is None else counts.reshape(-1, *(1,) * (target.ndim - 2))


def check_teaching(taught: Collection[str], augment: AugmentConfig | None, tasks: TaskSet) -> None:
    """Refuses augmentation after which a soft label would no longer be that of its row.

    Blended rows take the soft labels of both their rows, as they take the true ones.

    Args:
        taught: Tasks with soft labels.
        augment: What is done to training batches.
        tasks: All tasks.

    Raises:
        ConfigError: Images move beside soft points, or are mirrored beside soft classes that change places.
    """
    if not taught or augment is None or not (augment.flip or augment.affine):
        return
    points = [name for name in taught if isinstance(tasks[name], Landmarks)]
    if points:
        raise ConfigError(
            f"training.augment: soft points of task {points[0]} do not move with their image; leave the "
            "augmentation, or the teachers, out."
        )
    turned = [name for name in taught if augment.flip is not None and name in augment.flip.swap]
    if turned:
        raise ConfigError(
            f"training.augment.flip.swap: soft labels of task {turned[0]} do not change places with the "
            "mirrored image; leave the flip, or the teachers, out."
        )


def _softened(task: Task, taught: Task, outputs: Tensor, temperature: float) -> Tensor:
    match task.default_loss:
        case "cross_entropy" | "dex":
            return (outputs / temperature).softmax(dim=1)
        case "binary_cross_entropy" | "coral":
            return (outputs / temperature).sigmoid()
    if isinstance(task, Regression | Landmarks) and isinstance(taught, Regression | Landmarks):
        return (outputs * taught.scale + taught.center - task.center) / task.scale
    return outputs


def _check_teacher(name: str, task: Task, known: TaskSet) -> None:
    if name not in known:
        raise ConfigError(f"teachers: the teacher of task {name} predicts {', '.join(known)} only.")
    if known[name].class_names != task.class_names:
        raise ConfigError(
            f"teachers: the teacher of task {name} knows {', '.join(known[name].class_names)}; the rows have "
            f"{', '.join(task.class_names)}."
        )
