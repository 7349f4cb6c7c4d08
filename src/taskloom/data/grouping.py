"""Which recordings belong together: persons, sessions, trials, or any label of the recordings."""

from __future__ import annotations

from taskloom.data.recordings import RecordingStore
from taskloom.errors import DataError, did_you_mean

GROUPINGS: tuple[str, ...] = ("person", "trial", "session", "recording")
"""What windows are clustered by, in the order in which "auto" takes the first that every recording has."""


def group_names(store: RecordingStore, by: str) -> list[str]:
    """Name of the group of every recording of the store.

    Sessions and trials are counted within their person (and session): trial 1 of two people is two groups.

    Args:
        store: The store.
        by: "recording", "person", "session", "trial", or the name of a per-recording label.

    Raises:
        DataError: A recording has no such value, or nothing of the name is known.
    """
    if by == "recording":
        return [recording.name for recording in store.recordings]
    if by not in GROUPINGS and by not in store.label_names:
        known = [*GROUPINGS, *store.label_names]
        raise DataError(
            f"{store.folder}: recordings have no `{by}` to group by.{did_you_mean(by, known)} "
            f"Possible: {', '.join(known)}."
        )
    outer = {"person": (), "session": ("person",), "trial": ("person", "session")}.get(by, ())
    names = []
    for recording in store.recordings:
        value = getattr(recording, by) if by in GROUPINGS else recording.labels.get(by)
        if value is None:
            raise DataError(
                f"recording {recording.name}: no {by} is known, so it cannot be grouped by {by}; give "
                f"its {by} in the data's table or file name, or choose another `by`."
            )
        above = [getattr(recording, level) for level in outer]
        names.append("/".join(str(part) for part in (*above, value) if part is not None))
    return names


def chosen_grouping(store: RecordingStore, group_by: str) -> str:
    """`group_by` itself, checked; for "auto" the first of `GROUPINGS` that every recording has."""
    if group_by != "auto":
        group_names(store, group_by)  # refuses what is not there
        return group_by
    for choice in GROUPINGS[:-1]:
        if all(getattr(recording, choice) is not None for recording in store.recordings):
            return choice
    return "recording"
