"""Cells that differ in one thing alone are found whether or not their defaults are written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _coupled_study import TEXT, read, write_animals
from _small_study import Watcher
from taskloom.study.runner import run_study
from taskloom.study.written_out import written_out


def cell(name: str, **settings: Any) -> dict[str, Any]:
    return {
        "architecture": name,
        "settings": settings,
        "tasks": ["a", "b"],
        "training": {},
        "balancing": None,
    }


def test_a_default_that_is_written_out_changes_nothing() -> None:
    short = cell("hard_sharing", stages=4)
    assert written_out(short) == written_out(cell("hard_sharing", **{"stages": 4, "from": "input"}))
    assert written_out(short) != written_out(cell("hard_sharing", **{"stages": 4, "from": "output"}))
    assert written_out(short) != written_out(cell("hard_sharing", stages=3))
    assert written_out(cell("mmoe")) == written_out(cell("mmoe", experts=4, stages="all"))


def test_balancing_and_callbacks_are_written_out_too() -> None:
    plain = cell("mmoe")
    assert written_out(plain) == written_out({**plain, "balancing": {"weighted_sum": None}, "callbacks": []})
    pcgrad = {**plain, "balancing": {"learned_weights": {"lambda": 0.1}}}
    spelled = {**plain, "balancing": {"learned_weights": {"lambda": 0.1, "start": "uniform"}}}
    assert set(written_out(pcgrad)["balancing"][1]) >= {"lambda_"}
    assert written_out(pcgrad) != written_out(spelled)


def test_what_is_not_registered_keeps_its_settings() -> None:
    """`taskloom report` computes verdicts anew without the files of a user's own."""
    own = cell("somebodys_own", width=3)
    assert written_out({**own, "balancing": {"their_way": {"x": 1}}})["settings"] == {"width": 3}


def test_the_twin_of_a_coupled_cell_may_write_its_defaults_out(tmp_path: Path) -> None:
    """As in EXPERIENCE.md: `stages: 4` with a coupling, and `from: [input, output]` without."""
    text = TEXT.replace(
        "  - hard_sharing: {stages: 1}\n  -", "  - hard_sharing: {stages: 1, from: input}\n  -"
    )
    study = read("repeats=1", "training.epochs=2", text=text)
    summary = run_study(study, tmp_path / "out", Watcher(), data=write_animals(tmp_path)).summary
    (row,) = summary["couplings"]
    assert row["twin"] == summary["cells"][0]["id"]
    assert row["consistency"]["without"]["repeats"] == 1
    assert [task["name"] for task in row["tasks"]] == list(study.config.tasks)


def test_the_plain_sum_of_a_balanced_cell_may_write_its_defaults_out(tmp_path: Path) -> None:
    text = TEXT.partition("cells:")[0] + (
        "cells:\n"
        "  - {hard_sharing: {stages: 1, from: input}}\n"
        "  - {hard_sharing: {stages: 1}, balancing: dwa}\n"
    )
    study = read("repeats=1", "training.epochs=1", text=text)
    summary = run_study(study, tmp_path / "out", Watcher(), data=write_animals(tmp_path)).summary
    first, second = (found["id"] for found in summary["cells"])
    (found,) = summary["plain_sums"]
    assert found["cell"] == first
    assert {gain["cell"] for gain in found["gains"]} == {second}
