"""One update from the gradients of all tasks: the balancer that every aggregation method runs in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from taskloom.balancing.base import unscaled
from taskloom.balancing.checks import check_number
from taskloom.balancing.conflicts import Conflicts
from taskloom.balancing.features import check_has_feature, on_parameters
from taskloom.balancing.gradients import gramian, tasks_that_share
from taskloom.balancing.method import MatrixMethod, Weighting
from taskloom.balancing.row_balancer import Place, RowBalancer
from taskloom.balancing.silence import silent_tasks
from taskloom.balancing.solvers import SolverError
from taskloom.balancing.weightings import Smoothed
from taskloom.errors import ConfigError, TrainingError
from taskloom.tasks import TaskSet

if TYPE_CHECKING:
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork


class GradientAggregation(RowBalancer):
    """Gradients per task on what is shared, aggregated by a method; every head follows its own task.

    A parameter is aggregated where more than one task's loss reaches it; what belongs to one task gets its
    own gradient as it is. A task without a label in the batch costs no backward pass and has no row. The
    penalty of ties is added as it is, outside the aggregation. Over several processes the rows are averaged
    before they are aggregated, so that the update is that of the joined batch.

    Over a trunk that is a chain of linear layers, methods that give weights take gradients' inner products
    from the layers' inputs (`taskloom.balancing.chains`), and one backward pass gives the update: without
    rows. Elsewhere rows are taken one by one, except where one vectorised pass is faster. By measurement
    on a CPU that is where the trunk is a multilayer perceptron: four tasks or more, all rows together at most
    4,194,304 numbers (`taskloom.balancing.gradients.takes_one_pass`), above which its memory counts;
    convolutions are slower. `batched` decides by hand: True takes rows in one pass, with up to twice the
    memory, for devices where launching many small kernels is what costs (PyTorch refuses it for some
    operations: RNNs on CUDA); False one by one.

    Args:
        name: What messages call the method.
        method: Weights from the Gramian, or an aggregation of the matrix.
        at: "parameters", or "features": the Gramian is taken at the feature that all tasks read, and one
            backward pass goes through the trunk (see `taskloom.balancing.features`).
        smooth: Share of the weights of the step before (CR-MOGM), 0 to below 1; 0 is off.
        settings: The method's own settings, for `settings()`.

    Raises:
        ConfigError: A setting out of range; `at="features"` or `smooth` for a method that is no weighting.
    """

    def __init__(
        self,
        name: str,
        method: Weighting | MatrixMethod,
        *,
        at: Place = "parameters",
        smooth: float = 0.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, at)
        self._settings = dict(settings or {})
        self.smooth = check_number(f"balancing.{name}.smooth", smooth, least=0, most=0.999999)
        if at not in ("parameters", "features"):
            raise ConfigError(f"balancing.{name}.at: parameters or features expected, found {at!r}.")
        if isinstance(method, MatrixMethod) and (at == "features" or smooth):
            what = "at: features" if at == "features" else "smooth"
            raise ConfigError(
                f"balancing.{name}: `{what}` needs a method that gives weights, which {name} does not."
            )
        if isinstance(method, Weighting) and self.smooth:
            method = Smoothed(method, self.smooth)
        self._method = method
        self._step = 0
        self._silent: set[str] = set()
        self._conflicts = Conflicts(())

    def check_tasks(self, tasks: TaskSet) -> None:
        names = self.names_of(tasks)
        least = self._method.least_tasks(len(names))
        if least > len(names):
            raise ConfigError(
                f"balancing.{self.name}: at least {least} tasks expected with these settings, found "
                f"{len(names)} ({', '.join(names)}); choose another method, or other settings of this one."
            )

    def least_tasks(self, num_tasks: int) -> int:
        return self._method.least_tasks(num_tasks)

    def _check_sharing(self, model: MultiTaskNetwork) -> None:
        """Refuses a network in which some tasks share, but fewer than the method needs."""
        sharing, least = tasks_that_share(model), self.least_tasks(len(model.tasks))
        if not self._terms and 0 < len(sharing) < least:
            raise ConfigError(
                f"balancing.{self.name}: at least {least} tasks that share parameters expected with these "
                f"settings, found {len(sharing)} ({', '.join(sharing)}); choose another method, or let more "
                "tasks share."
            )

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        if self.at == "features":
            check_has_feature(model, self.name)
        self._check_sharing(model)
        self._names, self._step = self.names_of(model.tasks), 0
        self._conflicts = Conflicts(self._names)
        self._method.start(len(self._names), seed)
        self.forget_parts()
        self._parameters = (None, [])

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self._settings}

    # -- one step

    @property
    def needs_rows(self) -> bool:
        return isinstance(self._method, MatrixMethod)

    def check_parts(self) -> None:
        if self.at == "features":
            raise ConfigError(
                f"balancing.{self.name}: a batch in parts has no one shared feature; "
                f"{on_parameters(self.name)}, or a smaller batch."
            )

    def accumulate(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        self.check_parts()
        self._forget_abandoned(model)
        if beside is not None:
            self._add_beside(beside, model)
        self._collect(losses, model, whole=False)
        self._keep_parts_of(model)

    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self._names != self.names_of(model.tasks):
            self.start(model)
        self._forget_abandoned(model)
        self._step += 1
        self._silent = silent_tasks(model)
        try:
            # First: the last backward pass of the tasks lets go of the graph.
            at_leaf = None if beside is None else self._add_beside(beside, model)
            means, feature_columns = self._collect(losses, model)
            penalty = model.penalty()
            self.total = (means + penalty).detach()
            if beside is not None:
                self.total = self.total + beside.detach()
            if self._rows.matrix.numel():
                self._apply(self._update(self._rows.matrix, feature_columns), model, at_leaf)
            elif at_leaf is not None:
                self._through_trunk(at_leaf, model)
            if penalty.requires_grad and self.processes.count > 1:
                self._add_beside(penalty, model)  # averaged: it may be that of each process's own rows
            elif penalty.requires_grad:
                self.scale(penalty).backward()  # type: ignore[no-untyped-call]
        finally:
            self._inner = None
            self.forget_parts()
            self._feature.clear()

    def _update(self, matrix: Tensor, feature_columns: int) -> Tensor:
        """The aggregated gradient [n] of what is shared."""
        products = self._products(matrix[:, :feature_columns] if feature_columns else matrix)
        tasks = self._rows.tasks
        index = [self._names.index(task) for task in tasks]
        if not np.isfinite(products).all():
            return self._not_finite(matrix, products)
        quiet = [row for row, task in enumerate(tasks) if task in self._silent and products[row, row] > 0]
        if quiet:  # its own row of a mixing unit has a gradient all the same, of which no method is to know
            products = products.copy()
            products[quiet], products[:, quiet] = 0.0, 0.0
        self._conflicts.add(products, index)
        if not products.trace() > 0:
            return torch.zeros_like(matrix[0])
        rows = self._heard_rows(products)
        if len(rows) < len(tasks):
            products, index = products[np.ix_(rows, rows)], [index[row] for row in rows]
        try:
            if isinstance(self._method, MatrixMethod):
                return self._aggregated(matrix if len(rows) == len(tasks) else matrix[rows], index)
            found = self._method.weights(products, index)
            if not np.isfinite(found).all():
                raise SolverError(f"its weights are {found.tolist()}")
        except (SolverError, np.linalg.LinAlgError) as error:
            named = ", ".join(tasks[row] for row in rows)
            raise TrainingError(
                f"balancing {self.name}: {error}, at step {self._step:,} for the tasks {named}."
            ) from error
        self._conflicts.add_weights(found, index)
        if len(rows) == len(tasks):
            return self._combined(found, matrix)
        weights = np.zeros(len(tasks))
        weights[rows] = found
        return self._combined(weights, matrix)

    def _aggregated(self, matrix: Tensor, index: Sequence[int]) -> Tensor:
        """What a matrix method makes of the rows, without the factor of 16-bit precision.

        A method that remembers rows would put gradients of several factors together.
        """
        assert isinstance(self._method, MatrixMethod)
        if self.scale is unscaled:
            return self._method.aggregate(matrix, index)
        factor = self.scale(torch.ones((), device=matrix.device))
        return self._method.aggregate(matrix / factor, index) * factor

    def _heard_rows(self, products: np.ndarray[Any, np.dtype[np.float64]]) -> list[int]:
        """The rows that the method gets: all but the zeros of tasks that are set to say nothing.

        A gradient of zeros says that its task is at a minimum, and many methods then stop for it, or have no
        solution; of a task that is not to be heard at all, or shares nothing, it says nothing.
        """
        assert self._seam is not None
        apart = self._seam.apart if self.at == "parameters" else frozenset()  # the feature is read by all
        rows, silent = range(len(products)), self._silent | apart
        heard = [row for row in rows if products[row, row] > 0 or self._rows.tasks[row] not in silent]
        return heard if len(heard) >= self._method.least_tasks(len(self._names)) else list(rows)

    def _products(self, matrix: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The Gramian over all processes, without the factor of 16-bit precision."""
        products = gramian(matrix) if self._inner is None else self._inner
        if self.processes.count > 1 and self._feature_columns():
            # Each process has its rows of the batch, scaled by the number of processes: the sum of the
            # squares is that of the joined batch times that number squared.
            local = torch.from_numpy(products).to(matrix.device)
            products = self.processes.mean(local).cpu().numpy() / self.processes.count
        if self.scale is unscaled:
            return products
        factor = float(self.scale(torch.ones((), device=matrix.device)))
        return products / factor**2

    def _not_finite(self, matrix: Tensor, products: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
        """Passes an overflow of 16-bit gradients on to the scaler, which skips the step; else an error."""
        if float(self.scale(torch.ones((), device=matrix.device))) != 1.0:
            return torch.full_like(matrix[0], torch.nan)
        worst = int(np.argmin(np.isfinite(np.diag(products))))
        raise TrainingError(
            f"balancing {self.name}: the gradient of task {self._rows.tasks[worst]} is not finite at step "
            f"{self._step:,}; a smaller learning rate may help."
        )

    # -- what is kept and shown

    def report_state(self) -> dict[str, float]:
        return self._conflicts.report()

    def state_dict(self) -> dict[str, Any]:
        return {"tasks": list(self._names), "step": self._step, "method": self._method.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        names = tuple(state["tasks"])
        if self._names and names and names != self._names:
            raise ConfigError(
                f"balancing.{self.name}: the saved state is about {', '.join(names)}, the run about "
                f"{', '.join(self._names)}; train with resume=False."
            )
        if not self._names:
            self._names, self._conflicts = names, Conflicts(names)
            self._method.start(len(names), 0)
        self._step = state["step"]
        self._method.load_state_dict(state["method"])
