"""Early freeze with every architecture of the registry: what has stopped never changes again, and resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import taskloom as tl
from _architecture_table import ROWS, Crash
from _freezing import Script, changed
from _planted import planted, planted_encoder
from taskloom.sharing import MultiTaskNetwork
from taskloom.sharing.modules.branching import BranchingNetwork
from taskloom.sharing.modules.skipping import SkippingNetwork
from taskloom.training import Callback, EarlyFreeze, History, TrainingState, fit

TRAIN, VALIDATION = planted("mlp", 3, num_rows=64), planted("mlp", 3, num_rows=32, seed=1)
# task_0 converges in epoch 1 and freezes all that is shared after 2, task_2 stops after 4 (best in 3).
TABLE: dict[str, list[float | None]] = {
    "task_0": [1.0, 2.0, 1.0, 1.0, 1.0, 1.0],
    "task_1": [9.0, 8.0, 7.0, 6.0, 5.0, 4.0],
    "task_2": [5.0, 4.0, 3.0, 4.0, 1.0, 1.0],
}


class Looks(Callback):
    """Predictions, weights and the optimiser's parameters after every epoch."""

    def __init__(self) -> None:
        self.predictions: list[dict[str, Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []
        self.optimised: list[set[str]] = []

    def epoch_end(self, state: TrainingState) -> None:
        names = {id(parameter): name for name, parameter in state.model.named_parameters()}
        groups = state.optimizer.param_groups
        self.optimised.append({names[id(p)] for group in groups for p in group["params"]})
        self.weights.append({name: tensor.clone() for name, tensor in state.model.state_dict().items()})
        modes = {module: module.training for module in state.model.modules()}
        state.model.eval()
        with torch.no_grad():
            self.predictions.append(state.model(VALIDATION.inputs))
        for module, mode in modes.items():
            module.training = mode


def build(name: str, **settings: Any) -> MultiTaskNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        chosen = {**ROWS[name].settings, **settings}
        return tl.sharing.build(name, planted_encoder("mlp"), TRAIN.tasks, head={"hidden": [4]}, **chosen)


def train(network: MultiTaskNetwork, *callbacks: Callback, folder: Path | None = None) -> History:
    return fit(
        network,
        TRAIN,
        VALIDATION,
        epochs=6,
        batch=16,
        seed=4,
        device="cpu",
        optimizer={"adam": {"lr": 0.02}},
        folder=folder,
        callbacks=[Script(TABLE), EarlyFreeze(patience=1), *callbacks],
    )


@pytest.mark.parametrize("name", ROWS)
def test_what_has_stopped_never_changes_again(name: str) -> None:
    looks, network = Looks(), build(name)
    history = train(network, looks)
    assert history.shared_frozen == 2
    assert {task: end.stopped for task, end in history.task_ends.items()} == {
        "task_0": 2,
        "task_2": 4,
        "task_1": None,
    }
    shared = {id(parameter) for parameter in build(name).shared_parameters()}
    shared_names = {id(p): n for n, p in network.named_parameters()}
    frozen = {shared_names[id(parameter)] for parameter in network.shared_parameters()}
    assert len(frozen) == len(shared) or name == "adaptive_branching"
    for epoch in range(2, 6):  # from the freeze on
        assert torch.equal(looks.predictions[epoch]["task_0"], looks.predictions[0]["task_0"])
        moved = changed(looks.weights[epoch - 1], looks.weights[epoch])
        assert not moved & frozen
        assert moved  # task_1 learns to the end
        assert moved & set(dict(network.named_parameters())) <= looks.optimised[epoch - 1]
    for epoch in (4, 5):
        assert torch.equal(looks.predictions[epoch]["task_2"], looks.predictions[2]["task_2"])
    network.eval()
    with torch.no_grad():
        final = network(VALIDATION.inputs)
    for task, epoch in (("task_0", 1), ("task_1", 6), ("task_2", 3)):
        torch.testing.assert_close(final[task], looks.predictions[epoch - 1][task], rtol=0, atol=0)


@pytest.mark.parametrize("crash", [2, 3, 5])
@pytest.mark.parametrize("name", ["cross_stitch", "ple", "mtan", "adashare", "adaptive_branching"])
def test_a_killed_run_equals_a_whole_one(name: str, crash: int, tmp_path: Path) -> None:
    whole, killed = build(name), build(name)
    history = train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(killed, Crash(crash), folder=tmp_path)
    again = build(name)
    resumed = train(again, Crash(0), folder=tmp_path)
    assert resumed.resumed_after == [crash - 1]
    assert resumed.without_seconds() == history.without_seconds()
    assert not changed(whole.state_dict(), again.state_dict())


def test_a_curriculum_stands_still_once_what_it_would_change_is_frozen() -> None:
    network = build("adashare", curriculum_epochs=1)
    assert isinstance(network, SkippingNetwork)
    train(network)
    assert network.num_open == 1  # as in epoch 1, to which the network went back; two by the plan
    tree = build("adaptive_branching", after_epochs=[1, 3])
    assert isinstance(tree, BranchingNetwork)
    train(tree)
    assert len(tree.plan.stages[1].partition) == 1  # epoch 3 comes after the freeze
