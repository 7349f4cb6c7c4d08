"""Another sampling rate, by a polyphase filter."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly


def resample(samples: NDArray[np.float32], from_hz: float, to_hz: float) -> NDArray[np.float32]:
    """Returns samples [n, channels] at another rate, [ceil(n to/from), channels], by a polyphase filter.

    The ends are continued along the line through the first and last sample, so that an offset makes no edge.

    Example:
        >>> resample(np.full((4, 1), 3, dtype=np.float32), 4.0, 2.0).ravel()
        array([3., 3.], dtype=float32)
    """
    if from_hz == to_hz:
        return samples
    ratio = Fraction(to_hz).limit_denominator(10000) / Fraction(from_hz).limit_denominator(10000)
    resampled = resample_poly(
        samples.astype(np.float64), ratio.numerator, ratio.denominator, axis=0, padtype="line"
    )
    return np.asarray(resampled, dtype=np.float32)
