"""A bundle that was damaged on its way says so, and one of yesterday is read tomorrow."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from _bundles import SETTINGS
from _predict import image_bundle
from _web import table_bundle
from taskloom import Binary, Multiclass, Regression, TaskSet
from taskloom.deploy import build_network, load_bundle
from taskloom.errors import DataError, TaskloomError

NAMES_OF_WEIGHTS = {
    "single_task": "2cf3",
    "hard_sharing": "26f2",
    "cross_stitch": "fb66",
    "soft_sharing": "2cf3",
    "proportional_addition": "3457",
    "plan": "6224",
    "adaptive_branching": "4107",
    "sluice": "e6b7",
    "mmoe": "fbfe",
    "ple": "75ba",
    "mtan": "1ae5",
    "task_routing": "6974",
    "adashare": "63ac",
    "multilinear_relationship": "337a",
}
"""Architecture: digits of the checksum over names and shapes of its weights, as bundles in use have them."""


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in a description; of lists the first two."""
    inside = (
        value.items() if isinstance(value, dict) else enumerate(value[:2] if isinstance(value, list) else ())
    )
    for key, found in inside:
        yield (*above, key)
        yield from places(found, (*above, key))


@pytest.mark.parametrize("make", [image_bundle, table_bundle])
def test_a_description_that_was_changed_is_refused_whatever_was_changed(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path) / "bundle.json"
    good = json.loads(path.read_text())
    tried = 0
    for place in places(good):
        for value in (None, "x", -1.5, [], {}):
            if place[0] in ("about", "versions") and len(place) > 1:
                continue  # for people; see below
            changed = copy.deepcopy(good)
            inside = changed
            for key in place[:-1]:
                inside = inside[key]
            if inside[place[-1]] == value or (place, value) in ((("about",), {}), (("versions",), {})):
                continue
            inside[place[-1]] = value
            path.write_text(json.dumps(changed))
            with pytest.raises(TaskloomError, match=r"bundle"):
                load_bundle(path.parent)
            tried += 1
    assert tried > 150
    good["about"]["note"] = "what people say of it may be changed"
    path.write_text(json.dumps(good))
    assert load_bundle(path.parent).about["note"].startswith("what people say")


@pytest.mark.parametrize("part", ["settings", "tasks", "preprocessing", "about", "versions", "weights"])
def test_a_description_that_lacks_a_part_says_which(tmp_path: Path, part: str) -> None:
    path = table_bundle(tmp_path) / "bundle.json"
    described = json.loads(path.read_text())
    del described[part]
    path.write_text(json.dumps(described))
    with pytest.raises(
        DataError, match=rf"bundle.json: `{part}` should be .*, found None; the bundle is damaged"
    ):
        load_bundle(path.parent)


def test_a_bundle_from_before_descriptions_had_a_checksum_is_read(tmp_path: Path) -> None:
    path = table_bundle(tmp_path)
    rows = torch.randn(4, 3)
    expected = load_bundle(path).predict(rows)
    described = json.loads((path / "bundle.json").read_text())
    del described["sha256"]
    (path / "bundle.json").write_text(json.dumps(described))
    for name, values in load_bundle(path).predict(rows).items():
        assert torch.equal(values, expected[name])


def test_many_read_a_bundle_at_once_from_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    path = table_bundle(tmp_path)
    rows = torch.randn(4, 3)
    expected = load_bundle(path).predict(rows)["age"]
    for file in path.iterdir():
        file.chmod(0o444)
    path.chmod(0o555)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda _: load_bundle(path).predict(rows)["age"], range(16)))
    finally:
        path.chmod(0o755)
    assert all(torch.equal(each, expected) for each in found)
    assert sorted(os.listdir(path)) == ["bundle.json", "weights.safetensors"]


def names_of_weights(name: str) -> str:
    settings = {"input_shape": (5,), "encoder": {"name": "mlp", "hidden": [6, 4]}, "head": {"hidden": [3]}}
    tasks = TaskSet(Regression("age"), Binary("gender"), Multiclass("mood", 3))
    network = build_network({**settings, "sharing": {"name": name, **SETTINGS[name]}}, tasks)
    said = sorted(f"{key} {list(value.shape)}" for key, value in network.state_dict().items())
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:4]


@pytest.mark.parametrize("name", NAMES_OF_WEIGHTS)
def test_weights_are_called_as_in_bundles_that_are_in_use(name: str) -> None:
    """Where this fails, bundles of this architecture cannot be loaded any more: keep the names, or give
    `load_bundle` what brings old names to new ones."""
    assert names_of_weights(name) == NAMES_OF_WEIGHTS[name]
