"""What the choice on validation owes to luck: seeds flatter its gain, by the other repeats they do not."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from _small_study import TEXT, run, write_table
from taskloom.report import render_report
from taskloom.study.choice import gain_by_others
from taskloom.study.statistics import choose_on_validation


@pytest.mark.parametrize("metric", ["mse", "accuracy"])
def test_a_choice_of_the_other_repeats_is_not_flattered_by_seeds(metric: str) -> None:
    # Ten cells that are alike; a lucky seed is lucky on validation and test. True gain: 0.
    generator, flattered, by_others = np.random.default_rng(0), [], []
    sign = 1 if metric == "accuracy" else -1
    for _ in range(1500):
        luck = generator.normal(size=(10, 4))
        test, validation = (
            {str(c): dict(enumerate(sign * (luck[c] + 0.3 * generator.normal(size=4)))) for c in range(10)}
            for _ in range(2)
        )
        alone = dict(enumerate(generator.normal(size=4)))
        best = choose_on_validation({"t": validation}, {"t": metric})["t"]
        flattered.append(sign * np.mean([test[best][r] - alone[r] for r in range(4)]))
        by_others.append(gain_by_others(metric, alone, test, validation))
    assert np.mean(flattered) > 0.6
    assert abs(np.mean(by_others)) < 3 * np.std(by_others) / math.sqrt(1500)


def test_repeats_that_somebody_lacks_and_few_cells_are_left_out() -> None:
    alone = {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}
    cells = {"a": {0: 2.0, 1: 2.0, 2: 2.0, 3: 9.0}, "b": {0: 1.0, 1: 1.0, 2: 1.0, 3: math.nan}}
    assert gain_by_others("accuracy", alone, cells, cells) == 1.0  # without repeat 3
    assert math.isnan(gain_by_others("accuracy", alone, {"a": cells["a"]}, {"a": cells["a"]}))
    two = {name: {r: values[r] for r in (0, 1)} for name, values in cells.items()}
    assert math.isnan(gain_by_others("accuracy", alone, two, two))


def test_the_report_says_it_of_the_chosen_cell(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_table(tmp_path_factory.mktemp("people"))
    outcome = run(folder, text=TEXT.replace("repeats: 2", "repeats: 3"))
    rows = pd.read_parquet(outcome.folder / "results.parquet")
    rows = (
        rows[(rows.task == "age") & (rows.metric == "mae")].set_index(["part", "cell_name", "repeat"]).value
    )
    cells = [cell["name"] for cell in outcome.summary["cells"]]
    gains = []
    for repeat in range(3):
        others = [other for other in range(3) if other != repeat]
        best = min(cells, key=lambda cell: rows["validation"][cell][others].mean())
        gains.append(rows["test", "age alone", repeat] - rows["test", best, repeat])
    chosen = {task["name"]: task["chosen_cell"] for task in outcome.summary["tasks"]}
    told = {gain["cell"]: gain["surer"] for gain in outcome.summary["gains"] if gain["task"] == "age"}
    text = f"{'+' if np.mean(gains) > 0 else '−'}{abs(np.mean(gains)):.1f}"[:3]
    assert "Chosen among 2 cells anew for every repeat" in told.pop(chosen["age"])
    assert f"the gain is {text}" in render_report(outcome.folder).read_text(encoding="utf-8")
    assert not any("Chosen among" in other for other in told.values())
