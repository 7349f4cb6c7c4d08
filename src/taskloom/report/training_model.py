"""What a report shows of the course of trainings and of what they learned to share, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Curve:
    """The validation metric of one run, epoch by epoch.

    Args:
        task: Which task.
        cell: Cell id, or "" for the single-task baseline.
        repeat: Which repeat.
        values: One value per epoch.
        best_epoch: Index of the epoch whose weights were kept.
    """

    task: str
    cell: str
    repeat: int
    values: Sequence[float]
    best_epoch: int


@dataclass(frozen=True)
class Trajectory:
    """One metric of one task in one cell, after every epoch.

    Args:
        task, metric: Which.
        cell: Cell id, or "" for the task alone.
        part: "validation", or "test" where the study looked at it (it decides nothing).
        runs: One value per epoch for every repeat.
    """

    task: str
    cell: str
    part: str
    metric: str
    runs: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Settled:
    """One task in one cell over its last epochs.

    Args:
        task, cell, part: See `Trajectory`.
        repeats: How many repeats.
        values: Per metric, `mean` and the half widths of its 95 % interval: `over_epochs`, as thesis 002 has
            it, and `over_repeats`, for new seeds; NaN where there is one only.
        seconds: Mean training time.
        overhead: Training time over that of one single-task network of its main tasks, less 1; NaN alone.
        num_parameters: Trainable parameters.
    """

    task: str
    cell: str
    part: str
    repeats: int
    values: Mapping[str, Mapping[str, float]]
    seconds: float
    overhead: float
    num_parameters: int


@dataclass(frozen=True)
class Course:
    """How trainings went, where the study file's `report` section asks for it.

    Args:
        last_epochs: How many epochs `settled` is about.
        span: Share of the points that a place of a smoothed curve rests on.
        trajectories, settled: The rows.
    """

    last_epochs: int
    span: float
    trajectories: Sequence[Trajectory]
    settled: Sequence[Settled]


@dataclass(frozen=True)
class Mixing:
    """Learned mixing of one cell, averaged over repeats at their best epochs.

    Args:
        cell: Cell id.
        tasks: Task names, in the order of the matrices' axes.
        matrices: Per stage, [T][T]; row = receiving task, column = donor. Per-channel units are averaged.
        over_time: Per stage, one matrix per epoch of the first repeat.
        architecture: Whose, by its registered name: what the entries mean depends on it.
    """

    cell: str
    tasks: tuple[str, ...]
    matrices: Mapping[str, Sequence[Sequence[float]]]
    over_time: Mapping[str, Sequence[Sequence[Sequence[float]]]] = field(default_factory=dict)
    architecture: str = ""


@dataclass(frozen=True)
class Balancing:
    """What the balancer of one cell did, epoch by epoch, in the first repeat.

    Args:
        cell: Cell id.
        weights: Per task, its weight in every epoch; empty where weights never change.
        cosines: Per pair of tasks ("a, b"), the mean cosine of their gradients in every epoch.
        conflict_rate: Share of steps and pairs with a negative cosine, in every epoch; empty where not known.
        frozen: Epoch after which everything shared froze; None where it did not.
        note: What else is to be said of the weights.
        remark: What is to be said of all cells with such weights, said once.
        reversal: Per adversarial task, the factor of its gradient reversal in every epoch.
    """

    cell: str
    weights: Mapping[str, Sequence[float]]
    cosines: Mapping[str, Sequence[float]] = field(default_factory=dict)
    conflict_rate: Sequence[float] = ()
    frozen: int | None = None
    note: str = ""
    remark: str = ""
    reversal: Mapping[str, Sequence[float]] = field(default_factory=dict)
