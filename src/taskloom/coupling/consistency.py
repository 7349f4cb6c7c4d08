"""How often the two tasks' predictions contradict what is known of their relation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taskloom.coupling.relatedness import Relatedness, check_names
from taskloom.coupling.sides import attributes_side, between, classes_side
from taskloom.errors import ConfigError
from taskloom.tasks import TaskSet


@dataclass(frozen=True)
class Consistency:
    """Counts over rows; they add up over batches with `+`.

    Args:
        contradicting: Rows with at least one contradiction.
        rows: All rows.
        contradictions: Contradicting pairs of a row and an attribute.
        decided: Pairs that the table decides (required or excluded by the predicted class).
    """

    contradicting: int = 0
    rows: int = 0
    contradictions: int = 0
    decided: int = 0

    def __add__(self, other: Consistency) -> Consistency:
        return Consistency(
            self.contradicting + other.contradicting,
            self.rows + other.rows,
            self.contradictions + other.contradictions,
            self.decided + other.decided,
        )

    @property
    def share(self) -> float:
        """Share of rows whose predictions contradict the relatedness; NaN without a row."""
        return self.contradicting / self.rows if self.rows else float("nan")

    @property
    def pair_share(self) -> float:
        """Share of contradictions among the decided pairs; it does not grow with the number of attributes."""
        return self.contradictions / self.decided if self.decided else float("nan")


def contradictions(
    predictions: Mapping[str, Tensor],
    tasks: TaskSet,
    relatedness: Relatedness,
    *,
    classes: str | Sequence[str],
    attributes: str | Sequence[str],
    required: float = 0.95,
    excluded: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Which predicted attributes contradict the predicted class.

    The predicted class is the likeliest, an attribute is predicted where its probability is above 1/2. Given
    the predicted class, an entry of `required` or more asks for the attribute (prototypical attributes, in a
    table of weights), an entry of `excluded` or less forbids it, anything between leaves it open, and so does
    an unknown entry. An attribute that a table of weights gives to no class is left open. Class-class: the
    predicted class of the second task is contradicted by an entry of `excluded` or less. Attribute-attribute:
    every label predicted as present asks and forbids as a class does; absent ones say nothing (rare labels
    would forbid all others).

    Args:
        predictions: Head outputs per task.
        tasks: The tasks.
        relatedness: The table; its names are exactly those of the tasks' labels.
        classes, attributes: The two sides, as in `Coupling`.
        required, excluded: See above, 0 <= excluded < required <= 1.

    Returns:
        Contradicting pairs and decided pairs, bool, [N, A] both.

    Raises:
        ConfigError: Names that do not match, a table between other kinds of labels, thresholds out of range.
        ValueError: Predictions that are missing, or of shapes that do not fit.
    """
    if not 0 <= excluded < required <= 1:
        raise ConfigError(
            f"consistency: 0 <= excluded < required <= 1 expected, found {excluded} and {required}."
        )
    left, right = classes_side(tasks, classes), attributes_side(tasks, attributes)
    form = between(left, right)
    if form != relatedness.between:
        raise ConfigError(
            f"consistency: relatedness {relatedness.source} is {relatedness.between}, {form} expected."
        )
    check_names(relatedness, left.names, right.names, f"{left.title} and {right.title}")
    table = relatedness.select(left.names, right.names)
    values = torch.from_numpy(table.values)[: len(left.names)]
    asked, forbidden = values >= required, values <= excluded  # NaN is neither
    if form == "attribute_attribute":
        other = torch.tensor([[row != column for column in right.names] for row in left.names])
        asked, forbidden = asked & other, forbidden & other
    if table.kind == "weights":
        forbidden = forbidden & (values.nan_to_num() > 0).any(dim=0)
    rows, columns = left.logits(predictions).detach().cpu(), right.logits(predictions).detach().cpu()
    if left.exclusive:
        predicted = torch.nn.functional.one_hot(rows.argmax(dim=1), len(left.names)).bool()
    else:
        predicted = rows > 0
    # In float, for a product of booleans is not defined; counts are exact.
    asks = predicted.float() @ asked.float() > 0
    forbids = predicted.float() @ forbidden.float() > 0
    if right.exclusive:
        active = torch.nn.functional.one_hot(columns.argmax(dim=1), len(right.names)).bool()
        return forbids & active, forbids & active | (active & ~forbids & predicted.any(dim=1, keepdim=True))
    active = columns > 0
    return (asks & ~active) | (forbids & active), asks | forbids


def measure_consistency(
    predictions: Mapping[str, Tensor],
    tasks: TaskSet,
    relatedness: Relatedness,
    *,
    classes: str | Sequence[str],
    attributes: str | Sequence[str],
    required: float = 0.95,
    excluded: float = 0.05,
) -> Consistency:
    """Share of rows whose predictions contradict the relatedness: at least one of `contradictions`.

    Args and errors: see `contradictions`. With hundreds of attributes nearly every row has one; `pair_share`
    then says more.

    Example:
        >>> table = Relatedness(("cat", "bird"), ("fur", "wings"), np.eye(2))
        >>> animal, has = tl.Multiclass("animal", table.classes), tl.Multilabel("has", table.attributes)
        >>> two_cats, second_winged = torch.tensor([[5.0, 0.0]] * 2), torch.tensor([[3.0, -3.0], [3.0, 3.0]])
        >>> outputs, tasks = {"animal": two_cats, "has": second_winged}, tl.TaskSet(animal, has)
        >>> measure_consistency(outputs, tasks, table, classes="animal", attributes="has").share
        0.5
    """
    wrong, decided = contradictions(
        predictions,
        tasks,
        relatedness,
        classes=classes,
        attributes=attributes,
        required=required,
        excluded=excluded,
    )
    return Consistency(int(wrong.any(dim=1).sum()), len(wrong), int(wrong.sum()), int(decided.sum()))
