"""What a report shows, as plain data: the study fills it, the renderer reads nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from taskloom.report.subgroup_model import Confusion, LandmarkTable, Mistake, SubgroupTable

Verdict = Literal["helped", "hurt", "no difference shown"]


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
class Mixing:
    """Learned mixing of one cell, averaged over repeats at their best epochs.

    Args:
        cell: Cell id.
        tasks: Task names, in the order of the matrices' axes.
        matrices: Per stage, [T][T]; row = receiving task, column = donor. Per-channel units are averaged.
        over_time: Per stage, one matrix per epoch of the first repeat.
    """

    cell: str
    tasks: tuple[str, ...]
    matrices: Mapping[str, Sequence[Sequence[float]]]
    over_time: Mapping[str, Sequence[Sequence[Sequence[float]]]] = field(default_factory=dict)


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
    """

    cell: str
    weights: Mapping[str, Sequence[float]]
    cosines: Mapping[str, Sequence[float]] = field(default_factory=dict)
    conflict_rate: Sequence[float] = ()
    frozen: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Agreement:
    """How often predictions contradict a relatedness, on the test rows.

    Args:
        share: Share of rows with at least one contradiction, mean over repeats.
        least, most: Its range over repeats.
        pair_share: Share of contradictions among the pairs of labels that the table decides.
        decided: Number of those pairs; 0: the table leaves everything open.
        rows, repeats: What it rests on.
    """

    share: float
    least: float
    most: float
    pair_share: float
    decided: int
    rows: int
    repeats: int


@dataclass(frozen=True)
class CoupledTask:
    """A coupled task alone, without and with coupling; the gain is over the same cell without coupling."""

    name: str
    metric: str
    alone: float
    without: float
    gain: float
    low: float
    high: float
    verdict: Verdict
    coupled: float


@dataclass(frozen=True)
class CoupledLabel:
    """F1 of one label of a multilabel task alone, without and with coupling; NaN where undefined."""

    task: str
    label: str
    alone: float
    without: float
    coupled: float


@dataclass(frozen=True)
class CouplingRow:
    """What the coupling of one cell rests on and did.

    Args:
        cell: Cell id.
        twin: Id of the cell that differs by nothing but the coupling, "" where there is none.
        classes_side, attributes_side: Tasks of the two sides.
        terms: The losses in words.
        source, kind, between: Where the table comes from, "weights" or "frequencies", between which labels.
        classes, attributes, values: The table of the first repeat, [C][A]; NaN where unknown.
        low, high: Intervals of its entries; empty where nothing was counted.
        alone, without, coupled: Consistency of predictions; None where it is not known.
        tasks, labels: Gains.
        compared: Entries of the table that could be held against the training labels.
        agreement: How well it agreed, 0.5 is chance; NaN where it cannot be said.
        contradictions: The worst entries in words; `num_contradictions` of them all.
        num_contradictions: See there.
        warnings, notes: What a reader must know of the table.
    """

    cell: str
    twin: str
    classes_side: Sequence[str]
    attributes_side: Sequence[str]
    terms: Sequence[str]
    source: str
    kind: str
    between: str
    classes: Sequence[str]
    attributes: Sequence[str]
    values: Sequence[Sequence[float]]
    low: Sequence[Sequence[float]]
    high: Sequence[Sequence[float]]
    alone: Agreement | None
    without: Agreement | None
    coupled: Agreement | None
    tasks: Sequence[CoupledTask]
    labels: Sequence[CoupledLabel]
    compared: int
    agreement: float
    contradictions: Sequence[str]
    num_contradictions: int
    warnings: Sequence[str]
    notes: Sequence[str]


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
        balancing: Cells whose losses were weighed by more than constants.
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
    balancing: Sequence[Balancing] = ()
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
