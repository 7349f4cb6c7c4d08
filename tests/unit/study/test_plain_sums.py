"""Ways of balancing beside the plain sum of the losses: who is compared with whom, and by how much."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from _report import with_overall
from _small_study import TEXT, run, write_table
from taskloom.report.load import load, render_report
from taskloom.report.model import CellRow, GainRow, PlainSum
from taskloom.report.render import render
from taskloom.study.plain_sums import plain_sums
from taskloom.study.results import RunRecord
from taskloom.study.statistics import holm
from taskloom.study.verdicts import Comparison

CELLS = """\
  - hard_sharing: {stages: 2}
    balancing: [weighted_sum, {learned_weights: {lambda: [0.1, 1]}}, pcgrad]
  - hard_sharing: {stages: 1}
    balancing: dwa
"""
STUDY = f"{TEXT.partition('cells:')[0]}cells:\n{CELLS}"


def record(cell: str, settings: dict[str, Any]) -> RunRecord:
    fields = {field.name: None for field in dataclasses.fields(RunRecord)}
    return RunRecord(**{**fields, "cell": cell, "tasks": ("a",), "resolved": {"cell": settings}})


def compared(**cells: dict[str, Any]) -> list[Comparison]:
    facts = {"cells": [{"id": name, "tasks": ["a"]} for name in cells]}
    return plain_sums(facts, {(name, "a"): [record(name, given)] for name, given in cells.items()})


def test_cells_that_differ_in_nothing_but_balancing_are_compared_with_the_plain_sum() -> None:
    same: dict[str, Any] = {"architecture": "hard_sharing", "settings": {"stages": 2}}
    other = {**same, "settings": {"stages": 1}}
    found = compared(
        a={**same, "balancing": {"pcgrad": {}}},
        b=same,  # without a balancer: the plain sum
        c={**other, "balancing": {"mean": {}}},
        d={**same, "balancing": {"weighted_sum": {"weights": {"a": 2.0}}}},
        e={**other, "balancing": {"dwa": None}},
        f={**same, "balancing": {"mean": None}},
        g={**same, "balancing": {"pcgrad": {}}, "callbacks": [{"early_freeze": {}}]},
    )
    assert found == [Comparison("b", ("a", "d", "f")), Comparison("c", ("e",))]


def test_a_plain_sum_in_other_words_is_found_under_the_name_that_was_trained(tmp_path: Path) -> None:
    text = TEXT[: TEXT.index("  - hard_sharing")] + (
        "  - hard_sharing: {stages: 2, from: [input, output]}\n"
        "  - {hard_sharing: {stages: 2, from: output}, balancing: pcgrad}\n"
        "  - {hard_sharing: {stages: 2, from: input}, balancing: dwa}\n"
    )
    found = run(write_table(tmp_path), "repeats=1", "training.epochs=1", text=text).summary
    plain, pcgrad, dwa = found["cells"]  # `2 from output` without balancing is `2 from input`
    (entry,) = found["plain_sums"]
    assert entry["cell"] == plain["id"]
    assert {gain["cell"] for gain in entry["gains"]} == {pcgrad["id"], dwa["id"]}


def test_cells_without_a_plain_sum_among_them_are_compared_with_nothing() -> None:
    same: dict[str, Any] = {"architecture": "hard_sharing", "settings": {"stages": 2}}
    assert compared(a={**same, "balancing": {"pcgrad": {}}}, b={**same, "balancing": {"dwa": {}}}) == []
    assert compared(a=same) == []


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_table(tmp_path_factory.mktemp("plain"))
    run(folder, "repeats=3", text=STUDY)
    from taskloom.study.summary import write_summary

    write_summary(folder / "out")
    return folder / "out"


def test_gains_over_the_plain_sum_are_differences_of_the_runs_test_values(study: Path) -> None:
    data = load(study)
    (entry,) = data.plain_sums
    names = {cell.id: cell.name for cell in data.cells}
    assert names[entry.cell] == "hard sharing 2 + weighted sum"
    assert {names[gain.cell] for gain in entry.gains} == {
        "hard sharing 2 + learned weights lambda 0.1",
        "hard sharing 2 + learned weights lambda 1",
        "hard sharing 2 + pcgrad",
    }
    table = pd.read_parquet(study / "results.parquet")
    table = table[table["part"] == "test"].set_index(["cell", "task", "metric", "repeat"])
    table = table["value"].sort_index()
    metric = {task.name: (task.metric, 1 if task.higher_is_better else -1) for task in data.tasks}
    for gain in entry.gains:
        name, sign = metric[gain.task]
        differences = table[gain.cell, gain.task, name] - table[entry.cell, gain.task, name]
        assert gain.gain == pytest.approx(sign * differences.mean(), rel=1e-9)
        if differences.any():
            assert gain.low < gain.gain < gain.high
        # Alone or beside the sum, a cell has the same value.
        assert gain.value == data.gain(gain.task, gain.cell).value  # type: ignore[union-attr]


def test_correction_goes_over_the_cells_of_one_plain_sum(study: Path) -> None:
    from taskloom.study.results import ResultsStore
    from taskloom.study.verdicts import by_cell_and_task, compare_all, judged_only
    from taskloom.tasks import TaskSet

    with ResultsStore(study / "results.sqlite", read_only=True) as store:
        records, facts = store.records(), store.facts()
    done = judged_only(by_cell_and_task(records), facts)
    (comparison,) = plain_sums(facts, done)
    (found,) = compare_all(study, TaskSet.from_dicts(facts["tasks"]), facts, done, [comparison])
    ages = [gain for gain in found.gains if gain.task == "age"]
    assert len(ages) == 3
    np.testing.assert_allclose([g.p_adjusted for g in ages], holm([g.p_value for g in ages]))


def test_page_says_what_balancing_did(study: Path) -> None:
    page = render_report(study).read_text(encoding="utf-8")
    assert "<h2>What balancing did</h2>" in page
    assert "gain over hard sharing 2 + weighted sum, which weighs no task against another" in page
    assert "Holm over 3 cells of this table" in page


def test_sentences_name_who_helped_and_hurt() -> None:
    data = with_overall()
    many = [CellRow(f"m{i}", f"way {i}", ("age",), 1.0, 1, 1, 1.0, 3, 3, "", 1.0, 1.0, 1.0) for i in range(7)]
    gains = [
        GainRow("age", f"m{i}", 5.5, 5.5 + 0.1 * i, -0.1 * i, -0.1 * i - 0.05, -0.1 * i + 0.05, 0.01, "hurt")
        for i in range(7)
    ]
    gains.append(GainRow("age", "c2", 5.5, 5.2, 0.3, 0.2, 0.4, 0.01, "helped"))
    gains.append(GainRow("gender", "c2", 0.9, 0.9, 0.0, -0.1, 0.1, 0.9, "no difference shown"))
    data = dataclasses.replace(data, cells=(*data.cells, *many), plain_sums=(PlainSum("c1", gains),))
    page = render(data)
    assert "age: helped by cross-stitch &lt;per channel&gt; (+0.30 [0.20, 0.40]); hurt by way 6" in page
    assert "and 2 more." in page
    assert "gender: no difference shown with the other way of balancing." in page
    # A cell with the plain sum stands in no row of its own table.
    table = page[page.index("What balancing did") :]
    assert f"<th>with {data.cells[0].name}</th>" in table
