"""Every architecture, and every balancing, moves with bfloat16 as with float32, but for its rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import taskloom as tl
from _architecture_table import SETTINGS
from _random_rows import RANDOM_TASKS, RandomRows
from taskloom.balancing import BALANCERS
from taskloom.balancing import build as build_balancer
from taskloom.encoders import build

SHAPE = (24, 3)
NEEDED: dict[str, dict[str, Any]] = {
    "pbi": {"weights": {"age": 1.0, "smiles": 1.0, "place": 2.0}},
    "cosmos": {"weights": {"age": 1.0, "smiles": 1.0, "place": 2.0}},
    "curriculum": {"order": ["age", "smiles", "place"]},
}
OWN_TABLE = "config"  # a balancer that is built of others


def way(architecture: str, balancing: str | None, precision: str) -> Tensor:
    """How far two epochs move the parameters, as one vector."""
    torch.manual_seed(0)
    head: dict[str, Any] = {"head": {"hidden": [6]}} if architecture == "multilinear_relationship" else {}
    encoder = build("conv1d", SHAPE, filters=[4, 6, 6])
    network = tl.sharing.ARCHITECTURES[architecture](encoder, RANDOM_TASKS, **SETTINGS[architecture], **head)
    start = {name: parameter.clone() for name, parameter in network.named_parameters()}
    settings: dict[str, Any] = {"optimizer": {"sgd": {"lr": 0.01}}, "device": "cpu", "progress": False}
    balancer = None if balancing is None else build_balancer(balancing, NEEDED.get(balancing, {}))
    rows = RandomRows(SHAPE, 1), RandomRows(SHAPE, 2)
    tl.fit(network, *rows, balancer=balancer, epochs=2, batch=12, precision=precision, **settings)
    after = dict(network.named_parameters())
    return torch.cat(
        [(after[name] - before).detach().flatten() for name, before in start.items() if name in after]
    )


@pytest.mark.parametrize(
    ("architecture", "balancing"),
    [(name, None) for name in SETTINGS] + [("hard_sharing", name) for name in BALANCERS if name != OWN_TABLE],
)
def test_the_way_is_the_same(architecture: str, balancing: str | None) -> None:
    exact, rounded = (way(architecture, balancing, precision) for precision in ("32", "bf16-mixed"))
    assert F.cosine_similarity(exact, rounded, dim=0) > 0.97
    assert rounded.norm() == pytest.approx(exact.norm().item(), rel=0.06)
