"""`taskloom init` on data sets as they are downloaded: the reader is told by the files; the draft loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests._drafts import loaded
from typer.testing import CliRunner

from taskloom.cli import app
from taskloom.data import simulate
from taskloom.errors import ConfigError, DataError
from taskloom.study.draft import draft_study


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SETS: list[tuple[str, list[str], dict[str, str], Any]] = [
    ("utkface", ["age", "race"], {"age": "regression", "race": "multiclass"}, "rows"),
    ("celeba", ["Smiling", "landmarks"], {"Smiling": "binary", "landmarks": "landmarks"}, "official"),
    ("mtfl", ["smile", "pose"], {"smile": "binary", "pose": "multiclass"}, "official"),
    ("cub", ["species", "attributes"], {"species": "multiclass", "attributes": "multilabel"}, "official"),
    ("clothing_attributes", ["category", "scarf"], {"category": "multiclass", "scarf": "binary"}, "rows"),
]


@pytest.mark.parametrize(("name", "tasks", "kinds", "by"), SETS)
def test_pictures_are_told_by_files(name: str, tasks: list[str], kinds: dict[str, str], by: str) -> None:
    getattr(simulate, f"simulate_{name}")(Path("data"), images=80)
    draft = draft_study("data", tasks)
    settings = draft.settings
    assert settings["data"]["reader"] == name
    assert draft.tasks == kinds
    assert settings["split"]["by"] == by
    data = loaded(draft.text)
    assert list(data.tasks) == tasks
    assert data.train.input_shape == (3, 64, 64)
    assert len(data.train) + len(data.validation) + len(data.test) == 80


def test_a_table_of_ones_own_beside_such_names_is_read() -> None:
    simulate.simulate_utkface(Path("data"), images=40)
    for coral in Path("data").glob("utk_*.csv"):
        coral.unlink()
    names = sorted(path.name for path in Path("data").rglob("*.jpg"))
    rows = [f"{name},{row % 2},{row}" for row, name in enumerate(names)]
    (Path("data") / "labels.csv").write_text("\n".join(["file_name,smiles,weight", *rows]))
    assert draft_study("data", ["smiles", "weight"]).settings["data"]["table"] == "data/labels.csv"


OWN: list[tuple[str, dict[str, str]]] = [
    ("labels.csv", {}),  # whose columns are called as EmotioNet's
    ("labels.csv", {"training.txt": "0.png\n", "testing.txt": "1.png\n"}),  # files called as MTFL's
    ("training.csv", {"validation.csv": "age,AU1\n3,1\n"}),  # and as AffectNet's
]


@pytest.mark.parametrize(("table", "others"), OWN)
def test_a_table_that_names_files_in_a_column_of_its_own_is_no_download(
    table: str, others: dict[str, str]
) -> None:
    Path("data").mkdir()
    draw = np.random.default_rng(0)
    rows = ["file_name;person;AU1;AU2;AU4"]
    for number in range(60):
        cv2.imwrite(f"data/{number}.png", draw.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        rows.append(f"{number}.png;p{number % 12};" + ";".join(map(str, draw.integers(0, 2, 3))))
    text = "\n".join(rows)
    for separator in ";,":
        (Path("data") / table).write_text(text.replace(";", separator))
        for name, held in others.items():
            (Path("data") / name).write_text(held)
        settings = draft_study("data", ["AU1", "AU2"]).settings
        assert settings["data"]["table"] == f"data/{table}"
        assert settings["split"]["by"] in ("person", "group")


def test_lists_with_dates_or_paths_are_not_affectnets() -> None:
    Path("data").mkdir()
    for name in ("training.csv", "validation.csv"):
        (Path("data") / name).write_text("date,smiles\n01/02/2020,1\n02/02/2020,0\n")
    with pytest.raises(DataError, match="a table with a column `file_name`"):
        draft_study("data", ["smiles"])


def test_tracks_of_opportunity_are_listed_and_drafted() -> None:
    simulate.simulate_opportunity("data", seconds_per_run=20, people=2)
    shown = CliRunner().invoke(app, ["init", "data"], catch_exceptions=False).output
    assert "--tasks Locomotion,HL_Activity" in shown
    draft = draft_study("data", ["Locomotion", "HL_Activity"])
    assert draft.settings["split"] == {"by": "thesis"}
    assert draft.settings["tasks"]["Locomotion"] == {"kind": "multiclass", "metric": "f1_macro"}
    assert loaded(draft.text).train.input_shape == (64, 107)
    with pytest.raises(ConfigError, match="two columns or more"):
        draft_study("data", ["Locomotion"])


def test_ratings_of_deap_with_fewer_trials() -> None:
    simulate.simulate_deap("data", people=5, trials=4)
    draft = draft_study("data", ["valence", "arousal"], stores="stores")
    assert draft.settings["data"] == {"reader": "deap", "folder": "data", "trials": 4}
    assert draft.tasks == {"valence": "binary", "arousal": "binary"}
    assert draft.settings["split"]["by"] == "person"
