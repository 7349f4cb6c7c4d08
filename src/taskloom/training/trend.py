"""Zhang et al. 2014's criterion of task-wise early stopping: training trend times generalisation error."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def trend(losses: Sequence[float]) -> float:
    """Tendency of a training loss over its last epochs (first factor of TCDCN's equation 5).

    k med / (sum - k med) over the k + 1 losses E(t - k) ... E(t). A flat loss gives k, one that falls fast
    at the beginning of the strip has a mean far above its median and gives a small number. Where the sum is
    not above k med, the loss fell so fast at the *end* of the strip that the formula changes its sign: the
    tendency is then 0, since such a task must go on.

    Args:
        losses: The k + 1 losses, oldest first; not negative.

    Example:
        >>> trend([1.0, 1.0, 1.0, 1.0]), trend([9.0, 1.0, 1.0, 1.0])
        (3.0, 0.3333333333333333)
    """
    length = len(losses) - 1
    level = length * statistics.median(losses)
    rest = math.fsum(losses) - level
    if rest <= 0:
        return 0.0 if level else float(length)  # all of them 0: as constant as can be
    return level / rest


def generalisation_error(validation_loss: float, train_losses: Sequence[float], importance: float) -> float:
    """How far validation is above the best training loss (second factor of TCDCN's equation 5).

    (E_val(t) - min E_train) / (importance min E_train), the minimum over all epochs so far; infinite where a
    training loss of 0 leaves a validation loss above it.

    Args:
        validation_loss: Of the newest epoch.
        train_losses: Of all epochs so far.
        importance: lambda of the task, above 0.

    Example:
        >>> generalisation_error(3.0, [4.0, 2.0, 2.5], 1.0)
        0.5
    """
    least = min(train_losses)
    if least <= 0:
        return math.inf if validation_loss > least else 0.0
    return (validation_loss - least) / (importance * least)


def has_peaked(
    train_losses: Sequence[float | None],
    validation_loss: float | None,
    *,
    strip: int,
    threshold: float,
    importance: float,
) -> bool:
    """Whether a task is to stop after the newest epoch: trend times generalisation error above the threshold.

    Args:
        train_losses: Of all epochs so far, oldest first; epochs without a label (None) are left out.
        validation_loss: Of the newest epoch; None where there is no label, and then nothing is decided.
        strip: k, 1 or more; nothing is decided before k + 1 epochs.
        threshold: epsilon.
        importance: lambda of the task, above 0.
    """
    known = [loss for loss in train_losses if loss is not None]
    if validation_loss is None or len(known) <= strip:
        return False
    tendency = trend(known[-strip - 1 :])
    excess = generalisation_error(validation_loss, known, importance)
    return tendency > 0 and tendency * excess > threshold
