"""Sets of tasks and groupings as cells; the 80 configurations of thesis 000 in two lines."""

from __future__ import annotations

import pytest

from taskloom.errors import ConfigError
from taskloom.study.cells import Cell, expand_cells
from taskloom.study.config import check_study
from taskloom.study.groupings import groupings, subsets
from taskloom.study.yaml_lines import parse_document

HEAD = """\
data: {table: a.csv}
tasks:
  age: {kind: regression}
  sex: {kind: binary}
  race: {kind: binary}
encoder: {name: vgg5}
training: {epochs: 3, batch: 8}
cells:
"""
THESIS_000 = """\
  - hard_sharing: {stages: [1, 2, 3, 4, 5], from: [input, output]}
    tasks: subsets
  - cross_stitch: {units: [1, 2, 3, 4, 5], from: [input, output], start: uniform}
    tasks: subsets
    warm_start: {previous: units}
"""


def expand(cells: str) -> list[Cell]:
    return expand_cells(check_study(parse_document(HEAD + cells, "a.yaml")))


@pytest.mark.parametrize("number", range(2, 7))
def test_as_many_groupings_and_subsets_as_combinatorics_says(number: int) -> None:
    tasks = [f"t{index}" for index in range(number)]
    bell = {2: 2, 3: 5, 4: 15, 5: 52, 6: 203}
    found = groupings(tasks)
    assert len(found) == bell[number] - 1
    as_sets = {frozenset(map(frozenset, partition)) for partition in found}
    assert len(as_sets) == len(found)
    assert all(sorted(task for group in partition for task in group) == tasks for partition in found)
    assert len(set(subsets(tasks))) == 2**number - number - 1


def test_thesis_000_is_two_lines() -> None:
    cells = expand(THESIS_000)
    assert [
        sum(cell.architecture == name for cell in cells) for name in ("hard_sharing", "cross_stitch")
    ] == [
        40,
        40,
    ]
    assert len({cell.id for cell in cells}) == len({cell.name for cell in cells}) == 80
    pairs = [("age", "sex"), ("age", "race"), ("sex", "race"), ("age", "sex", "race")]
    assert list(dict.fromkeys(cell.tasks for cell in cells)) == pairs
    assert "hard sharing 3 from output on age, race" in [cell.name for cell in cells]


def test_chains_of_thesis_000_begin_alone_and_add_a_unit_at_a_time() -> None:
    for cell in expand(THESIS_000)[40:]:
        units = cell.settings["units"]
        if units == 1:
            assert [start.tasks for start in cell.warm_start] == [(task,) for task in cell.tasks]
            assert {start.architecture for start in cell.warm_start} == {"single_task"}
        else:
            (before,) = cell.warm_start
            assert before.settings == {**cell.settings, "units": units - 1}
            assert before.tasks == cell.tasks


def test_groups_all_is_a_cell_per_grouping_of_the_entrys_tasks() -> None:
    cells = expand("  - hard_sharing: {stages: 2, groups: all}\n")
    assert [cell.settings["groups"] for cell in cells] == groupings(["age", "sex", "race"])
    assert [cell.name for cell in cells][:2] == [
        "hard sharing 2 of age+sex+race",
        "hard sharing 2 of age+sex race",
    ]
    two = expand("  - hard_sharing: {stages: [1, 2], groups: all}\n    tasks: [age, sex]\n")
    assert [cell.settings["groups"] for cell in two] == [[["age", "sex"]]] * 2


def test_sets_of_tasks_multiply() -> None:
    cells = expand("  - hard_sharing: {stages: [1, 2]}\n    tasks: [[sex, age], [age, race]]\n")
    assert [(cell.tasks, cell.settings["stages"]) for cell in cells] == [
        (("age", "sex"), 1),
        (("age", "sex"), 2),
        (("age", "race"), 1),
        (("age", "race"), 2),
    ]


def test_a_tree_is_one_cell_and_a_list_of_trees_multiplies() -> None:
    tree = "[together, [[age, sex], [race]], alone, alone, alone]"
    (one,) = expand(f"  - plan: {{partition: {tree}}}\n")
    assert one.settings["partition"][1] == [["age", "sex"], ["race"]]
    other = "[together, [[age, race], [sex]], alone, alone, alone]"
    assert len(expand(f"  - plan: {{partition: [{tree}, {other}]}}\n")) == 2
    by_name = expand("  - plan: {partition: [{1: together}, {1: together, 2: together}], joined: true}\n")
    assert [len(cell.settings["partition"]) for cell in by_name] == [1, 2]
    weights = expand("  - soft_sharing: {weight: [{1: 0.1}, 0.2, {2: 0.1}]}\n")
    assert [cell.settings["weight"] for cell in weights] == [{"1": 0.1}, 0.2, {"2": 0.1}]


def test_a_start_belongs_to_a_cells_identity_with_its_whole_chain() -> None:
    def ids(text: str) -> list[str]:
        return [cell.id for cell in expand(text)]

    plain = "  - cross_stitch: {units: [1, 2, 3]}\n"
    chain, star = ids(plain + "    warm_start: previous\n"), ids(plain + "    warm_start: single_task\n")
    assert chain[0] == star[0]  # both start from the single-task networks
    assert len({*ids(plain), *chain, *star}) == 3 + 3 + 2
    longer = ids("  - cross_stitch: {units: [0, 1, 2, 3]}\n    warm_start: previous\n")
    assert not set(chain) & set(longer)  # another first link makes another chain


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (
            "  - hard_sharing: {stages: 1}\n    tasks: subset\n",
            "a.yaml:10: cells[0].tasks: a list of task names",
        ),
        (
            "  - hard_sharing: {stages: 1}\n    tasks: [[age, sex], [sxe]]\n",
            "cells[0].tasks[1]: `sxe` is not",
        ),
        ("  - hard_sharing: {stages: 1}\n    tasks: [[age, sex], [sex, age]]\n", "stand here twice"),
        (
            "  - hard_sharing: {stages: 1}\n    tasks: [age, sex, age]\n",
            "cells[0].tasks: `age` stands here 2 times",
        ),
        (
            "  - hard_sharing: {stages: 1}\n    tasks: [[age, sex], age]\n",
            "cells[0].tasks[1]: a list of task",
        ),
        ("  - hard_sharing: {stages: 1, groups: all}\n    tasks: [age]\n", "all needs 2 to 6 tasks, found 1"),
        (
            "  - cross_stitch:\n    warm_start: alone\n",
            "a.yaml:10: cells[0].warm_start: single_task, previous",
        ),
        ("  - cross_stitch:\n    warm_start: single_tsk\n", "Did you mean `single_task`?"),
        ("  - cross_stitch:\n    warm_start: previous\n", "previous needs a setting with a list of values"),
        (
            "  - cross_stitch: {units: [1, 2], per: [layer, channel]}\n    warm_start: previous\n",
            "several settings have lists (units, per); say along which",
        ),
        (
            "  - cross_stitch: {units: [1, 2]}\n    warm_start: {previous: unit}\n",
            "found 'unit'. Did you mean `units`? Settings with one: units.",
        ),
    ],
)
def test_mistakes_are_located(cells: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(cells)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
