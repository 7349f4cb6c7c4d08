"""What every task kind has: a name, a role, a loss, metrics, and the shapes of labels and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from taskloom.errors import ConfigError, did_you_mean
from taskloom.tasks.roles import Reversal, Role, is_number

HIGHER_IS_BETTER: dict[str, bool] = {
    "accuracy": True,
    "balanced_accuracy": True,
    "f1_macro": True,
    "f1_weighted": True,
    "f1_micro": True,
    "f1": True,
    "auc": True,
    "afa": True,
    "mae": False,
    "mse": False,
    "rmse": False,
    "r2": True,
    "ccc": True,
    "landmark_error": False,
    "failure_rate": False,
    "failure_rate_5": False,
    "failure_rate_10": False,
}
"""Direction of every metric by name; `taskloom.metrics` computes exactly these (a test holds them equal)."""

LastLayer = Literal["linear", "shared_slope"]
"""Last layer of a head: a linear layer, or one weight vector for all outputs with a bias each."""


@dataclass(frozen=True)
class Task:
    """One thing to predict. Use a subclass: Binary, Multiclass, Multilabel, Regression, Ordinal or Landmarks.

    Args:
        name: The task's name; also its column in a table unless the data say otherwise.
        metric: The metric the task is judged by; the kind's default where empty.
        loss: The loss it is trained with; the kind's default where empty.
        role: "main" tasks are judged; "auxiliary" ones are trained and reported apart; "adversarial" ones are
            auxiliary ones whose gradient is reversed where they leave what they share, see `Reversal`.
        weight: Factor on the loss of an auxiliary or adversarial task, before the losses are balanced; at
            least 0. Weights of main tasks are the balancer's.
        reversal: Schedule of an adversarial task's reversal; the default of `Reversal` where None.

    Raises:
        ConfigError: The metric or loss does not fit the kind, the name is empty, or a setting belongs to
            another role.
    """

    name: str
    metric: str = field(default="", kw_only=True)
    loss: str = field(default="", kw_only=True)
    role: Role = field(default="main", kw_only=True)
    weight: float = field(default=1.0, kw_only=True)
    reversal: Reversal | None = field(default=None, kw_only=True)

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
        self._check_role_settings()
        article = "an" if self.kind[:1] in "aeiou" else "a"
        for setting, chosen, known in (
            ("metric", self.metric, self.known_metrics),
            ("loss", self.loss, self.known_losses),
        ):
            if chosen and chosen not in known:
                raise ConfigError(
                    f"tasks.{self.name}.{setting}: `{chosen}` does not fit {article} {self.kind} task."
                    f"{did_you_mean(chosen, known)} Possible: {', '.join(known)}."
                )

    def _check_role_settings(self) -> None:
        where = f"tasks.{self.name}"
        if not is_number(self.weight) or self.weight < 0:
            raise ConfigError(f"{where}.weight: a number of at least 0 expected, found {self.weight!r}.")
        if self.role == "main" and self.weight != 1:
            raise ConfigError(
                f"{where}.weight: only auxiliary and adversarial tasks have a weight of their own; weigh "
                "main tasks by `balancing`."
            )
        if self.reversal is None:
            return
        if self.role != "adversarial":
            raise ConfigError(
                f"{where}.reversal: only an adversarial task is reversed, this one is {self.role}; set "
                "`role: adversarial`, or leave it out."
            )
        try:
            object.__setattr__(self, "reversal", Reversal.from_settings(self.reversal))
        except ConfigError as error:
            raise ConfigError(f"{where}.{error}") from None

    @property
    def judged(self) -> bool:
        """Whether verdicts are about this task: it is a main one."""
        return self.role == "main"

    # -- what the network and the labels look like

    @property
    def width(self) -> int:
        """Number of outputs of the task's head."""
        raise NotImplementedError

    @property
    def last_layer(self) -> LastLayer:
        """Last layer of the task's head."""
        return "linear"

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
            shaped like `output`. Multilabel: probabilities [N, K]. Regression, ordinal: values in the task's
            unit, [N] or [N, D]. Landmarks: pixels, [N, K, 2].
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values from which `task_from_dict` rebuilds an equal task."""
        plain = {"kind": self.kind, **dataclasses.asdict(self)}
        # Younger settings that are not used are left out: checkpoints of before go on.
        if self.weight == 1:
            del plain["weight"]
        if self.reversal is None:
            del plain["reversal"]
        if not plain.get("fixed_scale", True):
            del plain["fixed_scale"]
        return plain


def read_names(task: str, setting: str, given: Sequence[Any] | int) -> tuple[str, ...]:
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
