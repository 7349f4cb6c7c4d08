"""What a report shows, as plain data: the study fills it, the renderer reads nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from taskloom.report.subgroup_model import Confusion, LandmarkTable, Mistake, SubgroupTable
from taskloom.report.training_model import Balancing, Course, Curve, Mixing

if TYPE_CHECKING:
    from taskloom.report.coupling_model import CouplingRow

Verdict = Literal["helped", "hurt", "no difference shown", "no verdict"]


@dataclass(frozen=True)
class TaskRow:
    """A task as the report names it.

    Args:
        name: The task's name.
        kind: Its kind ("binary", ...).
        metric: The metric it is judged by.
        unit: Unit of the metric ("years"), "" where it has none.
        higher_is_better: Direction of the metric.
        chosen_cell: Id of the cell that is best on validation, "" where no cell finished.
        auxiliary: Whether the task is trained but not judged.
    """

    name: str
    kind: str
    metric: str
    unit: str
    higher_is_better: bool
    chosen_cell: str = ""
    auxiliary: bool = False


@dataclass(frozen=True)
class CellRow:
    """One configuration of the study and what it cost.

    Args:
        id: Short stable id.
        name: Name for people ("hard sharing 3 from input").
        tasks: Tasks trained together.
        training_seconds: Mean time of a training over repeats, evaluation left out.
        num_parameters: Trainable parameters.
        peak_memory_bytes: Largest memory of any repeat.
        epochs: Mean number of epochs trained.
        num_done, num_planned: Finished and planned repeats.
        plan: The sharing plan as text, one line per stage.
        time_ratio, parameter_ratio, memory_ratio: Relative to training each of its tasks alone, one after
            the other (times and parameters summed, memory the largest); NaN where a baseline is missing.
    """

    id: str
    name: str
    tasks: tuple[str, ...]
    training_seconds: float
    num_parameters: int
    peak_memory_bytes: int
    epochs: float
    num_done: int
    num_planned: int
    plan: str = ""
    time_ratio: float = float("nan")
    parameter_ratio: float = float("nan")
    memory_ratio: float = float("nan")


@dataclass(frozen=True)
class GainRow:
    """How a task did in a cell against its own single-task baseline; positive gain = better.

    Args:
        task, cell: Whose.
        baseline, value: Mean test metric alone and in the cell.
        gain, low, high: Paired gain with its 95 % interval, in the metric's unit.
        p_value: Two-sided, adjusted by Holm over the cells of the task.
        verdict: What may be said.
        note: What a reader must know beside it ("2 of 3 repeats failed"), or "".
        surer: What would make it surer, one sentence, or "".
    """

    task: str
    cell: str
    baseline: float
    value: float
    gain: float
    low: float
    high: float
    p_value: float
    verdict: Verdict
    note: str = ""
    surer: str = ""


@dataclass(frozen=True)
class AuxiliaryRow:
    """What a task reached that was trained beside the others and is not judged.

    Args:
        task, role, metric, unit: Which task; "auxiliary" or "adversarial"; its metric.
        cell: Name of the cell.
        value, deviation: Mean test metric over repeats and their standard deviation.
        num_done: Finished repeats.
        num_parameters: Of the cell's network.
    """

    task: str
    role: str
    cell: str
    metric: str
    unit: str
    value: float
    deviation: float
    num_done: int
    num_parameters: int


@dataclass(frozen=True)
class BaselineRow:
    """What a form of training alone reached, where there are several.

    Args:
        task, form: Whose; name of the form.
        judged: Whether gains and verdicts are against this form.
        metric, unit: The task's.
        value, deviation: Mean test metric over repeats and their standard deviation.
        num_done: Finished repeats.
        num_parameters: Of its network.
    """

    task: str
    form: str
    judged: bool
    metric: str
    unit: str
    value: float
    deviation: float
    num_done: int
    num_parameters: int


@dataclass(frozen=True)
class PlainSum:
    """A cell that sums its losses as they are, and the gains over it of cells that balance them.

    Args:
        cell: Its id.
        gains: Of every task, and of their mean, in every such cell.
    """

    cell: str
    gains: Sequence[GainRow]


@dataclass(frozen=True)
class Configuration:
    """A cell as one of a grid: how many stages are shared (or have units), from which end.

    Args:
        cell: Cell id; its tasks stand there.
        family: What it has in common with its likes ("hard sharing").
        depth: Number of stages or units.
        end: Counted from the "input" or the "output".
    """

    cell: str
    family: str
    depth: int
    end: str


@dataclass(frozen=True)
class Leakage:
    """What a split over which windows straddle gives away: one task of one cell, mean over repeats.

    Args:
        task: Which task.
        cell: Cell id, or "" for the task alone.
        straddling: Test value on the study's split.
        apart: Test value of the same model trained where no window straddles.
        repeats: How many repeats both values rest on.
    """

    task: str
    cell: str
    straddling: float
    apart: float
    repeats: int


@dataclass(frozen=True)
class LabelCount:
    """Labels of one task in the three parts.

    Args:
        task: Which task.
        train, validation, test: Present labels.
        missing_share: Share of all rows without this label, 0 to 1.
        detail: Class counts or mean and standard deviation, as text.
    """

    task: str
    train: int
    validation: int
    test: int
    missing_share: float
    detail: str


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.

    Args:
        title: The study's name.
        created: Date and time, as text.
        tasks, cells, gains, curves, mixing, labels: The rows.
        num_repeats: Planned repeats.
        clusters: What intervals are clustered by and how many in test ("1,203 people").
        design: One sentence: how the intervals were made.
        failed: One sentence per failed run.
        warnings: What a reader must know first (a split that leaks by design, runs still missing).
        data_notes: Sentences about source, groups and split.
        environment: Versions, device, threads.
        study_file: The resolved configuration as YAML.
        overall: All judged tasks together as one more row, where one metric judges them all; its gains stand
            among `gains` under its name.
        improvement: Likewise their average relative gain, in %.
        improvement_of: What that is over and what it leaves out.
        balancing: Cells whose losses were weighed by more than constants.
        plain_sums: Cells that differ in their balancing alone, beside the plain sum of the losses.
        couplings: What coupled cells' relatedness is, and what it did.
        course: Metrics by epoch and over the last ones, where asked for.
        leakage: Values beside those of a split over which windows straddle.
        task_ends: Sentences on when tasks converged, where they stop one by one.
        auxiliary: What tasks reached that are trained beside the judged ones.
        baselines: Every form of training alone, where there are several.
        configurations: Cells that differ in how much is shared, from which end, on which tasks.
        landmarks: Errors and failure rates of single landmarks.
        subgroups, confusions, gallery: The judged tasks by class and subgroup; their worst mistakes.
    """

    title: str
    created: str
    tasks: Sequence[TaskRow]
    cells: Sequence[CellRow]
    gains: Sequence[GainRow]
    curves: Sequence[Curve]
    mixing: Sequence[Mixing]
    labels: Sequence[LabelCount]
    num_repeats: int
    clusters: str
    design: str
    failed: Sequence[str] = ()
    warnings: Sequence[str] = ()
    data_notes: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    study_file: str = ""
    overall: TaskRow | None = None
    improvement: TaskRow | None = None
    improvement_of: Sequence[str] = ()
    balancing: Sequence[Balancing] = ()
    plain_sums: Sequence[PlainSum] = ()
    task_ends: Sequence[str] = ()
    couplings: Sequence[CouplingRow] = ()
    leakage: Sequence[Leakage] = ()
    course: Course | None = None
    auxiliary: Sequence[AuxiliaryRow] = ()
    baselines: Sequence[BaselineRow] = ()
    configurations: Sequence[Configuration] = ()
    landmarks: Sequence[LandmarkTable] = ()
    subgroups: Sequence[SubgroupTable] = ()
    confusions: Sequence[Confusion] = ()
    gallery: Sequence[Mistake] = ()

    def gain(self, task: str, cell: str) -> GainRow | None:
        """The gain of a task in a cell, None where there is none (yet)."""
        return next((g for g in self.gains if g.task == task and g.cell == cell), None)

    def cell(self, cell_id: str) -> CellRow | None:
        return next((c for c in self.cells if c.id == cell_id), None)
