"""The way of sharing that docs/sharing.md writes out: what it shares, and that it trains like any other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import taskloom as tl

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sharing.md"


@pytest.mark.usefixtures("own_names")
def test_a_way_of_ones_own_is_built_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    section = PAGE.read_text(encoding="utf-8").split("\n## A way of your own\n", 1)[1]
    (block,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    again = tl.sharing.build("by_kind", tl.encoders.mlp((20,), hidden=[64, 32]), names["tasks"], stages=2)
    rows = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    assert rows[1:3] == [["dense_0", "A", "B", "A"], ["dense_1", "A", "B", "C"]]
    first, second = 20 * 64 + 64, 64 * 32 + 32
    heads = 3 * (32 + 1)
    count = [sum(weight.numel() for weight in network.parameters()) for network in (names["network"], again)]
    assert count == [2 * first + 3 * second + heads, 2 * first + 2 * second + heads]
    outputs = again(torch.randn(4, 20))
    assert (
        torch.autograd.grad(outputs["smile"].sum(), again.task_parameters("age"), allow_unused=True)[0]
        is None
    )
