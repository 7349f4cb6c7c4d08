"""Every piece of a study file on a page is one: checked as studies are, down to its reader's settings."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskloom.errors import DataError
from taskloom.study import load_study
from taskloom.study.cells import expand_cells
from taskloom.study.config import Study, StudyConfig, check_study
from taskloom.study.single import load_data
from taskloom.study.yaml_lines import parse_document

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?:    .*\n)(?:(?:    .*)?\n)*")
SECTIONS = set(StudyConfig.model_fields)
TASKS = {
    "coupling.md": {"expression": {"kind": "multiclass"}, "units": {"kind": "multilabel"}},
    "data.md": {"expression": {"kind": "multiclass"}, "action_units": {"kind": "multilabel"}},
}
"""Tasks of a page whose pieces name none."""
OTHERS = {name: {"kind": "binary"} for name in ("age", "sex", "smile")}


@dataclass(frozen=True)
class Piece:
    page: str
    line: int
    content: dict[str, Any]
    code: str


def pieces_of(page: Path) -> Iterator[Piece]:
    """Blocks that are a mapping of sections, fenced or indented, with the Python block before them."""
    text = page.read_text(encoding="utf-8")
    found = [(match.start(), match.group(2), match.group(1)) for match in FENCED.finditer(text)]
    prose = FENCED.sub(lambda match: "\n" * match.group().count("\n"), text)
    for match in INDENTED.finditer(prose):
        place = len("".join(text.splitlines(keepends=True)[: prose[: match.start()].count("\n")]))
        found.append((place, match.group(), "yaml"))
    code = ""
    for start, block, language in sorted(found):
        code = block if language == "python" else code
        plain = textwrap.dedent(block)
        if language != "yaml" or not re.search(rf"^({'|'.join(SECTIONS)}):", plain, re.MULTILINE):
            continue
        yield Piece(page.name, text[:start].count("\n") + 1, yaml.safe_load(plain), code)


PIECES = [piece for page in PAGES for piece in pieces_of(page)]


def whole(piece: Piece, folder: Path) -> Study:
    base = {
        "data": {"table": "rows.csv"},
        "split": {"by": "rows"},
        "encoder": {"name": "mlp", "hidden": [8, 8, 8]},
        "cells": [{"cross_stitch": {"per": "layer"}}],
        "repeats": 3,
    }
    tasks = piece.content.get("tasks") or TASKS.get(piece.page, OTHERS)
    text = yaml.safe_dump({**base, **piece.content, "tasks": tasks}, sort_keys=False)
    if "code" not in piece.content:
        return check_study(parse_document(text, f"{piece.page}.yaml"))
    (folder / str(piece.content["code"])).write_text(piece.code, encoding="utf-8")
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    return load_study(folder / "study.yaml")


def test_the_pages_have_pieces() -> None:
    found = {page.name: [piece.page for piece in PIECES].count(page.name) for page in PAGES}
    least = {"README.md": 3, "data.md": 10, "coupling.md": 1, "encoders.md": 3, "sharing.md": 2}
    assert {page: min(found[page], number) for page, number in least.items()} == least


@pytest.mark.usefixtures("own_names")
@pytest.mark.parametrize("piece", [pytest.param(piece, id=f"{piece.page}:{piece.line}") for piece in PIECES])
def test_a_piece_of_a_study_file_is_one(piece: Piece, tmp_path: Path) -> None:
    study = whole(piece, tmp_path)
    assert expand_cells(study)
    with pytest.raises(DataError, match=r"expected|no such folder"):
        load_data(study, tmp_path, tmp_path / "stores")


def test_every_way_to_write_an_age_is_a_task() -> None:
    page = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (age: \{.*?\}).*$", page, flags=re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        piece = Piece("encoders.md", 0, {"tasks": {**yaml.safe_load(line), "sex": {"kind": "binary"}}}, "")
        assert whole(piece, Path()).config.tasks["age"]["unit"] == "years"
