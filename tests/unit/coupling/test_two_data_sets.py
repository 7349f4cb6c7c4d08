"""Two data sets without a common annotation, of unequal size: what coupling must bring, in every draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from _coupled_study import ANIMALS, PARTS, TABLE
from taskloom import encoders, sharing
from taskloom.coupling import CoAnnotation, Coupling, Matching, Relatedness
from taskloom.data.batch import DataSplits
from taskloom.data.sources import load
from taskloom.training import fit

NUM_NAMED, NUM_PARTS = 24, 96
"""One to four, as RAF-DB (15,000 images) to EmotioNet (50,000) in paper 003."""

FEATURES = [f"x{number}" for number in range(8)]
TASKS: dict[str, Any] = {
    "animal": {"kind": "multiclass", "classes": list(ANIMALS)},
    "has": {"kind": "multilabel", "labels": list(PARTS)},
}
RIGHT = Relatedness(ANIMALS, PARTS, TABLE)
WRONG = Relatedness(ANIMALS, PARTS, TABLE[[1, 2, 3, 0]])


def draw_sets(folder: Path, seed: int) -> tuple[DataSplits, torch.Tensor, np.ndarray]:
    """The joined sets; inputs and animals of 2,000 further rows, whose labels nobody sees in training."""
    draw = np.random.default_rng(seed)
    means = draw.normal(size=(len(ANIMALS), len(FEATURES)))

    def rows(count: int) -> tuple[pd.DataFrame, np.ndarray]:
        codes = draw.integers(0, len(ANIMALS), count)
        noise = 1.4 * draw.normal(size=(count, len(FEATURES)))
        return pd.DataFrame(means[codes] + noise, columns=FEATURES), codes

    for name, count in (("named", NUM_NAMED), ("parts", NUM_PARTS)):
        table, codes = rows(count + 60)
        table["part"] = ["train"] * count + ["validation"] * 30 + ["test"] * 30
        if name == "named":
            table["animal"] = np.array(ANIMALS)[codes]
        else:
            table[list(PARTS)] = TABLE[codes].astype(int)
        table.to_csv(folder / f"{name}.csv", index=False)
    sets = {
        "named": {"table": "named.csv", "features": FEATURES, "standardize": False, "tasks": ["animal"]},
        "parts": {"table": "parts.csv", "features": FEATURES, "standardize": False, "tasks": ["has"]},
    }
    split = {"by": "column", "column": "part"}
    splits = load("combined", {"combined": sets}, TASKS, split, folder=folder, stores=folder)
    table, codes = rows(2000)
    return splits, torch.tensor(table.to_numpy(), dtype=torch.float32), codes


def score(
    splits: DataSplits, unseen: torch.Tensor, codes: np.ndarray, table: Relatedness | None
) -> np.ndarray:
    """Shares of animals and of parts that a network gets right."""
    torch.manual_seed(0)
    network = sharing.hard_sharing(encoders.mlp((8,), hidden=[16]), splits.train.tasks, stages=1)
    coupling = None
    if table is not None:
        coupling = Coupling(
            table,
            classes="animal",
            attributes="has",
            matching=Matching(two_sided=True, direction="distillation", stop_gradient="attributes"),
            co_annotation=CoAnnotation(direction="distillation", label_temperature=0.1),
        )
    settings: dict[str, Any] = {
        "batch": 32,
        "optimizer": {"adam": {"lr": 0.01}},
        "device": "cpu",
        "threads": 1,
    }
    fit(network, splits.train, splits.validation, epochs=20, coupling=coupling, **settings)
    network.eval()
    with torch.no_grad():
        outputs = network(unseen)
    order = splits.train.tasks["animal"].class_names
    named = np.array(order)[outputs["animal"].argmax(dim=1).numpy()] == np.array(ANIMALS)[codes]
    labels = splits.train.tasks["has"].class_names
    has = (outputs["has"] > 0).numpy() == (TABLE[codes][:, [PARTS.index(name) for name in labels]] > 0)
    return np.array([named.mean(), has.mean()])


def test_coupling_beats_none_on_both_tasks_and_a_wrong_table_hurts(tmp_path: Path) -> None:
    gains, harms = [], []
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        drawn = draw_sets(folder, seed)
        present = drawn[0].train.labels.present
        both = present["animal"] & present["has"].any(dim=1)
        assert (int(present["animal"].sum()), int(both.sum())) == (NUM_NAMED, 0)
        plain = score(*drawn, None)
        gains.append(score(*drawn, RIGHT) - plain)
        harms.append(score(*drawn, WRONG) - plain)
    gained, harmed = np.array(gains), np.array(harms)
    assert (gained[:, 0] > 0.01).all()
    assert (gained[:, 1] > -0.005).all()
    assert (gained > 0).all(
        axis=1
    ).sum() >= 3  # draws in which both tasks gain; in the fourth parts lose 0.003
    assert gained[:, 0].mean() > 0.05
    assert gained[:, 1].mean() > 0.004
    assert (harmed[:, 0] < -0.1).all()
    assert (harmed < gained).all()
