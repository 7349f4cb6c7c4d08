"""One run, from its specification to its record: what a worker process does."""

from __future__ import annotations

import dataclasses
import errno
import json
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taskloom import encoders, sharing
from taskloom.balancing import Balancer
from taskloom.balancing import build as build_by_name
from taskloom.data.batch import DataSplits
from taskloom.errors import DataError, TaskloomError
from taskloom.metrics import save_summaries
from taskloom.own_code import run_code
from taskloom.sharing import HeadSpec, MultiTaskNetwork
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.coupled_runs import Coupled, build_coupling
from taskloom.study.decisions import save_decisions
from taskloom.study.extras import build_callbacks
from taskloom.study.results import MetricValue, Part, RunRecord, run_folder
from taskloom.study.runs import DataRequest, RunSpec, table_request
from taskloom.study.teachers import taught, teaching_details, weights_of_teacher
from taskloom.study.test_rows import save_test_rows
from taskloom.study.views import labelled_rows
from taskloom.study.warm_start import started, weights_of_run
from taskloom.tasks import Task, TaskSet
from taskloom.training import Evaluation, History, evaluate, fit
from taskloom.training.reproducibility import environment, reproducible, seed_everything
from taskloom.training.teaching import FILE as SOFT_LABELS

_STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


class StorageError(DataError):
    """The disk is full or cannot be written: no run can go on."""


class DataCache:
    """Keeps the last data that were asked for: the runs of one repeat share them."""

    def __init__(self) -> None:
        self._key = ""
        self._splits: DataSplits | None = None

    def get(self, request: DataRequest) -> DataSplits:
        if self._splits is None or request.key != self._key:
            self._splits = None  # before the next ones are read: two sets at once need not fit into memory
            self._splits, self._key = request.load(), request.key
        return self._splits


def build_network(spec: RunSpec, splits: DataSplits) -> MultiTaskNetwork:
    """Builds the network of a run; its start follows from the run's seed.

    Raises:
        ConfigError: A setting of encoder or architecture does not fit.
    """
    with reproducible():
        seed_everything(spec.seed)
        settings = {key: value for key, value in spec.encoder.items() if key != "name"}
        encoder = encoders.build(spec.encoder["name"], splits.train.input_shape, **settings)
        tasks = splits.tasks.subset(spec.cell.tasks)
        if spec.cell.architecture == SINGLE_TASK:
            # Trained alone, a task is what it is: nothing reverses its gradient or weighs it.
            tasks = TaskSet(*(_as_it_is(task) for task in tasks.values()))
        head = HeadSpec(**spec.head)
        return sharing.build(spec.cell.architecture, encoder, tasks, head=head, **spec.cell.settings)


def _as_it_is(task: Task) -> Task:
    return task if task.judged else dataclasses.replace(task, role="auxiliary", weight=1.0, reversal=None)


def build_balancer(spec: RunSpec) -> Balancer | None:
    """Builds the cell's balancer; None is the plain sum.

    Raises:
        ConfigError: There is no such balancer, or a setting does not fit.
    """
    if spec.cell.balancing is None:
        return None
    ((name, settings),) = spec.cell.balancing.items()
    return build_by_name(name, settings)


def build_coupled(spec: RunSpec, splits: DataSplits, network: MultiTaskNetwork) -> Coupled | None:
    """Builds the cell's coupling, its relatedness from the training labels of the run's own split.

    Raises:
        ConfigError, DataError: See `taskloom.study.couplings.build_coupling`.
    """
    if spec.cell.coupling is None:
        return None
    request = table_request(spec.cell, spec.data)
    return build_coupling(spec.cell.coupling, request, splits, network.tasks)


def execute(spec: RunSpec, cache: DataCache) -> RunRecord:
    """Does one run, from its last checkpoint where there is one.

    What goes wrong in the run itself becomes a record with status "failed" and its reason.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    try:
        run_code(file.path for file in spec.code)
        result = _train_and_evaluate(spec, cache)
    except TaskloomError as error:
        _refuse_storage(error, spec)
        # Whoever shows the record names the run.
        reason = str(error).removeprefix(f"run {run_folder(spec.out, spec.id).name}: ")
        return _failed(spec, started, time.monotonic() - clock, reason)
    except Exception as error:  # noqa: BLE001
        # One run may fail in ways nobody foresaw (memory, a defect, anything in a user's module): the days
        # of the other runs must not hang on it. It is told, with its traceback in a file; Ctrl-C passes.
        _refuse_storage(error, spec)
        kept = _keep_traceback(spec)
        reason = _unforeseen(error) + ("" if isinstance(error, MemoryError) else kept)
        return _failed(spec, started, time.monotonic() - clock, reason)
    return _record(spec, started, time.monotonic() - clock, *result)


def _train_and_evaluate(
    spec: RunSpec, cache: DataCache
) -> tuple[History, dict[Part, Evaluation], dict[str, Any]]:
    splits = cache.get(spec.data)
    network, start = started(spec, splits, build_network, weights_of_run)
    folder = run_folder(spec.out, spec.id)
    coupled = build_coupled(spec, splits, network)
    rows = labelled_rows(splits.train, spec.cell.tasks)
    soft = taught(spec, splits, rows, build_network, weights_of_teacher)
    history = fit(
        network,
        rows,
        splits.validation,
        spec.cell.training,
        seed=spec.seed,
        folder=folder,
        resume=True,
        balancer=build_balancer(spec),
        callbacks=build_callbacks(spec.cell.callbacks),
        coupling=None if coupled is None else coupled.coupling,
        soft_labels=soft,
        progress=False,
        test=splits.test,
    )
    parts: dict[Part, Any] = {"validation": splits.validation, "test": splits.test}
    batch = spec.cell.training.evaluation_batch
    evaluations = {part: evaluate(network, dataset, batch=batch) for part, dataset in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for part, evaluation in evaluations.items():
        save_summaries(folder / f"{part}_summary.npz", evaluation.summaries)
    save_decisions(folder, evaluations["test"], splits.test.labels)
    kept = {"test_rows": save_test_rows(spec.out, splits.test)}
    details = {**describe_network(network), **start, **kept}
    if soft is not None:
        soft.save(folder / SOFT_LABELS)
        details["teachers"] = teaching_details(soft)
    if coupled is not None:
        coupled.coupling.relatedness.save(folder / "relatedness.json")
        details["coupling"] = json.loads(json.dumps(coupled.details()))
    return history, evaluations, details


def describe_network(network: MultiTaskNetwork) -> dict[str, Any]:
    """What a report says about a network besides its results."""
    plan = getattr(network, "plan", None)
    return {"plan": "" if plan is None else plan.describe(getattr(network, "stage_names", None))}


def _record(
    spec: RunSpec,
    started: str,
    seconds: float,
    history: History,
    evaluations: dict[Part, Evaluation],
    details: dict[str, Any],
) -> RunRecord:
    metrics = [
        MetricValue(task, part, metric, value, evaluation.counts()[task][metric])
        for part, evaluation in evaluations.items()
        for task, values in evaluation.values().items()
        for metric, value in values.items()
    ]
    return RunRecord(
        **_identity(spec),
        status="done",
        started=started,
        seconds_training=history.seconds_training,
        seconds_total=seconds,
        peak_memory_bytes=history.peak_memory_bytes,
        num_parameters=history.num_parameters,
        epochs=len(history),
        best_epoch=history.best_epoch,
        device=history.device,
        history=history.to_dict(),
        details=details,
        metrics=tuple(metrics),
    )


def _unforeseen(error: Exception) -> str:
    """One line on an error that taskloom did not raise itself."""
    if isinstance(error, MemoryError):
        return "the memory was not enough; a smaller training.batch or fewer --jobs need less."
    reason = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {reason if len(reason) <= 300 else f'{reason[:300]}...'}"


def _failed(spec: RunSpec, started: str, seconds: float, message: str) -> RunRecord:
    return RunRecord(
        **_identity(spec), status="failed", message=message, started=started, seconds_total=seconds
    )


def _identity(spec: RunSpec) -> dict[str, Any]:
    return {
        "id": spec.id,
        "cell": spec.cell_id,
        "cell_name": spec.cell_name,
        "tasks": spec.cell.tasks,
        "repeat": spec.repeat,
        "seed": spec.seed,
        "environment": environment(),
        "resolved": spec.resolved,
    }


def died(spec: RunSpec, exit_code: int | None) -> RunRecord:
    """Returns the record of a run whose process ended without a word."""
    how = f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"status {exit_code}"
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return _failed(spec, started, 0.0, f"its process ended ({how}); the machine may be short of memory.")


def storage_reason(error: BaseException) -> str | None:
    """Returns why storage failed, where an error or one of its causes says so; else None."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _STORAGE_ERRORS:
            return (
                "the disk is full" if cause.errno == errno.ENOSPC else (cause.strerror or str(cause)).lower()
            )
        if isinstance(cause, RuntimeError) and "PytorchStreamWriter" in str(cause):
            return "the disk is full"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _refuse_storage(error: BaseException, spec: RunSpec) -> None:
    reason = storage_reason(error)
    if reason is not None:
        raise StorageError(
            f"{run_folder(spec.out, spec.id)}: cannot be written ({reason}); the study stopped, "
            "finished runs are "
            "kept: make room or choose another --out, and type the same command to continue."
        ) from error


def _keep_traceback(spec: RunSpec) -> str:
    """Writes it beside the store, for whoever looks for the defect. Returns where, "" where it cannot be."""
    file: Path = run_folder(spec.out, spec.id) / "error.txt"
    with suppress(OSError):  # the sentence is in the store in any case
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(traceback.format_exc(), encoding="utf-8")
        return f" (traceback in {file.relative_to(spec.out)})"
    return ""
