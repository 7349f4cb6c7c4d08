"""The recipes of thesis 002 on simulated data, shrunk: the rows of its tables, and both splits of DEAP."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import taskloom as tl
from _small_study import Watcher
from taskloom.data.simulate import simulate_opportunity
from taskloom.data.simulate.deap import simulate_deap
from taskloom.encoders.thesis_002 import TABLES
from taskloom.errors import ConfigError
from taskloom.report.load import render_report
from taskloom.sharing import HeadSpec
from taskloom.study.cells import expand_cells
from taskloom.study.companion import SUFFIX
from taskloom.study.config import Study, load_study
from taskloom.study.results import ResultsStore
from taskloom.study.runner import plan_study, run_study

RECIPES = Path(__file__).parents[3] / "recipes"
ROWS_4_1 = [
    "HPS 6,0 LW1,1",
    "HPS 6,0 LW2,1",
    "HPS 6,0 LW2,1 WOSD",
    "HPS 6,0,2,4 LW2,1,1,1",
    "HPS all tasks",
    "SPS TW0.001 LW1,1",
    "SPS TW0.005 LW2,1",
    "SPS TW0.01 LW2,1",
    "CSN LW2,1 1000x50",
    "CSN LW2,1 1000x500",
]
ROWS_4_2 = ["HPS VA LW1,1", "HPS VA LW1,1 Drop", "SPS TW0.0001", "SPS TW0.001", "CSN LW1,1"]


def recipe(name: str, *overrides: str) -> Study:
    return load_study(RECIPES / f"thesis_002_{name}.yaml", overrides)


def parameters(study: Study, row: str, input_shape: tuple[int, int], classes: dict[str, int]) -> int:
    """Of a row's network at full size, its units and ties left out."""
    (cell,) = [cell for cell in expand_cells(study) if cell.name == row]
    encoder = dict(cell.encoder or study.config.encoder.model_dump())
    head = HeadSpec(**(cell.head or study.config.head.model_dump()))
    tasks = tl.TaskSet(*(tl.Multiclass(task, classes[task]) for task in cell.tasks))
    built = tl.encoders.build(encoder.pop("name"), input_shape, **encoder)
    network = tl.sharing.build(cell.architecture, built, tasks, head=head, **cell.settings)
    groups = {group.name: group for group in network.parameter_groups()}
    special = {id(p) for name in ("mixing", "tie") for p in getattr(groups.get(name), "parameters", ())}
    return sum(p.numel() for p in network.parameters() if id(p) not in special)


class TestRows:
    def test_every_row_of_table_4_1(self) -> None:
        study = recipe("opportunity")
        cells = {cell.name: cell for cell in expand_cells(study)}
        assert list(cells) == ROWS_4_1  # and STL, which is always run: 11
        for name, cell in cells.items():
            weights = (cell.balancing or {}).get("weighted_sum", {}).get("weights", {})
            assert weights == ({} if "LW1,1" in name and "LW2" not in name else {"ML_Both_Arms": 2}), name
            if "6,0,2,4" in name:
                assert set(cell.tasks) == {"ML_Both_Arms", "Locomotion", "LL_Left_Arm", "LL_Right_Arm"}
            elif "all" in name:
                assert len(cell.tasks) == 7
            else:
                assert set(cell.tasks) == {"ML_Both_Arms", "Locomotion"}
            if "TW" in name:
                assert cell.settings["weight"] == float(name.split("TW")[1].split()[0])

    def test_every_row_of_table_4_2(self) -> None:
        cells = expand_cells(recipe("deap"))
        assert [cell.name for cell in cells] == ROWS_4_2  # and valence and arousal alone: 7
        assert {cell.tasks for cell in cells} == {("valence", "arousal")}
        by_name = {cell.name: cell for cell in cells}
        assert (by_name["SPS TW0.0001"].training.epochs, by_name["SPS TW0.001"].training.epochs) == (100, 78)
        assert by_name["CSN LW1,1"].training.epochs == 200

    def test_networks_have_the_parameters_of_the_thesis_tables(self) -> None:
        study = recipe("opportunity")
        classes = {"ML_Both_Arms": 18, "Locomotion": 6}
        shape = (64, 107)
        counts = {
            row: parameters(study, row, shape, classes)
            for row in ROWS_4_1
            if "6,0,2" not in row and "all" not in row
        }
        # The docstring of encoders.thesis_002 has the sums of the printed tables.
        assert counts["HPS 6,0 LW2,1"] == 6_754_894
        assert counts["SPS TW0.005 LW2,1"] == counts["CSN LW2,1 1000x500"] == 7_490_764
        # WOSD: the convolutions once, then 3210 -> 500 -> 500 -> classes for each of the two tasks.
        convolutions = (11 * 50 + 50) + (10 * 50 * 40 + 40) + (6 * 40 * 30 + 30)
        heads = 2 * (3210 * 500 + 500 + 500 * 500 + 500) + 501 * (18 + 6)
        assert counts["HPS 6,0 LW2,1 WOSD"] == convolutions + heads
        assert TABLES["C.7"].head_hidden == (1000, 500)

    def test_dropout_stands_where_the_thesis_has_it(self) -> None:
        cells = {cell.name: cell for cell in expand_cells(recipe("opportunity"))}
        wosd = HeadSpec(**cells["HPS 6,0 LW2,1 WOSD"].head or {}).build((3210,), 18)
        assert [type(layer).__name__ for layer in wosd] == [
            "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear",
        ]  # fmt: skip
        drop = {cell.name: cell for cell in expand_cells(recipe("deap"))}["HPS VA LW1,1 Drop"]
        assert HeadSpec(**drop.head or {}).dropout_rates == (0.4, 0.4, 0.0)


def test_opportunity_runs_shrunk(tmp_path: Path) -> None:
    simulate_opportunity(tmp_path / "opp", people=4, seconds_per_run=300)
    study = recipe(
        "opportunity", "repeats=1", "training.epochs=1", "training.batch=512", "encoder.width=0.02",
        "data.window.stride=64", "data.channels=quickstart", "training.threads=1", "training.device=cpu",
        *(f"cells.{position}.head.hidden=[8, 4]" for position in (2, 5, 6, 7, 8, 9)), "head.hidden=[8, 4]",
    )  # fmt: skip
    # The two cross-stitch rows differ in their heads alone.
    study = load_study(study_file(tmp_path, study), ["cells.9.head.hidden=[8, 5]"])
    outcome = run_study(study, tmp_path / "out", Watcher(), data=tmp_path / "opp")
    assert (outcome.done, outcome.failed) == (1 + 10, 0)  # auxiliary tasks are not judged, and so not alone
    summary = outcome.summary
    rows = {row["cell"]: row for row in summary["course"]["settled"]}
    names = {cell["id"]: cell["name"] for cell in summary["cells"]}
    assert [names.get(cell, "STL") for cell in rows] == ["STL", *ROWS_4_1]
    assert all(row["task"] == "ML_Both_Arms" and row["part"] == "test" for row in rows.values())
    assert set(rows[""]["values"]) == {"f1_macro", "f1_weighted", "f1_micro", "balanced_accuracy", "accuracy"}
    stitched = [entry for entry in summary["mixing"] if names[entry["cell"]].startswith("CSN")]
    assert [list(entry["matrices"]) for entry in stitched] == [["conv_0", "conv_1", "conv_2"]] * 2
    page = render_report(tmp_path / "out").read_text()
    assert "The course of training" in page
    assert "What the split gives away" not in page


def study_file(folder: Path, study: Study) -> Path:
    path = folder / "shrunk.yaml"
    path.write_text(study.to_yaml())
    return path


SHRUNK_DEAP = (
    "repeats=1", "training.epochs=1", "cells.2.training.epochs=1", "cells.3.training.epochs=1",
    "encoder.width=0.1", "data.trials=3", "data.channels=peripheral",
    "training.batch=128", "training.threads=1", "training.device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def deap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trials of three people, some of them high and some low in both ratings."""
    return simulate_deap(tmp_path_factory.mktemp("deap") / "files", people=3, trials=3, seed=1)


def test_deap_runs_shrunk_and_shows_what_the_split_gives_away(tmp_path: Path, deap: Path) -> None:
    outcome = run_study(recipe("deap", *SHRUNK_DEAP), tmp_path / "out", Watcher(), data=deap)
    assert (outcome.done, outcome.failed) == (2 * 7, 0)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    names = {cell["id"]: cell["name"] for cell in summary["cells"]}
    found = {(names.get(row["cell"], "alone"), row["task"]) for row in summary["leakage"]}
    assert found == {(row, task) for row in ["alone", *ROWS_4_2] for task in ("valence", "arousal")}
    assert any("draws overlapping windows at random" in warning for warning in summary["warnings"])
    # The table's values are those of the two runs of a cell.
    with ResultsStore(tmp_path / "out" / "results.sqlite", read_only=True) as store:
        values = {
            (record.cell, value.task): value.value
            for record in store.records()
            for value in record.metrics
            if (value.part, value.metric) == ("test", "accuracy")
        }
    for row in summary["leakage"]:
        cell = row["cell"] or "single_task"
        assert row["straddling"] == values[cell, row["task"]]
        assert row["apart"] == values[cell + SUFFIX, row["task"]]
    # Companions give neither verdicts nor curves.
    assert not [row for row in (*summary["gains"], *summary["curves"]) if SUFFIX in row["cell"]]
    page = render_report(tmp_path / "out").read_text()
    assert "What the split gives away" in page
    assert "none straddles" in page


@pytest.mark.parametrize(
    ("split", "repeats"),
    [
        ("{by: trial, test: 0.33, validation: 0.33}", 1),
        ("{by: person, folds: 3, validation: 0.34}", 3),  # as many folds as people: one left out at a time
        ("{by: within_person, test: 0.33, validation: 0.33}", 1),
    ],
)
def test_deap_splits_that_keep_something_apart(tmp_path: Path, deap: Path, split: str, repeats: int) -> None:
    study = recipe("deap", *SHRUNK_DEAP, f"split={split}", f"repeats={repeats}",
                   "tasks.valence={kind: regression}", "tasks.arousal={kind: regression}")  # fmt: skip
    plan = plan_study(study, tmp_path / "out", data=deap)
    assert not any(spec.companion for spec in plan.specs)
    sides = set()
    for repeat in range(repeats):
        splits = next(spec for spec in plan.specs if spec.repeat == repeat).data.load()
        kept = study.config.split["by"].replace("within_person", "recording")
        groups = [
            {parts.group_index(kept)[1][index] for index in set(parts.group_index(kept)[0].tolist())}  # type: ignore[attr-defined]
            for parts in (splits.train, splits.validation, splits.test)
        ]
        assert sum(map(len, groups)) == len(set.union(*groups))
        sides |= {frozenset(groups[2])}
    assert len(sides) == repeats  # every fold tests somebody else


class TestOwnNetwork:
    def test_a_cell_keeps_what_it_does_not_change(self) -> None:
        study = recipe("opportunity", "encoder.width=0.5")
        (cell,) = [cell for cell in expand_cells(study) if cell.name.endswith("WOSD")]
        assert cell.encoder == {"name": "opportunity_cnn", "dropout": 0, "width": 0.5, "dense": []}
        other = recipe("opportunity", "cells.2.encoder={name: mlp, hidden: [3]}")
        (cell,) = [cell for cell in expand_cells(other) if cell.name.endswith("WOSD")]
        assert cell.encoder == {"name": "mlp", "hidden": [3]}

    def test_one_that_says_what_the_study_says_has_the_same_identity(self) -> None:
        usual = recipe("deap", "cells.4.head={hidden: [56]}", "cells.4.encoder={name: deap_cnn}")
        assert [cell.id for cell in expand_cells(usual)] == [cell.id for cell in expand_cells(recipe("deap"))]

    @pytest.mark.parametrize(
        ("override", "sentence"),
        [
            (
                "cells.0.encoder={widht: 1}",
                r"cells\[0\].encoder.widht is not a setting. Did you mean `width`?",
            ),
            ("cells.0.encoder={name: opportunity_cn}", r"cells\[0\].encoder.name: `opportunity_cn` is not a"),
            ("cells.0.head={hiden: [3]}", r"cells\[0\].head.hiden is not a setting. Did you mean `hidden`?"),
            ("cells.0.head=3", r"cells\[0\].head: settings by name expected"),
            ("cells.0.head={hidden: [3], dropout: 2}", r"cells\[0\].head.dropout"),
        ],
    )
    def test_mistakes_have_their_place(self, override: str, sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            expand_cells(recipe("opportunity", override))

    def test_one_dropout_rate_for_each_layer(self) -> None:
        with pytest.raises(ConfigError, match="one for each of the 2 expected, found 3"):
            HeadSpec(hidden=(4, 4), dropout=(0.1, 0.2, 0.3))
        assert HeadSpec(hidden=(4, 4), dropout=0.1).dropout_rates == (0.1, 0.1)
        assert math.isclose(HeadSpec(hidden=(4,), dropout=(0.5,)).dropout_rates[0], 0.5)
