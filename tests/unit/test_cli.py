"""The command line: what it prints, its exit codes, and one sentence for every mistake."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyedflib
import pytest
from typer.testing import CliRunner

import taskloom.cli
import taskloom.cli_data
import taskloom.cli_explain
import taskloom.cli_export
import taskloom.cli_init
import taskloom.cli_predict
import taskloom.cli_serve
import taskloom.cli_simulate
import taskloom.terminal
from taskloom.data.simulate import simulate_opportunity
from taskloom.metrics.texts import with_unit
from taskloom.version import __version__

STUDY = """\
data: {table: people.csv, group: person}
tasks:
  age:  {kind: regression, unit: years}
  sex:  {kind: binary}
split: {by: person, test: 0.3, validation: 0.2}
encoder: {name: mlp, hidden: [6, 5]}
training: {epochs: 2, batch: 32, device: cpu}
repeats: 2
cells:
  - hard_sharing: {stages: 1}
"""
OPPORTUNITY = """\
data: {reader: opportunity, channels: quickstart}
tasks:
  Locomotion: {kind: multiclass}
split: {by: thesis}
encoder: {name: conv1d, filters: [4]}
training: {epochs: 1, device: cpu}
repeats: 1
cells: [{hard_sharing: {stages: 1}}]
"""
EDF = """\
data: {reader: edf, file_pattern: '(?P<person>P\\d+)_(?P<state>[12])'}
tasks:
  state: {kind: binary}
split: {by: person, test: 0.3, validation: 0.3}
encoder: {name: conv1d, filters: [4]}
training: {epochs: 1, device: cpu}
repeats: 1
cells: [{hard_sharing: {stages: 1}}]
"""


def people(num_rows: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(num_rows, 3)), columns=list("abc"))
    table["age"] = 40 + 10 * table.a + 5 * table.c
    table.loc[::5, "age"] = np.nan
    table["sex"] = np.where(table.b + table.c > 0, "F", "M")
    table["person"] = [f"P{row // 4}" for row in range(num_rows)]
    return table


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a study file and its table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.yaml").write_text(STUDY)
    people().to_csv(tmp_path / "people.csv", index=False)
    return tmp_path


def call(*arguments: str) -> Any:
    return CliRunner().invoke(taskloom.cli.app, list(arguments))


def refused(*arguments: str) -> str:
    """The sentence on standard error of a command that exits with 2."""
    result = call(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert "Traceback" not in result.output
    assert result.stderr.count("\n") == 1, result.stderr
    return str(result.stderr)


class TestCommands:
    def test_version(self) -> None:
        assert call("--version").output == f"taskloom {__version__}\n"

    def test_help_names_every_command_without_importing_pytorch(self) -> None:
        output = call("--help").output
        for command in (
            "init",
            "study",
            "train",
            "evaluate",
            "predict",
            "serve",
            "export",
            "prepare",
            "inspect",
            "doctor",
            "report",
        ):
            assert command in output
        # Every import at the top of the module is made before the help is shown.
        parts = (
            taskloom.cli_data,
            taskloom.cli_explain,
            taskloom.cli_export,
            taskloom.cli_init,
            taskloom.cli_predict,
            taskloom.cli_serve,
            taskloom.cli_simulate,
        )
        modules = (taskloom.cli, taskloom.terminal, *parts)
        imported = {
            alias.name if isinstance(node, ast.Import) else node.module
            for module in modules
            for node in ast.parse(Path(module.__file__).read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        ours = {name for name in imported if name and name.startswith("taskloom")}
        own = {part.__name__ for part in parts}
        assert ours == {"taskloom.errors", "taskloom.terminal", "taskloom.version", "taskloom.wording"} | own
        assert not {"torch", "pandas", "numpy"} & imported

    def test_a_study_from_file_to_report_and_nothing_the_second_time(self, folder: Path) -> None:
        first = call("study", "people.yaml")
        assert first.exit_code == 0, first.output
        lines = first.stdout.splitlines()
        assert lines[0] == (
            "people.yaml  2 tasks, 1 cell x 2 seeds + 4 single-task = 6 runs   age: 20 % missing"
        )
        assert lines[1].startswith("note     no verdicts are given")  # of two repeats
        assert [line.split("  ")[0] for line in lines[2:8]] == [f"runs {n}/6" for n in range(1, 7)]
        assert re.search(r"^age +.* years MAE +hard sharing 1 ", first.stdout, re.M)
        assert lines[-1] == "report   runs/people/report.html"
        assert "<html" in (folder / "runs/people/report.html").read_text()
        second = call("study", "people.yaml")
        assert "runs 1/" not in second.stdout
        assert [line for line in lines if not line.startswith("runs ")] == second.stdout.splitlines()

    def test_results_hold_one_row_per_run_task_part_and_metric(self, folder: Path) -> None:
        call("study", "people.yaml", "--out", "out")
        table = pd.read_parquet("out/results.parquet")
        assert not table.duplicated(["run", "task", "part", "metric"]).any()
        # Alone and in one cell, twice: 5 metrics for each task, on two parts.
        assert len(table) == 2 * 2 * 2 * (5 + 5)
        assert table.groupby("run").cell.nunique().eq(1).all()
        summary = json.loads(Path("out/summary.json").read_text())
        assert summary["runs"] == {"planned": 6, "done": 6, "failed": 0, "missing": 0}
        (cell,) = summary["cells"]
        alone = table[table.cell == "single_task"].drop_duplicates("run")
        shared = table[table.cell == cell["id"]].drop_duplicates("run")
        assert cell["parameter_ratio"] == pytest.approx(
            shared.num_parameters.mean() / alone.groupby("tasks").num_parameters.mean().sum()
        )
        assert cell["time_ratio"] == pytest.approx(
            shared.seconds_training.mean() / alone.groupby("tasks").seconds_training.mean().sum()
        )

    def test_a_dry_run_lists_what_is_missing_and_writes_nothing(self, folder: Path) -> None:
        result = call("study", "people.yaml", "--dry-run", "--set", "repeats=1")
        assert result.exit_code == 0
        assert result.stdout.count("missing ") == 3
        assert not (folder / "runs/people").exists()
        call("study", "people.yaml", "--set", "repeats=1")
        again = call("study", "people.yaml", "--dry-run")
        assert (again.stdout.count("missing "), again.stdout.count("there ")) == (3, 3)

    def test_what_one_should_know_is_printed_before_anything_is_trained(self, folder: Path) -> None:
        settings = (
            "--set",
            "split={by: rows, test: 0.3, validation: 0.2, shared_groups: allowed}",
            "--set",
            "repeats=1",
        )
        for options in (("--dry-run",), ()):
            result = call("study", "people.yaml", *settings, *options)
            assert result.exit_code == 0, result.output
            first, *others = result.stdout.splitlines()
            assert "1 cell x 1 seed + 2 single-task = 3 runs" in first
            before = others[: next(i for i, line in enumerate(others) if re.match("missing |runs ", line))]
            assert any(re.match(r"warning  \d+ groups? stands? in both", line) for line in before), before
            assert before[-1] == (
                "note     no verdicts are given: they need at least 3 repeats, and the study has one."
            )

    def test_failed_runs_give_exit_code_1_and_their_step(self, folder: Path) -> None:
        extra = "  - hard_sharing: {stages: 2}\n    training: {optimizer: {sgd: {lr: 1e30}}}\n"
        (folder / "people.yaml").write_text(STUDY + extra)
        result = call("study", "people.yaml", "--set", "repeats=1")
        assert result.exit_code == 1
        assert re.search(r"hard sharing 2, repeat 1.*step \d.*marked failed; the others go on", result.output)
        assert "report   runs/people/report.html" in result.stdout

    def test_a_report_can_be_written_again(self, folder: Path) -> None:
        call("study", "people.yaml", "--out", "out")
        Path("out/report.html").unlink()
        Path("out/summary.json").unlink()
        assert call("report", "out").exit_code == 0
        assert Path("out/report.html").is_file()

    def test_a_cell_becomes_a_bundle_that_evaluates_the_same(self, folder: Path) -> None:
        trained = call("train", "people.yaml", "--cell", "hard sharing 1", "--out", "mine.bundle")
        assert trained.exit_code == 0, trained.output
        assert trained.stdout.splitlines()[-1] == "bundle   mine.bundle"
        evaluated = call("evaluate", "mine.bundle", "people.yaml")
        assert evaluated.exit_code == 0, evaluated.output
        assert evaluated.stdout.splitlines() == trained.stdout.splitlines()[:-1]
        # The same cell of the study, repeat 1, reached the same.
        call("study", "people.yaml", "--set", "repeats=1", "--out", "out")
        table = pd.read_parquet("out/results.parquet")
        mae = table[(table.cell_name == "hard sharing 1") & (table.part == "test") & (table.metric == "mae")]
        assert with_unit(mae.value.item(), "mae", "years") in evaluated.stdout
        chosen = (table.cell_name == "hard sharing 1") & (table.part == "test")
        (accuracy,) = 100 * table[chosen & (table.metric == "accuracy")].value
        line = next(line for line in evaluated.stdout.splitlines() if " accuracy " in line)
        assert f"{accuracy:.1f} %" in line  # as `study` prints it
        ((low, high),) = re.findall(r"\[([\d.]+), ([\d.]+)\]", line)
        assert float(low) <= round(accuracy, 1) <= float(high)

    def test_a_bundle_refuses_data_prepared_in_another_way(self, folder: Path) -> None:
        call("train", "people.yaml", "--cell", "hard sharing 1", "--out", "mine.bundle")
        sentence = refused("evaluate", "mine.bundle", "people.yaml", "--set", "seed=5")
        assert (
            "people.csv is a file of the bundle's own data, whose split or preparation is another" in sentence
        )

    def test_inspect_prepare_and_doctor_say_what_they_found(self, folder: Path) -> None:
        inspected = call("inspect", "people.yaml")
        assert inspected.exit_code == 0
        assert "20.0 %" in inspected.stdout
        assert "rows: train " in call("prepare", "people.yaml").stdout
        found = call("doctor").stdout
        for word in ("python", "torch", "cores", "device", "[onnx]", "stores"):
            assert word in found

    def test_simulated_recordings_are_written_once(self, folder: Path) -> None:
        command = ("simulate", "opportunity", "sim", "--people", "1", "--seconds", "6")
        assert call(*command).exit_code == 0
        before = {path.name: path.stat().st_mtime_ns for path in Path("sim").iterdir()}
        assert call(*command, "--if-missing").exit_code == 0
        assert {path.name: path.stat().st_mtime_ns for path in Path("sim").iterdir()} == before

    def test_ctrl_c_says_how_to_continue(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("taskloom.study.runner.run_study", interrupted)
        result = call("study", "people.yaml")
        assert result.exit_code == 130
        assert result.stderr == "Stopped; type the same command to continue.\n"

    def test_debug_shows_the_error_itself(self, folder: Path) -> None:
        result = call("--debug", "study", "nothing.yaml")
        assert result.exception is not None
        assert "nothing.yaml" in str(result.exception)


Change = Callable[[pd.DataFrame], pd.DataFrame]


def _with(**columns: object) -> Change:
    return lambda table: table.assign(**columns)


class TestMistakes:
    """Each is one sentence and exit code 2, and leaves no study behind."""

    @pytest.fixture(autouse=True)
    def _nothing_is_left(self, folder: Path) -> Any:
        yield
        assert not (folder / "runs/people").exists()

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda table: table.rename(columns={"sex": "gender"}), "no column `sex`, which task"),
            (lambda table: table.drop(columns="person"), "no column `person`"),
            (_with(age=np.nan), "age"),
            (_with(sex="F"), "one"),
            (_with(a=lambda table: table.a.where(table.index != 7)), "people.csv:9: column `a`"),
            (_with(age=lambda table: table.age.astype(str).where(table.index != 7, "old")), "people.csv:9"),
            (lambda table: table[:0], "empty"),
            (lambda table: table[:4], "split"),
        ],
    )
    def test_tables(self, folder: Path, change: Change, expected: str) -> None:
        change(people()).to_csv("people.csv", index=False)
        assert expected in refused("study", "people.yaml")

    def test_an_infinite_input(self, folder: Path) -> None:
        people().assign(a=lambda table: table.a.where(table.index != 7, np.inf)).to_csv(
            "people.csv", index=False
        )
        sentence = refused("study", "people.yaml", "--set", "data.features=[a, b, c]")
        assert "people.csv:9: column `a`" in sentence

    def test_a_duplicate_column(self, folder: Path) -> None:
        text = Path("people.csv").read_text()
        Path("people.csv").write_text(text.replace("a,b,c", "a,a,c", 1))
        assert "column `a` stands twice" in refused("study", "people.yaml")

    def test_a_class_that_training_never_saw(self, folder: Path) -> None:
        table = people().assign(part="train")
        table.loc[40:59, "part"], table.loc[60:, "part"] = "validation", "test"
        table.loc[70, "sex"] = "X"
        table.to_csv("people.csv", index=False)
        settings = ("--set", "split={by: column, column: part}", "--set", "tasks.sex.kind=multiclass")
        assert "`X`" in refused("study", "people.yaml", *settings)

    def test_a_split_that_leaks(self, folder: Path) -> None:
        table = people().assign(part="train")
        table.loc[41:59, "part"], table.loc[60:, "part"] = "validation", "test"  # P10 on two sides
        table.to_csv("people.csv", index=False)
        sentence = refused("study", "people.yaml", "--set", "split={by: person, column: part}")
        assert sentence.startswith("--set split: person P10 stands in train")

    def test_files_and_folders(self, folder: Path) -> None:
        assert "no such file" in refused("study", "nothing.yaml")
        assert "nowhere: no such folder" in refused("study", "people.yaml", "--data", "nowhere")
        assert "people.csv: a folder expected" in refused("study", "people.yaml", "--data", "people.csv")
        Path("empty").mkdir()
        assert "people.csv" in refused("study", "people.yaml", "--data", "empty")

    def test_a_misspelt_setting(self, folder: Path) -> None:
        Path("people.yaml").write_text(STUDY.replace("{name: mlp", "{naem: mlp"))
        assert refused("study", "people.yaml").startswith(
            "people.yaml:6: encoder.naem is not a setting. Did you mean `name`? Settings of encoder: name"
        )
        Path("people.yaml").write_text(STUDY.replace("group: person", "gruop: person"))
        assert refused("study", "people.yaml").startswith("people.yaml:1: data.gruop is not a setting.")
        Path("people.yaml").write_text(STUDY.replace("test: 0.3", "tets: 0.3"))
        assert refused("study", "people.yaml").startswith("people.yaml:5: split.tets is not a setting.")
        Path("people.yaml").write_text(STUDY.replace("unit: years", "units: years"))
        assert refused("study", "people.yaml").startswith("people.yaml:3: tasks.age.units is not a setting")

    def test_a_folder_that_cannot_be_written(self, folder: Path) -> None:
        Path("file").write_text("")
        assert "file" in refused("study", "people.yaml", "--out", "file")
        assert "file" in refused("study", "people.yaml", "--out", "file/out")

    def test_a_cell_that_is_not_there(self, folder: Path) -> None:
        sentence = refused("train", "people.yaml", "--cell", "hard shring 1")
        assert "Did you mean `hard sharing 1`? Cells: hard sharing 1, age alone, sex alone." in sentence

    def test_a_folder_without_results(self, folder: Path) -> None:
        assert "no results store here" in refused("report", "nowhere")

    def test_something_else_than_a_bundle(self, folder: Path) -> None:
        assert "people.csv" in refused("evaluate", "people.csv", "people.yaml")


def test_a_results_store_of_another_version(folder: Path) -> None:
    call("study", "people.yaml", "--set", "repeats=1")
    with sqlite3.connect("runs/people/results.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "found format 99 of another version" in refused("study", "people.yaml")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    simulate_opportunity(folder, people=1, seconds_per_run=8)
    return folder


def _edit_line(path: Path, number: int, edit: Callable[[list[str]], Sequence[str]]) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = " ".join(edit(lines[number - 1].split()))
    path.write_text("\n".join(lines) + "\n")


class TestRecordings:
    """Mistakes in recordings, through the command line."""

    @pytest.fixture
    def sim(self, folder: Path, simulated: Path) -> Path:
        shutil.copytree(simulated, folder / "sim")
        (folder / "sim.yaml").write_text(OPPORTUNITY)
        return folder / "sim"

    @pytest.fixture(autouse=True)
    def _nothing_is_left(self, folder: Path) -> Any:
        yield
        assert not (folder / "runs/sim").exists()
        stores = folder / "runs/stores"
        left = list(stores.iterdir()) if stores.exists() else []
        assert [path for path in left if not (path / "store.json").is_file()] == []

    def sentence(self) -> str:
        return refused("study", "sim.yaml", "--data", "sim")

    def test_a_truncated_file(self, sim: Path) -> None:
        path = sim / "S1-ADL3.dat"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert "S1-ADL3.dat:" in self.sentence()

    def test_a_row_with_249_columns(self, sim: Path) -> None:
        _edit_line(sim / "S1-ADL1.dat", 20, lambda cells: cells[:-1])
        assert "S1-ADL1.dat:20: 249 columns, expected 250" in self.sentence()

    def test_a_label_code_that_is_not_in_the_table(self, sim: Path) -> None:
        _edit_line(sim / "S1-ADL1.dat", 20, lambda cells: [*cells[:243], "3", *cells[244:]])
        assert "S1-ADL1.dat:20" in self.sentence()

    def test_a_channel_that_is_lost_throughout(self, sim: Path) -> None:
        path = sim / "S1-ADL1.dat"
        rows = [line.split() for line in path.read_text().splitlines()]
        path.write_text("\n".join(" ".join([*row[:22], "NaN", *row[23:]]) for row in rows) + "\n")
        assert "S1-ADL1.dat" in self.sentence()

    def test_a_recording_shorter_than_a_window(self, sim: Path) -> None:
        path = sim / "S1-ADL4.dat"
        path.write_text("\n".join(path.read_text().splitlines()[:40]) + "\n")
        assert "S1-ADL4" in self.sentence()

    def test_a_folder_of_something_else(self, sim: Path) -> None:
        shutil.rmtree(sim)
        sim.mkdir()
        (sim / "notes.txt").write_text("no recordings")
        assert "sim" in self.sentence()

    def test_an_edf_file_that_is_cut_off(self, folder: Path) -> None:
        (folder / "sim.yaml").write_text(EDF)
        (folder / "sim").mkdir()
        rng = np.random.default_rng(0)
        for person in range(6):
            for state in (1, 2):
                path = folder / "sim" / f"P{person}_{state}.edf"
                with pyedflib.EdfWriter(str(path), 2, file_type=pyedflib.FILETYPE_EDF) as file:
                    header = {"label": "", "dimension": "uV", "sample_frequency": 20}
                    limits = {
                        "physical_max": 200.0,
                        "physical_min": -200.0,
                        "digital_max": 32767,
                        "digital_min": -32768,
                        "transducer": "",
                        "prefilter": "",
                    }
                    file.setSignalHeaders([{**header, **limits, "label": label} for label in "AB"])
                    file.writeSamples(list(rng.normal(0, 30, (2, 200))))
        cut = folder / "sim" / "P3_1.edf"
        cut.write_bytes(cut.read_bytes()[:-300])
        assert "P3_1.edf" in self.sentence()


def test_python_m_taskloom_is_the_command(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "taskloom", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert found.stdout.strip() == f"taskloom {__version__}"
