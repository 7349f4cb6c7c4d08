"""Where the relatedness of a study comes from: labels, tables, other data sets, trained models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

from taskloom.coupling import SHIPPED, Relatedness, choose_relatedness, from_labels, from_predictions
from taskloom.coupling.terms import as_names
from taskloom.data.batch import DataSplits
from taskloom.data.label_columns import encode_labels, resolve_label_columns
from taskloom.data.tables import read_table as read_data_table
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.tasks import Labels, TaskSet
from taskloom.training import evaluate

FROM_LABELS: Literal["from_labels"] = "from_labels"
Kind = Literal["from_labels", "table", "from_data", "from_bundle"]

_ESTIMATE = ("smoothing", "minimum_support", "below_minimum", "empty_classes")
_SETTINGS: dict[str, tuple[str, ...]] = {
    "from_labels": _ESTIMATE,
    "table": ("classes", "attributes", "empty_classes", "select"),
    "from_data": ("columns", "separator", "missing", *_ESTIMATE),
    "from_bundle": _ESTIMATE,
}
_FILES = (".json", ".csv", ".yaml", ".yml")


@dataclass(frozen=True)
class TableRequest:
    """A relatedness as a study file names it.

    Args:
        kind: Where it comes from.
        name: Name of a shipped table, or a file; "" for the training labels.
        settings: Settings of the kind.
        roots: Folders in which a relative file is looked for, in this order.
    """

    kind: Kind
    name: str
    settings: Mapping[str, Any]
    roots: tuple[Path, ...] = (Path(),)

    @classmethod
    def of(cls, given: Any, roots: tuple[Path, ...] = (Path(),)) -> Self:
        """Reads what stands at `coupling.relatedness`; nothing is opened.

        Raises:
            ConfigError: Not a name, a file or the settings of one source; an unknown setting.

        Example:
            >>> TableRequest.of({"from_data": "other.csv"}).name
            'other.csv'
        """
        where = "coupling.relatedness"
        if isinstance(given, str):
            if given != FROM_LABELS and given not in SHIPPED and Path(given).suffix.lower() not in _FILES:
                known = (FROM_LABELS, *SHIPPED)
                raise ConfigError(
                    f"{where}: `{given}` is neither a shipped table nor a file (.json, .csv, .yaml)."
                    f"{did_you_mean(given, known)} Known: {', '.join(known)}."
                )
            return cls(FROM_LABELS, "", {}, roots) if given == FROM_LABELS else cls("table", given, {}, roots)
        kinds = [key for key in given if key in _SETTINGS] if isinstance(given, Mapping) else []
        if len(kinds) != 1:
            raise ConfigError(
                f"{where}: {FROM_LABELS}, a table's name, a file, or one of {', '.join(_SETTINGS)} with its "
                f"settings expected, found {given!r}."
            )
        kind = cast(Kind, kinds[0])
        settings = {key: value for key, value in given.items() if key != kind}
        value, name = given[kind], ""
        if kind == FROM_LABELS:
            settings |= dict(value or {}) if isinstance(value, Mapping | None) else {FROM_LABELS: value}
        else:
            name = str(value)
        for key in settings:
            if key not in _SETTINGS[kind]:
                raise ConfigError(
                    f"{where}.{key} is not a setting.{did_you_mean(str(key), _SETTINGS[kind])} "
                    f"Settings beside {kind}: {', '.join(_SETTINGS[kind])}."
                )
        return cls(kind, name, settings, roots)

    def path(self) -> Path:
        """The file, where it is found.

        Raises:
            DataError: It is in none of the folders.
        """
        for root in self.roots:
            if (root / self.name).exists():
                return root / self.name
        looked = " and ".join(str(root / self.name) for root in self.roots)
        raise DataError(f"coupling.relatedness: there is no {looked}; relative files stand beside the data.")


def source_name(given: Any) -> str:
    """A relatedness in a word or two: "from labels", "expression action units"."""
    request = TableRequest.of(given)
    if request.kind == FROM_LABELS:
        return FROM_LABELS
    stem = Path(request.name).stem
    return stem if request.kind == "table" else f"from {stem}"


def source_files(request: TableRequest) -> list[Path]:
    """The files that a request reads: a bundle may be a folder.

    Raises:
        DataError: There is no such file.
    """
    if request.kind == FROM_LABELS or (request.kind == "table" and request.name in SHIPPED):
        return []
    path = request.path()
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def find_table(
    request: TableRequest,
    labels: Labels,
    tasks: TaskSet,
    splits: DataSplits | None,
    *,
    classes: str | Sequence[str],
    attributes: str | Sequence[str],
) -> Relatedness:
    """Reads or estimates the table.

    Args:
        request: Which one.
        labels: Training labels.
        tasks: Their tasks.
        splits: The data that a trained model's predictions are made on; only their training part is.
        classes, attributes: The two sides, as in `taskloom.coupling.Coupling`.

    Raises:
        ConfigError, DataError: See `TableRequest` and `taskloom.coupling`.
    """
    sides: dict[str, Any] = {"classes": classes, "attributes": attributes}
    estimate = {key: request.settings[key] for key in _ESTIMATE if key in request.settings}
    match request.kind:
        case "from_labels":
            return from_labels(labels, tasks, **sides, **estimate, source="the training labels")
        case "table":
            return _table(request, labels, tasks, sides)
        case "from_data":
            return _from_data(request, tasks, sides, estimate)
        case "from_bundle":
            assert splits is not None
            return _from_bundle(request, tasks, splits, sides, estimate)


def _table(request: TableRequest, labels: Labels, tasks: TaskSet, sides: Mapping[str, Any]) -> Relatedness:
    name = request.name if request.name in SHIPPED else str(request.path())
    table = choose_relatedness(name, labels, tasks, **sides)
    table = dataclasses.replace(table, source=request.name)
    given = request.settings
    table = table.renamed(given.get("classes"), given.get("attributes"))
    extra = [name for name in given.get("empty_classes", ()) if name not in table.classes]
    table = table.with_empty_classes(*extra) if extra else table
    if not given.get("select", False):
        return table
    wanted = {side: _labels_of(tasks, sides[side], side) for side in ("classes", "attributes")}
    return table.select(**wanted)


def _labels_of(tasks: TaskSet, given: str | Sequence[str], side: str) -> list[str]:
    """Names of a side's labels: classes of a task that stands alone, labels, names of binary tasks."""
    found: list[str] = []
    for name in as_names(given):
        task = tasks[name]
        alone = side == "classes" and isinstance(given, str)
        found += [name] if task.kind == "binary" and not alone else task.class_names
    return found


def _from_data(
    request: TableRequest, tasks: TaskSet, sides: Mapping[str, Any], estimate: Mapping[str, Any]
) -> Relatedness:
    given = request.settings
    path = request.path()
    table = read_data_table(path, separator=given.get("separator"), missing=given.get("missing", ()))
    names = dict.fromkeys((*as_names(sides["classes"]), *as_names(sides["attributes"])))
    chosen, columns = resolve_label_columns(table, tasks.subset(list(names)), given.get("columns"))
    labels = encode_labels(table, chosen, columns)
    return from_labels(labels, chosen, **sides, **estimate, source=path.name)


def _from_bundle(
    request: TableRequest,
    tasks: TaskSet,
    splits: DataSplits,
    sides: Mapping[str, Any],
    estimate: Mapping[str, Any],
) -> Relatedness:
    from taskloom.deploy import load_bundle

    path = request.path()
    bundle = load_bundle(path)
    for name in sides_tasks(sides):
        if name not in bundle.tasks:
            raise ConfigError(
                f"coupling.relatedness: {path} does not predict task {name}; "
                f"it predicts {', '.join(bundle.tasks)}."
            )
        if bundle.tasks[name].class_names != tasks[name].class_names:
            raise ConfigError(
                f"coupling.relatedness: {path} has the classes {', '.join(bundle.tasks[name].class_names)} "
                f"of task {name}, the data have {', '.join(tasks[name].class_names)}."
            )
    if json.loads(json.dumps(splits.preprocessing)) != bundle.preprocessing:
        raise DataError(
            f"coupling.relatedness: {path} was trained on data prepared in another way (or fitted on other "
            "training rows); its predictions on these would mean nothing."
        )
    outputs = evaluate(bundle.model, splits.train).outputs
    source = f"predictions of {path.name}"
    return from_predictions(outputs, tasks, **sides, **estimate, source=source)


def sides_tasks(sides: Mapping[str, Any]) -> tuple[str, ...]:
    """Tasks of both sides, each once."""
    return tuple(dict.fromkeys((*as_names(sides["classes"]), *as_names(sides["attributes"]))))
