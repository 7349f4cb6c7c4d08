"""Which tasks are set to say nothing to what is shared, so that no method may listen to their silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork


def silent_tasks(model: MultiTaskNetwork) -> set[str]:
    """Adversarial tasks whose reversal stands at 0, and tasks of weight 0.

    Their gradient on what is shared is 0 whatever their loss, but for an adversary's own row in the last
    mixing unit. A reversal stands at 0 in its warm-up, and the usual schedules begin there.

    Example:
        >>> person = tl.Binary("person", role="adversarial", reversal=tl.tasks.Reversal(warmup=0.1))
        >>> tasks = tl.TaskSet(tl.Binary("mood"), person)
        >>> network = tl.sharing.hard_sharing(tl.encoders.mlp((5,), hidden=[8]), tasks, stages=1)
        >>> network.set_progress(0.05)
        >>> silent_tasks(network)
        {'person'}
    """
    reversals: dict[str, Any] = getattr(model, "reversals", {})
    of_reversals = {name for name, reversal in reversals.items() if reversal.factor == 0}
    return of_reversals | {name for name, task in model.tasks.items() if task.weight == 0}
