"""Settings of every test: few threads (the tests run side by side) and no window."""

from __future__ import annotations

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it: others hold the registries equal to their tables."""
    from taskloom.balancing import BALANCERS
    from taskloom.data.sources import SOURCES, find_source
    from taskloom.encoders import ENCODERS
    from taskloom.sharing import ARCHITECTURES
    from taskloom.sharing.ties import TIES

    find_source("table")  # readers are registered when first asked for: not within the test
    for registry in (ENCODERS, ARCHITECTURES, TIES, BALANCERS, SOURCES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
