"""A batch in parts for methods whose weights do not follow the losses of the batch itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taskloom.balancing.base import Balancer
from taskloom.balancing.checks import check_gradients
from taskloom.errors import ConfigError
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

    if TYPE_CHECKING:  # those of `LossWeighting`
        _names: tuple[str, ...]

        def _start_late(self, model: MultiTaskNetwork) -> None: ...

        def _weighed(
            self, losses: Mapping[str, SumCount], model: MultiTaskNetwork
        ) -> tuple[Tensor, Tensor, Weighed]: ...

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self.forget_parts()

    def forget_parts(self) -> None:
        super().forget_parts()
        self._earlier = {}

    def accumulate(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self._names != self.names_of(model.tasks):
            self._start_late(model)
        self._forget_abandoned(model)
        self._check_same(losses)
        check_gradients(losses, model)
        sums, slopes, _ = self._weighed(losses, model)
        followed = sums @ slopes
        self.backpropagate(followed if beside is None else followed + beside)
        for name, loss in losses.items():
            earlier = self._earlier.get(name, torch.zeros_like(loss.sum))
            self._earlier[name] = earlier + loss.sum.detach()
        self._keep_parts_of(model)

    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self._earlier:
            self._forget_abandoned(model)
        if self._earlier:
            self._check_same(losses)
            earlier = self._earlier
            self.forget_parts()
            losses = {name: SumCount(loss.sum + earlier[name], loss.count) for name, loss in losses.items()}
        super().backward(losses, model, beside)  # type: ignore[safe-super]  # that of LossWeighting

    def _check_same(self, losses: Mapping[str, SumCount]) -> None:
        """Refuses a part that has not the losses of the parts before it."""
        if self._earlier and set(losses) != set(self._earlier):
            earlier = self._earlier
            self.forget_parts()
            raise ConfigError(
                f"balancing: a part of a batch with the losses of {', '.join(losses)}, the parts before it "
                f"had {', '.join(earlier)}; give every part the losses of all tasks, with the counts of the "
                "whole batch (a part without a label of a task has the sum 0)."
            )
