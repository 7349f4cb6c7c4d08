"""What of a network goes on learning once a task has stopped: parameters, statistics, modes, optimiser state.

A task stops in one of two ways.

With everything shared (early freeze, thesis 001, section 3.5): what goes on is what belongs to a task that
still learns *and* is read by no task that has stopped. The predictions of a stopped task therefore never
change again, whatever the plan:

- hard sharing, from either end: the shared stages and the stopped task's own ones stay as they are, the
  others' go on;
- cross-stitch: a mixed stage lets every task hear every column, so all columns up to the last mixed stage
  freeze, with the mixing matrices; the stages after it and the heads of the others go on;
- soft sharing: the stopped task's copies freeze, the others' go on, still tied to it;
- branched plans, mixtures of experts: every copy or expert that several tasks use freezes, and so does an
  expert that belongs to one task but that a stopped task hears.

Heads of deep supervision belong to their task and stop with it, at all stages. Those of a task that goes on
learn where a stage below them does; where all are frozen there is nothing to supervise, and they freeze too.

Alone (task-wise early stopping, Zhang et al. 2014): what the stopped tasks read and no other task reads stays
as it is, everything else goes on.

Frozen means: no gradient, no place in the optimiser and no state in it; batch normalisation uses its running
statistics and does not update them; dropout is off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from taskloom.errors import ConfigError, did_you_mean
from taskloom.sharing.network import PlanNetwork
from taskloom.training.evaluation import in_evaluation_mode
from taskloom.training.kept_features import Remainder

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork

_ROWS = 8
"""Rows on which `reads` runs a network: a unit that is dead on one row is hardly dead on all."""
_NOISE = (0.1, 1.0, 3.0, 3.0, 3.0, 3.0)
"""Noise of each pass of `reads`, as shares of a tensor's size: a head of few units may be dead far around a
row, but little is left of it where noise is three times its size."""


class Freezing:
    """Which tasks have stopped, and what of network and optimiser is frozen for it.

    Args:
        model: The network, not frozen yet.
        optimizer: The optimiser over its parameters; its groups may carry `names`.
        example: Gives inputs [1, ...] to run the network on; needed at the first stop.

    Attributes:
        stopped: Tasks that have stopped, in that order.
        shared: Whether everything shared is frozen too.
        remainder: How the network runs once everything shared is frozen; None before.
        features_bytes: Memory that kept outputs of the frozen front may take; see `KeptFeatures`.
    """

    def __init__(
        self, model: MultiTaskNetwork, optimizer: Optimizer, example: Callable[[], Tensor] | None = None
    ) -> None:
        self.model, self.optimizer, self.example = model, optimizer, example
        self.stopped: list[str] = []
        self.shared = False
        self.remainder: Remainder | None = None
        self.features_bytes = 0
        self._shared_from: int | None = None
        self._anatomy: Anatomy | None = None
        self._frozen: dict[int, nn.Parameter] = {}
        self._still: list[nn.Module] = []

    @property
    def active(self) -> tuple[str, ...]:
        """The tasks that still learn."""
        return tuple(task for task in self.model.tasks if task not in self.stopped)

    def stop(self, task: str, *, with_shared: bool = False) -> None:
        """Ends the learning of a task.

        Args:
            task: Its name.
            with_shared: Whether everything shared freezes too; once frozen it stays so.

        Raises:
            ConfigError: There is no such task, or it has stopped already.
        """
        check_names([task], self.model.tasks, "freezing")
        if task in self.stopped:
            raise ConfigError(f"freezing: task {task} has stopped already.")
        if self._anatomy is None:
            self._anatomy = Anatomy.of(self.model, self._example())
        self.stopped.append(task)
        if with_shared and not self.shared:
            self.shared, self._shared_from = True, len(self.stopped) - 1
        live = self._anatomy.live_modules(self.active, self.stopped) if self.shared else None
        if self.shared:
            parameters = self._anatomy.all_but_own(self.active, self.stopped)
        else:
            parameters = self._anatomy.read_only_by(self.stopped, self.active)
        for parameter in parameters:
            parameter.requires_grad_(False)
            self._frozen[id(parameter)] = parameter
            parameter.grad = None
        self._leave_optimizer()
        self._still = _still_modules(self.model, live, self._frozen)
        self.set_modes()
        if self.shared and self.remainder is None and self.active:
            assert live is not None
            self.remainder = Remainder(self.model, self.active, live, self._example())
        if self.remainder is not None:
            self.remainder.active = self.active

    def set_modes(self) -> None:
        """Puts frozen modules into evaluation mode; needed after `model.train()`."""
        for module in self._still:
            module.training = False

    def forget_moments(self) -> None:
        """Empties the optimiser's state of the network's parameters: after a return to older weights."""
        for parameter in self.model.parameters():
            self.optimizer.state.pop(parameter, None)

    def own_entries(self, task: str) -> list[str]:
        """Names in the network's state dict that belong to this task alone and still change."""
        assert self._anatomy is not None
        own = self._anatomy.live_modules([task], self.stopped)
        inside = {id(tensor) for module in own for tensor in module.state_dict(keep_vars=True).values()}
        inside |= {id(p) for p in self._anatomy.owned[task] if id(p) not in self._frozen}
        return [
            name for name, tensor in self.model.state_dict(keep_vars=True).items() if id(tensor) in inside
        ]

    def release(self) -> None:
        """Lets gradients through again: what was frozen for a training may be trained by the next."""
        for parameter in self._frozen.values():
            parameter.requires_grad_(True)

    def state_dict(self) -> dict[str, Any]:
        """Plain values; see `load_state_dict`."""
        state: dict[str, Any] = {"stopped": list(self.stopped), "shared_from": self._shared_from}
        if self._anatomy is not None and not isinstance(self.model, PlanNetwork):
            # Found by differentiating the weights of that moment: other weights might tell otherwise.
            parts = [*self.model.named_parameters(), *self.model.named_modules()]
            read = self._anatomy.read.items()
            state["read"] = {task: [name for name, part in parts if id(part) in ids] for task, ids in read}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Freezes what was frozen; before the optimiser takes its own state."""
        if "read" in state:
            parts = dict([*self.model.named_parameters(), *self.model.named_modules()])
            read = {task: {id(parts[name]) for name in names} for task, names in state["read"].items()}
            self._anatomy = Anatomy.of(self.model, self._example(), read)
        for position, task in enumerate(state["stopped"]):
            self.stop(task, with_shared=position == state["shared_from"])

    def _example(self) -> Tensor:
        assert self.example is not None, "training gives the inputs"
        return self.example()

    def _leave_optimizer(self) -> None:
        """Takes frozen parameters out of the optimiser's groups, which stay, empty if need be."""
        assert self._anatomy is not None
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._frozen:
                    self.optimizer.state.pop(parameter, None)
            group["params"] = [p for p in group["params"] if id(p) not in self._frozen]
            if "names" in group:
                group["names"] = [
                    name
                    for name in group["names"]
                    if not (ids := self._anatomy.group_ids.get(name)) or not ids <= self._frozen.keys()
                ]


class Anatomy:
    """Who owns and who reads what of a network that has nothing frozen.

    Args:
        owned: Per task, its own trainable parameters.
        modules: Per task, its own modules.
        read: Per task, `id` of every trainable parameter and of every module of `modules` that its
            prediction depends on.
        parameters: All trainable parameters.
        group_ids: `id`s of the parameters by the name of their parameter group.
        lower_heads: Per task, its heads of deep supervision, each with the copies below it.
    """

    def __init__(
        self,
        owned: dict[str, list[nn.Parameter]],
        modules: dict[str, list[nn.Module]],
        read: dict[str, set[int]],
        parameters: list[nn.Parameter],
        group_ids: dict[str, set[int]],
        lower_heads: dict[str, list[tuple[nn.Module, list[nn.Module]]]],
    ) -> None:
        self.owned, self.modules, self.read = owned, modules, read
        self.parameters, self.group_ids, self.lower_heads = parameters, group_ids, lower_heads

    @classmethod
    def of(cls, model: MultiTaskNetwork, inputs: Tensor, read: dict[str, set[int]] | None = None) -> Anatomy:
        """Finds it out; `read` where that is known."""
        modules = {task: model.task_modules(task) for task in model.tasks}
        lower_heads: dict[str, list[tuple[nn.Module, list[nn.Module]]]] = {}
        if isinstance(model, PlanNetwork):
            read = plan_reads(model)
            lower_heads = {
                task: [(head, model.task_copies(task)[:n]) for n, head in model.lower_heads(task).values()]
                for task in model.tasks
            }
        elif read is None:
            # A reversal by 0 would look like no dependence; the next step sets it anew.
            model.set_progress(1.0)
            read = reads(model, inputs, [module for own in modules.values() for module in own])
        return cls(
            owned={task: list(model.task_parameters(task)) for task in model.tasks},
            modules=modules,
            read=read,
            parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
            group_ids={group.name: set(map(id, group.parameters)) for group in model.parameter_groups()},
            lower_heads=lower_heads,
        )

    def read_by(self, tasks: Iterable[str]) -> set[int]:
        return set().union(*(self.read[task] for task in tasks))

    def live_modules(self, active: Iterable[str], stopped: Iterable[str]) -> list[nn.Module]:
        """Modules of the active tasks that no stopped task reads, less heads over stages that are still."""
        active, read = list(active), self.read_by(stopped)
        live = [module for task in active for module in self.modules[task] if id(module) not in read]
        idle = self.idle_heads(active, live)
        return [module for module in live if module not in idle]

    def idle_heads(self, active: Iterable[str], live: Iterable[nn.Module]) -> set[nn.Module]:
        """Heads of deep supervision of the active tasks with no live module below them."""
        moving = set(live)
        return {
            head
            for task in active
            for head, below in self.lower_heads.get(task, ())
            if not moving.intersection(below)
        }

    def all_but_own(self, active: Iterable[str], stopped: Iterable[str]) -> list[nn.Parameter]:
        """All parameters but those of the active tasks that no stopped task reads, idle heads among them."""
        active, stopped = list(active), list(stopped)
        own = {id(p) for task in active for p in self.owned[task]} - self.read_by(stopped)
        idle = self.idle_heads(active, self.live_modules(active, stopped))
        own -= {id(p) for head in idle for p in head.parameters()}
        return [parameter for parameter in self.parameters if id(parameter) not in own]

    def read_only_by(self, stopped: Iterable[str], active: Iterable[str]) -> list[nn.Parameter]:
        """Parameters that a stopped task reads and no active one."""
        only = self.read_by(stopped) - self.read_by(active)
        return [parameter for parameter in self.parameters if id(parameter) in only]


def plan_reads(network: PlanNetwork) -> dict[str, set[int]]:
    """`reads` of a plan, from the plan: a task's own copies, and every column up to the last mixed stage.

    Differentiating would say more than is true where a shared copy runs on the joined batch of several tasks.
    """
    mixed = [number for number, stage in enumerate(network.plan.stages, start=1) if stage.mixing is not None]
    heard = [
        copy for task in network.tasks for copy in network.task_copies(task)[:-1][: max(mixed, default=0)]
    ]
    found: dict[str, set[int]] = {}
    for task in network.tasks:
        # In training a task reads its heads of deep supervision, too.
        modules = [*network.task_copies(task), *network.task_modules(task), *heard, network.mixing]
        found[task] = {id(part) for module in modules for part in (module, *module.parameters())}
    return found


def reads(model: MultiTaskNetwork, inputs: Tensor, modules: Iterable[nn.Module]) -> dict[str, set[int]]:
    """What each task's prediction depends on, found by differentiating it: it holds for any architecture.

    A gradient that is 0 throughout is no dependence: predictions of all tasks may be one stack, of which a
    task takes its part. So that no gradient is 0 by chance (a mixing matrix that starts as the identity, a
    layer that starts at 0, dead units, all those of a small head perhaps), parameters and inputs are
    disturbed by noise, in several passes of which one is enough.

    Args:
        model: The network; it runs in evaluation mode. Nothing in it changes.
        inputs: [N, ...].
        modules: Modules whose outputs are looked at besides the parameters (they may have none).

    Returns:
        Per task, the `id` of every trainable parameter and of every one of `modules` that it reads.
    """
    draw, modules = torch.Generator().manual_seed(0), list(modules)
    inputs = inputs.repeat(_ROWS, *[1] * (inputs.dim() - 1))
    found: dict[str, set[int]] = {}
    with in_evaluation_mode(model), model.decided():  # noise would choose another way
        for noise in _NOISE:
            for task, read in _reads_once(model, inputs, modules, noise, draw).items():
                found[task] = found.get(task, set()) | read
    return found


def _reads_once(
    model: MultiTaskNetwork, inputs: Tensor, modules: list[nn.Module], noise: float, draw: torch.Generator
) -> dict[str, set[int]]:
    """What `reads` finds in one pass."""
    outputs: list[tuple[nn.Module, Tensor]] = []
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    disturbed = {name: _disturbed(p, noise, draw).requires_grad_(True) for name, p in parameters.items()}
    if inputs.is_floating_point():
        # A module without parameters is then part of the graph, too.
        inputs = _disturbed(inputs, noise, draw).requires_grad_(True)

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        del given
        if isinstance(output, Tensor) and output.requires_grad:
            outputs.append((module, output))

    handles = [module.register_forward_hook(keep) for module in modules]
    devices = [inputs.device] if inputs.is_cuda else []
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=devices):
            predictions = torch.func.functional_call(model, disturbed, (inputs,))
    finally:
        for handle in handles:
            handle.remove()
    wanted = [*disturbed.values(), *(output for _, output in outputs)]
    owners: list[object] = [*parameters.values(), *(module for module, _ in outputs)]
    found: dict[str, set[int]] = {}
    for task, prediction in predictions.items():
        gradients = torch.autograd.grad(
            prediction.square().sum(), wanted, retain_graph=True, allow_unused=True
        )
        read = {id(o) for o, g in zip(owners, gradients, strict=True) if g is not None and _is_felt(g)}
        read |= {id(module) for module in modules if any(id(p) in read for p in module.parameters())}
        found[task] = read
    return found


def _is_felt(gradient: Tensor) -> bool:
    """Whether a number of it is not 0; what overflowed in a deep network says nothing (0 times infinity)."""
    return bool(gradient.nan_to_num(0.0, 0.0, 0.0).any())


def _disturbed(tensor: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """A copy with noise of this share of its size, and never without any."""
    tensor = tensor.detach()
    noise = torch.randn(tensor.shape, generator=draw).to(tensor)
    return tensor + noise * max(0.1 * share, share * float(tensor.abs().mean()))


def check_names(names: Iterable[str], tasks: Iterable[str], where: str) -> None:
    """Raises ConfigError at the first name that is not a task; suggests the nearest one."""
    tasks = list(tasks)
    for name in names:
        if name not in tasks:
            raise ConfigError(
                f"{where}: there is no task `{name}`.{did_you_mean(str(name), tasks)} "
                f"Tasks: {', '.join(tasks)}."
            )


def _still_modules(
    model: nn.Module, live: list[nn.Module] | None, frozen: Mapping[int, nn.Parameter]
) -> list[nn.Module]:
    """All modules outside `live`; where it is None, those with parameters that are all frozen, and inside."""
    if live is not None:
        moving = {inside for module in live for inside in module.modules()}
        return [module for module in model.modules() if module not in moving]
    return [
        inside
        for module in model.modules()
        if (ids := set(map(id, module.parameters()))) and ids <= frozen.keys()
        for inside in module.modules()
    ]
