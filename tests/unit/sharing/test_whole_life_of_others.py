"""Every architecture x T x {2-D convolution, LSTM}: trains, resumes to the same bits, saves and loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from _architecture_table import CASES, check_whole_life, registered_encoders


@pytest.fixture(scope="module", autouse=True)
def _encoders() -> Iterator[None]:
    with registered_encoders():
        yield


@pytest.mark.parametrize("kind", ["conv2d", "lstm"])
@pytest.mark.parametrize(("name", "number"), CASES)
def test_trains_resumes_saves_and_loads(name: str, number: int, kind: str, tmp_path: Path) -> None:
    check_whole_life(name, kind, number, tmp_path)
