"""Prior knowledge that ships with taskloom, and tables of the user's own from CSV or YAML."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from taskloom.coupling.relatedness import Between, Kind, Relatedness
from taskloom.errors import DataError
from taskloom.registry import Registry

_COGNITIVE_STUDY: dict[str, dict[int, float]] = {
    "happiness": {12: 1, 25: 1, 6: 0.51},
    "sadness": {4: 1, 15: 1, 1: 0.6, 6: 0.5, 11: 0.26, 17: 0.67},
    "fear": {1: 1, 4: 1, 20: 1, 25: 1, 2: 0.57, 5: 0.63, 26: 0.33},
    "anger": {4: 1, 7: 1, 24: 1, 10: 0.26, 17: 0.52, 23: 0.29},
    "surprise": {1: 1, 2: 1, 25: 1, 26: 1, 5: 0.66},
    "disgust": {9: 1, 10: 1, 17: 1, 4: 0.31, 24: 0.26},
}
_AFF_WILD2: dict[str, dict[int, float]] = {
    "happiness": {12: 0.82, 25: 0.7, 6: 0.57, 7: 0.83, 10: 0.63},
    "sadness": {4: 0.53, 15: 0.42, 1: 0.31, 7: 0.13},
    "fear": {1: 0.52, 4: 0.4, 25: 0.85, 7: 0.57, 10: 0.57},
    "anger": {4: 0.65, 7: 0.45, 25: 0.4, 10: 0.33},
    "surprise": {1: 0.38, 2: 0.37, 25: 0.85, 26: 0.3, 5: 0.5, 7: 0.2},
    "disgust": {10: 0.85, 4: 0.6, 7: 0.75, 25: 0.8},
}

SHIPPED: Registry[Relatedness] = Registry("shipped relatedness table")
"""The tables by name."""


def _action_units(source: str, rows: Mapping[str, Mapping[int, float]]) -> Relatedness:
    units = sorted({unit for row in rows.values() for unit in row})
    values = np.array([[row.get(unit, 0.0) for unit in units] for row in rows.values()])
    return Relatedness(tuple(rows), tuple(f"AU{unit}" for unit in units), values, source=source)


SHIPPED.register("expression_action_units")(_action_units("expression_action_units", _COGNITIVE_STUDY))
SHIPPED.register("expression_action_units_aff_wild2")(
    _action_units("expression_action_units_aff_wild2", _AFF_WILD2)
)


def expression_action_units(*, neutral: bool = False) -> Relatedness:
    """Six expressions and 17 action units by Du, Tao and Martinez 2014 (paper 003, table 1, left).

    Weight 1 is a prototypical action unit, a weight below 1 the share of annotators who saw it. The paper
    speaks of seven expressions, its table has six: the seventh, neutral, has no action unit, and equation 4
    is 0 / 0 for it. What is done with such a class stands at `taskloom.coupling.losses.indicator`.

    Args:
        neutral: Whether a seventh class `neutral` without an action unit is added.

    Example:
        >>> table = expression_action_units()
        >>> table["happiness", "AU12"], table["happiness", "AU6"], len(table.attributes)
        (1.0, 0.51, 17)
    """
    table = SHIPPED["expression_action_units"]
    return table.with_empty_classes("neutral") if neutral else table


def expression_action_units_aff_wild2(*, neutral: bool = False) -> Relatedness:
    """The same from the training labels of Aff-Wild2 (paper 003, table 1, right): shares of images.

    The paper prints only the action units that are listed for an expression, and no counts, so the others
    are 0 and there are no intervals.

    Args:
        neutral: Whether a seventh class `neutral` without an action unit is added.
    """
    table = SHIPPED["expression_action_units_aff_wild2"]
    return table.with_empty_classes("neutral") if neutral else table


def read_table(path: Path | str) -> Relatedness:
    """Reads a relatedness from a file: `.json` (written by `Relatedness.save`), `.csv`, `.yaml` or `.yml`.

    CSV: the header is any word and then the attributes; each line a class and its entries; blank is 0, `?` is
    unknown. The entries are weights; a class whose cells are all blank or 0 is refused.
    YAML: `classes: {happiness: {AU12: 1, AU6: 0.51}, neutral: {}}`, optionally `kind` (weights, the default,
    or frequencies), `between`, `attributes` (their order, and those no class has) and `empty_classes`.

    Raises:
        DataError: No such file, an unknown ending, a cell that is no number (names line and column), a name
            twice, or a table that `Relatedness` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such relatedness file.")
    match path.suffix.lower():
        case ".json":
            return Relatedness.load(path)
        case ".csv":
            return _read_csv(path)
        case ".yaml" | ".yml":
            return _read_yaml(path)
        case other:
            raise DataError(f"{path}: a relatedness is .json, .csv, .yaml or .yml, found `{other}`.")


def _read_csv(path: Path) -> Relatedness:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [(number, cells) for number, cells in enumerate(csv.reader(file), start=1) if any(cells)]
    if len(lines) < 2 or len(lines[0][1]) < 2:
        raise DataError(f"{path}: a header with attributes and a line per class expected, found less.")
    attributes = [name.strip() for name in lines[0][1][1:]]
    classes, values = [], []
    for number, cells in lines[1:]:
        if len(cells) != len(attributes) + 1:
            raise DataError(
                f"{path}:{number}: {len(attributes) + 1} cells as in the header expected, found {len(cells)}."
            )
        classes.append(cells[0].strip())
        values.append(
            [
                _entry(cell, f"{path}:{number}: column {attribute}")
                for cell, attribute in zip(cells[1:], attributes, strict=True)
            ]
        )
    return Relatedness(tuple(classes), tuple(attributes), np.array(values), source=str(path))


def _read_yaml(path: Path) -> Relatedness:
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: YAML expected: {' '.join(str(error).split())}.") from error
    rows = fields.get("classes") if isinstance(fields, dict) else None
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise DataError(f"{path}: `classes: {{class: {{attribute: weight}}}}` expected, found {rows!r:.80}.")
    known = {"classes", "attributes", "kind", "between", "empty_classes", "source"}
    for key in fields:
        if key not in known:
            raise DataError(f"{path}: `{key}` is no setting of a relatedness: {', '.join(sorted(known))}.")
    named = [str(a) for a in fields.get("attributes", ())]
    attributes = list(dict.fromkeys([*named, *(str(a) for row in rows.values() for a in row)]))
    if named and len(attributes) > len(named):
        raise DataError(
            f"{path}: attribute `{attributes[len(named)]}` of a class is not in `attributes`: "
            f"{', '.join(named)}."
        )
    values = np.zeros((len(rows), len(attributes)))
    for index, (name, row) in enumerate(rows.items()):
        for attribute, value in row.items():
            values[index, attributes.index(str(attribute))] = _entry(
                value, f"{path}: class {name}, attribute {attribute}"
            )
    kind: Kind = fields.get("kind", "weights")
    between: Between = fields.get("between", "class_attribute")
    return Relatedness(
        tuple(str(name) for name in rows),
        tuple(attributes),
        values,
        kind,
        between,
        str(fields.get("source", path)),
        tuple(fields.get("empty_classes", ())),
    )


def _entry(cell: Any, where: str) -> float:
    text = str(cell).strip() if not isinstance(cell, bool) else "a truth value"
    if text in ("", "?"):
        return 0.0 if text == "" else float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{where}: a number, a blank (0) or ? (unknown) expected, found `{text}`.") from error


class _UniqueKeys(yaml.SafeLoader):
    """A loader that refuses a key that stands twice; YAML itself would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key}` stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
