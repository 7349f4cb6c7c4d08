"""Every architecture in one table: its settings, its number of parameters, who hears whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import taskloom as tl
from _module_networks import KINDS, NUMBERS, head_parameters
from _planted import INPUT_SHAPES, PlantedRows, planted, planted_encoder
from taskloom.deploy import build_network, load_bundle, save_bundle
from taskloom.encoders import ENCODERS, Encoder
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import Callback, History, TrainingState, fit


class Row(NamedTuple):
    """What the tables over the registry want to know of an architecture.

    Args:
        settings: What it is built with, on an encoder of three stages.
        num_parameters: Formula of T tasks on stages of s weights each, for heads of 6 hidden units.
        heard: Pattern of the parameters that belong to a task and that others hear once the network mixes:
            copies of stages below a unit. None: there are none.
    """

    settings: dict[str, Any]
    num_parameters: Callable[[int, list[int], Encoder, tl.TaskSet], int]
    heard: str | None = None


def rows_of(encoder: Encoder) -> list[int]:
    """Numbers in one row of each stage's input."""
    shapes = (encoder.input_shape, *encoder.stage_shapes)
    return [int(torch.tensor(shape).prod()) for shape in shapes[:-1]]


def sluice_heads(encoder: Encoder, tasks: tl.TaskSet) -> int:
    """Heads of 6 hidden units that read all channels of all stages at the last one's positions."""
    positions = encoder.num_features // encoder.stage_shapes[-1][0]
    width = positions * sum(shape[0] for shape in encoder.stage_shapes)
    return head_parameters(encoder, tasks) + len(tasks) * 6 * (width - encoder.num_features)


def attention(encoder: Encoder) -> int:
    """One task's modules: c x c from the stage, c x c' from the stage before, c x c out, two biases."""
    channels = [shape[0] for shape in encoder.stage_shapes]
    before = [0, *channels]
    return sum(c * (2 * c + 2 + b) for c, b in zip(channels, before, strict=False))


ROWS: dict[str, Row] = {
    "single_task": Row(
        {},
        lambda t, s, e, k: t * sum(s) + head_parameters(e, k),
    ),
    "hard_sharing": Row(
        {"stages": 2},
        lambda t, s, e, k: s[0] + s[1] + t * s[2] + head_parameters(e, k),
    ),
    "cross_stitch": Row(
        {"start": {"same": 0.9, "other": 0.1}},
        lambda t, s, e, k: t * sum(s) + 3 * t**2 + head_parameters(e, k),
        r"stages\.",
    ),
    "soft_sharing": Row(
        {"weight": 0.001},
        lambda t, s, e, k: t * sum(s) + head_parameters(e, k),
    ),
    "proportional_addition": Row(
        {"start": 0.1},
        lambda t, s, e, k: t * sum(s) + 3 * t + head_parameters(e, k),
        r"stages\.",
    ),
    "plan": Row(
        {
            "partition": {"1": "together"},
            "mixing": {"after": [2]},
            "tie": {"l2": {"weight": {"3": 0.01}}},
        },
        lambda t, s, e, k: s[0] + t * (s[1] + s[2]) + t**2 + head_parameters(e, k),
        r"stages\.\w*[_.]?1\.",  # a unit stands after the second stage, none after the third
    ),
    "adaptive_branching": Row(
        {"after_epochs": [1]},
        lambda t, s, e, k: sum(s) + head_parameters(e, k),
    ),
    "sluice": Row(
        {"skips": "concatenate"},
        lambda t, s, e, k: t * sum(s) + 3 * (2 * t) ** 2 + 3 * t + sluice_heads(e, k),
        r"stages\.",
    ),
    "mmoe": Row(
        {"experts": 2},
        lambda t, s, e, k: 2 * sum(s) + t * 2 * rows_of(e)[0] + head_parameters(e, k),
    ),
    "dselect_k": Row(  # 3 experts, whose codes have 2 digits
        {"experts": 3, "selected": 2},
        lambda t, s, e, k: 3 * sum(s) + t * 2 * (2 + 1) * (rows_of(e)[0] + 1) + head_parameters(e, k),
    ),
    "ple": Row(
        {},
        lambda t, s, e, k: (
            (1 + t) * sum(s)
            + t * 2 * sum(rows_of(e))
            + (1 + t) * sum(rows_of(e)[:2])  # the gates of what is shared, at every level but the last
            + head_parameters(e, k)
        ),
        r"(stages\.\w*[01]\.|gates\.[01]\.)",  # experts of all levels but the last, through what is shared
    ),
    "mtan": Row(
        {},
        lambda t, s, e, k: sum(s) + t * attention(e) + head_parameters(e, k),
    ),
    "task_routing": Row(
        {"sharing": 0.6},
        lambda t, s, e, k: sum(s) + head_parameters(e, k),
    ),
    "adashare": Row(
        {},
        lambda t, s, e, k: sum(s) + 2 * t + head_parameters(e, k),
    ),
    "learning_to_branch": Row(
        {"retrain_from": 2, "retrain_weights": "keep"},
        lambda t, s, e, k: t * sum(s) + 3 * t**2 + head_parameters(e, k),
    ),
    "multilinear_relationship": Row(
        {"update_every": 2},
        lambda t, s, e, k: s[0] + s[1] + t * s[2] + head_parameters(e, k),
    ),
}
"""The one table of a new architecture: other tests take its settings from here, or have their own besides."""

SETTINGS = {name: row.settings for name, row in ROWS.items()}
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
