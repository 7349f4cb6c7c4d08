"""Training on a pretended GPU (`_pretended_gpu.py`): no tensor stays behind, results are those of the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import _pretended_gpu as gpu
from _architecture_table import SETTINGS
from taskloom.balancing import BALANCERS

TESTS = Path(__file__).parents[2]
KINDS = ("mlp", "conv2d", "lstm")
ONE_READ = {"tolist": 1.0, "copied to the CPU": 1.0, "numbers sent": 1.0}

pytestmark = pytest.mark.skipif(not gpu.AVAILABLE, reason="this PyTorch has no devices written in Python")


@cache
def walked(*arguments: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """What the walk printed, by kind of encoder, architecture and balancing."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "_pretended_gpu_walk.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS,
    )
    records = [{"of": [], "error": done.stderr[-2000:]}] if done.returncode else []
    records += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {tuple(record["of"]): record for record in records}


def found(records: dict[tuple[str, ...], dict[str, Any]], *of: str) -> Any:
    assert () not in records, records[()]["error"]
    assert "error" not in records[of], records[of]["error"]
    return records[of]["found"]


@pytest.mark.parametrize("architecture", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_trains_there_as_on_the_cpu(kind: str, architecture: str) -> None:
    records = walked(kind, ",".join(SETTINGS), "weighted_sum")
    assert found(records, kind, architecture, "weighted_sum") < 1e-5


@pytest.mark.parametrize("balancing", sorted(BALANCERS))
def test_every_balancing_trains_there_as_on_the_cpu(balancing: str) -> None:
    """The tasks' own copies run as one kernel there, and give gradients that lie otherwise in memory."""
    records = walked("mlp", "hard_sharing", ",".join(sorted(BALANCERS)))
    assert found(records, "mlp", "hard_sharing", balancing) < 1e-5


@pytest.mark.parametrize(
    ("balancing", "expected"),
    [
        ("weighted_sum", {}),
        ("learned_weights", {}),
        ("uncertainty", {}),
        ("dwa", {}),
        ("famo", {}),
        ("pcgrad", ONE_READ),
        ("nash_mtl", ONE_READ),
        ("mgda_ub", ONE_READ),
    ],
)
def test_a_step_waits_only_where_the_method_reads_numbers(balancing: str, expected: dict[str, float]) -> None:
    """Whoever reads a number of the GPU waits for all that was asked of it before."""
    names = "weighted_sum,learned_weights,uncertainty,dwa,famo,pcgrad,nash_mtl,mgda_ub"
    records = walked("waits", "conv2d", "hard_sharing", names)
    assert found(records, "conv2d", "hard_sharing", balancing) == expected


NO_WAITS = ("single_task", "cross_stitch", "sluice", "mmoe", "dselect_k", "ple", "mtan", "learning_to_branch")


@pytest.mark.parametrize("architecture", NO_WAITS)
def test_no_step_of_these_architectures_waits(architecture: str) -> None:
    records = walked("waits", "conv2d", ",".join(NO_WAITS), "weighted_sum")
    assert found(records, "conv2d", architecture, "weighted_sum") == {}


def test_a_nan_among_the_inputs_is_named_though_the_losses_are_looked_at_later() -> None:
    said = found(walked("cause"), "cause")
    assert said.startswith("DataError: inputs: finite numbers expected, found NaN or infinity in row 5"), said
