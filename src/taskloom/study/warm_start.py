"""Warm start in studies: from which trained networks a cell starts.

Beside an architecture in an entry of `cells`:

    warm_start: single_task           the task's own copies start from the trained single-task networks
    warm_start: previous              each cell from the one before it along the one list that multiplies
    warm_start: {previous: units}     the same, along this list, where several multiply

The first cell of a chain starts from the single-task networks (thesis 000, section 5.5). Networks are those
of the same study, repeat and seed, with the weights of their best epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from taskloom.data.batch import DataSplits
from taskloom.errors import ConfigError, TrainingError, did_you_mean
from taskloom.sharing import MultiTaskNetwork
from taskloom.sharing.warm_start import start_from
from taskloom.study.config import digest
from taskloom.study.results import ResultsStore, run_folder
from taskloom.study.yaml_lines import KeyPath, dotted
from taskloom.training.checkpoints import load_checkpoint

if TYPE_CHECKING:
    from taskloom.study.cells import Cell
    from taskloom.study.runs import RunSpec

ALONE, PREVIOUS = "single_task", "previous"

Build = Callable[["RunSpec", DataSplits], MultiTaskNetwork]
Weights = Callable[["RunSpec"], Mapping[str, Tensor]]


@dataclass(frozen=True)
class WarmStart:
    """The `warm_start` of an entry.

    Args:
        along: The setting along which cells form a chain; None: each starts from the single-task networks.
    """

    along: str | None = None


def read_warm_start(value: Any, varied: Sequence[str], path: KeyPath) -> WarmStart | None:
    """Reads the `warm_start` of an entry.

    Args:
        value: What the study file says; None is a fresh start.
        varied: Settings whose lists multiply.
        path: Where it stands.

    Raises:
        ConfigError: Not one of the three forms, or a chain along what does not multiply.

    Example:
        >>> read_warm_start("previous", ["units"], ("cells", 0, "warm_start"))
        WarmStart(along='units')
    """
    if value is None:
        return None
    if value == ALONE:
        return WarmStart()
    if value == PREVIOUS:
        if len(varied) == 1:
            return WarmStart(varied[0])
        if not varied:
            raise ConfigError(
                f"{dotted(path)}: previous needs a setting with a list of values; there is none."
            )
        raise ConfigError(
            f"{dotted(path)}: several settings have lists ({', '.join(varied)}); say along which one cells "
            f"start from the one before, as {{previous: {varied[0]}}}."
        )
    if isinstance(value, Mapping) and set(value) == {PREVIOUS}:
        along = value[PREVIOUS]
        if along in varied:
            return WarmStart(str(along))
        known = f"Settings with one: {', '.join(varied)}." if varied else "There is none."
        hint = did_you_mean(str(along), varied)
        raise ConfigError(
            f"{dotted((*path, PREVIOUS))}: a setting with a list of values expected, found {along!r}.{hint} "
            f"{known}"
        )
    hint = did_you_mean(value, (ALONE, PREVIOUS)) if isinstance(value, str) else ""
    raise ConfigError(
        f"{dotted(path)}: {ALONE}, {PREVIOUS} or {{{PREVIOUS}: a setting}} expected, found {value!r}.{hint}"
    )


def linked(cells: Sequence[Cell], warm: WarmStart | None, alone: Sequence[Cell]) -> list[Cell]:
    """Returns the cells of an entry on one set of tasks, each with the cells whose networks it starts from.

    Args:
        cells: In the order of the file, in which earlier values of a list come first.
        warm: How they start.
        alone: The study's single-task cells.
    """
    if warm is None:
        return list(cells)
    # Of several forms of training alone, the one with the heads of the cells, where there is one.
    of_task = {cell.tasks: cell for cell in sorted(alone, key=lambda cell: cell.head is None)}
    for task in cells[0].tasks if cells else ():
        if (task,) not in of_task:
            raise ConfigError(
                f"warm_start: task {task} is not judged and so not trained alone; set `baseline.auxiliary: "
                "true`, or leave it out of the cell."
            )
    chains: dict[str, Cell] = {}
    found = []
    for cell in cells:
        others = {name: value for name, value in cell.settings.items() if name != warm.along}
        rest = digest(dataclasses.replace(cell, settings=others).resolved())
        start = tuple(of_task[(task,)] for task in cell.tasks)
        if warm.along is not None and rest in chains:
            start = (chains[rest],)
        chains[rest] = dataclasses.replace(cell, warm_start=start)
        found.append(chains[rest])
    return found


def renamed(cells: Sequence[Cell]) -> list[Cell]:
    """Returns the cells, those they start from called as they are now; the order is that of their chains."""
    present: dict[str, Cell] = {}
    for cell in cells:
        starts = tuple(present.get(digest(start.resolved()), start) for start in cell.warm_start)
        present[digest(cell.resolved())] = dataclasses.replace(cell, warm_start=starts)
    return list(present.values())


def started(
    spec: RunSpec, splits: DataSplits, build: Build, weights: Weights | None
) -> tuple[MultiTaskNetwork, dict[str, Any]]:
    """Builds the network of a run and starts it from those that its cell names.

    Args:
        spec: The run.
        splits: Its data.
        build: Builds a network with its fresh start.
        weights: Gives the trained weights of a run; None: only whether they would fit is checked.

    Returns:
        The network, and what the run's record says about its start; nothing for a fresh one.

    Raises:
        ConfigError: What it is to start from has no counterpart to any of its stages.
        TrainingError: What it is to start from was not trained.
    """
    sources = []
    for start in spec.starts:
        source = build(start, splits)
        if weights is not None:
            source.load_state_dict(weights(start))
        sources.append(source)
    network = build(spec, splits)  # last, as its random numbers follow from the seed that building sets
    if not sources:
        return network, {}
    transfer = start_from(network, sources)
    return network, {
        "warm_start": {
            "from": [{"run": start.id, "cell": start.cell.name} for start in spec.starts],
            "copied": list(transfer.copied),
            "fresh": list(transfer.fresh),
        }
    }


def weights_of_run(
    spec: RunSpec, place: str = "warm start", what: str = "the run it starts from"
) -> Mapping[str, Tensor]:
    """Returns the weights of the best epoch of a finished run of a study.

    Args:
        spec: The run.
        place, what: What messages call the setting, and the run.

    Raises:
        TrainingError: The run failed, was not run, or its weights are gone.
    """
    path = spec.out / "results.sqlite"
    status = ""
    if path.is_file():
        with ResultsStore(path, read_only=True) as store:
            status = store.finished([spec.id]).get(spec.id, "")
    if status != "done":
        found = "failed" if status == "failed" else "has not been run"
        raise TrainingError(
            f"{place}: {what} ({spec.label}) {found}; when that is mended, run the study with --retry-failed."
        )
    file = run_folder(spec.out, spec.id) / "best.ckpt"
    if not file.is_file():
        raise TrainingError(
            f"{place}: the weights of {what} ({spec.label}) are no longer there ({file}); "
            "put them back, or run the study with another --out."
        )
    model: Mapping[str, Tensor] = load_checkpoint(file)["model"]
    return model
