"""Row-sparse and low-rank ties: the formulas of thesis 000 on linear stages, and stages that are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import taskloom as tl
from taskloom.encoders import from_modules
from taskloom.errors import ConfigError
from taskloom.sharing import build

TASKS = tl.TaskSet(tl.Regression("a"), tl.Regression("b"), tl.Regression("c"))


def network_of(tie: str, layer: nn.Module, shape: tuple[int, ...], **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return build(
        "soft_sharing", from_modules([layer], shape), TASKS, tie=tie, weight=0.5, tie_settings=settings
    ).double()


def columns_of(network: nn.Module) -> torch.Tensor:
    """W [d, T] of linear models with one output each."""
    weights = [p for name, p in network.named_parameters() if name.startswith("stages.") and p.dim() > 1]
    return torch.stack([weight[0] for weight in weights], dim=1)


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("p", [1, 2])
def test_row_sparse_of_linear_models_is_the_norm_of_the_thesis(p: int, q: int) -> None:
    network = network_of("row_sparse", nn.Linear(4, 1), (4,), p=p, q=q)
    rows = [sum(abs(w) ** p for w in row.tolist()) ** (1 / p) for row in columns_of(network)]
    expected = 0.5 * sum(row**q for row in rows) ** (1 / q)
    assert network.penalty().item() == pytest.approx(expected)  # type: ignore[operator]


def test_low_rank_of_linear_models_is_the_least_over_theta_and_v() -> None:
    """Alternating least squares over Theta and V, which knows nothing of singular values."""
    network = network_of("low_rank", nn.Linear(4, 1), (4,), rank=1)
    whole = columns_of(network).detach()
    theta = torch.ones(4, 1, dtype=torch.float64)
    for _ in range(500):
        theta = theta / theta.norm()
        v = theta.T @ whole
        theta = whole @ v.T
    theta = theta / theta.norm()
    u = whole - theta @ (theta.T @ whole)
    assert network.penalty().item() == pytest.approx(0.5 * u.square().sum().item())  # type: ignore[operator]


@pytest.mark.parametrize("tie", ["row_sparse", "low_rank"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.ConvTranspose1d(3, 3, 2), (3, 5)), (nn.ConvTranspose2d(3, 3, 2), (3, 4, 4))],
)
def test_layers_with_other_axes_are_refused_when_built(
    tie: str, layer: nn.Module, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigError, match=rf"{tie}: weights .* found those of a {type(layer).__name__};"):
        network_of(tie, layer, shape)
