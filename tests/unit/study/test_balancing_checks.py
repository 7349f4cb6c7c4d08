"""What balancing cannot do with a network or with callbacks shows before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from _small_study import TEXT, Watcher, run, write_table
from taskloom.errors import ConfigError

HEAD = TEXT[: TEXT.index("cells:")]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (
            "  - cross_stitch:\n    balancing: mgda_ub\n",
            "people.yaml:11: cells[0]: balancing.mgda_ub works at the shared feature, but this network has "
            "no feature that all tasks read; use `mgda`, or an architecture with one trunk",
        ),
        (
            "  - soft_sharing: {tie: l2, weight: 0.1}\n    balancing: {pcgrad: {at: features}}\n",
            "people.yaml:11: cells[0]: balancing.pcgrad works at the shared feature, but this network has "
            "no feature that all tasks read; use `at: parameters`, or",
        ),
        (
            "  - soft_sharing: {tie: l2, weight: 0.1}\n    balancing: gradnorm\n",
            "people.yaml:11: cells[0]: balancing.gradnorm: this network has no weights",
        ),
        (
            "  - hard_sharing: {stages: 1}\n    balancing: krum\n",
            "people.yaml:11: cells[0]: balancing.krum: at least 3 tasks expected with these settings",
        ),
        (
            "  - hard_sharing: {stages: 1}\n    balancing: pcd\n    callbacks: [task_stopping]\n",
            "balancing.pcd needs 2 of the 2 tasks in every batch, but callbacks.task_stopping may stop all "
            "but 1 of them; name fewer in its `tasks`",
        ),
        (
            "  - hard_sharing: {stages: 1}\n    balancing: {weighted_sum: {weights: {aeg: 2}}}\n",
            "people.yaml:11: cells[0]: balancing.weighted_sum.weights.aeg: there is no such task. Did you",
        ),
    ],
)
def test_refused_before_training(tmp_path: Path, cell: str, expected: str) -> None:
    watcher = Watcher()
    with pytest.raises(ConfigError) as caught:
        run(write_table(tmp_path), text=f"{HEAD}cells:\n{cell}", progress=watcher)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert watcher.begun == []


def test_gradients_that_have_nothing_in_common_are_told(tmp_path: Path) -> None:
    """Tasks of soft sharing read no common parameter: an aggregation is a plain sum there, and says so."""
    cells = (
        "cells:\n"
        "  - soft_sharing: {tie: l2, weight: 0.1}\n    balancing: [pcgrad, uncertainty]\n"
        "  - cross_stitch:\n    balancing: pcgrad\n"
    )
    run(write_table(tmp_path), "training.epochs=1", "repeats=1", text=f"{HEAD}{cells}")
    warnings = json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"]
    told = [text for text in warnings if "no two tasks read the same parameter" in text]
    assert len(told) == 1
    assert told[0].startswith("l2 0.1 + pcgrad: ")
    assert "balancing.pcgrad has no gradients to aggregate" in told[0]
