"""Cells as a grid: how many stages are shared or have units, from which end, on which tasks (thesis 000)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskloom.study.choices import human
from taskloom.study.relatedness_sources import source_name

if TYPE_CHECKING:
    from taskloom.study.cells import Cell

DEPTHS = {"hard_sharing": "stages", "cross_stitch": "units"}
"""Per architecture, the setting that says how many stages, counted from the end that `from` names."""
_END = "from"
_COUPLING = "coupling."


def configuration_rows(
    cells: Sequence[Cell], repeated: Sequence[tuple[Cell, Cell]] = ()
) -> list[dict[str, Any]]:
    """One row per cell that stands in such a grid, for `taskloom.report.model.Configuration`.

    Cells of a family differ in nothing but the number of stages, the end, the tasks, and where they start.
    Where an architecture has several families, their names say in what these differ.

    Args:
        cells: The cells of a study.
        repeated: Cells that are not trained, each with the one of `cells` that is the same network: their
            place in the grid is filled by that one (all stages shared from the input, and from the output).
    """
    same = {cell.id: of.id for cell, of in repeated if _only_place_differs(cell, of)}
    everything = [*cells, *(cell for cell, _ in repeated if cell.id in same)]
    grid = [cell for cell in everything if _depth(cell) is not None]
    others = {cell.id: _other_settings(cell) for cell in grid}
    return [
        {
            "cell": same.get(cell.id, cell.id),
            "family": _family(cell, grid, others),
            "depth": _depth(cell),
            "end": _end(cell),
        }
        for cell in grid
    ]


def _depth(cell: Cell) -> int | None:
    value = cell.settings.get(DEPTHS.get(cell.architecture, ""))
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _end(cell: Cell) -> str:
    return str(cell.settings.get(_END, "input"))


def _only_place_differs(cell: Cell, other: Cell) -> bool:
    """Whether two cells stand at different places of one family's grid."""
    if cell.architecture != other.architecture or _depth(cell) is None or _depth(other) is None:
        return False
    places = {(_depth(each), _end(each)) for each in (cell, other)}
    return len(places) == 2 and _other_settings(cell) == _other_settings(other)


def _other_settings(cell: Cell) -> dict[str, str]:
    """All that decides a result besides the place in the grid: words by dotted name."""
    plain = {key: value for key, value in cell.resolved().items() if key not in ("tasks", "warm_start")}
    depth = DEPTHS[cell.architecture]
    settings = {key: value for key, value in cell.settings.items() if key not in (depth, _END)}
    callbacks = {name: given for named in cell.callbacks for name, given in named.items()}
    return dict(_flat({**plain, "settings": settings, "callbacks": callbacks}))


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        found = [
            item
            for key, inner in value.items()
            for item in _flat(inner, f"{name}.{key}" if name else str(key))
        ]
        # A method without settings is told by its name; a group of settings without any is nothing.
        return found or ([(name, "")] if "." in name else [])
    return [] if value is None and "." not in name else [(name, human(value))]


def _family(cell: Cell, grid: Sequence[Cell], others: Mapping[str, Mapping[str, str]]) -> str:
    """ "cross-stitch", or "cross-stitch, per channel" where there are others per layer."""
    alike = [others[each.id] for each in grid if each.architecture == cell.architecture]
    own = others[cell.id]
    told = [
        f"{human(key.partition('.')[2].replace('.', ' '))} {value}".strip()
        for key, value in own.items()
        if not key.startswith(_COUPLING) and any(each.get(key) != value for each in alike)
    ]
    name = {"cross_stitch": "cross-stitch"}.get(cell.architecture, cell.architecture.replace("_", " "))
    return ", ".join([name, *told, *_coupling_words(cell, own, alike)])


def _coupling_words(cell: Cell, own: Mapping[str, str], alike: Sequence[Mapping[str, str]]) -> list[str]:
    """That a cell is coupled, where others are not, and in what its coupling differs from other couplings."""
    coupled = [each for each in alike if any(key.startswith(_COUPLING) for key in each)]
    settings = {key: value for key, value in own.items() if key.startswith(_COUPLING)}
    told = [
        human(
            key.removeprefix(_COUPLING).replace("co_annotation", "co-annotation").replace(".", " ")
            + f" {value}"
        )
        for key, value in settings.items()
        if key != f"{_COUPLING}relatedness" and any(each.get(key) != value for each in coupled)
    ]
    if cell.coupling is None or not (told or len(coupled) < len(alike)):
        return []
    return [f"coupling {human(source_name(cell.coupling['relatedness']))}", *told]
