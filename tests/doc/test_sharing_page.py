"""docs/sharing.md lists the whole registry: every architecture, setting and default, every tie."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

import taskloom as tl
from taskloom.errors import ConfigError
from taskloom.sharing import ARCHITECTURES
from taskloom.sharing.ties import TIES
from taskloom.study.cells import baseline_forms, baselines, expand_cells
from taskloom.study.config import check_study
from taskloom.study.yaml_lines import parse_document
from taskloom.tasks import Reversal
from taskloom.tasks.roles import Role, Schedule

PAGE = (Path(__file__).parents[2] / "docs" / "sharing.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))
STUDY = """\
data: {table: a.csv}
tasks: {age: {kind: regression}, sex: {kind: binary}, smile: {kind: binary}}
encoder: {name: vgg5}
training: {epochs: 1, batch: 8}
cells:
"""


def table(text: str) -> dict[str, tuple[str, str]]:
    """First column to the other two."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) ?\| (.*) \|$", text, flags=re.MULTILINE)
    return {name: (second.strip(), third) for name, second, third in rows}


def part(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


ROLES = part("What a task is for, and what alone means")
HELPERS = re.findall(r"```yaml\n(.*?)```", ROLES, flags=re.DOTALL)[0]
COMMON = table(part("Settings that many have"))


def defaults(name: str) -> dict[str, Any]:
    """Settings by the names of study files, with their defaults; those that many have are left out."""
    architecture = ARCHITECTURES[name]
    declared = list(inspect.signature(inspect.unwrap(architecture)).parameters.values())[2:]
    own = [setting for setting in architecture.settings if setting not in COMMON]
    return {written: given.default for written, given in zip(own, declared, strict=False)}


def test_every_architecture_has_its_section() -> None:
    assert sorted(SECTIONS) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_setting_stands_in_its_table_with_its_default(name: str) -> None:
    rows = table(SECTIONS[name])
    expected = defaults(name)
    assert list(rows) == list(expected)
    for setting, default in expected.items():
        written, _ = rows[setting]
        if default is inspect.Parameter.empty:
            assert written == "needed"
        else:
            assert yaml.safe_load(written.strip("`")) == default, setting


def test_settings_that_many_have_belong_to_some_architecture() -> None:
    known = {setting for name in ARCHITECTURES for setting in ARCHITECTURES[name].settings}
    assert set(COMMON) <= known


def test_every_tie_stands_in_the_table_with_its_settings_and_defaults() -> None:
    text = part("Ties")
    rows = table(text)
    assert sorted(rows) == sorted(TIES)
    (weight,) = re.findall(r"settings besides `weight` \(`(.*?)`\)", text)
    for name, (settings, _) in rows.items():
        expected = {key: given.default for key, given in inspect.signature(TIES[name]).parameters.items()}
        assert expected.pop("weight") == yaml.safe_load(weight)
        written = re.findall(r"`(\w+)` `([\w.]+)`", settings)
        assert {setting: yaml.safe_load(default) for setting, default in written} == expected


def test_the_examples_expand() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE.replace(f"```yaml\n{HELPERS}```", ""), flags=re.DOTALL)
    numbers = []
    for example in examples:
        entries = example.removeprefix("cells:\n")
        if not entries.startswith(" "):
            entries = "".join(f"  {line}\n" for line in entries.splitlines())
        numbers.append(len(expand_cells(check_study(parse_document(STUDY + entries, "a.yaml")))))
    assert numbers == [1, 80]


def test_roles_and_reversals_have_their_settings_and_defaults() -> None:
    rows = table(ROLES)
    task, reversal = tl.Binary("a"), Reversal()
    known = {"role": task.role, "weight": task.weight, "reversal": task.reversal}
    for field in dataclasses.fields(reversal):
        known[field.name.rstrip("_")] = getattr(reversal, field.name)
    assert {name: yaml.safe_load(default.strip("`")) for name, (default, _) in rows.items()} == known
    for word in (*get_args(Role), *get_args(Schedule)):
        assert f"`{word}`" in ROLES


def test_the_example_of_helper_tasks_is_a_study() -> None:
    rest = STUDY.replace("tasks: {age: {kind: regression}, sex: {kind: binary}, smile: {kind: binary}}\n", "")
    study = check_study(parse_document(HELPERS + rest + "  - mmoe: {}\n", "a.yaml"))
    assert study.config.tasks["person"]["reversal"] == {"lambda": 0.5, "warmup": 0.1}
    assert len(baselines(study)) == 2 * 3
    assert [form.name for form in baseline_forms(study) if form.judged] == ["own network"]


def test_what_shares_nothing_refuses_an_adversary() -> None:
    tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("person", role="adversarial"))
    with pytest.raises(ConfigError, match="adversarial"):
        tl.sharing.build("single_task", tl.encoders.mlp((3,), hidden=[4]), tasks)
