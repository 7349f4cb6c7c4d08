"""`taskloom init` on tables: what it writes is held against pandas, scikit-learn and the study itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.utils.multiclass import type_of_target
from typer.testing import CliRunner

from _drafts import ROWS, loaded, people
from taskloom.cli import app
from taskloom.errors import DataError
from taskloom.study import load_study
from taskloom.study.draft import draft_study, find_source, survey
from taskloom.study.draft.yaml_text import flow, key, line, scalar
from taskloom.study.yaml_lines import parse_document, parse_value

HARD_NAMES = (
    *("no", "yes", "on", "1", "1e3", "0x1F", "null", "~", "true", "2011-01-01", "a: b", "x,y", "#hash"),
    *("- dash", "{br}", "[ab]", "tab\tb", 'quo"te', "'single'", "*", "&amp", "!tag", "%p", "@at", "|"),
    *("back\\slash", "line\nbreak", "ümlaut", "🙂", "mit Leer zeichen", "a #b", "?q", "=", ".5", "\u2028"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _init(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("name", HARD_NAMES)
def test_hard_names_are_read_as_they_are(name: str) -> None:
    for text in (f"[{scalar(name)}]", flow([name])):
        assert parse_value(text) == [name]
        assert yaml.safe_load(text) == [name]
    assert parse_value(f"{{{key(name)}: 1}}") == {name: 1}
    assert yaml.safe_load(f"{key(name)}: 1") == {name: 1}


def test_long_lines_are_broken_without_a_change() -> None:
    names = [f"{name} {number}" for number in range(9) for name in HARD_NAMES]
    for comment in ("", "why # so"):
        lines = line(f"  classes: {flow(names)}", comment)
        assert yaml.safe_load("\n".join(lines)) == {"classes": names}
        assert parse_document("\n".join(lines), "a.yaml").value == {"classes": names}
    assert len(lines) > 20


def test_kinds_are_those_of_scikit_learn(here: Path) -> None:
    draw = np.random.default_rng(1)
    frame = people().assign(
        words=draw.choice(["low", "mid", "high"], ROWS),
        codes=draw.integers(0, 5, ROWS),
        answer=draw.choice(["no", "yes"], ROWS),
        amount=draw.gamma(2, size=ROWS),
    )
    frame.to_csv("people.csv", index=False)
    tasks = ["ill", "score", "words", "codes", "answer", "amount"]
    expected = {"binary": "binary", "multiclass": "multiclass", "continuous": "regression"}
    draft = draft_study("people.csv", tasks)
    assert draft.tasks == {name: expected[type_of_target(frame[name])] for name in tasks}
    for name in ("words", "codes", "answer", "ill"):
        assert draft.settings["tasks"][name]["classes"] == [str(value) for value in np.unique(frame[name])]
    assert load_study_of(draft.text).config.tasks["answer"]["classes"] == ["no", "yes"]


def load_study_of(text: str) -> Any:
    Path("study.yaml").write_text(text, encoding="utf-8")
    return load_study(Path("study.yaml"))


@pytest.mark.parametrize(
    ("values", "name", "settings"),
    [
        ([1, 2, 3, 4], "grade", {"kind": "ordinal", "range": [1, 4]}),
        ([0, 0.5, 1], "stage", {"kind": "ordinal", "range": [0, 1], "step": 0.5}),
        ([-1, 0, 1], "mood", {"kind": "multiclass", "classes": ["-1", "0", "1"]}),
        ([16, 17, 21, 40], "age", {"kind": "regression"}),
        ([0.25, 1.5, 2.0], "dose", {"kind": "regression"}),
        (range(30), "visits", {"kind": "regression"}),
        (["F", "M"], "sex", {"kind": "binary", "classes": ["F", "M"]}),
    ],
)
def test_kind_of_a_task(here: Path, values: Any, name: str, settings: dict[str, Any]) -> None:
    cells = np.resize(np.array(list(values)), ROWS)
    np.random.default_rng(0).shuffle(cells)
    people().assign(**{name: cells}).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", [name, "score"])
    assert draft.settings["tasks"][name] == settings
    assert name in loaded(draft.text).tasks


def test_an_uneven_binary_task_is_judged_by_auc(here: Path) -> None:
    frame = people().assign(rare=np.arange(ROWS) % 10 == 0)
    frame.to_parquet("people.parquet")
    assert draft_study("people.parquet", ["rare", "ill"]).settings["tasks"]["rare"] == {
        "kind": "binary",
        "classes": ["0", "1"],
        "metric": "auc",
    }


def test_marks_of_holes_are_counted_as_pandas_counts_them(here: Path) -> None:
    frame = people().astype(object)
    frame.loc[:10, "score"], frame.loc[11:20, "score"] = "N/A", "?"
    frame.loc[21:30, "a"], frame.loc[5:9, "ill"], frame.loc[40:60, "ill"] = "unknown", "-", None
    frame.to_csv("people.csv", index=False)
    marks = ["N/A", "?", "unknown", "-"]
    known = pd.read_csv("people.csv", na_values=marks, keep_default_na=True)
    draft = draft_study("people.csv", ["ill", "score"])
    assert sorted(draft.settings["data"]["missing"]) == sorted(marks)
    assert draft.settings["data"]["impute"] == "mean"
    labels = loaded(draft.text).about["labels"]
    for task in ("ill", "score"):
        assert sum(labels[task].values()) == known[task].notna().sum()
    assert f"for {int(known[['a', 'b', 'c']].isna().sum().sum())} missing feature values" in draft.text


def test_a_number_for_unknown_is_a_hole_where_no_column_means_it(here: Path) -> None:
    draw = np.random.default_rng(0)
    age = np.where(np.arange(ROWS) % 5 == 0, -1, draw.integers(10, 60, ROWS))
    people().assign(age=age, smokes=draw.choice([0, 1, 9], ROWS)).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["age", "smokes"])
    assert draft.settings["data"]["missing"] == ["-1", "9"]
    assert draft.tasks == {"age": "regression", "smokes": "binary"}
    assert sum(loaded(draft.text).about["labels"]["age"].values()) == (age != -1).sum()
    people().assign(age=age, smokes=draw.choice([0, 1, 9], ROWS), day=np.arange(ROWS) % 31 - 1).to_csv(
        "people.csv", index=False
    )
    draft = draft_study("people.csv", ["age", "smokes"])
    assert "missing" not in draft.settings["data"]
    assert draft.tasks["smokes"] == "multiclass"
    assert 'say `missing: ["9"]` in `data`' in draft.text
    assert any("labels are -1" in note for note in draft.notes)


def test_a_feature_with_a_number_for_unknown_is_spoken_of(here: Path) -> None:
    draw = np.random.default_rng(0)
    dose = np.where(np.arange(ROWS) % 20 == 0, 999, draw.integers(0, 80, ROWS))
    people().assign(dose=dose, level=draw.integers(-1, 3, ROWS)).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["ill", "score"])
    assert draft.notes == (
        "Feature `dose` is 999 in 10 rows, and all others are 79 or less: if that means missing, say "
        '`missing: ["999"]` in `data`.',
    )
    assert " ".join(draft.text.replace("\n  #", "").split()).count(draft.notes[0]) == 1


def test_decimal_commas_and_semicolons(here: Path) -> None:
    frame = people()
    frame.to_csv("people.csv", sep=";", decimal=",", index=False, encoding="utf-8-sig")
    draft = draft_study("people.csv", ["ill", "score"])
    assert draft.settings["data"]["decimal"] == ","
    assert loaded(draft.text).about["features"]["names"] == ["a", "b", "c"]
    values = loaded(draft.text).train.labels.values["score"].double().mean().item()
    assert values == pytest.approx(frame.score.mean(), abs=0.5)


def test_what_is_left_out_has_a_reason(here: Path) -> None:
    frame = people().assign(
        id=range(ROWS),
        serial=np.random.default_rng(0).permutation(ROWS),
        uuid=[f"u{row}" for row in range(ROWS)],
        visit=pd.date_range("2011-01-01", periods=ROWS).strftime("%Y-%m-%d"),
        constant=1,
        dose=["12mg" if row == 7 else str(row / 7) for row in range(ROWS)],
        humidity=np.arange(ROWS)[::-1] ** 2,
    )
    frame.to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["ill", "score"])
    assert draft.settings["data"]["exclude"] == ["id", "serial", "constant", "dose"]
    assert loaded(draft.text).about["features"]["names"] == ["a", "b", "c", "humidity"]
    for text in ("`id` (an identifier by its name)", "`serial` (numbers the rows)", "visit: dates", "uuid"):
        assert text in draft.text
    assert "no column says which rows belong together" in draft.text


@pytest.mark.parametrize("whole", [True, False])
def test_a_split_column_is_honoured(here: Path, whole: bool) -> None:
    parts = np.array(["train", "train", "train", "val", "test"])
    person = [f"p{row // 4}" for row in range(ROWS)]
    side = parts[np.arange(ROWS) // 4 % 5] if whole else parts[np.arange(ROWS) % 5]
    people().assign(split=side, person=person).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["ill", "score"])
    splits = loaded(draft.text)
    assert splits.test.rows.tolist() == np.flatnonzero(side == "test").tolist()
    assert splits.validation.rows.tolist() == np.flatnonzero(side == "val").tolist()
    assert ("shared_groups" in draft.settings["split"]) is not whole


def test_a_column_called_split_may_be_a_feature_or_a_task(here: Path) -> None:
    people().assign(split=np.random.default_rng(0).normal(size=ROWS)).to_csv("people.csv", index=False)
    assert "split" in loaded(draft_study("people.csv", ["ill", "score"]).text).about["features"]["names"]
    assert draft_study("people.csv", ["ill", "split"]).tasks["split"] == "regression"


def test_lists_and_bytes_of_parquet_are_left_out_as_text_is(here: Path) -> None:
    frame = people().assign(tags=[["u", "v"]] * ROWS, raw=[b"\xff\x00"] * ROWS, both=[{"a": 1}] * ROWS)
    frame.loc[3, "tags"] = None
    frame.to_parquet("people.parquet")
    splits = loaded(draft_study("people.parquet", ["ill", "score"]).text)
    assert splits.about["features"]["names"] == ["a", "b", "c"]
    assert "Not used as features: tags, raw, both (text or blank)." in splits.about["notes"]
    with pytest.raises(DataError, match="it holds `<binary>` wherever it is not blank"):
        draft_study("people.parquet", ["ill", "raw"])


@pytest.mark.parametrize(
    ("values", "classes"),
    [(["ja", "nein"], ["nein", "ja"]), (["case", "control"], ["control", "case"]), (["F", "M"], ["F", "M"])],
)
def test_the_class_that_says_no_comes_first(here: Path, values: list[str], classes: list[str]) -> None:
    people().assign(k=np.resize(values, ROWS)).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["k", "score"])
    assert draft.settings["tasks"]["k"]["classes"] == classes
    assert loaded(draft.text).tasks["k"].class_names == tuple(classes)


def test_hard_column_names_make_a_study(here: Path) -> None:
    draw = np.random.default_rng(0)
    names = [name for name in HARD_NAMES if name.strip() == name and name != "\u2028"]
    frame = pd.DataFrame(draw.normal(size=(ROWS, len(names))), columns=names)
    tasks = ["no", "1", "a: b", "null", "line\nbreak", 'quo"te', "x,y", "*"]
    for name in tasks[:3]:
        frame[name] = draw.choice(["yes", "no", "null", "1"] if name == "a: b" else ["no", "yes"], ROWS)
    frame["[ab]"] = range(ROWS)  # left out: the rows in order
    frame.to_csv("people.csv", index=False)
    draft = draft_study("people.csv", tasks)
    splits = loaded(draft.text)
    assert list(splits.tasks) == tasks
    assert splits.about["features"]["names"] == [name for name in names if name not in (*tasks, "[ab]")]


def test_an_array_beside_the_table_gives_the_features(here: Path) -> None:
    bits = np.packbits(np.random.default_rng(0).random((ROWS, 30)) < 0.3, axis=1)
    np.savez("prints.npz", bits=bits, num_bits=30)
    people()[["ill", "score"]].to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["ill", "score"])
    assert draft.settings["data"]["features"] == {"npz": "prints.npz", "array": "bits", "packed_bits": 30}
    assert loaded(draft.text).train.input_shape == (30,)


def test_arrays_that_cannot_be_the_features(here: Path) -> None:
    people()[["ill", "score"]].to_csv("people.csv", index=False)
    Path("broken.npz").write_bytes(b"PK no archive")
    Path("broken.npy").write_bytes(b"")
    np.save("other.npy", np.zeros((ROWS + 1, 3)))
    np.savez("text.npz", words=np.array([["a"]] * ROWS), rows=np.arange(ROWS))
    with pytest.raises(DataError, match="no input is left to predict the tasks from"):
        draft_study("people.csv", ["ill", "score"])
    np.save("right.npy", np.random.default_rng(0).normal(size=(ROWS, 3)))
    assert draft_study("people.csv", ["ill", "score"]).settings["data"]["features"] == {"npy": "right.npy"}


def test_a_rare_class_is_spread_over_the_parts(here: Path) -> None:
    rare = np.full(ROWS, "common", dtype=object)
    rare[[3, 77, 150, 160, 190]] = "rare"
    people().assign(rare=rare).to_csv("people.csv", index=False)
    splits = loaded(draft_study("people.csv", ["rare", "score"]).text)
    for part in (splits.train, splits.test):
        assert len(set(part.labels.values["rare"].tolist())) == 2


def test_many_tasks_do_not_explode(here: Path) -> None:
    draw = np.random.default_rng(0)
    table = pd.DataFrame(draw.integers(0, 2, (ROWS, 12)), columns=[f"t-{number}" for number in range(12)])
    pd.concat([people(), table], axis=1).to_csv("people.csv", index=False)
    draft = draft_study("people.csv", ["t-*"])
    assert len(draft.tasks) == 12
    assert draft.runs == "(3 cells + 12 tasks alone) x 5 seeds = 75 runs"
    assert "columns: [t-0, t-1, ...]" in draft.text


def test_the_command_writes_a_study_that_runs(here: Path) -> None:
    people(120).to_csv("people.csv", index=False)
    result = _init("people.csv", "--tasks", "ill,score", "--out", "my study.yaml")
    assert result.exit_code == 0, result.output
    assert "runs     (4 cells + 2 tasks alone) x 5 seeds = 30 runs" in result.output
    assert (
        "next     taskloom inspect 'my study.yaml'\n         taskloom study 'my study.yaml'" in result.output
    )
    small = ["--set", "repeats=1", "--set", "training.epochs=1", "--set", "encoder.hidden=[4, 4]"]
    for command in (["inspect", "my study.yaml"], ["study", "my study.yaml", *small]):
        found = CliRunner().invoke(app, command, catch_exceptions=False)
        assert found.exit_code == 0, found.output
    assert Path("runs/my study/report.html").is_file()


def test_out_may_be_in_a_folder_but_not_be_one(here: Path) -> None:
    people(120).to_csv("people.csv", index=False)
    assert _init("people.csv", "--tasks", "ill,score", "--out", "new/folder/a.yaml").exit_code == 0
    assert Path("new/folder/a.yaml").is_file()
    result = _init("people.csv", "--tasks", "ill,score", "--out", "new", "--force")
    assert result.stderr == "new: a file expected, found a folder; name the study file with --out.\n"


def test_without_tasks_nothing_is_written(here: Path) -> None:
    frame = people().assign(id=range(ROWS), person=[f"p{row // 4}" for row in range(ROWS)])
    frame["ill"] = frame.ill.astype("Int64").where(frame.a < 1)
    frame["mood"] = np.resize(["low", "high", "mid"], ROWS)
    frame.to_csv("people.csv", index=False)
    result = _init("people.csv")
    assert result.exit_code == 0
    assert [path.name for path in here.iterdir()] == ["people.csv"]
    lines = {
        text.split()[0]: " ".join(text.split()[1:]) for text in result.output.splitlines() if text.strip()
    }
    share = f"{100 * frame.ill.isna().mean():.0f} %"
    assert lines["ill"] == f"2 values: 0, 1 {share} a task, or a feature"
    assert lines["id"] == "whole numbers, 0 to 199 0 % left out: an identifier by its name"
    assert lines["person"] == "text, 50 values, such as p0 0 % group: by its name"
    assert lines["mood"] == "3 values: high, low, mid 0 % a task, or a feature"
    assert result.output.rstrip().endswith("taskloom init people.csv --tasks ill,mood")


def test_a_file_that_is_there_stays(here: Path) -> None:
    people().to_csv("people.csv", index=False)
    Path("study.yaml").write_text("mine")
    result = _init("people.csv", "--tasks", "ill,score")
    assert result.exit_code == 2
    assert result.stderr.startswith("study.yaml: is there already and stays as it is; name another file")
    assert Path("study.yaml").read_text() == "mine"
    assert _init("people.csv", "--tasks", "ill,score", "--force").exit_code == 0
    assert (
        Path("study.yaml").read_text().startswith("# Written by `taskloom init` from people.csv (200 rows)")
    )


def test_many_values_and_many_columns(here: Path) -> None:
    rows = 20_000
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.normal(size=rows), "text": [f"t{row}" for row in range(rows)]})
    frame.assign(y=draw.integers(0, 2, rows), z=draw.normal(size=rows)).to_csv("long.csv", index=False)
    assert draft_study("long.csv", ["y", "z"]).settings["training"]["batch"] == 128
    wide = pd.DataFrame(draw.normal(size=(60, 1500)).round(2)).add_prefix("f")
    wide.assign(y=draw.integers(0, 2, 60), z=draw.normal(size=60)).to_csv("wide.csv", index=False)
    draft = draft_study("wide.csv", ["y", "z"])
    assert draft.settings["cells"][2]["soft_sharing"]["stages"] == [2]
    assert len(draft.text) < 3000
    lines = [text.split() for text in _init("wide.csv").output.splitlines()]
    assert ["...", "1,442", "more", "columns"] in lines
    first = {line[0] for line in lines if line[:1]}
    assert {"f39", "f1482", "z"} == first & {"f39", "f40", "f1481", "f1482", "z"}
    assert len(survey(find_source(Path("wide.csv"))).columns) == 1502
