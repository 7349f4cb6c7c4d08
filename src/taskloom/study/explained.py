"""The networks and images of `taskloom explain`: of a study folder, or of bundles on a store of faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taskloom.data.batch import TaskDataset
from taskloom.data.image_store import ImageDataset
from taskloom.data.relabelled import Relabelled
from taskloom.deploy import load_bundle
from taskloom.errors import ConfigError, DataError
from taskloom.explain.page import Column, explain_page, has_default_target
from taskloom.sharing import MultiTaskNetwork
from taskloom.study.cells import baselines, expand_cells
from taskloom.study.config import load_study
from taskloom.study.cross_database import NameMap, other_store
from taskloom.study.prepare import prepare_data
from taskloom.study.results import ResultsStore
from taskloom.study.runner import stores_beside
from taskloom.study.runs import RunSpec, plan_runs
from taskloom.study.verdicts import by_cell_and_task, chosen_cells, judged_baseline, judged_only
from taskloom.study.warm_start import weights_of_run
from taskloom.study.worker import DataCache, build_network
from taskloom.tasks import Binary, Multiclass, Task, TaskSet


def explain_study(folder: Path, *, data: Path | None, images: int, stage: str | None = None) -> str:
    """The page of a study: every judged task alone and in the cell that is best on validation.

    Networks are those of the first repeat; images are spread evenly over its test part.

    Args:
        folder: The study's folder.
        data: Where relative files are looked for.
        images: How many images.
        stage: Name of the stage; the last one that gives maps where None.

    Returns:
        HTML.

    Raises:
        DataError: No study there, no finished run, data that are no images or no longer those of its runs.
        ConfigError: No such stage.
    """
    if not (folder / "study.yaml").is_file():
        raise DataError(f"{folder}: the folder of a study expected (study.yaml and results.sqlite).")
    study = load_study(folder / "study.yaml", ())
    with ResultsStore(folder / "results.sqlite", read_only=True) as store:
        records, facts = store.records(), store.facts()
    cache = DataCache()
    prepared = prepare_data(study, data, stores_beside(folder), cache, repeats=1)
    specs = plan_runs(
        study, [*expand_cells(study), *baselines(study)], prepared.requests, prepared.checksums, folder
    )
    done = {record.id for record in records if record.status == "done"}
    specs = [spec for spec in specs if spec.id in done and not spec.companion]
    if not specs:
        raise DataError(
            f"{folder}: no finished run of these data in its first repeat; finish the study, or give the "
            "`--data` that it was run with."
        )
    splits = cache.get(prepared.requests[0])
    test = splits.test
    if not isinstance(test, ImageDataset):
        raise DataError(f"{folder}: a study of images expected; `tl.explain` explains other networks.")
    rows = _spread(len(test), images)
    inputs = test.__getitems__(rows).inputs
    tasks = TaskSet.from_dicts(facts["tasks"])
    chosen = chosen_cells(tasks, facts, judged_only(by_cell_and_task(records), facts))
    networks: dict[str, MultiTaskNetwork] = {}

    def network_of(spec: RunSpec) -> MultiTaskNetwork:
        if spec.id not in networks:
            network = build_network(spec, splits)
            network.load_state_dict(weights_of_run(spec))
            networks[spec.id] = network.eval()
        return networks[spec.id]

    columns = []
    alone = judged_baseline(facts)
    for name, task in tasks.items():
        if not task.judged or not has_default_target(task):
            continue
        for cell, called in ((alone, "alone"), (chosen.get(name, ""), "")):
            for spec in specs:
                if spec.cell_id == cell and name in spec.cell.tasks:
                    columns.append(Column(name, called or spec.cell_name, network_of(spec), inputs))
    return _page(study.name, test, rows, columns, tasks, stage)


def explain_bundles(bundles: Sequence[Path], place: Path, *, images: int, stage: str | None = None) -> str:
    """The page of bundles on the faces of a store; see `explain_study`.

    Args:
        bundles: What `train` wrote.
        place: A store of faces, of the size that the bundles were trained on.
        images: How many images.
        stage: Name of the stage; the last one that gives maps where None.

    Raises:
        DataError, ConfigError: See `taskloom.study.cross_database.other_store`.
    """
    loaded = {path.name.removesuffix(".bundle"): load_bundle(path) for path in bundles}
    if len(loaded) < len(bundles):
        raise ConfigError("explain: bundles of different names expected; rename one of them.")
    columns: list[Column] = []
    first: TaskDataset | None = None
    for name, bundle in loaded.items():
        dataset = other_store(bundle, place, NameMap()).dataset
        first = dataset if first is None else first
        rows = _spread(len(dataset), images)
        inputs = dataset.__getitems__(rows).inputs
        columns += [
            Column(task, name, bundle.model, inputs)
            for task in bundle.tasks
            if has_default_target(bundle.tasks[task])
        ]
    assert first is not None
    order = list(dict.fromkeys(column.task for column in columns))
    columns.sort(key=lambda column: order.index(column.task))
    return _page(place.name, first, _spread(len(first), images), columns, first.tasks, stage)


def _page(
    title: str,
    dataset: TaskDataset,
    rows: Sequence[int],
    columns: Sequence[Column],
    tasks: TaskSet,
    stage: str | None,
) -> str:
    if not columns:
        raise DataError(f"{title}: no task that has a prediction to explain (classes or single numbers).")
    images = dataset.dataset if isinstance(dataset, Relabelled) else dataset
    assert isinstance(images, ImageDataset)
    pictures = [np.asarray(images.store.images[images.rows[row]]) for row in rows]
    shown = list(dict.fromkeys(column.task for column in columns))
    truths = [{name: _truth(tasks[name], dataset, row) for name in shown} for row in rows]
    return explain_page(title, pictures, columns, truths, stage=stage)


def _truth(task: Task, dataset: TaskDataset, row: int) -> str:
    labels: Any = dataset.labels
    if task.name not in labels.values or not bool(labels.present[task.name][row]):
        return ""
    value = labels.values[task.name][row]
    if isinstance(task, Binary | Multiclass):
        return str(task.class_names[int(value)])
    return f"{float(value):.4g}"


def _spread(rows: int, wanted: int) -> list[int]:
    """Positions spread evenly: the first and the last among them."""
    return sorted(set(torch.linspace(0, rows - 1, min(wanted, rows)).round().long().tolist()))
