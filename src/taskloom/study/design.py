"""How a study's numbers were made, in one sentence: pairing, intervals, the correction for several cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from taskloom.report.words import corrected_over
from taskloom.study.gains import Gain
from taskloom.study.statistics import LEAST_REPEATS
from taskloom.tasks import TaskSet
from taskloom.wording import counted


def design_sentence(facts: Mapping[str, Any], tasks: TaskSet, gains: Sequence[Gain]) -> str:
    """Returns how gains, intervals and verdicts of a study were made.

    Args:
        facts: See `study_facts` of `taskloom.study.prepare`.
        tasks: Its tasks.
        gains: Over training alone, of every task in every cell that has finished.
    """
    judged = [name for name, task in tasks.items() if task.judged]
    tested = {name: sum(name in cell["tasks"] for cell in facts["cells"]) for name in judged}
    if gains:  # cells without a finished run, or without any spread, were not tested
        tested = {
            name: sum(g.task == name and not math.isnan(g.p_adjusted) for g in gains) for name in judged
        }
    several = max(tested.values()) > 1
    holm = f" after {corrected_over(tested, of='of each task')}" if several else ""
    paired = "Gains are paired by repeat (same seed, same split)"
    each = f", which holds for each of the {len(judged)} tasks by itself" if len(judged) > 1 else ""
    verdicts = f"verdicts at the 5 % level{holm}{each}."
    if facts["repeats"] < LEAST_REPEATS:
        verdicts = few_repeats(facts["repeats"])
    if facts["test_over_train"] is None or facts["repeats"] == 1:
        return (
            f"{paired}; 95 % intervals count {counted(facts['repeats'], 'training seed')} and the choice of "
            f"the test's groups ({facts['clusters']}, resampled whole); {verdicts}"
        )
    return (
        f"{paired}; {_redrawing(facts)}, and 95 % intervals allow for the overlap of their training sets "
        f"(Nadeau and Bengio 2003); {verdicts}"
    )


def _redrawing(facts: Mapping[str, Any]) -> str:
    """What the repeats of a study do with its split, where they do not have one and the same."""
    folds, repeats = _folds(facts), facts["repeats"]
    if folds is None:
        return f"the split is drawn anew in each of {repeats} repeats"
    in_turn = f"the {repeats} repeats test on the {folds} folds of a split in turn"
    if repeats <= folds:
        return in_turn
    again = (
        "which is drawn anew each time round"
        if facts["split"].get("redraw")
        else f"the same each time round, and count as {folds}"
    )
    return f"{in_turn}, {again}"


def _folds(facts: Mapping[str, Any]) -> int | None:
    """The number of folds of a cross-validation; None where the study has none."""
    folds = facts.get("split", {}).get("folds")
    return None if folds is None else int(folds)


def few_repeats(repeats: int) -> str:
    """Returns why a study of so few repeats has no verdicts."""
    return (
        f"no verdicts are given: they need at least {LEAST_REPEATS} repeats, and the study has "
        f"{repeats if repeats > 1 else 'one'}."
    )


def same_folds(facts: Mapping[str, Any]) -> int | None:
    """The number of folds that all repeats test on; None where there are none, or they are drawn anew."""
    return None if facts.get("split", {}).get("redraw") else _folds(facts)
