"""Where windows begin: on a grid of strides within every uninterrupted stretch of a recording."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from taskloom.data.label_rules import check_choice
from taskloom.data.recordings import Recording
from taskloom.errors import ConfigError

LastWindow = Literal["drop", "shift"]


def compute_window_starts(
    length_samples: int, window_samples: int, stride_samples: int, last: LastWindow = "drop"
) -> NDArray[np.int64]:
    """Positions of the windows of one uninterrupted stretch.

    Args:
        length_samples: Length of the stretch.
        window_samples: Length of a window.
        stride_samples: From one window's start to the next one's.
        last: What to do with samples left over at the end: "drop" leaves them out; "shift" adds a window that
            ends with the stretch and overlaps the one before it more than the others do.

    Returns:
        Ascending starts [n], 0 <= start <= length_samples - window_samples; empty where the stretch is
        shorter than a window.

    Raises:
        ConfigError: A window or stride below 1, or an unknown policy.

    Example:
        >>> compute_window_starts(10, 4, 4), compute_window_starts(10, 4, 4, last="shift")
        (array([0, 4]), array([0, 4, 6]))
    """
    for setting, value in (("window_samples", window_samples), ("stride_samples", stride_samples)):
        if value < 1:
            raise ConfigError(f"{setting}: 1 sample or more expected, found {value}.")
    check_choice("last", last, get_args(LastWindow))
    final = length_samples - window_samples
    starts = np.arange(0, final + 1, stride_samples, dtype=np.int64)
    if last == "shift" and len(starts) and starts[-1] < final:
        starts = np.append(starts, np.int64(final))
    return starts


def recording_window_starts(
    recording: Recording, window_samples: int, stride_samples: int, last: LastWindow = "drop"
) -> NDArray[np.int64]:
    """Positions in the store of all windows of a recording; none crosses its end or touches a gap.

    The grid of strides begins anew after each gap, and `last` holds for each stretch between gaps.
    """
    parts = [
        recording.start + start + compute_window_starts(stop - start, window_samples, stride_samples, last)
        for start, stop in recording.segments
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
