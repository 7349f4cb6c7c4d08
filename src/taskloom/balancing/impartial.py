"""IMTL: losses brought to one scale that is learned, and gradients of equal projections on what is shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from taskloom.balancing.aggregation import GradientAggregation
from taskloom.balancing.base import BALANCERS
from taskloom.balancing.gradients import add_gradient
from taskloom.balancing.row_balancer import Place
from taskloom.balancing.weightings import Formula, impartial
from taskloom.errors import ConfigError
from taskloom.losses import SumCount

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork


class ImpartialBoth(GradientAggregation):
    """IMTL (Liu et al. 2021): IMTL-L's scales on all losses, IMTL-G on what is shared.

    Every loss is exp(s_t) L_t - s_t with s_t learned (IMTL-L), so that heads follow scaled losses; the
    gradients of these are aggregated with equal projections on all of them (IMTL-G). The s_t are the
    parameter group "balancer", as those of `imtl_l`.
    """

    def __init__(self, at: Place, smooth: float) -> None:
        super().__init__("imtl", Formula(impartial), at=at, smooth=smooth)
        self._vector: nn.Parameter | None = None
        self._earlier: Tensor | None = None

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._vector = nn.Parameter(
            torch.zeros(len(self._names), device=next(iter(model.parameters())).device)
        )

    def parameters(self) -> Iterable[nn.Parameter]:
        return () if self._vector is None else (self._vector,)

    def forget_parts(self) -> None:
        super().forget_parts()
        self._earlier = None

    def accumulate(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        self._check_started(model)
        self._forget_abandoned(model)
        means = self._means(losses)
        earlier = means if self._earlier is None else self._earlier + means
        super().accumulate(self._scaled(losses), model, beside)
        self._earlier = earlier

    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        self._check_started(model)
        self._forget_abandoned(model)
        means, earlier = self._means(losses), self._earlier
        scaled = self._scaled(losses)
        super().backward(scaled, model, beside)
        assert self._vector is not None
        assert self.total is not None
        # A task of weight 0 has a loss of 0, for which no scale would be large enough.
        weighty = [name not in model.tasks or model.tasks[name].weight != 0 for name in losses]
        counts = torch.stack([loss.count for loss in losses.values()])
        there = (counts > 0) & torch.tensor(weighty, device=counts.device)
        logs = self._vector.detach()[self._index(losses)]
        self.total = self.total - torch.where(there, logs, 0.0).sum()
        means = means if earlier is None else means + earlier
        slopes = torch.where(there, logs.exp() * means - 1.0, 0.0).to(self._vector.dtype)
        placed = torch.zeros_like(self._vector).index_put((self._index(losses),), slopes)
        add_gradient(self._vector, self.processes.mean(self.scale(placed)))

    def _check_started(self, model: MultiTaskNetwork) -> None:
        if self._vector is None or self._names != self.names_of(model.tasks):
            raise ConfigError(
                "balancing.imtl: it was not started for this network's tasks, and no optimiser could know "
                "what it learns about them; call balancer.start(model) first, and give the optimiser "
                "balancer.parameters() beside the network's."
            )

    def _index(self, losses: Mapping[str, SumCount]) -> Tensor:
        assert self._vector is not None
        places = [self._names.index(name) for name in losses]
        return torch.tensor(places, device=self._vector.device)

    def _means(self, losses: Mapping[str, SumCount]) -> Tensor:
        return torch.stack([loss.mean.detach() for loss in losses.values()])

    def _scaled(self, losses: Mapping[str, SumCount]) -> dict[str, SumCount]:
        assert self._vector is not None
        factors = self._vector.detach().exp()[self._index(losses)].unbind()
        return {
            name: SumCount(loss.sum * factor, loss.count)
            for (name, loss), factor in zip(losses.items(), factors, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        kept = None if self._vector is None else self._vector.detach().clone()
        return {**super().state_dict(), "vector": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if state["vector"] is None:
            return
        if self._vector is None:
            self._vector = nn.Parameter(state["vector"].clone())
        with torch.no_grad():
            self._vector.copy_(state["vector"])


@BALANCERS.register("imtl")
def imtl(at: Place = "parameters", smooth: float = 0.0) -> ImpartialBoth:
    """IMTL (Liu et al. 2021), the paper's hybrid: `imtl_l` on the losses, `imtl_g` on their gradients."""
    return ImpartialBoth(at, smooth)
