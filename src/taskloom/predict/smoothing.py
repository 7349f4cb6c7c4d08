"""Predictions of a face averaged over its frames, older ones for less."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Smoother:
    """An exponential moving average per face, in time instead of frames.

    A frame counts half as much as one that is `half_life` seconds younger, whatever the frame rate; the
    average over the first frames of a face is that of those frames alone, so that nothing pulls it to zero.

    Args:
        half_life: In seconds; 0 leaves predictions as they are.
        patience: Seconds without a face after which it is forgotten.

    Example:
        >>> smoother = Smoother(half_life=1.0)
        >>> smoother.add(1, 0.0, np.array([0.0])), smoother.add(1, 1.0, np.array([3.0]))
        (array([0.]), array([2.]))
    """

    def __init__(self, half_life: float, patience: float = 10.0) -> None:
        self.half_life, self.patience = half_life, patience
        self._faces: dict[int, tuple[float, float, NDArray[np.float64]]] = {}

    def add(self, face: int, time: float, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """Takes the state [K] of a face at a time (seconds) and returns its average."""
        if self.half_life == 0:
            return state
        before, weight, average = self._faces.pop(face, (time, 0.0, state))
        weight *= 0.5 ** ((time - before) / self.half_life)
        average = (weight * average + state) / (weight + 1)
        self._faces[face] = (time, weight + 1, average)  # at the end: the oldest stand first
        while self._faces and next(iter(self._faces.values()))[0] < time - self.patience:
            del self._faces[next(iter(self._faces))]
        return np.asarray(average)
