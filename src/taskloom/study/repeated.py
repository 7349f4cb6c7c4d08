"""Cells that are one network in other words: noticed before anything is trained, trained and counted once.

An entry written twice is refused when the study file is read (`taskloom.study.cells`). Other repetitions
show only on the networks themselves: `hard_sharing: {stages: 5, from: [input, output]}` on an encoder of five
stages, `groups` that hold all tasks, a default written out, `weighted_sum` without weights. Trained twice,
such a cell would cost its time twice, and count twice among those that Holm's correction is over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from taskloom.balancing import BALANCERS
from taskloom.sharing import ARCHITECTURES, MultiTaskNetwork, Plan, PlanNetwork
from taskloom.sharing.architectures import OF_EVERY_PLAN
from taskloom.sharing.executor import compile_plan
from taskloom.study.cells import Cell
from taskloom.study.identity import deciding_settings
from taskloom.study.runs import RunSpec
from taskloom.study.written_out import PLAIN_SUM, all_settings, of_name, with_defaults
from taskloom.study.yaml_lines import Document, KeyPath, dotted
from taskloom.training import CALLBACKS
from taskloom.wording import counted


class Repeated(NamedTuple):
    """A cell that is not trained, and the one before it that is the same network."""

    cell: Cell
    of: Cell


def network_of(spec: RunSpec, network: MultiTaskNetwork) -> dict[str, Any]:
    """Everything of a cell that decides a result, in one wording: equal where two cells are the same.

    Args:
        spec: A run of the cell.
        network: Its network, built.
    """
    cell = spec.cell
    resolved = cell.resolved()
    return {
        "network": _of_plan(cell, network) if isinstance(network, PlanNetwork) else _of_module(cell),
        "tasks": cell.tasks,
        "encoder": spec.encoder,
        "head": spec.head,
        "training": deciding_settings(cell.training),
        "balancing": of_name(BALANCERS, cell.balancing or PLAIN_SUM),
        "callbacks": [of_name(CALLBACKS, named) for named in cell.callbacks],
        **{key: resolved.get(key) for key in ("warm_start", "teachers", "coupling")},
    }


def find_repeated(cells: Sequence[Cell], networks: Mapping[str, Mapping[str, Any]]) -> list[Repeated]:
    """Cells that are the same network as one before them; those that others start from are left alone.

    Args:
        cells: The cells of a study, in its order.
        networks: What `network_of` gave, by cell id.
    """
    needed = {start.id for cell in cells for start in cell.warm_start}
    kept: list[Cell] = []
    found = []
    for cell in cells:
        same = next((other for other in kept if networks[other.id] == networks[cell.id]), None)
        if same is None or cell.id in needed:
            kept.append(cell)
        else:
            found.append(Repeated(cell, same))
    return found


def say_repeated(repeated: Sequence[Repeated], document: Document) -> list[str]:
    """One sentence per two entries of the study file that give the same networks, with file and line.

    Args:
        repeated: What `find_repeated` found.
        document: The study file.
    """
    by_entries: dict[tuple[int, int], list[Repeated]] = {}
    for pair in repeated:
        by_entries.setdefault((pair.cell.entry, pair.of.entry), []).append(pair)
    return [_sentence(pairs, document) for pairs in by_entries.values()]


def _sentence(pairs: Sequence[Repeated], document: Document) -> str:
    cell, of = pairs[0]
    place: KeyPath = ("cells", cell.entry)
    there = "of the same entry"
    if of.entry != cell.entry:
        other: KeyPath = ("cells", of.entry)
        there = f"of {dotted(other)} ({document.where(other)})"
    more = f" ({counted(len(pairs) - 1, 'more pair')} likewise)" if len(pairs) > 1 else ""
    return (
        f"{document.where(place)}: {dotted(place)}: `{cell.name}` is the same network as `{of.name}` {there}"
        f"{more}; it is trained once, under the name that stands first, and counts as one cell."
    )


def _of_plan(cell: Cell, network: PlanNetwork) -> Any:
    """What a plan comes to, whoever wrote it: its stages, how they run, and what every plan has."""
    plan = _in_order(network.plan)
    own = with_defaults(ARCHITECTURES[cell.architecture].__call__, cell.settings)
    # `joined` matters where tensors meet, and shows in the calls; read-outs stand in the plan.
    stages = tuple(dataclasses.replace(stage, joined=None) for stage in plan.stages)
    rest = {name: own[name] for name in OF_EVERY_PLAN if name in own and name != "read_out"}
    return dataclasses.replace(plan, stages=stages), compile_plan(plan), rest


def _in_order(plan: Plan) -> Plan:
    """The plan with its groups in the order of the tasks; a tie may not be symmetrical in its copies."""
    place = plan.tasks.index
    stages = []
    for stage in plan.stages:
        if stage.tie is None and stage.mixing is None:
            groups = [tuple(sorted(group, key=place)) for group in stage.partition]
            stage = dataclasses.replace(stage, partition=tuple(sorted(groups, key=lambda g: place(g[0]))))
        stages.append(stage)
    return dataclasses.replace(plan, stages=tuple(stages))


def _of_module(cell: Cell) -> Any:
    """Another architecture: its settings by the names of study files, defaults written out."""
    return cell.architecture, all_settings(cell.architecture, cell.settings)
