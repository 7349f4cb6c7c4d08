"""What tests of the web page share: bundles of tables, and clients of an app."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from taskloom import data as data_room
from taskloom import encoders, sharing
from taskloom.deploy import save_bundle, web_app
from taskloom.predict import PredictSettings

CPU = PredictSettings(device="cpu")
TASKS = {
    "age": {"kind": "regression", "unit": "years"},
    "sex": {"kind": "binary"},
    "mood": {"kind": "multiclass"},
}


def table_bundle(folder: Path, *, features: Any = "rest", impute: str | None = "mean") -> Path:
    """A bundle of a table of three features, with weights that were drawn."""
    draw = np.random.default_rng(0)
    rows = draw.normal(5, 3, (60, 3)).round(3)
    moods = ("calm", "glad", "sad")
    lines = [f"{a},{b},{c},{a + b},{'FM'[i % 2]},{moods[i % 3]}" for i, (a, b, c) in enumerate(rows)]
    (folder / "people.csv").write_text("\n".join(["a,b,c,age,sex,mood", *lines]))
    given = {} if impute is None else {"impute": impute}
    splits = data_room.table(folder / "people.csv", TASKS, features=features, **given)
    torch.manual_seed(1)
    width = splits.train.input_shape[0]
    return save_bundle(
        folder / "people.bundle",
        sharing.build("hard_sharing", encoders.mlp((width,), hidden=[4]), splits.tasks, stages=1),
        input_shape=(width,),
        encoder={"name": "mlp", "hidden": [4]},
        sharing={"name": "hard_sharing", "stages": 1},
        preprocessing=splits.preprocessing,
        about={"data": splits.about},
    )


def client_of(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="http://localhost")


def client(bundle: Any, settings: PredictSettings = CPU, **options: Any) -> TestClient:
    return client_of(web_app(bundle, settings, **options))


def form(*files: Path | tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """Files of a form, by their names or under other ones."""
    named = [file if isinstance(file, tuple) else (file.name, file.read_bytes()) for file in files]
    return [("files", one) for one in named]


def names_of(answer: dict[str, Any]) -> Sequence[str]:
    return [column["name"] for column in answer["columns"]]
