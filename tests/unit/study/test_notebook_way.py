"""The way in for notebooks: settings as plain values, and an outcome that prints as its verdicts."""

from __future__ import annotations

import copy
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests._small_study import NUM_RUNS, TEXT, write_table

import taskloom as tl
from taskloom.errors import ConfigError
from taskloom.study.results import ResultsStore
from taskloom.study.runner import Outcome
from taskloom.study.verdict_table import HEADINGS, verdict_rows
from taskloom.study.yaml_lines import parse_document

SETTINGS: dict[str, Any] = parse_document(TEXT, "people.yaml").value


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = write_table(tmp_path_factory.mktemp("notebook"))
    settings = SETTINGS | {"repeats": 3}
    return tl.study.run_study(tl.study.load_study(settings), str(folder / "out"), data=str(folder))


def test_settings_are_the_file_they_would_be(tmp_path: Path) -> None:
    (tmp_path / "people.yaml").write_text(TEXT)
    from_file = tl.study.load_study(str(tmp_path / "people.yaml"))
    given = copy.deepcopy(SETTINGS)
    from_settings = tl.study.load_study(given, ["repeats=4"], name="people")
    assert from_settings.config == from_file.config.model_copy(update={"repeats": 4})
    assert from_settings.name == from_file.name == "people"
    assert given == SETTINGS
    assert tl.study.load_study(SETTINGS).name == "study"


def test_tuples_paths_and_numpy_numbers_are_plain_values() -> None:
    odd = SETTINGS | {
        "data": {"table": Path("people.csv"), "group": "person"},
        "repeats": np.int64(2),
        "encoder": {"name": "mlp", "hidden": (np.int32(6), 5)},
    }
    study = tl.study.load_study(odd)
    assert study.config == tl.study.load_study(SETTINGS).config
    assert study.to_yaml() == tl.study.load_study(SETTINGS).to_yaml()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data": {"table": pd.DataFrame({"a": [1]})}},
            "data.table: the name of a file expected, found",
        ),
        (
            {"data": {"table": {1, 2}}},
            "data.table: text, a number, a list or settings by name expected, found",
        ),
        ({"repeats": "five"}, "settings: repeats: a whole number expected, found 'five'."),
        ({"encoder": {"nmae": "mlp"}}, "settings: encoder.nmae is not a setting. Did you mean `name`?"),
        ({"tasks": {"age": {"kind": "regresion"}}}, "Did you mean `regression`?"),
    ],
)
def test_mistakes_are_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        tl.study.load_study(SETTINGS | change)
    assert message in str(error.value)


def test_a_frame_is_told_to_become_a_file() -> None:
    with pytest.raises(
        ConfigError, match=r"place: the name of a file expected, found a DataFrame; write it wi"
    ):
        tl.study.draft_study(pd.DataFrame({"a": [1]}), ["a", "b"])


def test_the_same_settings_go_on_where_they_were(
    outcome: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = outcome.folder.parent
    again = tl.study.run_study(tl.study.load_study(SETTINGS | {"repeats": 3}), outcome.folder, data=folder)
    assert (outcome.ran, again.ran, again.done) == (NUM_RUNS * 3 // 2, 0, NUM_RUNS * 3 // 2)
    assert "runs 12/12" not in capsys.readouterr().out


def test_the_frame_holds_the_runs_own_numbers(outcome: Outcome) -> None:
    frame = outcome.to_frame().set_index("task")
    with ResultsStore(outcome.folder / "results.sqlite", read_only=True) as store:
        runs = pd.DataFrame(
            [
                (record.cell_name, value.task, value.metric, value.value)
                for record in store.records()
                for value in record.metrics
                if value.part == "test"
            ],
            columns=["cell", "task", "metric", "value"],
        )
    means = runs.groupby(["cell", "task", "metric"]).value.mean()
    for task, sign in (("age", -1), ("sex", 1)):
        row = frame.loc[task]
        alone, test = means[f"{task} alone", task, row.metric], means[row.cell, task, row.metric]
        assert (row.alone, row.test) == pytest.approx((alone, test))
        assert row.gain == pytest.approx(sign * (test - alone))
        assert row.low <= row.gain <= row.high
        expected = "helped" if row.low > 0 else "hurt" if row.high < 0 else "no difference shown"
        assert row.verdict == expected or row.p_value >= 0.05
    assert frame.loc["age", "unit"] == "years"


class _Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag in ("td", "th", "p"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data


def test_print_and_notebook_show_the_same_table(outcome: Outcome) -> None:
    text = str(outcome)
    cells = _Cells(outcome._repr_html_()).cells
    rows = verdict_rows(outcome.summary)
    assert cells[: len(HEADINGS)] == list(HEADINGS)
    shown = [cell for row in rows for cell in row.texts]
    assert cells[len(HEADINGS) : len(HEADINGS) + len(shown)] == shown
    assert cells[-1] == text.splitlines()[-1]
    assert all(cell in text for cell in cells)
    assert [line.split()[0] for line in text.splitlines()[:3]] == ["task", "age", "sex"]
    assert "summary" not in repr(outcome)


def test_names_are_escaped(outcome: Outcome) -> None:
    summary = copy.deepcopy(outcome.summary)
    summary["cells"] = [cell | {"name": "<b>soft</b>"} for cell in summary["cells"]]
    summary["warnings"] = ["a < b"]
    page = Outcome(outcome.folder, 1, 1, 0, 0, summary)._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;soft&lt;/b&gt;" in page
    assert "a &lt; b" in page


def test_a_task_without_a_finished_cell(outcome: Outcome) -> None:
    summary = outcome.summary | {"gains": [], "overall": None}
    row = Outcome(outcome.folder, 1, 1, 0, 0, summary).to_frame().iloc[0]
    assert (row.verdict, row.cell) == ("no verdict", "")
    assert math.isnan(row.gain)


@pytest.mark.parametrize("jobs", [2])
def test_a_frame_by_way_of_parquet_in_worker_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.chdir(write_table(tmp_path))
    frame = pd.read_csv("people.csv")
    frame[frame.age.notna() | frame.sex.notna()].to_parquet("people.parquet", index=False)
    settings = tl.study.draft_study("people.parquet", ["age", "sex"]).settings
    settings["repeats"], settings["training"]["epochs"] = 1, 1
    settings["cells"] = settings["cells"][1:2]
    outcome = tl.study.run_study(tl.study.load_study(settings, name="people"), jobs=jobs)
    assert (outcome.folder, outcome.done, outcome.failed) == (Path("runs/people"), 3, 0)
    assert "no verdict" in str(outcome)


def test_what_has_no_file_name_and_what_would_fill_pages(tmp_path: Path) -> None:
    array = np.ones((3, 2))
    with pytest.raises(
        ConfigError, match=r"place: the name of a file expected, found an array of shape \[3, 2\]"
    ):
        tl.study.draft_study(array, ["a", "b"])  # type: ignore[arg-type]
    for wrong, what in ((pd.DataFrame({"a": [1]}), "a DataFrame"), (torch.ones(2), "an array"), (3, "int")):
        with pytest.raises(ConfigError, match=f"path: the name of a file expected, found {what}"):
            tl.data.table(wrong, {"a": {"kind": "regression"}})  # type: ignore[arg-type]
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 3)), columns=list("abc"))
    frame.to_parquet(tmp_path / "rows.parquet", index=False)
    data = tl.data.table(tmp_path / "rows.parquet", {"c": {"kind": "regression"}})
    assert repr(data) == "DataSplits(train 35, validation 5, test 10; inputs [2]; tasks c)"
    model = tl.sharing.build("single_task", tl.encoders.mlp((2,), hidden=[3]), data.tasks)
    history = tl.fit(model, data.train, data.validation, epochs=2)
    assert re.fullmatch(r"History\(2 epochs, \d+\.\d s; best [12], validation loss c [\d.]+\)", repr(history))
