"""Gradients per task, collected for a method and put where they belong; the method itself is a subclass's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from taskloom.balancing.base import Balancer
from taskloom.balancing.chains import Link, chain_of, gramian_of
from taskloom.balancing.checks import check_gradients, check_known
from taskloom.balancing.features import SharedFeature
from taskloom.balancing.gradients import (
    Rows,
    Seam,
    add_gradient,
    combine,
    find_seam,
    flattened,
    leaves,
    parts,
    takes_one_pass,
)
from taskloom.balancing.numbers import as_tensor
from taskloom.balancing.solvers import Array
from taskloom.errors import ConfigError, TrainingError
from taskloom.sharing.changing import SelfChanging

if TYPE_CHECKING:
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork

Place = Literal["parameters", "features"]


class RowBalancer(Balancer):
    """Base of balancers that need a gradient per task on what is shared: a row of the matrix each.

    Args:
        name: What messages call the method.
        at: Where the rows are taken: "parameters" or "features".

    Attributes:
        batched: Whether rows are taken in one vectorised pass; None where measurement says so.
    """

    takes_gradients: ClassVar[bool] = True

    def __init__(self, name: str, at: Place) -> None:
        super().__init__()
        self.name, self.at = name, at
        self.batched: bool | None = None
        self._names: tuple[str, ...] = ()
        self._rows, self._feature = Rows(), SharedFeature(name)
        self._seam: Seam | None = None
        self._seam_key: object = None
        self._parameters: tuple[object, list[nn.Parameter]] = (None, [])
        self._inner: Array | None = None
        self._past = False

    @property
    def needs_rows(self) -> bool:
        """Whether the method needs the gradients themselves, not only their inner products."""
        return True

    def watching(self, model: MultiTaskNetwork) -> AbstractContextManager[None]:
        # A term reads the predictions of several tasks: no gradient at one tap would be all of its own.
        return self._feature.watching(model, required=self.at == "features", apart=not self._terms)

    def forget_parts(self) -> None:
        super().forget_parts()
        self._rows.clear()

    def _add_beside(self, beside: Tensor, model: MultiTaskNetwork) -> Tensor | None:
        """Adds the gradient of what is not aggregated; returns that at the shared feature, if any."""
        reached, leaf = leaves(beside), self._feature.leaf
        parameters = [p for p in model.parameters() if p.requires_grad and id(p) in reached]
        heard = [] if leaf is None or id(leaf) not in reached else [leaf]
        if not parameters and not heard:
            return None
        # A node of its own kind may stand between that passes nothing on to some of what went into it.
        found: Sequence[Tensor | None] = torch.autograd.grad(
            self.scale(beside), [*heard, *parameters], retain_graph=True, allow_unused=True
        )
        pairs = [(p, g) for p, g in zip(parameters, found[len(heard) :], strict=True) if g is not None]
        parameters, gradients = [p for p, _ in pairs], [g for _, g in pairs]
        if self.processes.count > 1 and parameters:
            flat = self.processes.mean(flattened(gradients, parameters))
            gradients = list(parts(flat, parameters))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            add_gradient(parameter, gradient)
        return found[0].reshape(-1) if heard and found[0] is not None else None

    def _apply(self, update: Tensor, model: MultiTaskNetwork, at_leaf: Tensor | None = None) -> None:
        """Puts the aggregated gradient [n] where it belongs, and with it what was added at the feature."""
        assert self._seam is not None
        columns = self._feature_columns()
        shared = [] if columns and self._feature.leaf is None else self._seam.shared
        for parameter, gradient in zip(shared, parts(update[columns:], shared), strict=True):
            add_gradient(parameter, gradient)
        if columns:
            gradient = update[:columns]
            self._through_trunk(gradient if at_leaf is None else gradient + at_leaf, model)

    def _collect(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, *, whole: bool = True
    ) -> tuple[Tensor, int]:
        """Writes a row per task present and the tasks' own gradients.

        Args:
            losses: Losses of the batch, or of a part of it.
            model: The network.
            whole: Whether they are all there is of this step, besides rows that are there already.

        Returns:
            The sum of the mean losses, and how many columns of the rows are the feature's.
        """
        if self._names != self.names_of(model.tasks):
            self.start(model)
        check_known(losses, self._names)
        check_gradients(losses, model)
        counts = torch.stack([loss.count for loss in losses.values()]).tolist()
        sums = torch.stack([loss.sum for loss in losses.values()])
        shares = as_tensor([1 / max(count, 1) for count in counts], sums)
        means = sums.detach() @ shares
        # The gradient of a mean is that of the sum times 1 / count: no node of the graph is needed for it.
        scales = self.scale(shares)
        trainable = {
            task: loss.sum
            for (task, loss), count in zip(losses.items(), counts, strict=True)
            if count > 0 and loss.sum.requires_grad
        }
        seam = self._seam_of(losses, model)
        leaf = self._feature.leaf
        if self.at == "features" and not self._feature.watched and seam.shared:
            raise ConfigError(
                f"balancing.{self.name}: the forward pass must run inside `with balancer.watching(model):`, "
                "where the shared feature is taken hold of."
            )
        has_taps = self._feature.has_taps(losses)
        if has_taps and self._past:
            if self.at == "features":
                raise TrainingError(
                    f"balancing.{self.name}: a loss reads parameters otherwise than through the shared "
                    "feature of the last forward pass inside `balancer.watching(model)`; use "
                    "`at: parameters`."
                )
            has_taps = False  # the graph is whole: gradients by parameters are right
        chain = self._chain(seam) if whole and has_taps else None
        if has_taps and self._feature.read_outs is not None:
            if len(trainable) < len(counts):
                places = [place for place, task in enumerate(losses) if task in trainable]
                sums, scales = sums[places], scales[places]
            self._collect_at_outputs(list(trainable), sums, scales, seam, chain)
            return means, self._feature_columns()
        factors = dict(zip(losses, scales.unbind(), strict=True))
        if has_taps:
            self._collect_at_taps(trainable, factors, seam, chain)
            return means, self._feature_columns()
        shared: list[Tensor] = [*seam.shared] if leaf is None else [leaf, *seam.shared]
        self._rows.begin(len(self._names), shared)
        if self.batched and len(trainable) > 1 and leaf is None and not self._rows.tasks:
            self._take_batched(trainable, factors, seam)
            return means, 0
        last = next(reversed(trainable), None)
        for task, loss in trainable.items():
            if inputs := [*shared, *seam.own[task]]:
                found = torch.autograd.grad(
                    loss, inputs, factors[task], retain_graph=task != last, allow_unused=True
                )
                self._take(task, found, shared, seam)
                del found  # or it would stand beside the next task's: a copy more
        return means, 0 if leaf is None else leaf.numel()

    def _feature_columns(self) -> int:
        """How many columns of a row are the feature's; 0 where the rows are those of parameters."""
        if self._inner is not None:
            return self._rows.matrix.shape[1]
        trunk = self._feature.trunk
        return trunk.numel() if self.at == "features" and trunk is not None else 0

    def _collect_at_outputs(
        self, tasks: Sequence[str], sums: Tensor, scales: Tensor, seam: Seam, chain: list[Link] | None
    ) -> None:
        """One backward pass to the outputs of linear heads, from where inner products are a formula."""
        read = self._feature.read_outs
        assert read is not None
        by_formula = self.at == "features" or chain is not None
        if not by_formula:
            self._rows.begin(len(self._names), seam.shared)
        if not tasks:
            return
        (found,) = torch.autograd.grad(sums, [read.outputs], scales, allow_unused=True)
        gradient = torch.zeros_like(read.outputs) if found is None else found
        of_heads = read.of_heads(gradient)
        for task in tasks:
            if self.processes.count > 1:
                self._take(task, [of_heads[id(parameter)] for parameter in seam.own[task]], [], seam)
                continue
            for parameter in seam.own[task]:
                add_gradient(parameter, of_heads[id(parameter)])
        if not by_formula:
            self._take_rows(tasks, read.at_feature_by_task(gradient, tasks), seam)
            return
        if chain is None:
            self._inner = read.gramian(gradient, tasks)
        else:
            self._inner = gramian_of(chain, read.at_feature_by_task(gradient, tasks))
        # One row for all: a task's is its outputs' part of it, which `_combined` gives its weight.
        self._rows.adopt(tasks, gradient.reshape(1, -1))

    def _combined(self, weights: Array, matrix: Tensor) -> Tensor:
        """The weighted sum of the rows."""
        read = self._feature.read_outs
        if self._inner is None or read is None:
            return combine(weights, matrix)
        by_task = dict(zip(self._rows.tasks, weights.tolist(), strict=True))
        return read.weighted(matrix.view(read.outputs.shape), by_task).view(-1)

    def _collect_at_taps(
        self,
        losses: Mapping[str, Tensor],
        factors: Mapping[str, Tensor],
        seam: Seam,
        chain: list[Link] | None,
    ) -> None:
        """One backward pass to the feature for all tasks; then, for rows of parameters, through the trunk."""
        beside, tasks = self._feature.beside, list(losses)
        assert beside is not None
        if self.at == "parameters" and chain is None:
            self._rows.begin(len(self._names), seam.shared)
        if not tasks:
            return
        own = [parameter for task in tasks for parameter in seam.own[task]]
        total = torch.stack([losses[task] for task in tasks]) @ torch.stack([factors[task] for task in tasks])
        found: list[Tensor | None] = list(torch.autograd.grad(total, [beside, *own], allow_unused=True))
        at_taps = torch.zeros_like(beside) if found[0] is None else found[0]
        if tasks != list(self._feature.taps):
            places = list(self._feature.taps)
            at_taps = at_taps[[places.index(task) for task in tasks]]
        rest = iter(found[1:])
        for task in tasks:
            self._take(task, [next(rest) for _ in seam.own[task]], [], seam)
        if chain is not None:
            self._inner = gramian_of(chain, at_taps)
        if self.at == "features" or chain is not None:
            self._rows.adopt(tasks, at_taps.reshape(len(tasks), -1))
        else:
            self._take_rows(tasks, at_taps, seam)

    def _take_rows(self, tasks: Sequence[str], at_feature: Tensor, seam: Seam) -> None:
        """Rows of parameters through the trunk, from the tasks' gradients at its end [m, *feature]."""
        trunk, columns = self._feature.trunk, seam.shared
        assert trunk is not None
        rows_alone = replace(seam, own={task: [] for task in tasks})
        if self._rows.tasks or self.processes.count > 1 or not self._in_one_pass(len(tasks), seam):
            for number, (task, gradient) in enumerate(zip(tasks, at_feature, strict=True), start=1):
                row = torch.autograd.grad(
                    trunk, columns, gradient, retain_graph=number < len(tasks), allow_unused=True
                )
                self._take(task, row, columns, rows_alone)
                del row  # or it would stand beside the next task's: a copy more
        else:
            self._rows.put_all(tasks, self._vectorised(trunk, columns, at_feature), columns)

    def _chain(self, seam: Seam) -> list[Link] | None:
        """The trunk's layers, where rows of parameters need not be taken; None otherwise."""
        trunk = self._feature.trunk
        assert trunk is not None
        apart = self.processes.count > 1 or bool(self._rows.tasks)
        if self.at == "features" or self.needs_rows or apart or self.batched is not None:
            return None
        if not seam.linear or not self._feature.plain:
            return None
        return chain_of(trunk, seam.shared)

    def _in_one_pass(self, num_tasks: int, seam: Seam) -> bool:
        """Whether rows are taken in one vectorised pass through the trunk."""
        if self.batched is not None:
            return self.batched and num_tasks > 1
        # A hook sees one row at a time, as it does without taskloom.
        return (
            seam.linear
            and self._feature.plain
            and takes_one_pass(num_tasks, sum(p.numel() for p in seam.shared))
        )

    def _vectorised(
        self, outputs: Tensor, inputs: Sequence[Tensor], gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Per input the gradients [m, *shape] of `outputs`, for the m `gradients` given, in one pass.

        Raises:
            ConfigError: PyTorch cannot do it for this network.
        """
        try:
            return torch.autograd.grad(outputs, inputs, gradients, is_grads_batched=True, allow_unused=True)
        except RuntimeError as error:
            raise ConfigError(
                f"balancing.{self.name}: PyTorch cannot take this network's gradients in one vectorised "
                f"pass ({str(error).splitlines()[0].rstrip('.')}); leave `batched` off."
            ) from error

    def _take_batched(self, losses: Mapping[str, Tensor], factors: Mapping[str, Tensor], seam: Seam) -> None:
        """All rows from one vectorised backward pass, and one more for what belongs to single tasks."""
        stack, scales = torch.stack(list(losses.values())), torch.stack([factors[task] for task in losses])
        own = {task: seam.own[task] for task in losses}
        flat = [parameter for parameters in own.values() for parameter in parameters]
        found = iter(torch.autograd.grad(stack, flat, scales, retain_graph=True) if flat else ())
        for task, parameters in own.items():
            self._take(task, [next(found) for _ in parameters], [], seam)
        if seam.shared:
            blocks = self._vectorised(stack, seam.shared, scales.diag())
            for number, task in enumerate(losses):
                row = [None if block is None else block[number] for block in blocks]
                self._take(task, row, seam.shared, replace(seam, own={task: []}))

    def _take(self, task: str, found: Sequence[Tensor | None], shared: Sequence[Tensor], seam: Seam) -> None:
        """Files what autograd gave for one task."""
        if shared:
            self._rows.put(task, found[: len(shared)], shared)
            if self.processes.count > 1:
                # A process has its own rows of the feature, and they are nobody else's.
                columns = self._feature_columns()
                row = self._rows.matrix[self._rows.tasks.index(task), columns:]
                row.copy_(self.processes.mean(row))
        own = [(p, g) for p, g in zip(seam.own[task], found[len(shared) :], strict=True) if g is not None]
        if self.processes.count > 1 and own:
            parameters = [parameter for parameter, _ in own]
            flat = self.processes.mean(flattened([gradient for _, gradient in own], parameters))
            own = list(zip(parameters, parts(flat, parameters), strict=True))
        for parameter, gradient in own:
            add_gradient(parameter, gradient)

    def _through_trunk(self, gradient: Tensor, model: MultiTaskNetwork) -> None:
        """One backward pass from the feature to the trunk's parameters."""
        trunk = self._feature.trunk
        assert trunk is not None
        read = self._feature.read_outs
        if read is not None:
            gradient = read.at_feature(gradient.view(read.outputs.shape))
        gradient = gradient.view(trunk.shape).to(trunk.dtype)
        if self.processes.count == 1:
            trunk.backward(gradient)  # type: ignore[no-untyped-call]
            return
        reached = leaves(trunk)
        parameters = [parameter for parameter in model.parameters() if id(parameter) in reached]
        for parameter, found in zip(
            parameters, torch.autograd.grad(trunk, parameters, gradient), strict=True
        ):
            add_gradient(parameter, self.processes.mean(found))

    def _seam_of(self, losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> Seam:
        """The seam; found anew when a parameter was frozen or other tasks have losses."""
        if self._parameters[0] is not model or _has_changed(model, self._parameters[1]):
            # Kept: walking through the modules costs a small network as much as a layer.
            self._parameters, self._seam = (model, list(model.parameters())), None
        frozen = tuple(parameter.requires_grad for parameter in self._parameters[1])
        key = (tuple(losses), frozen, self._feature.leaf is None)
        if self._seam is None or key != self._seam_key:
            self._seam, self._seam_key = find_seam(losses, model), key
            self._past = self._feature.is_passed((loss.sum for loss in losses.values()), self._seam)
        return self._seam

    def __getstate__(self) -> dict[str, Any]:
        """Copies and processes find the seam anew: parameters are known by identity."""
        return {**vars(self), "_seam": None, "_seam_key": None, "_parameters": (None, [])}


def _has_changed(model: MultiTaskNetwork, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether a network that changes itself has other parameters by now."""
    if not isinstance(model, SelfChanging):
        return False
    now = list(model.parameters())
    return len(now) != len(parameters) or any(a is not b for a, b in zip(now, parameters, strict=True))
