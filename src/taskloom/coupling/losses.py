"""Distribution matching and soft co-annotation (paper 003, equations 2-6) on plain tensors.

Two tasks' predictions meet through a relatedness table: from one side a distribution q over the other side's
labels is made, and q is matched with the network's own prediction p of them. Everything stands in log space,
so that predictions of exactly 0 and 1 give finite losses and gradients. Probabilities of q below 1e-280
(1e-30 on a device without float64) count as that and pass no gradient back.

Where the paper contradicts itself, and what stands here:

- **Direction.** The text says "cross entropy with the soft targets" in the spirit of distillation, which is
  `-sum q log p`: the target weighs, the prediction stands in the logarithm. Equations 3 and 6 have it the
  other way round, `-sum p log q`, in which the network's own prediction weighs. That is linear in p: it does
  not match distributions, it puts p on the likeliest label of q. `direction="printed"` (default) is the
  equation, `direction="distillation"` the text.
- **One side.** Equation 3 has no term for inactive attributes, so its minimum is also reached by predicting
  no attribute at all. That is harmless only beside the tasks' own losses. `two_sided=True` is the whole
  cross-entropy of two Bernoulli distributions. With `direction="distillation"` use it always: one-sided, that
  pushes every attribute up.
- **Weights.** Table 1 gives observational attributes weights below 1; equation 2 "is 1 for prototypical and
  observational", so q(AU2) = p(surprise) + p(fear) (not + 0.57 p(fear)); equation 4 uses the weights. Both
  stand as printed. In case study II p(attribute | class) is the frequency; of the indicator it says "over its
  detected attributes" and no weights, and here the frequencies are those.
- **"q = 0, i in {1, ..., 14}"** under equation 2 means the other 14 of 17 action units, not units 1 to 14: 12
  and 6 are active in that example.
- **log 0.** A class predicted with probability 1 makes q = 0 for attributes it does not have, and equation 3
  infinite. In log space it is as large as the logits say. Where q is 0 whatever the prediction (an attribute
  that no class has) its logarithm says nothing and the term is left out.
- **Neutral** has no attribute, so its indicator in equation 4 is 0 / 0; see `indicator`.
- **Units too many.** Equation 4 does not count them: an image with all units of fear has all of surprise too,
  so both indicators are 1.
- **Soft labels** of equation 5 are nearly flat: an indicator is at most 1, so of 7 classes none gets more
  than e / (e + 6) = 0.31. `label_temperature` below 1 makes them sharper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from taskloom.coupling.mixture import Mixture
from taskloom.losses import SumCount

Direction = Literal["printed", "distillation"]
Reduction = Literal["sum", "mean"]
Stop = Literal["none", "classes", "attributes"]


@dataclass(frozen=True)
class Options:
    """Variants of a loss; the defaults are the paper's equations.

    Args:
        direction: "printed", -p log q, or "distillation", -q log p; p is the network's prediction.
        two_sided: Whether inactive attributes count too, -(1 - p) log(1 - q). Only for attributes.
        stop_gradient: Side of matching whose prediction is held fixed.
        temperature: Divides the logits of both sides; the loss is multiplied by its square, so that gradients
            keep their size (Hinton, Vinyals and Dean 2015).
        label_temperature: Divides the indicators before the softmax of equation 5.
        reduction: "sum" (as printed) or "mean" over a row's attributes; over classes it is always the sum.
        min_coverage: Share of a class's weight that must be present for the class to count (equation 4).
        only_missing: Whether soft labels are left out where the label itself is present.
    """

    direction: Direction = "printed"
    two_sided: bool = False
    stop_gradient: Stop = "none"
    temperature: float = 1.0
    label_temperature: float = 1.0
    reduction: Reduction = "sum"
    min_coverage: float = 0.0
    only_missing: bool = False


AS_PRINTED = Options()


def distribution_matching(
    class_logits: Tensor,
    attribute_logits: Tensor,
    conditional: Tensor | Mixture,
    options: Options = AS_PRINTED,
) -> SumCount:
    """Attributes as the class predictions want them against attributes as predicted (equations 2 and 3).

    q_i = sum over classes of p(class) p(attribute i | class); loss = mean over rows of sum_i -p_i log q_i.
    For the variants and what is wrong with the printed form, see the module and `Options`.

    Args:
        class_logits: Logits of exclusive classes, [N, C].
        attribute_logits: Logits of independent attributes, [N, A].
        conditional: p(attribute | class), [C, A], NaN where unknown; or a prepared `Mixture`.
        options: The variant.

    Returns:
        Sum over all N rows, and N: every row counts, labelled or not.

    Example:
        >>> surely_cat = torch.tensor([[50.0, -50.0]])
        >>> table = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # cats have fur, birds have wings
        >>> fur, wings = torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]])
        >>> matched = distribution_matching(surely_cat, fur, table).mean
        >>> bool(matched < distribution_matching(surely_cat, wings, table).mean)
        True
    """
    log_rows = F.log_softmax(class_logits / options.temperature, dim=1)
    mixture = conditional if isinstance(conditional, Mixture) else Mixture.of(conditional)
    return match_attributes(log_rows, attribute_logits, mixture, options)


def match_attributes(
    log_rows: Tensor, attribute_logits: Tensor, mixture: Mixture, options: Options
) -> SumCount:
    """`distribution_matching` from the logarithms of the rows' probabilities, [N, R]."""
    log_rows, attribute_logits = _stopped(log_rows, attribute_logits, options.stop_gradient)
    mixture = mixture.to(log_rows.device)
    log_q, log_not_q, covered = mixture.log_probabilities(log_rows)
    logits = attribute_logits / options.temperature
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    weighed = _cross_entropy(log_p, log_q, options.direction)
    used = _has_logarithm(mixture.positive, options.direction)
    losses = torch.where(used, weighed, 0)
    if options.two_sided:
        other = _cross_entropy(log_not_p, log_not_q, options.direction)
        used_other = _has_logarithm(mixture.negative, options.direction)
        losses = losses + torch.where(used_other, other, 0)
    concerned = (mixture.positive + mixture.negative > 0).any(dim=0)
    losses = torch.where(concerned, losses if covered is None else losses * covered, 0)
    per_row = losses.sum(dim=1)
    if options.reduction == "mean":
        per_row = per_row / concerned.sum().clamp(min=1)
    return _over_rows(per_row * options.temperature**2)


def match_exclusive(log_rows: Tensor, class_logits: Tensor, mixture: Mixture, options: Options) -> SumCount:
    """Matching of two exclusive tasks: q = sum over one's classes of p(class) p(other's class | class).

    Args:
        log_rows: Log-probabilities of the classes of the one task, [N, R].
        class_logits: Logits of the other task's classes, [N, A].
        mixture: Its `positive` holds p(other | one), whose rows sum to 1.
        options: The variant; "classes" of `stop_gradient` are the rows, "attributes" the columns.
    """
    log_rows, class_logits = _stopped(log_rows, class_logits, options.stop_gradient)
    mixture = mixture.to(log_rows.device)
    log_q, _, covered = mixture.log_probabilities(log_rows)
    log_p = F.log_softmax(class_logits / options.temperature, dim=1)
    used = _has_logarithm(mixture.positive, options.direction)
    losses = torch.where(used, _cross_entropy(log_p, log_q, options.direction), 0)
    losses = losses if covered is None else losses * covered
    return _over_rows(losses.sum(dim=1) * options.temperature**2)


def indicator(
    values: Tensor,
    present: Tensor,
    weights: Tensor,
    empty: Tensor | None = None,
    min_coverage: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """How much of each class's attributes is there (equation 4), normalised over what is present.

    I(class) = sum of w y over the attributes present in the row / sum of w over the same attributes. With all
    of them present that is the equation. A class of which the row has no attribute present (or less than
    `min_coverage` of its weight) has no indicator: the soft label is then made over the other classes.

    A class without any attribute (neutral), for which the equation is 0 / 0, gets 1 - max y over the row's
    present attributes: 1 if none of them is active, else 0.

    Args:
        values: Attribute labels, or their probabilities, [N, A].
        present: Which are there, bool, [N, A].
        weights: Weights of the table, [C, A], 0 or more.
        empty: Classes that are meant to have no attribute, bool, [C].
        min_coverage: Share of a class's weight that must be present, 0 to 1.

    Returns:
        Indicators, [N, C], 0 where there is none; and which there are, bool, [N, C].

    Example:
        >>> happy = torch.tensor([[1.0, 1.0, 0.51]])  # AU12, AU25, AU6
        >>> labels, there = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[True, True, True]])
        >>> indicator(labels, there, happy)[0]  # (1 + 0 + 0.51) / 2.51
        tensor([[0.6016]])
        >>> indicator(labels, torch.tensor([[True, False, True]]), happy)[0]
        tensor([[1.]])
    """
    weights = weights.to(values.dtype)
    there = present.to(values.dtype) @ weights.T
    active = torch.where(present, values, 0)
    total = weights.sum(dim=1)
    known = there > 0
    if min_coverage > 0:  # the slack is for sums that rounding left a hair below their whole
        known = known & (there >= (min_coverage - 1e-6) * total)
    scores = active @ weights.T / torch.where(known, there, 1)
    if empty is not None:
        known = torch.where(empty, present.any(dim=1, keepdim=True), known)
        scores = torch.where(empty, 1 - active.amax(dim=1, keepdim=True), scores)
    return torch.where(known, scores, 0), known


def soft_co_annotation(
    class_logits: Tensor,
    values: Tensor,
    present: Tensor,
    weights: Tensor,
    *,
    empty: Tensor | None = None,
    wanted: Tensor | None = None,
    options: Options = AS_PRINTED,
) -> SumCount:
    """Classes as the attribute labels want them against classes as predicted (equations 4 to 6).

    q = softmax over classes of the indicator; loss = mean over rows of sum over classes of -p log q. Rows
    with partly present attributes: each indicator is normalised over what is there (see `indicator`), and
    both q and p are taken over the classes that have one, p renormalised. A row with fewer than two such
    classes says nothing about which class it is, and is not counted.

    Args:
        class_logits: Logits of exclusive classes, [N, C].
        values: Attribute labels, [N, A]; with predictions of attributes in their place this is matching from
            attributes to classes.
        present: Which are there, bool, [N, A].
        weights: Weights of the table, [C, A].
        empty: Classes that are meant to have no attribute, bool, [C].
        wanted: Rows that may count, bool, [N]; None is all.
        options: The variant.

    Returns:
        Sum over the rows with at least two indicators, and their number.

    Example:
        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> labels = torch.tensor([[1, 0], [0, 0]])
        >>> there = torch.tensor([[True, True], [False, False]])
        >>> loss = soft_co_annotation(torch.tensor([[3.0, 0.0], [0.0, 3.0]]), labels, there, weights)
        >>> loss.count
        tensor(1)
    """
    scores, known = indicator(values.to(class_logits.dtype), present, weights, empty, options.min_coverage)
    counted = known.sum(dim=1) >= 2
    if wanted is not None:
        counted = counted & wanted
    # A finite stand-in for minus infinity: rows without any class would be NaN, in the gradient too.
    nothing = torch.finfo(class_logits.dtype).min / 4
    log_q = F.log_softmax(torch.where(known, scores / options.label_temperature, nothing), dim=1)
    log_p = F.log_softmax(torch.where(known, class_logits / options.temperature, nothing), dim=1)
    losses = torch.where(known & counted.unsqueeze(1), _cross_entropy(log_p, log_q, options.direction), 0)
    return SumCount(losses.sum() * options.temperature**2, counted.sum())


def annotate_attributes(
    rows: Tensor,
    attribute_logits: Tensor,
    mixture: Mixture,
    *,
    wanted: Tensor | None = None,
    options: Options = AS_PRINTED,
) -> SumCount:
    """The reverse of soft co-annotation: class labels give soft attribute labels q = p(attribute | class).

    The paper has no such term. q is a constant and is exactly 0 or 1 in places, so it can only stand outside
    of the logarithm: the loss is the two-sided cross-entropy -q log p - (1 - q) log(1 - p), whatever
    `options.direction` and `options.two_sided` say.

    Args:
        rows: Labels as 0 and 1 over the mixture's rows, [N, R]; all 0 where the row's label is missing.
        attribute_logits: Logits of the attributes, [N, A].
        mixture: The table.
        wanted: Elements that may count, bool, [N, A]; None is all.
        options: Temperature and reduction.

    Returns:
        Sum over the rows in which at least one attribute has a soft label, and their number.
    """
    mixture = mixture.to(rows.device)
    rows = rows.to(mixture.positive.dtype)
    active, inactive = rows @ mixture.positive, rows @ mixture.negative
    total = active + inactive
    counted = total > 0
    if wanted is not None:
        counted = counted & wanted
    soft = (active / torch.where(total > 0, total, 1)).to(attribute_logits.dtype)
    losses = F.binary_cross_entropy_with_logits(
        attribute_logits / options.temperature, soft, reduction="none"
    )
    per_row = torch.where(counted, losses, 0).sum(dim=1)
    if options.reduction == "mean":
        per_row = per_row / counted.sum(dim=1).clamp(min=1)
    return SumCount(per_row.sum() * options.temperature**2, counted.any(dim=1).sum())


def annotate_exclusive(
    rows: Tensor,
    class_logits: Tensor,
    mixture: Mixture,
    *,
    wanted: Tensor | None = None,
    options: Options = AS_PRINTED,
) -> SumCount:
    """`annotate_attributes` towards the classes of one exclusive task: -sum q log p, q = p(class | row).

    Args:
        rows, mixture, options: See `annotate_attributes`.
        class_logits: Logits of the classes, [N, A].
        wanted: Elements that may count, bool, [N, A], the same along a row; None is all.

    Returns:
        Sum over the rows with a soft label, and their number.
    """
    mixture = mixture.to(rows.device)
    soft = rows.to(mixture.positive.dtype) @ mixture.positive
    total = soft.sum(dim=1, keepdim=True)
    counted = total > 0
    if wanted is not None:
        counted = counted & wanted.all(dim=1, keepdim=True)
    soft = (soft / torch.where(total > 0, total, 1)).to(class_logits.dtype)
    log_p = F.log_softmax(class_logits / options.temperature, dim=1)
    losses = torch.where(counted, -soft * log_p, 0)
    return SumCount(losses.sum() * options.temperature**2, counted.sum())


def _cross_entropy(log_p: Tensor, log_q: Tensor, direction: Direction) -> Tensor:
    return -log_p.exp() * log_q if direction == "printed" else -log_q.exp() * log_p


def _has_logarithm(table: Tensor, direction: Direction) -> Tensor:
    """Columns whose log q exists for some prediction, bool, [A]; all where q stands outside the logarithm."""
    if direction == "distillation":
        return torch.ones(table.shape[1], dtype=torch.bool, device=table.device)
    return (table > 0).any(dim=0)


def _stopped(rows: Tensor, columns: Tensor, side: Stop) -> tuple[Tensor, Tensor]:
    return (
        rows.detach() if side == "classes" else rows,
        columns.detach() if side == "attributes" else columns,
    )


def _over_rows(per_row: Tensor) -> SumCount:
    # torch.full rather than torch.tensor: the number is not copied from the CPU, which a GPU would wait for.
    return SumCount(per_row.sum(), torch.full((), len(per_row), dtype=torch.int64, device=per_row.device))
