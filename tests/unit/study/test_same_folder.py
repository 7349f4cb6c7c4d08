"""One folder, one study: another one is refused before it trains, and no report is lost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from _small_study import TEXT, Watcher, read, write_table
from taskloom.errors import DataError
from taskloom.report import render_report
from taskloom.study.results import ResultsStore
from taskloom.study.runner import Outcome, check_store, plan_study, run_study

SMALL = (
    TEXT[: TEXT.index("  - cross_stitch")]
    .replace("repeats: 2", "repeats: 1")
    .replace("epochs: 3", "epochs: 1")
)
MORE = SMALL + "  - cross_stitch: {per: layer}\n"
Run = Callable[..., Outcome]


@pytest.fixture
def begun(tmp_path: Path) -> Run:
    """A folder in which the study `people` has been run; runs more there."""
    write_table(tmp_path)

    def go_on(text: str = SMALL, *overrides: str, name: str = "people", **options: object) -> Outcome:
        study = dataclasses.replace(read(*overrides, text=text), name=name)
        return run_study(study, tmp_path / "out", Watcher(), data=tmp_path, **options)

    go_on()
    render_report(tmp_path / "out")
    return go_on


def test_another_study_is_refused_and_nothing_changes(begun: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = {
        file: file.read_bytes() for file in out.rglob("*") if file.is_file() and "lock" not in file.name
    }
    for text in (SMALL.replace("[6, 5]", "[7, 5]"), SMALL.replace("stages: 2", "stages: 1")):
        # With nothing in common, and with the single-task runs in common: its report would lack a cell.
        with pytest.raises(DataError) as caught:
            begun(text, name="other")
        assert str(caught.value) == (
            f"{out}: this folder holds 3 runs of another study, `people`, whose report `other` would "
            "replace; choose another --out."
        )
        study = dataclasses.replace(read(text=text), name="other")
        with pytest.raises(DataError, match="another study"):  # --dry-run says it too
            plan_study(study, out, data=tmp_path)
    after = {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and "lock" not in file.name}
    assert after == before
    check_store(out)


def test_a_study_of_another_name_that_holds_all_runs_goes_on(begun: Run) -> None:
    outcome = begun(MORE, name="people_2")
    assert (outcome.ran, outcome.done) == (1, 4)
    assert outcome.summary["title"] == "people_2"


def test_the_same_study_goes_on_with_a_cell_more_and_less_and_other_repeats(
    begun: Run, tmp_path: Path
) -> None:
    for text, overrides, ran in (
        (MORE, (), 1),
        (MORE, ("repeats=2",), 4),
        (SMALL, (), 0),
        (SMALL, ("repeats=2",), 0),
    ):
        assert begun(text, *overrides).ran == ran
    assert not (tmp_path / "out" / "earlier").exists()


def test_a_report_without_any_run_in_common_is_kept_aside(begun: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = ("report.html", "summary.json", "results.parquet", "study.yaml")
    before = {name: (out / name).read_bytes() for name in names}
    study = read("encoder.hidden=[7,5]", text=SMALL)
    earlier = plan_study(study, out, data=tmp_path).earlier
    assert earlier is not None
    assert not earlier.aside.exists()  # only looked at
    told = []
    outcome = begun(SMALL, "encoder.hidden=[7,5]", announce=lambda plan: told.append(plan.earlier))
    assert told == [earlier]
    assert {name: (earlier.aside / name).read_bytes() for name in names} == before
    assert json.loads((out / "summary.json").read_text())["runs"]["done"] == 3
    assert outcome.ran == 3
    # The runs themselves are still there: the study of before goes on as if nothing had been between.
    with ResultsStore(out / "results.sqlite", read_only=True) as store:
        assert len(store.records(planned_only=False)) == 6
    again = begun()
    assert again.ran == 0
    assert len(list((out / "earlier").iterdir())) == 2
    assert again.summary["gains"] == json.loads(before["summary.json"])["gains"]


def test_a_study_that_was_stopped_before_its_first_run_is_in_nobodys_way(tmp_path: Path) -> None:
    write_table(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with ResultsStore(out / "results.sqlite") as store:
        store.plan(["a1"], {"title": "another"})
    assert plan_study(read(text=SMALL), out, data=tmp_path).earlier is None
