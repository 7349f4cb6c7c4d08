"""Runs: a cell with a seed on a split, and the identity that tells whether it has been done already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.data import sources
from taskloom.data.batch import DataSplits
from taskloom.errors import DataError
from taskloom.own_code import CodeFile
from taskloom.study.cells import Cell
from taskloom.study.companion import NAME_SUFFIX, SUFFIX, companion_request
from taskloom.study.config import HeadSettings, Study, digest
from taskloom.study.coupled_runs import request_of, table_fingerprint
from taskloom.study.encoder_weights import located_weights
from taskloom.study.locate import located
from taskloom.study.relatedness_sources import TableRequest
from taskloom.study.yaml_lines import KeyPath, dotted

RUN_FORMAT = 1
"""Part of every run's identity: raise it when the same settings no longer give the same result, or when the
default of a training or head setting changes (settings at their default are not part of the identity)."""

_USUAL_HEAD = HeadSettings().model_dump(mode="json")


@dataclass(frozen=True)
class DataRequest:
    """What a data source is asked for; equal requests give equal data.

    Args:
        reader: Name of the source.
        settings, tasks, split: Sections of the study file.
        seed: Seed of the split.
        folder: Where relative files are looked for.
        stores: Folder of prepared stores.
    """

    reader: str
    settings: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    split: dict[str, Any]
    seed: int
    folder: Path | None
    stores: Path

    def load(self) -> DataSplits:
        """Reads the data, preparing the store where it is not there yet."""
        return sources.load(
            self.reader,
            self.settings,
            self.tasks,
            self.split,
            seed=self.seed,
            folder=self.folder,
            stores=self.stores,
        )

    @property
    def key(self) -> str:
        """Equal for requests that give equal data."""
        return digest([self.reader, self.settings, self.tasks, self.split, self.seed, str(self.folder)])


@dataclass(frozen=True)
class RunSpec:
    """Everything a process needs to do one run.

    Args:
        id: SHA-256 of all that decides the result.
        cell: What is trained.
        repeat, seed: Which repeat and its seed.
        encoder: Name and settings of the encoder.
        head: Settings of the heads.
        data: What to train on.
        resolved: What `id` is the hash of, as plain values.
        out: The study's folder.
        starts: The runs, of the same repeat, from whose trained networks this one starts.
        teachers: The runs, of the same repeat, whose networks label what its training rows miss.
        companion: Whether it stands beside a run whose split lets windows straddle; see `study.companion`.
        code: The user's own files that register what the run names.
    """

    id: str
    cell: Cell
    repeat: int
    seed: int
    encoder: dict[str, Any]
    head: dict[str, Any]
    data: DataRequest
    resolved: dict[str, Any]
    out: Path
    starts: tuple[RunSpec, ...] = ()
    teachers: tuple[RunSpec, ...] = ()
    companion: bool = False
    code: tuple[CodeFile, ...] = ()

    @property
    def cell_id(self) -> str:
        """Under which the run is kept: the cell's id, or that of the cell's companions."""
        return self.cell.id + SUFFIX if self.companion else self.cell.id

    @property
    def cell_name(self) -> str:
        """The cell's name for people."""
        return self.cell.name + NAME_SUFFIX if self.companion else self.cell.name

    @property
    def label(self) -> str:
        """For people: "hard sharing 1 from input, repeat 2 of ...": the cell and which repeat, from 1."""
        return f"{self.cell_name}, repeat {self.repeat + 1}"


def data_request(study: Study, repeat: int, folder: Path | None, stores: Path) -> DataRequest:
    """Returns what the study asks of its source for one repeat."""
    split, seed = study.split_of(repeat)
    tasks = {name: dict(settings) for name, settings in study.config.tasks.items()}
    return DataRequest(study.reader, study.data_settings, tasks, split, seed, folder, stores)


def coupling_path(cell: Cell) -> KeyPath:
    """Where the coupling of a cell stands in the study file."""
    return ("cells", cell.entry, "coupling")


def table_request(cell: Cell, request: DataRequest) -> TableRequest:
    """The relatedness that a cell's coupling asks for; its files are looked for where the data are."""
    assert cell.coupling is not None
    return request_of(cell.coupling, request.folder, request.settings)


def _table_of(study: Study, cell: Cell, request: DataRequest) -> dict[str, Any]:
    with located(study.document):
        try:
            return table_fingerprint(table_request(cell, request))
        except DataError as error:
            message = str(error).removeprefix("coupling")
            raise DataError(f"{dotted(coupling_path(cell))}{message}") from error


def plan_runs(
    study: Study,
    cells: Sequence[Cell],
    requests: Sequence[DataRequest],
    checksums: Sequence[Any],
    out: Path,
) -> list[RunSpec]:
    """Returns all runs of a study in the order in which they are done: every cell of repeat 0 first.

    Where windows may straddle the split, a repeat's companions come after its cells.

    Args:
        study: The study.
        cells: Baselines and cells.
        requests: Per repeat, what its source is asked for.
        checksums: Per repeat, what tells the source files apart (their SHA-256).
        out: The study's folder.
    """
    return [
        _spec(study, cell, repeat, request, checksums[repeat], out, companion)
        for repeat, request, companion in _with_companions(requests)
        for cell in cells
    ]


def _spec(
    study: Study,
    cell: Cell,
    repeat: int,
    request: DataRequest,
    sums: Any,
    out: Path,
    companion: bool,
) -> RunSpec:
    """The run of a cell in a repeat, with those that it starts from."""
    seed = study.seed_of(repeat)
    encoder = study.config.encoder.model_dump(mode="json")
    head = study.config.head.model_dump(mode="json")
    usual_head = study.config.head.model_dump(mode="json", exclude_defaults=True)
    with located(study.document):
        own_encoder, known_encoder = located_weights(
            encoder if cell.encoder is None else cell.encoder, request.folder
        )
    own_head = head if cell.head is None else {**_USUAL_HEAD, **cell.head}
    starts = tuple(_spec(study, start, repeat, request, sums, out, companion) for start in cell.warm_start)
    teachers = tuple(_spec(study, one, repeat, request, sums, out, companion) for one in cell.taught_by)
    resolved = {
        "format": RUN_FORMAT,
        "data": {"reader": request.reader, **request.settings},
        "sources": sums,
        "tasks": request.tasks,
        "split": {**request.split, "seed": request.seed},
        "encoder": known_encoder,
        "head": usual_head if cell.head is None else cell.head,
        "cell": cell.resolved(),
        "seed": seed,
        # The ids of whole runs: with any of them, and theirs in turn, this is another run.
        **({"starts": [start.id for start in starts]} if starts else {}),
        **({"teachers": [teacher.id for teacher in teachers]} if teachers else {}),
        **({"relatedness": _table_of(study, cell, request)} if cell.coupling is not None else {}),
        **({"code": {file.path.name: file.sha256 for file in study.code}} if study.code else {}),
    }
    return RunSpec(
        digest(resolved),
        cell,
        repeat,
        seed,
        own_encoder,
        own_head,
        request,
        resolved,
        out,
        starts,
        teachers,
        companion,
        study.code,
    )


def _with_companions(requests: Sequence[DataRequest]) -> Iterator[tuple[int, DataRequest, bool]]:
    for repeat, request in enumerate(requests):
        yield repeat, request, False
        beside = companion_request(request)
        if beside is not None:
            yield repeat, beside, True
