"""Cells: lists multiply, names are unique, ids are stable, mistakes are located."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from taskloom.errors import ConfigError
from taskloom.study.cells import Cell, baselines, expand_cells
from taskloom.study.config import Study, check_study
from taskloom.study.multiply import depth_of_type
from taskloom.study.overrides import apply_overrides
from taskloom.study.yaml_lines import parse_document

HEAD = """\
data: {table: a.csv}
tasks:
  age: {kind: regression}
  sex: {kind: binary}
  smile: {kind: binary}
encoder: {name: mlp, hidden: [8, 4, 4]}
training: {epochs: 3, batch: 8}
cells:
"""
ENTRY = "  - hard_sharing: {stages: 1}\n"


def study(cells: str, *overrides: str) -> Study:
    return check_study(apply_overrides(parse_document(HEAD + cells, "a.yaml"), overrides))


def expand(cells: str) -> list[Cell]:
    return expand_cells(study(cells))


def message(cells: str) -> str:
    with pytest.raises(ConfigError) as caught:
        expand(cells)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lists_multiply_as_nested_loops_do() -> None:
    cells = expand("  - hard_sharing: {stages: [1, 2, 3], from: [input, output]}\n")
    expected = list(itertools.product([1, 2, 3], ["input", "output"]))
    assert [tuple(cell.settings.values()) for cell in cells] == expected
    assert [cell.name for cell in cells] == [f"hard sharing {k} from {end}" for k, end in expected]


def test_a_list_by_nature_stays_one_value_and_a_list_of_lists_multiplies() -> None:
    (one,) = expand("  - cross_stitch: {after: [1, 3]}\n")
    assert one.settings["after"] == [1, 3]
    two = expand("  - cross_stitch: {after: [[1, 3], [2]]}\n")
    assert [cell.settings["after"] for cell in two] == [[1, 3], [2]]


@pytest.mark.parametrize(
    ("annotation", "depth"),
    [
        (int, 0),
        (str, 0),
        (Literal["a", "b"], 0),
        (dict[str, list[int]], 0),
        (float | dict[str, float], 0),
        (Any, 0),
        (list[int], 1),
        (Sequence[str | int] | Literal["all"], 1),
        (tuple[int, ...] | None, 1),
        (Sequence[Sequence[str]] | None, 2),
    ],
)
def test_what_is_a_list_by_nature_follows_from_the_annotation(annotation: Any, depth: int) -> None:
    assert depth_of_type(annotation) == depth


def test_groups_are_lists_of_lists_by_nature() -> None:
    (one,) = expand("  - hard_sharing: {stages: 1, groups: [[age, sex], [smile]]}\n")
    assert one.settings["groups"] == [["age", "sex"], ["smile"]]
    two = expand("  - hard_sharing: {stages: 1, groups: [[[age, sex], [smile]], [[age], [sex, smile]]]}\n")
    assert [cell.settings["groups"][0] for cell in two] == [["age", "sex"], ["age"]]
    assert len({cell.name for cell in two}) == 2


def test_settings_go_by_the_names_of_study_files() -> None:
    (cell,) = expand("  - hard_sharing: {stages: 1, from: output, copies: same}\n")
    assert cell.settings == {"stages": 1, "from": "output", "copies": "same"}
    assert "cells[0].hard_sharing.start is not a setting" in message(
        "  - hard_sharing: {stages: 1, start: input}\n"
    )


def test_a_bare_architecture_takes_its_defaults() -> None:
    (cell,) = expand("  - cross_stitch:\n")
    assert cell.settings == {}
    assert cell.name == "cross-stitch"


def test_names_say_what_differs_and_are_unique() -> None:
    cells = expand(
        "  - cross_stitch: {per: [layer, channel]}\n"
        "  - soft_sharing: {tie: trace_norm, weight: [1e-4, 1e-3]}\n"
        "  - hard_sharing: {stages: 2}\n"
        "  - hard_sharing: {stages: 2}\n"
        "    tasks: [age, sex]\n"
        "  - hard_sharing: {stages: 2}\n"
        "    balancing: {weighted_sum: {weights: {age: 2}}}\n"
        "  - hard_sharing: {stages: 2}\n"
        "    training: {batch: 16}\n"
        "  - hard_sharing: {stages: [1, 3]}\n"
        "    name: mine\n"
    )
    names = [cell.name for cell in cells]
    assert names[:4] == [
        "cross-stitch per layer",
        "cross-stitch per channel",
        "trace norm 0.0001",
        "trace norm 0.001",
    ]
    assert "hard sharing 2 + weighted sum" in names
    assert names[-2:] == ["mine stages 1", "mine stages 3"]
    assert any("on age, sex" in name for name in names)
    assert len(set(names)) == len(names)


def test_a_cell_keeps_its_id_when_others_come_and_go_and_loses_it_with_any_setting() -> None:
    entry = "  - hard_sharing: {stages: 2}\n"
    (alone,) = expand(entry)
    among = expand("  - cross_stitch: {per: layer}\n" + entry)
    named = expand(entry + "    name: mine\n")
    assert alone.id == among[1].id == named[0].id
    others = [
        "  - hard_sharing: {stages: 1}\n",
        "  - hard_sharing: {stages: 2, from: output}\n",
        entry + "    tasks: [age, sex]\n",
        entry + "    training: {epochs: 4}\n",
        entry + "    balancing: weighted_sum\n",
    ]
    ids = {expand(other)[0].id for other in others}
    assert len(ids) == len(others)
    assert alone.id not in ids


def test_training_settings_of_a_cell_replace_those_of_the_study() -> None:
    (cell,) = expand("  - hard_sharing: {stages: 1}\n    training: {optimizer: {sgd: {lr: 0.5}}}\n")
    assert cell.training.optimizer.name == "sgd"
    assert (cell.training.epochs, cell.training.batch) == (3, 8)


def test_tasks_of_a_cell_keep_the_order_of_the_study() -> None:
    (cell,) = expand("  - hard_sharing: {stages: 1}\n    tasks: [smile, age]\n")
    assert cell.tasks == ("age", "smile")


def test_every_task_has_a_baseline_with_the_training_of_the_study() -> None:
    given = study("  - hard_sharing: {stages: 1}\n    training: {epochs: 9}\n")
    cells = baselines(given)
    assert [cell.tasks for cell in cells] == [("age",), ("sex",), ("smile",)]
    assert {cell.training.epochs for cell in cells} == {3}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (
            ENTRY + "  - hard_sharng: {stages: 1}\n",
            "a.yaml:10: cells[1].hard_sharng is neither",
        ),
        ("  - hard_sharng: {stages: 1}\n", "Did you mean `hard_sharing`?"),
        (ENTRY + "    balancng: {}\n", "a.yaml:10: cells[0].balancng is neither"),
        (
            ENTRY + "    cross_stitch: {}\n",
            "one architecture expected, found hard_sharing",
        ),
        ("  - {name: x}\n", "a.yaml:9: cells[0]: one architecture expected, found none"),
        ("  - single_task: {}\n", "a.yaml:9: cells[0].single_task: the single-task baselines are always run"),
        (
            "  - hard_sharing: {stage: 1}\n",
            "a.yaml:9: cells[0].hard_sharing.stage is not a setting. Did you mean",
        ),
        ("  - hard_sharing: {stages: []}\n", "cells[0].hard_sharing.stages: at least one value"),
        ("  - hard_sharing: {from: input}\n", "a.yaml:9: cells[0].hard_sharing.stages is missing"),
        ("  - hard_sharing: 3\n", "a.yaml:9: cells[0].hard_sharing: settings by name expected, found 3"),
        (
            ENTRY + "    tasks: [aeg]\n",
            "a.yaml:10: cells[0].tasks: `aeg` is not a task",
        ),
        (ENTRY + "    tasks: age\n", "cells[0].tasks: a list of task names expected"),
        (
            ENTRY + "    coupling: {}\n",
            "a.yaml:10: cells[0].coupling.relatedness is missing",
        ),
        (ENTRY + "    balancing: [3]\n", "a.yaml:10: cells[0].balancing[0]: one name"),
        (
            ENTRY + "    training: {epoch: 1}\n",
            "a.yaml:10: cells[0].training.epoch is not a setting. Did you mean `epochs`?",
        ),
        (
            ENTRY + "    training: {epochs: 0}\n",
            "a.yaml:10: cells[0].training.epochs should be greater",
        ),
        (
            "  - hard_sharing: {stages: [1, 2]}\n  - hard_sharing: {stages: 2}\n",
            "a.yaml:10: cells[1] holds a cell (hard sharing 2) that cells[0] already holds",
        ),
    ],
)
def test_mistakes_are_located(cells: str, expected: str) -> None:
    assert expected in message(cells)
