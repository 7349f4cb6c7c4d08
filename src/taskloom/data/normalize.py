"""The normaliser of sensor channels: fitted on the samples that training windows cover, each counted once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.data.recordings import RecordingStore
from taskloom.errors import ConfigError, DataError

_CHUNK_SAMPLES = 1 << 14


class CoveredSamples(Protocol):
    """What fitting needs of a `WindowDataset`."""

    @property
    def store(self) -> RecordingStore: ...

    @property
    def channels(self) -> tuple[str, ...]: ...

    @property
    def channel_columns(self) -> slice | list[int]: ...

    def covered_ranges(self) -> list[tuple[int, int]]: ...


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Subtracts a mean and divides by a scale, per channel or per person and channel.

    Args:
        mean: Subtracted, in the channel's unit: [channels], or [persons, channels].
        scale: Divides, in the channel's unit, > 0: the same shape.
        clip: Normalised values are limited to [-clip, clip], that is the channel to mean +/- clip standard
            deviations; None for no limit.
        persons: Names of the persons, in row order, where it is per person.
        constant_channels: Channels (`channel`, or `person: channel`) that did not vary; their scale is 1.

    Raises:
        ConfigError: Shapes that differ, a scale or a clip that is not above 0.

    Example:
        >>> normalizer = Normalizer(np.array([1.0, 2.0]), np.array([2.0, 1.0]), clip=3.0)
        >>> normalizer.apply_(torch.tensor([[[3.0, 9.0]]]))
        tensor([[[1., 3.]]])
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    clip: float | None = None
    persons: tuple[str, ...] = ()
    constant_channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", np.asarray(self.mean, dtype=np.float64))
        object.__setattr__(self, "scale", np.asarray(self.scale, dtype=np.float64))
        rows = (len(self.persons),) if self.persons else ()
        if self.mean.shape != self.scale.shape or self.mean.shape[:-1] != rows:
            shape = "[persons, channels]" if rows else "[channels]"
            raise ConfigError(
                f"normaliser: mean and scale of one shape {shape} expected, "
                f"found {list(self.mean.shape)} and {list(self.scale.shape)}."
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ConfigError("normaliser: finite means and scales above 0 expected.")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"normaliser.clip: a number above 0 expected, found {self.clip}.")
        # float32 copies, for batches
        object.__setattr__(self, "_mean", torch.from_numpy(self.mean.astype(np.float32)))
        object.__setattr__(self, "_scale", torch.from_numpy(self.scale.astype(np.float32)))

    @property
    def num_channels(self) -> int:
        return int(self.mean.shape[-1])

    @classmethod
    def fit(
        cls,
        windows: CoveredSamples,
        *,
        per: Literal["channel", "person"] = "channel",
        clip: float | None = None,
    ) -> Self:
        """Mean and population standard deviation of the samples that the windows cover, each counted once.

        Streams over the store: sums in float64 of differences from the first sample, merged chunk by chunk
        (Chan, Golub and LeVeque 1983, equation 2.1), so that a large offset costs no precision.

        Args:
            windows: The training windows, and no others.
            per: "channel", or "person" for a row of means and scales per person.
            clip: See the class.

        Raises:
            DataError: No window, or a recording without a person where `per` is "person".
        """
        if per not in ("channel", "person"):
            raise ConfigError(f"normaliser.per: channel or person expected, found {per!r}.")
        store, columns = windows.store, windows.channel_columns
        sums: dict[str, _Moments] = {}
        for start, stop in windows.covered_ranges():
            person = _person_at(store, start) if per == "person" else ""
            moments = sums.setdefault(person, _Moments())
            for chunk in _chunks(store.samples, start, stop, columns):
                moments.add(chunk)
        if not sums:
            raise DataError("normaliser: at least one training window expected, found none.")
        persons = tuple(sorted(sums)) if per == "person" else ()
        mean = np.stack([sums[person].mean for person in persons or ("",)])
        deviation = np.stack([sums[person].deviation for person in persons or ("",)])
        constant = tuple(
            f"{persons[row]}: {windows.channels[column]}" if persons else windows.channels[column]
            for row, column in np.argwhere(deviation == 0).tolist()
        )
        scale = np.where(deviation == 0, 1.0, deviation)
        if not persons:
            mean, scale = mean[0], scale[0]
        return cls(mean, scale, clip, persons, constant)

    @classmethod
    def of_samples(cls, chunks: Iterable[NDArray[Any]], *, clip: float | None = None) -> Self:
        """The normaliser of one person's samples: mean and population standard deviation per channel.

        Args:
            chunks: All samples, [n, channels] each, every sample once: those that windows cover.
            clip: See the class.

        Raises:
            DataError: No sample.

        Example:
            >>> found = Normalizer.of_samples([np.array([[1.0], [3.0]]), np.array([[5.0], [7.0]])])
            >>> found.mean, found.scale**2
            (array([4.]), array([5.]))
        """
        moments = _Moments()
        for chunk in chunks:
            for first in range(0, len(chunk), _CHUNK_SAMPLES):
                moments.add(chunk[first : first + _CHUNK_SAMPLES].astype(np.float64))
        if not moments.count:
            raise DataError("normaliser: at least one sample expected, found none.")
        deviation = moments.deviation
        return cls(moments.mean, np.where(deviation == 0, 1.0, deviation), clip)

    def of_person(self, person: str) -> Self | None:
        """The row of a person as a normaliser of its own; None where the person is not known.

        Example:
            >>> both = Normalizer(np.array([[1.0], [5.0]]), np.ones((2, 1)), persons=("P1", "P2"))
            >>> both.of_person("P2").mean, both.of_person("P3")
            (array([5.]), None)
        """
        if person not in self.persons:
            return None
        row = self.persons.index(person)
        return type(self)(self.mean[row], self.scale[row], self.clip)

    def apply_(self, inputs: Tensor, persons: Sequence[str | None] | None = None) -> Tensor:
        """Normalises in place and returns the same tensor.

        Args:
            inputs: Windows [B, window_samples, channels], float32.
            persons: Person of every window, where the normaliser is per person.

        Raises:
            DataError: A person without training windows: nothing is known to normalise by.
        """
        mean, scale = self._rows(persons) if self.persons else (self._mean, self._scale)  # type: ignore[attr-defined]
        inputs.sub_(mean.to(inputs.device)).div_(scale.to(inputs.device))
        if self.clip is not None:
            inputs.clamp_(-self.clip, self.clip)
        return inputs

    def _rows(self, persons: Sequence[str | None] | None) -> tuple[Tensor, Tensor]:
        if persons is None:
            raise ValueError("a normaliser per person needs the person of every window")
        row_of = self.check_known(persons)
        rows = torch.tensor([row_of[str(person)] for person in persons])
        return self._mean[rows, None, :], self._scale[rows, None, :]  # type: ignore[attr-defined]

    def check_known(self, persons: Sequence[str | None]) -> dict[str, int]:
        """The row of every person in `mean` and `scale`, after a look whether these people are among them.

        Raises:
            DataError: A person without training windows: nothing is known to normalise by.
        """
        row_of = {person: row for row, person in enumerate(self.persons)}
        for person in persons:
            if person not in row_of:
                raise DataError(
                    f"normaliser: person {person} has no training window, so there is nothing to normalise "
                    "by; use `per: channel` where people are kept on one side of the split."
                )
        return row_of

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` rebuilds it."""
        return {
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "clip": self.clip,
            "persons": list(self.persons),
            "constant_channels": list(self.constant_channels),
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        return cls(
            np.array(settings["mean"]),
            np.array(settings["scale"]),
            settings["clip"],
            tuple(settings["persons"]),
            tuple(settings["constant_channels"]),
        )


class _Moments:
    """Count, mean and sum of squared deviations per channel, merged chunk by chunk."""

    def __init__(self) -> None:
        self.count = 0
        self._shift: NDArray[np.float64] = np.zeros(0)
        self._mean: NDArray[np.float64] = np.zeros(0)
        self._squares: NDArray[np.float64] = np.zeros(0)

    def add(self, chunk: NDArray[np.float64]) -> None:
        if self.count == 0:
            # A constant channel becomes exactly 0 after this shift, and so does its deviation.
            self._shift = chunk[0].copy()
            self._mean, self._squares = np.zeros_like(self._shift), np.zeros_like(self._shift)
        chunk = chunk - self._shift
        count, mean = len(chunk), chunk.mean(axis=0)
        squares = np.square(chunk - mean).sum(axis=0)
        total = self.count + count
        difference = mean - self._mean
        self._squares = self._squares + squares + np.square(difference) * (self.count * count / total)
        self._mean = self._mean + difference * (count / total)
        self.count = total

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._shift + self._mean

    @property
    def deviation(self) -> NDArray[np.float64]:
        return np.sqrt(self._squares / self.count)


def _chunks(
    samples: NDArray[np.float32], start: int, stop: int, columns: slice | list[int]
) -> Iterator[NDArray[np.float64]]:
    for first in range(start, stop, _CHUNK_SAMPLES):
        yield samples[first : min(first + _CHUNK_SAMPLES, stop)][:, columns].astype(np.float64)


def _person_at(store: RecordingStore, start: int) -> str:
    index = int(np.searchsorted([recording.start for recording in store.recordings], start, side="right")) - 1
    recording = store.recordings[index]
    if recording.person is None:
        raise DataError(f"recording {recording.name}: its person is not known; use `per: channel`.")
    return recording.person
