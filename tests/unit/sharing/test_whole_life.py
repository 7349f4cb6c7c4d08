"""Every architecture x T x {MLP, 1-D convolution}: trains, resumes to the same bits, saves and loads.

`test_whole_life_of_others.py` holds the other encoders (two files, for two processes).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from _architecture_table import CASES, SETTINGS, check_whole_life, registered_encoders
from taskloom.sharing import ARCHITECTURES


@pytest.fixture(scope="module", autouse=True)
def _encoders() -> Iterator[None]:
    with registered_encoders():
        yield


def test_the_table_is_the_registry() -> None:
    assert sorted(SETTINGS) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("kind", ["mlp", "conv1d"])
@pytest.mark.parametrize(("name", "number"), CASES)
def test_trains_resumes_saves_and_loads(name: str, number: int, kind: str, tmp_path: Path) -> None:
    check_whole_life(name, kind, number, tmp_path)
