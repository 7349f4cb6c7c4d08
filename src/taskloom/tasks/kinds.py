"""The task kinds: what one column of labels is, how wide its head is, what judges it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from taskloom.errors import ConfigError, did_you_mean

HIGHER_IS_BETTER: dict[str, bool] = {
    "accuracy": True,
    "balanced_accuracy": True,
    "f1_macro": True,
    "f1_weighted": True,
    "f1_micro": True,
    "f1": True,
    "auc": True,
    "mae": False,
    "mse": False,
    "rmse": False,
    "r2": True,
    "landmark_error": False,
    "failure_rate": False,
}
"""Direction of every metric by name; `taskloom.metrics` computes exactly these (a test holds them equal)."""

Role = Literal["main", "auxiliary"]


@dataclass(frozen=True)
class Task:
    """One thing to predict. Use a subclass: Binary, Multiclass, Multilabel, Regression or Landmarks.

    Args:
        name: The task's name; also its column in a table unless the data say otherwise.
        metric: The metric the task is judged by; the kind's default where empty.
        loss: The loss it is trained with; the kind's default where empty.
        role: "main" tasks are judged; "auxiliary" ones are trained and reported apart.

    Raises:
        ConfigError: The metric or loss does not fit the kind, or the name is empty.
    """

    name: str
    metric: str = field(default="", kw_only=True)
    loss: str = field(default="", kw_only=True)
    role: Role = field(default="main", kw_only=True)

    kind: ClassVar[str] = ""
    known_metrics: ClassVar[tuple[str, ...]] = ()
    known_losses: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ConfigError(f"a task needs a name, found {self.name!r}.")
        if self.role not in get_args(Role):
            raise ConfigError(
                f"tasks.{self.name}.role: `{self.role}` is not a role."
                f"{did_you_mean(str(self.role), get_args(Role))} Possible: {', '.join(get_args(Role))}."
            )
        for setting, chosen, known in (
            ("metric", self.metric, self.known_metrics),
            ("loss", self.loss, self.known_losses),
        ):
            if chosen and chosen not in known:
                raise ConfigError(
                    f"tasks.{self.name}.{setting}: `{chosen}` does not fit a {self.kind} task."
                    f"{did_you_mean(chosen, known)} Possible: {', '.join(known)}."
                )

    # -- what the network and the labels look like

    @property
    def width(self) -> int:
        """Number of outputs of the task's head."""
        raise NotImplementedError

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one row's value, without the row axis."""
        return ()

    @property
    def presence_shape(self) -> tuple[int, ...]:
        """Shape of one row's presence, without the row axis: () or (K,)."""
        return ()

    @property
    def value_dtype(self) -> torch.dtype:
        return torch.int64

    # -- what the task is trained with and judged by

    @property
    def default_loss(self) -> str:
        """Name of the loss in `taskloom.losses`."""
        return self.loss or self.known_losses[0]

    @property
    def primary_metric(self) -> str:
        """Name of the metric that verdicts are about."""
        return self.metric or self.known_metrics[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric reported for the task, the primary one first."""
        return (self.primary_metric, *(m for m in self.known_metrics if m != self.primary_metric))

    @property
    def higher_is_better(self) -> bool:
        """Direction of the primary metric."""
        return HIGHER_IS_BETTER[self.primary_metric]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes (binary, multiclass), labels (multilabel) or points; () for a regression."""
        return ()

    # -- from outputs to predictions

    def decode(self, output: Tensor) -> Tensor:
        """Turns head outputs into predictions a person can read.

        Args:
            output: Head outputs, [N, width] (or [N, width, W] for labels per sample).

        Returns:
            Binary: probability of the second class, [N] (or [N, W]). Multiclass: class probabilities,
            shaped like `output`. Multilabel: probabilities [N, K]. Regression: values in the task's unit,
            [N] or [N, D]. Landmarks: pixels, [N, K, 2].
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values from which `task_from_dict` rebuilds an equal task."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class Binary(Task):
    """One of two classes; the head gives one logit for the second class.

    Args:
        classes: Labels of the two classes as they stand in the data, the positive class second. Where they
            are not given, a reader finds them in the data; until then they are "0" and "1".

    Example:
        >>> Binary("gender", ("F", "M")).width
        1
    """

    classes: tuple[str, ...] = ()

    kind: ClassVar[str] = "binary"
    known_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "balanced_accuracy", "f1", "auc")
    known_losses: ClassVar[tuple[str, ...]] = ("binary_cross_entropy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "classes", _names(self.name, "classes", self.classes))
        if len(self.classes) not in (0, 2):
            raise ConfigError(
                f"tasks.{self.name}.classes: a binary task has two classes, found {len(self.classes)}; "
                "use a multiclass task."
            )

    @property
    def width(self) -> int:
        return 1

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes or ("0", "1")

    def decode(self, output: Tensor) -> Tensor:
        return output.squeeze(1).sigmoid()


@dataclass(frozen=True)
class Multiclass(Task):
    """One of C classes.

    Args:
        classes: The class labels as they stand in the data, in code order, or their number (then "0".."C-1").
            Where they are not given, a reader finds them in the data; until then there is no width.

    Raises:
        ConfigError: One class only; or `width` and `class_names` are asked for before the classes are known.

    Example:
        >>> Multiclass("digit", 10).class_names[:3]
        ('0', '1', '2')
    """

    classes: tuple[str, ...] | int = ()

    kind: ClassVar[str] = "multiclass"
    known_metrics: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "balanced_accuracy",
        "f1_macro",
        "f1_weighted",
        "f1_micro",
    )
    known_losses: ClassVar[tuple[str, ...]] = ("cross_entropy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = _names(self.name, "classes", self.classes)
        # () says that the data know; the number 0 is a mistake.
        if len(names) == 1 or self.classes == 0:
            raise ConfigError(
                f"tasks.{self.name}.classes: a multiclass task needs two classes or more, found {len(names)}."
            )
        object.__setattr__(self, "classes", names)

    @property
    def width(self) -> int:
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        assert isinstance(self.classes, tuple)  # __post_init__ replaced a number by names
        if not self.classes:
            raise ConfigError(
                f"tasks.{self.name}.classes: not known yet; name them, or take the tasks of the loaded data "
                "(`data.tasks`), which has found them."
            )
        return self.classes

    def decode(self, output: Tensor) -> Tensor:
        return output.softmax(dim=1)


@dataclass(frozen=True)
class Multilabel(Task):
    """K yes/no labels, each present or missing by itself.

    Args:
        labels: Names of the labels, or their number.

    Example:
        >>> Multilabel("attributes", ("hat", "scarf")).presence_shape
        (2,)
    """

    labels: tuple[str, ...] | int = ()

    kind: ClassVar[str] = "multilabel"
    known_metrics: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "balanced_accuracy",
        "f1_macro",
        "f1_micro",
        "auc",
    )
    known_losses: ClassVar[tuple[str, ...]] = ("binary_cross_entropy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", _names(self.name, "labels", self.labels))
        if not self.labels:
            raise ConfigError(f"tasks.{self.name}.labels: a multilabel task needs at least one label.")

    @property
    def width(self) -> int:
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        assert isinstance(self.labels, tuple)  # __post_init__ replaced a number by names
        return self.labels

    @property
    def value_shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def presence_shape(self) -> tuple[int, ...]:
        return (self.width,)

    def decode(self, output: Tensor) -> Tensor:
        return output.sigmoid()


@dataclass(frozen=True)
class Regression(Task):
    """One number, or D numbers that are present or missing together.

    The network works in standardised values, (value - center) / scale; metrics are in the unit.

    Args:
        unit: Unit of the values, for reports.
        size: Number of values per row; 1 gives label shape [N], more give [N, D].
        center: Subtracted from the values before the loss, in the unit.
        scale: Divides them, in the unit; > 0. A study fits both on the training labels.
        range: Smallest and largest possible value, in the unit; predictions are clipped to it.

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

    kind: ClassVar[str] = "regression"
    known_metrics: ClassVar[tuple[str, ...]] = ("mae", "mse", "rmse", "r2")
    known_losses: ClassVar[tuple[str, ...]] = ("mse", "mae", "huber")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_scale(self.name, self.scale)
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
        """Returns a copy with center and scale the mean and standard deviation of `values`, [M] or [M, D]."""
        center, scale = _mean_and_deviation(values)
        return dataclasses.replace(self, center=center, scale=scale)

    def decode(self, output: Tensor) -> Tensor:
        values = output * self.scale + self.center
        if self.range is not None:
            values = values.clamp(*self.range)
        return values.squeeze(1) if self.size == 1 else values


@dataclass(frozen=True)
class Landmarks(Task):
    """K points in the plane, each present or missing by itself.

    Args:
        points: Names of the points, or their number.
        reference: What one unit of normalised error is: "box" (square root of the area of the box around
            the row's present points), a pair of point indices (their distance, for example the eyes), or a
            length in pixels.
        center: Subtracted from coordinates before the loss, in pixels.
        scale: Divides them, in pixels; > 0.
        threshold: Rows whose normalised mean error is above it count as failures.

    Example:
        >>> Landmarks("face", 5, reference=(0, 1)).width
        10
    """

    points: tuple[str, ...] | int = ()
    reference: Literal["box"] | tuple[int, int] | float = "box"
    center: float = 0.0
    scale: float = 1.0
    threshold: float = 0.1

    kind: ClassVar[str] = "landmarks"
    known_metrics: ClassVar[tuple[str, ...]] = ("landmark_error", "failure_rate")
    known_losses: ClassVar[tuple[str, ...]] = ("mse", "mae", "huber")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "points", _names(self.name, "points", self.points))
        _check_scale(self.name, self.scale)
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
            if reference != "box":
                raise ConfigError(
                    f'tasks.{self.name}.reference: "box", two point indices or a length expected, '
                    f"found {reference!r}."
                )
        elif not _is_number(reference) or reference <= 0:
            raise ConfigError(f"tasks.{self.name}.reference: a length above 0 expected, found {reference}.")
        if not _is_number(self.threshold) or self.threshold <= 0:
            raise ConfigError(
                f"tasks.{self.name}.threshold: a number above 0 expected, found {self.threshold!r}."
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
        """Returns a copy with center and scale the mean and standard deviation of coordinates [M, 2]."""
        center, scale = _mean_and_deviation(values)
        return dataclasses.replace(self, center=center, scale=scale)

    def decode(self, output: Tensor) -> Tensor:
        return (output * self.scale + self.center).reshape(-1, *self.value_shape)


KINDS: dict[str, type[Task]] = {
    kind.kind: kind for kind in (Binary, Multiclass, Multilabel, Regression, Landmarks)
}


def task_from_dict(settings: Mapping[str, Any]) -> Task:
    """Builds a task from `Task.to_dict()` or from a configuration entry with `kind` and `name`.

    Raises:
        ConfigError: An unknown kind, or a setting the kind does not have.
    """
    fields = dict(settings)
    kind = str(fields.pop("kind", ""))
    name = fields.get("name", "?")
    if not kind:
        raise ConfigError(f"tasks.{name}: `kind` is missing. Known: {', '.join(KINDS)}.")
    if kind not in KINDS:
        raise ConfigError(
            f"tasks.{name}.kind: `{kind}` is not a kind of task.{did_you_mean(kind, KINDS)} "
            f"Known: {', '.join(KINDS)}."
        )
    cls = KINDS[kind]
    known = [f.name for f in dataclasses.fields(cls)]
    for key, value in fields.items():
        if key not in known:
            raise ConfigError(
                f"tasks.{name}.{key} is not a setting of a {kind} task.{did_you_mean(key, known)} "
                f"Settings: {', '.join(known)}."
            )
        if isinstance(value, list):
            fields[key] = tuple(value)
    if "name" not in fields:
        raise ConfigError(f"tasks: a {kind} task needs a `name`.")
    return cls(**fields)


def _names(task: str, setting: str, given: Sequence[Any] | int) -> tuple[str, ...]:
    """Names from names or from their number; refuses duplicates."""
    if isinstance(given, bool) or not isinstance(given, int | list | tuple):
        # A text is a sequence too: `classes: yes` would become the classes y, e, s.
        raise ConfigError(
            f"tasks.{task}.{setting}: a list of names or their number expected, found {given!r}."
        )
    if isinstance(given, int):
        return tuple(str(index) for index in range(given))
    names = tuple(str(name) for name in given)
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise ConfigError(f"tasks.{task}.{setting}: `{doubles[0]}` stands twice.")
    return names


def _check_scale(task: str, scale: float) -> None:
    if not _is_number(scale) or not scale > 0:
        raise ConfigError(f"tasks.{task}.scale: a number above 0 expected, found {scale}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean_and_deviation(values: Tensor) -> tuple[float, float]:
    """Mean and population standard deviation of all elements; (0, 1) of none, scale 1 if constant."""
    if values.numel() == 0:
        return 0.0, 1.0
    values = values.double()
    deviation = float(values.std(correction=0))
    return float(values.mean()), deviation if deviation > 0 else 1.0
