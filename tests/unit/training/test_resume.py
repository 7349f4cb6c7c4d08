"""A run that was killed and started again equals the run that was never killed, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from _training import TinyNetwork, rows_with_holes
from _training_script import SETTINGS, Kill
from taskloom.balancing import WeightedSum
from taskloom.errors import ConfigError, DataError
from taskloom.training import Callback, History, TrainingState, fit
from taskloom.training.checkpoints import load_checkpoint, save_checkpoint

TESTS = Path(__file__).parents[2]
TRAIN, VALIDATION = rows_with_holes(41, seed=1), rows_with_holes(30, seed=2)


class Crash(Callback):
    """Raises once, at a step or (step 0) at the end of an epoch; draws from every generator as it goes."""

    def __init__(self, epoch: int = 0, step: int = 0) -> None:
        self.at = (epoch, step)
        self.draws: list[float] = []

    def fit_start(self, state: TrainingState) -> None:
        random.random(), torch.rand(1)  # must not disturb the order of draws after a resume

    def batch_end(self, state: TrainingState) -> None:
        if (state.epoch, state.step) == self.at:
            raise KeyboardInterrupt

    def epoch_end(self, state: TrainingState) -> None:
        self.draws += [random.random(), np.random.rand(), torch.rand(1).item()]
        if (state.epoch, 0) == self.at:
            raise KeyboardInterrupt

    def state_dict(self) -> dict[str, list[float]]:
        return {"draws": self.draws}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:  # type: ignore[override]
        self.draws = list(state["draws"])


def run(folder: Path | None, crash: Callback, **changes: object) -> tuple[TinyNetwork, History]:
    model = TinyNetwork()
    settings = {**SETTINGS, "seed": 3, **changes}
    return model, fit(model, TRAIN, VALIDATION, folder=folder, callbacks=[crash], **settings)  # type: ignore[arg-type]


def assert_equal_trees(first: object, second: object) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)  # type: ignore[arg-type]
    elif isinstance(first, dict):
        assert first.keys() == second.keys()  # type: ignore[attr-defined]
        for key in first:
            assert_equal_trees(first[key], second[key])  # type: ignore[index]
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)  # type: ignore[arg-type]
        for one, other in zip(first, second, strict=True):  # type: ignore[call-overload]
            assert_equal_trees(one, other)
    else:
        assert first == second


def assert_equal_runs(first: Path, second: Path) -> None:
    """Everything in both files: weights, optimiser, schedule, callbacks, random states, record."""
    for name in ("last.ckpt", "best.ckpt"):
        one, other = load_checkpoint(first / name), load_checkpoint(second / name)
        for state in (one, other):
            if "history" in state:
                state["history"] = History.from_dict(state["history"]).without_seconds()
        assert_equal_trees(one, other)


@pytest.mark.parametrize("crashes", [[(1, 2)], [(3, 4)], [(2, 0)], [(6, 6)], [(2, 1), (4, 0), (5, 3)]])
def test_interrupted_anywhere(crashes: list[tuple[int, int]], tmp_path: Path) -> None:
    straight, whole = run(tmp_path / "straight", Crash())
    for at in crashes:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "resumed", Crash(*at))
    resumed, parts = run(tmp_path / "resumed", Crash())
    assert_equal_trees(straight.state_dict(), resumed.state_dict())
    assert parts.without_seconds() == whole.without_seconds()
    expected = [epoch - 1 for epoch, _ in crashes if epoch > 1]
    assert parts.resumed_after == expected
    assert_equal_runs(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.parametrize("changes", [{}, {"balanced_sampling": "mood"}], ids=["plain", "balanced sampling"])
def test_killed_with_signal_9_in_the_middle_of_an_epoch(changes: dict[str, str], tmp_path: Path) -> None:
    script = [sys.executable, str(TESTS / "_training_script.py")]
    command = [*script, str(tmp_path / "killed"), "4", "3", json.dumps(changes)]
    killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert len(load_checkpoint(tmp_path / "killed" / "last.ckpt")["history"]["epochs"]) == 3
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(tmp_path / "killed", Kill(0, 0), **changes)
        run(tmp_path / "straight", Kill(0, 0), **changes)
        other, _ = run(None, Kill(0, 0), balanced_sampling=None if changes else "mood")
    finally:
        torch.set_num_threads(threads)
    assert_equal_runs(tmp_path / "straight", tmp_path / "killed")
    weights = load_checkpoint(tmp_path / "straight" / "best.ckpt")["model"]
    assert any(not torch.equal(weights[name], value) for name, value in other.state_dict().items())


def test_killed_between_the_two_files(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "straight", Crash())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", Crash(3, 1))
    state = load_checkpoint(tmp_path / "resumed" / "last.ckpt")
    assert state["history"]["best_epoch"] == 2, "the test needs a run whose second epoch is its best so far"
    for older in (True, False):
        best = tmp_path / "resumed" / "best.ckpt"
        if older:
            save_checkpoint(best, {"epoch": 1, "model": TinyNetwork(seed=9).state_dict()})
        else:
            best.unlink()
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "resumed", Crash(3, 1))
        assert load_checkpoint(best)["epoch"] == 2
    run(tmp_path / "resumed", Crash())
    assert_equal_runs(tmp_path / "straight", tmp_path / "resumed")
    assert whole.finished


def test_best_weights_of_another_run_are_refused(tmp_path: Path) -> None:
    _, history = run(tmp_path, Crash(), optimizer={"sgd": {"lr": 0.4}}, stop={"patience": 2}, epochs=30)
    assert history.stopped_early
    assert history.best_epoch < len(history)
    save_checkpoint(tmp_path / "best.ckpt", {"epoch": 1 + history.best_epoch, "model": {}})
    with pytest.raises(DataError, match="the files belong to different runs"):
        run(tmp_path, Crash(), optimizer={"sgd": {"lr": 0.4}}, stop={"patience": 2}, epochs=30)
    (tmp_path / "best.ckpt").unlink()
    with pytest.raises(DataError, match=r"best\.ckpt is missing"):
        run(tmp_path, Crash(), optimizer={"sgd": {"lr": 0.4}}, stop={"patience": 2}, epochs=30)


def test_an_optimiser_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Crash(2, 1))
    state = load_checkpoint(tmp_path / "last.ckpt")
    del state["format"]
    groups = state["optimizer"]["param_groups"]
    groups.append({**groups[0], "params": []})
    save_checkpoint(tmp_path / "last.ckpt", state)
    with pytest.raises(ConfigError, match=r"last\.ckpt holds .* grouped in another way.* resume=False"):
        run(tmp_path, Crash())


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    model, history = run(tmp_path, Crash())
    before = (tmp_path / "last.ckpt").stat().st_mtime_ns
    again, same = run(tmp_path, Crash(1, 1))  # would raise if a step were made
    assert_equal_trees(model.state_dict(), again.state_dict())
    assert same == history
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == before


def test_without_resume_the_run_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Crash(4, 1))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Crash(1, 1), resume=False)
    assert not list(tmp_path.iterdir())
    _, history = run(tmp_path, Crash(), resume=False)
    assert history.resumed_after == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 16}, r"training\.batch was 8 and is now 16"),
        ({"seed": 4}, "seed was 3 and is now 4"),
        ({"optimizer": {"adam": {"lr": 0.01}}}, r"training\.optimizer\.adam\.lr was 0\.02 and is now 0\.01"),
        ({"balancer": WeightedSum({"age": 2.0})}, r"weights\.age was 1\.0 and is now 2\.0"),
    ],
)
def test_a_checkpoint_of_other_settings(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Crash(2, 1))
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, Crash(), **changes)


def test_a_checkpoint_of_another_network_or_other_data(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Crash(2, 1))
    wide = TinyNetwork()
    wide.shared = torch.nn.Linear(4, 9)
    settings = {**SETTINGS, "seed": 3, "callbacks": [Crash()]}
    with pytest.raises(ConfigError, match=r"parameters\.shared\.weight was \[8, 4\] and is now \[9, 4\]"):
        fit(wide, TRAIN, VALIDATION, folder=tmp_path, **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"rows\.train was 41 and is now 30"):
        fit(TinyNetwork(), VALIDATION, VALIDATION, folder=tmp_path, **settings)  # type: ignore[arg-type]
