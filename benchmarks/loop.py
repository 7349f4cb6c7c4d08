"""A step of our loop beside a hand-written PyTorch step: same network, rows, optimiser, masking of labels.

What the ratios count:

- `step_vs_plain`: time of one step as in `fit` (loader, losses, watch for NaN, balancer, optimiser, callbacks
  with early stopping) over one step of plain PyTorch, on the OPPORTUNITY network of thesis 002 at a quarter
  of its width, windows [64, 64, 107], two multiclass tasks, hard sharing.
- `step_vs_plain_mlp12`: the same on rows [128, 1024] and twelve binary tasks with holes, recipes/tox21.yaml.
- `..._default_adam`: the same against a plain step with `Adam(parameters, lr)` as most people write it; the
  other ratios give the plain step the fused Adam that our loop takes, so that it hides no overhead.
- `..._light_mask`: the same against a plain step that masks losses only, so that a NaN output of an absent
  label would poison the gradient; the others mask outputs and targets first, as `taskloom.losses` does.
- `..._one_matrix`: light mask, and all twelve losses computed as one matrix, because all are binary.

The plain step gathers its rows itself by index, has no loader, no checks and no record; both train whole
epochs, in turn, and the ratio is the median over the pairs. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from taskloom import Binary, Labels, Multiclass, TaskSet, encoders, sharing
from taskloom.data.batch import Batch
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import EarlyStopping, TrainingConfig
from taskloom.training.devices import make_fabric
from taskloom.training.reproducibility import reproducible
from taskloom.training.run import Run
from taskloom.training.trainer import Trainer

Named = dict[str, Tensor]
Loss = Callable[[Named, Named, Named], Tensor]


@dataclass
class Rows:
    """Inputs and labels in memory."""

    inputs: Tensor
    labels: Labels
    tasks: TaskSet
    groups: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.tensor(indices)
        return Batch(self.inputs[index], self.labels[index], index)


def windows(num_rows: int) -> Rows:
    """Windows of 64 samples and 107 channels with two tracks of labels, 30 % missing."""
    tasks = TaskSet(Multiclass("locomotion", 5), Multiclass("arms", 18))
    draw = torch.Generator().manual_seed(0)
    labels = Labels(
        {name: torch.randint(task.width, (num_rows,), generator=draw) for name, task in tasks.items()},
        {name: torch.rand(num_rows, generator=draw) > 0.3 for name in tasks},
    )
    return Rows(torch.randn(num_rows, 64, 107, generator=draw), labels, tasks)


def fingerprints(num_rows: int) -> Rows:
    """Rows of 1,024 bits with twelve yes/no labels, 20 % missing."""
    tasks = TaskSet(*(Binary(f"assay_{number}") for number in range(12)))
    draw = torch.Generator().manual_seed(0)
    labels = Labels(
        {name: torch.randint(2, (num_rows,), generator=draw) for name in tasks},
        {name: torch.rand(num_rows, generator=draw) > 0.2 for name in tasks},
    )
    return Rows((torch.rand(num_rows, 1024, generator=draw) < 0.05).float(), labels, tasks)


def mean_of_present(losses: Tensor, present: Tensor) -> Tensor:
    """Sum of what is present over its number."""
    return torch.where(present, losses, 0.0).sum() / present.sum().clamp(min=1)


def classes_loss(outputs: Named, values: Named, present: Named) -> Tensor:
    """Mean cross-entropy of the present labels, summed over tasks; absent outputs are masked first."""
    total = torch.zeros(())
    for name, output in outputs.items():
        there = present[name]
        output = torch.where(there[:, None], output, 0.0)
        target = torch.where(there, values[name], 0)
        total = total + mean_of_present(F.cross_entropy(output, target, reduction="none"), there)
    return total


def binary_loss(outputs: Named, values: Named, present: Named) -> Tensor:
    """The same for binary tasks."""
    total = torch.zeros(())
    for name, output in outputs.items():
        there = present[name]
        output = torch.where(there, output[:, 0], 0.0)
        target = torch.where(there, values[name], 0).float()
        losses = F.binary_cross_entropy_with_logits(output, target, reduction="none")
        total = total + mean_of_present(losses, there)
    return total


def light_mask_loss(outputs: Named, values: Named, present: Named) -> Tensor:
    """Binary tasks; only the losses are masked."""
    total = torch.zeros(())
    for name, output in outputs.items():
        target = values[name].float()
        losses = F.binary_cross_entropy_with_logits(output[:, 0], target, reduction="none")
        total = total + mean_of_present(losses, present[name])
    return total


def one_matrix_loss(outputs: Named, values: Named, present: Named) -> Tensor:
    """Binary tasks, all at once; only the losses are masked."""
    there = torch.stack(list(present.values()), dim=1)
    truth = torch.stack(list(values.values()), dim=1).float()
    joined = torch.cat(list(outputs.values()), dim=1)
    losses = F.binary_cross_entropy_with_logits(joined, truth, reduction="none")
    return (torch.where(there, losses, 0.0).sum(0) / there.sum(0).clamp(min=1)).sum()


class Ours:
    """Epochs of the loop that `fit` runs, without validation and checkpoints, which a step does not have."""

    def __init__(self, model: MultiTaskNetwork, rows: Rows, batch: int) -> None:
        config = TrainingConfig(batch=batch, device="cpu")
        fabric, _ = make_fabric(config)
        run = Run(model, rows, rows, config, callbacks=[EarlyStopping(5)])
        self.trainer = Trainer(fabric, run, None)
        self.epoch = 0

    def train(self) -> float:
        """Seconds of one epoch."""
        self.epoch += 1
        with reproducible():
            self.trainer.model.train()
            start = time.perf_counter()
            self.trainer.train_batches(self.epoch)
            return time.perf_counter() - start


class Plain:
    """The same in plain PyTorch."""

    def __init__(
        self, model: MultiTaskNetwork, rows: Rows, batch: int, loss: Loss, fused: bool | None = True
    ) -> None:
        self.model, self.rows, self.batch, self.loss = model, rows, batch, loss
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)

    def train(self) -> float:
        """Seconds of one epoch."""
        self.model.train()
        values, present = self.rows.labels.values, self.rows.labels.present
        start = time.perf_counter()
        for index in torch.randperm(len(self.rows)).split(self.batch):
            self.optimizer.zero_grad()
            outputs = self.model(self.rows.inputs[index])
            loss = self.loss(
                outputs,
                {name: value[index] for name, value in values.items()},
                {name: there[index] for name, there in present.items()},
            )
            loss.backward()
            self.optimizer.step()
        return time.perf_counter() - start


def compare(ours: Ours, plain: Plain, rounds: int) -> float:
    """Median over rounds of our time over theirs; who goes first alternates."""
    ours.train(), plain.train()
    ratios = []
    for number in range(rounds):
        if number % 2:
            our_seconds, their_seconds = ours.train(), plain.train()
        else:
            their_seconds, our_seconds = plain.train(), ours.train()
        ratios.append(our_seconds / their_seconds)
    return statistics.median(ratios)


def cnn(rows: Rows) -> MultiTaskNetwork:
    torch.manual_seed(0)
    encoder = encoders.opportunity_cnn((64, 107), width=0.25)
    return sharing.build("hard_sharing", encoder, rows.tasks, stages=len(encoder.stages))


def mlp(rows: Rows) -> MultiTaskNetwork:
    torch.manual_seed(0)
    encoder = encoders.mlp((1024,), hidden=[256, 128], dropout=0.25)
    return sharing.build("hard_sharing", encoder, rows.tasks, stages=2)


def profile_steps() -> None:
    """Prints where our twelve-task step spends its time."""
    import cProfile
    import pstats

    rows = fingerprints(128 * 100)
    ours = Ours(mlp(rows), rows, 128)
    ours.train()
    with cProfile.Profile() as profile:
        ours.train()
    pstats.Stats(profile).sort_stats("tottime").print_stats(35)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21, help="pairs of epochs per ratio")
    parser.add_argument("--profile", action="store_true", help="only print a profile of our step")
    arguments = parser.parse_args()
    if arguments.profile:
        profile_steps()
        return
    result: dict[str, Any] = {"threads": torch.get_num_threads()}
    images, bits = windows(64 * 6), fingerprints(128 * 40)
    for suffix, fused in (("", True), ("_default_adam", None)):
        result[f"step_vs_plain{suffix}"] = compare(
            Ours(cnn(images), images, 64),
            Plain(cnn(images), images, 64, classes_loss, fused),
            arguments.rounds,
        )
    for suffix, loss, fused in (
        ("", binary_loss, True),
        ("_default_adam", binary_loss, None),
        ("_light_mask", light_mask_loss, True),
        ("_one_matrix", one_matrix_loss, True),
    ):
        result[f"step_vs_plain_mlp12{suffix}"] = compare(
            Ours(mlp(bits), bits, 128), Plain(mlp(bits), bits, 128, loss, fused), arguments.rounds
        )
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
