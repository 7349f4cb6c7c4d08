"""Two processes train to what one process trains to on the joined batch, with holes on one side only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.plugins.environments import LightningEnvironment
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from _training import TASKS, TinyNetwork, rows_with_holes
from taskloom.errors import DataError, MissingExtraError, TaskloomError, TrainingError
from taskloom.training import History, TrainingConfig, fit
from taskloom.training.processes import FilledShares, in_processes
from taskloom.training.run import Run
from taskloom.training.spawning import SpawnedProcesses

SETTINGS = {
    "epochs": 3,
    "batch": 8,
    "clip": 0.5,
    "optimizer": {"adam": {"lr": 0.01}},
    "device": "cpu",
    "threads": 1,
}


def test_a_share_of_no_rows_is_a_row_without_labels() -> None:
    rows = rows_with_holes(5, seed=1)
    filled = FilledShares(rows)
    batch = filled.__getitems__([])
    assert len(batch) == 1
    assert batch.labels.counts() == dict.fromkeys(TASKS, 0)
    assert filled.labels.counts() == rows.labels.counts()
    assert torch.equal(filled.__getitems__([2, 4]).inputs, rows.inputs[[2, 4]])
    assert (len(filled), filled.input_shape, filled.tasks) == (5, (4,), TASKS)
    assert (filled.groups == rows.groups).all()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    # 41 rows in batches of 8: the last batch has one row, so one process has none. With 85 % holes and four
    # rows per process, tasks are often absent in one process and present in the other.
    train, validation = rows_with_holes(41, seed=1, holes=0.85), rows_with_holes(31, seed=2)
    alone, joined = TinyNetwork(dropout=0.0), TinyNetwork(dropout=0.0)
    one = fit(alone, train, validation, **SETTINGS)  # type: ignore[arg-type]
    two = fit(joined, train, validation, devices=2, folder=tmp_path, **SETTINGS)  # type: ignore[arg-type]
    assert two.num_processes == 2
    for first, second in zip(one.epochs, two.epochs, strict=True):
        assert first.train_loss == pytest.approx(second.train_loss, rel=1e-5)
        assert first.validation_loss == pytest.approx(second.validation_loss, rel=1e-5)
        assert first.validation_metrics["mood"] == pytest.approx(second.validation_metrics["mood"], rel=1e-5)
        assert first.penalty == pytest.approx(second.penalty, rel=1e-5)
    assert one.best_epoch == two.best_epoch
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(joined.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("kind", [TrainingError, DataError, MissingExtraError])
def test_an_error_in_a_process_arrives_as_itself(kind: type[TaskloomError]) -> None:
    class OneProcess:
        """What Fabric does with a process that fails, without the process."""

        global_rank = 1
        strategy = SpawnedProcesses()

        def launch(self, function: Callable[[Any], None]) -> None:
            with pytest.raises(kind):
                function(self)
            raise ProcessRaisedException("process 1 terminated", error_index=1, error_pid=0)

    def fails(fabric: Any, run: Run) -> History:
        raise kind("timm", "backbones") if kind is MissingExtraError else kind("run 3f2a: x became nan.")

    rows = rows_with_holes(5, seed=1)
    run = Run(TinyNetwork(), rows, rows, TrainingConfig())  # type: ignore[arg-type]
    expected = "timm is not installed" if kind is MissingExtraError else "run 3f2a: x became nan"
    with pytest.raises(kind, match=expected):
        in_processes(OneProcess(), run, fails)  # type: ignore[arg-type]


def run_of_five_rows(folder: Path | None = None) -> Run:
    rows = rows_with_holes(5, seed=1)
    return Run(TinyNetwork(), rows, rows, TrainingConfig(devices=2), folder=folder)  # type: ignore[arg-type]


@pytest.mark.parametrize("port", [None, "4711"])
def test_processes_meet_by_a_file_and_part_before_they_end(
    port: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ended with its exchange open was aborted now and then, and a port could be taken."""
    monkeypatch.delenv("MASTER_PORT", raising=False)
    if port:
        monkeypatch.setenv("MASTER_PORT", port)

    class OneProcess:
        """What Fabric does, in this process and without any other."""

        global_rank, is_global_zero = 0, True
        strategy = SpawnedProcesses()

        def launch(self, function: Callable[[Any], None]) -> None:
            os.environ["MASTER_PORT"] = "1"  # which Fabric chooses, and at which nobody listens
            self.strategy.parallel_devices = [torch.device("cpu")]
            self.strategy.accelerator = CPUAccelerator()
            self.strategy.cluster_environment = LightningEnvironment()
            self.strategy.setup_environment()
            assert self.strategy.meeting is not None
            assert self.strategy.meeting.exists()
            function(self)
            assert not torch.distributed.is_initialized()

    def trains(fabric: Any, run: Run) -> History:
        assert torch.distributed.is_initialized()
        return History("loss", seed=3)

    assert in_processes(OneProcess(), run_of_five_rows(), trains).seed == 3  # type: ignore[arg-type]
    assert os.environ.get("MASTER_PORT") == port


@pytest.mark.parametrize(
    ("folder", "then"),
    [(Path("3f2a"), "run 3f2a: .*it goes on from its last whole epoch"), (None, "this run: .*begins anew")],
)
def test_a_process_ended_from_outside_is_said_to_be(folder: Path | None, then: str) -> None:
    class Killed:
        strategy = SpawnedProcesses()

        def launch(self, function: Callable[[Any], None]) -> None:
            raise ProcessExitedException("terminated", 1, 0, -9, signal_name="SIGKILL")

    with pytest.raises(TrainingError, match=then) as told:
        in_processes(Killed(), run_of_five_rows(folder), None)  # type: ignore[arg-type]
    assert "process 2 of 2 was ended by SIGKILL (the system does that where memory runs out)" in str(
        told.value
    )
