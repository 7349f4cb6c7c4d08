"""docs/statistics.md: its table has the lines of the benchmark, which run; none is beyond its level."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\| (.+?) \| ([\d.]+) % \| ([\d.]+) % \| [+−][\d.]+ \|$", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def benchmark_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verdicts_benchmark", ROOT / "benchmarks" / "verdicts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_has_the_lines_of_the_benchmark(benchmark_module: ModuleType) -> None:
    assert [name for name, _, _ in LINES] == [protocol.name for protocol in benchmark_module.protocols()]


def test_no_verdict_of_the_table_is_wrong_more_often_than_its_level(benchmark_module: ModuleType) -> None:
    assert all(float(wrong) <= 6 for _, wrong, _ in LINES)
    # The intervals of a chosen cell are the one exception, which the page names.
    assert all(float(missed) <= 6 for name, _, missed in LINES if not name.startswith("best of"))


def test_lines_of_the_benchmark_measure_what_they_say(benchmark_module: ModuleType) -> None:
    protocols = {protocol.name: protocol for protocol in benchmark_module.protocols()}
    few = protocols["30 cells, 3 seeds (that move a run by 0.5), 100 groups"]
    gains = few.study(np.random.default_rng(0))
    assert (len(gains), gains[0].num_repeats, gains[0].num_clusters) == (30, 3, 100)
    wrong, missed, mean = benchmark_module.measured(protocols["3 folds, 3 repeats, seeds matter"], 40)
    assert max(wrong, missed) <= 0.15
    assert abs(mean) < 0.6
