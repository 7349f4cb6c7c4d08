"""Hooks are called in order; early stopping against a naive count; every callback keeps the contract."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from _training import TinyNetwork, rows_with_holes
from taskloom.training import Callback, EarlyStopping, EpochRecord, History, ProgressBar, TrainingState, fit
from taskloom.training import callbacks as module

MONITORS = [5.0, 4.0, 4.5, 3.95, 3.9, 4.2, 4.1, 4.0, 3.0]


def naive_stop(values: list[float], patience: int, min_delta: float) -> int | None:
    best, since = values[0], 0
    for epoch, value in enumerate(values[1:], start=2):
        if best - value > min_delta:
            best, since = value, 0
        else:
            since += 1
        if since == patience:
            return epoch
    return None


def stop_epoch(stopping: EarlyStopping, monitor: str, sign: float, resume_after: int | None) -> int | None:
    history = History(monitor, seed=0)  # type: ignore[arg-type]
    reasons: list[str] = []
    state = SimpleNamespace(history=history, stop=reasons.append, awaited=[])
    for epoch, value in enumerate(MONITORS, start=1):
        history.epochs.append(EpochRecord(epoch, {}, 0.0, {}, {}, sign * value, {}, 0.0, 0.0))
        stopping.epoch_end(state)  # type: ignore[arg-type]
        if reasons:
            return epoch
        if epoch == resume_after:
            resumed = EarlyStopping(stopping.patience, stopping.min_delta)
            resumed.load_state_dict(stopping.state_dict())
            stopping = resumed
    return None


@pytest.mark.parametrize("patience", [1, 2, 3, 4])
@pytest.mark.parametrize("min_delta", [0.0, 0.2])
@pytest.mark.parametrize("resume_after", [None, 3, 6])
def test_early_stopping(patience: int, min_delta: float, resume_after: int | None) -> None:
    expected = naive_stop(MONITORS, patience, min_delta)
    for monitor, sign in (("loss", 1.0), ("metric", -1.0)):
        assert stop_epoch(EarlyStopping(patience, min_delta), monitor, sign, resume_after) == expected


class Diary(Callback):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def fit_start(self, state: TrainingState) -> None:
        self.lines.append("fit_start")

    def epoch_start(self, state: TrainingState) -> None:
        assert state.model.training
        self.lines.append(f"epoch_start {state.epoch}")

    def batch_end(self, state: TrainingState) -> None:
        assert set(state.losses) == set(state.model.tasks)
        self.lines.append(f"batch_end {state.step}/{state.steps_per_epoch}")

    def epoch_end(self, state: TrainingState) -> None:
        assert state.history.epochs[-1].epoch == state.epoch
        self.lines.append(f"epoch_end {state.epoch}")
        if state.epoch == 2:
            state.stop("the diary is full")

    def fit_end(self, state: TrainingState) -> None:
        assert not state.model.training
        self.lines.append("fit_end")


def test_hooks_in_order_and_a_callback_that_stops() -> None:
    diary = Diary()
    history = fit(
        TinyNetwork(), rows_with_holes(20, 1), rows_with_holes(10, 2), epochs=5, batch=16, callbacks=[diary]
    )
    epoch = ["epoch_start {}", "batch_end 1/2", "batch_end 2/2", "epoch_end {}"]
    assert diary.lines == [
        "fit_start",
        *(line.format(1) for line in epoch),
        *(line.format(2) for line in epoch),
        "fit_end",
    ]
    assert history.stopped_early
    assert history.notes[-1] == "stopped after epoch 2: the diary is full"


def test_every_callback_takes_its_own_state() -> None:
    makers = {"Callback": Callback, "EarlyStopping": lambda: EarlyStopping(3), "ProgressBar": ProgressBar}
    found = {
        name
        for name, entry in vars(module).items()
        if isinstance(entry, type) and issubclass(entry, Callback)
    }
    assert found == set(makers)
    for make in makers.values():
        callback = make()
        callback.load_state_dict(callback.state_dict())
        assert make().state_dict() == callback.state_dict()


def test_progress_bar_speaks_on_its_console_and_closes() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bar = ProgressBar(console)
    fit(TinyNetwork(), rows_with_holes(20, 1), rows_with_holes(10, 2), epochs=2, batch=4, callbacks=[bar])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "10/10" in text
    assert "best 2 (loss" in text
    bar.close()
