"""Gradients per task, row by row: one forward pass and a backward pass per task that is present.

The rows stand in one matrix [T, n] that is kept from step to step, so memory is T + 1 copies of the shared
gradient at most: the T rows, and either the row that autograd is giving or the update that is made of them.
Their inner products are summed in double precision over blocks that fit into the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from taskloom.sharing.memory import Order, memory_order
from taskloom.sharing.network import PlanNetwork
from taskloom.sharing.reach import modules_reached

if TYPE_CHECKING:
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork

_BLOCK = 1 << 12
"""Columns of a block: ten rows of it stay in the second-level cache."""


@dataclass
class Seam:
    """Which parameters several losses reach, and which belong to one.

    Args:
        shared: What more than one task's loss reaches: `shared_parameters()` and, where mixing lets other
            tasks hear a task's own copies, those copies as well.
        own: Per task, its parameters that no other loss reaches.
        linear: Whether all of `shared` is weights and biases of linear layers.
        apart: Tasks that reach nothing of what is shared: their rows are zeros whatever their loss.
    """

    shared: list[nn.Parameter]
    own: dict[str, list[nn.Parameter]]
    linear: bool = False
    apart: frozenset[str] = frozenset()


def find_seam(losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> Seam:
    """Looks which losses reach which parameters, by walking through the graph of each.

    Args:
        losses: Losses of a batch that still have their graph.
        model: The network. Frozen parameters belong to neither side.
    """
    in_graph = {task: leaves(loss.sum) for task, loss in losses.items()}
    # What a term couples has no parameters of its own: all that it reaches is shared, heads too.
    of_terms = {number for name in losses if name not in model.tasks for number in in_graph[name]}
    times: dict[int, int] = {}
    for reached in in_graph.values():
        for number in reached:
            times[number] = times.get(number, 0) + 1
    shared = [p for p in model.shared_parameters() if p.requires_grad and id(p) in times]
    known = {id(p) for p in shared}
    own: dict[str, list[nn.Parameter]] = {name: [] for name in losses}
    may_be_heard = _may_be_heard(model)
    for task in model.tasks:
        mine = [p for p in model.task_parameters(task) if p.requires_grad]
        heard = [
            p
            for p in mine
            if times.get(id(p), 0) > 1
            and id(p) not in known
            and (may_be_heard is None or id(p) in may_be_heard or id(p) in of_terms)
        ]
        shared += heard
        known |= {id(p) for p in heard}
        own[task] = [p for p in mine if id(p) not in known and id(p) in in_graph.get(task, ())]
    of_linear = {
        id(p)
        for module in model.modules()
        if type(module) is nn.Linear
        for p in module.parameters(recurse=False)
    }
    ids = {id(p) for p in shared}
    apart = {name for name, reached in reached_by(losses, model).items() if not reached & ids}
    return Seam(shared, own, linear=ids <= of_linear, apart=frozenset(apart))


def reached_by(losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> dict[str, set[int]]:
    """Per loss the ids of the parameters that it reaches: a task's by the plan, where there is one.

    Args:
        losses: Losses of a batch that still have their graph.
        model: The network.
    """
    planned = planned_reach(model) or {}
    return {name: planned[name] if name in planned else leaves(loss.sum) for name, loss in losses.items()}


def planned_reach(model: MultiTaskNetwork) -> dict[str, set[int]] | None:
    """Per task the ids of the parameters that its predictions depend on; None where only the graph knows."""
    if not isinstance(model, PlanNetwork):
        return None
    return {
        task: {id(p) for module in modules for p in module.parameters()}
        for task, modules in modules_reached(model).items()
    }


def tasks_that_share(model: MultiTaskNetwork) -> list[str]:
    """The tasks that read a trainable parameter which another one reads; all where only the graph knows.

    Example:
        >>> tasks = tl.TaskSet(*(tl.Binary(name) for name in "abc"))
        >>> encoder = tl.encoders.mlp((5,), hidden=[8])
        >>> tasks_that_share(tl.sharing.hard_sharing(encoder, tasks, stages=1, groups=[["a", "c"], ["b"]]))
        ['a', 'c']
    """
    planned = planned_reach(model)
    if planned is None:
        return list(model.tasks)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    times = Counter(number for reached in planned.values() for number in reached & trainable)
    return [task for task, reached in planned.items() if any(times[number] > 1 for number in reached)]


def takes_one_pass(num_tasks: int, num_shared: int) -> bool:
    """Whether one vectorised pass through a multilayer perceptron is faster than a pass per task.

    Measured on a CPU with freed memory kept (`training/allocator.py`), two layers of 64 to 1,024, batches of
    32 to 256, 4 and 10 tasks: 0.4 to 1.0 of the time, less the more tasks and the fewer rows of the batch; up
    to three tasks on the smallest trunks gain little. It takes up to the rows' memory once more: from
    16 MiB of rows on the bound of T + 1 copies of the gradient is worth more than a tenth of the time.

    Args:
        num_tasks: Tasks in the batch.
        num_shared: Numbers in what is shared.

    Example:
        >>> takes_one_pass(10, 6_000), takes_one_pass(3, 6_000), takes_one_pass(10, 1_000_000)
        (True, False, False)
    """
    return num_tasks >= 4 and num_tasks * num_shared <= 1 << 22


def _may_be_heard(model: MultiTaskNetwork) -> set[int] | None:
    """Parameters of single tasks that other tasks may hear; None where only the graph knows.

    The graph alone would say more than is true where several tasks go through one node: copies that run as
    one grouped kernel, masks and gates that are worked out in one pass.
    """
    own: Any = getattr(model, "heard_modules", None)
    modules: list[nn.Module] = []
    if own is not None:
        for task in model.tasks:
            found = own(task)
            if found is None:
                return None
            modules += found
    else:
        plan: Any = getattr(model, "plan", None)
        copies_of: Any = getattr(model, "task_copies", None)
        if plan is None or copies_of is None:
            return None
        mixed = (n for n, stage in enumerate(plan.stages, start=1) if stage.mixing is not None)
        last = max(mixed, default=0)
        modules = [copy for task in model.tasks for copy in copies_of(task)[:last]]
    return {id(p) for module in modules for p in module.parameters()}


def share_nothing(model: MultiTaskNetwork) -> bool:
    """Whether it is known that no two tasks read the same parameter: gradients have nothing in common then.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("mood"), tl.Binary("gender"))
        >>> encoder = tl.encoders.mlp((5,), hidden=[8])
        >>> share_nothing(tl.sharing.soft_sharing(encoder, tasks))
        True
        >>> share_nothing(tl.sharing.cross_stitch(encoder, tasks))
        False
    """
    shared = any(parameter.requires_grad for parameter in model.shared_parameters())
    return not shared and _may_be_heard(model) == set()


def leaves(tensor: Tensor) -> set[int]:
    """The ids of all leaf tensors that need a gradient and that `tensor` was computed from."""
    found: set[int] = set()
    seen: set[object] = set()
    stack = [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.add(id(variable))
        stack.extend(following for following, _ in node.next_functions)
    return found


class Rows:
    """The matrix of gradients: one row per task, one column per number in the tensors.

    A row that is put in twice for one task (a batch taken in parts) is added up.
    """

    def __init__(self) -> None:
        self._memory = torch.zeros(1, 0)
        self.tasks: list[str] = []

    def __reduce__(self) -> tuple[type[Rows], tuple[()]]:
        """Copies and processes start without rows: they belong to the step that made them."""
        return Rows, ()

    @property
    def matrix(self) -> Tensor:
        """The rows so far, [m, n]; a view."""
        return self._memory[: len(self.tasks)]

    def begin(self, num_tasks: int, tensors: Sequence[Tensor]) -> None:
        """Makes room for a row of every task; the memory of the step before is used again where it fits."""
        size = sum(tensor.numel() for tensor in tensors)
        like = tensors[0] if tensors else torch.zeros(0)
        dtype = torch.promote_types(like.dtype, torch.float32)
        kept = self._memory
        if kept.shape != (num_tasks, size) or kept.dtype != dtype or kept.device != like.device:
            self._memory = torch.empty(0)  # before the next one is made: two need not fit
            self._memory = torch.empty(num_tasks, size, dtype=dtype, device=like.device)
            self.tasks = []

    def put(self, task: str, gradients: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> None:
        """Writes a task's row; None is a gradient of zeros."""
        flat = [
            like.new_zeros(()).expand(like.numel()) if gradient is None else _in_order_of(like, gradient)
            for gradient, like in zip(gradients, tensors, strict=True)
        ]
        if task in self.tasks:
            self._memory[self.tasks.index(task)] += torch.cat(flat)
            return
        row = self._memory[len(self.tasks)]
        self.tasks.append(task)
        if flat and all(part.dtype == row.dtype for part in flat):
            torch.cat(flat, out=row)
        elif flat:
            row.copy_(torch.cat(flat))

    def put_all(self, tasks: Sequence[str], blocks: Sequence[Tensor | None], like: Sequence[Tensor]) -> None:
        """Writes the rows of several tasks at once.

        Args:
            tasks: m tasks that have no row yet.
            blocks: Per tensor the gradients of all of them, [m, *shape]; None is a gradient of zeros.
            like: The tensors.
        """
        count, begin = len(tasks), 0
        for block, tensor in zip(blocks, like, strict=True):
            columns = self._memory[:count, begin : begin + tensor.numel()]
            if block is None:
                columns.zero_()
            else:
                order = (0, *(axis + 1 for axis in _order_of(tensor)))
                columns.copy_(block.permute(order).reshape(count, -1))
            begin += tensor.numel()
        self.tasks = list(tasks)

    def adopt(self, tasks: Sequence[str], matrix: Tensor) -> None:
        """Takes a finished matrix [m, n] as the rows of m tasks, in place of memory of its own."""
        dtype = torch.promote_types(matrix.dtype, torch.float32)
        self._memory, self.tasks = matrix.to(dtype), list(tasks)

    def clear(self) -> None:
        """Forgets the rows, not the memory."""
        self.tasks = []


def gramian(matrix: Tensor) -> NDArray[np.float64]:
    """Inner products of the rows of [m, n], [m, m]; blocks of columns are summed in double precision."""
    size, columns = matrix.shape
    num_blocks = columns // _BLOCK
    if num_blocks < 2 and matrix.is_cpu and matrix.dtype == torch.float32:
        small = matrix.detach().numpy().astype(np.float64)
        with np.errstate(invalid="ignore"):  # what is not finite is told where it is known whose it is
            products: NDArray[np.float64] = small @ small.T
        return products
    rest = matrix[:, num_blocks * _BLOCK :]
    total = (rest @ rest.T).double()
    if num_blocks:
        # One batched product: two to three times as fast on a CPU as one flat product of so few rows.
        blocks = matrix[:, : num_blocks * _BLOCK].view(size, num_blocks, _BLOCK).transpose(0, 1)
        total += torch.bmm(blocks, blocks.transpose(1, 2)).double().sum(0)
    return total.cpu().numpy()


def combine(weights: NDArray[np.float64], matrix: Tensor) -> Tensor:
    """The weighted sum of the rows of [m, n]; [n]."""
    return torch.as_tensor(weights, dtype=matrix.dtype, device=matrix.device) @ matrix


def flattened(gradients: Iterable[Tensor], tensors: Iterable[Tensor]) -> Tensor:
    """The gradients one behind the other, as `parts` cuts them; [n]."""
    pairs = zip(gradients, tensors, strict=True)
    return torch.cat([_in_order_of(tensor, gradient) for gradient, tensor in pairs])


def parts(vector: Tensor, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Cuts [n] into views that have the shapes of the tensors and lie in memory as they do."""
    begin = 0
    for tensor in tensors:
        order = _order_of(tensor)
        piece = vector[begin : begin + tensor.numel()].view([tensor.shape[axis] for axis in order])
        yield piece.permute([order.index(axis) for axis in range(tensor.dim())])
        begin += tensor.numel()


def add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Adds to `.grad`; where there is none yet, the gradient itself becomes it.

    It is laid out in memory as its parameter, as a backward pass would do: PyTorch's fused optimisers walk
    through both memories side by side. With another order they take the wrong numbers on a CPU without a
    word, and refuse the step on a GPU.
    """
    if parameter.grad is not None:
        parameter.grad += gradient
        return
    parameter.grad = laid_out(gradient.to(parameter.dtype), parameter)


def laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient with the memory layout of its parameter: itself where it has it, else a copy."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)


def _order_of(tensor: Tensor) -> Order:
    """The order of the axes in which a row of gradients runs through a tensor.

    That of a parameter's own memory: the filters of images lie with their channels last, and so do their
    gradients, which are then taken over as they are. A feature is read again in the order of its axes.
    """
    return memory_order(tensor) if isinstance(tensor, nn.Parameter) else tuple(range(tensor.dim()))


def _in_order_of(tensor: Tensor, gradient: Tensor) -> Tensor:
    return gradient.permute(_order_of(tensor)).reshape(-1)
