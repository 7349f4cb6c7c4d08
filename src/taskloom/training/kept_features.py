"""A network whose front is frozen: what comes out of the front is computed once and kept.

The front never changes and has no dropout and no moving statistics, so its outputs for a row are the same in
every epoch, as long as the row itself is: where inputs are augmented at random nothing is kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from taskloom.data.batch import Batch, TaskDataset
from taskloom.data.mixing_batches import RowMix
from taskloom.sharing.network import PlanNetwork
from taskloom.tasks import Labels, StageOutput, TaskSet
from taskloom.training.evaluation import check_inputs, in_evaluation_mode

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork

Precision = Callable[[], contextlib.AbstractContextManager[Any]]
Part = Literal["training", "validation"]
Layout = tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]
"""What stands in a kept row, one after the other: a tensor's tasks and its shape without the batch axis."""

_ALL = ""
"""Stands for all tasks, where they go on from one tensor and the network itself knows how."""


class Remainder(nn.Module):
    """A network with a frozen front: in training it predicts only the tasks that still learn.

    Of a `PlanNetwork` the front is all stages up to the first that a learning task still changes. Of any
    other network it is `features`, if nothing in it learns.

    Args:
        network: The network; gradients of what is frozen are off, and mixed stages are among it.
        tasks: The tasks that still learn.
        live: The modules that still learn.
        inputs: [1, ...], to look whether `features` learns.

    Attributes:
        active: The tasks that training predicts: others get zeros there, their predictions in evaluation.
        heard: Tasks that have stopped and that training predicts all the same: a coupling listens to them.
        has_front: Whether there is anything to keep.
        layouts: How kept rows are laid out, for training and for validation, once there are any; `forward`
            then takes kept rows [N, D] in place of inputs.
    """

    def __init__(
        self, network: MultiTaskNetwork, tasks: Sequence[str], live: Iterable[nn.Module], inputs: Tensor
    ) -> None:
        super().__init__()
        self.network, self.tasks, self.active = network, tuple(tasks), tuple(tasks)
        self.heard: tuple[str, ...] = ()
        self.layouts: dict[Part, Layout] = {}
        self.num_stages = 0
        if isinstance(network, PlanNetwork):
            moving = set(live)
            self.num_stages = min(_leading(network.task_copies(task)[:-1], moving) for task in tasks)
            self.has_front = self.num_stages > 0
            # Looked up once: a step after a freeze is short.
            copies = {task: network.task_copies(task) for task in network.tasks}
            # A task that is read out within the front goes on with its head.
            self._rest = {task: own[min(self.num_stages, len(own) - 1) :] for task, own in copies.items()}
            self._lower_heads = {
                task: {
                    number: (name, head)
                    for name, (number, head) in network.lower_heads(task).items()
                    if head in moving
                }
                for task in network.tasks
            }
        else:
            self.has_front = not _features_learn(network, inputs)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Predicts from inputs [N, ...], or from kept rows [N, D] where there are any."""
        if not self.training and not self.has_front:
            return self._whole(inputs)
        all_tasks = self.network.tasks
        wanted = (*self.active, *self.heard) if self.training else all_tasks.names
        layout = self.layouts.get("training" if self.training else "validation")
        fronts = self.front(inputs) if layout is None else _taken_apart(inputs, layout)
        predictions = self._go_on(fronts, wanted)
        some = next(iter(predictions.values()))
        filled = {
            name: predictions[name] if name in predictions else some.new_zeros(len(some), task.width)
            for name, task in all_tasks.items()
        }
        return filled | {name: out for name, out in predictions.items() if isinstance(name, StageOutput)}

    def front(self, inputs: Tensor) -> dict[str, Tensor]:
        """What the front gives every task, [N, ...]; one object where tasks share."""
        if isinstance(self.network, PlanNetwork):
            # A front without stages gives the inputs, which must stay part of no graph as well.
            with torch.no_grad():
                return self.network.after_stages(inputs, self.num_stages)
        if not self.has_front:
            return {_ALL: inputs}
        with torch.no_grad():
            features = self.network.features(inputs)
        return {_ALL: features} if isinstance(features, Tensor) else features

    def kept_row(self, inputs: Tensor, part: Part) -> tuple[Tensor, Layout]:
        """Rows [N, D] that hold what the front gives, each tensor once, and how they are laid out.

        Training needs what the tasks go on from that learn, validation what all tasks go on from.
        """
        tensors: dict[int, Tensor] = {}
        tasks: dict[int, list[str]] = {}
        for task, tensor in self.front(inputs).items():
            wanted = task in self.tasks or task in self.heard
            if part == "training" and isinstance(self.network, PlanNetwork) and not wanted:
                continue
            tensors[id(tensor)] = tensor
            tasks.setdefault(id(tensor), []).append(task)
        layout = tuple((tuple(tasks[key]), tuple(tensor.shape[1:])) for key, tensor in tensors.items())
        flat = [tensor.flatten(1) for tensor in tensors.values()]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1), layout

    def _go_on(self, fronts: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """Predictions of these tasks from what the front gave."""
        if not isinstance(self.network, PlanNetwork):
            if not self.has_front:
                return self._whole(fronts[_ALL])
            features = fronts[_ALL] if _ALL in fronts else dict(fronts)
            predictions = self.network.from_features(features)
            return {task: predictions[task] for task in tasks}
        done: dict[tuple[int, int], Tensor] = {}
        predictions = {}
        for task in tasks:
            tensor, rest = fronts[task], self._rest[task]
            supervised = self._lower_heads[task] if self.training and task in self.active else {}
            for number, copy in enumerate(rest, start=self.num_stages + 1):
                step = (id(copy), id(tensor))
                if step not in done:  # tasks that share a frozen copy and what goes into it
                    done[step] = copy(tensor)
                tensor = done[step]
                if number in supervised and copy is not rest[-1]:
                    name, head = supervised[number]
                    predictions[name] = head(tensor)
            predictions[task] = tensor
        return predictions

    def _whole(self, inputs: Tensor) -> dict[str, Tensor]:
        predictions: dict[str, Tensor] = self.network(inputs)
        return predictions


@dataclass(frozen=True)
class KeptRows:
    """A TaskDataset whose inputs are kept outputs of a front.

    Args:
        rows: [N, D], on the CPU.
        labels: Labels of all rows.
        tasks: The tasks of the dataset it stands for.
        groups: Its groups.
        mix: How its batches are mixed.
    """

    rows: Tensor
    labels: Labels
    tasks: TaskSet
    groups: NDArray[np.int64]
    mix: RowMix | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.rows.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices, dtype=torch.int64)
        return Batch(self.rows[index], self.labels[index], index)


def keep_rows(
    remainder: Remainder,
    dataset: TaskDataset,
    part: Part,
    *,
    budget_bytes: int,
    batch: int,
    device: torch.device,
    precision: Precision = contextlib.nullcontext,
) -> KeptRows | str:
    """Runs the front over all rows once; sets `remainder.layouts[part]`.

    No random number is drawn, so a run that is resumed and does it again equals one that was not.

    Args:
        remainder: The network.
        dataset: Its rows; each must be the same whenever it is read.
        part: What the rows are for.
        budget_bytes: Memory that they may take.
        batch: Rows per step.
        device: Where the network is.
        precision: Context of the forward pass.

    Returns:
        The rows, or in words why there are none.
    """
    if not remainder.has_front:
        return "tasks that learn have stages of their own before what is frozen"
    if inputs_vary(dataset, range(min(batch, len(dataset)))):
        return "the inputs differ each time they are read"
    with in_evaluation_mode(remainder), torch.no_grad():

        def of_front(index: list[int]) -> tuple[Tensor, Layout]:
            read = dataset.__getitems__(index)
            check_inputs(read)
            with precision():
                return remainder.kept_row(read.inputs.to(device), part)

        row, layout = of_front([0])
        needed = len(dataset) * row.numel() * row.element_size()
        if needed > budget_bytes:
            return f"they need {in_words(needed)}, the budget left is {in_words(budget_bytes)}"
        rows = torch.empty(len(dataset), row.shape[1], dtype=row.dtype)
        for index in _chunks(len(dataset), batch):
            rows[index[0] : index[-1] + 1] = of_front(index)[0].cpu()
    remainder.layouts[part] = layout
    return KeptRows(rows, dataset.labels, dataset.tasks, dataset.groups, getattr(dataset, "mix", None))


def keep_features(
    remainder: Remainder,
    train: TaskDataset,
    validation: TaskDataset,
    *,
    budget_bytes: int,
    batch: int,
    device: torch.device,
    precision: Precision = contextlib.nullcontext,
    augmented: bool = False,
) -> tuple[dict[Part, KeptRows], list[str]]:
    """`keep_rows` of both data sets, training first, within one budget; what is not kept is computed anew.

    The arguments are those of `keep_rows`; where training batches are `augmented`, their rows are not kept.

    Returns:
        What is kept, and notes on it in words.
    """
    kept: dict[Part, KeptRows] = {}
    notes: list[str] = []
    parts: tuple[tuple[Part, TaskDataset], ...] = (("training", train), ("validation", validation))
    for part, dataset in parts:
        rows = (
            "training batches are augmented"
            if augmented and part == "training"
            else keep_rows(
                remainder,
                dataset,
                part,
                budget_bytes=budget_bytes,
                batch=batch,
                device=device,
                precision=precision,
            )
        )
        if isinstance(rows, str):
            notes.append(f"features of the {part} rows are computed anew in every epoch: {rows}")
            continue
        kept[part] = rows
        size = rows.rows.numel() * rows.rows.element_size()
        budget_bytes -= size
        notes.append(f"features of the {len(rows):,} {part} rows are kept in memory, {in_words(size)}")
    return kept, notes


def inputs_vary(dataset: TaskDataset, indices: Sequence[int]) -> bool:
    """Whether the inputs of these rows differ between two reads, as with random augmentation."""
    first, second = (dataset.__getitems__(list(indices)).inputs for _ in range(2))
    return not torch.equal(first, second)


def in_words(num_bytes: int) -> str:
    """A number of bytes, for people.

    Example:
        >>> in_words(3 * 2**19), in_words(512)
        ('1.5 MiB', '0.5 KiB')
    """
    return f"{num_bytes / 2**20:,.1f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.1f} KiB"


def _taken_apart(rows: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The tensors in kept rows, by task; tasks that share get one object."""
    sizes = [math.prod(shape) for _, shape in layout]
    tensors = zip(torch.split(rows, sizes, dim=1), layout, strict=True)
    return {
        task: tensor
        for part, (tasks, shape) in tensors
        for tensor in [part.reshape(-1, *shape)]
        for task in tasks
    }


def _leading(copies: Sequence[nn.Module], moving: set[nn.Module]) -> int:
    """How many of the copies, from the first on, do not learn."""
    return next((number for number, copy in enumerate(copies) if copy in moving), len(copies))


def _features_learn(network: MultiTaskNetwork, inputs: Tensor) -> bool:
    with in_evaluation_mode(network), torch.enable_grad():
        features = network.features(inputs)
    tensors = [features] if isinstance(features, Tensor) else list(features.values())
    return any(tensor.requires_grad for tensor in tensors)


def _chunks(num_rows: int, size: int) -> Iterator[list[int]]:
    for begin in range(0, num_rows, size):
        yield list(range(begin, min(begin + size, num_rows)))
