"""Tasks of numbers, which a network predicts in a standardised scale: regressions and landmarks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from taskloom.errors import ConfigError
from taskloom.tasks.base import Task, read_names


@dataclass(frozen=True)
class Regression(Task):
    """One number, or D numbers that are present or missing together.

    The network works in standardised values, (value - center) / scale; metrics are in the unit.

    Args:
        unit: Unit of the values, for reports.
        size: Number of values per row; 1 gives label shape [N], more give [N, D].
        center: Subtracted from the values before the loss, in the unit.
        scale: Divides them, in the unit; > 0. Data sources fit both on the training labels.
        range: Smallest and largest possible value, in the unit; predictions are clipped to it.
        fixed_scale: Whether center and scale stay as they are given. The squared error is then the papers'
            own: in years with 0 and 1 (thesis 000, section 5.3), and with center 21 and scale 40 sqrt(2)
            that of thesis 001, equation 3.2, half the square of years / 40.

    Example:
        >>> age = Regression("age", unit="years", center=40.0, scale=10.0)
        >>> age.decode(torch.tensor([[0.5]]))
        tensor([45.])
    """

    unit: str = ""
    size: int = 1
    center: float = 0.0
    scale: float = 1.0
    range: tuple[float, float] | None = None
    fixed_scale: bool = field(default=False, kw_only=True)

    kind: ClassVar[str] = "regression"
    known_metrics: ClassVar[tuple[str, ...]] = ("mae", "mse", "rmse", "r2", "ccc")
    known_losses: ClassVar[tuple[str, ...]] = ("mse", "mae", "huber")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_scale(self.name, self.scale, self.fixed_scale)
        if not _is_number(self.size) or self.size != int(self.size) or self.size < 1:
            raise ConfigError(
                f"tasks.{self.name}.size: at least 1 value per row expected, found {self.size}."
            )
        if self.range is not None:
            if not isinstance(self.range, list | tuple) or not all(map(_is_number, self.range)):
                raise ConfigError(f"tasks.{self.name}.range: [low, high] expected, found {self.range!r}.")
            if len(self.range) != 2:
                raise ConfigError(f"tasks.{self.name}.range: [low, high] expected, found {list(self.range)}.")
            low, high = self.range
            object.__setattr__(self, "range", (float(low), float(high)))
            if not low < high:
                raise ConfigError(f"tasks.{self.name}.range: low < high expected, found [{low}, {high}].")

    @property
    def width(self) -> int:
        return self.size

    @property
    def value_shape(self) -> tuple[int, ...]:
        return () if self.size == 1 else (self.size,)

    @property
    def value_dtype(self) -> torch.dtype:
        return torch.float32

    def standardize(self, values: Tensor) -> Tensor:
        """Returns `values` (in the unit, any shape) in the network's scale."""
        return (values - self.center) / self.scale

    def fit(self, values: Tensor) -> Self:
        """Returns a copy with center and scale the mean and standard deviation of `values`, [M] or [M, D].

        With `fixed_scale` the task itself.
        """
        if self.fixed_scale:
            return self
        center, scale = _mean_and_deviation(values)
        return dataclasses.replace(self, center=center, scale=scale)

    def decode(self, output: Tensor) -> Tensor:
        values = output * self.scale + self.center
        if self.range is not None:
            values = values.clamp(*self.range)
        return values.squeeze(1) if self.size == 1 else values


LandmarkReference = Literal["box", "sqrt_area", "box_width", "inter_ocular"]
"""Named lengths that errors of landmarks are divided by; see `Landmarks`."""
EYES = ("left_eye", "right_eye")


@dataclass(frozen=True)
class Landmarks(Task):
    """K points in the plane, each present or missing by itself.

    Args:
        points: Names of the points, or their number.
        reference: What one unit of normalised error is: "box" or "sqrt_area" (square root of the area of the
            box around the row's present points), "box_width" (that box's width; report 004 and Zhang et al.
            2014 divide by a width), "inter_ocular" (distance of the points named left_eye and right_eye), a
            pair of point indices (their distance), or a length in pixels, such as the width of stored
            images: then the box is the one that faces were cut by.
        center: Subtracted from coordinates before the loss, in pixels.
        scale: Divides them, in pixels; > 0. Data sources fit both on the training labels.
        threshold: Rows whose normalised mean error is above it count as failures.
        fixed_scale: Whether center and scale stay as they are given.

    The loss of a row is the mean over its present points and their two coordinates, each in units of `scale`.
    Report 004 (equations 2 and 8) has the sum over the ten coordinates, without saying in which unit: that is
    10 times this for five points, and a factor on the weight of the landmarks beside other tasks.

    Example:
        >>> Landmarks("face", 5, reference=(0, 1)).width
        10
    """

    points: tuple[str, ...] | int = ()
    reference: LandmarkReference | tuple[int, int] | float = "box"
    center: float = 0.0
    scale: float = 1.0
    threshold: float = 0.1
    fixed_scale: bool = field(default=False, kw_only=True)

    kind: ClassVar[str] = "landmarks"
    known_metrics: ClassVar[tuple[str, ...]] = (
        "landmark_error",
        "failure_rate",
        "failure_rate_5",
        "failure_rate_10",
    )
    known_losses: ClassVar[tuple[str, ...]] = ("mse", "mae", "huber")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "points", read_names(self.name, "points", self.points))
        _check_scale(self.name, self.scale, self.fixed_scale)
        num_points = len(self.class_names)
        if num_points == 0:
            raise ConfigError(f"tasks.{self.name}.points: at least one point expected.")
        reference = self.reference
        if isinstance(reference, list | tuple):
            object.__setattr__(self, "reference", tuple(reference))
            indices = [index for index in reference if isinstance(index, int) and 0 <= index < num_points]
            if len(reference) != 2 or len(set(indices)) != 2:
                raise ConfigError(
                    f"tasks.{self.name}.reference: two different point indices below {num_points} expected, "
                    f"found {list(reference)}."
                )
        elif isinstance(reference, str):
            self._check_named_reference(reference)
        elif not _is_number(reference) or reference <= 0:
            raise ConfigError(f"tasks.{self.name}.reference: a length above 0 expected, found {reference}.")
        if not _is_number(self.threshold) or self.threshold <= 0:
            raise ConfigError(
                f"tasks.{self.name}.threshold: a number above 0 expected, found {self.threshold!r}."
            )

    def _check_named_reference(self, reference: str) -> None:
        known = get_args(LandmarkReference)
        if reference not in known:
            raise ConfigError(
                f"tasks.{self.name}.reference: {', '.join(known)}, two point indices or a length expected, "
                f"found {reference!r}."
            )
        missing = [eye for eye in EYES if eye not in self.class_names]
        if reference == "inter_ocular" and missing:
            raise ConfigError(
                f"tasks.{self.name}.reference: inter_ocular needs the points {' and '.join(EYES)}, and there "
                f"is no {missing[0]}; give the indices of the two eyes."
            )

    @property
    def width(self) -> int:
        return 2 * len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        assert isinstance(self.points, tuple)  # __post_init__ replaced a number by names
        return self.points

    @property
    def value_shape(self) -> tuple[int, ...]:
        return (len(self.class_names), 2)

    @property
    def presence_shape(self) -> tuple[int, ...]:
        return (len(self.class_names),)

    @property
    def value_dtype(self) -> torch.dtype:
        return torch.float32

    def standardize(self, values: Tensor) -> Tensor:
        """Returns coordinates (pixels, any shape) in the network's scale."""
        return (values - self.center) / self.scale

    def fit(self, values: Tensor) -> Self:
        """Returns a copy with center and scale the mean and standard deviation of coordinates [M, 2].

        With `fixed_scale` the task itself.
        """
        if self.fixed_scale:
            return self
        center, scale = _mean_and_deviation(values)
        return dataclasses.replace(self, center=center, scale=scale)

    def decode(self, output: Tensor) -> Tensor:
        return (output * self.scale + self.center).reshape(-1, *self.value_shape)


def _check_scale(task: str, scale: float, fixed: bool) -> None:
    if not _is_number(scale) or not scale > 0:
        raise ConfigError(f"tasks.{task}.scale: a number above 0 expected, found {scale}.")
    if not isinstance(fixed, bool):
        raise ConfigError(f"tasks.{task}.fixed_scale: true or false expected, found {fixed!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean_and_deviation(values: Tensor) -> tuple[float, float]:
    """Mean and population standard deviation of all elements; (0, 1) of none, scale 1 if constant."""
    if values.numel() == 0:
        return 0.0, 1.0
    values = values.double()
    deviation = float(values.std(correction=0))
    return float(values.mean()), deviation if deviation > 0 else 1.0
