"""Whom recordings are of, and by whose statistics they are normalised.

A bundle that was normalised person by person (`normalize: {per: person}`) knows the people of its training.
Anybody else is normalised as they were: by the mean and deviation of the samples that his own windows cover,
over all of his files together, so that what a person's windows become depends on which files are given.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskloom.data.normalize import Normalizer
from taskloom.data.readers.recordings_table import FileTable
from taskloom.errors import ConfigError, DataError
from taskloom.predict.windowing import Preparation


@dataclass(frozen=True)
class SourceFile:
    """A file to predict.

    Args:
        path: Where it is.
        name: As it is called in the table of predictions.
    """

    path: Path
    name: str

    def told(self, error: DataError) -> DataError:
        """An error that calls the file by its name, where it lies under another."""
        if self.path.name == Path(self.name).name:
            return error
        text = str(error).replace(str(self.path), self.name)
        return DataError(
            text.replace(self.path.name, self.name).replace(self.path.stem, Path(self.name).stem)
        )


@dataclass(frozen=True)
class Persons:
    """What a user says of the people in new recordings.

    Args:
        person: All of them are of this person.
        table: CSV, TSV or Parquet with columns `file` (as the table of predictions calls it, with or without
            suffix) and `person`.
        are_new: Nobody is the one of the same name in the training.

    Raises:
        ConfigError: Both a person and a table.
    """

    person: str | None = None
    table: Path | None = None
    are_new: bool = False

    def __post_init__(self) -> None:
        if self.person is not None and self.table is not None:
            raise ConfigError("--person and --people exclude each other: one person, or a table of them.")

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        return self.person is not None or self.table is not None or self.are_new


@dataclass(frozen=True)
class PersonStatistics:
    """By what a person was normalised.

    Args:
        person: The name.
        from_training: Whether by what the bundle holds; else by the person's own files.
        files: How many files of the person were given and could be read.
    """

    person: str
    from_training: bool
    files: int


@dataclass(frozen=True)
class Normalization:
    """What every file is normalised by.

    Args:
        shared: The normaliser of everybody; None for nothing, or where it depends on the person.
        person_of: Person of every file, by the file's name; empty where no person matters.
        by_person: The normaliser of every person of whom a file could be read.
        statistics: For people to read.
    """

    shared: Normalizer | None
    person_of: Mapping[str, str] = field(default_factory=dict)
    by_person: Mapping[str, Normalizer] = field(default_factory=dict)
    statistics: tuple[PersonStatistics, ...] = ()

    def of(self, file: SourceFile) -> Normalizer | None:
        """What a file that could be read is normalised by."""
        return self.by_person[self.person_of[file.name]] if self.person_of else self.shared


def normalization(
    preparation: Preparation, files: Sequence[SourceFile], persons: Persons, problems: dict[str, DataError]
) -> Normalization:
    """Finds out by what every file is normalised; files of new people are read for it.

    Args:
        preparation: How files become windows.
        files: All of them.
        persons: What the user says.
        problems: Takes up, by name, what is wrong with a file that cannot be read; it counts for nothing.

    Raises:
        DataError: A file whose person is not known.
        ConfigError: People are named where the bundle does not ask for them.
    """
    fitted = preparation.normalizer
    if fitted is None or not fitted.persons:
        if persons.given:
            raise ConfigError(
                "--person, --people and --new-people go with bundles that were normalised person by person "
                "(`normalize: {per: person}`); leave them out, this bundle was not."
            )
        return Normalization(fitted)
    person_of = _person_of(preparation, files, persons)
    by_person: dict[str, Normalizer] = {}
    statistics = []
    for person in dict.fromkeys(person_of.values()):
        own = [file for file in files if person_of[file.name] == person]
        trained = None if persons.are_new else fitted.of_person(person)
        found = trained or _own_normalizer(preparation, own, fitted.clip, problems)
        if found is not None:
            read = [file for file in own if file.name not in problems]
            by_person[person] = found
            statistics.append(PersonStatistics(person, trained is not None, len(read)))
    return Normalization(None, person_of, by_person, tuple(statistics))


def _own_normalizer(
    preparation: Preparation,
    files: Sequence[SourceFile],
    clip: float | None,
    problems: dict[str, DataError],
) -> Normalizer | None:
    """The statistics of one person's files, one of them in memory at a time; None where none can be read."""

    def covered() -> Iterator[NDArray[np.float32]]:
        for file in files:
            try:
                recordings = preparation.read(file.path, None)
            except DataError as error:
                problems[file.name] = file.told(error)
                continue
            for recording in recordings:
                yield recording.covered()

    chunks = covered()
    first = next(chunks, None)
    return None if first is None else Normalizer.of_samples(itertools.chain([first], chunks), clip=clip)


def _person_of(preparation: Preparation, files: Sequence[SourceFile], persons: Persons) -> dict[str, str]:
    """Person of every file by its name: as the user says, else as its name says it."""
    if persons.person is not None:
        return dict.fromkeys((file.name for file in files), persons.person)
    if persons.table is not None:
        stems = {file.name: Path(file.name).with_suffix("").as_posix() for file in files}
        several = {stem for stem, number in Counter(stems.values()).items() if number > 1}
        # Where two files differ in their suffix alone, the table says which by the whole name.
        keys = {file: file if stem in several else stem for file, stem in stems.items()}
        table = FileTable(persons.table, {key: file for file, key in keys.items()})
        found = {file: table.identity_of(key).get("person") for file, key in keys.items()}
        advice = f"{persons.table} says of no person in its column `person`; add a row"
    else:
        found = {file.name: preparation.files.person_of(Path(file.name)) for file in files}
        advice = (
            "its name does not say whom it is of; say it with --person NAME (of all that is given) or with "
            "--people TABLE (columns `file` and `person`)"
        )
    unknown = next((name for name, person in found.items() if not person), None)
    if unknown is not None:
        raise DataError(
            f"{unknown}: this bundle was normalised person by person (`normalize: {{per: person}}`), and "
            f"{advice}."
        )
    return {name: str(person) for name, person in found.items()}
