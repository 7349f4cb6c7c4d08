"""Linear heads of all tasks as one layer, where a balancer wants gradients per task at the shared feature.

With the outputs Z W' + b of all heads, [B, K], the gradient D [B, K] of the losses at them says everything:
task t, whose outputs are the columns t, has the gradient D_t W_t at the shared feature Z [B, F], its head the
gradient D_t' Z. The inner products of two tasks' gradients at the feature are sums of entries of
(D' D) * (W W'), so that none of these gradients has to be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taskloom.balancing.numbers import as_tensor
from taskloom.balancing.solvers import Array

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork


@dataclass(frozen=True)
class ReadOuts:
    """The heads of one forward pass.

    Args:
        features: What they read, [B, F], without gradient.
        outputs: What they gave, [B, K], with its graph.
        weight: Their weights, one below the other, [K, F], without gradient.
        heads: Per task, weights and biases of its layer.
        widths: Outputs of each task.
    """

    features: Tensor
    outputs: Tensor
    weight: Tensor
    heads: Mapping[str, tuple[Tensor, Tensor]]
    widths: list[int]

    def predictions(self) -> dict[str, Tensor]:
        """The outputs by task."""
        return dict(zip(self.heads, self.outputs.split_with_sizes(self.widths, dim=1), strict=True))

    def of_heads(self, gradient: Tensor) -> dict[int, Tensor]:
        """The gradients at the heads' parameters by their `id`, from that at the outputs [B, K]."""
        weights = (gradient.t() @ self.features).split_with_sizes(self.widths)
        biases = gradient.sum(0).split_with_sizes(self.widths)
        found: dict[int, Tensor] = {}
        for (of_weight, of_bias), weight, bias in zip(self.heads.values(), weights, biases, strict=True):
            found[id(of_weight)], found[id(of_bias)] = weight, bias
        return found

    def weighted(self, gradient: Tensor, weights: Mapping[str, float]) -> Tensor:
        """The gradient at the outputs [B, K], that of each task times its weight; 0 for tasks without one."""
        by_output: list[float] = []
        for task, width in zip(self.heads, self.widths, strict=True):
            by_output += [weights.get(task, 0.0)] * width
        return gradient * as_tensor(by_output, gradient)

    def at_feature(self, gradient: Tensor) -> Tensor:
        """The gradient at the feature [B, F] from that at the outputs [B, K]."""
        return gradient @ self.weight

    def at_feature_by_task(self, gradient: Tensor, tasks: Sequence[str]) -> Tensor:
        """The tasks' gradients at the feature, [m, B, F], from the one at the outputs [B, K]."""
        if self._one_each(tasks):
            return gradient.t().contiguous().unsqueeze(2) * self.weight.unsqueeze(1)
        return (gradient * self._mask(tasks).unsqueeze(1)) @ self.weight

    def gramian(self, gradient: Tensor, tasks: Sequence[str]) -> Array:
        """Inner products [m, m] of the tasks' gradients at the feature, from the one at the outputs."""
        # As tensors, which overflow without a word: what is not finite is told where it is known whose it is.
        wide, weight = gradient.double(), self.weight.double()
        by_output = (wide.t() @ wide) * (weight @ weight.t())
        if not self._one_each(tasks):
            mask = self._mask(tasks).double()
            by_output = mask @ by_output @ mask.t()
        products: Array = by_output.cpu().numpy()
        return products

    def _one_each(self, tasks: Sequence[str]) -> bool:
        """Whether these are all tasks, each with one output."""
        return len(tasks) == len(self.heads) == len(self.weight) and list(tasks) == list(self.heads)

    def _mask(self, tasks: Sequence[str]) -> Tensor:
        """Which outputs are whose, [m, K]."""
        mask, end = self.weight.new_zeros(len(tasks), len(self.weight)), 0
        for task, width in zip(self.heads, self.widths, strict=True):
            if task in tasks:
                mask[tasks.index(task), end : end + width] = 1
            end += width
        return mask


def linear_heads(model: MultiTaskNetwork) -> dict[str, nn.Linear] | None:
    """The heads, where every one is a plain linear layer over the shared feature; None otherwise."""
    plan: Any = getattr(model, "plan", None)
    copies_of: Any = getattr(model, "task_copies", None)
    shared_to_the_end = plan is not None and plan.num_shared_stages == len(plan.stages)
    heard = getattr(model, "heard_modules", None)  # of networks that have parts of their own for tasks
    if not shared_to_the_end or copies_of is None or heard is not None:
        return None
    heads: dict[str, nn.Linear] = {}
    for task in model.tasks:
        head = copies_of(task)[-1]
        layer = head[0] if type(head) is nn.Sequential and len(head) == 1 else head
        if type(layer) is not nn.Linear or layer.bias is None or "forward" in vars(layer):
            return None
        heads[task] = layer
    return heads


def read_out(
    heads: Mapping[str, nn.Linear], features: Tensor, around: Sequence[nn.Module]
) -> ReadOuts | None:
    """All heads in one pass; None where something else is to happen at one of them.

    Args:
        heads: From `linear_heads`.
        features: [B, F], with the graph of the trunk.
        around: The heads and the modules they stand in, on which hooks may have been put.
    """
    if features.ndim != 2 or torch.is_autocast_enabled(features.device.type):
        return None
    if features.dtype not in (torch.float32, torch.float64) or are_hooked(around):
        return None
    if any(parameter._backward_hooks for head in heads.values() for parameter in head.parameters()):
        return None
    parameters: dict[str, tuple[Tensor, Tensor]] = {
        task: (head.weight, head.bias) for task, head in heads.items()
    }
    weight = torch.cat([weight for weight, _ in parameters.values()])
    bias = torch.cat([bias for _, bias in parameters.values()])
    outputs = F.linear(features, weight, bias)
    widths = [len(bias) for _, bias in parameters.values()]
    return ReadOuts(features.detach(), outputs, weight.detach(), parameters, widths)


def are_hooked(modules: Sequence[nn.Module]) -> bool:
    """Whether hooks stand on one of these modules, or on all modules at once."""
    for module in modules:
        if module._forward_pre_hooks or module._forward_hooks:
            return True
        if module._backward_pre_hooks or module._backward_hooks:
            return True
    return _global_hooks()


def only_known(modules: Iterable[nn.Module]) -> bool:
    """Whether all these modules are PyTorch's or taskloom's, whose forward passes put no hooks on tensors.

    Another module's may, and autograd's graph says nothing of hooks.

    Example:
        >>> only_known(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).modules())
        True
    """
    return all(
        type(module).__module__.split(".")[0] in ("torch", "taskloom") and "forward" not in vars(module)
        for module in modules
    )


def _global_hooks() -> bool:
    """Whether hooks stand on all modules at once."""
    hooks = torch.nn.modules.module
    return bool(
        hooks._global_forward_hooks
        or hooks._global_forward_pre_hooks
        or hooks._global_backward_hooks
        or hooks._global_backward_pre_hooks
    )
