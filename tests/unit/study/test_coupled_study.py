"""`coupling` in a study: what may be written, what identifies a run, what it does, what is refused before."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

import taskloom as tl
from _coupled_study import ANIMALS, PARTS, TABLE, TEXT, read, write_animals, write_relatedness
from _small_study import Watcher
from taskloom.coupling import Relatedness
from taskloom.deploy import load_bundle, save_bundle
from taskloom.errors import ConfigError, DataError
from taskloom.report import render_report
from taskloom.study import coupling_rows
from taskloom.study.cells import expand_cells
from taskloom.study.couplings import read_coupling
from taskloom.study.decisions import label_f1, load_decisions, save_decisions
from taskloom.study.gains import Gain
from taskloom.study.results import ResultsStore, run_folder
from taskloom.study.runner import plan_study, run_study
from taskloom.study.single import train_cell
from taskloom.study.statistics import Scores, compare
from taskloom.study.verdicts import by_cell_and_task
from taskloom.tasks import TaskSet
from taskloom.training import Evaluation

KINDS = {"animal": "multiclass", "fur": "binary", "wings": "binary"}
PATH = ("cells", 0, "coupling")


# -- what may be written


@pytest.mark.parametrize(
    ("kinds", "given", "expected"),
    [
        (KINDS, {}, ("animal", ["fur", "wings"])),
        ({"a": "multiclass", "b": "multiclass"}, {}, ("a", "b")),
        ({"a": "binary", "b": "binary", "age": "regression"}, {}, (["a", "b"], ["a", "b"])),
        ({"units": "multilabel"}, {}, (["units"], ["units"])),
        (KINDS, {"attributes": ["wings"]}, ("animal", ["wings"])),
        (KINDS, {"classes": "animal"}, ("animal", ["fur", "wings"])),
        ({"sex": "binary", "beard": "binary"}, {"classes": "sex", "attributes": "beard"}, ("sex", "beard")),
    ],
)
def test_sides_follow_from_the_tasks(kinds: Any, given: Any, expected: Any) -> None:
    ((settings, _),) = read_coupling({"relatedness": "from_labels", **given}, kinds, PATH)
    assert settings is not None
    assert (settings["classes"], settings["attributes"]) == expected


def test_lists_multiply_and_stand_in_the_name() -> None:
    given = {
        "relatedness": ["from_labels", "table.csv"],
        "weight": [0.1, 1],
        "matching": [{"direction": ["printed", "distillation"]}, False],
        "attributes": ["fur", "wings"],
    }
    found = read_coupling(given, KINDS, PATH)
    assert len({words for _, words in found}) == len(found) == 2 * 2 * 3
    assert "coupling table weight 0.1 matching direction distillation" in [words for _, words in found]
    settings = [one for one, _ in found if one is not None]
    assert {one["co_annotation"][0]["weight"] for one in settings} == {0.1, 1}
    assert read_coupling([False, {"relatedness": "from_labels"}], KINDS, PATH)[0] == (None, "")
    two = read_coupling({"relatedness": "from_labels", "matching": [[{}, {"to": "classes"}]]}, KINDS, PATH)
    assert two[0][0] is not None
    assert [term.get("to") for term in two[0][0]["matching"]] == [None, "classes"]


def test_names_and_ids_of_cells() -> None:
    text = TEXT.replace("matching: {", "weight: [0.1, 1]\n      matching: {")
    cells = expand_cells(read(text=text))
    assert [cell.name for cell in cells] == [
        "hard sharing 1",
        "hard sharing 1 + coupling table weight 0.1",
        "hard sharing 1 + coupling table weight 1",
    ]
    assert len({cell.id for cell in cells}) == 3
    first = "- hard_sharing: {stages: 1}\n    "
    same = TEXT.replace(f"{first}coupling", f"{first}name: a\n    coupling")
    same += f"  {first}name: a\n    coupling: {{relatedness: table.csv}}\n"
    told_apart = [cell.name for cell in expand_cells(read(text=same))][1:]
    assert len(set(told_apart)) == 2
    assert "co-annotation label temperature 0.1" in told_apart[0]
    assert cells[0].id == expand_cells(read())[0].id
    assert "coupling" not in cells[0].resolved()


@pytest.mark.parametrize(
    ("coupling", "message"),
    [
        ("3", r"animals.yaml:18: cells\[1\].coupling: settings by name or false expected, found 3"),
        ("{relatednes: a}", r"coupling.relatednes is not a setting. Did you mean `relatedness`\?"),
        ("{weight: 1}", r"animals.yaml:18: cells\[1\].coupling.relatedness is missing"),
        ("{relatedness: from_label}", r"`from_label` is neither .* Did you mean `from_labels`\?"),
        ("{relatedness: {from_labels: {minimum: 2}}}", r"relatedness.minimum is not a setting"),
        ("{relatedness: {a: 1}}", r"one of from_labels, table, from_data, from_bundle with its settings"),
        ("{relatedness: from_labels, weight: -1}", r":18: cells\[1\].coupling: a weight of 0 or more .* -1"),
        ("{relatedness: from_labels, matching: {too: a}}", r"coupling.matching.too is not a setting"),
        (
            "{relatedness: from_labels, classes: anmal}",
            r"no task `anmal` in this cell. Did you mean `animal`",
        ),
        (
            "{relatedness: from_labels, attributes: [age]}",
            r"coupling.attributes: task age is a regression; on",
        ),
        ("{relatedness: from_labels, matching: false, co_annotation: false}", "found both turned off"),
        ("{relatedness: from_labels, as_tasks: 2}", "as_tasks: true or false expected, found 2"),
    ],
)
def test_refuses_at_file_and_line(coupling: str, message: str) -> None:
    text = TEXT[: TEXT.index("    coupling:")] + f"    coupling: {coupling}\n"
    text = text.replace("split:", "  age:    {kind: regression}\nsplit:").replace("test: 17", "")
    with pytest.raises(ConfigError, match=message):
        expand_cells(read(text=text))


def test_which_tasks_must_follow() -> None:
    kinds = {"a": "multiclass", "b": "multiclass", "c": "binary"}
    with pytest.raises(ConfigError, match=r"does not follow from the cell's \(a \(multiclass\), b \(multi"):
        read_coupling({"relatedness": "from_labels"}, kinds, PATH)


# -- before any run


def planned(folder: Path, *overrides: str) -> Any:
    return plan_study(read(*overrides), folder / "out", data=folder)


def test_dry_run_names_what_does_not_match(tmp_path: Path) -> None:
    write_animals(tmp_path)
    path = tmp_path / "table.csv"
    path.write_text(path.read_text().replace("bee", "beee"))
    with pytest.raises(
        ConfigError, match=r"animals.yaml:18: cells\[1\].coupling.relatedness table.csv: its c"
    ) as told:
        planned(tmp_path)
    assert "Table: cat, bird, fish, beee. Tasks: bee, bird, cat, fish." in str(told.value)
    assert "Did you mean `beee`?" in str(told.value)
    write_relatedness(path, TABLE * np.array([[1], [1], [1], [0]]))
    with pytest.raises(DataError, match=r"cells\[1\].coupling.relatedness.*class bee has no attribute"):
        planned(tmp_path)
    write_relatedness(path, TABLE - 0.5)
    with pytest.raises(DataError, match=r"weights from 0 to 1 expected, found -0.5 for class cat"):
        planned(tmp_path)
    path.unlink()
    with pytest.raises(
        DataError, match=r"animals.yaml:18: cells\[1\].coupling.relatedness: there is no .*table"
    ):
        planned(tmp_path)
    with pytest.raises(DataError, match="10 rows or more with both labels expected per entry, found fewer"):
        planned(tmp_path, "cells.1.coupling.relatedness=from_labels")


def test_dry_run_knows_a_method_that_needs_every_task(tmp_path: Path) -> None:
    write_animals(tmp_path)
    later = "cells.1.coupling.weight={weight: 1, start_epoch: 2}"
    settings = (later, "cells.1.coupling.as_tasks=true", "cells.1.balancing=pcd")
    with pytest.raises(ConfigError, match=r"cells\[1\].coupling.as_tasks: balancing\.pcd needs 9 tasks"):
        planned(tmp_path, *settings)


def test_identity_has_the_table(tmp_path: Path) -> None:
    write_animals(tmp_path)
    before = {spec.cell.name: spec for spec in planned(tmp_path).specs if spec.repeat == 0}
    write_relatedness(tmp_path / "table.csv", TABLE * 0.9)
    after = {spec.cell.name: spec for spec in planned(tmp_path).specs if spec.repeat == 0}
    coupled = "hard sharing 1 + coupling table"
    assert before[coupled].id != after[coupled].id
    assert before["hard sharing 1"].id == after["hard sharing 1"].id
    assert set(before[coupled].resolved["relatedness"]) == {"table.csv"}


def test_a_wrong_table_is_warned_of_before_and_after(tmp_path: Path) -> None:
    write_animals(tmp_path, disjoint=False)
    assert not planned(tmp_path).prepared.facts["warnings"]
    wrong = ("cells.1.coupling.relatedness=wrong.csv", "training.epochs=6", "repeats=1")
    (warning,) = planned(tmp_path, *wrong).prepared.facts["warnings"]
    assert "relatedness wrong.csv contradicts the labels in" in warning
    assert "fur given cat: table 0.00, data 1.00" in warning
    summary = run_study(read(*wrong), tmp_path / "out", Watcher(), data=tmp_path).summary
    assert warning in summary["warnings"]
    (row,) = summary["couplings"]
    assert row["warnings"] == [warning]
    assert row["num_contradictions"] > 0
    assert row["agreement"] < 0.5
    animal = row["tasks"][0]
    assert animal["with"] < animal["without"] - 0.2  # and it hurts, as the paper says of its limitation
    assert warning[:60] in render_report(tmp_path / "out").read_text().replace("&#39;", "'")


# -- what it does


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_animals(tmp_path_factory.mktemp("animals"))
    outcome = run_study(read(), folder / "out", Watcher(), data=folder)
    assert outcome.failed == 0
    return folder


def test_planted_relatedness_helps_and_makes_consistent(finished: Path) -> None:
    summary = json.loads((finished / "out" / "summary.json").read_text())
    (row,) = summary["couplings"]
    assert row["twin"] == summary["cells"][0]["id"]
    shares = {who: found["share"] for who, found in row["consistency"].items()}
    assert shares["with"] < shares["without"] < shares["alone"]
    by_task = {task["name"]: task for task in row["tasks"]}
    assert by_task["animal"]["with"] > by_task["animal"]["without"] + 0.05
    assert np.mean([by_task[name]["gain"] for name in PARTS]) > 0
    gains = {(g["task"], g["cell"]): g for g in summary["gains"]}
    assert by_task["animal"]["with"] == gains["animal", row["cell"]]["value"]
    assert "too few rows have labels of both sides" in row["notes"][0]
    assert np.array_equal(np.array(row["values"]), TABLE)


def test_verdicts_on_several_coupled_cells_are_corrected_together(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With p = 0.04 of itself, "helped" of one coupled cell becomes no verdict beside a second one."""
    with ResultsStore(finished / "out" / "results.sqlite", read_only=True) as store:
        records, facts = store.records(), store.facts()
    tasks = TaskSet.from_dicts(facts["tasks"])
    alone = Scores(dict.fromkeys(range(3), 0.5))
    mean = 0.5 + 4.85 / 3**0.5  # t = 4.85 with two degrees of freedom: p = 0.04
    cell = Scores({0: mean - 1, 1: mean, 2: mean + 1})
    gain = compare("animal", "accuracy", alone, {"c": cell})["c"]
    assert (gain.verdict, round(gain.p_value, 3)) == ("helped", 0.04)

    def between(*arguments: Any) -> Gain:
        return dataclasses.replace(gain, task=arguments[1].name)

    monkeypatch.setattr(coupling_rows, "gain_between", between)
    coupled = facts["cells"][1]
    again = [dataclasses.replace(run, cell="again") for run in records if run.cell == coupled["id"]]
    for cells, verdict in (([], "helped"), ([{**coupled, "id": "again"}], "no difference shown")):
        done = by_cell_and_task([*records, *again])
        with_more = {**facts, "cells": [*facts["cells"], *cells]}
        rows = coupling_rows.coupling_rows(finished / "out", tasks, with_more, done)
        assert len(rows) == 1 + len(cells)
        assert {task["verdict"] for row in rows for task in row["tasks"]} == {verdict}


def test_shares_are_counted_as_by_hand(finished: Path) -> None:
    out = finished / "out"
    (row,) = json.loads((out / "summary.json").read_text())["couplings"]
    with ResultsStore(out / "results.sqlite", read_only=True) as store:
        runs = [record for record in store.records() if record.cell == row["cell"]]
    wrong = []
    for run in runs:
        with np.load(run_folder(out, run.id) / "test_decisions.npz") as decided:
            animals = np.array(sorted(ANIMALS))[decided["animal"]]
            has = np.stack([decided[name] for name in PARTS], axis=1)
        expected = TABLE[[ANIMALS.index(animal) for animal in animals]]
        wrong.append((has != expected).any(axis=1).mean())
    assert row["consistency"]["with"]["share"] == pytest.approx(np.mean(wrong))
    assert row["consistency"]["with"]["most"] == pytest.approx(max(wrong))


def test_report_says_what_coupling_did(finished: Path) -> None:
    page = render_report(finished / "out").read_text()
    assert "What coupling did" in page
    assert "without coupling." in page
    assert "Couples animal with fur, wings, fins, legs, tail and eggs." in page


def test_from_labels_is_estimated_on_training_rows_only(tmp_path: Path) -> None:
    write_animals(tmp_path, disjoint=False)
    source = "cells.1.coupling.relatedness={from_labels: {minimum_support: 5, smoothing: 1}}"
    settings = ("training.epochs=1", "repeats=1", source)
    out = tmp_path / "out"
    (row,) = run_study(read(*settings), out, Watcher(), data=tmp_path).summary["couplings"]
    with ResultsStore(out / "results.sqlite", read_only=True) as store:
        (run,) = [record for record in store.records() if record.cell == row["cell"]]
    table = Relatedness.load(run_folder(out, run.id) / "relatedness.json")
    assert table.totals is not None
    assert table.totals[:, 0].sum() == 300  # the training rows, each of one animal
    assert run.resolved["cell"]["coupling"]["relatedness"]["from_labels"]["smoothing"] == 1
    assert row["low"][0][0] is not None


def test_from_another_table_and_from_a_trained_model(tmp_path: Path) -> None:
    write_animals(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    write_animals(other, disjoint=False, seed=1)
    settings = ("training.epochs=1", "repeats=1")
    from_data = "cells.1.coupling.relatedness={from_data: other/animals.csv}"
    plan = planned(tmp_path, *settings, from_data)
    coupled = plan.specs[-1]
    assert coupled.resolved["relatedness"].keys() == {"animals.csv"}
    study = read("training.epochs=12", "repeats=1")
    trained = train_cell(study, "hard sharing 1 + coupling table", data=tmp_path, stores=tmp_path / "stores")
    splits = trained.splits
    path = save_bundle(
        tmp_path / "model.bundle",
        trained.network,
        input_shape=splits.train.input_shape,
        encoder=trained.spec.encoder,
        sharing={"name": trained.spec.cell.architecture, **trained.spec.cell.settings},
        head=trained.spec.head,
        preprocessing=splits.preprocessing,
        about={},
    )
    # Nothing of the coupling is needed to predict.
    assert "coupl" not in json.dumps(load_bundle(path).settings)
    from_bundle = "cells.1.coupling.relatedness={from_bundle: model.bundle, minimum_support: 5}"
    out = tmp_path / "out"
    (row,) = run_study(read(*settings, from_bundle), out, Watcher(), data=tmp_path).summary["couplings"]
    assert row["source"] == "predictions of model.bundle"
    values = np.array(row["values"])[[row["classes"].index(name) for name in ANIMALS]]
    assert ((values > 0.5) == (TABLE > 0.5)).mean() > 0.9


def test_binary_tasks_with_each_other(tmp_path: Path) -> None:
    """As tox21 has them: every task is given and follows; balanced as tasks by a gradient method."""
    write_animals(tmp_path, disjoint=False)
    text = TEXT[: TEXT.index("cells:")] + (
        "cells:\n"
        "  - hard_sharing: {stages: 1}\n"
        "    tasks: [fur, wings, fins, legs, tail, eggs]\n"
        "    balancing: pcgrad\n"
        "    coupling: {relatedness: from_labels, weight: 0.1, as_tasks: true}\n"
    )
    study = read("training.epochs=1", "repeats=1", text=text)
    outcome = run_study(study, tmp_path / "out", Watcher(), data=tmp_path)
    assert outcome.failed == 0
    (row,) = outcome.summary["couplings"]
    assert row["between"] == "attribute_attribute"
    assert row["classes_side"] == row["attributes_side"] == list(PARTS)
    assert "not fur" in row["classes"]
    assert row["consistency"]["without"] is None
    assert "What coupling did" in render_report(tmp_path / "out").read_text()


def test_decisions_come_back_and_count_labels(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    tasks = tl.TaskSet(
        tl.Multiclass("kind", 3), tl.Binary("on"), tl.Multilabel("units", ("a", "b")), tl.Regression("age")
    )
    outputs = {name: torch.randn(20, task.width, generator=draw) for name, task in tasks.items()}
    truth = torch.randint(0, 2, (20, 2), generator=draw)
    present = torch.rand(20, 2, generator=draw) > 0.3
    labels = tl.Labels({"units": truth}, {"units": present})
    save_decisions(tmp_path, Evaluation(tasks, outputs, {}, {}, 1), labels)
    back = load_decisions(tmp_path, tasks)
    assert back is not None
    assert set(back) == {"kind", "on", "units"}
    assert torch.equal(back["kind"].argmax(1), outputs["kind"].argmax(1))
    assert torch.equal(back["units"] > 0, outputs["units"] > 0)
    scores = label_f1(tmp_path, "units")
    assert scores is not None
    for column in range(2):
        rows = present[:, column]
        expected = f1_score(truth[rows, column], outputs["units"][rows, column] > 0)
        assert scores[column] == pytest.approx(expected)
    assert load_decisions(tmp_path / "none", tasks) is None
    assert copy.copy(label_f1(tmp_path, "kind")) is None


def test_a_multilabel_task_shows_every_label(tmp_path: Path) -> None:
    write_animals(tmp_path, disjoint=False)
    frame = pd.read_csv(tmp_path / "animals.csv").replace({"yes": 1, "no": 0})
    frame.to_csv(tmp_path / "animals.csv", index=False)
    text = TEXT[: TEXT.index("  fur:")] + (
        f"  parts: {{kind: multilabel, columns: [{', '.join(PARTS)}]}}\n" + TEXT[TEXT.index("split:") :]
    )
    study = read("training.epochs=2", "repeats=1", text=text)
    out = tmp_path / "out"
    (row,) = run_study(study, out, Watcher(), data=tmp_path).summary["couplings"]
    assert row["attributes_side"] == ["parts"]
    assert [label["label"] for label in row["labels"]] == list(PARTS)
    with ResultsStore(out / "results.sqlite", read_only=True) as store:
        (run,) = [record for record in store.records() if record.cell == row["cell"]]
    with np.load(run_folder(out, run.id) / "test_decisions.npz") as decided:
        predicted = decided["parts"]
    truth = frame[frame["part"] == "test"][list(PARTS)].to_numpy().astype(int)
    for column, label in enumerate(row["labels"]):
        expected = f1_score(truth[:, column], predicted[:, column], zero_division=np.nan)
        assert label["with"] == (None if np.isnan(expected) else pytest.approx(expected))
        assert label["alone"] is not None
    assert "F1 of every attribute" in render_report(out).read_text()
