"""Trains on the pretended GPU and on the CPU, in a process of its own; prints a line of JSON per network.

Arguments: kinds of encoders, architectures and ways of balancing, each a list with commas; after `waits`,
what the CPU waits for in each step of training. `cause` alone: what is said of an input that is NaN.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any

import torch

import _architecture_table as table
import _pretended_gpu as gpu
import taskloom as tl
from _planted import planted
from taskloom.errors import TaskloomError
from taskloom.training import fit

SETTINGS: dict[str, Any] = {
    "batch": 16,
    "device": "cpu",
    "optimizer": {"sgd": {"lr": 0.05}},  # Adam makes whole steps of gradients that are roundings of 0
}


ONE_EPOCH = len(sys.argv) > 1 and sys.argv[1] == "waits"
"""Whether trainings have one epoch, in which no network comes to a second phase."""


def settings_of(name: str, kind: str) -> dict[str, Any]:
    """Without dropout: a GPU groups the copies and draws once for all."""
    found = {**_settings_of(name, kind), "head": {"hidden": [4], "dropout": 0.0}}
    if ONE_EPOCH:
        found["sharing"] = {key: given for key, given in found["sharing"].items() if key != "retrain_from"}
    return found


_settings_of, table.settings_of = table.settings_of, settings_of


def trained(
    kind: str, architecture: str, balancing: str, device: str, num_rows: int = 32, epochs: int = 2
) -> dict[str, Any]:
    """The state of the network after training, on the CPU."""
    rows = planted(kind, 3, num_rows=num_rows), planted(kind, 3, num_rows=32, seed=1)
    needed = {"weights": dict.fromkeys(rows[0].tasks, 1.0)} if balancing in ("cosmos", "pbi") else {}
    balancer = tl.balancing.build(balancing, needed)
    with table.registered_encoders():
        network = table.fresh(architecture, kind, rows[0].tasks)
    gpu.WAITS.clear()
    if device == "cpu":
        fit(network, *rows, seed=3, balancer=balancer, epochs=epochs, **SETTINGS)
    else:
        with gpu.pretended_gpu():
            fit(network, *rows, seed=3, balancer=balancer, epochs=epochs, **{**SETTINGS, "device": device})
            assert all(parameter.is_cuda for parameter in network.parameters())
    return {key: gpu.on_cpu(tensor).clone() for key, tensor in network.state_dict().items()}


def furthest(kind: str, architecture: str, balancing: str) -> float:
    """The largest difference between a network trained on the CPU and on the pretended GPU."""
    on_cpu = trained(kind, architecture, balancing, "cpu")
    on_gpu = trained(kind, architecture, balancing, "cuda")
    assert on_cpu.keys() == on_gpu.keys()
    return max(float((on_cpu[key].double() - on_gpu[key].double()).abs().max()) for key in on_cpu)


def waits(kind: str, architecture: str, balancing: str) -> dict[str, float]:
    """What the CPU waits for in a step: the difference between an epoch of four steps and one of two."""
    counted = []
    for num_rows in (32, 64):
        trained(kind, architecture, balancing, "cuda", num_rows, epochs=1)
        counted.append(dict(gpu.WAITS))
    few, many = counted
    per_step = {key: (many.get(key, 0) - few.get(key, 0)) / 2 for key in many}
    return {key: value for key, value in per_step.items() if value}


def said_of_nan() -> str:
    """The error of a run whose sixth training row holds a NaN."""
    rows = planted("mlp", 2, num_rows=64)
    rows.inputs[5, 0] = torch.nan
    with table.registered_encoders(), gpu.pretended_gpu():
        try:
            fit(
                table.fresh("hard_sharing", "mlp", rows.tasks),
                rows,
                rows,
                epochs=1,
                **SETTINGS | {"device": "cuda"},
            )
        except TaskloomError as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"


def main() -> None:
    warnings.filterwarnings("ignore")  # of PyTorch, that it was built without what it is asked for
    gpu.install()
    torch.set_num_threads(1)
    if sys.argv[1] == "cause":
        print(json.dumps({"of": ["cause"], "found": said_of_nan()}), flush=True)
        return
    of_steps = sys.argv[1] == "waits"
    kinds, architectures, balancings = (argument.split(",") for argument in sys.argv[1 + of_steps :])
    for kind in kinds:
        for architecture in architectures:
            for balancing in balancings:
                record: dict[str, Any] = {"of": [kind, architecture, balancing]}
                try:
                    measure = waits if of_steps else furthest
                    record["found"] = measure(kind, architecture, balancing)
                except Exception as error:  # noqa: BLE001  # the test that reads the line fails with it
                    record["error"] = f"{type(error).__name__}: {error}"
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # autograd's thread of the pretended GPU does not end by itself
