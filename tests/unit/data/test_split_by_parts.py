"""A column that holds a split is not what rows are grouped by."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import taskloom as tl
from taskloom.data.split_checks import check_not_parts
from taskloom.errors import ConfigError
from taskloom.study.single import load_data


def people(folder: Path, parts: list[str]) -> Path:
    """120 rows, whose `split` goes through the parts; two features, a label."""
    draw = np.random.default_rng(0)
    rows = [
        f"{draw.normal():.3f},{draw.normal():.3f},{n // 5 % 2},{parts[n % len(parts)]}" for n in range(120)
    ]
    place = folder / "people.csv"
    place.write_text("\n".join(["a,b,y,split", *rows]))
    return place


@pytest.mark.parametrize(
    ("parts", "instead"),
    [
        (["train", "test", "validation"], "column: split}"),
        (["train", "Test", "val", "train"], "column: split, test: Test, validation: val}"),
        (["training", "test"], "column: split, validation: 0.1}"),
        (["train", "val"], "column: split, test: val, validation: 0.1}"),
    ],
)
def test_the_parts_of_a_split_are_not_drawn_anew(tmp_path: Path, parts: list[str], instead: str) -> None:
    place, tasks = people(tmp_path, parts), {"y": {"kind": "binary"}}
    with pytest.raises(ConfigError, match=re.escape(f"`split: {{by: column, {instead}` takes it")):
        tl.data.table(place, tasks, split_by="split")


@pytest.mark.parametrize(
    ("parts", "split", "sizes"),
    [
        (["train", "Test", "val", "train"], {"test": "Test", "validation": "val"}, [60, 30, 30]),
        (["training", "test"], {"validation": 0.1}, [54, 6, 60]),
        (["train", "val"], {"test": "val", "validation": 0.1}, [54, 6, 60]),
    ],
)
def test_what_the_message_says_works(
    tmp_path: Path, parts: list[str], split: dict[str, object], sizes: list[int]
) -> None:
    place = people(tmp_path, parts)
    study = tl.study.load_study(
        {
            "data": {"table": str(place)},
            "tasks": {"y": {"kind": "binary"}},
            "split": {"by": "column", "column": "split", **split},
            "encoder": {"name": "mlp"},
            "cells": [{"hard_sharing": {"stages": 1}}],
        }
    )
    splits = load_data(study, tmp_path, tmp_path / "stores")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == sizes


def test_groups_of_other_names_are_groups() -> None:
    check_not_parts("site", ["Test Valley", "train"])
    check_not_parts("site", ["train"])
    with pytest.raises(ConfigError, match="name the parts of a split"):
        check_not_parts("subset", ["dev", "eval", "train"])
