"""Callbacks and learning rates of a cell: built by name, part of its identity, checked before any run."""

from __future__ import annotations

import pytest

from taskloom.errors import ConfigError
from taskloom.study.cells import baselines, expand_cells
from taskloom.study.config import Study, check_study
from taskloom.study.extras import build_callbacks
from taskloom.study.yaml_lines import parse_document
from taskloom.training import CALLBACKS, EarlyFreeze, TaskStopping

HEAD = """\
data: {table: a.csv}
tasks:
  age: {kind: regression}
  sex: {kind: binary}
encoder: {name: mlp, hidden: [8, 4, 4]}
cells:
"""
ENTRY = "  - hard_sharing: {stages: 1}\n"


def study(cells: str, head: str = HEAD) -> Study:
    return check_study(parse_document(head + cells, "a.yaml"))


def test_callbacks_are_built_with_their_settings() -> None:
    text = ENTRY + "    callbacks: [{early_freeze: {patience: 3, tasks: [sex]}}]\n"
    text += "  - hard_sharing: {stages: 1}\n    callbacks: [task_stopping]\n"
    freeze, stopping = (build_callbacks(cell.callbacks) for cell in expand_cells(study(text)))
    assert isinstance(freeze[0], EarlyFreeze)
    assert freeze[0].settings() == EarlyFreeze(3, tasks=["sex"]).settings()
    assert isinstance(stopping[0], TaskStopping)
    assert stopping[0].patience == TaskStopping().patience


def test_identity_and_name() -> None:
    entries = [
        ENTRY,
        ENTRY + "    callbacks: [{early_freeze: {patience: 5}}]\n",
        ENTRY + "    callbacks: [{early_freeze: {patience: 7}}]\n",
        ENTRY + "    callbacks: [task_stopping]\n    balancing: weighted_sum\n",
    ]
    cells = expand_cells(study("".join(entries)))
    assert [cell.name for cell in cells] == [
        "hard sharing 1",
        "hard sharing stages 1 + early freeze patience 5",
        "hard sharing stages 1 + early freeze patience 7",
        "hard sharing 1 + weighted sum + task stopping",
    ]
    assert len({cell.id for cell in cells}) == 4
    assert expand_cells(study(entries[1]))[0].name == "hard sharing 1 + early freeze"
    # No callbacks is what it was before there were any.
    assert "callbacks" not in cells[0].resolved()
    assert expand_cells(study(ENTRY + "    callbacks: []\n"))[0].id == cells[0].id


def test_learning_rates_go_to_the_cells_that_have_the_task() -> None:
    head = HEAD.replace("cells:", "training: {lr_multipliers: {age: 0.1, mixing: 10}}\ncells:")
    given = study(ENTRY + "    tasks: [sex]\n  - cross_stitch: {}\n", head)
    of_sex, both = expand_cells(given)
    assert of_sex.training.lr_multipliers == {"mixing": 10.0}
    assert both.training.lr_multipliers == {"age": 0.1, "mixing": 10.0}
    assert all(cell.training.lr_multipliers == {} for cell in baselines(given))


@pytest.mark.parametrize(
    ("callbacks", "expected"),
    [
        ("[earlyfreeze]", "a.yaml:8: cells[0].callbacks[0]: `earlyfreeze` is not a known callback."),
        ("[earlyfreeze]", "Did you mean `early_freeze`? Known: early_freeze, task_stopping"),
        ("[{early_freeze: {patience: 0}}]", "callbacks[0].early_freeze.patience: a number of epochs from 1"),
        ("[{early_freeze: {patence: 3}}]", "early_freeze.patence is not a setting. Did you mean `patience`?"),
        (
            "[{early_freeze: {tasks: [aeg]}}]",
            "tasks: there is no task `aeg`. Did you mean `age`?",
        ),
        ("[early_freeze, task_stopping]", "early_freeze and task_stopping both decide when a task stops"),
        ("early_freeze", "a.yaml:8: cells[0].callbacks: a list of callbacks expected, found 'early_freeze'."),
        (
            "[{early_freeze: 3}]",
            "[0]: one name with its settings expected, found {'early_freeze': 3}",
        ),
        ("[{a: {}, b: {}}]", "one name with its settings expected"),
        ("[3]", "one name with its settings expected, found 3"),
    ],
)
def test_mistakes_are_located(callbacks: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand_cells(study(ENTRY + f"    callbacks: {callbacks}\n"))
    assert expected in str(caught.value)
    assert str(caught.value).startswith("a.yaml:8: cells[0].callbacks")


def test_a_task_of_the_study_that_the_cell_leaves_out() -> None:
    text = ENTRY + "    tasks: [age]\n    callbacks: [{early_freeze: {tasks: [sex]}}]\n"
    with pytest.raises(ConfigError, match=r"there is no task `sex`\..* Tasks: age"):
        expand_cells(study(text))


def test_a_learning_rate_of_nothing() -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml:8: cells\[0\]\.training\.lr_multipliers\.aeg is neither"):
        expand_cells(study(ENTRY + "    training: {lr_multipliers: {aeg: 2}}\n"))
    head = HEAD.replace("cells:", "training: {lr_multipliers: {aeg: 2}}\ncells:")
    with pytest.raises(ConfigError, match=r"a\.yaml:6: training\.lr_multipliers\.aeg is neither"):
        expand_cells(study(ENTRY, head))
    with pytest.raises(ConfigError, match=r"a\.yaml:6: training\.lr_multipliers\.aeg is neither"):
        baselines(study(ENTRY, head))


def test_every_callback_that_may_be_named_has_defaults_and_keeps_the_contract() -> None:
    assert list(CALLBACKS) == ["early_freeze", "task_stopping"]
    for name in CALLBACKS:
        callback = CALLBACKS[name]()
        assert callback.stops_tasks
        again = CALLBACKS[name](**callback.settings())
        again.load_state_dict(callback.state_dict())
        assert again.settings() == callback.settings()
