"""What a task reads is found where its units are dead, and a run that goes on need not find it again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import taskloom as tl
from _architecture_table import ROWS, Crash
from _freezing import Script, changed
from _planted import planted, planted_encoder
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import Callback, EarlyFreeze, History, TaskStopping, fit
from taskloom.training.freezing import reads

TRAIN, VALIDATION = planted("mlp", 3, num_rows=60), planted("mlp", 3, num_rows=32, seed=1)
MODULES = (
    "sluice",
    "mmoe",
    "dselect_k",
    "ple",
    "mtan",
    "task_routing",
    "adashare",
    "learning_to_branch",
    "multilinear_relationship",
)
# task_0 converges in epoch 1 and stops after 2, task_1 after 4.
TABLE: dict[str, list[float | None]] = {
    "task_0": [1.0, 2.0, 1.0, 1.0, 1.0],
    "task_1": [9.0, 8.0, 7.0, 8.0, 5.0],
    "task_2": [5.0, 4.0, 3.0, 2.0, 1.0],
}


def network(name: str) -> MultiTaskNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = planted_encoder("mlp")
        return tl.sharing.build(name, encoder, TRAIN.tasks, head={"hidden": [4]}, **ROWS[name].settings)


def silence(model: MultiTaskNetwork, task: str) -> None:
    """Makes all hidden units of a head dead on the first row."""
    hidden = next(m for m in model.get_submodule(f"heads.{task}").modules() if isinstance(m, nn.Linear))
    seen: list[torch.Tensor] = []
    handle = hidden.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        model.eval()(TRAIN.inputs[:1])
        hidden.bias -= seen[0][0].clamp(min=0) + 0.3
    handle.remove()


def read_names(model: MultiTaskNetwork) -> dict[str, set[str]]:
    modules = [module for task in model.tasks for module in model.task_modules(task)]
    names = {id(p): name for name, p in model.named_parameters()}
    found = reads(model, TRAIN.inputs[:1], modules)
    return {task: {names[number] for number in read if number in names} for task, read in found.items()}


@pytest.mark.parametrize("name", MODULES)
def test_a_head_that_is_dead_on_a_row_reads_what_it_reads(name: str) -> None:
    model = network(name)
    expected = read_names(model)
    silence(model, "task_2")
    assert read_names(model) == expected
    assert {task for task, read in expected.items() if any("heads.task_2" in p for p in read)} == {"task_2"}


def train(model: MultiTaskNetwork, callback: Callback, folder: Path | None, crash: int) -> History:
    adam = {"adam": {"lr": 0.02}}
    more = [Script(TABLE), callback, Crash(crash)]
    return fit(
        model,
        TRAIN,
        VALIDATION,
        epochs=5,
        batch=20,
        optimizer=adam,
        device="cpu",
        callbacks=more,
        folder=folder,
    )


@pytest.mark.parametrize("callback", [EarlyFreeze, TaskStopping])
@pytest.mark.parametrize("name", ["ple", "task_routing"])
def test_a_killed_run_freezes_the_same_whatever_its_weights_tell_by_then(
    name: str, callback: type[EarlyFreeze | TaskStopping], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed, again = (network(name) for _ in range(3))
    history = train(whole, callback(patience=1), None, 0)
    with pytest.raises(KeyboardInterrupt):
        train(killed, callback(patience=1), tmp_path, 4)

    def finds_nothing(*_: object) -> dict[str, set[int]]:
        return {task: set() for task in TRAIN.tasks}

    monkeypatch.setattr("taskloom.training.freezing.reads", finds_nothing)
    resumed = train(again, callback(patience=1), tmp_path, 0)
    assert resumed.resumed_after == [3]
    assert resumed.without_seconds() == history.without_seconds()
    assert not changed(whole.state_dict(), again.state_dict())
