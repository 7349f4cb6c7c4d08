"""Curves on the test rows: they are what `evaluate` says, and change nothing."""

from __future__ import annotations

import pytest
import torch

from _training import TASKS, TinyNetwork, rows_with_holes
from taskloom.training import Callback, History, TrainingConfig, TrainingState, evaluate, fit

TRAIN, VALIDATION = rows_with_holes(41, seed=1), rows_with_holes(30, seed=2)
TEST = rows_with_holes(37, seed=3)


class EvaluateEveryEpoch(Callback):
    def __init__(self) -> None:
        self.values: list[dict[str, dict[str, float]]] = []

    def epoch_end(self, state: TrainingState) -> None:
        self.values.append(evaluate(state.model, TEST).values())


def trained(callbacks: list[Callback], **settings: object) -> tuple[TinyNetwork, History]:
    torch.manual_seed(0)
    network = TinyNetwork()
    history = fit(
        network,
        TRAIN,
        VALIDATION,
        epochs=4,
        batch=8,
        device="cpu",
        test=TEST,
        callbacks=callbacks,
        **settings,
    )
    return network, history


def test_they_are_what_evaluate_says_and_change_nothing() -> None:
    watcher = EvaluateEveryEpoch()
    with_curves, history = trained([watcher], test_curves=True)
    without, plain = trained([EvaluateEveryEpoch()])  # an evaluation draws a seed for its loader
    for name, tensor in without.state_dict().items():
        assert torch.equal(with_curves.state_dict()[name], tensor)
    assert history.best_epoch == plain.best_epoch
    assert [epoch.test_metrics for epoch in plain.epochs] == [{}] * 4  # rows alone do not ask for curves
    for epoch, values in zip(history.epochs, watcher.values, strict=True):
        for task in TASKS:
            assert epoch.test_metrics[task] == pytest.approx(values[task], nan_ok=True)
    assert History.from_json(history.to_json()) == history


def test_the_setting_is_part_of_a_run_only_where_it_is_used() -> None:
    assert "test_curves" not in TrainingConfig().model_dump()
    assert TrainingConfig(test_curves=True).model_dump()["test_curves"] is True
