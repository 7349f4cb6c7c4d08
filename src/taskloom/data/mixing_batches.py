"""Batches of several data sets: how many rows of each stand in one batch, and what an epoch is.

=================  =========================================================================================
`mix`              rows of a data set in a batch
=================  =========================================================================================
`proportional`     whatever a permutation of all rows gives: every row once per epoch
`equal`            as many of every data set
`temperature`      in proportion to n^(1/T) of its n rows: T = 1 is by size, a large T nears equal
`rows`             as given per data set (their ratio, where `training.batch` is not their sum)
=================  =========================================================================================

One epoch is as many batches as all rows together fill, whatever the mix, so that epochs of two mixes cost the
same. Where a mix is not proportional, every data set is gone through in permutations of its own, one pass
after the other and over the ends of epochs: no row comes a second time before every other one of its set has
come, and a small set is gone through more often. Which rows come follows from seed and epoch alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import ConfigError, did_you_mean

Mix = Literal["proportional", "equal", "temperature", "rows"]
_WHERE = "data.batches"


@dataclass(frozen=True)
class MixRule:
    """How batches are mixed; see the module.

    Args:
        mix: One of the four.
        temperature: With `temperature`, T, at least 1.
        rows: With `rows`, rows per batch by data set.

    Raises:
        ConfigError: A setting that is unknown, missing, out of range or of another mix.
    """

    mix: Mix = "proportional"
    temperature: float | None = None
    rows: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mix not in get_args(Mix):
            raise ConfigError(
                f"{_WHERE}.mix: `{self.mix}` is not a way of mixing."
                f"{did_you_mean(str(self.mix), get_args(Mix))} Ways: {', '.join(get_args(Mix))}."
            )
        if (self.temperature is not None) != (self.mix == "temperature"):
            raise ConfigError(f"{_WHERE}.temperature: goes with `mix: temperature`, and that needs it.")
        if self.temperature is not None and (not _is_number(self.temperature) or self.temperature < 1):
            raise ConfigError(
                f"{_WHERE}.temperature: a number of at least 1 expected, found {self.temperature!r}."
            )
        if bool(self.rows) != (self.mix == "rows"):
            raise ConfigError(f"{_WHERE}.rows: goes with `mix: rows`, and that needs it.")
        for name, count in self.rows.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigError(f"{_WHERE}.rows.{name}: at least 1 row expected, found {count!r}.")

    @classmethod
    def from_settings(cls, given: Any, names: Sequence[str]) -> Self:
        """Reads `data.batches`: a name, or settings.

        Args:
            given: What stands there; None is proportional.
            names: The data sets.

        Raises:
            ConfigError: See `MixRule`; a data set that is not there, or rows for some of them only.
        """
        if given is None or isinstance(given, str):
            return cls(given or "proportional")  # type: ignore[arg-type]  # it is checked there
        known = ("mix", "temperature", "rows")
        if not isinstance(given, Mapping):
            raise ConfigError(f"{_WHERE}: a way of mixing or settings by name expected, found {given!r}.")
        for key in given:
            if key not in known:
                raise ConfigError(
                    f"{_WHERE}.{key} is not a setting.{did_you_mean(str(key), known)} "
                    f"Settings: {', '.join(known)}."
                )
        rows = given.get("rows") or {}
        if not isinstance(rows, Mapping):
            raise ConfigError(f"{_WHERE}.rows: rows by data set expected, found {rows!r}.")
        for name in rows:
            if name not in names:
                raise ConfigError(
                    f"{_WHERE}.rows: there is no data set `{name}`.{did_you_mean(str(name), names)} "
                    f"Data sets: {', '.join(names)}."
                )
        if rows and len(rows) < len(names):
            left = ", ".join(name for name in names if name not in rows)
            raise ConfigError(f"{_WHERE}.rows: every data set needs its rows; {left} has none.")
        implied = "rows" if rows else "temperature" if "temperature" in given else "proportional"
        return cls(given.get("mix", implied), given.get("temperature"), dict(rows))


@dataclass(frozen=True)
class RowMix:
    """How the rows of one dataset are mixed.

    Args:
        rule: The rule.
        names: The data sets.
        sets: Which of them each row comes from, [N], positions in `names`.
    """

    rule: MixRule
    names: tuple[str, ...]
    sets: NDArray[np.int64]

    def of(self, rows: NDArray[np.int64]) -> RowMix:
        """The mix of some of the rows."""
        return RowMix(self.rule, self.names, self.sets[rows])

    def quotas(self, batch: int) -> dict[int, int] | None:
        """Rows of each data set in a batch, by position in `names`; None where a permutation of all decides.

        Data sets without rows have none. Fractions go by the largest remainder.

        Raises:
            ConfigError: A batch of fewer rows than there are data sets.

        Example:
            >>> sets = np.repeat([0, 1], [900, 100])
            >>> RowMix(MixRule("temperature", 2), ("a", "b"), sets).quotas(40)
            {0: 30, 1: 10}
        """
        counts = np.bincount(self.sets, minlength=len(self.names))
        there = [number for number, count in enumerate(counts) if count]
        if self.rule.mix == "proportional" or len(there) < 2:
            return None
        if batch < len(there):
            raise ConfigError(
                f"training.batch: a batch of {batch} cannot hold a row of each of {len(there)} data sets; "
                f"at least {len(there)} expected, or `data.batches: proportional`."
            )
        match self.rule.mix:
            case "temperature":
                wanted = np.array(
                    [counts[number] ** (1 / float(self.rule.temperature or 1)) for number in there]
                )
            case "rows":
                wanted = np.array([float(self.rule.rows[self.names[number]]) for number in there])
            case _:
                wanted = np.ones(len(there))
        # One row of each first: a set that never came would never be learned.
        exact = wanted / wanted.sum() * batch
        given = np.maximum(np.floor(exact).astype(np.int64), 1)
        while given.sum() > batch:
            given[np.argmax(given - exact)] -= 1
        for place in np.argsort(given - exact, kind="stable")[: batch - int(given.sum())]:
            given[place] += 1
        return {number: int(count) for number, count in zip(there, given, strict=True)}


class MixedOrder:
    """The batches of one epoch after another, by quotas; see the module.

    Args:
        mix: How rows are mixed.
        quotas: Rows of each data set in a batch.
        seed: Of the permutations.
        drop_last: Whether an epoch is rounded down to whole batches instead of up.
    """

    def __init__(self, mix: RowMix, quotas: Mapping[int, int], *, seed: int, drop_last: bool) -> None:
        self.quotas, self.seed = dict(quotas), seed
        self.rows = {number: np.flatnonzero(mix.sets == number) for number in quotas}
        batch, total = sum(quotas.values()), len(mix.sets)
        self.num_batches = max(1, total // batch) if drop_last else math.ceil(total / batch)

    def batches(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """The batches of an epoch, each [batch] positions."""
        drawn = {number: self._draw(number, epoch) for number in self.quotas}
        for position in range(self.num_batches):
            yield np.concatenate(
                [drawn[n][position * quota : (position + 1) * quota] for n, quota in self.quotas.items()]
            )

    def _draw(self, number: int, epoch: int) -> NDArray[np.int64]:
        """The rows of a data set that an epoch takes, in their order."""
        rows = self.rows[number]
        taken = self.quotas[number] * self.num_batches
        first = epoch * taken
        passes = range(first // len(rows), (first + taken - 1) // len(rows) + 1)
        order = [np.random.default_rng((self.seed, number, one)).permutation(len(rows)) for one in passes]
        start = first - passes[0] * len(rows)
        return rows[np.concatenate(order)[start : start + taken]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
