"""Drawn birds, clothes and expressions: the same bytes, planted relations, learnable, in studies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import taskloom as tl
from _small_study import Watcher
from taskloom.cli import app
from taskloom.coupling import Coupling, expression_action_units
from taskloom.data.batch import DataSplits
from taskloom.data.face_store import prepare_faces
from taskloom.data.readers.clothing_attributes import read_clothing_attributes
from taskloom.data.readers.cub import read_cub
from taskloom.data.simulate import (
    simulate_aff_wild2,
    simulate_affectnet,
    simulate_clothing_attributes,
    simulate_cub,
    simulate_emotionet,
    simulate_raf_db,
)
from taskloom.data.simulate.action_units import UNITS, draw_expression, draw_units
from taskloom.data.simulate.clothing_attributes import CATEGORIES
from taskloom.data.simulate.faces import Pen
from taskloom.data.sources import load
from taskloom.errors import ConfigError
from taskloom.study.config import check_study
from taskloom.study.runner import run_study
from taskloom.study.yaml_lines import parse_document
from taskloom.training import TrainingConfig, evaluate, fit

TABLE = expression_action_units(neutral=True)
SMALL: list[tuple[Any, dict[str, int]]] = [
    (simulate_cub, {"images": 16, "species": 4}),
    (simulate_clothing_attributes, {"images": 16}),
    (simulate_raf_db, {"images": 16}),
    (simulate_affectnet, {"images": 16}),
    (simulate_emotionet, {"images": 16}),
    (simulate_aff_wild2, {"videos": 8, "frames": 8}),
]


@pytest.fixture(scope="module")
def raf_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_raf_db(tmp_path_factory.mktemp("raf") / "faces", images=350)


@pytest.fixture(scope="module")
def emotionet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_emotionet(tmp_path_factory.mktemp("emotionet") / "faces", images=420)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(("simulate", "sizes"), SMALL)
def test_the_same_parameters_give_the_same_bytes(
    simulate: Any, sizes: dict[str, int], tmp_path: Path
) -> None:
    first = contents(simulate(tmp_path / "a", **sizes))
    assert contents(simulate(tmp_path / "b", **sizes)) == first
    assert contents(simulate(tmp_path / "c", **sizes, seed=1)) != first
    with pytest.raises(ConfigError, match="or more expected, found 3"):
        simulate(tmp_path / "d", **{**sizes, "images" if "images" in sizes else "videos": 3})


def test_commands_write_them(tmp_path: Path) -> None:
    for name, options in (
        ("cub", ["--images", "16", "--species", "4"]),
        ("clothing_attributes", ["--images", "16"]),
        ("raf_db", ["--images", "16"]),
        ("affectnet", ["--images", "16"]),
        ("emotionet", ["--images", "16"]),
        ("aff_wild2", ["--videos", "8", "--frames", "8"]),
    ):
        result = CliRunner().invoke(app, ["simulate", name, str(tmp_path / name), *options])
        assert result.exit_code == 0, result.output
        assert (tmp_path / name / "simulation.json").is_file()


def test_units_follow_the_shipped_table() -> None:
    assert tuple(f"AU{unit}" for unit in UNITS) == TABLE.attributes
    random = np.random.default_rng(0)
    for expression in TABLE.classes:
        drawn = [draw_units(random, expression) for _ in range(400)]
        for unit in UNITS:
            share = float(np.mean([unit in units for units in drawn]))
            weight = TABLE[expression, f"AU{unit}"]
            assert abs(share - weight) <= (0.09 if 0 < weight < 1 else 0)


def test_every_unit_shows_in_the_face() -> None:
    points = np.array([[-0.28, -0.05], [0.28, -0.05], [0.0, 0.25], [-0.27, 0.55], [0.27, 0.55]])

    def drawn(*units: int) -> Any:
        picture = np.full((100, 100, 3), 180, np.uint8)
        draw_expression(Pen(picture, (50, 50), 40), points, units, np.full(3, 180.0))
        return picture.astype(int)

    for unit in UNITS:
        assert (np.abs(drawn(unit) - drawn()).max(axis=2) > 40).sum() >= 15, unit
    smile, plain, frown = drawn(12)[60:85], drawn()[60:85], drawn(15)[60:85]
    lip = [np.argwhere((part == (50, 50, 190)).all(axis=2))[:, 0].mean() for part in (smile, plain, frown)]
    ends = [np.argwhere((part == (50, 50, 190)).all(axis=2)) for part in (smile, plain, frown)]
    corner = [found[found[:, 1].argmin(), 0] - row for found, row in zip(ends, lip, strict=True)]
    assert corner[0] < corner[1] < corner[2]  # corners of the mouth go up, stay, go down


def test_relations_between_classes_and_attributes_are_planted(tmp_path: Path) -> None:
    clothes = read_clothing_attributes(simulate_clothing_attributes(tmp_path / "clothes", images=400))
    category = clothes.text("category")

    def share(attribute: str, name: str) -> float:
        cells = clothes.text(attribute)[category == str(CATEGORIES.index(name) + 1)]
        return float(np.mean(cells[cells != ""] == "1"))

    assert share("necktie", "suit") > 0.75
    assert share("necktie", "t-shirt") == 0
    assert share("collar", "shirt") == 1
    assert share("skin_exposure", "dress") == 1
    assert abs(np.mean(clothes.text("scarf") == "") - 0.08) < 0.05
    birds = read_cub(simulate_cub(tmp_path / "birds", images=120, species=4), certainty=3)
    species = birds.text("species")
    wing = [name for name in birds.columns if name.startswith("has_wing_color")]
    shares = np.array([birds.numbers(name) for name in wing]).T
    for name in np.unique(species):
        own = np.nanmean(shares[species == name], axis=0)
        assert own.max() > 0.7  # one colour of the wing per species, which most of its images show
        assert np.isclose(own.sum(), 1)


def trained(data: DataSplits, epochs: int) -> Any:
    torch.manual_seed(0)
    encoder = tl.encoders.build("vgg5", data.train.input_shape, batch_norm=True)
    model = tl.sharing.build("hard_sharing", encoder, data.tasks, stages=5)
    config = TrainingConfig(epochs=epochs, batch=32, device="cpu", optimizer={"adam": {"lr": 3e-3}})
    fit(model, data.train, data.validation, config, seed=0, progress=False)
    return model


def test_birds_and_clothes_can_be_learnt(tmp_path: Path) -> None:
    birds = simulate_cub(tmp_path / "birds", images=200, species=4)
    tasks: dict[str, dict[str, Any]] = {
        "species": {"kind": "multiclass"},
        "wing": {"kind": "multilabel", "columns": ["has_wing_color::*"]},
    }
    settings = {"size": 32, "certainty": 3}
    data = load("cub", settings, tasks, {"by": "official"}, folder=birds, stores=tmp_path)
    assert evaluate(trained(data, 8), data.test).value("species", "accuracy") > 0.7
    clothes = simulate_clothing_attributes(tmp_path / "clothes", images=240)
    tasks = {"sleevelength": {"kind": "multiclass"}, "necktie": {"kind": "binary"}}
    split = {"by": "rows", "test": 0.3, "validation": 0.1}
    data = load("clothing_attributes", {"size": 32}, tasks, split, folder=clothes, stores=tmp_path)
    assert evaluate(trained(data, 8), data.test).value("sleevelength", "accuracy") > 0.7


def test_a_store_by_itself_keeps_the_names(tmp_path: Path) -> None:
    folder = simulate_emotionet(tmp_path / "faces", images=16)
    prepare_faces("emotionet", folder, tmp_path / "store", {"size": 8})
    tasks = {"action_units": {"kind": "multilabel"}}
    data = load("store", {"store": "store"}, tasks, {"by": "rows"}, folder=tmp_path, stores=tmp_path)
    assert data.tasks["action_units"].class_names == TABLE.attributes


def test_expressions_can_be_learnt_and_units_learnt_elsewhere_tell_them(
    raf_db: Path, emotionet: Path, tmp_path: Path
) -> None:
    faces: dict[str, dict[str, Any]] = {"expression": {"kind": "multiclass"}}
    named = load("raf_db", {"size": 40}, faces, {"by": "official"}, folder=raf_db, stores=tmp_path)
    split = {"by": "rows", "test": 0.1, "validation": 0.1}
    coded = load(
        "emotionet",
        {"size": 40},
        {"action_units": {"kind": "multilabel"}},
        split,
        folder=emotionet,
        stores=tmp_path,
    )
    own = evaluate(trained(named, 8), named.test)
    assert own.value("expression", "accuracy") > 0.6
    # No image has both labels; through the shipped table the units of one set name the faces of the other.
    units = trained(coded, 8)
    with torch.no_grad():
        units.eval()
        batch = named.test.__getitems__(range(len(named.test)))
        found = torch.sigmoid(units(batch.inputs)["action_units"]).double().numpy()
    names = list(coded.tasks["action_units"].class_names)
    table = np.clip(TABLE.select(named.tasks["expression"].class_names, names).values, 0.05, 0.95)
    fits = found @ np.log(table).T + (1 - found) @ np.log(1 - table).T
    truth = batch.labels.values["expression"].numpy()
    assert float((fits.argmax(axis=1) == truth).mean()) > 0.5
    # And the two tasks are those that the shipped table couples.
    both = tl.TaskSet(*named.tasks.values(), *coded.tasks.values())
    outputs = {"expression": torch.zeros(4, 7), "action_units": torch.zeros(4, 17)}
    terms = Coupling(TABLE, classes="expression", attributes="action_units").terms(
        outputs, tl.Labels.empty(both, 4), both, epoch=0
    )
    assert int(terms["coupling.matching_to_attributes"].count) == 4


STUDY = """\
data: {{reader: {reader}, size: 32}}
tasks:
{tasks}
split: {split}
encoder: {{name: vgg5, filters: [4, 4, 8, 8, 8]}}
training: {{epochs: 1, batch: 32, optimizer: {{adam: {{lr: 0.003}}}}, device: cpu}}
repeats: 1
cells:
  - hard_sharing: {{stages: 5}}
  - hard_sharing: {{stages: 5}}
    coupling: {coupling}
"""
EXPRESSION = "  expression: {kind: multiclass}"
UNIT_TASK = "  action_units: {kind: multilabel}"


def run(folder: Path, out: Path, **parts: str) -> Mapping[str, Any]:
    study = check_study(parse_document(STUDY.format(**parts), "faces.yaml"), "faces")
    return run_study(study, out, Watcher(), data=folder).summary


def test_a_study_couples_the_frames_of_aff_wild2_by_the_shipped_table(tmp_path: Path) -> None:
    folder = simulate_aff_wild2(tmp_path / "videos", videos=9, frames=16)
    summary = run(
        folder,
        tmp_path / "out",
        reader="aff_wild2",
        tasks=f"{EXPRESSION}\n{UNIT_TASK}",
        split="{by: official}",
        coupling="{relatedness: {table: expression_action_units, empty_classes: [neutral, other], "
        "select: true}}",
    )
    (row,) = summary["couplings"]
    assert row["num_contradictions"] >= 0
    assert {task["name"] for task in row["tasks"]} == {"expression", "action_units"}


def test_a_study_of_units_alone_couples_them_with_each_other(emotionet: Path, tmp_path: Path) -> None:
    summary = run(
        emotionet,
        tmp_path / "out",
        reader="emotionet",
        tasks="  upper: {kind: multilabel, columns: [AU1, AU2, AU4]}\n  smile: {kind: binary, column: AU12}",
        split="{by: rows, test: 0.2, validation: 0.1}",
        coupling="{relatedness: from_labels}",
    )
    (row,) = summary["couplings"]
    assert {task["name"] for task in row["tasks"]} == {"upper", "smile"}


def test_a_study_couples_faces_of_two_sets_that_share_no_label(
    raf_db: Path, emotionet: Path, tmp_path: Path
) -> None:
    sets = (
        f'{{expressions: {{reader: raf_db, folder: "{raf_db}", size: 32, tasks: [expression], '
        f'split: {{by: official}}}}, units: {{reader: emotionet, folder: "{emotionet}", size: 32, '
        "tasks: [action_units]}}"
    )
    text = STUDY.format(
        reader="combined",
        tasks=f"{EXPRESSION}\n{UNIT_TASK}",
        split="{by: rows, test: 0.2, validation: 0.1}",
        coupling="{relatedness: {table: expression_action_units, empty_classes: [neutral]}}",
    )
    text = text.replace("{reader: combined, size: 32}", f"{{combined: {sets}}}")
    summary = run_study(
        check_study(parse_document(text, "faces.yaml"), "faces"), tmp_path / "out", Watcher(), data=tmp_path
    ).summary
    (row,) = summary["couplings"]
    assert {task["name"] for task in row["tasks"]} == {"expression", "action_units"}
    assert not row["warnings"]
