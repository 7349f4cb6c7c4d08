"""The coupling of a run: its table found, held against the training labels, and built."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskloom.coupling import SHIPPED, Comparison, Coupling, Relatedness, RelatednessWarning, check
from taskloom.data.batch import DataSplits
from taskloom.data.sources import checksums
from taskloom.errors import DataError, TaskloomError
from taskloom.study.config import digest
from taskloom.study.couplings import Settings
from taskloom.study.relatedness_sources import FROM_LABELS, TableRequest, find_table, source_files
from taskloom.study.yaml_lines import KeyPath, dotted
from taskloom.tasks import TaskSet


@dataclass(frozen=True)
class Coupled:
    """The coupling of a run and what a report says about its table.

    Args:
        coupling: The coupling.
        warnings: Where the table contradicts the training labels.
        notes: Why that cannot be said.
        comparison: The table against the training labels; None where it comes from them or nothing overlaps.
    """

    coupling: Coupling
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    comparison: Comparison | None = None

    def details(self) -> Settings:
        """Plain values for the run's record; the table itself stands in a file beside the checkpoints."""
        table, found = self.coupling.relatedness, self.comparison
        settings = self.coupling.settings()
        return {
            "source": table.source,
            "kind": table.kind,
            "between": table.between,
            **{key: settings[key] for key in ("classes", "attributes", "terms", "relatedness")},
            "classes_given": self.coupling.classes if isinstance(self.coupling.classes, str) else None,
            "warnings": self.warnings,
            "notes": self.notes,
            "compared": 0 if found is None else found.num_compared,
            "agreement": None if found is None else found.agreement,
            "contradictions": [] if found is None else [str(entry) for entry in found.contradictions[:20]],
            "num_contradictions": 0 if found is None else len(found.contradictions),
        }


def build_coupling(settings: Settings, request: TableRequest, splits: DataSplits, tasks: TaskSet) -> Coupled:
    """Finds the table of a coupling, holds it against the training labels, and builds the coupling.

    Args:
        settings: As `read_coupling` gave them.
        request: The table, and where its files are.
        splits: The data; only their training part is looked at.
        tasks: The tasks trained together.

    Raises:
        ConfigError: The table's labels are not those of the tasks.
        DataError: A file, or too few labels.
    """
    sides = {"classes": settings["classes"], "attributes": settings["attributes"]}
    labels = splits.train.labels.subset(tasks.names)
    table = find_table(request, labels, tasks, splits, **sides)
    given = {key: value for key, value in settings.items() if key != "relatedness"}
    coupling = Coupling.from_settings(table, given)
    coupling.check_tasks(tasks)
    if request.kind == FROM_LABELS:
        return Coupled(coupling)
    return _checked(coupling, table, splits, tasks, sides)


def _checked(
    coupling: Coupling, table: Relatedness, splits: DataSplits, tasks: TaskSet, sides: Mapping[str, Any]
) -> Coupled:
    labels = splits.train.labels.subset(tasks.names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RelatednessWarning)
        try:
            comparison = check(table, labels, tasks, **sides)
        except DataError:
            # No rows have labels of both sides: the paper's own case.
            return Coupled(
                coupling,
                notes=[
                    f"relatedness {table.source} cannot be held against the training labels: too few rows "
                    "have labels of both sides."
                ],
            )
    told = [str(one.message) for one in caught if issubclass(one.category, RelatednessWarning)]
    return Coupled(coupling, told, comparison=comparison)


def table_fingerprint(request: TableRequest) -> Settings:
    """What tells the table of a coupling apart: of files the SHA-256, of shipped tables their content.

    Raises:
        DataError: There is no such file.
    """
    if request.kind == "table" and request.name in SHIPPED:
        return {request.name: digest(SHIPPED[request.name].to_dict())}
    files = source_files(request)
    return {key: value for path in files for key, value in checksums([path], path.parent).items()}


def check_in_study(
    settings: Settings, request: TableRequest, splits: DataSplits, tasks: TaskSet, path: KeyPath
) -> Coupled:
    """`build_coupling` before any run; an error begins with the setting's path.

    Raises:
        ConfigError, DataError: See `build_coupling`.
    """
    try:
        return build_coupling(settings, request, splits, tasks)
    except TaskloomError as error:
        message = str(error)
        if message.startswith("coupling"):
            message = f"{dotted(path)}{message.removeprefix('coupling')}"
        elif message.startswith("relatedness"):
            message = f"{dotted((*path, 'relatedness'))}{message.removeprefix('relatedness')}"
        else:
            message = f"{dotted((*path, 'relatedness'))}: {message}"
        raise type(error)(message) from error


def request_of(settings: Settings, folder: Path | None, data: Mapping[str, Any]) -> TableRequest:
    """The table request of a cell's coupling, its files looked for where the data are."""
    roots = ((folder or Path()) / str(data.get("folder", "")), folder or Path())
    return TableRequest.of(settings["relatedness"], tuple(dict.fromkeys(roots)))
