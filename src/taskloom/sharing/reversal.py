"""Gradient reversal: the identity forwards; backwards the gradient times -lambda.

What stands behind it learns to predict an adversarial task; what stands before it learns to make that
impossible (Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015, equations 2
to 4). To a balancer, the adversarial task's gradient on shared parameters *is* the reversed one: a plain sum
adds it, gradient aggregation (PCGrad, MGDA, ...) treats its direction as any task's, and methods that look
at the value of a loss (learned weights, dynamic weight average) see the head's loss, which grows where the
trunk forgets well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.tasks import Reversal


class _Reverse(torch.autograd.Function):
    generate_vmap_rule = True  # grouped execution of stage copies

    @staticmethod
    def forward(tensor: Tensor, factor: float) -> Tensor:
        del factor
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        del output
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None


def reverse_gradient(tensor: Tensor, factor: float) -> Tensor:
    """Returns the tensor as it is; a gradient that comes back through it is multiplied by -factor.

    Args:
        tensor: Any shape.
        factor: lambda, at least 0.

    Example:
        >>> weight = torch.tensor(2.0, requires_grad=True)
        >>> reverse_gradient(3 * weight, 0.5).backward()
        >>> weight.grad
        tensor(-1.5000)
    """
    found: Tensor = _Reverse.apply(tensor, factor)  # type: ignore[no-untyped-call]
    return found


class GradientReversal:
    """Stands at the input of the first module that belongs to an adversarial task alone, as a forward hook.

    A hook on the module works however the module is reached: by `forward`, by `from_features`, or behind a
    frozen front whose outputs are kept. A network in which a task reads what is shared through several
    modules of its own (gates, masks) calls `reverse` wherever it reads: behind a reversal of what they give,
    these modules would learn to hide from the task's head what the trunk is to forget.

    Args:
        reversal: The schedule.

    Attributes:
        factor: lambda as it stands now. Until `progress` is told: the largest.
    """

    def __init__(self, reversal: Reversal) -> None:
        self.reversal = reversal
        self.factor = reversal.at(1.0)

    def progress(self, progress: float) -> None:
        """Sets the factor for this share of the training, in [0, 1]."""
        self.factor = self.reversal.at(progress)

    def stand_before(self, module: nn.Module) -> None:
        """Reverses what reaches the module's input."""
        module.register_forward_pre_hook(self)

    def stand_around(self, module: nn.Module) -> None:
        """Puts the gradient back for a module below the reversal, and reverses what goes further down."""
        self.stand_before(module)
        module.register_forward_hook(self.restored_output)

    def leave(self, network: nn.Module) -> None:
        """Stands nowhere in the network any more."""
        for module in network.modules():
            for key in [key for key, hook in module._forward_pre_hooks.items() if hook is self]:
                del module._forward_pre_hooks[key]
            for key in [
                key for key, hook in module._forward_hooks.items() if getattr(hook, "__self__", None) is self
            ]:
                del module._forward_hooks[key]

    def reverse(self, tensor: Tensor) -> Tensor:
        """The tensor, behind the reversal where a gradient may come back."""
        return reverse_gradient(tensor, self.factor) if tensor.requires_grad else tensor

    def restore(self, tensor: Tensor) -> Tensor:
        """The tensor; a gradient that was reversed further up comes back as it was, 0 where it was lost.

        A copy, as the next stage may work in place, which the output of a function of one's own forbids.

        Example:
            >>> reversal, weight = GradientReversal(Reversal(lambda_=0.5)), torch.ones(1, requires_grad=True)
            >>> reversal.reverse(reversal.restore(3 * weight)).backward()
            >>> weight.grad
            tensor([3.])
        """
        if not tensor.requires_grad:
            return tensor
        return reverse_gradient(tensor, 1 / self.factor if self.factor else 0.0).clone()

    def restored_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook; see `stand_around`."""
        del module, inputs
        return self.restore(output)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del module
        first, *others = inputs
        # A copy, as the module may work in place, which the output of a function of one's own forbids.
        return (self.reverse(first).clone() if first.requires_grad else first, *others)


@contextmanager
def without_reversal(network: nn.Module) -> Iterator[None]:
    """Inside, gradients come back through a network as they are: of what a task sees, not of what it teaches.

    Args:
        network: The network, or what wraps it.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("mood"), tl.Binary("person", role="adversarial"))
        >>> network = tl.sharing.hard_sharing(tl.encoders.mlp((5,), hidden=[8]), tasks, stages=1)
        >>> inputs = torch.ones(1, requires_grad=True)
        >>> with without_reversal(network):
        ...     network.reversals["person"].reverse(inputs).backward()
        >>> inputs.grad
        tensor([1.])
    """
    reversals = {
        id(reversal): reversal
        for module in network.modules()
        for reversal in getattr(module, "reversals", {}).values()
    }
    factors = {number: reversal.factor for number, reversal in reversals.items()}
    try:
        for reversal in reversals.values():
            reversal.factor = -1.0  # a gradient times -(-1), at a reversal and where it is put back
        yield
    finally:
        for number, reversal in reversals.items():
            reversal.factor = factors[number]
