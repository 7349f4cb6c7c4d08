"""What an epoch costs after an early freeze, beside an epoch before it: three tasks on VGG5, 32 x 32 pixels.

All epochs are those of one `fit` with its validation, loader, watch for NaN and callbacks; a scripted
validation loss makes the first task converge after `--epochs` epochs. The ratios, of medians over epochs:

- `frozen_epoch_vs_full`: all five stages shared, features kept; only the linear heads are left.
- `frozen_epoch_vs_full_own_stage`: the fifth stage belongs to each task and goes on learning.
- `first_frozen_epoch_vs_full`: the epoch that computes what is kept, once per run.
- `recomputed_epoch_vs_full`: nothing kept (`features_mb: 0`), the frozen stages run in every epoch.
- `frozen_epoch_vs_plain`: beside plain PyTorch that trains and validates two linear layers on features in
  memory, without loader, watch, metrics or record.

Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from taskloom import Binary, Labels, Multiclass, Regression, TaskSet, encoders, sharing
from taskloom.data.batch import Batch
from taskloom.training import Callback, EarlyFreeze, History, TrainingState, fit

TASKS = TaskSet(Regression("age"), Binary("gender"), Multiclass("race", 5))
BATCH = 64


@dataclass
class Images:
    """Images and labels in memory, 30 % of the labels missing."""

    inputs: Tensor
    labels: Labels
    groups: NDArray[np.int64]
    tasks: TaskSet

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.tensor(indices)
        return Batch(self.inputs[index], self.labels[index], index)


def images(num_rows: int, seed: int) -> Images:
    """Noise with labels that say nothing: only time is looked at."""
    draw = torch.Generator().manual_seed(seed)
    values = {
        "age": torch.randn(num_rows, generator=draw),
        "gender": torch.randint(2, (num_rows,), generator=draw),
        "race": torch.randint(5, (num_rows,), generator=draw),
    }
    present = {name: torch.rand(num_rows, generator=draw) > 0.3 for name in values}
    pixels = torch.randn(num_rows, 3, 32, 32, generator=draw)
    return Images(pixels, Labels(values, present), np.arange(num_rows), TASKS)


class Converge(Callback):
    """Gender is at its best in the first epoch; the others get better for ever."""

    def epoch_end(self, state: TrainingState) -> None:
        record = state.history.epochs[-1]
        record.validation_loss = {
            "age": -record.epoch,
            "gender": float(record.epoch),
            "race": -record.epoch,
        }


def run(train: Images, validation: Images, *, epochs: int, stages: int, keep: float) -> History:
    """As many epochs before the freeze as after it."""
    torch.manual_seed(0)
    encoder = encoders.vgg5((3, 32, 32))
    model = sharing.build("hard_sharing", encoder, TASKS, stages=min(stages, len(encoder.stages)))
    freeze = EarlyFreeze(patience=epochs - 1, features_mb=keep)
    history = fit(
        model,
        train,
        validation,
        epochs=2 * epochs + 1,
        batch=BATCH,
        device="cpu",
        callbacks=[Converge(), freeze],
        progress=False,
    )
    assert history.shared_frozen == epochs, history.notes
    assert any("kept in memory" in note for note in history.notes) == (keep > 0), history.notes
    return history


def seconds(history: History, begin: int, end: int) -> float:
    """Median time of the epochs `begin` to `end`, counted from 1; training and validation together."""
    records = history.epochs[begin - 1 : end]
    return statistics.median(record.seconds_training + record.seconds_evaluation for record in records)


def plain_seconds(train: Images, validation: Images, num_features: int, epochs: int) -> float:
    """Median time of an epoch of plain PyTorch: two linear layers on features in memory."""
    torch.manual_seed(0)
    heads = {"age": torch.nn.Linear(num_features, 1), "race": torch.nn.Linear(num_features, 5)}
    parameters = [parameter for head in heads.values() for parameter in head.parameters()]
    optimizer = torch.optim.Adam(parameters, fused=True)
    features = {id(part): torch.randn(len(part), num_features) for part in (train, validation)}

    def loss(part: Images, index: Tensor) -> Tensor:
        rows = features[id(part)][index]
        total = torch.zeros(())
        for name, head in heads.items():
            there, value = part.labels.present[name][index], part.labels.values[name][index]
            output = head(rows)
            losses = (
                F.mse_loss(output[:, 0], value, reduction="none")
                if name == "age"
                else F.cross_entropy(output, value, reduction="none")
            )
            total = total + torch.where(there, losses, 0.0).sum() / there.sum().clamp(min=1)
        return total

    times = []
    for _ in range(epochs):
        start = time.perf_counter()
        for index in torch.randperm(len(train)).split(BATCH):
            optimizer.zero_grad()
            loss(train, index).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.inference_mode():
            for index in torch.arange(len(validation)).split(1024):
                loss(validation, index)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6, help="epochs before the freeze, and after it")
    parser.add_argument("--rows", type=int, default=1024, help="training rows; a quarter of it validates")
    arguments = parser.parse_args()
    epochs = arguments.epochs
    train, validation = images(arguments.rows, seed=0), images(arguments.rows // 4, seed=1)
    result: dict[str, float] = {"threads": torch.get_num_threads()}
    for suffix, stages, keep in (("", 99, 1024.0), ("_own_stage", 4, 1024.0), ("_recomputed", 99, 0.0)):
        history = run(train, validation, epochs=epochs, stages=stages, keep=keep)
        full = seconds(history, 2, epochs)  # the first epoch also warms up
        frozen = seconds(history, epochs + 2, 2 * epochs + 1)
        if suffix == "_recomputed":
            result["recomputed_epoch_vs_full"] = frozen / full
            continue
        result[f"frozen_epoch_vs_full{suffix}"] = frozen / full
        if not suffix:
            result["first_frozen_epoch_vs_full"] = seconds(history, epochs + 1, epochs + 1) / full
            width = encoders.vgg5((3, 32, 32)).num_features
            result["frozen_epoch_vs_plain"] = frozen / plain_seconds(train, validation, width, 5 * epochs)
            result["full_epoch_seconds"] = full
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
