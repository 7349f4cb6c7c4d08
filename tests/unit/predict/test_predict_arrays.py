"""Bundles of tables whose features were an array beside the table: new arrays, and those that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from taskloom import data as data_room
from taskloom import encoders, sharing
from taskloom.cli import app
from taskloom.deploy import load_bundle, save_bundle
from taskloom.errors import DataError
from taskloom.predict import predict_table

RUNNER = CliRunner()
NUM = 13  # no multiple of eight


def trained(folder: Path, features: dict[str, Any], **settings: Any) -> tuple[Path, Any]:
    """A bundle of a network with random weights, and the test rows of its data."""
    rows = [f"m{number},{number % 2}" for number in range(40)]
    (folder / "old.csv").write_text("\n".join(["name,toxic", *rows]) + "\n")
    tasks = {"toxic": {"kind": "binary"}}
    splits = data_room.table(folder / "old.csv", tasks, features=features, **settings)
    torch.manual_seed(1)
    path = save_bundle(
        folder / "net.bundle",
        sharing.build("single_task", encoders.mlp((NUM,), hidden=[4]), splits.tasks),
        input_shape=(NUM,),
        encoder={"name": "mlp", "hidden": [4]},
        sharing={"name": "single_task"},
        preprocessing=splits.preprocessing,
        about={"data": splits.about, "run": {"data": {"features": features}}},
    )
    return path, splits.test


def chance_of(table: Path) -> np.ndarray[Any, Any]:
    found = pd.read_csv(table)
    assert found.row.tolist() == list(range(len(found)))
    return np.where(found.toxic == 1, found.toxic_confidence, 1 - found.toxic_confidence)


@pytest.mark.parametrize("form", ["bits", "archive", "npy"])
def test_rows_of_a_new_array_are_those_that_evaluation_sees(tmp_path: Path, form: str) -> None:
    draw = np.random.default_rng(0)
    bits = draw.integers(0, 2, (40, NUM)).astype(np.uint8)
    numbers = draw.normal(4, 3, (40, NUM))
    numbers[3, 2] = np.nan
    if form == "bits":
        array, old, new = np.packbits(bits, axis=1), "old.npz", "new.npz"
        features: dict[str, Any] = {"npz": old, "array": "bits", "packed_bits": NUM}
    else:
        array, old, new = numbers, *(("old.npz", "new.npz") if form == "archive" else ("old.npy", "new.npy"))
        features = {"npz": old, "array": "bits"} if form == "archive" else {"npy": old}
    if form == "npy":
        np.save(tmp_path / old, array)
    else:
        np.savez(tmp_path / old, bits=array, others=np.zeros(3))
    settings = {} if form == "bits" else {"impute": "mean"}
    bundle, test = trained(tmp_path, features, **settings)
    rows = test.rows
    if form == "npy":
        np.save(tmp_path / new, array[rows])
    elif form == "bits":
        np.savez(tmp_path / new, only_one=array[rows])
    else:
        np.savez(tmp_path / new, bits=array[rows], others=np.zeros(3))
    out = tmp_path / "out.csv"
    result = RUNNER.invoke(
        app, ["predict", str(bundle), str(tmp_path / new), "--out", str(out), "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    assert f"{len(rows)} rows" in result.output
    expected = load_bundle(bundle).predict(test.__getitems__(range(len(test))).inputs)["toxic"]
    np.testing.assert_allclose(chance_of(out), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_arrays_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "old.npz", bits=draw.normal(size=(40, NUM)))
    bundle = load_bundle(trained(tmp_path, {"npz": "old.npz", "array": "bits"})[0])
    new = tmp_path / "new"
    new.mkdir()
    np.savez(new / "many.npz", a=np.zeros(1), b=np.zeros(1))
    np.save(new / "narrow.npy", np.zeros((3, 12)))
    np.save(new / "flat.npy", np.zeros(NUM))
    np.save(new / "words.npy", np.full((2, NUM), "a"))
    hole = np.zeros((2000, NUM))
    hole[1500, 5] = np.nan
    np.save(new / "hole.npy", hole)
    np.save(new / "objects.npy", np.array([{}] * 3, dtype=object), allow_pickle=True)
    (new / "cut.npz").write_bytes((tmp_path / "old.npz").read_bytes()[:100])
    (new / "columns.csv").write_text("a,b\n1,2\n")
    for name, message in (
        ("many.npz", "no array `bits`. Arrays: a, b; leave one array in the file, or call it `bits`"),
        ("narrow.npy", "13 features a row expected, as in the training, found 12"),
        ("flat.npy", r"an array of shape [rows, features] expected, found [13]"),
        ("words.npy", "numbers expected, found <U1"),
        ("hole.npy", "feature 5 of row 1500 (both from 0) is nan; a finite number expected."),
        ("objects.npy", "not a readable NumPy file"),
        ("cut.npz", "not a readable NumPy file"),
        ("none.npy", "an array of features expected, found no such file"),
        ("columns.csv", "the features of this bundle were an array beside the table, 13 numbers a row"),
    ):
        with pytest.raises(DataError) as error:
            predict_table(bundle, new / name, tmp_path / "out.csv")
        assert message in str(error.value)
        assert not list(tmp_path.glob("*out*"))


def test_an_array_does_not_stand_for_named_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, NUM))).add_prefix("f")
    frame.assign(toxic=[0, 1] * 20).to_csv(tmp_path / "named.csv", index=False)
    splits = data_room.table(tmp_path / "named.csv", {"toxic": {"kind": "binary"}})
    path = save_bundle(
        tmp_path / "named.bundle",
        sharing.build("single_task", encoders.mlp((NUM,), hidden=[4]), splits.tasks),
        input_shape=(NUM,),
        encoder={"name": "mlp", "hidden": [4]},
        sharing={"name": "single_task"},
        preprocessing=splits.preprocessing,
        about={"data": splits.about},
    )
    np.save(tmp_path / "new.npy", frame.to_numpy())
    with pytest.raises(DataError, match=r"13 features of this bundle as columns \(f0, \.\.\.\) expected"):
        predict_table(load_bundle(path), tmp_path / "new.npy", tmp_path / "out.csv")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_arrays_are_told_in_a_sentence(tmp_path: Path, suffix: str) -> None:
    numbers = np.random.default_rng(0).normal(4, 3, (40, NUM))
    if suffix == ".npz":
        np.savez_compressed(tmp_path / "old.npz", numbers=numbers)
    else:
        np.save(tmp_path / "old.npy", numbers)
    features = {"npz": "old.npz", "array": "numbers"} if suffix == ".npz" else {"npy": "old.npy"}
    bundle, _ = trained(tmp_path, features)
    loaded, whole = load_bundle(bundle), (tmp_path / f"old{suffix}").read_bytes()
    header = whole.index(b"}") if suffix == ".npy" else 0
    # In the middle of compressed rows, and of the header, which NumPy reads as Python's words.
    for start, damage in ((300, bytes(200)), (header, b" "), (2, b"\xff\xff\xff")):
        broken = bytearray(whole)
        broken[start : start + len(damage)] = damage
        if suffix == ".npy" and start == 300:
            broken = broken[:900]
        (tmp_path / f"new{suffix}").write_bytes(broken)
        with pytest.raises(DataError, match=r"new\.np.: not a readable NumPy file \([^\n]+\)\.$"):
            predict_table(loaded, tmp_path / f"new{suffix}", tmp_path / "out.csv", device="cpu")
