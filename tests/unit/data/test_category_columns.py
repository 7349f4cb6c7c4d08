"""Columns of categories as features: equal to pandas' dummies, known on train alone, the same in a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import taskloom as tl
from taskloom.data.category_columns import Categories
from taskloom.data.table_source import load_table
from taskloom.data.tables import read_table
from taskloom.deploy import Bundle
from taskloom.errors import ConfigError, DataError
from taskloom.predict import predict_table
from taskloom.serve.predictors import PredictSettings, TablePredictor, with_rows_as_file
from taskloom.serve.uploads import Received

TASKS = {"y": {"kind": "regression"}, "z": {"kind": "binary"}}


def people(rows: int = 80) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "a": draw.normal(size=rows),
            "sex": draw.choice(["F", "M", ""], rows),
            "floor": draw.choice([2, 10, 9], rows),
            "y": draw.normal(size=rows),
            "z": np.arange(rows) % 2,
            "part": np.where(np.arange(rows) % 4 == 3, "test", "train"),
        }
    )


def load(frame: pd.DataFrame, folder: Path, **settings: Any) -> Any:
    frame.to_csv(folder / "people.csv", index=False)
    return load_table(
        {"table": "people.csv", "features": "rest", **settings},
        TASKS,
        {"by": "column", "column": "part", "test": "test", "validation": 0.2},
        seed=0,
        folder=folder,
        stores=folder,
    )


def test_features_are_the_dummies_of_pandas_and_are_not_standardised(tmp_path: Path) -> None:
    frame = people()
    data = load(frame, tmp_path, categories=["sex", "fl*"])
    names = ["a", "sex=F", "sex=M", "floor=2", "floor=9", "floor=10"]
    assert data.about["features"]["names"] == names
    assert data.about["features"]["categories"] == {"sex": 2, "floor": 3}
    dummies = pd.get_dummies(frame[["sex", "floor"]].astype(str), prefix_sep="=")[names[1:]]
    array = data.train.features.array
    assert np.array_equal(array[:, 1:], dummies.to_numpy(np.float32))
    train = frame.a.to_numpy()[data.train.rows]
    assert np.allclose(array[:, 0], (frame.a - train.mean()) / train.std(), atol=1e-6)


def test_a_value_that_no_training_row_has_is_a_blank_and_a_bundle_reads_it_so(tmp_path: Path) -> None:
    frame = people()
    frame.loc[[3, 7], "sex"] = ["X", "Y"]  # rows of test
    data = load(frame, tmp_path, categories=["sex"])
    assert data.preprocessing["categories"] == {"sex": ["F", "M", None, None]}
    array = data.train.features.array
    assert data.about["features"]["names"][-2:] == ["sex=X", "sex=Y"]
    assert array[3, 2:].tolist() == [0, 0, 0, 0]
    assert not array[:, -2:].any()

    tasks = data.tasks
    model = tl.sharing.build("single_task", tl.encoders.mlp((6,), hidden=[4]), tasks).eval()
    bundle = Bundle(model, tasks, data.preprocessing, {}, {"input_shape": [6]}, {"data": data.about})
    frame[["sex", "part", "floor", "a"]].to_csv(tmp_path / "new.csv", index=False)
    notes: list[str] = []
    predict_table(bundle, tmp_path / "new.csv", tmp_path / "out.csv", device="cpu", tell=notes.append)
    assert [note[:38] for note in notes] == ["column `sex` holds `X`, `Y` in 2 rows,"]
    with torch.inference_mode():
        expected = model(torch.from_numpy(array))["y"].numpy().ravel() * tasks["y"].scale + tasks["y"].center
    written = pd.read_csv(tmp_path / "out.csv").y.to_numpy()
    assert np.allclose(written, expected, atol=1e-4)
    inputs = TablePredictor(bundle, PredictSettings(device="cpu")).inputs()
    assert inputs["features"] == ["a", "floor", "sex"]
    assert inputs["categories"] == {"sex": ["F", "M"]}


def test_a_category_that_tells_a_label_is_warned_of_by_its_column(tmp_path: Path) -> None:
    frame = people()
    frame["copy"] = frame.z.map({0: "nay", 1: "yea"})
    warnings = load(frame, tmp_path, categories=["copy"]).about["warnings"]
    assert any("`copy=nay`" in text and "exclude: [copy]" in text for text in warnings)
    assert load(frame, tmp_path, categories=["copy", "sex"], exclude=["copy"]).about["warnings"] == []


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"categories": ["z"]}, DataError, "column `z` is a task"),
        ({"categories": ["sexx"]}, DataError, "Did you mean `sex`"),
        ({"categories": ["number"]}, DataError, "holds 1,200 different values"),
        ({"categories": ["sex"], "features": {"npy": "x.npy"}}, ConfigError, "an array beside it"),
    ],
)
def test_bad_input(tmp_path: Path, settings: dict[str, Any], kind: Any, said: str) -> None:
    frame = people(1200).assign(number=np.arange(1200))
    with pytest.raises(kind, match=said):
        load(frame, tmp_path, **settings)


@pytest.mark.parametrize("said", [("True", "False"), ("true", "false")])
def test_true_and_false_of_a_table_are_those_of_parquet_and_json(
    tmp_path: Path, said: tuple[str, str]
) -> None:
    flags = np.arange(40) % 3 > 0
    chosen = Categories({"smokes": sorted(said)}, {"smokes": sorted(said)})
    pd.DataFrame({"smokes": np.where(flags, *said)}).to_csv(tmp_path / "text.csv", index=False)
    pd.DataFrame({"smokes": flags}).to_parquet(tmp_path / "flags.parquet")
    text, parquet = (read_table(tmp_path / name) for name in ("text.csv", "flags.parquet"))
    assert np.array_equal(chosen.encode(text)[:, 1], flags.astype(np.float32))
    assert np.array_equal(chosen.encode(parquet), chosen.encode(text))
    assert chosen.unknown(parquet) == []
    rows = [{"smokes": value} for value in (True, False, None)]
    received = with_rows_as_file(Received(rows=rows), tmp_path, "table")
    answered = chosen.encode(read_table(received.files[0].path))
    assert answered.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
