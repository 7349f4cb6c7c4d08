"""A network trained on two data sets, each standardised by itself: which preparation new rows get."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from taskloom import encoders, sharing
from taskloom.cli import app
from taskloom.data.sources import load
from taskloom.deploy import load_bundle, save_bundle

RUNNER = CliRunner()


def bundle_of_two(folder: Path, *, standardize: bool = True) -> Path:
    draw = np.random.default_rng(0)
    for name, task, centre in (("near", "sex", 0.0), ("far", "smile", 40.0)):
        table = pd.DataFrame(draw.normal(centre, 1 + centre / 10, (60, 2)).round(3), columns=["a", "b"])
        table[task] = draw.choice(["no", "yes"], 60)
        table.to_csv(folder / f"{name}.csv", index=False)
    sets = {
        name: {"table": f"{name}.csv", "features": ["a", "b"], "tasks": [task], "standardize": standardize}
        for name, task in (("near", "sex"), ("far", "smile"))
    }
    tasks = {"sex": {"kind": "binary"}, "smile": {"kind": "binary"}}
    split = {"by": "rows", "test": 0.2, "validation": 0.2}
    splits = load("combined", {"combined": sets}, tasks, split, folder=folder, stores=folder)
    torch.manual_seed(0)
    return save_bundle(
        folder / "two.bundle",
        sharing.build("hard_sharing", encoders.mlp((2,), hidden=[4]), splits.tasks, stages=1),
        input_shape=(2,),
        encoder={"name": "mlp", "hidden": [4]},
        sharing={"name": "hard_sharing", "stages": 1},
        preprocessing=splits.preprocessing,
    )


def predicted(folder: Path, *options: str) -> np.ndarray:
    (folder / "new.csv").write_text("a,b\n38,41\n1,-1\n")
    given = ["predict", str(folder / "two.bundle"), str(folder / "new.csv"), "--device", "cpu", *options]
    result = RUNNER.invoke(app, [*given, "--table", str(folder / "out.jsonl")])
    if result.exit_code:
        pytest.fail(" ".join(result.output.split()), pytrace=False)
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return np.array(
        [row["smile_confidence"] if row["smile"] == "yes" else 1 - row["smile_confidence"] for row in rows]
    )


def test_rows_are_standardised_as_those_of_the_named_set(tmp_path: Path) -> None:
    bundle = load_bundle(bundle_of_two(tmp_path))
    for name in ("near", "far"):
        fitted = bundle.preprocessing["sets"][name]["standardization"]
        rows = (np.array([[38, 41], [1, -1]]) - fitted["center"]) / fitted["scale"]
        expected = bundle.predict(torch.tensor(rows, dtype=torch.float32))["smile"].numpy()
        np.testing.assert_allclose(predicted(tmp_path, "--prepared-as", name), expected.ravel(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), r"prepared in its own way \(near, far\); say with --prepared-as NAME"),
        (("--prepared-as", "neer"), r"no such data set. Did you mean `near`"),
    ],
)
def test_which_set_must_be_said(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    bundle_of_two(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=message):
        predicted(tmp_path, *options)


def test_sets_prepared_alike_need_no_name(tmp_path: Path) -> None:
    bundle = load_bundle(bundle_of_two(tmp_path, standardize=False))
    expected = bundle.predict(torch.tensor([[38.0, 41.0], [1.0, -1.0]]))["smile"].numpy()
    np.testing.assert_allclose(predicted(tmp_path), expected.ravel(), atol=1e-5)
    with pytest.raises(pytest.fail.Exception, match="were prepared in one way; leave it out"):
        predicted(tmp_path, "--prepared-as", "near")
