"""Paper 003 on made-up data: its settings as one study, and two data sets that share no row and no label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from _coupled_study import PARTS, TEXT, read, write_animals
from _small_study import Watcher
from taskloom.coupling import expression_action_units
from taskloom.data.simulate.expressions import simulate_expressions
from taskloom.errors import ConfigError
from taskloom.study.cells import expand_cells
from taskloom.study.config import load_study
from taskloom.study.results import ResultsStore
from taskloom.study.runner import run_study

RECIPE = Path(__file__).parents[3] / "recipes" / "paper_003_settings.yaml"


def simulate(folder: Path, **sizes: int) -> Path:
    table = expression_action_units()
    return simulate_expressions(folder, table.classes, table.attributes, table.values, **sizes)


def test_the_papers_settings_are_one_study(tmp_path: Path) -> None:
    folder = simulate(tmp_path / "data", num_expressions=120, num_units=240, num_both=150)
    study = load_study(RECIPE, ["repeats=1", "training.epochs=1", "training.device=cpu"])
    whole = {cell.name.partition(" ")[0]: cell for cell in expand_cells(load_study(RECIPE))}
    others, adashare = whole["NC"].training.epochs, whole["adashare"]
    assert adashare.training.epochs == 2 * others  # after its policies, weights learn as long as everybody's
    assert adashare.settings["retrain_from"] == others + 1
    assert study.split_of(11) == ({"by": "rows", "folds": 2, "validation": 0.1, "fold": 1}, 5)
    outcome = run_study(study, tmp_path / "out", Watcher(), data=folder)
    assert (outcome.done, outcome.failed) == (12, 0)
    names = [cell["name"].partition(" + ")[0] for cell in outcome.summary["cells"]]
    assert names[:2] == ["NC MT", "S-T NC MT"]
    assert [name for name in names if name.startswith("C MT")] == [
        "C MT (DM)",
        "C MT (DM), matching alone",
        "C MT (DM), co-annotation alone",
        "C MT (DB)",
    ]
    rows = {row["source"] for row in outcome.summary["couplings"]}
    assert rows == {"expression_action_units", "both.csv"}
    with ResultsStore(tmp_path / "out" / "results.sqlite", read_only=True) as store:
        records = {record.cell_name: record for record in store.records()}
    taught = records["S-T NC MT"].details["teachers"]["soft_labels"]
    train = 0.8 * np.array([60, 120])  # validation is a tenth of all rows
    assert taught == {
        "expression": pytest.approx(train[1], abs=1),
        "units": pytest.approx(17 * train[0], abs=17),
    }
    (retrained,) = (record for name, record in records.items() if name.startswith("adashare"))
    assert f"before epoch {others + 1}: policies are fixed, weights start anew" in str(
        retrained.history["notes"]
    )
    assert retrained.best_epoch is not None
    assert retrained.best_epoch > others
    found = {(value.task, value.metric) for value in records["NC MT"].metrics}
    assert {("units", "afa"), ("units", "f1_macro"), ("expression", "balanced_accuracy")} <= found


def test_simulated_annotations_are_related_as_the_table_says(tmp_path: Path) -> None:
    folder = simulate(tmp_path / "data", num_both=6000)
    table = expression_action_units()
    both = pd.read_csv(folder / "both.csv")
    shares = both.groupby("expression")[list(table.attributes)].mean().loc[list(table.classes)]
    assert np.abs(shares.to_numpy() - np.maximum(table.values, 0.03)).max() < 0.06
    assert "AU1" not in pd.read_csv(folder / "expressions.csv")
    assert "expression" not in pd.read_csv(folder / "units.csv")
    assert len(pd.read_csv(folder / "units.csv")) == 4 * len(pd.read_csv(folder / "expressions.csv"))


@pytest.mark.parametrize("sizes", [{"num_units": 3}, {"num_both": 0}])
def test_simulation_needs_rows(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"at least 6 rows of .* expected"):
        simulate(tmp_path / "data", **sizes)


def test_coupling_beats_none_on_both_tasks_of_two_data_sets(tmp_path: Path) -> None:
    """No row has both annotations, in no part; few animals are named, many parts are known."""
    table = pd.read_csv(write_animals(tmp_path) / "animals.csv")
    named = table["animal"].notna() & ((table["part"] == "train") | (table.index % 2 == 0))
    table[named].drop(columns=list(PARTS)).to_csv(tmp_path / "named.csv", index=False)
    table[~named].drop(columns="animal").to_csv(tmp_path / "parts.csv", index=False)
    features = "features: [a, b, c, d, e, f, g, h]"
    text = TEXT.replace(
        "data: {table: animals.csv}",
        "data:\n  combined:\n"
        f"    named: {{table: named.csv, {features}, tasks: [animal]}}\n"
        f"    parts: {{table: parts.csv, {features}, tasks: [{', '.join(PARTS)}]}}",
    )
    summary = run_study(read("repeats=1", text=text), tmp_path / "out", Watcher(), data=tmp_path).summary
    labels = {row["task"]: row["train"] for row in summary["labels"]}
    assert (labels["animal"], labels["fur"]) == (24, 276)
    (row,) = summary["couplings"]
    by_task = {task["name"]: task for task in row["tasks"]}
    assert by_task["animal"]["with"] > by_task["animal"]["without"] + 0.05
    assert np.mean([by_task[name]["gain"] for name in PARTS]) > 0
    shares = {who: found["share"] for who, found in row["consistency"].items()}
    assert shares["with"] < shares["without"]
    notes = " ".join(summary["data_notes"])
    assert "named: 24 train" in notes
    assert "parts: 276 train" in notes
