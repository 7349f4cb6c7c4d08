"""Lists beside the architecture: balancings and callbacks multiply, are named, and mistakes are located."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from taskloom.errors import ConfigError, MissingExtraError
from taskloom.study.cells import Cell, expand_cells
from taskloom.study.config import check_study
from taskloom.study.yaml_lines import parse_document

HEAD = """\
data: {table: a.csv}
tasks:
  age: {kind: regression}
  sex: {kind: binary}
  smile: {kind: binary}
encoder: {name: mlp, hidden: [8, 4, 4]}
cells:
  - hard_sharing: {stages: 1}
"""


def expand(beside: str, head: str = HEAD) -> list[Cell]:
    lines = "".join(f"    {line}\n" for line in beside.splitlines())
    return expand_cells(check_study(parse_document(head + lines, "a.yaml")))


def test_listed_settings_of_a_balancing_are_cells_of_their_own() -> None:
    cells = expand("balancing: {learned_weights: {lambda: [0.001, 0.01, 0.1, 1]}}")
    assert [cell.balancing for cell in cells] == [
        {"learned_weights": {"lambda": value}} for value in (0.001, 0.01, 0.1, 1)
    ]
    assert [cell.name for cell in cells] == [
        f"hard sharing 1 + learned weights lambda {value}" for value in ("0.001", "0.01", "0.1", "1")
    ]
    assert len({cell.id for cell in cells}) == 4
    # A cell is the same whether it stood in a list or alone.
    (alone,) = expand("balancing: {learned_weights: {lambda: 0.01}}")
    assert alone.id == cells[1].id
    assert alone.name == "hard sharing 1 + learned weights"


def test_a_list_of_names_is_a_list_of_cells() -> None:
    cells = expand("balancing: [pcgrad, mgda, {cagrad: {c: [0.2, 0.5]}}]\nname: mine")
    assert [cell.balancing for cell in cells] == [
        {"pcgrad": {}},
        {"mgda": {}},
        {"cagrad": {"c": 0.2}},
        {"cagrad": {"c": 0.5}},
    ]
    assert [cell.name for cell in cells] == [
        "mine pcgrad",
        "mine mgda",
        "mine cagrad c 0.2",
        "mine cagrad c 0.5",
    ]


@pytest.mark.parametrize(
    ("balancing", "expected"),
    [
        ("{curriculum: {order: [age, [sex, smile]]}}", [["age", ["sex", "smile"]]]),
        ("{curriculum: {order: [smile, sex, age]}}", [["smile", "sex", "age"]]),
        (
            "{curriculum: {order: [[[age], [sex, smile]], [[smile, sex], [age]]]}}",
            [[["age"], ["sex", "smile"]], [["smile", "sex"], ["age"]]],
        ),
        ("{curriculum: {every: [1, 2]}}", [1, 2]),
        ("{stch: {weights: {age: 1, sex: 2, smile: 1}}}", [{"age": 1, "sex": 2, "smile": 1}]),
    ],
)
def test_what_is_a_list_by_nature_stays_one_value(balancing: str, expected: list[Any]) -> None:
    found = []
    for cell in expand(f"balancing: {balancing}"):
        assert cell.balancing is not None
        ((settings),) = cell.balancing.values()
        found += settings.values()
    assert found == expected


def test_listed_settings_of_callbacks_multiply_with_all_else() -> None:
    cells = expand(
        "balancing: [mean, uncertainty]\ncallbacks: [{early_freeze: {patience: [3, 5], tasks: [age, sex]}}]"
    )
    assert [(cell.balancing, cell.callbacks) for cell in cells] == [
        ({name: {}}, ({"early_freeze": {"patience": patience, "tasks": ["age", "sex"]}},))
        for name in ("mean", "uncertainty")
        for patience in (3, 5)
    ]
    assert cells[1].name == "hard sharing 1 + mean + early freeze patience 5"
    two = expand("callbacks: [{task_stopping: {tasks: [[age], [sex, smile]]}}]")
    assert [cell.callbacks[0]["task_stopping"]["tasks"] for cell in two] == [["age"], ["sex", "smile"]]
    assert len({cell.name for cell in two}) == 2


def test_criteria_of_task_stopping_as_cells() -> None:
    cells = expand("callbacks: [{task_stopping: {criterion: [patience, trend]}}]")
    assert [cell.name for cell in cells] == [
        "hard sharing 1 + task stopping criterion patience",
        "hard sharing 1 + task stopping criterion trend",
    ]


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        (
            "balancing: pc_grad",
            "a.yaml:9: cells[0].balancing: `pc_grad` is not a known balancer. Did you mean `pcgrad`?",
        ),
        (
            "balancing:\n  - mgda\n  - pc_grad",
            "a.yaml:11: cells[0].balancing[1]: `pc_grad` is not a known balancer.",
        ),
        (
            "balancing: {learned_weights: {lambda: -0.1}}",
            "a.yaml:9: cells[0].balancing.learned_weights.lambda: a number of 0 or more",
        ),
        ("balancing: {learned_weights: {lambda: [0.1, -1]}}", "a number of 0 or more expected, found -1."),
        (
            "balancing: {cagrad: {cc: 1}}",
            "a.yaml:9: cells[0].balancing.cagrad.cc is not a setting. Did you mean `c`?",
        ),
        (
            "balancing: {mgda: {at: heads}}",
            "cells[0].balancing.mgda.at: parameters or features expected, found 'heads'.",
        ),
        (
            "balancing: {mgda: 3}",
            "a.yaml:9: cells[0].balancing: one name with its settings expected, found {'mgda': 3}.",
        ),
        ("balancing: {a: {}, b: {}}", "cells[0].balancing: one name with its settings expected"),
        ("balancing: []", "a.yaml:9: cells[0].balancing: at least one value expected, found an empty list."),
        ("balancing: {cagrad: {c: []}}", "cells[0].balancing.cagrad.c: at least one value expected"),
        (
            "balancing: [mgda, mgda]",
            "cells[0] holds a cell (hard sharing 1 + mgda) that cells[0] already holds",
        ),
        (
            "callbacks: [{early_freeze: {patience: 0}}]",
            "a.yaml:9: cells[0].callbacks[0].early_freeze.patience: a number of epochs from 1 expected",
        ),
        (
            "callbacks: [{early_freeze: {patience: [5, 0]}}]",
            "patience: a number of epochs from 1 expected, found 0.",
        ),
        ("callbacks: [{early_freeze: {patience: []}}]", "early_freeze.patience: at least one value expected"),
        ("callbacks: [{early_freeze: {tasks: [smle]}}]", "there is no task `smle`. Did you mean `smile`?"),
        (
            "callbacks: [{task_stopping: {criterion: tend}}]",
            "criterion: patience or trend expected, found 'tend'.",
        ),
    ],
)
def test_mistakes_are_located(beside: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(beside)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("a.yaml:")
    assert "\n" not in str(caught.value)


def test_a_method_whose_extra_is_missing_names_the_pip_line() -> None:
    if importlib.util.find_spec("quadprog"):
        pytest.skip("quadprog is installed")
    with pytest.raises(
        MissingExtraError,
        match=r"^a\.yaml:10: cells\[0\]\.balancing\[1\]\.upgrad: quadprog is not installed; it comes with "
        r"an extra: pip install 'taskloom\[balancing\]'\.$",
    ):
        expand("balancing: [mgda,\n  {upgrad: {solver: torchjd}}]")
