"""What a report must say of cells that start from trained networks: these have been trained for longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskloom.study.cells import SINGLE_TASK
from taskloom.study.results import RunRecord
from taskloom.wording import counted


def warm_start_warnings(records: Sequence[RunRecord]) -> list[str]:
    """One sentence where networks that cells start from make up for more epochs than training alone had.

    A gain over a network trained alone is then not that of sharing by itself.

    Args:
        records: All runs of the study that have ended, those that others start from among them.
    """
    runs = {record.id: record for record in records}
    begun = [record for record in records if record.resolved.get("starts")]
    alone = max((record.epochs or 0 for record in records if record.cell.startswith(SINGLE_TASK)), default=0)
    longest = max((_epochs(record, runs) for record in begun), default=0)
    if longest <= alone:
        return []
    cells = counted(len({record.cell for record in begun}), "cell")
    begin = "begins" if cells.startswith("1 ") else "begin"
    return [
        f"{cells} {begin} with trained networks (warm_start), with up to {longest} epochs of training one "
        f"after the other; networks alone have at most {alone}, so a gain may be that of longer training. "
        f"`hard_sharing: {{stages: 0}}` with `training: {{epochs: {longest}}}` beside it trains alone as "
        "long."
    ]


def _epochs(record: RunRecord, runs: Mapping[str, RunRecord]) -> int:
    """Epochs of a run and of the longest chain of runs that it starts from."""
    starts = [runs[number] for number in record.resolved.get("starts", ()) if number in runs]
    return (record.epochs or 0) + max((_epochs(start, runs) for start in starts), default=0)
