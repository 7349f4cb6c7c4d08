"""docs/coupling.md names every setting of a coupling, of its schedule and sources, with the defaults."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskloom.coupling import SHIPPED, CoAnnotation, Matching, WeightSchedule
from taskloom.study.couplings import KNOWN, read_coupling
from taskloom.study.relatedness_sources import _SETTINGS

PAGE = (Path(__file__).parents[2] / "docs" / "coupling.md").read_text(encoding="utf-8")


def rows_below(heading: str) -> dict[str, str]:
    """First to second column of the table with this heading."""
    table = PAGE.split(f"\n| {heading} |", 1)[1].split("\n\n", 1)[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", table, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "kind"), [("matching", Matching), ("co_annotation", CoAnnotation), ("weight", WeightSchedule)]
)
def test_settings_and_defaults_are_those_of_the_code(name: str, kind: Any) -> None:
    written = {
        key: yaml.safe_load(value.strip("`")) for key, value in rows_below(f"setting of `{name}`").items()
    }
    assert written == {field.name: field.default for field in dataclasses.fields(kind)}


def test_sources_and_shipped_tables_are_all_there() -> None:
    written = {
        key: tuple(re.findall(r"`(\w+)`", value)) for key, value in rows_below("`relatedness`").items()
    }
    assert written == _SETTINGS
    assert all(f"`{name}`" in PAGE for name in SHIPPED)


def test_the_study_on_the_page_is_read_and_names_every_setting() -> None:
    block = re.search(r"^    cells:\n(?:    .*\n)+", PAGE, flags=re.MULTILINE)
    assert block
    (_, entry) = yaml.safe_load(block.group())["cells"]
    kinds = {"expression": "multiclass", "units": "multilabel"}
    found = read_coupling(entry["coupling"], kinds, ("coupling",))
    assert [words for _, words in found] == [
        f"coupling expression action units weight {weight}" for weight in ("0.1", "1")
    ]
    assert set(KNOWN) - {"name"} <= set(entry["coupling"]) | set(re.findall(r"`(\w+): ", PAGE))
