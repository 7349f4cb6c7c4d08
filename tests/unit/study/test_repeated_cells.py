"""Cells that are one network in other words are noticed before anything is trained, and trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from _small_study import TEXT, read, run, values, write_table
from taskloom.report import render_report
from taskloom.report.configurations import grid_view
from taskloom.report.load import load
from taskloom.study.runner import Outcome, Plan, plan_study

BEFORE = TEXT[: TEXT.index("  - hard_sharing")]
THREE = BEFORE.replace("  sex: ", "  tall: {kind: regression, column: a}\n  sex: ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("people"))


def planned(folder: Path, *entries: str, before: str = BEFORE) -> Plan:
    text = before + "".join(f"  - {entry}\n" for entry in entries)
    return plan_study(read(text=text), folder / "out", data=folder)


LAST_TWO = BEFORE + "  - hard_sharing: {stages: 2}\n"
BOTH_ENDS = "hard_sharing: {stages: [1, 2], from: [input, output]}"


@pytest.fixture(scope="module")
def both(folder: Path) -> Outcome:
    return run(folder, out="both", text=f"{BEFORE}  - {BOTH_ENDS}\n")


def test_such_cells_train_alike_and_count_once(folder: Path, both: Outcome) -> None:
    ends = [
        run(
            folder,
            f"cells.0.hard_sharing.from={end}",
            out=end,
            text=BEFORE + "  - hard_sharing: {stages: 2}\n",
        )
        for end in ("input", "output")
    ]
    scores = [
        {(r["cell"] == "single_task", r["task"]): r["value"] for r in outcome.summary["gains"]}
        for outcome in ends
    ]
    assert scores[0] == scores[1]  # by another route: they are one network indeed
    assert both.done == 2 * (2 + 3)
    names = [cell["name"] for cell in both.summary["cells"]]
    assert names == [f"hard sharing {cell}" for cell in ("1 from input", "1 from output", "2 from input")]
    assert len(both.summary["gains"]) == 2 * 3
    (warning,) = both.summary["warnings"]
    assert warning == (
        "people.yaml:10: cells[0]: `hard sharing 2 from output` is the same network as `hard sharing 2 from "
        "input` of the same entry; it is trained once, under the name that stands first, and counts as one "
        "cell."
    )
    assert values(folder / "input").items() <= values(folder / "both").items()


def test_the_one_network_fills_both_places_of_the_grid_and_is_counted_once(both: Outcome) -> None:
    rows = both.summary["configurations"]
    places = {(row["depth"], row["end"]): row["cell"] for row in rows}
    assert len(places) == len(rows) == 4
    assert places[2, "input"] == places[2, "output"] != places[1, "input"]
    grid = grid_view(load(both.folder))
    assert grid is not None
    assert [line[3].split(" of ")[1] for line in grid.counts] == ["3", "3"]  # not 4
    assert all("of 1 pairs" in sentence for sentence in grid.sentences)  # no pair of a cell with itself
    assert "same network as" in render_report(both.folder).read_text()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("hard_sharing: {stages: 1}", "hard_sharing: {stages: 1, from: input}"),
        ("hard_sharing: {stages: 1}", "hard_sharing: {stages: 1, groups: [[sex, age]]}"),
        ("hard_sharing: {stages: 1}", "hard_sharing: {stages: 1, joined: false}"),  # nothing meets again
        ("hard_sharing: {stages: 1}", "hard_sharing: {stages: 1, copies: fresh}"),
        ("hard_sharing: {stages: 1}", "{hard_sharing: {stages: 1}, balancing: weighted_sum}"),
        ("cross_stitch: {}", "cross_stitch: {units: 2}"),
        ("cross_stitch: {after: [1, 2]}", "cross_stitch: {after: [dense_0, dense_1]}"),
        ("mmoe: {}", "mmoe: {copies: fresh}"),
        (
            "{hard_sharing: {stages: 1}, balancing: learned_weights}",
            "{hard_sharing: {stages: 1}, balancing: {learned_weights: {lambda: 0.1}}}",
        ),
        (
            "{hard_sharing: {stages: 1}, callbacks: [early_freeze]}",
            "{hard_sharing: {stages: 1}, callbacks: [{early_freeze: {patience: 5}}]}",
        ),
    ],
)  # fmt: skip
def test_other_words_for_the_same_network(folder: Path, first: str, second: str) -> None:
    plan = planned(folder, first, second)
    (repeated,) = plan.repeated
    assert (repeated.of.entry, repeated.cell.entry) == (0, 1)
    assert [cell.entry for cell in plan.cells] == [0]
    assert {spec.cell.entry for spec in plan.specs} == {-1, 0}
    assert f"cells[1]: `{repeated.cell.name}` is the same network as" in plan.prepared.facts["warnings"][0]
    assert "of cells[0] (people.yaml:10)" in plan.prepared.facts["warnings"][0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("hard_sharing: {stages: 1, from: input}", "hard_sharing: {stages: 1, from: output}"),
        ("hard_sharing: {stages: 1, from: output}", "hard_sharing: {stages: 1, from: output, joined: false}"),
        ("hard_sharing: {stages: 1}", "hard_sharing: {stages: 1, copies: same}"),
        ("hard_sharing: {stages: 1}", "{hard_sharing: {stages: 1}, balancing: mean}"),
        ("hard_sharing: {stages: 1}", "{hard_sharing: {stages: 1}, training: {epochs: 4}}"),
        ("hard_sharing: {stages: 1}", "{hard_sharing: {stages: 1}, head: {hidden: [3]}}"),
        ("cross_stitch: {}", "cross_stitch: {lr_multiplier: 2}"),
        ("mmoe: {experts: 2}", "mmoe: {experts: 3}"),
        ("soft_sharing: {weight: 0.1}", "soft_sharing: {weight: 0.2}"),
        ("soft_sharing: {every: 1}", "soft_sharing: {every: 2}"),
        (
            "{hard_sharing: {stages: 1}, balancing: learned_weights}",
            "{hard_sharing: {stages: 1}, balancing: {learned_weights: {lambda: 0.2}}}",
        ),
        (
            "{hard_sharing: {stages: 1}, callbacks: [early_freeze]}",
            "{hard_sharing: {stages: 1}, callbacks: [{early_freeze: {patience: 4}}]}",
        ),
    ],
)  # fmt: skip
def test_what_differs_is_kept(folder: Path, first: str, second: str) -> None:
    plan = planned(folder, first, second)
    assert plan.repeated == []
    assert [cell.entry for cell in plan.cells] == [0, 1]


def test_pairs_of_two_entries_are_one_sentence(folder: Path) -> None:
    plan = planned(
        folder, "{hard_sharing: {stages: [1, 2]}, tasks: subsets}",
        "{hard_sharing: {stages: [2, 1], from: output}, tasks: subsets}", before=THREE,
    )  # fmt: skip
    assert len(plan.repeated) == 4
    (warning,) = plan.prepared.facts["warnings"]
    assert "(3 more pairs likewise)" in warning
    assert all(pair.cell.tasks == pair.of.tasks for pair in plan.repeated)


def test_a_network_that_others_start_from_is_trained(folder: Path) -> None:
    chain = "{cross_stitch: {units: [1, 2], from: output}, warm_start: {previous: units}}"
    same = "{cross_stitch: {after: [[2], [1, 2]]}, warm_start: single_task}"
    plan = planned(folder, same, chain)
    # `units: 1` from the output is `after: [2]` of the first entry, but `units: 2` starts from it.
    assert plan.repeated == []
    assert {start.cell.id for spec in plan.specs for start in spec.starts} <= {
        spec.cell.id for spec in plan.specs
    }
