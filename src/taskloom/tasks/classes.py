"""Tasks of classes: one of two, one of several, and several yes/no labels at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from taskloom.errors import ConfigError
from taskloom.tasks.base import Task, read_names
from taskloom.tasks.class_weights import ClassWeights, check_class_weights


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
    known_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "balanced_accuracy", "f1", "auc", "afa")
    known_losses: ClassVar[tuple[str, ...]] = ("binary_cross_entropy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "classes", read_names(self.name, "classes", self.classes))
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
        class_weights: Of the classes in the loss, whose mean they weigh as `torch.nn.CrossEntropyLoss` does:
            "balanced", `{name: weight}` (1 for the others), or one each. `TaskSet.fit` makes numbers of them,
            from training labels. A label counts as often as its class weighs, as if its row were repeated:
            a smoothed label too, and a teacher's soft label by its shares in the classes.

    Raises:
        ConfigError: One class only; or `width` and `class_names` are asked for before the classes are known.

    Example:
        >>> Multiclass("digit", 10).class_names[:3]
        ('0', '1', '2')
    """

    classes: tuple[str, ...] | int = ()
    class_weights: ClassWeights = field(default=(), kw_only=True)

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
        names = read_names(self.name, "classes", self.classes)
        # () says that the data know; the number 0 is a mistake.
        if len(names) == 1 or self.classes == 0:
            raise ConfigError(
                f"tasks.{self.name}.classes: a multiclass task needs two classes or more, found {len(names)}."
            )
        object.__setattr__(self, "classes", names)
        check_class_weights(self.name, self.class_weights)

    def to_dict(self) -> dict[str, Any]:
        plain = super().to_dict()
        if not self.class_weights:
            del plain[
                "class_weights"
            ]  # what is declared without them stays what it was before there were any
        return plain

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
        "afa",
    )
    known_losses: ClassVar[tuple[str, ...]] = ("binary_cross_entropy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", read_names(self.name, "labels", self.labels))
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
