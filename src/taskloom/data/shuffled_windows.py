"""The split of thesis 002 for DEAP, under its own name only, and the split that answers what it cannot.

Thesis 002 (section 3.2.2 and appendix A.2) cuts recordings into windows of 1 s at a stride of 0.5 s, shuffles
all of them, and holds out 33 %. Neighbours share half of their samples, so that nine in ten windows of the
test part have samples that were trained on: the score says how well a network remembers.

`by: blocks` is the same draw without that: not single windows but blocks of ten window lengths, from all
recordings, are drawn for validation and test, and a window that reaches from one part's block into another's
is in no part. Test windows still come from the recordings and people of train, and may follow one of its
windows at once; how well new trials or people are told is asked with `by: trial` and `by: person`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from taskloom.data.split_checks import Parts
from taskloom.data.split_draw import split_by_group
from taskloom.data.windows import WindowDataset

SHUFFLED_WINDOWS = "thesis-002-shuffled-windows"
"""Value of `split.by`; of DEAP only."""

BLOCKS = "blocks"
"""Value of `split.by`, for any recordings."""

SHUFFLED_TEST = 0.33
"""Share of the windows that the thesis holds out."""

BLOCK_WINDOWS = 10
"""Length of a block, in windows side by side."""

SHUFFLED_WARNING = (
    "The split draws overlapping windows at random, as thesis 002 did: most test windows share samples with "
    "windows of train, so that its scores say how well a network remembers, and nothing about new signals. "
    "The same models trained on a split over which no window reaches stand beside them under "
    "“What the split gives away”."
)


def split_shuffled(windows: WindowDataset, *, test: float, validation: float, seed: int) -> Parts:
    """Draws single windows, overlapping or not; the parts share samples wherever windows overlap.

    Args:
        windows: The data set.
        test, validation: Shares of the windows.
        seed: Seed of the draw.

    Raises:
        DataError: Fewer than three windows.
    """
    return split_by_group(
        np.arange(len(windows)), test=test, validation=validation, seed=seed, noun="windows"
    )


def split_by_blocks(windows: WindowDataset, *, test: float, validation: float, seed: int) -> Parts:
    """Draws blocks of recordings instead of windows, so that no window reaches from one part into another.

    Args:
        windows: The data set.
        test, validation: Shares of the blocks.
        seed: Seed of the draw.

    Returns:
        Row indices; windows that begin in a block of one part and end in a block of another are in none.

    Raises:
        DataError: Fewer than three blocks.
    """
    recordings = windows.recording_index
    offsets = np.array([recording.start for recording in windows.store.recordings])[recordings]
    length = BLOCK_WINDOWS * windows.window_samples
    first = (windows.starts - offsets) // length
    last = (windows.starts - offsets + windows.window_samples - 1) // length
    # A number for every block of every recording; one more a recording, for a window that ends in the next.
    per_recording = int(last.max(initial=0)) + 1
    begin, end = recordings * per_recording + first, recordings * per_recording + last
    # A block in which windows only end is as much a block as any: it must belong to one part.
    blocks = np.unique(np.concatenate((begin, end)))
    drawn = split_by_group(
        np.arange(len(blocks)), test=test, validation=validation, seed=seed, noun=f"`by: {BLOCKS}`"
    )
    part_of = np.zeros(len(blocks), dtype=np.int64)
    for number, (_, rows) in enumerate(drawn.items()):
        part_of[rows] = number
    parts_begin = part_of[np.searchsorted(blocks, begin)]
    parts_end = part_of[np.searchsorted(blocks, end)]
    within = parts_begin == parts_end
    return Parts(*(np.flatnonzero(within & (parts_begin == number)) for number in range(3)))


def without_straddling(split: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same split drawn by blocks, where it draws single windows; None where nothing straddles.

    Args:
        split: A study file's `split`.

    Example:
        >>> without_straddling({"by": "thesis-002-shuffled-windows", "validation": 0.1})
        {'by': 'blocks', 'validation': 0.1, 'test': 0.33}
        >>> without_straddling({"by": "person"}) is None
        True
    """
    if split.get("by") != SHUFFLED_WINDOWS:
        return None
    return {**split, "by": BLOCKS, "test": split.get("test", SHUFFLED_TEST)}
