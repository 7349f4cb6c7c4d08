"""oneDNN's dense products against PyTorch's, however matrices and biases lie in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from taskloom.sharing import onednn

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda tensor: tensor,
    "turned": lambda tensor: tensor.T.contiguous().T,
    "with gaps": lambda tensor: tensor.repeat_interleave(2, dim=-1)[..., ::2],
    "one number for all": lambda tensor: tensor.flatten()[0].expand_as(tensor),
}


@pytest.mark.skipif(not onednn.serves(torch.ones(1)), reason="a PyTorch without oneDNN")
@pytest.mark.parametrize("of_bias", [name for name in LAYOUTS if name != "turned"])
@pytest.mark.parametrize("of_weight", LAYOUTS)
@pytest.mark.parametrize("of_rows", LAYOUTS)
def test_products_do_not_depend_on_how_numbers_lie(of_rows: str, of_weight: str, of_bias: str) -> None:
    generator = torch.Generator().manual_seed(3)
    rows, weight, bias = (torch.randn(size, generator=generator) for size in [(70, 5), (33, 5), (33,)])
    rows, weight, bias = LAYOUTS[of_rows](rows), LAYOUTS[of_weight](weight), LAYOUTS[of_bias](bias)
    found = onednn.linear(rows, weight, bias)
    torch.testing.assert_close(found, rows @ weight.T + bias)
    assert found.is_contiguous()
    torch.testing.assert_close(onednn.linear(rows, weight), rows @ weight.T)
