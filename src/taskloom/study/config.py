"""The study file: what it may say, and one sentence with file and line where it says something else."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from taskloom.data.sources import SOURCES, find_source
from taskloom.encoders import ENCODERS
from taskloom.errors import ConfigError, did_you_mean
from taskloom.own_code import CodeFile, run_code
from taskloom.study.image_size import with_image_size
from taskloom.study.locate import explain, located, unknown_setting
from taskloom.study.overrides import apply_overrides
from taskloom.study.plain_settings import document_of
from taskloom.study.yaml_lines import Document, KeyPath, dotted, read_document
from taskloom.tasks import KINDS, Binary
from taskloom.training.config import TrainingConfig


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderSettings(BaseModel):
    """The `encoder` section: a name of `taskloom.encoders.ENCODERS` and that encoder's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """The encoder's own settings, without its name."""
        return dict(self.model_extra or {})


class HeadSettings(_Settings):
    """The `head` section: every task's own layers after the encoder; see `taskloom.sharing.HeadSpec`.

    Args:
        hidden: Widths of hidden layers; none is one linear layer.
        activation: Between them.
        dropout: Share of each hidden layer's outputs set to 0 in training; a list has one for each layer.
        norm: Between a hidden layer and its activation: none, or "batch".
        per_sample: One output per sample of a window, for labels per sample.
    """

    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1)] | tuple[Annotated[float, Field(ge=0, lt=1)], ...] = 0.0
    norm: Literal["batch"] | None = None
    per_sample: bool = False


class ReportSettings(_Settings):
    """The `report` section: what stands on the page; it changes no run.

    The course of training is shown where this section stands, unless it says nothing but `gallery`
    and `subgroups`.

    Args:
        last_epochs: Over how many epochs at the end means and intervals are taken.
        loess_span: Share of the points that a place of a smoothed curve rests on.
        gallery: How many of the worst mistakes on images are shown per task (12 where not said); false, or 0,
            shows none and keeps no picture.
        subgroups: Further ways to look at the judged tasks: per task of numbers, or column of the data, the
            edges of its bands (`age: [13, 20, 40, 60]`), or `classes` for a column that is no task.
    """

    last_epochs: int = Field(default=10, ge=1)
    loess_span: float = Field(default=0.75, gt=0, le=1)
    gallery: Annotated[int, Field(ge=0, le=100)] | Literal[False] | None = None
    subgroups: dict[str, tuple[float, ...] | Literal["classes"]] = Field(default_factory=dict)

    @field_validator("subgroups")
    @classmethod
    def _edges_ascend(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, edges in value.items():
            if isinstance(edges, str):
                continue
            if not edges or any(low >= high for low, high in pairwise(edges)):
                raise ValueError(f"{name}: edges of bands in ascending order expected, found {list(edges)}")
        return value

    @property
    def course(self) -> dict[str, Any] | None:
        """Settings of the course of training; None where it is not asked for."""
        other = {"gallery", "subgroups"}
        if self.model_fields_set and self.model_fields_set <= other:
            return None
        return self.model_dump(mode="json", exclude=other)


GALLERY = 12
"""Mistakes per task in the report, where the study file says nothing."""


def gallery_size(settings: ReportSettings | None) -> int:
    """How many of the worst mistakes are shown per task."""
    if settings is None or settings.gallery is None:
        return GALLERY
    return int(settings.gallery)


class FormSettings(HeadSettings):
    """A form of training alone: the settings of its heads, and of its encoder where that differs too.

    Args:
        encoder: Settings in place of the study's, such as `{shared_layers: []}` for a read-out of the
            backbone itself.
    """

    encoder: dict[str, Any] | None = None

    @property
    def head(self) -> HeadSettings:
        """The heads alone."""
        return HeadSettings.model_validate(self.model_dump(exclude={"encoder"}))


class BaselineSettings(_Settings):
    """The `baseline` section: what training a task alone means, with which cells are compared.

    Thesis 001 (section 4.4) has two forms: a linear read-out of the encoder, and a fully connected network
    of the task's own on it.

    Args:
        head: Heads of single-task networks, in place of the study's.
        forms: Several forms by name, each the settings of its heads and, if wanted, `encoder`; all are run.
        judge: The form that gains and verdicts are against; the first one where None. The others are shown.
        auxiliary: Whether tasks that are not judged are trained alone too.
    """

    head: HeadSettings | None = None
    forms: dict[str, FormSettings] = Field(default_factory=dict)
    judge: str | None = None
    auxiliary: bool = False

    @model_validator(mode="after")
    def _forms_fit(self) -> Self:
        if self.head is not None and self.forms:
            raise ValueError(
                "either `head` or `forms` expected, found both; name the one form among the others"
            )
        if self.judge is not None and self.judge not in self.forms:
            known = ", ".join(self.forms) or "none"
            raise ValueError(
                f"judge `{self.judge}` is not one of the forms ({known})"
                f"{did_you_mean(self.judge, self.forms).rstrip('.')}"
            )
        for name, form in self.forms.items():
            same = [other for other, head in self.forms.items() if head == form and other != name]
            if same:
                raise ValueError(f"forms `{name}` and `{same[0]}` are the same; leave one out")
        return self


class StudyConfig(_Settings):
    """A whole study file.

    Args:
        data: Settings of the data source: `reader` (inferred where `images` or `table` stands) and its own.
        tasks: Settings per task: `kind` and that kind's own, and `column` or `track` where the data call the
            task something else.
        split: How rows are divided; see `taskloom.data.splits`. `redraw: true` draws a new split for every
            repeat; with `folds: k`, repeat r tests on fold r mod k, and with both every k repeats draw anew.
        encoder, head, training: As their classes say.
        repeats: How often every cell is trained; repeat r has seed `seed` + r.
        seed: Seed of the first repeat and of the split.
        report: Adds metrics by epoch, smoothed, and their means over the last epochs to the report.
        cells: What is compared: each one architecture and its settings; see `taskloom.study.cells`.
        baseline: What the single-task networks are, where they are not the study's encoder and head.
        code: Python files of your own that register what the study names, by their place beside the study
            file; see `taskloom.own_code`.
    """

    data: dict[str, Any] = Field(min_length=1)
    tasks: dict[str, dict[str, Any]] = Field(min_length=1)
    split: dict[str, Any] = Field(default_factory=dict)
    encoder: EncoderSettings
    head: HeadSettings = Field(default_factory=lambda: HeadSettings())
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    repeats: int = Field(default=5, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    report: ReportSettings | None = None
    cells: list[dict[str, Any]] = Field(min_length=1)
    baseline: BaselineSettings = Field(default_factory=BaselineSettings)
    code: tuple[str, ...] = ()

    @field_validator("code", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class Study:
    """A study file that has been read and checked.

    Args:
        config: Its settings.
        document: Where they stand, for messages.
        name: The file's stem: the study's name and its default folder under `runs/`.
        code: The files of its `code`, which have run.
    """

    config: StudyConfig
    document: Document = field(repr=False)
    name: str = "study"
    code: tuple[CodeFile, ...] = ()

    @property
    def reader(self) -> str:
        """Name of the data source."""
        return str(self.config.data["reader"])

    @property
    def data_settings(self) -> dict[str, Any]:
        """Settings of the data source, without its name."""
        return {key: value for key, value in self.config.data.items() if key != "reader"}

    def split_of(self, repeat: int) -> tuple[dict[str, Any], int]:
        """Returns the split settings and the seed of the draw for one repeat.

        Without `redraw` every repeat has the same split, drawn from the study's seed. With `folds: k`,
        repeat r has fold r mod k of one draw; with both, every k repeats are the folds of a draw of their own
        (6 x 2-fold cross-validation is `folds: 2`, `redraw: true` and 12 repeats).
        """
        split = dict(self.config.split)
        redraw = bool(split.pop("redraw", False))
        folds = split.get("folds")
        if folds is not None:
            split["fold"] = repeat % int(folds)
        return split, self.config.seed + ((repeat // int(folds or 1)) if redraw else 0)

    def seed_of(self, repeat: int) -> int:
        """Returns the seed of one repeat: start of the weights, order of the rows."""
        return self.config.seed + repeat

    def to_yaml(self) -> str:
        """Returns the resolved settings, with every default written out."""
        resolved = self.config.model_dump(mode="json")
        return yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)


def load_study(
    source: Path | str | Mapping[str, Any], overrides: Sequence[str] = (), *, name: str | None = None
) -> Study:
    """Reads and checks a study file, or the settings that such a file would hold.

    Args:
        source: The file, or its settings as plain values, as a notebook has them.
        overrides: "key=value" each, as `--set` gives them.
        name: Name of the study and of its folder under `runs/`; where None a file's stem, else "study".

    Raises:
        ConfigError: One sentence, of a file with its line: what was expected, what was found.

    Example:
        >>> study = load_study({
        ...     "data": {"table": "people.csv"},
        ...     "tasks": {"age": {"kind": "regression"}, "sex": {"kind": "binary", "classes": ["f", "m"]}},
        ...     "split": {"by": "rows"},
        ...     "encoder": {"name": "mlp", "hidden": [16, 16]},
        ...     "cells": [{"hard_sharing": {"stages": [1, 2]}}],
        ... })
        >>> study.reader, study.config.repeats
        ('table', 5)
    """
    if isinstance(source, Mapping):
        read, folder, usual = document_of(source), Path(), "study"
    else:
        path = Path(source)
        read, folder, usual = read_document(path), path.parent, path.stem
    document = apply_overrides(read, overrides)
    code = _run_own_code(document, folder)  # first: the rest is checked against what it registers
    study = check_study(document, usual if name is None else name)
    placed = study.config.model_copy(update={"code": tuple(str(file.path) for file in code)})
    return replace(study, config=placed, code=code)


def _run_own_code(document: Document, folder: Path) -> tuple[CodeFile, ...]:
    given = document.value.get("code", ())
    files = [given] if isinstance(given, str) else given
    if not isinstance(files, list | tuple) or not all(isinstance(file, str) for file in files):
        message = f"code: the name of a Python file, or a list of them, expected, found {given!r}."
        raise ConfigError(document.say(("code",), message))
    try:
        return run_code(folder / file for file in files)
    except ConfigError as error:
        raise ConfigError(document.say(("code",), str(error))) from error


def check_study(document: Document, name: str = "study") -> Study:
    """Checks the settings of a document; see `load_study`."""
    value = document.value
    _check_encoder(document)
    try:
        config = StudyConfig.model_validate(value)
    except ValidationError as error:
        raise ConfigError(explain(error, StudyConfig, document)) from None
    with located(document):
        data, encoder = with_image_size(_with_reader(config.data), config.encoder.model_dump())
        config = config.model_copy(update={"data": data, "encoder": EncoderSettings(**encoder)})
        _check_tasks(config.tasks)
        _check_split(config.split)
    return Study(config, document, name)


def _check_encoder(document: Document) -> None:
    """Unknown settings of the encoder, which only the named encoder knows."""
    settings = document.value.get("encoder")
    if isinstance(settings, Mapping):  # else pydantic says what is wrong
        check_encoder_settings(document, settings, ("encoder",))


def check_encoder_settings(document: Document, settings: Mapping[str, Any], at: KeyPath) -> None:
    """Refuses an unknown encoder, or a setting that it does not have.

    Args:
        document: For file and line.
        settings: Its name and settings.
        at: Where they stand.

    Raises:
        ConfigError: With file and line.
    """
    name = settings.get("name")
    if name is not None and str(name) not in ENCODERS:
        message = (
            f"{dotted((*at, 'name'))}: `{name}` is not a known encoder."
            f"{did_you_mean(str(name), ENCODERS)} Known: {', '.join(ENCODERS)}; your own by "
            "`code: FILE.py`."
        )
        raise ConfigError(document.say((*at, "name"), message))
    known = ["name", *(() if name is None else _keyword_names(ENCODERS[str(name)]))]
    for key in settings:
        if key not in known:
            path: KeyPath = (*at, key)
            raise ConfigError(document.say(path, unknown_setting(path, known)))


def _keyword_names(function: Any) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def _with_reader(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data section with its reader: inferred where the section says what it is."""
    if "reader" in data:
        try:
            find_source(str(data["reader"]))
        except ConfigError as error:
            raise ConfigError(f"data.reader: {error}") from None
        return dict(data)
    for reader in ("combined", "store", "images", "table"):
        if reader in data:
            return {"reader": reader, **data}
    find_source("table")  # fills the registry
    raise ConfigError(
        f"data: the name of a `reader` expected ({', '.join(SOURCES)}), or `table`, `images`, `store` or "
        "`combined`, from which it follows."
    )


def _check_tasks(tasks: Mapping[str, Mapping[str, Any]]) -> None:
    for name, settings in tasks.items():
        kind = settings.get("kind")
        if kind not in KINDS:
            found = "nothing" if kind is None else f"`{kind}`"
            raise ConfigError(
                f"tasks.{name}.kind: one of {', '.join(KINDS)} expected, found {found}."
                f"{did_you_mean(str(kind), KINDS)}"
            )
        # Roles need no data; the kind's own settings are checked with them.
        given = {key: settings[key] for key in ("role", "weight", "reversal") if key in settings}
        Binary(name, **given)
    if not any(settings.get("role", "main") == "main" for settings in tasks.values()):
        raise ConfigError(
            f"tasks: {', '.join(tasks)} are all auxiliary or adversarial, so nothing would be judged; at "
            "least one task of `role: main` is needed."
        )


def _check_split(split: Mapping[str, Any]) -> None:
    redraw = split.get("redraw", False)
    if not isinstance(redraw, bool):
        raise ConfigError(f"split.redraw: true or false expected, found {redraw!r}.")
    folds = split.get("folds")
    if folds is not None and (not isinstance(folds, int) or isinstance(folds, bool) or folds < 2):
        raise ConfigError(f"split.folds: a number of folds from 2 expected, found {folds!r}.")
    if redraw and "seed" in split:
        raise ConfigError("split.seed: fixes the draw that `redraw: true` asks to make anew; remove one.")
    if "fold" in split:
        raise ConfigError("split.fold: not a setting; repeat r tests on fold r mod `folds`.")


def canonical(value: Any) -> str:
    """Returns settings as one text that is equal where they are equal."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def digest(value: Any) -> str:
    """Returns the SHA-256 of settings, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
