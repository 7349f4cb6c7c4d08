"""Every architecture with the settings that the tables over the registry build it with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import taskloom as tl
from _module_networks import KINDS, NUMBERS
from _planted import INPUT_SHAPES, PlantedRows, planted, planted_encoder
from taskloom.deploy import build_network, load_bundle, save_bundle
from taskloom.encoders import ENCODERS, Encoder
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import Callback, History, TrainingState, fit

SETTINGS: dict[str, dict[str, Any]] = {
    "single_task": {},
    "hard_sharing": {"stages": 2},
    "cross_stitch": {"start": {"same": 0.9, "other": 0.1}},
    "soft_sharing": {"weight": 0.001},
    "proportional_addition": {"start": 0.1},
    "plan": {
        "partition": {"1": "together"},
        "mixing": {"after": [2]},
        "tie": {"l2": {"weight": {"3": 0.01}}},
    },
    "adaptive_branching": {"after_epochs": [1]},
    "sluice": {"skips": "concatenate"},
    "mmoe": {"experts": 2},
    "ple": {},
    "mtan": {},
    "task_routing": {"sharing": 0.6},
    "adashare": {},
    "multilinear_relationship": {"update_every": 2},
}
TRAINING: dict[str, Any] = {
    "epochs": 3,
    "batch": 16,
    "optimizer": {"adam": {"lr": 0.02}},
    "schedule": {"cosine": {}},
    "device": "cpu",
}
CASES = [(name, number) for name in SETTINGS for number in NUMBERS]


class Crash(Callback):
    """Ends the training after an epoch; 0 for never."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def epoch_end(self, state: TrainingState) -> None:
        if state.epoch == self.at:
            raise KeyboardInterrupt


@contextmanager
def registered_encoders() -> Iterator[None]:
    """Gives the planted problem's encoders names, so that a bundle can build them again."""

    def encoder_of(kind: str) -> Any:
        def build(input_shape: tuple[int, ...]) -> Encoder:
            assert tuple(input_shape) == INPUT_SHAPES[kind]
            return planted_encoder(kind)

        return build

    for kind in KINDS:
        ENCODERS.register(f"planted_{kind}")(encoder_of(kind))
    try:
        yield
    finally:
        for kind in KINDS:
            del ENCODERS._entries[f"planted_{kind}"]


def settings_of(name: str, kind: str) -> dict[str, Any]:
    """What a bundle writes down."""
    return {
        "input_shape": INPUT_SHAPES[kind],
        "encoder": {"name": f"planted_{kind}"},
        "sharing": {"name": name, **SETTINGS[name]},
        "head": {"hidden": [4], "dropout": 0.1},
    }


def trained(
    name: str, kind: str, rows: tuple[PlantedRows, PlantedRows], folder: Path | None, *, crash: int = 0
) -> tuple[MultiTaskNetwork, History]:
    network = fresh(name, kind, rows[0].tasks)
    return network, fit(network, *rows, folder=folder, seed=3, callbacks=[Crash(crash)], **TRAINING)


def fresh(name: str, kind: str, tasks: tl.TaskSet) -> MultiTaskNetwork:
    """`build_network` forks the random state, so the weights follow from the seed set here."""
    torch.manual_seed(5)
    return build_network(settings_of(name, kind), tasks)


def check_whole_life(name: str, kind: str, number: int, folder: Path) -> None:
    """Trains, is interrupted and resumed to the same bits, is saved and loaded with the same predictions."""
    rows = planted(kind, number, num_rows=64), planted(kind, number, num_rows=32, seed=1)
    network, history = trained(name, kind, rows, None)
    first, last = history.epochs[0].train_loss, history.epochs[-1].train_loss
    assert sum(v for v in last.values() if v is not None) < sum(v for v in first.values() if v is not None)
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())
    with pytest.raises(KeyboardInterrupt):
        trained(name, kind, rows, folder / "run", crash=2)
    again, resumed = trained(name, kind, rows, folder / "run")
    assert resumed.resumed_after == [1]  # the second epoch was not written
    assert resumed.without_seconds() == history.without_seconds()
    state = again.state_dict()
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())
    loaded = load_bundle(save_bundle(folder / "model", network, **settings_of(name, kind))).model
    network.eval()
    with torch.no_grad():
        expected, found = network(rows[1].inputs), loaded(rows[1].inputs)
    assert expected.keys() == found.keys() == set(rows[0].tasks)
    assert all(torch.equal(found[task], output) for task, output in expected.items())
