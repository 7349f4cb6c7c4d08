"""What a report tells of balancing and of tasks that stopped: rows and sentences from the runs' histories."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from taskloom.study.results import RunRecord

Groups = Mapping[tuple[str, str], Sequence[RunRecord]]
"""Finished runs by cell id and first task."""
LEARNED_WEIGHTS = (
    "Learned weights move towards the minimum that is given below each figure; towards lambda 0 all weight "
    "goes to the task with the smallest loss. How far they have come is a matter of their learning rate "
    "(training.lr_multipliers.balancer)."
)


def balancing_row(cell: Mapping[str, Any], done: Groups) -> dict[str, Any] | None:
    """What the balancer reported in the first repeat; None where its weights never change.

    Args:
        cell: `id` and `tasks` of the cell.
        done: Finished runs.

    Returns:
        `cell`, `weights`, `cosines` (one value per epoch each, None where there was none), `conflict_rate`,
        `frozen` (epoch after which everything shared froze, None where it did not), `note` ("" or sentences),
        `remark` (what holds for all such cells), `reversal` (factor of every adversarial task, per epoch).
    """
    runs = _runs(cell, done)
    if not runs:
        return None
    history = runs[0].history
    epochs = [epoch.get("balancing", {}) for epoch in history["epochs"]]
    terms = {name for epoch in history["epochs"] for name in epoch.get("coupling", {})}

    def series(kind: str) -> dict[str, list[float | None]]:
        # In the order of their first epoch: a pair of tasks may meet late, or leave early.
        names = dict.fromkeys(name for epoch in epochs for name in epoch if name.startswith(f"{kind}/"))
        return {
            ", ".join(_called(part, terms) for part in name.split("/")[1:]): [e.get(name) for e in epochs]
            for name in names
        }

    weights, cosines = series("weight"), series("cosine")
    reversal = series("reversal")
    unchanging = all(len(set(values)) == 1 for values in weights.values())
    if not cosines and not reversal and unchanging:
        return None
    rates = [epoch.get("conflict_rate") for epoch in epochs]
    return {
        "cell": cell["id"],
        "weights": {} if unchanging and not cosines else weights,
        "cosines": cosines,
        "conflict_rate": rates if any(rate is not None for rate in rates) else [],
        "frozen": history.get("shared_frozen"),
        "note": learned_weights_note(runs[0].resolved, history),
        "remark": LEARNED_WEIGHTS if _learns_weights(runs[0].resolved) else "",
        "reversal": reversal,
    }


def learned_weights_note(resolved: Mapping[str, Any], history: Mapping[str, Any]) -> str:
    """Where the minimum of learned loss weights lies at the last losses of a run, and from where on it is
    a corner; "" for another balancer.

    For given losses the best weights of thesis 001, equation 3.5, are the projection of -L / (2 lambda) onto
    the simplex; every task keeps one while lambda exceeds half the sum over tasks of (max L - L_j).
    """
    if not _learns_weights(resolved):
        return ""
    balancing = resolved.get("cell", resolved)["balancing"]
    last = next(
        (epoch for epoch in reversed(history["epochs"]) if None not in epoch["train_loss"].values()), None
    )
    if last is None:
        return ""
    # What the weights multiply: auxiliary tasks may have a factor of their own before.
    own = {task: float(settings.get("weight", 1.0)) for task, settings in resolved.get("tasks", {}).items()}
    losses = {
        task: own.get(task, 1.0) * float(loss)
        for task, loss in last["train_loss"].items()
        if own.get(task, 1.0) > 0  # a task of weight 0 has no loss weight either
    }
    # Terms of a coupling that are balanced as tasks; their factors are in them.
    terms = {
        name: float(value)
        for name, value in last.get("coupling", {}).items()
        if value is not None and f"weight/{name}" in last.get("balancing", {})
    }
    losses |= {_called(name, terms): value for name, value in terms.items()}
    factor = float((balancing["learned_weights"] or {}).get("lambda", 0.1))
    values = np.array(list(losses.values()))
    least = float((values.max() - values).sum() / 2)
    best = best_weights(values, factor)
    shown = ", ".join(f"{task} {weight:.2f}" for task, weight in zip(losses, best, strict=True))
    given = ", ".join(f"{task} {loss:.3g}" for task, loss in losses.items())
    return (
        f"With the training losses of epoch {last['epoch']} ({given}) the minimum over the weights at lambda "
        f"{factor:g} lies at {shown}; below lambda {least:.3g} not every task keeps a weight there."
    )


def _called(name: str, terms: Container[str]) -> str:
    """A task by its name, a term of a coupling by what it does: "matching to attributes".

    Example:
        >>> _called("coupling.co_annotation_to_classes", {"coupling.co_annotation_to_classes"})
        'co-annotation to classes'
    """
    if name not in terms:
        return name
    return name.rpartition(".")[2].replace("co_annotation", "co-annotation").replace("_", " ")


def _learns_weights(resolved: Mapping[str, Any]) -> bool:
    return "learned_weights" in (resolved.get("cell", resolved).get("balancing") or {})


def best_weights(losses: np.ndarray[Any, np.dtype[np.float64]], factor: float) -> list[float]:
    """argmin over the simplex of w . L + factor ||w||^2.

    Args:
        losses: L [T].
        factor: lambda; 0 puts all weight on the smallest loss.

    Example:
        >>> best_weights(np.array([1.0, 1.2, 3.0]), 0.2)
        [0.75, 0.25, 0.0]
    """
    order = np.sort(losses)
    if factor <= 0:
        return [float(task == int(np.argmin(losses))) for task in range(len(losses))]
    # w_i = max(0, (level - L_i) / (2 factor)); the level is that of the largest set that stays above 0.
    levels = (2 * factor + np.cumsum(order)) / np.arange(1, len(order) + 1)
    level = levels[np.flatnonzero(levels > order).max()]
    weights = np.clip((level - losses) / (2 * factor), 0.0, None)
    return [float(weight) for weight in weights.round(12)]


def task_end_lines(cell: Mapping[str, Any], done: Groups) -> list[str]:
    """A sentence for a cell in which tasks stop one by one: which converged when, which learnt to the end."""
    runs = _runs(cell, done)
    parts, to_the_end = [], []
    for task in cell["tasks"]:
        ends = [run.history.get("task_ends", {}).get(task) for run in runs]
        stopped = [end if end and end["stopped"] is not None else None for end in ends]
        if any(stopped):
            converged = _by_repeat([end and end["converged"] for end in stopped])
            after = _by_repeat([end and end["stopped"] for end in stopped])
            parts.append(f"{task} converged in {converged} and stopped after {after}")
        elif any(ends):
            best = _by_repeat([end and end["converged"] for end in ends])
            to_the_end.append(f"{task} learnt to the end (best in {best})")
    frozen = [run.history.get("shared_frozen") for run in runs]
    if any(frozen):
        parts.append(f"what is shared froze after {_by_repeat(frozen)}")
    if not parts:
        return []
    repeats = " By repeat; – where it did not happen." if len(runs) > 1 else ""
    return [f"{cell['name']}: {'; '.join([*parts, *to_the_end])}.{repeats}"]


def _by_repeat(epochs: Sequence[int | None]) -> str:
    shown = ", ".join("–" if epoch is None else str(epoch) for epoch in epochs)
    return f"epoch {shown}" if len(epochs) == 1 else f"epochs {shown}"


def _runs(cell: Mapping[str, Any], done: Groups) -> list[RunRecord]:
    return sorted(done.get((cell["id"], cell["tasks"][0]), []), key=lambda run: run.repeat)
