"""Several processes that train one network: what they see together is what one process would see alone.

DistributedDataParallel averages gradients over processes. With holes in the labels, the mean of local means
is not the mean of the joined batch; so every process scales its sums by the number of processes and divides
by the *joined* count. A task that is absent in one process keeps its zero gradient there, because its loss is
still part of the graph, so every process reduces the same parameters.

Batch normalisation sees each process's own rows; everything else equals one process on the joined batch.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException
from torch.utils.data import DataLoader

import taskloom.errors
from taskloom.balancing import Balancer, Processes
from taskloom.data.batch import Batch, EpochBatchSampler, TaskDataset, make_loader
from taskloom.data.mixing_batches import RowMix
from taskloom.errors import TaskloomError, TrainingError
from taskloom.losses import SumCount
from taskloom.tasks import Labels, TaskSet
from taskloom.training.checkpoints import load_checkpoint, save_checkpoint
from taskloom.training.evaluation import Predictions
from taskloom.training.history import History
from taskloom.training.reproducibility import reproducible

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from taskloom.training.run import Run

# Fabric announces every process on standard error. The loggers are named one by one, because importing Fabric
# sets the level of the logger above them, and in a spawned process that may come later than this.
for _name in ("lightning_fabric.utilities.distributed", "lightning_fabric.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.WARNING)

_RESULT, _ERROR = "result.ckpt", "error.json"


class FilledShares:
    """A dataset for which a share of no rows is one row without labels.

    The last joined batch may have fewer rows than there are processes; a process without a row must still
    take part in the step, with a gradient of zero.
    """

    def __init__(self, dataset: TaskDataset) -> None:
        self.dataset = dataset

    @property
    def tasks(self) -> TaskSet:
        return self.dataset.tasks

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.dataset.input_shape

    @property
    def labels(self) -> Labels:
        return self.dataset.labels

    @property
    def groups(self) -> NDArray[np.int64]:
        return self.dataset.groups

    @property
    def mix(self) -> RowMix | None:
        return getattr(self.dataset, "mix", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        if indices:
            return self.dataset.__getitems__(indices)
        batch = self.dataset.__getitems__([0])
        nothing = {name: torch.zeros_like(present) for name, present in batch.labels.present.items()}
        return Batch(batch.inputs, Labels(batch.labels.values, nothing), batch.index)


def make_shared_loader(
    dataset: TaskDataset,
    batch_size: int,
    fabric: Fabric,
    *,
    num_workers: int,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    pin_memory: bool = True,
    row_weights: NDArray[np.float64] | None = None,
    least_last: int = 1,
) -> DataLoader[Batch]:
    """Builds this process's share of a loader; `batch_size` counts the rows of all processes together.

    Batches for a GPU are put into page-locked memory, unless `pin_memory` says that they lie on it already.
    """
    world_size = fabric.world_size
    loader = make_loader(
        FilledShares(dataset) if world_size > 1 else dataset,
        max(batch_size, world_size),
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=pin_memory and fabric.device.type == "cuda",
        rank=fabric.global_rank,
        world_size=world_size,
        row_weights=row_weights,
        least_last=least_last,
    )
    # Left to itself a loader draws from the global generator, once or every epoch depending on its workers:
    # a resumed run would draw once more than the run that was never killed.
    loader.generator = torch.Generator().manual_seed(seed)
    return loader


def has_rows(loader: DataLoader[Batch], fabric: Fabric, step: int) -> bool:
    """Whether this process's share of a batch has rows of its own; see `FilledShares`.

    Args:
        loader: The loader; its sampler says how many rows each joined batch has.
        fabric: This process.
        step: Number of the batch, from 1.
    """
    if fabric.world_size == 1:
        return True
    sampler = loader.batch_sampler
    assert isinstance(sampler, EpochBatchSampler)
    return sampler.num_rows - (step - 1) * sampler.batch_size > fabric.global_rank


def joined_losses(fabric: Fabric, losses: dict[str, SumCount]) -> dict[str, SumCount]:
    """Losses whose means, averaged over processes, are the means over the joined batch."""
    if fabric.world_size == 1:
        return losses
    counts = reduced(fabric, torch.stack([loss.count for loss in losses.values()]), "sum")
    return {
        name: SumCount(loss.sum * fabric.world_size, count)
        for (name, loss), count in zip(losses.items(), counts, strict=True)
    }


def join_processes(fabric: Fabric, balancer: Balancer) -> None:
    """Tells a balancer how gradients are scaled, and how they become those of the joined batch."""
    if not balancer.takes_gradients:
        balancer.backpropagate = fabric.backward
    elif (scaler := getattr(fabric.strategy.precision, "scaler", None)) is not None:
        balancer.scale = scaler.scale
    if fabric.world_size > 1:
        balancer.processes = Processes(fabric.world_size, partial(reduced, fabric, operation="mean"))


def reduced(fabric: Fabric, tensor: Tensor, operation: str) -> Tensor:
    """The sum or mean of a tensor over all processes."""
    result = fabric.all_reduce(tensor.clone(), reduce_op=operation)
    assert isinstance(result, Tensor)
    return result


def gather_rows(fabric: Fabric, predictions: Predictions) -> Predictions:
    """Outputs of all rows and sums over all processes, the same in every process."""
    if fabric.world_size == 1:
        return predictions
    parts = gather_objects(
        fabric,
        (
            {task: output[predictions.index] for task, output in predictions.outputs.items()},
            predictions.index,
            predictions.sums,
            predictions.counts,
        ),
    )
    for outputs, index, _, _ in parts:
        for task, output in outputs.items():
            predictions.outputs[task][index] = output
    return Predictions(
        outputs=predictions.outputs,
        index=torch.cat([part[1] for part in parts]),
        sums=torch.stack([part[2] for part in parts]).sum(dim=0),
        counts=torch.stack([part[3] for part in parts]).sum(dim=0),
        tasks=predictions.tasks,
    )


def gather_objects(fabric: Fabric, item: Any) -> list[Any]:
    """One item per process, in the order of ranks, in every process."""
    if fabric.world_size == 1:
        return [item]
    items: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(items, item)
    return items


def share_buffers(fabric: Fabric, model: torch.nn.Module) -> None:
    """Gives every process rank 0's buffers (running means of a normalisation) before they are used."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def in_processes(fabric: Fabric, run: Run, train_run: Callable[[Fabric, Run], History]) -> History:
    """Trains in processes of their own and brings weights and record back into `run.model`.

    Raises:
        TaskloomError: What the first process to fail raised.
        TrainingError: A process was ended from outside, for want of memory for example.
    """
    from taskloom.training.spawning import SpawnedProcesses, without_a_port

    with tempfile.TemporaryDirectory(prefix="taskloom-") as exchange, without_a_port():
        assert isinstance(fabric.strategy, SpawnedProcesses)
        fabric.strategy.meeting = Path(exchange) / "meeting"
        try:
            fabric.launch(partial(_in_one_process, run=run, train_run=train_run, exchange=Path(exchange)))
        except ProcessRaisedException as error:
            raise _error_of(Path(exchange)) or error from error
        except ProcessExitedException as error:
            raise _error_of(Path(exchange)) or _ended(run, error) from error
        result = load_checkpoint(Path(exchange) / _RESULT)
    run.model.load_state_dict(result["model"])
    run.model.eval()
    for callback, state in zip(run.callbacks, result["callbacks"], strict=True):
        callback.load_state_dict(state)
    run.balancer.load_state_dict(result["balancer"])
    return History.from_dict(result["history"])


def _in_one_process(
    fabric: Fabric, run: Run, train_run: Callable[[Fabric, Run], History], exchange: Path
) -> None:
    from taskloom.training.spawning import part

    # Tensors arrive in memory that all processes share. The data may stay there; what is written to may not.
    run.model, run.balancer, run.callbacks = copy.deepcopy((run.model, run.balancer, run.callbacks))
    try:
        with reproducible(run.config.threads):
            history = train_run(fabric, run)
    except TaskloomError as error:
        # Only text crosses to the parent, so the kind of error is written down for it.
        (exchange / f"{fabric.global_rank}-{_ERROR}").write_text(
            json.dumps({"kind": type(error).__name__, "message": str(error)})
        )
        raise
    if fabric.is_global_zero:
        # A file, not a queue: the queue would block until the parent reads, and that waits for our end.
        save_checkpoint(
            exchange / _RESULT,
            {
                "model": {name: tensor.cpu() for name, tensor in run.model.state_dict().items()},
                "callbacks": [callback.state_dict() for callback in run.callbacks],
                "balancer": run.balancer.state_dict(),
                "history": history.to_dict(),
            },
        )
    part()


def _ended(run: Run, error: ProcessExitedException) -> TrainingError:
    """What is said of a process that ended without an error of its own."""
    how = error.signal_name or f"exit code {error.exit_code}"
    why = " (the system does that where memory runs out)" if how == "SIGKILL" else ""
    then = "it goes on from its last whole epoch" if run.folder else "it begins anew"
    return TrainingError(
        f"{run.name}: process {error.error_index + 1} of {run.config.devices} was ended by {how}{why}; "
        f"started again, {then}."
    )


def _error_of(exchange: Path) -> TaskloomError | None:
    for path in sorted(exchange.glob(f"*-{_ERROR}")):
        told = json.loads(path.read_text())
        kind = getattr(taskloom.errors, told["kind"], TaskloomError)
        error: TaskloomError = kind.__new__(kind)
        Exception.__init__(error, told["message"])  # a subclass's __init__ may want other arguments
        return error
    return None
