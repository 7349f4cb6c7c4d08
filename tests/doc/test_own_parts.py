"""The tie, the balancing methods and the reader that the documentation writes out; and broken ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import taskloom as tl
from taskloom.balancing import BALANCERS
from taskloom.cli import app
from taskloom.data import SOURCES, RowsSource
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError
from taskloom.losses import SumCount
from taskloom.sharing import register, register_module
from taskloom.sharing.ties import TIES, Tie, build

DOCS = Path(__file__).resolve().parents[2] / "docs"
TASKS = tl.TaskSet(tl.Regression("age"), tl.Regression("height"))
SPLIT = {"by": "group", "test": 0.3, "validation": 0.2}

pytestmark = pytest.mark.usefixtures("own_names")


def written_out(page: str, heading: str) -> str:
    """The one block of Python under a heading of a page."""
    section = (DOCS / page).read_text(encoding="utf-8").split(f" {heading}\n", 1)[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return str(block)


def network() -> tl.sharing.MultiTaskNetwork:
    return tl.sharing.build("hard_sharing", tl.encoders.mlp((3,), hidden=[4]), TASKS, stages=1)


def gradients(model: nn.Module, balancer: Any, losses: dict[str, SumCount]) -> torch.Tensor:
    model.zero_grad()
    balancer.start(model)
    balancer.backward(losses, model)
    return torch.cat([weight.grad.flatten() for weight in model.shared_parameters()])  # type: ignore[operator]


def losses_of(model: nn.Module) -> dict[str, SumCount]:
    torch.manual_seed(0)
    outputs = model(torch.randn(6, 3))
    sums = {"age": (outputs["age"] - 1).square().sum(), "height": 5 * outputs["height"].square().sum()}
    return {name: SumCount(value, torch.tensor(6)) for name, value in sums.items()}


# -- what the pages write out


def test_the_tie_measures_directions() -> None:
    exec(written_out("sharing.md", "A tie of your own"), {})
    model = tl.sharing.build(
        "soft_sharing", tl.encoders.mlp((3,), hidden=[4]), TASKS, tie="cosine", weight=0.5
    )
    first, second = (dict(copy.named_parameters())["0.weight"] for copy in model.stages["dense_0"].values())
    left, right = (np.array(weight.tolist()).ravel() for weight in (first, second))
    expected = 1 - left @ right / (np.linalg.norm(left) * np.linalg.norm(right))
    assert model.penalty().item() == pytest.approx(0.5 * expected, rel=1e-5)
    with torch.no_grad():
        second.copy_(3 * first)
    assert model.penalty().item() == pytest.approx(0, abs=1e-6)


def test_the_method_over_losses_follows_the_largest_one() -> None:
    exec(written_out("balancing.md", "A method of your own"), {})
    model = network()
    found = gradients(model, tl.balancing.build("worst_task"), losses_of(model))
    losses = losses_of(model)
    worst = max(losses.values(), key=lambda loss: loss.mean.item())
    expected = torch.autograd.grad(worst.mean, list(model.shared_parameters()))
    torch.testing.assert_close(found, torch.cat([part.flatten() for part in expected]))


def test_the_method_over_gradients_gives_each_the_same_length() -> None:
    exec(written_out("balancing.md", "A method of your own"), {})
    model = network()
    found = gradients(model, tl.balancing.build("equal_lengths"), losses_of(model))
    shared = list(model.shared_parameters())
    rows = [
        torch.cat([part.flatten() for part in torch.autograd.grad(losses_of(model)[name].mean, shared)])
        for name in TASKS
    ]
    torch.testing.assert_close(found, sum(row / row.norm() for row in rows))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same rows as arrays and as a table, with holes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).round(6)
    age = np.where(rng.random(80) < 0.3, np.nan, (40 + 10 * x[:, 0]).round(3))
    sex, person = np.where(x[:, 1] > 0, "F", "M"), np.repeat(np.arange(20), 4)
    np.savez(tmp_path / "study.npz", x=x, age=age, sex=sex, person=person)
    table = pd.DataFrame(x).add_prefix("x").assign(age=age, sex=sex, person=person)
    table.to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "my_reader.py").write_text(written_out("data.md", "A reader of your own"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_reader_gives_what_a_table_of_the_same_rows_gives(folder: Path) -> None:
    exec((folder / "my_reader.py").read_text(encoding="utf-8"), {})
    tasks = {"age": {"kind": "regression"}, "sex": {"kind": "binary"}}
    own, usual = (
        load(reader, {**given, "group": "person"}, tasks, SPLIT, folder=folder, stores=folder)
        for reader, given in (("npz", {"file": "study.npz"}), ("table", {"table": "people.csv"}))
    )
    for part in ("train", "validation", "test"):
        left, right = (getattr(data, part) for data in (own, usual))
        first, second = (dataset.__getitems__(range(len(dataset))) for dataset in (left, right))
        torch.testing.assert_close(first.inputs, second.inputs)
        assert first.labels.counts() == second.labels.counts()
        for task in tasks:
            there = first.labels.present[task]
            torch.testing.assert_close(first.labels.values[task][there], second.labels.values[task][there])
        assert left.groups.tolist() == right.groups.tolist()
    assert own.about["sources"].keys() == {"study.npz"}
    with pytest.raises(ConfigError, match=r"data.fiel is not a setting. Did you mean `file`\?"):
        load("npz", {"fiel": "study.npz"}, tasks, SPLIT, folder=folder, stores=folder)
    with pytest.raises(ConfigError, match=r"read_npz gave DataFrame"):
        RowsSource(read_npz)({}, tasks, SPLIT, seed=0, folder=folder, stores=folder)


def test_a_study_reads_by_it_in_every_process_and_its_bundle_reads_tables(folder: Path) -> None:
    (folder / "study.yaml").write_text(
        "code: my_reader.py\n"
        "data: {reader: npz, file: study.npz, group: person}\n"
        "tasks: {age: {kind: regression}, sex: {kind: binary}}\n"
        "split: {by: group, test: 0.3, validation: 0.2}\n"
        "encoder: {name: mlp, hidden: [4]}\n"
        "training: {epochs: 1, device: cpu}\n"
        "repeats: 1\n"
        "cells: [{hard_sharing: {stages: 1}}]\n",
        encoding="utf-8",
    )
    for arguments in (
        ("study", "study.yaml", "--jobs", "2"),
        ("train", "study.yaml", "--cell", "hard sharing 1", "--out", "own.bundle"),
        ("predict", "own.bundle", "people.csv"),
    ):
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert set(pd.read_parquet("runs/study/results.parquet").status) == {"done"}
    assert len(pd.read_csv("people.predicted.csv")) == 80


# -- what is broken is told


def read_npz(folder: Path) -> Any:
    """Without the files that it was read from."""
    del folder
    return pd.DataFrame({"a": [1.0]})


def test_what_gives_nothing_is_named() -> None:
    encoder = tl.encoders.mlp((3,), hidden=[4])
    register("no_plan")(lambda encoder, tasks: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match=r"no_plan gave NoneType; a way of sharing returns .*Plan"):
        tl.sharing.build("no_plan", encoder, TASKS)
    register_module("no_module")(lambda encoder, tasks, *, copies="fresh", head=None: nn.Linear(1, 1))  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match=r"no_module gave Linear; .*MultiTaskNetwork"):
        tl.sharing.build("no_module", encoder, TASKS)
    BALANCERS.register("no_balancer")(lambda: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match=r"balancing.no_balancer gave int"):
        tl.balancing.build("no_balancer")
    SOURCES.register("no_source")(lambda *_, **__: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match=r"data.reader: no_source gave NoneType"):
        load("no_source", {}, {}, {}, stores=Path())
    TIES.register("no_tie")(lambda weight=1.0: "no_tie")  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match=r"tie no_tie is a str"):
        build("no_tie")


def test_a_tie_that_measures_no_number_is_named() -> None:
    class Difference(Tie):
        def measure(self, weights: Any) -> torch.Tensor:
            return weights[0] - weights[1]  # type: ignore[no-any-return]

    with pytest.raises(ConfigError, match=r"Tie Difference measures a tensor of shape \(2, 3\)"):
        Difference(1.0).penalty([nn.Linear(3, 2), nn.Linear(3, 2)])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (pd.DataFrame({"a": []}), "the reader gave no rows"),
        (pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), "the column `a` twice"),
        (pd.DataFrame({"a": [1.0, "x"], "b": [2.0, 3.0]}), "a column of cells of several kinds"),
    ],
)
def test_rows_that_are_none_are_refused(rows: pd.DataFrame, said: str, tmp_path: Path) -> None:
    source = RowsSource(lambda folder: (rows, []))
    with pytest.raises(DataError, match=said):
        source({}, {"a": {"kind": "regression"}}, SPLIT, seed=0, folder=tmp_path, stores=tmp_path)
