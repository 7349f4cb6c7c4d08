"""What the choice of a cell owes to luck: its gain where every repeat is judged by a choice of the others.

The cell that is best on validation is chosen and tested on the same runs. The test rows have no part in the
choice, but the runs do: a seed that is lucky is so on validation and test alike, and of many cells the one
with the luckiest seeds is chosen. Where seeds matter more than cells differ, its gain is flattered by as much
as a standard error or more (docs/statistics.md). Chosen for every repeat by the other repeats' validation and
tested on that one, the choice has not seen the seed that it is tested with.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from taskloom.metrics import METRICS
from taskloom.study.statistics import LEAST_REPEATS, choose_on_validation

ByRepeat = Mapping[int, float]


def gain_by_others(
    metric: str, alone: ByRepeat, test: Mapping[str, ByRepeat], validation: Mapping[str, ByRepeat]
) -> float:
    """Mean gain over training alone, every repeat in the cell that is best on the validation of the others.

    Args:
        metric: The task's metric.
        alone: Test values of training alone, by repeat.
        test, validation: Values of every cell, by repeat.

    Returns:
        The gain, positive = better; NaN with fewer than two cells, or fewer than three repeats that have all
        of these values.

    Example:
        >>> test = {"a": {0: 0.9, 1: 0.5, 2: 0.5}, "b": {0: 0.6, 1: 0.6, 2: 0.6}}
        >>> alone = dict.fromkeys(range(3), 0.5)
        >>> round(gain_by_others("accuracy", alone, test, test), 3)  # by the others b, a, a: 0.1, 0, 0
        0.033
    """
    everything = [alone, *test.values(), *validation.values()]
    known = [{repeat for repeat, value in each.items() if not np.isnan(value)} for each in everything]
    repeats = sorted(set.intersection(*known)) if known else []
    if len(test) < 2 or len(repeats) < LEAST_REPEATS:
        return float("nan")
    gains = []
    for repeat in repeats:
        others = {
            cell: {other: values[other] for other in repeats if other != repeat}
            for cell, values in validation.items()
        }
        chosen = choose_on_validation({"": others}, {"": metric})[""]
        gains.append(test[chosen][repeat] - alone[repeat])
    return float(np.mean(gains)) if METRICS[metric].higher_is_better else -float(np.mean(gains))
