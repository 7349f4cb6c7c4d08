"""The `coupling` of a cell: read and multiplied, its table found, checked and built for a run.

    coupling:
      relatedness: from_labels          # or a shipped table, a file, or settings of one of the sources below
      classes: expression               # both sides follow from the tasks where they can mean one thing only
      attributes: [smile, frown]
      weight: [0.1, 1]                  # of both terms; lists multiply, as in an architecture's settings
      matching: {direction: distillation, weight: {weight: 1, ramp_epochs: 5}}
      co_annotation: false
      as_tasks: false                   # true: the terms are balanced as if they were tasks

What `relatedness` may be:

==================================================  =================================================
`from_labels`, `{from_labels: {minimum_support}}`   the training labels of the run's own split
`expression_action_units`                           a table that ships with taskloom
`table.csv` (.json, .yaml)                          a file, looked for where the data are
`{table: ..., empty_classes: [neutral]}`            the same, with `classes` and `attributes` (old: new
                                                    names), and `select: true` for a part of the table
`{from_data: other.csv}`                            the labels of another table
`{from_bundle: model.bundle}`                       a trained model's predictions on the training rows
==================================================  =================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from taskloom.coupling import CoAnnotation, Matching
from taskloom.coupling.terms import as_names, terms_from_settings
from taskloom.errors import ConfigError, did_you_mean
from taskloom.study.relatedness_sources import FROM_LABELS, TableRequest, source_name
from taskloom.study.yaml_lines import KeyPath, dotted

Settings = dict[str, Any]

KNOWN = ("relatedness", "classes", "attributes", "weight", "matching", "co_annotation", "as_tasks", "name")
"""Settings of a coupling."""

_LISTS = ("classes", "attributes", "empty_classes", "columns", "missing")
"""Settings that are lists by nature: they multiply where they hold lists."""

_COUPLED_KINDS = ("binary", "multilabel", "multiclass")


def read_coupling(value: Any, kinds: Mapping[str, str], path: KeyPath) -> list[tuple[Settings | None, str]]:
    """Reads the `coupling` of a cell, lists multiplied.

    Args:
        value: What the study file says; None and false are no coupling, a list is several cells.
        kinds: Kind of every task of the cell.
        path: Where it stands.

    Returns:
        Per combination the settings with both sides named, None for no coupling, and its words in the name.

    Raises:
        ConfigError: An unknown setting, a value out of range, sides that do not follow from the tasks; begins
            with the setting's path.

    Example:
        >>> kinds = {"face": "multiclass", "units": "multilabel"}
        >>> found = read_coupling({"relatedness": "from_labels", "weight": [0.1, 1]}, kinds, ("coupling",))
        >>> [words for _, words in found]
        ['coupling from labels weight 0.1', 'coupling from labels weight 1']
    """
    if value is None:
        return [(None, "")]
    chosen = list(_choices(value, ""))
    leaves = [dict(_leaves(one)) if isinstance(one, Mapping) else {} for one in chosen]
    varied = {
        key: None
        for one in leaves
        for key in one
        if any(other.get(key) != one[key] for other, given in zip(leaves, chosen, strict=True) if given)
    }
    found: list[tuple[Settings | None, str]] = []
    for one, leaf in zip(chosen, leaves, strict=True):
        if one is False or one is None:
            found.append((None, ""))
            continue
        try:
            settings = _resolved(one, kinds)
        except ConfigError as error:
            raise ConfigError(f"{dotted(path)}{str(error).removeprefix('coupling')}") from error
        words = [f"coupling {_human(source_name(settings['relatedness']))}"]
        words += [
            _words(key, leaf[key]) for key in varied if key in leaf and not key.startswith("relatedness")
        ]
        found.append((settings, " ".join(words)))
    return found


def _resolved(given: Any, kinds: Mapping[str, str]) -> Settings:
    """The settings with sides and terms written out; raises ConfigError that begins with `coupling`."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"coupling: settings by name or false expected, found {given!r}.")
    for key in given:
        if key not in KNOWN:
            raise ConfigError(
                f"coupling.{key} is not a setting.{did_you_mean(str(key), KNOWN)} "
                f"Settings: {', '.join(KNOWN)}."
            )
    if "relatedness" not in given:
        raise ConfigError(
            f"coupling.relatedness is missing; {FROM_LABELS}, a table's name or a file is expected."
        )
    TableRequest.of(given["relatedness"])
    settings = {"relatedness": given["relatedness"], **_sides(given, kinds)}
    between_attributes = not isinstance(settings["classes"], str)
    weight = given.get("weight")
    for what, kind in (("matching", Matching), ("co_annotation", CoAnnotation)):
        terms = [_term(term, weight) for term in _listed(given.get(what, True))]
        if what == "co_annotation" and between_attributes:
            terms = [{"to": "attributes", **term} for term in terms]
        terms_from_settings(kind, terms, what)
        settings[what] = terms or False
    if not settings["matching"] and not settings["co_annotation"]:
        raise ConfigError("coupling: matching or co_annotation expected, found both turned off.")
    as_tasks = given.get("as_tasks", False)
    if not isinstance(as_tasks, bool):
        raise ConfigError(f"coupling.as_tasks: true or false expected, found {as_tasks!r}.")
    # Left out at their defaults, as every setting that came later will be: identities stay what they were.
    settings |= {"as_tasks": True} if as_tasks else {}
    return settings | ({"name": given["name"]} if "name" in given else {})


def _listed(value: Any) -> list[Any]:
    """Terms as a list: true is one by default, false none."""
    if value is False or value is None:
        return []
    return [entry for entry in (value if isinstance(value, list) else [value]) if entry is not False]


def _term(given: Any, weight: Any) -> Any:
    settings = {} if given is True else given
    if not isinstance(settings, Mapping):
        return settings  # `terms_from_settings` says what is wrong
    return {**({} if weight is None else {"weight": weight}), **settings}


def _sides(given: Mapping[str, Any], kinds: Mapping[str, str]) -> Settings:
    """Both sides: as given, or as they follow from the kinds of the tasks."""
    for side in ("classes", "attributes"):
        for name in as_names(given[side]) if side in given else ():
            if name not in kinds:
                raise ConfigError(
                    f"coupling.{side}: there is no task `{name}` in this cell."
                    f"{did_you_mean(str(name), list(kinds))} Tasks: {', '.join(kinds)}."
                )
            if kinds[name] not in _COUPLED_KINDS:
                raise ConfigError(
                    f"coupling.{side}: task {name} is a {kinds[name]}; only {', '.join(_COUPLED_KINDS)} "
                    "tasks can be coupled, for a table relates labels, not numbers."
                )
    if "classes" in given and "attributes" in given:
        return {"classes": _plain(given["classes"]), "attributes": _plain(given["attributes"])}
    coupled = [name for name, kind in kinds.items() if kind in _COUPLED_KINDS]
    exclusive = [name for name in coupled if kinds[name] == "multiclass"]
    others = [name for name in coupled if kinds[name] != "multiclass"]
    if "attributes" in given and len(exclusive) == 1:
        return {"classes": exclusive[0], "attributes": _plain(given["attributes"])}
    if "classes" in given:
        taken = as_names(given["classes"])
        rest = others if taken == tuple(others) else [name for name in others if name not in taken]
        if rest and not any(name in exclusive and name not in taken for name in coupled):
            return {"classes": _plain(given["classes"]), "attributes": rest}
    elif "attributes" not in given:
        if len(exclusive) == 1 and others:
            return {"classes": exclusive[0], "attributes": others}
        if len(exclusive) == 2 and not others:
            return {"classes": exclusive[0], "attributes": exclusive[1]}
        enough = len(others) > 1 or (len(others) == 1 and kinds[others[0]] == "multilabel")
        if not exclusive and enough:
            return {"classes": others, "attributes": others}
    described = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    raise ConfigError(
        f"coupling: which tasks are coupled does not follow from the cell's ({described}); name them in "
        "`classes` and `attributes`."
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else list(value)


# -- lists multiply


def _choices(value: Any, key: str) -> Iterator[Any]:
    """Every combination of the listed values below a setting."""
    if isinstance(value, Mapping):
        options = [list(_choices(item, str(name))) for name, item in value.items()]
        for combination in itertools.product(*options):
            yield dict(zip(value, combination, strict=True))
    elif not isinstance(value, list):
        yield value
    elif key in _LISTS:
        yield from value if any(isinstance(item, list) for item in value) else [value]
    else:
        for item in value:
            # A list in a list is one value: two terms of one kind.
            yield from [item] if isinstance(item, list) else _choices(item, key)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        terms = item if isinstance(item, list) and all(isinstance(one, Mapping) for one in item) else [item]
        for one in terms:
            if isinstance(one, Mapping):
                yield from _leaves(one, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", one


def _words(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return _human(key) if value else f"no {_human(key)}"
    return f"{_human(key)} {_human(value)}"


def _human(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(_human(item) for item in value)
    return str(value).replace("co_annotation", "co-annotation").replace("_", " ").replace(".", " ")


def describe_coupling(settings: Settings) -> str:
    """All settings in words, to tell cells of one name apart."""
    rest = {key: value for key, value in settings.items() if key != "relatedness"}
    words = [_words(key, value) for key, value in _leaves(rest)]
    return " ".join([f"coupling {_human(source_name(settings['relatedness']))}", *words])
