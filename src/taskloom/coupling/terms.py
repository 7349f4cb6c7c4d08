"""The terms of a coupling and their settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from taskloom.coupling.losses import Direction, Options, Reduction, Stop
from taskloom.coupling.schedule import WeightSchedule
from taskloom.errors import ConfigError, did_you_mean

To = Literal["attributes", "classes"]
Conditional = Literal["auto", "presence", "values"]


@dataclass(frozen=True)
class Matching:
    """Distribution matching: predictions of one side against those of the other, on every row.

    Args:
        weight: Weight of the term, a number or a schedule; 0 leaves it out.
        to: "attributes": class predictions become attribute predictions through equation 2 (the paper).
            "classes": the reverse, attribute predictions become class predictions through equations 4 and 5.
        conditional: p(attribute | class): "presence" is 1 where the weight is above 0 (as equation 2 says),
            "values" the entries themselves; "auto" is presence for weights and values for frequencies.
        direction, two_sided, stop_gradient, temperature, label_temperature, reduction: See
            `taskloom.coupling.losses.Options`; the defaults are the paper's equation.

    Raises:
        ConfigError: A setting out of range, or one that does not go with another.
    """

    weight: float | WeightSchedule = 1.0
    to: To = "attributes"
    conditional: Conditional = "auto"
    direction: Direction = "printed"
    two_sided: bool = False
    stop_gradient: Stop = "none"
    temperature: float = 1.0
    label_temperature: float = 1.0
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        _check_settings("matching", self)
        if self.to == "classes" and self.two_sided:
            raise ConfigError("coupling.matching: two_sided goes with attributes, not with to: classes.")

    @property
    def name(self) -> str:
        return f"matching_to_{self.to}"

    @property
    def options(self) -> Options:
        return _options(self)


@dataclass(frozen=True)
class CoAnnotation:
    """Soft co-annotation: labels of one side make soft labels for the other, on rows that have such labels.

    Args:
        weight: Weight of the term, a number or a schedule; 0 leaves it out.
        to: "classes": attribute labels make a soft class label (equations 4 to 6). "attributes": the reverse,
            class labels make soft attribute labels (always -q log p - (1 - q) log(1 - p); see
            `taskloom.coupling.losses.annotate_attributes`).
        direction, temperature, label_temperature, reduction, min_coverage, only_missing: See
            `taskloom.coupling.losses.Options`.

    Raises:
        ConfigError: A setting out of range.
    """

    weight: float | WeightSchedule = 1.0
    to: To = "classes"
    direction: Direction = "printed"
    temperature: float = 1.0
    label_temperature: float = 1.0
    reduction: Reduction = "sum"
    min_coverage: float = 0.0
    only_missing: bool = False

    def __post_init__(self) -> None:
        _check_settings("co_annotation", self)

    @property
    def name(self) -> str:
        return f"co_annotation_to_{self.to}"

    @property
    def options(self) -> Options:
        return _options(self)


Term = Matching | CoAnnotation


def _options(term: Term) -> Options:
    fields = {field.name for field in dataclasses.fields(Options)}
    return Options(**{name: value for name, value in vars(term).items() if name in fields})


def weight_at(term: Term, epoch: int) -> float:
    """Weight of a term at an epoch, counted from 0."""
    return term.weight.at(epoch) if isinstance(term.weight, WeightSchedule) else float(term.weight)


def as_sequence(terms: Term | Sequence[Term] | None) -> tuple[Term, ...]:
    """Terms from one term, several, or none."""
    if terms is None:
        return ()
    return (terms,) if isinstance(terms, Matching | CoAnnotation) else tuple(terms)


def as_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Names of tasks from one name or several."""
    return (given,) if isinstance(given, str) else tuple(given)


def _check_settings(what: str, term: Term) -> None:
    if not isinstance(term.weight, WeightSchedule):
        WeightSchedule(term.weight)  # it refuses what is no weight
    for setting, possible in (
        ("to", get_args(To)),
        ("conditional", get_args(Conditional)),
        ("direction", get_args(Direction)),
        ("stop_gradient", get_args(Stop)),
        ("reduction", get_args(Reduction)),
    ):
        chosen = getattr(term, setting, possible[0])
        if chosen not in possible:
            raise ConfigError(
                f"coupling.{what}.{setting}: `{chosen}` is none of {', '.join(possible)}."
                f"{did_you_mean(str(chosen), possible)}"
            )
    for setting in ("temperature", "label_temperature"):
        value = getattr(term, setting)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ConfigError(f"coupling.{what}.{setting}: a number above 0 expected, found {value!r}.")
    coverage = getattr(term, "min_coverage", 0.0)
    if isinstance(coverage, bool) or not isinstance(coverage, int | float) or not 0 <= coverage <= 1:
        raise ConfigError(f"coupling.{what}.min_coverage: 0 to 1 expected, found {coverage!r}.")


def terms_from_settings(kind: type[Matching] | type[CoAnnotation], given: Any, what: str) -> list[Any] | None:
    if given is False or given is None:
        return None
    entries = given if isinstance(given, list) else [given]
    terms = []
    for entry in entries:
        if entry is True:
            terms.append(kind())
            continue
        if not isinstance(entry, Mapping):
            raise ConfigError(f"coupling.{what}: settings, true or false expected, found {entry!r}.")
        check_known(entry, [field.name for field in dataclasses.fields(kind)], f"coupling.{what}")
        settings = dict(entry)
        if isinstance(settings.get("weight"), Mapping):
            fields = [field.name for field in dataclasses.fields(WeightSchedule)]
            check_known(settings["weight"], fields, f"coupling.{what}.weight")
            settings["weight"] = WeightSchedule(**settings["weight"])
        terms.append(kind(**settings))
    return terms


def check_known(settings: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"{where}.{key} is not a setting.{did_you_mean(str(key), known)} "
                f"Settings: {', '.join(known)}."
            )
