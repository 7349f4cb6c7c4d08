"""The face recipes of theses 000, 001 and 004 on drawn faces, shrunk: cells, what they record and show."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import yaml

import taskloom
from _small_study import Watcher
from taskloom.data.simulate.celeba import simulate_celeba
from taskloom.data.simulate.mtfl import simulate_mtfl
from taskloom.data.simulate.utkface import simulate_utkface
from taskloom.errors import ConfigError
from taskloom.report.load import render_report
from taskloom.study.cells import baselines, expand_cells
from taskloom.study.config import Study, check_study, load_study
from taskloom.study.configurations import configuration_rows
from taskloom.study.overrides import apply_overrides
from taskloom.study.results import ResultsStore
from taskloom.study.runner import run_study
from taskloom.study.yaml_lines import parse_document

RECIPES = Path(taskloom.__file__).parents[2] / "recipes"
PAIR = ("thesis_000_utkface.yaml", "utkface_balancing.yaml")
SMALL = ("repeats=1", "training.epochs=1", "training.batch=64", "training.threads=1", "training.device=cpu")
TINY_RESNET = ("data.size=16", "encoder.width=0.125", "encoder.shared_layers=[8, 8]", "head.hidden=[8]")


def recipe(name: str, *overrides: str) -> Study:
    return load_study(RECIPES / f"{name}.yaml", overrides)


@pytest.fixture(scope="module")
def utkface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_utkface(tmp_path_factory.mktemp("utk") / "faces", images=140, size=32)


class TestCells:
    def test_thesis_000_has_its_83_configurations(self) -> None:
        study = recipe("thesis_000_utkface")
        cells = expand_cells(study)
        assert len(cells) + len(baselines(study)) == 83
        tasks = ("age", "gender", "ethnicity")
        sets = [pair for size in (2, 3) for pair in itertools.combinations(tasks, size)]
        wanted = set(
            itertools.product(("hard sharing", "cross-stitch"), range(1, 6), ("input", "output"), sets)
        )
        rows = configuration_rows(cells)
        by_id = {cell.id: cell for cell in cells}
        assert {(row["family"], row["depth"], row["end"], by_id[row["cell"]].tasks) for row in rows} == wanted
        # Progressive placement: the first unit on the baselines, each further one on the one before.
        for row in rows:
            cell = by_id[row["cell"]]
            if row["family"] == "hard sharing":
                assert cell.warm_start == ()
            elif row["depth"] == 1:
                assert [(start.architecture, start.tasks) for start in cell.warm_start] == [
                    ("single_task", (task,)) for task in cell.tasks
                ]
            else:
                (start,) = cell.warm_start
                assert start.tasks == cell.tasks
                assert start.settings == {**cell.settings, "units": row["depth"] - 1}

    def test_thesis_001_has_both_forms_and_every_lambda(self) -> None:
        for name, tasks in (("utkface_coral", 3), ("celeba", 2)):
            study = recipe(f"thesis_001_{name}")
            alone = baselines(study)
            assert len(alone) == 2 * tasks
            linear, own = alone[0], alone[tasks]
            assert (linear.encoder or {})["shared_layers"] == []
            assert linear.head == {}
            assert (own.encoder, own.head) == (None, None)  # the study's own
            assert linear.id != own.id == "single_task"
            lambdas = {
                (cell.balancing or {}).get("learned_weights", {}).get("lambda")
                for cell in expand_cells(study)
            }
            assert lambdas - {None} == {0.1, 0.001, 0.01, 1}

    def test_thesis_004_has_three_networks_on_five_sets(self) -> None:
        cells = expand_cells(recipe("thesis_004_mtfl"))
        names = {cell.name.partition(" on ")[0] for cell in cells}
        assert names == {"split", "cross-stitch", "related weights"}
        sets = {cell.tasks for cell in cells}
        assert len(cells) == 15 == 3 * len(sets)
        assert all(tasks[0] == "landmarks" for tasks in sets)
        assert {tasks[1:] for tasks in sets if len(tasks) == 2} == {
            ("pose",),
            ("gender",),
            ("smile",),
            ("glasses",),
        }

    def test_settings_that_the_headers_name(self) -> None:
        for encoder in (
            "{name: lightcnn29, weights: FILE, shared_layers: [512, 256]}",
            "{name: sphereface20, weights: FILE, shared_layers: [512, 256]}",
            "{name: inception_resnet_v1, weights: FILE, shared_layers: [512, 256]}",
            "{name: resnet50, style: vggface2, weights: FILE, shared_layers: [512, 256]}",
            "{name: se_resnet50, embedding: 128, weights: FILE, shared_layers: [512, 256]}",
        ):
            for name in ("utkface_coral", "celeba"):
                study = recipe(f"thesis_001_{name}", f"encoder={encoder}")
                assert (baselines(study)[0].encoder or {})["shared_layers"] == []
        ordinal = "tasks.age={kind: ordinal, unit: years, range: [21, 60], loss: coral}"
        assert recipe("thesis_001_utkface_coral", ordinal).config.tasks["age"]["loss"] == "coral"
        assert recipe("utkface").config.split["duplicates"] == "together"
        assert recipe("thesis_000_utkface").config.split["duplicates"] == "apart"


def test_thesis_000_runs_shrunk_and_its_report_has_the_analyses(tmp_path: Path, utkface: Path) -> None:
    document = parse_document((RECIPES / "thesis_000_utkface.yaml").read_text(), "thesis_000_utkface.yaml")
    overrides = [
        *SMALL, "data.images=UTKFace", "data.size=32", "encoder.filters=[4, 4, 4, 4, 4]", "head.hidden=[8]",
        "cells.0.hard_sharing.stages=[1, 2]", "cells.0.tasks=[[age, gender], [age, gender, ethnicity]]",
        "cells.1.cross_stitch.units=[1, 2]", "cells.1.cross_stitch.from=[output]",
        "cells.1.tasks=[age, gender]",
    ]  # fmt: skip
    study = check_study(apply_overrides(document, overrides), "thesis")
    outcome = run_study(study, tmp_path / "out", Watcher(), data=utkface)
    assert (outcome.done, outcome.failed) == (3 + 8 + 2, 0)
    rows = outcome.summary["configurations"]
    assert sorted((row["family"], row["depth"], row["end"]) for row in rows) == sorted(
        [("hard sharing", depth, end) for depth in (1, 2) for end in ("input", "output")] * 2
        + [("cross-stitch", depth, "output") for depth in (1, 2)]
    )
    page = render_report(tmp_path / "out").read_text()
    assert "Configurations side by side" in page
    for task in ("age", "gender", "ethnicity"):
        assert f"{task} in all configurations" in page
    assert "age, hard sharing: from the input better than from the output" in page


def test_thesis_001_runs_shrunk_on_the_coral_split(tmp_path: Path, utkface: Path) -> None:
    study = recipe(
        "thesis_001_utkface_coral", *SMALL, *TINY_RESNET, "data.images=UTKFace",
        "cells.0.balancing={learned_weights: {lambda: 0.1}}", "baseline.forms.own network.hidden=[8]",
    )  # fmt: skip
    outcome = run_study(study, tmp_path / "out", Watcher(), data=utkface)
    assert (outcome.done, outcome.failed) == (6 + 1, 0)
    forms = {(row["task"], row["form"]): row for row in outcome.summary["baselines"]}
    assert {form for _, form in forms} == {"alone, linear", "alone, own network"}
    assert [row["judged"] for row in forms.values()] == [False, True] * 3
    # The linear read-out has neither the shared layers nor a hidden one: 8 * width features and a bias.
    features = 512 // 8
    own = (features * 8 + 8 + 2 * 8) + (8 * 8 + 8 + 2 * 8) + (8 * 8 + 8) + 8 + 1
    linear = features + 1
    counts = {
        form: forms["gender", form]["num_parameters"] for form in ("alone, linear", "alone, own network")
    }
    assert counts["alone, own network"] - counts["alone, linear"] == own - linear


def test_thesis_001_runs_shrunk_on_celeba(tmp_path: Path) -> None:
    data = simulate_celeba(tmp_path / "faces", images=60)
    study = recipe(
        "thesis_001_celeba", *SMALL, *TINY_RESNET, "cells.1.balancing={learned_weights: {lambda: 0.1}}",
        "baseline.forms.own network.hidden=[8]",
    )  # fmt: skip
    outcome = run_study(study, tmp_path / "out", Watcher(), data=data)
    assert (outcome.done, outcome.failed) == (4 + 2, 0)
    assert {row["cell"] for row in outcome.summary["gains"]} == {cell.id for cell in expand_cells(study)}


def test_thesis_004_runs_shrunk(tmp_path: Path) -> None:
    data = simulate_mtfl(tmp_path / "faces", images=80)
    two = "[[landmarks, smile], [landmarks, pose, gender, smile, glasses]]"
    study = recipe(
        "thesis_004_mtfl", *SMALL, "encoder.filters=[4, 4, 4, 4]", "encoder.dense=8",
        *(f"cells.{entry}.tasks={two}" for entry in range(3)),
    )  # fmt: skip
    outcome = run_study(study, tmp_path / "out", Watcher(), data=data)
    assert (outcome.done, outcome.failed) == (1 + 6, 0)
    with ResultsStore(tmp_path / "out" / "results.sqlite", read_only=True) as store:
        for record in store.records():
            found = {m.metric: m.value for m in record.metrics if m.task == "landmarks" and m.part == "test"}
            # The task's own threshold is the thesis's.
            assert found["failure_rate"] == found["failure_rate_5"] >= found["failure_rate_10"]
    auxiliary = {
        row["task"] for row in json.loads((tmp_path / "out" / "summary.json").read_text())["auxiliary"]
    }
    assert auxiliary == {"pose", "gender", "smile", "glasses"}


def test_balancing_on_faces_runs_shrunk_on_thesis_000s_network(tmp_path: Path, utkface: Path) -> None:
    sharing, balancing = (yaml.safe_load((RECIPES / name).read_text(encoding="utf-8")) for name in PAIR)
    for document in (sharing, balancing):
        del document["cells"], document["data"]
    assert balancing["training"].pop("threads") == 1
    assert balancing == sharing
    study = recipe("utkface_balancing", *SMALL, "data.images=UTKFace", "data.size=32", "head.hidden=[8]")
    cells = expand_cells(study)
    assert len({(cell.architecture, str(cell.settings)) for cell in cells}) == 1
    outcome = run_study(study, tmp_path / "out", Watcher(), data=utkface)
    assert (outcome.done, outcome.failed) == (3 + 14, 0)
    page = render_report(outcome.folder).read_text(encoding="utf-8")
    part = page[page.index("What balancing did") :]
    assert all(name in part for cell in cells for name in (cell.balancing or {}))


def test_an_unknown_setting_of_a_forms_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"baseline.forms.linear.encoder.shared_layer is not a setting"):
        baselines(recipe("thesis_001_celeba", "baseline.forms.linear.encoder={shared_layer: []}"))
