"""What a report shows of coupled tasks, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskloom.report.model import Verdict


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
