"""A batch in parts for methods whose weights do not follow the losses of the batch itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taskloom.balancing.base import Balancer, check_gradients
from taskloom.losses import SumCount

if TYPE_CHECKING:
    from taskloom.balancing.numbers import Weighed
    from taskloom.sharing.network import MultiTaskNetwork


class InParts(Balancer):
    """Beside `LossWeighting`, before it among the bases: weights that are known before the losses are.

    Every part's losses have the weights that the whole batch has, which depend on what is learned, on which
    tasks have a label in the whole batch, or on what is drawn; so each part's backward pass can go at once.
    What is learned about the weights needs the losses of the whole batch: the last part sees the sums of all,
    of which those of the parts before are constants.
    """

    def __init__(self) -> None:
        super().__init__()
        self._earlier: dict[str, Tensor] = {}

    if TYPE_CHECKING:  # that of `LossWeighting`

        def _weighed(
            self, losses: Mapping[str, SumCount], model: MultiTaskNetwork
        ) -> tuple[Tensor, Tensor, Weighed]: ...

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._earlier = {}

    def accumulate(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        check_gradients(losses, model)
        sums, slopes, _ = self._weighed(losses, model)
        followed = sums @ slopes
        self.backpropagate(followed if beside is None else followed + beside)
        for name, loss in losses.items():
            earlier = self._earlier.get(name, torch.zeros_like(loss.sum))
            self._earlier[name] = earlier + loss.sum.detach()

    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self._earlier:
            earlier, self._earlier = self._earlier, {}
            losses = {name: SumCount(loss.sum + earlier[name], loss.count) for name, loss in losses.items()}
        super().backward(losses, model, beside)  # type: ignore[safe-super]  # that of LossWeighting
