"""`taskloom init` on data sets as they are downloaded: the reader is told by the files; the draft loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests._drafts import loaded
from typer.testing import CliRunner

from taskloom.cli import app
from taskloom.data import simulate
from taskloom.errors import ConfigError
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
