"""What an architecture's mixing matrices mean: not every network that learns what to share mixes outputs."""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """How the matrices of an architecture are to be read.

    Args:
        sentence: What an entry is.
        place: Title of a matrix, with the stage for `{}`.
        axis: What the curve over epochs shows.
        same, other: What the diagonal and the rest are called there.
    """

    sentence: str
    place: str = "{}"
    axis: str = "mean entry"
    same: str = "same task"
    other: str = "two tasks"


MIXES = Meaning("A row receives, a column gives.", "after {}", "mean mixing weight", "own", "foreign")
_EXPERTS = Meaning(
    "How much two tasks read the same experts: the smaller of their mean gate weights, summed over experts; "
    "1 is the same experts to the same degree, 0 is other experts.",
)
MEANINGS = {
    "mmoe": _EXPERTS,
    "dselect_k": _EXPERTS,
    "ple": _EXPERTS,
    "task_routing": Meaning(
        "Share of the row's channels that the column uses too; drawn when the network is built, not learned.",
    ),
    "adashare": Meaning(
        "The smaller of two tasks' probabilities of executing the stage; on the diagonal the task's own.",
        axis="mean probability",
    ),
    "adaptive_branching": Meaning("1 where two tasks use one copy of the stage, 0 where each has its own."),
    "learning_to_branch": Meaning(
        "How much two tasks run through the same copies: the smaller of their chances, summed over copies; "
        "1 or 0 once the tree is fixed.",
        axis="mean chance",
    ),
    "multilinear_relationship": Meaning(
        "Correlation of the tasks' parameters, as the tensor-normal prior has learned it.",
        axis="mean correlation",
    ),
}
"""By the architecture's registered name; every other one mixes outputs of its tasks (`MIXES`)."""


def meaning_of(architecture: str) -> Meaning:
    """How the matrices of an architecture are to be read.

    Example:
        >>> meaning_of("cross_stitch").sentence
        'A row receives, a column gives.'
    """
    return MEANINGS.get(architecture, MIXES)
