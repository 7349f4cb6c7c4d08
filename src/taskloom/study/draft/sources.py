"""What a study can be drafted for: a table, a table of images, a folder of recordings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from taskloom.data.tables import Table
from taskloom.study.draft.networks import Network


@dataclass(frozen=True)
class Source:
    """Data that a study can be drafted for.

    Args:
        kind: How they are read.
        table: Its rows, whose columns are tasks, groups, features.
        data: Settings of the `data` section that say where they are and how they are read.
        comments: What stands beside those settings.
        reserved: Columns that are neither task nor feature, and what they are.
        network: The encoder, where the columns do not decide it.
        num_inputs: Rows, images or windows, about.
        label_table: Whether the table may say how it is read (decimal sign, marks of missing values).
        beside: Tasks that are no column of the table: their settings, and what they are.
        split, split_comment: The split that comes with the data; None where the columns decide it.
        group: The column that the reader itself keeps together; None where the columns decide it.
    """

    kind: Literal["table", "images", "recordings"]
    table: Table
    data: Mapping[str, Any]
    comments: Mapping[str, str] = field(default_factory=dict)
    reserved: Mapping[str, str] = field(default_factory=dict)
    network: Network | None = None
    num_inputs: int = 0
    label_table: bool = True
    beside: Mapping[str, tuple[Mapping[str, Any], str]] = field(default_factory=dict)
    split: Mapping[str, Any] | None = None
    split_comment: str = ""
    group: str | None = None
