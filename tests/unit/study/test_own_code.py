"""`code: FILE.py`: a user's own encoders and ways of sharing in studies, their processes, and bundles."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests._small_study import TEXT, write_table
from typer.testing import CliRunner

from taskloom.cli import app
from taskloom.errors import ConfigError
from taskloom.own_code import run_code
from taskloom.study import load_study

CODE = """
from torch import nn

import taskloom as tl
from taskloom.sharing import Plan, StagePlan, register


@tl.encoders.ENCODERS.register("own")
def own(input_shape, *, width: int = 6):
    stages = [nn.Sequential(nn.Linear(input_shape[0], width), nn.ReLU()), nn.Linear(width, 5)]
    return tl.encoders.from_modules(stages, input_shape=input_shape)


@register("first")
def first(encoder, tasks, *, stages: int) -> Plan:
    together, alone = (tuple(tasks),), tuple((name,) for name in tasks)
    plans = [StagePlan(together if stage < stages else alone) for stage in range(len(encoder.stages))]
    return Plan(tuple(tasks), tuple(plans))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_names: None) -> Path:
    del own_names
    write_table(tmp_path)
    (tmp_path / "networks.py").write_text(CODE, encoding="utf-8")
    text = TEXT.replace("name: mlp, hidden: [6, 5]", "name: own, width: 4")
    text = text.replace("cross_stitch: {per: layer}", "first: {stages: 1}")
    (tmp_path / "people.yaml").write_text("code: networks.py\n" + text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_study_trains_networks_of_its_own_code_as_those_of_taskloom(jobs: str) -> None:
    _call("study", "people.yaml", "--out", "own", "--jobs", jobs, "--set", "training.epochs=1")
    results = pd.read_parquet("own/results.parquet")
    assert set(results.status) == {"done"}
    # the way of sharing of the file is hard sharing of one stage, written anew
    hard = "cells=[{hard_sharing: {stages: 1}}, {first: {stages: 2}}]"
    _call("study", "people.yaml", "--out", "other", "--set", "training.epochs=1", "--set", hard)
    other = pd.read_parquet("other/results.parquet")
    mine, theirs = "first stages ", "hard sharing "
    for one, same in ((f"{mine}1", f"{theirs}1"), (f"{theirs}2", f"{mine}2")):
        left = results[results.cell_name == one].sort_values(["task", "metric", "part", "seed"])
        right = other[other.cell_name == same].sort_values(["task", "metric", "part", "seed"])
        assert len(left) > 0
        assert left.value.tolist() == right.value.tolist()
    assert "Own code: networks.py" in Path("own/report.html").read_text(encoding="utf-8")


def test_runs_are_others_once_the_code_is(folder: Path) -> None:
    def ids() -> set[str]:
        output = _call("study", "people.yaml", "--dry-run")
        return {line.split()[1] for line in output.splitlines() if line.startswith("missing ")}

    before = ids()
    # the same file under the same name, with a line more; in this process what it registers is known already
    (folder / "networks.py").rename(folder / "kept.py")
    (folder / "more").mkdir()
    (folder / "more" / "networks.py").write_text("# registers nothing\n", encoding="utf-8")
    text = (folder / "people.yaml").read_text(encoding="utf-8")
    (folder / "people.yaml").write_text(text.replace("networks.py", "more/networks.py"), encoding="utf-8")
    after = ids()
    assert len(before) == len(after) == 8
    assert not before & after


def test_a_bundle_needs_the_code_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _call(
        "train",
        "people.yaml",
        "--cell",
        "hard sharing 2",
        "--out",
        "own.bundle",
        "--set",
        "training.epochs=1",
    )
    expected = _call("--code", "networks.py", "predict", "own.bundle", "people.csv")
    assert "120 rows" in expected
    from taskloom.encoders import ENCODERS

    monkeypatch.delitem(ENCODERS._entries, "own")  # as in a new process
    refused = CliRunner().invoke(app, ["predict", "own.bundle", "people.csv"])
    assert refused.exit_code == 2
    assert "encoder `own` is not registered" in refused.output
    assert "taskloom --code FILE.py" in " ".join(refused.output.split())


def test_a_bundle_is_evaluated_by_the_code_of_the_study_it_is_evaluated_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskloom.encoders import ENCODERS
    from taskloom.sharing import ARCHITECTURES

    one_epoch = ("--set", "training.epochs=1")
    trained = _call("train", "people.yaml", "--cell", "hard sharing 2", "--out", "own.bundle", *one_epoch)
    monkeypatch.delitem(ENCODERS._entries, "own")  # as in a new process, where the file has not run yet
    monkeypatch.delitem(ARCHITECTURES._entries, "first")
    (folder / "networks.py").rename(folder / "moved.py")
    evaluated = _call("evaluate", "own.bundle", "people.yaml", "--set", "code=moved.py")
    rows = [line for line in evaluated.splitlines() if line.startswith("│ age")]
    assert rows
    assert all(row in trained for row in rows)


def test_the_resolved_study_file_finds_its_code_from_elsewhere(folder: Path) -> None:
    study = load_study(Path("people.yaml"))
    (folder / "runs").mkdir()
    resolved = folder / "runs" / "study.yaml"
    resolved.write_text(study.to_yaml(), encoding="utf-8")
    assert load_study(resolved).code == study.code
    assert study.code[0].path == folder / "networks.py"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "import torch\n\nx = 1 / 0\n",
            r"people\.yaml:1: code: networks\.py:3: ZeroDivisionError: division",
        ),
        ("x = 1\nfoo(\n", r"people\.yaml:1: code: networks\.py:2: SyntaxError: '\(' was never closed\."),
        ("from taskloom_nowhere import x\n", r"networks\.py:1: ModuleNotFoundError: No module named"),
        (
            "import taskloom as tl\ntl.encoders.ENCODERS.register('mlp')(1)\n",
            r"networks\.py:2: ValueError: encoder `mlp` is registered twice\.",
        ),
    ],
)
def test_errors_of_the_file_are_told_with_its_line(folder: Path, content: str, said: str) -> None:
    (folder / "networks.py").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_study(Path("people.yaml"))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("code=nowhere.py", r"--set code: a Python file expected, found .*nowhere\.py: No such file"),
        ("code=people.csv", r"--set code: a Python file \(\.py\) expected, found .*people\.csv"),
        ("code=3", r"--set code: the name of a Python file, or a list of them, expected, found 3\."),
        ("code=[]", r"encoder\.name: `own` is not a known encoder.*your own by `code: FILE\.py`"),
    ],
)
def test_what_is_no_code_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_study(Path("people.yaml"), [override])


def test_a_file_runs_once_and_one_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "counting.py"
    file.write_text(
        "import sys\nsys.taskloom_times = getattr(sys, 'taskloom_times', 0) + 1\n", encoding="utf-8"
    )
    first, again = run_code([file]), run_code([file])
    import sys

    assert first == again
    assert sys.taskloom_times == 1  # type: ignore[attr-defined]
    file.write_text("pass\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"counting\.py has changed since it ran in this process"):
        run_code([file])
