"""The record of a run: JSON round trip and the direction of the monitor."""

from __future__ import annotations

import json

import pytest

from taskloom.training import EpochRecord, History
from taskloom.training.history import or_none


def record(epoch: int, monitor: float | None) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        train_loss={"age": 0.1 + 0.2, "gender": None},
        penalty=1e-17,
        validation_loss={"age": 1 / 3, "gender": None},
        validation_metrics={"age": {"mae": 2.0 * epoch}, "gender": {"auc": None}},
        monitor=monitor,
        lr={"shared": 1e-3},
        seconds_training=2.0,
        seconds_evaluation=0.5,
        mixing={"conv1": [[0.9, 0.1], [0.1, 0.9]]},
    )


def test_json_round_trip_is_exact() -> None:
    history = History("metric", seed=3, epochs=[record(1, 0.5), record(2, None)], best_epoch=1, notes=["x"])
    again = History.from_json(history.to_json())
    assert again == history
    assert isinstance(again.epochs[0], EpochRecord)
    assert again.epochs[0].train_loss["age"] == 0.1 + 0.2


def test_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        History("loss", seed=0, epochs=[record(1, float("nan"))]).to_json()
    assert [or_none(value) for value in (float("nan"), float("inf"), 2.0)] == [None, None, 2.0]


@pytest.mark.parametrize(
    ("monitor", "new", "old", "min_delta", "better"),
    [
        ("loss", 1.0, 2.0, 0.0, True),
        ("loss", 2.0, 1.0, 0.0, False),
        ("loss", 1.0, 1.0, 0.0, False),
        ("loss", 0.95, 1.0, 0.1, False),
        ("metric", 2.0, 1.0, 0.0, True),
        ("metric", 1.0, 2.0, 0.0, False),
        ("metric", 1.05, 1.0, 0.1, False),
        ("metric", 1.0, None, 0.0, True),
        ("metric", None, 1.0, 0.0, False),
        ("loss", None, None, 0.0, False),
    ],
)
def test_direction(monitor: str, new: float, old: float, min_delta: float, better: bool) -> None:
    assert History(monitor, seed=0).is_better(new, old, min_delta=min_delta) is better  # type: ignore[arg-type]


def test_curves_and_sums() -> None:
    history = History("loss", seed=0, epochs=[record(1, 2.0), record(2, 1.0)], best_epoch=2)
    assert history.curve("validation_loss", "age") == [1 / 3, 1 / 3]
    assert history.metric_curve("age", "mae") == [2.0, 4.0]
    assert history.best.epoch == 2
    assert (history.seconds_training, history.seconds_evaluation, history.seconds) == (4.0, 1.0, 5.0)
    assert "seconds" not in json.dumps(history.without_seconds())
