"""`Coupling`: from predictions and labels of a batch to further loss terms, whatever the network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from taskloom.coupling.layout import Layout
from taskloom.coupling.relatedness import Relatedness
from taskloom.coupling.terms import (
    CoAnnotation,
    Matching,
    Term,
    as_names,
    as_sequence,
    check_known,
    terms_from_settings,
    weight_at,
)
from taskloom.errors import ConfigError
from taskloom.losses import SumCount
from taskloom.tasks import Labels, TaskSet


class Coupling:
    """Two sides' tasks teach each other through a relatedness table; it needs only predictions and labels.

    In one's own loop:

        losses = tl.losses.per_task(predictions, batch.labels, tasks)
        losses |= coupling.terms(predictions, batch.labels, tasks, epoch)

    Each term is a loss like a task's, its weight at this epoch already in its sum, its count the number of
    rows in it. A term whose weight is 0 is not there at all, so that weight 0 is exactly training without
    coupling. The object keeps no state: the tables are laid out once per task set and device.

    Args:
        relatedness: The table; its names are exactly those of the tasks' labels, in any order.
        classes: The task whose classes are the table's rows: a multiclass task, or a binary one with its two
            classes. A list of binary tasks, or multilabel tasks, couples attributes with attributes.
        attributes: The tasks whose labels are the table's columns; one multiclass task couples classes with
            classes.
        matching: Matching terms; None is none. By default towards the attributes.
        co_annotation: Co-annotation terms; None is none. By default towards the classes, for
            attribute-attribute towards the attributes.
        as_tasks: Whether training gives the terms to the balancer as if they were tasks. By default they are
            added beside the balanced losses with their own weights, as the penalty of ties is: a coupling has
            no label, its loss does not say how well anything is learnt, and a method that lets the slowest
            loss lead would follow a term that cannot fall to 0.
        name: Beginning of the terms' names.

    Raises:
        ConfigError: Two terms of one kind and direction, no term at all, or a direction that the table cannot
            teach.

    Example:
        >>> from taskloom.coupling.tables import expression_action_units
        >>> table = expression_action_units()
        >>> tasks = tl.TaskSet(tl.Multiclass("face", table.classes), tl.Multilabel("units", table.attributes))
        >>> coupling = Coupling(table, classes="face", attributes="units")
        >>> outputs = {"face": torch.zeros(2, 6), "units": torch.zeros(2, 17)}
        >>> terms = coupling.terms(outputs, tl.Labels.empty(tasks, 2), tasks, epoch=0)
        >>> {name: int(term.count) for name, term in terms.items()}
        {'coupling.matching_to_attributes': 2, 'coupling.co_annotation_to_classes': 0}
    """

    def __init__(
        self,
        relatedness: Relatedness,
        *,
        classes: str | Sequence[str],
        attributes: str | Sequence[str],
        matching: Matching | Sequence[Matching] | Literal["auto"] | None = "auto",
        co_annotation: CoAnnotation | Sequence[CoAnnotation] | Literal["auto"] | None = "auto",
        as_tasks: bool = False,
        name: str = "coupling",
    ) -> None:
        self.relatedness, self.as_tasks = relatedness, as_tasks
        if not isinstance(as_tasks, bool):
            raise ConfigError(f"coupling.as_tasks: true or false expected, found {as_tasks!r}.")
        self.classes, self.attributes = classes, attributes
        self.name = name
        if matching == "auto":
            matching = Matching()
        symmetric = relatedness.between == "attribute_attribute"
        if co_annotation == "auto":
            co_annotation = CoAnnotation(to="attributes" if symmetric else "classes")
        self._terms: tuple[Term, ...] = (*as_sequence(matching), *as_sequence(co_annotation))
        names = [term.name for term in self._terms]
        if not names:
            raise ConfigError("coupling: matching or co_annotation expected, found neither.")
        doubles = [term for term in names if names.count(term) > 1]
        if doubles:
            raise ConfigError(f"coupling: the term {doubles[0]} stands twice; give each once.")
        for term in self._terms:
            self._check_term(term)
        self._laid_out: tuple[TaskSet, torch.device, Layout] | None = None

    @classmethod
    def from_settings(cls, relatedness: Relatedness, settings: Mapping[str, Any]) -> Self:
        """Builds a coupling from a study file's entry.

        Args:
            relatedness: The table.
            settings: `classes`, `attributes`, and optionally `name`, `as_tasks`, `matching` and
                `co_annotation`, the last two each settings, a list of settings, or false; a weight is a
                number or the settings of a `WeightSchedule`.

        Raises:
            ConfigError: A setting that is not known, missing, or out of range.

        Example:
            >>> from taskloom.coupling.tables import expression_action_units
            >>> coupling = Coupling.from_settings(
            ...     expression_action_units(),
            ...     {"classes": "face", "attributes": ["units"], "matching": {"weight": {"ramp_epochs": 5}},
            ...      "co_annotation": False},
            ... )
            >>> coupling.names
            ('coupling.matching_to_attributes',)
        """
        known = ("classes", "attributes", "matching", "co_annotation", "as_tasks", "name")
        check_known(settings, known, "coupling")
        for key in ("classes", "attributes"):
            if key not in settings:
                raise ConfigError(f"coupling.{key} is missing; name the task or tasks of that side.")
        chosen = dict(settings)
        if "matching" in chosen:
            chosen["matching"] = terms_from_settings(Matching, chosen["matching"], "matching")
        if "co_annotation" in chosen:
            chosen["co_annotation"] = terms_from_settings(
                CoAnnotation, chosen["co_annotation"], "co_annotation"
            )
        return cls(relatedness, **chosen)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all terms, whatever their weight at an epoch."""
        return tuple(f"{self.name}.{term.name}" for term in self._terms)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks of both sides, each once."""
        return tuple(dict.fromkeys((*as_names(self.classes), *as_names(self.attributes))))

    def settings(self) -> dict[str, Any]:
        """Everything that decides a result, as plain values; the table by its SHA-256."""
        table = json.dumps(self.relatedness.to_dict(), sort_keys=True)
        return {
            "name": self.name,
            "as_tasks": self.as_tasks,
            "classes": list(as_names(self.classes)),
            "attributes": list(as_names(self.attributes)),
            "terms": [{"term": term.name, **dataclasses.asdict(term)} for term in self._terms],
            "relatedness": hashlib.sha256(table.encode()).hexdigest(),
        }

    def teaching(self, epoch: int, learning: Collection[str] | None = None) -> tuple[str, ...]:
        """Names of the terms that act in an epoch, in the order of `terms`.

        Args:
            epoch: Epoch, counted from 0.
            learning: Tasks that still learn; None is all. A term all of whose learners have stopped is out.

        Example:
            >>> from taskloom.coupling.tables import expression_action_units
            >>> coupling = Coupling(expression_action_units(), classes="face", attributes="units")
            >>> coupling.teaching(0, learning=["units"])
            ('coupling.matching_to_attributes',)
        """
        return tuple(f"{self.name}.{term.name}" for term in self._acting(epoch, learning))

    def _acting(self, epoch: int, learning: Collection[str] | None) -> list[Term]:
        found = [term for term in self._terms if weight_at(term, epoch) > 0]
        if learning is None:
            return found
        return [term for term in found if any(task in learning for task in self._learners(term))]

    def _learners(self, term: Term) -> tuple[str, ...]:
        """The tasks that a term teaches."""
        sides = {"classes": as_names(self.classes), "attributes": as_names(self.attributes)}
        if isinstance(term, CoAnnotation):
            return sides[term.to]
        return tuple(name for side, names in sides.items() if side != term.stop_gradient for name in names)

    def check_tasks(self, tasks: TaskSet) -> None:
        """Called once before training.

        Raises:
            ConfigError: Tasks that are not there or cannot be coupled, or whose labels are not those of the
                table (both lists are printed, with the nearest names).
        """
        self._layout(tasks, torch.device("cpu"))
        for name in self.names:
            if name in tasks:
                raise ConfigError(f"coupling: a task has the name of the term {name}; rename the coupling.")

    def terms(
        self,
        predictions: Mapping[str, Tensor],
        labels: Labels,
        tasks: TaskSet,
        epoch: int = 0,
        learning: Collection[str] | None = None,
    ) -> dict[str, SumCount]:
        """Computes the terms of one batch.

        Args:
            predictions: Head outputs per task, [N, width], or [N, width, W] for labels per sample.
            labels: Labels of the same N rows; co-annotation counts the rows that have some, matching all
                rows.
            tasks: The tasks.
            epoch: Epoch, counted from 0, for weight schedules.
            learning: Tasks that still learn; None is all. The predictions of the others go on teaching, but
                are held fixed.

        Returns:
            Per term with a weight above 0, its weighted sum over rows, and its number of rows. A term without
            any row has sum 0, count 0 and a zero gradient.

        Raises:
            ConfigError: See `check_tasks`.
            ValueError: Predictions that are missing, or of shapes that do not fit.
        """
        acting = self._acting(epoch, learning)
        if not acting:
            return {}
        if learning is not None:
            predictions = {
                name: output if name in learning else output.detach() for name, output in predictions.items()
            }
        device = next(iter(predictions.values())).device
        layout = self._layout(tasks, device)
        with torch.autocast(device.type, enabled=False):
            rows = layout.left.logits(predictions)
            columns = layout.right.logits(predictions)
            if len(rows) != len(columns):
                raise ValueError(
                    f"coupling: {layout.left.title} predicts {len(rows)} rows, "
                    f"{layout.right.title} {len(columns)}"
                )
            found = {}
            for term in acting:
                loss = layout.loss(term, rows, columns, predictions, labels)
                found[f"{self.name}.{term.name}"] = SumCount(loss.sum * weight_at(term, epoch), loss.count)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a coupling keeps no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        if state:
            raise ConfigError(f"Coupling keeps no state, but the checkpoint holds {', '.join(state)}.")

    def _check_term(self, term: Term) -> None:
        form = self.relatedness.between
        if form == "attribute_attribute" and term.to == "classes":
            raise ConfigError(
                f"coupling.{term.name}: between attributes and attributes, set to: attributes; swap the two "
                "sides for the other direction."
            )
        if form == "class_class" and getattr(term, "two_sided", False):
            raise ConfigError(
                "coupling.matching: two_sided goes with attributes, not with exclusive classes."
            )

    def _layout(self, tasks: TaskSet, device: torch.device) -> Layout:
        if self._laid_out is None or self._laid_out[0] is not tasks or self._laid_out[1] != device:
            layout = Layout.of(self.relatedness, tasks, self.classes, self.attributes, device)
            self._laid_out = (tasks, device, layout)
        return self._laid_out[2]
