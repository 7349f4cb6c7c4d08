"""The table of `benchmarks/sharing.py` is the registry, and counts the work that definitions demand."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import taskloom as tl
from taskloom import sharing
from taskloom.sharing import onednn

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_sharing_table", FOLDER / "_sharing_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_sharing_table"] = module  # its dataclasses look there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["_sharing_table"]
    return module


def test_every_architecture_has_a_row(table: ModuleType) -> None:
    assert sorted(table.SETTINGS) == sorted(sharing.ARCHITECTURES)
    table.check_rows()


def test_a_table_that_is_not_the_registry_is_refused(
    table: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(table.SETTINGS, "mtan")
    with pytest.raises(SystemExit, match=r"no row for mtan, which sharing\.ARCHITECTURES holds; add"):
        table.check_rows()
    monkeypatch.setitem(table.SETTINGS, "mtan", {})
    monkeypatch.setitem(table.SETTINGS, "mtam", {})
    with pytest.raises(SystemExit, match=r"mtam in SETTINGS, which sharing\.ARCHITECTURES does not hold"):
        table.check_rows()


def test_work_of_mixing_and_of_gates(table: ModuleType) -> None:
    encoder = tl.encoders.mlp((5,), hidden=[8, 4])
    tasks = tl.TaskSet(*(tl.Binary(f"task_{i}") for i in range(3)))
    sizes = [math.prod(shape) for shape in encoder.stage_shapes]
    stitched = sharing.build("cross_stitch", encoder, tasks, after=[1])
    assert table.sums_of(stitched, encoder) == 6 * 3 * 3 * sizes[0]
    # Level 1: each of three tasks weighs 2 experts, what is shared all 4; level 2: the tasks alone.
    layered = sharing.build("ple", encoder, tasks)
    below = 2 * 3 * 2 * sizes[0]  # what the gates of level 2 give back to what they read
    assert table.sums_of(layered, encoder) == 6 * ((3 * 2 + 4) * sizes[0] + 3 * 2 * sizes[1]) + below
    assert table.sums_of(sharing.build("hard_sharing", encoder, tasks, stages=2), encoder) == 0


@pytest.mark.parametrize("name", ["mtan", "soft_sharing"])
def test_work_is_that_of_the_products_whatever_multiplies(
    table: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """PyTorch counts oneDNN's products, which some kernels call themselves, as no work at all."""
    if not onednn.serves(torch.ones(1)):
        pytest.skip("this PyTorch has no oneDNN")
    problem = table.Problem("opportunity", 2, quick=True)
    network = problem.network(name)

    def step() -> None:
        network(problem.inputs)[next(iter(problem.tasks))].sum().backward()

    with_onednn = table.flops_of(step)
    monkeypatch.setattr(onednn, "serves", lambda tensor: False)
    assert table.flops_of(step) == with_onednn


def test_variants_are_architectures_with_other_settings(table: ModuleType) -> None:
    problem = table.Problem("deap", 2, quick=True)
    for name, (architecture, settings) in table.VARIANTS.items():
        assert name not in sharing.ARCHITECTURES
        assert architecture in sharing.ARCHITECTURES
        network = problem.network(name)
        cycle = table.cycle_of(problem, network, name)
        assert sum(times for _, times in cycle) == settings.get("every", 1)
        network.set_step(1)
        assert (network.penalty().item() == 0.0) == ("every" in settings)


def test_the_mean_of_a_cycle_counts_its_steps(table: ModuleType) -> None:
    ticks = [0, 10, 10, 26, 26, 28]  # baseline 10, one step of 16, and seven like the one of 2
    warm = [0, 1, 1, 100, 100, 200]  # rounds that warm up do not count
    rounds = [*[warm] * table._WARM_UP, *[ticks] * 2]
    readings = iter([tick + 1000 * number for number, turn in enumerate(rounds) for tick in turn])
    ratio = table.median_ratio(
        [(lambda: None, 1), (lambda: None, 7)], lambda: None, 2, clock=lambda: float(next(readings))
    )
    assert ratio == pytest.approx((16 + 7 * 2) / 8 / 10)
    assert next(readings, None) is None
