"""A relatedness table laid out for the tasks it couples, and the loss of each term on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from taskloom.coupling import losses as functional
from taskloom.coupling.mixture import Mixture
from taskloom.coupling.relatedness import NOT, Relatedness, check_names
from taskloom.coupling.sides import Side, attributes_side, between, classes_side
from taskloom.coupling.terms import CoAnnotation, Conditional, Matching, Term
from taskloom.errors import ConfigError
from taskloom.losses import SumCount
from taskloom.tasks import Labels, TaskSet


@dataclass(frozen=True)
class Layout:
    """The table in the order of the tasks' labels, as tensors on one device."""

    left: Side
    right: Side
    weights: Tensor
    empty: Tensor | None
    mixtures: Mapping[Conditional, Mixture]

    @classmethod
    def of(
        cls,
        table: Relatedness,
        tasks: TaskSet,
        classes: str | Sequence[str],
        attributes: str | Sequence[str],
        device: torch.device,
    ) -> Layout:
        """Lays a table out; raises ConfigError where its kind or its names are not those of the tasks."""
        left, right = classes_side(tasks, classes), attributes_side(tasks, attributes)
        form = between(left, right)
        if form != table.between:
            raise ConfigError(
                f"coupling: relatedness {table.source} is {table.between}, but {left.title} and "
                f"{right.title} need one that is {form}."
            )
        check_names(table, left.names, right.names, f"{left.title} and {right.title}")
        table = table.select(left.names, right.names)
        empty = torch.tensor([name in table.empty_classes for name in table.classes], device=device)
        return cls(
            left,
            right,
            torch.from_numpy(np.nan_to_num(table.values)).float().to(device),
            empty if table.empty_classes else None,
            {conditional: mixture_of(table, conditional).to(device) for conditional in get_args(Conditional)},
        )

    def loss(
        self,
        term: Term,
        rows: Tensor,
        columns: Tensor,
        predictions: Mapping[str, Tensor],
        labels: Labels,
    ) -> SumCount:
        """The unweighted loss of one term.

        Args:
            term: The term.
            rows, columns: Logits of the two sides, [M, K] each.
            predictions, labels: The batch as it came, for co-annotation.
        """
        if isinstance(term, Matching):
            return self._matching(term, rows, columns)
        if term.to == "classes":
            return self._annotate_classes(term, rows, predictions, labels)
        return self._annotate_attributes(term, columns, predictions, labels)

    def _matching(self, term: Matching, rows: Tensor, columns: Tensor) -> SumCount:
        options = term.options
        if term.to == "attributes":
            log_rows = self.left.log_rows(rows, options.temperature)
            match = functional.match_exclusive if self.right.exclusive else functional.match_attributes
            return match(log_rows, columns, self.mixtures[term.conditional], options)
        columns = columns / options.temperature
        wanted = columns.softmax(dim=1) if self.right.exclusive else columns.sigmoid()
        if options.stop_gradient == "attributes":
            wanted = wanted.detach()
        if options.stop_gradient == "classes":
            rows = rows.detach()
        everywhere = torch.ones_like(wanted, dtype=torch.bool)
        weights = self.weights.to(rows.dtype)
        return functional.soft_co_annotation(
            rows, wanted, everywhere, weights, empty=self.empty, options=options
        )

    def _annotate_classes(
        self, term: CoAnnotation, rows: Tensor, predictions: Mapping[str, Tensor], labels: Labels
    ) -> SumCount:
        values, present = self.right.labels(labels, predictions)
        wanted = None
        if term.only_missing:
            wanted = ~self.left.labels(labels, predictions)[1][:, 0]
        return functional.soft_co_annotation(
            rows, values, present, self.weights, empty=self.empty, wanted=wanted, options=term.options
        )

    def _annotate_attributes(
        self, term: CoAnnotation, columns: Tensor, predictions: Mapping[str, Tensor], labels: Labels
    ) -> SumCount:
        given, given_present = self.left.labels(labels, predictions)
        if not self.left.exclusive:
            given = torch.cat([given, torch.where(given_present, 1 - given, 0)], dim=1)
        wanted = None
        if term.only_missing:
            wanted = ~self.right.labels(labels, predictions)[1]
        annotate = functional.annotate_exclusive if self.right.exclusive else functional.annotate_attributes
        return annotate(given, columns, self.mixtures["values"], wanted=wanted, options=term.options)


def mixture_of(table: Relatedness, conditional: Conditional = "auto") -> Mixture:
    """Lays a relatedness out as the mixture that turns its rows into its columns.

    Class-attribute: p(attribute | class), as `Matching.conditional` says. An attribute that no class has is
    unknown in a table of weights (prior knowledge says nothing about it). Class-class: each row is divided by
    its sum. Attribute-attribute: each label a, present or absent, says p(b | a) or p(b | not a); q(b) is the
    mean over the labels that say something about b, b itself apart. A label without a `not` row says 0 when
    absent; among weights only labels related to b say something.

    Args:
        table: The relatedness, [C, A].
        conditional: See `Matching`.

    Returns:
        The mixture over C rows; for attribute-attribute over the L labels and then their L absences.
    """
    values = table.values.copy()
    unrelated = ~(np.nan_to_num(values) > 0).any(axis=0)
    if table.between == "class_class":
        sums = np.nansum(values, axis=1, keepdims=True)
        values = values / np.where(sums > 0, sums, 1)
    elif conditional == "presence" or (conditional == "auto" and table.kind == "weights"):
        values = np.where(np.isnan(values), np.nan, (values > 0).astype(np.float64))
    if table.between == "attribute_attribute":
        return _pooled(table, values)
    if table.kind == "weights":
        values[:, unrelated] = np.nan
    return Mixture.of(torch.from_numpy(values))


def _pooled(table: Relatedness, values: np.ndarray[Any, np.dtype[np.float64]]) -> Mixture:
    labels = table.labels_of_rows
    rows = {name: index for index, name in enumerate(table.classes)}
    active = values[[rows[name] for name in labels]]
    absent = np.zeros_like(active)
    for index, name in enumerate(labels):
        if NOT + name in rows:
            absent[index] = values[rows[NOT + name]]
    says = ~np.isnan(active) & ~np.isnan(absent)
    says &= np.array([[name != column for column in table.attributes] for name in labels])
    if table.kind == "weights":
        says &= np.nan_to_num(active) > 0
    share = says / np.maximum(says.sum(axis=0), 1)
    both = np.concatenate([active, absent])
    shares = np.concatenate([share, share])
    positive = np.where(shares > 0, both, 0) * shares
    return Mixture(
        torch.from_numpy(positive),
        torch.from_numpy(np.where(shares > 0, 1 - both, 0) * shares),
        bool(says.any(axis=0).all()),
    )
