"""A bundle of a table on another table: what `predict` says of its rows, judged by scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, mean_absolute_error
from typer.testing import CliRunner

import taskloom as tl
from taskloom import data as data_room
from taskloom.cli import app
from taskloom.data.tables import read_table
from taskloom.deploy import Bundle, load_bundle, save_bundle
from taskloom.errors import ConfigError, DataError
from taskloom.predict import predict_table
from taskloom.study.config import load_study
from taskloom.study.cross_database import NameMap, other_study
from taskloom.study.other_tables import feature_columns
from taskloom.study.runs import data_request
from taskloom.training import evaluate

OTHER = """
data: {table: other.csv, features: [high, low], categories: [ward], group: who, impute: mean}
tasks:
  severity: {kind: regression}
  relapse: {kind: binary, classes: [Y, N]}
split: {by: group, test: 0.6, validation: 0.1}
encoder: {name: mlp}
cells: [hard_sharing: {stages: 1}]
"""
MAPS = ["pain=severity", "relapse:Y=yes", "relapse:N=no", "c=high"]


def people(draw: np.random.Generator, number: int, offset: float) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"low": draw.normal(offset, 3, number), "c": draw.normal(-offset, 0.5, number)}
    ).round(3)
    frame["ward"] = np.array(["east", "north", "south"])[draw.integers(0, 3, number)]
    frame.loc[::9, "low"] = np.nan
    frame["pain"] = (2 * frame.c + draw.normal(size=number)).round(2)
    frame["relapse"] = np.where(frame.c + draw.normal(size=number) > -offset, "yes", "no")
    frame.loc[1::4, "pain"] = np.nan
    frame["who"] = [f"p{who}" for who in draw.integers(0, number // 3, number)]
    return frame


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Trained-on statistics are far from those of the other table."""
    people(np.random.default_rng(0), 90, 1.0).to_csv(tmp_path / "own.csv", index=False)
    tasks = {"pain": {"kind": "regression"}, "relapse": {"kind": "binary"}, "age": {"kind": "regression"}}
    frame = pd.read_csv(tmp_path / "own.csv").assign(age=lambda rows: rows.c * 3 + 40)
    frame.to_csv(tmp_path / "own.csv", index=False)
    splits = data_room.table(
        tmp_path / "own.csv", tasks, features=["low", "c"], categories=["ward"], group="who", impute="mean"
    )
    torch.manual_seed(1)
    width = splits.train.input_shape[0]
    model = tl.sharing.build("hard_sharing", tl.encoders.mlp((width,), hidden=[6]), splits.tasks, stages=1)
    return load_bundle(
        save_bundle(
            tmp_path / "own.bundle",
            model,
            input_shape=(width,),
            encoder={"name": "mlp", "hidden": [6]},
            sharing={"name": "hard_sharing", "stages": 1},
            preprocessing=splits.preprocessing,
            about={"data": splits.about},
        )
    )


def other(folder: Path) -> pd.DataFrame:
    frame = people(np.random.default_rng(1), 120, 4.0)
    frame["ward"] = frame.ward.replace("south", "west")  # which no training row has
    frame["relapse"] = frame.relapse.map({"yes": "Y", "no": "N"})
    frame = frame.rename(columns={"c": "high", "pain": "severity"})[
        ["who", "relapse", "high", "ward", "severity", "low"]
    ]
    frame.to_csv(folder / "other.csv", index=False)
    (folder / "other.yaml").write_text(OTHER)
    return frame


def splits_of(folder: Path) -> Any:
    return data_request(load_study(folder / "other.yaml"), 0, folder, folder / "stores").load()


def test_values_are_those_of_what_predict_says(tmp_path: Path, bundle: Bundle) -> None:
    frame = other(tmp_path)
    splits = splits_of(tmp_path)
    names = NameMap.read(MAPS, bundle.tasks, feature_columns(bundle))
    found = other_study(bundle, splits, "test", names, Path("other.yaml"))
    values = evaluate(bundle.model, found.dataset)
    frame.rename(columns={"high": "c"}).to_csv(tmp_path / "new.csv", index=False)
    predict_table(bundle, tmp_path / "new.csv", tmp_path / "out.parquet", device="cpu")
    rows = splits.test.rows
    said, true = pd.read_parquet(tmp_path / "out.parquet").iloc[rows], frame.iloc[rows]
    there = true.severity.notna().to_numpy()
    pain = mean_absolute_error(true.severity[there], said.pain[there])
    assert values.value("pain", "mae") == pytest.approx(pain, rel=1e-5)
    relapse = accuracy_score(true.relapse.map({"Y": "yes", "N": "no"}), said.relapse)
    assert values.value("relapse", "accuracy") == pytest.approx(relapse)
    assert np.isnan(values.value("age", "mae"))
    assert any(note.startswith("age: no labels there") for note in found.notes)
    assert any("column `ward` holds `west`" in note for note in found.notes)
    groups = np.asarray(found.dataset.groups)
    _, expected = np.unique(true.who, return_inverse=True)
    np.testing.assert_array_equal(groups, expected)  # intervals are over people


def test_the_command_shows_them_beside_the_bundle_s_own(tmp_path: Path, bundle: Bundle) -> None:
    del bundle
    other(tmp_path)
    words = ["evaluate", str(tmp_path / "own.bundle"), str(tmp_path / "other.yaml"), "--data", str(tmp_path)]
    found = CliRunner().invoke(app, [*words, *(word for entry in MAPS for word in ("--map", entry))])
    assert found.exit_code == 0, found.output
    assert "pain" in found.output
    assert "here" in found.output


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        (MAPS[:3], DataError, r"column `c`, a feature of this bundle, is missing"),
        ([*MAPS[:3], "c=hihg"], DataError, r"no column `hihg`, which `c` needs\. Did you mean `high`"),
        ([*MAPS[:3], "d=high"], ConfigError, r"--map d=high: `d` is neither a task nor a feature"),
        (["c=high"], DataError, r"the bundle does not know the class `Y`"),
    ],
)
def test_what_is_called_otherwise_is_asked_for(
    tmp_path: Path, bundle: Bundle, maps: list[str], error: type[Exception], message: str
) -> None:
    other(tmp_path)
    splits = splits_of(tmp_path)

    def evaluated() -> None:
        names = NameMap.read(maps, bundle.tasks, feature_columns(bundle))
        other_study(bundle, splits, "test", names, Path("other.yaml"))

    with pytest.raises(error, match=message):
        evaluated()


def test_the_bundle_s_own_table_under_another_split_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    study = (
        OTHER.replace("other.csv", "own.csv").replace("[high, low]", "[c, low]").replace("severity", "pain")
    )
    (tmp_path / "other.yaml").write_text(study.replace("[Y, N]", '["no", "yes"]'))
    with pytest.raises(
        DataError, match=r"own\.csv is a file of the bundle's own data, .* rows of its training"
    ):
        other_study(bundle, splits_of(tmp_path), "test", NameMap(), Path("other.yaml"))


def test_a_column_takes_the_name_of_another(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n")
    table = read_table(tmp_path / "rows.csv").renamed({"a": "c"})
    assert table.columns == ("a (here)", "b", "a")
    assert table.numbers("a").tolist() == [3.0]
