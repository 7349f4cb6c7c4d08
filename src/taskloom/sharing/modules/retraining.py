"""AdaShare's two phases: policies and weights by turns, then weights alone under policies that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.changing import Change, Look, SelfChanging, TakesTurns, weights_to_return_to
from taskloom.sharing.modules.base import after_loading
from taskloom.sharing.modules.skipping import SkippingNetwork
from taskloom.tasks import TaskSet

FixedPolicy = Literal["sampled", "hard"]
RetrainWeights = Literal["start", "keep"]

_OPEN = -1
"""In `fixed`: the policy is not fixed yet."""


class RetrainedNetwork(SkippingNetwork, SelfChanging, TakesTurns):
    """AdaShare as its paper trains it (Sun et al. 2020, section 3): policies first, then weights from anew.

    By turns (`alternate`): while policies are open, half of the training rows train the weights and the other
    half the policies, one update after the other in every batch; the training loop divides the rows.

    Retraining: before epoch `retrain_from` every task's policy becomes one choice per stage that stays, the
    weights start anew, and all rows train them. What no task executes learns no more and does not run.

    State dict: as `SkippingNetwork`, with `fixed` [T, number of policies], -1 while open, else 1 or 0, and
    `draw`, from which a policy is drawn.

    Args:
        encoder, tasks: See `SkippingNetwork`.
        alternate: Whether weights and policies are trained by turns.
        retrain_from: The epoch before which policies are fixed, counted from 1; None: never.
        retrain_policy: "sampled": drawn once, each stage with its probability (the paper's); "hard": the
            stages with a probability of at least 1/2.
        retrain_weights: "start": weights and running statistics of stages and heads go back to what they were
            when the network was built (pretrained ones, with `copies: same`) or, in a warm start, to what it
            took over; "keep": they go on.
        **settings: Those of `SkippingNetwork`.

    Attributes:
        fixed: See the state dict.

    Raises:
        ConfigError: `retrain_from` is not after the epoch in which the last policy opens.
    """

    fixed: Tensor
    draw: Tensor
    stays = ("epoch", "fixed", "draw")

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        alternate: bool = False,
        retrain_from: int | None = None,
        retrain_policy: FixedPolicy = "sampled",
        retrain_weights: RetrainWeights = "start",
        **settings: Any,
    ) -> None:
        super().__init__(encoder, tasks, **settings)
        self.alternate, self.retrain_from = alternate, retrain_from
        self.retrain_policy, self.retrain_weights = retrain_policy, retrain_weights
        opened = self.warmup_epochs + (len(self._skippable) - 1) * self.curriculum_epochs + 1
        if retrain_from is not None and retrain_from <= opened:
            raise ConfigError(
                f"adashare.retrain_from: an epoch after {opened}, in which the last policy opens, expected, "
                f"found {retrain_from}."
            )
        self.register_buffer("fixed", torch.full((len(tasks), len(self._skippable)), _OPEN, dtype=torch.int8))
        self.register_buffer("draw", torch.randint(2**31, ()))  # every process draws the same policy
        self._begun: dict[str, Tensor] = {}
        self.starts_here()
        self._policy: list[list[bool]] | None = None
        self._resting: set[str] = set()  # parameters of stages that no task executes
        after_loading(self, _take_policy)

    def starts_here(self) -> None:
        """From now on the present weights are the start that retraining goes back to."""
        if self.retrain_from is None or self.retrain_weights != "start":
            return
        self._begun = weights_to_return_to(self)

    # -- phases

    def check_epochs(self, epochs: int) -> None:
        if self.retrain_from is not None and self.retrain_from > epochs:
            raise ConfigError(
                f"adashare.retrain_from: an epoch of the training, which has {epochs}, expected, found "
                f"{self.retrain_from}."
            )

    def change(self, epoch: int, look: Callable[[], Look]) -> Change | None:
        """Fixes the policies before epoch `retrain_from`; see the class."""
        del look
        if epoch != self.retrain_from:
            return None
        chosen = self._policies_probabilities() >= 0.5
        if self.retrain_policy == "sampled":
            generator = torch.Generator().manual_seed(int(self.draw))
            uniform = torch.rand(chosen.shape, generator=generator, dtype=torch.float64)
            chosen = uniform < self._policies_probabilities().double()
        self.fixed.copy_(chosen)
        self._take_policy()
        with torch.no_grad():
            present = self.state_dict()
            for name, tensor in self._begun.items():
                present[name].copy_(tensor)
        anew = bool(self._begun)
        how = "weights start anew" if anew else "weights go on"
        rows = ", ".join(
            f"{task} {''.join('x' if executes else '-' for executes in row)}"
            for task, row in zip(self.tasks, chosen.tolist(), strict=True)
        )
        return Change(f"policies are fixed, {how}: {rows} (x executes a stage, - skips it)", anew=anew)

    def changes_after(self, epoch: int) -> bool:
        return self.retrain_from is not None and epoch < self.retrain_from

    def _policies_probabilities(self) -> Tensor:
        return torch.stack([policy.logits for policy in self._policies()]).detach().cpu().sigmoid()

    def _take_policy(self) -> None:
        """Takes policies from the buffer, and what may learn under them."""
        fixed = self.fixed.tolist()
        is_fixed = fixed[0][0] != _OPEN
        self._policy = [[bool(choice) for choice in row] for row in fixed] if is_fixed else None
        for policy in self._policies():
            policy.logits.requires_grad_(not is_fixed)
        used = torch.ones(len(self._shapes), dtype=torch.bool)
        if is_fixed:
            used[list(self._skippable)] = (self.fixed > 0).any(dim=0).cpu()
        for index, learns in enumerate(used.tolist()):
            for stage in self.copies_of(index):
                # Only what is ours to change: a stage may have parameters that are frozen by its maker.
                for name, parameter in stage.named_parameters():
                    key = f"{index}.{name}"
                    if not learns and parameter.requires_grad:
                        self._resting.add(key)
                        parameter.requires_grad_(False)
                    elif learns and key in self._resting:
                        self._resting.discard(key)
                        parameter.requires_grad_(True)

    def turns(self) -> Sequence[Sequence[nn.Parameter]]:
        """Weights and policies, while policies are learned by turns; else nothing: all at once."""
        if not self.alternate or self._policy is not None or self.num_open == 0:
            return ()
        policies = [policy.logits for policy in self._policies()]
        known = {id(logits) for logits in policies}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in known], policies

    # -- running

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        if self._policy is None:
            return super().features(inputs)
        return self.by_task(self._hard(inputs))

    def probabilities(self) -> Tensor:
        if self._policy is None:
            return super().probabilities()
        found = torch.ones(len(self.tasks), len(self._shapes), device=self.fixed.device)
        found[:, list(self._skippable)] = self.fixed.to(found.dtype)
        return found

    def penalty(self) -> Tensor:
        total = super().penalty()
        return total if self._policy is None else total.new_zeros(())


def _take_policy(network: nn.Module, _: object) -> None:
    assert isinstance(network, RetrainedNetwork)
    network._take_policy()
