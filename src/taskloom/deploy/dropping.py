"""What helped in training and is not needed in use: auxiliary tasks, heads of deep supervision, ties.

A network of a plan loses the heads and copies themselves. In any other architecture, heads and stage copies
of the dropped tasks that no other task reads are replaced by modules that hold no weights and give zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.sharing import MultiTaskNetwork, PlanNetwork
from taskloom.sharing.multitask import Features
from taskloom.tasks import TaskSet

EmptyModules = Mapping[str, Sequence[int]]
"""Names of modules that are replaced, with the shape of a row of their outputs."""


class Empty(nn.Module):
    """Stands where a module stood whose outputs nobody reads: no weights, and zeros of the same shape.

    Example:
        >>> Empty([3])(torch.ones(2, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.new_zeros(
            inputs.shape[0], *self.shape
        )  # not len(): a batch of a size that is not known


class WithoutTasks(MultiTaskNetwork):
    """A network of any architecture that answers for some of its tasks only.

    What is not found here is looked for in the network itself.

    Args:
        network: The network; its modules named in `empty` are replaced.
        names: The tasks it no longer answers for.
        empty: What nobody reads without them; see `unread`.
    """

    def __init__(self, network: MultiTaskNetwork, names: Sequence[str], empty: EmptyModules) -> None:
        super().__init__(network.tasks.subset([task for task in network.tasks if task not in names]))
        self.network = network
        for name, shape in empty.items():
            network.set_submodule(name, Empty(shape))

    def features(self, inputs: Tensor) -> Features:
        return self.network.features(inputs)

    def from_features(self, features: Features) -> dict[str, Tensor]:
        predictions = self.network.from_features(features)
        return {task: predictions[task] for task in self.tasks}

    def shared_parameters(self) -> list[nn.Parameter]:
        return self.network.shared_parameters()

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        return self.network.task_parameters(self.tasks[task].name)

    def task_modules(self, task: str) -> list[nn.Module]:
        return self.network.task_modules(self.tasks[task].name)

    def mixing_matrices(self) -> dict[str, Tensor]:
        return self.network.mixing_matrices()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network":  # not there yet, while it is copied or unpickled
                raise
            return getattr(self.network, name)


def drop_tasks(
    network: MultiTaskNetwork, names: Sequence[str], empty: EmptyModules | None = None
) -> MultiTaskNetwork:
    """Takes tasks out of a network, with what only training needs.

    Args:
        network: The network; it is changed.
        names: The tasks; none takes out what only training needs.
        empty: Of an architecture that is no plan, what `unread` found.

    Returns:
        The network of the other tasks; their predictions are the same to the bit (see
        `PlanNetwork.drop_tasks` for the one exception).
    """
    if isinstance(network, PlanNetwork):
        network.drop_tasks(names)
        return network
    return WithoutTasks(network, names, empty or {}) if names else network


def unread(network: MultiTaskNetwork, names: Sequence[str], input_shape: Sequence[int]) -> EmptyModules:
    """Finds heads and stage copies that belong to these tasks and that no other task's prediction reads.

    Args:
        network: The network; it runs once, in evaluation mode, and stays as it is.
        names: The tasks.
        input_shape: Shape of one row's input.

    Returns:
        By module name, the shape of a row of its outputs. Nothing of a plan, which takes care of itself.
    """
    if isinstance(network, PlanNetwork) or not names:
        return {}
    # Rooms of training, which who loads a bundle to predict should not wait for.
    from taskloom.balancing.gradients import leaves
    from taskloom.training.evaluation import in_evaluation_mode

    owned = {id(parameter) for task in names for parameter in network.task_parameters(task)}
    candidates = {
        name: module
        for name, module in network.named_modules()
        if _is_head_or_copy(name)
        and (own := {id(parameter) for parameter in module.parameters()})
        and own <= owned
    }
    shapes: dict[str, list[int]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            shapes[name] = list(output.shape[1:])

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in candidates.items()]
    example = next(network.parameters())
    try:
        with in_evaluation_mode(network), torch.enable_grad(), torch.random.fork_rng():
            predictions = network(torch.rand(2, *input_shape, dtype=example.dtype, device=example.device))
    finally:
        for handle in handles:
            handle.remove()
    read = set().union(*(leaves(output) for task, output in predictions.items() if task not in names))
    return {
        name: shapes[name]
        for name, module in candidates.items()
        if name in shapes and not read & {id(parameter) for parameter in module.parameters()}
    }


def not_for_use(tasks: TaskSet) -> list[str]:
    """The auxiliary and adversarial tasks; none where there is no main one to be left."""
    beside = [name for name, task in tasks.items() if not task.judged]
    return [] if len(beside) == len(tasks) else beside


def _is_head_or_copy(name: str) -> bool:
    """Whether a module is `heads.<task>` or `stages.<stage>.<copy>`."""
    parts = name.split(".")
    return (parts[0] == "heads" and len(parts) == 2) or (parts[0] == "stages" and len(parts) == 3)
