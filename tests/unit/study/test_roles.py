"""Roles and forms of baselines in a study: what is run, what is judged, what is shown, and identities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from _small_study import TEXT, Watcher, read, run, write_table
from taskloom.cli import app
from taskloom.deploy import load_bundle
from taskloom.errors import ConfigError
from taskloom.report import load, render_report
from taskloom.study.cells import SINGLE_TASK, baselines, expand_cells
from taskloom.study.results import ResultsStore

AUXILIARY = "{kind: binary, column: sex, role: auxiliary, weight: 0.5}"
ADVERSARIAL = "{kind: binary, column: sex, role: adversarial, reversal: {schedule: linear, lambda: 0.5}}"
ROLES = TEXT.replace("split:", f"  hat:  {AUXILIARY}\n  who:  {ADVERSARIAL}\nsplit:")
FORMS = "baseline={forms: {linear: {}, own: {hidden: [7]}}, judge: own}"


def test_auxiliary_tasks_are_trained_shown_and_never_judged(tmp_path: Path) -> None:
    write_table(tmp_path)
    outcome = run(tmp_path, text=ROLES)
    summary = outcome.summary
    assert (outcome.failed, outcome.planned) == (0, 2 * (2 + 2))
    assert {gain["task"] for gain in summary["gains"]} == {"age", "sex"}
    chosen = {task["name"]: (task["chosen_cell"] != "", task["auxiliary"]) for task in summary["tasks"]}
    assert chosen == {"age": (True, False), "sex": (True, False), "hat": (False, True), "who": (False, True)}
    rows = {(row["task"], row["cell"]): row for row in summary["auxiliary"]}
    cells = [cell["name"] for cell in summary["cells"]]
    assert set(rows) == {(task, cell) for task in ("hat", "who") for cell in cells}
    with ResultsStore(outcome.folder / "results.sqlite", read_only=True) as store:
        values = [
            value.value
            for record in store.records()
            if record.cell_name == cells[0]
            for value in record.metrics
            if (value.task, value.part, value.metric) == ("who", "test", "accuracy")
        ]
    assert rows["who", cells[0]]["value"] == pytest.approx(np.mean(values))
    assert rows["who", cells[0]]["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert rows["who", cells[0]]["role"] == "adversarial"
    # Costs are relative to training the judged tasks alone.
    assert all(np.isfinite(cell["parameter_ratio"]) for cell in summary["cells"])
    page = render_report(outcome.folder).read_text()
    section = page[page.index("Trained beside, not judged") :]
    section = section[: section.index("</table>")]
    assert section.count("<td>adversarial</td>") == 2
    matrix = page[page.index('<table class="matrix">') : page.index("</table>")]
    assert "hat" not in matrix
    assert "2 tasks; no verdicts yet" in page  # two judged tasks of four; two repeats are too few
    watcher = Watcher()
    again = run(tmp_path, text=ROLES, progress=watcher)
    assert again.ran == 0
    assert watcher.begun == []


def test_an_auxiliary_task_is_trained_alone_where_asked(tmp_path: Path) -> None:
    write_table(tmp_path)
    names = [cell.name for cell in baselines(read(text=ROLES))]
    assert names == ["age alone", "sex alone"]
    outcome = run(tmp_path, "baseline.auxiliary=true", "repeats=1", text=ROLES)
    assert outcome.failed == 0
    rows = [row for row in outcome.summary["auxiliary"] if row["cell"] == "alone"]
    assert [row["task"] for row in rows] == ["hat", "who"]
    # Alone nothing is reversed or weighed: two names of one column are one run twice.
    assert rows[0]["value"] == rows[1]["value"]
    assert {gain["task"] for gain in outcome.summary["gains"]} == {"age", "sex"}


def test_both_forms_of_the_baseline_are_run_and_one_is_judged_against(tmp_path: Path) -> None:
    write_table(tmp_path)
    plain = run(tmp_path)
    watcher = Watcher()
    both = run(tmp_path, FORMS, progress=watcher)
    # The linear form is the study's own head: its runs are there already, as are the cells'.
    assert sorted({spec.cell.name for spec in watcher.begun}) == ["age alone, own", "sex alone, own"]
    assert {tuple(spec.head["hidden"]) for spec in watcher.begun} == {(7,)}
    assert both.ran == 4
    rows = {(row["task"], row["form"]): row for row in both.summary["baselines"]}
    assert set(rows) == {(task, f"alone, {form}") for task in ("age", "sex") for form in ("linear", "own")}
    assert [form for (task, form), row in rows.items() if row["judged"]] == ["alone, own"] * 2
    for gain in both.summary["gains"]:
        assert gain["baseline"] == pytest.approx(rows[gain["task"], "alone, own"]["value"])
    for gain in plain.summary["gains"]:
        assert gain["baseline"] == pytest.approx(rows[gain["task"], "alone, linear"]["value"])
    assert {curve["cell"] for curve in both.summary["curves"]} == {
        "",
        *(cell["id"] for cell in both.summary["cells"]),
    }
    first, own = rows["age", "alone, linear"], rows["age", "alone, own"]
    assert own["num_parameters"] - first["num_parameters"] == (5 * 7 + 7 + 7 + 1) - (5 + 1)
    page = render_report(both.folder).read_text()
    assert len(re.findall("● alone, own", page)) == 2
    # Judged against the other one: nothing is trained again.
    other = run(tmp_path, FORMS.replace("judge: own", "judge: linear"))
    assert other.ran == 0
    assert [gain["gain"] for gain in other.summary["gains"]] == [g["gain"] for g in plain.summary["gains"]]
    assert load(other.folder).baselines[0].judged
    # A single head of its own.
    assert run(tmp_path, "baseline={head: {hidden: [7]}}").ran == 0


def test_identities_of_studies_without_these_settings_stay(tmp_path: Path) -> None:
    study = read()
    (first, *_), cells = baselines(study), expand_cells(study)
    assert first.id == SINGLE_TASK
    assert "head" not in first.resolved()
    assert all("head" not in cell.resolved() for cell in cells)
    assert study.config.model_dump()["baseline"]["forms"] == {}


def test_training_one_cell_leaves_the_auxiliary_task_out_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path)
    (tmp_path / "people.yaml").write_text(ROLES)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    trained = runner.invoke(app, ["train", "people.yaml", "--cell", "hard sharing 2", "--out", "x"])
    assert trained.exit_code == 0, trained.output
    assert "left out hat, who: trained beside, not part of the bundle" in trained.output
    assert load_bundle(tmp_path / "x.bundle").tasks.names == ("age", "sex")
    evaluated = runner.invoke(app, ["evaluate", "x.bundle", "people.yaml"])
    assert evaluated.exit_code == 0, evaluated.output
    assert "hat" not in evaluated.output
    inspected = runner.invoke(app, ["inspect", "people.yaml"])
    assert "binary, adversarial" in inspected.output
    studied = runner.invoke(app, ["study", "people.yaml", "--set", "repeats=1"])
    assert studied.exit_code == 0, studied.output
    assert re.search(r"who: \S+ % accuracy in hard sharing 2 \(adversarial: trained beside", studied.output)
    assert "+ 2 single-task = 4 runs" in studied.output


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            ROLES.replace("role: auxiliary", "role: helper"),
            [],
            r"people\.yaml:\d+: tasks\.hat\.role: `helper`",
        ),
        (ROLES.replace("lambda", "lamda"), [], r"people\.yaml:\d+: .*reversal\.lamda is not a setting"),
        (TEXT.replace("unit: years", "weight: 2"), [], r"tasks\.age\.weight: only auxiliary"),
        (
            TEXT.replace("unit: years", "role: auxiliary").replace(
                "kind: binary", "kind: binary, role: auxiliary"
            ),
            [],
            r"age, sex are all auxiliary or adversarial",
        ),
        (
            ROLES + "    tasks: [hat, who]\n",
            [],
            r"cells\[?\.?1\]?\.tasks: hat, who: none of them is a main task",
        ),
        (TEXT, ["baseline={judge: own}"], r"baseline.*judge `own` is not one of the forms"),
        (TEXT, ["baseline={forms: {a: {}, b: {hidden: []}}}"], r"forms `a` and `b` are the same"),
        (TEXT, ["baseline={head: {}, forms: {a: {}}}"], r"either `head` or `forms` expected"),
        (TEXT, ["baseline={forms: {a: {hiden: [1]}}}"], r"hiden is not a setting"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_cells(read(*overrides, text=text))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "  - hard_sharing: {stages: 0}\n",
            r"people\.yaml:\d+: cells.*who\.role: adversarial: the task shares",
        ),
        (
            "  - hard_sharing: {stages: 2, deep_supervision: 0.1}\n    balancing: mgda_ub\n",
            r"people\.yaml:\d+: .*heads of deep supervision read the trunk",
        ),
        ("  - hard_sharing: {stages: 2, read_out: {hat: 3}}\n", r"read_out\.hat: stage 3 does not exist"),
        (
            "  - cross_stitch: {}\n    warm_start: single_task\n",
            r"warm_start: task hat is not judged and so not trained alone",
        ),
    ],
)
def test_what_does_not_fit_the_network_is_found_before_training(
    tmp_path: Path, entry: str, message: str
) -> None:
    write_table(tmp_path)
    text = ROLES[: ROLES.index("cells:")] + "cells:\n" + entry
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, text=text)
    assert not (tmp_path / "out").exists()


def test_subsets_are_those_with_a_main_task() -> None:
    text = ROLES[: ROLES.index("  - hard_sharing")] + "  - hard_sharing: {stages: 2}\n    tasks: subsets\n"
    sets = {cell.tasks for cell in expand_cells(read(text=text))}
    assert ("hat", "who") not in sets
    assert {("age", "hat"), ("sex", "who"), ("age", "sex", "hat", "who")} <= sets
    assert len(sets) == 2**4 - 1 - 4 - 1


def test_depths_multiply_into_cells() -> None:
    entry = "  - hard_sharing: {stages: [1, 2], read_out: {age: 1}, deep_supervision: {weight: 0.3}}\n"
    cells = expand_cells(read(text=TEXT[: TEXT.index("  - hard_sharing")] + entry))
    settings: list[dict[str, Any]] = [cell.settings for cell in cells]
    assert [entry["stages"] for entry in settings] == [1, 2]
    assert all(entry["read_out"] == {"age": 1} for entry in settings)
