"""`fit`: from a network, data and settings to a trained network and its record."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskloom.balancing import Balancer, WeightedSum
from taskloom.coupling import Coupling
from taskloom.data.batch import TaskDataset
from taskloom.training.callbacks import Callback, EarlyStopping, ProgressBar
from taskloom.training.checks import check_callbacks, check_coupling, check_labels
from taskloom.training.config import TrainingConfig
from taskloom.training.datasets import check_is_dataset
from taskloom.training.devices import make_fabric
from taskloom.training.history import History
from taskloom.training.processes import in_processes
from taskloom.training.reproducibility import reproducible
from taskloom.training.run import Run
from taskloom.training.teaching import SoftLabels, check_teaching
from taskloom.training.trainer import train_run

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork


def fit(
    model: MultiTaskNetwork,
    train: TaskDataset,
    validation: TaskDataset,
    config: TrainingConfig | None = None,
    *,
    seed: int = 0,
    folder: Path | str | None = None,
    callbacks: Iterable[Callback] = (),
    balancer: Balancer | None = None,
    coupling: Coupling | None = None,
    soft_labels: SoftLabels | None = None,
    resume: bool = True,
    progress: bool | None = None,
    test: TaskDataset | None = None,
    **overrides: Any,
) -> History:
    """Trains a network; it ends with the weights of the epoch that was best on validation.

    The same settings and seed give the same weights on the same machine. The random generators of the
    program and PyTorch's global settings are afterwards as they were.

    Args:
        model: The network, initialised by the caller; trained in place.
        train: Rows to learn from; every task of the model has labels in it.
        validation: Rows that decide the best epoch, early stopping and a plateau schedule.
        config: The settings; the defaults of `TrainingConfig` where None.
        seed: Decides batch order and dropout.
        folder: Where `last.ckpt` (each epoch, everything) and `best.ckpt` (weights) go; None writes nothing.
        callbacks: Called in this order, after early stopping.
        balancer: How many losses become one update; a plain sum where None.
        coupling: Terms that make related tasks agree, added to every batch's losses: beside what the balancer
            makes of the tasks' losses, or as tasks of their own (`Coupling.as_tasks`). The best epoch is
            chosen by the tasks alone.
        soft_labels: What teachers say where `train` misses labels, over the same rows; see
            `taskloom.training.teaching.soft_labels`.
        resume: Whether a checkpoint in `folder` is taken up. A run that was killed at any moment and started
            again equals, bit for bit on a CPU, the run that was never killed; a finished one returns at once.
        progress: Whether a progress bar is shown; where None, if standard error is a terminal.
        test: Rows for curves with `test_curves: true`, looked at after every epoch; they decide nothing.
        **overrides: Settings of `config` by name, for example `epochs=5`.

    Returns:
        The record: losses and metrics per task and epoch, times, memory, the best epoch.

    Raises:
        ConfigError: A setting that is unknown or out of range, a device that is not there, a checkpoint of
            other settings, a coupling that does not fit the tasks.
        DataError: A task without any label in train, no label at all in validation, NaN in inputs.
        TrainingError: A loss became NaN or infinite (names task, epoch and step; the weights are those before
            that step), or a checkpoint could not be written.

    Example:
        >>> from taskloom.data.feature_rows import FeatureRows
        >>> from taskloom.data.tables import TableDataset
        >>> tasks = tl.TaskSet(tl.Regression("age"))
        >>> inputs = np.linspace(0, 1, 20, dtype=np.float32)[:, None]
        >>> ages = tl.Labels({"age": torch.from_numpy(3 * inputs[:, 0])}, {"age": torch.ones(20).bool()})
        >>> train, validation = (
        ...     TableDataset(FeatureRows(inputs), rows, tasks, ages)
        ...     for rows in (np.arange(14), np.arange(14, 20))
        ... )
        >>> network = tl.sharing.single_task(tl.encoders.mlp((1,), hidden=[8]), tasks)
        >>> history = fit(network, train, validation, epochs=3, device="cpu")
        >>> history.finished, len(history.curve("validation_loss", "age"))
        (True, 3)
    """
    config = (config or TrainingConfig()).with_settings(**overrides)
    for part in (train, validation):
        check_is_dataset(part)
    fabric, notes = make_fabric(config)
    run = Run(
        model=model,
        train=train,
        validation=validation,
        config=config,
        seed=seed,
        folder=None if folder is None else Path(folder),
        callbacks=list(callbacks),
        balancer=balancer or WeightedSum(),
        coupling=coupling,
        soft_labels=soft_labels,
        resume=resume,
        notes=notes,
        test=test if config.test_curves else None,
    )
    check_callbacks(run)
    if config.stop is not None and not any(callback.ends_training for callback in run.callbacks):
        run.callbacks.insert(0, EarlyStopping(**config.stop.model_dump()))
    check_labels(run)
    check_coupling(run)
    check_teaching(run.soft_labels.values if run.soft_labels else (), config.augment, model.tasks)
    seams = {name: getattr(run.balancer, name) for name in ("backpropagate", "scale", "processes", "_terms")}
    bar = ProgressBar() if (sys.stderr.isatty() if progress is None else progress) else None
    try:
        if config.devices > 1:
            return in_processes(fabric, run, train_run)
        with reproducible(config.threads):
            return train_run(fabric, run, bar)
    finally:
        vars(run.balancer).update(seams)
        if bar:
            bar.close()
