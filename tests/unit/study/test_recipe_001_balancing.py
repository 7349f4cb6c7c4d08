"""The recipe of thesis 001's tables 5.1 to 5.5, shrunk, on drawn faces: its cells, what its runs record."""

from __future__ import annotations

from pathlib import Path

import pytest

import taskloom
from _small_study import Watcher
from taskloom.data.simulate import simulate_utkface
from taskloom.report.load import render_report
from taskloom.study.cells import expand_cells
from taskloom.study.config import Study, check_study
from taskloom.study.overrides import apply_overrides
from taskloom.study.results import ResultsStore
from taskloom.study.runner import run_study
from taskloom.study.yaml_lines import parse_document

RECIPE = Path(taskloom.__file__).parents[2] / "recipes" / "thesis_001_balancing.yaml"


def recipe(*overrides: str) -> Study:
    text = RECIPE.read_text(encoding="utf-8")
    return check_study(apply_overrides(parse_document(text, RECIPE.name), overrides), "thesis")


def test_cells_are_the_rows_of_the_tables() -> None:
    cells = {cell.name: cell for cell in expand_cells(recipe())}
    lambdas = [f"learned weights lambda {value}" for value in ("0.001", "0.01", "0.1", "1")]
    assert list(cells) == ["average loss", *lambdas, "early stopping", "early stopping by trend"]
    assert cells["average loss"].balancing == {"mean": {}}
    # Tables 5.1 to 5.4 compare one thing at a time with the same cell.
    proposed = cells["learned weights lambda 0.1"]
    assert cells["average loss"].callbacks == proposed.callbacks
    assert cells["early stopping"].balancing == proposed.balancing


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = simulate_utkface(tmp_path_factory.mktemp("data") / "faces", images=140, size=16, lacking=2)
    small = recipe(
        "data.size=16",
        "encoder.width=0.125",
        "head.hidden=[8]",
        "training.epochs=5",
        "training.device=cpu",
        "repeats=1",
        *(f"cells.{number}.callbacks=[{{early_freeze: {{patience: 1}}}}]" for number in (0, 1)),
        "cells.2.callbacks=[{task_stopping: {patience: 1}}]",
        "cells.3.callbacks=[{task_stopping: {criterion: trend, strip: 1, threshold: 0.01}}]",
    )
    watcher = Watcher()
    run_study(small, folder.parent / "out", watcher, data=folder)
    assert len(watcher.ended) == 7 + 3
    assert [record.status for record in watcher.ended] == ["done"] * 10
    return folder.parent / "out"


def test_every_run_records_weights_and_when_tasks_stopped(outcome: Path) -> None:
    with ResultsStore(outcome / "results.sqlite", read_only=True) as store:
        records = {record.cell_name: record for record in store.records()}
    frozen = [name for name, record in records.items() if record.history.get("shared_frozen")]
    assert frozen
    assert all(name.startswith(("average loss", "learned weights")) for name in frozen)
    for name, record in records.items():
        if name.startswith("learned"):
            weights = [epoch["balancing"] for epoch in record.history["epochs"]]
            assert all(sum(state.values()) == pytest.approx(1.0, abs=1e-5) for state in weights)


def test_the_report_tells_it(outcome: Path) -> None:
    html = render_report(outcome).read_text(encoding="utf-8")
    assert "learned weights lambda 0.01" in html
    assert "converged in epoch" in html
