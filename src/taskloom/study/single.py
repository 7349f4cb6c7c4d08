"""One cell of a study trained once, for use rather than for the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from taskloom.data.batch import DataSplits, TaskDataset
from taskloom.errors import ConfigError, did_you_mean
from taskloom.sharing import MultiTaskNetwork
from taskloom.study.cells import baselines, expand_cells
from taskloom.study.config import Study
from taskloom.study.dry_build import check_devices, dry_build
from taskloom.study.extras import build_callbacks
from taskloom.study.locate import located
from taskloom.study.prepare import prepare_data
from taskloom.study.runs import RunSpec, data_request, plan_runs
from taskloom.study.teachers import taught
from taskloom.study.views import labelled_rows
from taskloom.study.warm_start import started
from taskloom.study.worker import DataCache, build_balancer, build_coupled, build_network
from taskloom.training import Evaluation, History, TrainingConfig, evaluate, fit


@dataclass(frozen=True)
class Trained:
    """A trained cell.

    Args:
        spec: What was trained.
        network: With the weights of its best epoch.
        splits: The data it was trained on.
        history: The record of its training.
        test: What it does on the test part.
    """

    spec: RunSpec
    network: MultiTaskNetwork
    splits: DataSplits
    history: History
    test: Evaluation


def train_cell(
    study: Study,
    name: str,
    *,
    data: Path | None,
    stores: Path,
    folder: Path | None = None,
    progress: bool | None = None,
) -> Trained:
    """Trains one cell once, with the seed and on the split of the first repeat.

    A cell with a warm start comes after the networks that it starts from, which are trained for it.

    Args:
        study: The study.
        name: Name of a cell, or of a single-task baseline ("age alone").
        data: Where relative files are looked for.
        stores: Folder of prepared stores.
        folder: Where checkpoints go, so that it can be stopped and continued; None writes none.
        progress: Whether a bar is shown; where None, if standard error is a terminal.

    Raises:
        ConfigError: There is no such cell; all names are listed.
        DataError, TrainingError: As in a study.
    """
    cells = [*expand_cells(study), *baselines(study)]
    names = [cell.name for cell in cells]
    if name not in names:
        found = f"`{name}` is not a cell of this study.{did_you_mean(name, names)} " if name else ""
        raise ConfigError(f"--cell: {found or 'the name of a cell expected. '}Cells: {', '.join(names)}.")
    cell = cells[names.index(name)]
    check_devices(study, [cell])
    cache = DataCache()
    prepared = prepare_data(study, data, stores, cache, repeats=1)
    spec = plan_runs(study, [cell], prepared.requests, prepared.checksums, stores)[0]
    splits = cache.get(spec.data)
    dry_build(study, [cell], [spec], splits)
    network, history = _train(spec, splits, folder, progress, {})
    batch = TrainingConfig().evaluation_batch
    return Trained(spec, network, splits, history, evaluate(network, splits.test, batch=batch))


def _train(
    spec: RunSpec,
    splits: DataSplits,
    folder: Path | None,
    progress: bool | None,
    trained: dict[str, MultiTaskNetwork],
) -> tuple[MultiTaskNetwork, History]:
    """Trains a run; before it, those that it starts from or learns from, each once."""
    for start in (*spec.starts, *spec.teachers):
        if start.id not in trained:
            own = None if folder is None else folder / "starts" / start.id[:16]
            trained[start.id], _ = _train(start, splits, own, progress, trained)
    network, _ = started(spec, splits, build_network, lambda start: trained[start.id].state_dict())
    coupled = build_coupled(spec, splits, network)
    rows = labelled_rows(splits.train, spec.cell.tasks)
    soft = taught(spec, splits, rows, build_network, lambda teacher: trained[teacher.id].state_dict())
    history = fit(
        network,
        rows,
        splits.validation,
        spec.cell.training,
        seed=spec.seed,
        folder=folder,
        balancer=build_balancer(spec),
        callbacks=build_callbacks(spec.cell.callbacks),
        coupling=None if coupled is None else coupled.coupling,
        soft_labels=soft,
        progress=progress,
    )
    return network, history


def part_of(splits: DataSplits, name: str) -> TaskDataset:
    """Returns a part of the data by name.

    Raises:
        ConfigError: There is no such part.
    """
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if name not in parts:
        raise ConfigError(f"--part: one of {', '.join(parts)} expected, found `{name}`.")
    return parts[name]


def load_data(study: Study, data: Path | None, stores: Path) -> DataSplits:
    """Returns the data of a study's first repeat, preparing their store where it is not there.

    Raises:
        ConfigError, DataError: With file and line where the mistake is in the study file.
    """
    with located(study.document):
        return data_request(study, 0, data, stores).load()
