"""The cluster bootstrap: how much a mean gain depends on which groups happen to be in the test set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskloom.metrics import METRICS, Summary
from taskloom.study.mean_of_tasks import MeanOfTasks

Floats = NDArray[np.float64]

# Resampling weights laid out at once; 32 MB.
_MOST_ELEMENTS = 4_000_000


class Draws(NamedTuple):
    """What the draw of the test's groups does to a mean difference.

    Args:
        variance: Its variance; 0 where it could not be computed.
        num_clusters: Number of groups with labels; 0 where there is no variance for want of summaries.
        degrees: With how many degrees of freedom the variance is known; 0 where it is not.
    """

    variance: float
    num_clusters: int
    degrees: float


NO_DRAWS = Draws(0.0, 0, 0.0)


class Resampling:
    """Metric values under resampled groups of the test set; each summary is resampled once.

    Every resample draws as many groups as have labels, with replacement. All summaries get the same
    resamples, so that the difference of two of them is a paired one.

    Args:
        metric: The metric's name, or a mean of one over several tasks.
        num_resamples: Number of resamples, B.
        seed: Seed of the drawing.

    Example:
        >>> squared = np.array([[1.0], [3.0], [5.0]])
        >>> summary = {"rows": np.ones(3, dtype=np.int64), "squared": squared}
        >>> Resampling("mse", 1000, seed=0).variance([(summary, summary)], notes=[])
        Draws(variance=0.0, num_clusters=3, degrees=2.0)
    """

    def __init__(self, metric: str | MeanOfTasks, num_resamples: int = 1000, seed: int = 0) -> None:
        self.metric = METRICS[metric] if isinstance(metric, str) else metric
        self.num_resamples = num_resamples
        self.seed = seed
        self._known: dict[int, tuple[Summary, Floats]] = {}
        self._drawn: tuple[NDArray[np.bool_], Floats] | None = None

    def variance(self, pairs: Sequence[tuple[Summary | None, Summary | None]], notes: list[str]) -> Draws:
        """Variance of the mean difference over the draw of the groups, by the bootstrap; see `support`.

        Args:
            pairs: The two summaries of each repeat, None where one is missing.
            notes: Gets a sentence where the variance could not be computed, or not in every resample.

        Raises:
            ValueError: The summaries are of different test sets.
        """
        summaries = [summary for pair in pairs for summary in pair if summary is not None]
        if len(summaries) < 2 * len(pairs):
            notes.append("the test's groups are not at hand: the interval says nothing about other test data")
            return NO_DRAWS
        labelled = self._labelled(summaries)
        num_clusters = int(labelled.sum())
        if num_clusters < 2:
            notes.append("one group in test: the interval says nothing about other test data")
            return Draws(0.0, num_clusters, 0.0)
        values = np.array([self.values(summary, labelled) for summary in summaries])
        differences = (values[::2] - values[1::2]).mean(axis=0)
        differences = differences[~np.isnan(differences)]
        undefined = self.num_resamples - len(differences)
        if undefined:
            notes.append(f"{self.metric.name} was undefined in {undefined} of {self.num_resamples} resamples")
        if undefined > self.num_resamples / 2:
            notes.append("too many to tell: the interval says nothing about other test data")
            return NO_DRAWS
        counts = self.metric.part_counts(summaries[0])
        if counts.min() < 2:
            notes.append(
                f"{self.metric.name}: a class stands in one group of test alone, which says little of "
                "other groups"
            )
        factor, degrees = support(counts, num_clusters)
        return Draws(float(differences.var(ddof=1)) * factor, num_clusters, degrees)

    def _labelled(self, summaries: Sequence[Summary]) -> NDArray[np.bool_]:
        """Which groups have labels, [G]; the same in all summaries of one test set."""
        counts = self.metric.label_counts(summaries[0])
        for summary in summaries[1:]:
            if not np.array_equal(self.metric.label_counts(summary), counts):
                raise ValueError(
                    f"{self.metric.name}: the runs were tested on different labels, so a fixed test set "
                    "cannot be resampled; say test_over_train where splits are redrawn"
                )
        return counts > 0

    def values(self, summary: Summary, labelled: NDArray[np.bool_]) -> Floats:
        """The metric in every resample, [B].

        Args:
            summary: A run's summary.
            labelled: The groups that are drawn from, [G]; equal ones give equal resamples for all metrics.
        """
        # The summary is kept beside its values, so that its id is not given to another one.
        if id(summary) not in self._known:
            values = [self.metric.evaluate(summary, weights) for weights in self._weights(labelled)]
            self._known[id(summary)] = summary, np.concatenate(values)
        return self._known[id(summary)][1]

    def _weights(self, labelled: NDArray[np.bool_]) -> Iterator[Floats]:
        """Multiplicities of the groups, [b, G], in portions; the same ones at every call."""
        if self.num_resamples * len(labelled) > _MOST_ELEMENTS:
            yield from self._draw(labelled)
            return
        if self._drawn is None or not np.array_equal(self._drawn[0], labelled):
            self._drawn = labelled, next(self._draw(labelled))
        yield self._drawn[1]

    def _draw(self, labelled: NDArray[np.bool_]) -> Iterator[Floats]:
        generator = np.random.default_rng(self.seed)
        places = np.flatnonzero(labelled)
        portion = max(1, _MOST_ELEMENTS // len(labelled))
        for start in range(0, self.num_resamples, portion):
            lines = min(portion, self.num_resamples - start)
            drawn = places[generator.integers(0, len(places), (lines, len(places)))]
            drawn += np.arange(lines)[:, None] * len(labelled)
            counts = np.bincount(drawn.ravel(), minlength=lines * len(labelled))
            yield counts.reshape(lines, len(labelled)).astype(np.float64)


def support(counts: NDArray[np.int64], num_clusters: int) -> tuple[float, float]:
    """What the bootstrap's variance is to be multiplied by, and with how many degrees of freedom it is known.

    A mean of n groups has the variance s^2 / n; the bootstrap sees (n - 1) / n of it, with n - 1 degrees of
    freedom. Of a metric in which several classes count alike, each is taken as a mean of the n_c groups that
    have it, of equal spread: variances in proportion to 1 / n_c are added, degrees of freedom by Welch and
    Satterthwaite. A class of one group is unseen by the bootstrap; it is taken to vary as the others do, and
    to be known with one degree of freedom.

    Args:
        counts: Groups behind each part of the metric, `Metric.part_counts`, [P].
        num_clusters: Groups with labels; there are no more degrees of freedom than these less one.

    Example:
        >>> support(np.array([10]), 10)
        (1.1111111111111112, 9.0)
        >>> factor, degrees = support(np.array([4, 400]), 404)  # four positives
        >>> f"{factor:.2f} {degrees:.2f}"
        '1.33 3.06'
    """
    of = counts.astype(np.float64)
    variances = 1 / of
    true, seen = variances.sum(), (variances * (of - 1) / of).sum()
    if seen == 0:  # every class in one group: what is resampled is which of them are there
        return num_clusters / (num_clusters - 1), 1.0
    degrees = true**2 / (variances**2 / np.maximum(of - 1, 1)).sum()
    return float(true / seen), float(min(degrees, num_clusters - 1))
