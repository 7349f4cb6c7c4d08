"""What goes into a comparison with the single-task baseline, and what comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from taskloom.metrics import Summary

Verdict = Literal["helped", "hurt", "no difference shown", "no verdict"]
Source = Literal["repeats", "clusters", "overlap", ""]


@dataclass(frozen=True)
class Scores:
    """What the runs of one cell (or of the baseline) reached on one task by one metric, by repeat.

    Args:
        values: Test value of each finished run. Failed runs are missing, undefined values are NaN.
        summaries: Metric summaries of the same runs, which carry the test's groups. Without them there is no
            cluster part.
    """

    values: Mapping[int, float]
    summaries: Mapping[int, Summary] = field(default_factory=dict)


@dataclass(frozen=True)
class Gain:
    """Gain of one cell over single-task training on one task; all values in the metric's own unit.

    Args:
        task, metric, cell: What is compared.
        baseline_value, cell_value: Means over the common repeats.
        gain: Difference, positive = the cell is better, whatever the metric's direction.
        low, high: Interval of the gain at level 1 - alpha, not corrected for several cells. NaN: none.
        p_value: Two-sided, of no difference. NaN: none.
        p_adjusted: The same after Holm's correction over the cells of the task; the verdict rests on it.
        verdict: What may be said.
        num_repeats: Repeats that both sides finished.
        num_clusters: Groups of the test set with labels of this task; 0 where they did not enter.
        variance_repeats, variance_clusters, variance_overlap: Parts of the gain's variance: training seeds
            (or redrawn splits), the draw of the test's groups, the overlap of redrawn training sets. 0 where
            a part does not enter.
        degrees_repeats, degrees_clusters: Degrees of freedom of the parts, 0 where there are none; overlap
            has those of the repeats.
        dominant: The largest of the parts; "" where there is none.
        note: What a reader must know beside the numbers; "" where nothing.
    """

    task: str
    metric: str
    cell: str
    baseline_value: float
    cell_value: float
    gain: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    verdict: Verdict
    num_repeats: int
    num_clusters: int
    variance_repeats: float
    variance_clusters: float
    variance_overlap: float
    degrees_repeats: float
    degrees_clusters: float
    dominant: Source
    note: str

    @property
    def standard_error(self) -> float:
        """Square root of the summed parts of the variance."""
        return float(np.sqrt(self.variance_repeats + self.variance_clusters + self.variance_overlap))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values; the field names are the keys."""
        return dataclasses.asdict(self)
