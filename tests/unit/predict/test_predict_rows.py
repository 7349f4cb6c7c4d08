"""Rows of a table through a bundle, and what is not for it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from _predict import image_bundle, picture_with
from taskloom import data as data_room
from taskloom import encoders, sharing
from taskloom.cli import app
from taskloom.deploy import load_bundle, save_bundle
from taskloom.errors import DataError
from taskloom.predict import predict_table

RUNNER = CliRunner()


def table_bundle(folder: Path) -> tuple[Path, list[list[float]], torch.Tensor]:
    """A bundle trained on nothing, from a table; its features and its predictions by the loaded data."""
    rng = np.random.default_rng(0)
    rows = rng.normal(5, 3, (60, 3)).round(3).tolist()
    lines = [f"{a},{b},{c},{'FM'[i % 2]}" for i, (a, b, c) in enumerate(rows)]
    (folder / "people.csv").write_text("\n".join(["a,b,c,sex", *lines]))
    splits = data_room.table(folder / "people.csv", {"sex": {"kind": "binary"}})
    torch.manual_seed(1)
    model = sharing.build("single_task", encoders.mlp((3,), hidden=[4]), splits.tasks)
    path = save_bundle(
        folder / "people.bundle",
        model,
        input_shape=(3,),
        encoder={"name": "mlp", "hidden": [4]},
        sharing={"name": "single_task"},
        preprocessing=splits.preprocessing,
    )
    batch = splits.test.__getitems__(range(len(splits.test)))
    expected = load_bundle(path).predict(batch.inputs)["sex"]
    return path, [rows[row] for row in splits.test.rows], expected  # type: ignore[attr-defined]


def test_rows_of_a_new_table_are_predicted_as_rows_of_the_training_table(tmp_path: Path) -> None:
    path, rows, expected = table_bundle(tmp_path)
    # other order of columns, one more, and no labels
    lines = [f"x,{c},{a},{b}" for a, b, c in rows]
    (tmp_path / "new.csv").write_text("\n".join(["name,c,a,b", *lines]))
    result = RUNNER.invoke(
        app, ["predict", str(path), str(tmp_path / "new.csv"), "--table", str(tmp_path / "out.jsonl")]
    )
    assert result.exit_code == 0, result.output
    assert "device cpu" in result.output or "device cuda" in result.output
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["row"] for row in found] == list(range(len(rows)))
    second = [row["sex_confidence"] if row["sex"] == "M" else 1 - row["sex_confidence"] for row in found]
    np.testing.assert_allclose(second, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_a_table_that_lacks_a_feature_is_refused_by_its_name(tmp_path: Path) -> None:
    path, _, _ = table_bundle(tmp_path)
    (tmp_path / "new.csv").write_text("a,c\n1,2\n")
    with pytest.raises(DataError, match="column `b`, a feature of this bundle, is missing"):
        predict_table(load_bundle(path), tmp_path / "new.csv", tmp_path / "out.csv")
    (tmp_path / "new.csv").write_text("a,b,c\n1,,2\n")
    with pytest.raises(DataError, match="a feature value is missing"):
        predict_table(load_bundle(path), tmp_path / "new.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_images_do_not_go_with_a_bundle_of_tables_nor_tables_with_one_of_images(tmp_path: Path) -> None:
    path, _, _ = table_bundle(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), picture_with((10, 40)))
    result = RUNNER.invoke(app, ["predict", str(path), str(tmp_path / "a.png")])
    assert result.exit_code == 2
    assert "a bundle of images expected for images and videos" in result.output
    assert "trained by the reader `table`" in result.output
    with pytest.raises(DataError, match="a table goes with a bundle of tables"):
        predict_table(load_bundle(image_bundle(tmp_path)), tmp_path / "people.csv", tmp_path / "out.csv")


def test_the_command_writes_table_and_overlay_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image_bundle(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), picture_with((10, 40)))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = RUNNER.invoke(app, ["predict", str(path), "../a.png", "--detector", "none", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "1 frame, 1 with faces" in result.output
    assert "device cpu" in result.output
    assert sorted(file.name for file in Path().iterdir()) == ["a.predicted.csv", "a.predicted.png"]
    result = RUNNER.invoke(app, ["predict", str(path), "../a.png", "--overlay", "../a.png"])
    assert result.exit_code == 2
    assert "an output would replace the source" in result.output
    result = RUNNER.invoke(app, ["predict", str(path), "../a.png", "--table", "no/where.csv"])
    assert result.exit_code == 2
    assert "the table cannot be written there (No such file or directory)" in result.output
    result = RUNNER.invoke(app, ["predict", str(tmp_path), "../a.png"])
    assert result.exit_code == 2
    assert "a bundle (a folder with bundle.json" in result.output


@pytest.mark.parametrize("separator", [";", ","])
def test_new_rows_are_read_as_the_rows_of_training_were(tmp_path: Path, separator: str) -> None:
    """Marks of missing values, and decimal commas where the new table has them too."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(5, 3, (60, 2)).round(3), columns=["a", "b"]).assign(sex=["F", "M"] * 30)
    frame.loc[::7, "b"] = np.nan
    frame.to_csv(tmp_path / "old.csv", sep=";", decimal=",", na_rep="N/A", index=False)
    splits = data_room.table(
        tmp_path / "old.csv", {"sex": {"kind": "binary"}}, decimal=",", missing=["N/A"], impute="mean"
    )
    torch.manual_seed(1)
    model = sharing.build("single_task", encoders.mlp((2,), hidden=[4]), splits.tasks)
    path = save_bundle(
        tmp_path / "old.bundle",
        model,
        input_shape=(2,),
        encoder={"name": "mlp", "hidden": [4]},
        sharing={"name": "single_task"},
        preprocessing=splits.preprocessing,
        about={"data": splits.about},
    )
    batch = splits.test.__getitems__(range(len(splits.test)))
    expected = load_bundle(path).predict(batch.inputs)["sex"]
    new = frame.iloc[splits.test.rows]  # type: ignore[attr-defined]
    decimal = "," if separator == ";" else "."
    new.to_csv(tmp_path / "new.csv", sep=separator, decimal=decimal, na_rep="N/A", index=False)
    predict_table(load_bundle(path), tmp_path / "new.csv", tmp_path / "out.csv")
    found = pd.read_csv(tmp_path / "out.csv")
    second = np.where(found["sex"] == "M", found["sex_confidence"], 1 - found["sex_confidence"])
    np.testing.assert_allclose(second, expected.numpy(), rtol=1e-4, atol=1e-4)
