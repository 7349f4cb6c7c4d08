"""Before any run: every cell is built once and run on two rows, so that mistakes show at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taskloom.balancing import Balancer, GradientAggregation, WeightedSum
from taskloom.balancing.gradients import share_nothing
from taskloom.data.batch import Batch, DataSplits, TaskDataset
from taskloom.errors import ConfigError, DataError
from taskloom.losses import per_task
from taskloom.sharing import MultiTaskNetwork
from taskloom.study.cells import Cell
from taskloom.study.config import Study
from taskloom.study.coupled_runs import Coupled, check_in_study
from taskloom.study.extras import build_callbacks
from taskloom.study.locate import leading_path, located
from taskloom.study.repeated import network_of
from taskloom.study.runs import RunSpec, coupling_path, table_request
from taskloom.study.warm_start import started
from taskloom.study.worker import build_balancer, build_network
from taskloom.study.yaml_lines import Document, KeyPath, dotted
from taskloom.tasks import Binary, Labels, Multiclass, TaskSet
from taskloom.training.augmentation import Augmentation
from taskloom.training.checks import check_changes, check_stopping, check_terms
from taskloom.training.devices import choose_device, make_fabric
from taskloom.training.parts import check_parts
from taskloom.training.teaching import check_teaching


class DryBuild(NamedTuple):
    """What building every cell once showed.

    Args:
        warnings: Sentences, each once.
        networks: Per cell that is no baseline, by its id, what tells its network from others; see
            `taskloom.study.repeated.network_of`.
    """

    warnings: list[str]
    networks: dict[str, dict[str, Any]]


def dry_build(study: Study, cells: Sequence[Cell], specs: Sequence[RunSpec], splits: DataSplits) -> DryBuild:
    """Builds every cell once and runs two rows through it, so that mistakes show before anything is trained.

    Returns:
        Warnings (a relatedness that contradicts the training labels, balancing without anything to balance),
        and what tells the networks apart.

    Raises:
        ConfigError: With file and line: a setting that does not fit encoder, tasks or data.
    """
    found: dict[str, None] = {}
    networks: dict[str, dict[str, Any]] = {}
    first = {spec.cell.id + spec.cell.tasks[0]: spec for spec in reversed(specs)}
    for cell in cells:
        spec = first[cell.id + cell.tasks[0]]
        path: KeyPath = ("encoder",) if cell.entry < 0 else ("cells", cell.entry)
        try:
            network, _ = started(spec, splits, build_network, None)
            check_changes(network, cell.training)
            if cell.entry >= 0:
                networks[cell.id] = network_of(spec, network)
                if len(cell.tasks) == 1:
                    found[_nothing_shared(study.document, cell)] = None
            network.eval()
            rows = _two_rows(splits.train)
            with torch.inference_mode():
                predictions = network(rows.inputs)
        except TypeError as error:  # a setting of a type that it cannot have
            raise ConfigError(f"{study.document.where(path)}: {dotted(path)}: {error}.") from error
        except (ConfigError, DataError) as error:
            raise type(error)(_placed(study.document, path, str(error))) from error
        check_batches(study, spec, splits, network.tasks)
        coupled = check_coupling(study, spec, splits, predictions, rows.labels, network.tasks)
        found |= dict.fromkeys([] if coupled is None else coupled.warnings)
        if cell.balancing is not None:
            terms = coupled.coupling.names if coupled and coupled.coupling.as_tasks else ()
            balancer = build_balancer(spec)
            check_balancing(study, cell, balancer, network, terms)
            if isinstance(balancer, GradientAggregation) and not terms and share_nothing(network):
                idle = (
                    f"{cell.name}: no two tasks read the same parameter, so balancing.{balancer.name} has no "
                    "gradients to aggregate; every task follows its own, as without it."
                )
                found[idle] = None
        try:
            check_losses(cell.name, predictions, rows.labels, network.tasks)
        except ConfigError as error:
            raise ConfigError(f"{study.document.where(('head',))}: {error}") from error
    return DryBuild(list(found), networks)


def _nothing_shared(document: Document, cell: Cell) -> str:
    path: KeyPath = ("cells", cell.entry)
    return (
        f"{document.where(path)}: {dotted(path)} trains {cell.tasks[0]} only: nothing is shared, and its "
        "gain says nothing about sharing; give it two tasks or more."
    )


def check_batches(study: Study, spec: RunSpec, splits: DataSplits, tasks: TaskSet) -> None:
    """Refuses changes of training batches that do not go with the inputs, a coupling or teachers.

    Raises:
        ConfigError: With file and line.
    """
    cell = spec.cell
    own: KeyPath = ("cells", cell.entry, "training")
    path: KeyPath = (
        own if cell.entry >= 0 and study.config.cells[cell.entry].get("training") else ("training",)
    )
    try:
        Augmentation(cell.training.augment, splits.train, seed=0).check_alone(cell.coupling is not None)
        check_teaching(cell.tasks if cell.teachers else (), cell.training.augment, tasks)
        balancer = build_balancer(spec) or WeightedSum()
        check_parts(cell.training, balancer, beside=bool(cell.coupling or cell.teachers))
    except ConfigError as error:
        raise ConfigError(f"{study.document.where(path)}: {error}") from error


def check_coupling(
    study: Study,
    spec: RunSpec,
    splits: DataSplits,
    predictions: Mapping[str, Tensor],
    labels: Labels,
    tasks: TaskSet,
) -> Coupled | None:
    """Builds a cell's coupling and computes its terms once; None where the cell has none.

    Raises:
        ConfigError, DataError: With file and line: a table whose labels are not those of the tasks, too few
            labels to estimate one, labels per sample beside labels per row.
    """
    if spec.cell.coupling is None:
        return None
    path = coupling_path(spec.cell)
    with located(study.document):
        request = table_request(spec.cell, spec.data)
        coupled = check_in_study(spec.cell.coupling, request, splits, tasks, path)
        try:
            if (balancer := build_balancer(spec)) is not None:
                check_terms(coupled.coupling, balancer, tasks, spec.cell.training.epochs)
            coupled.coupling.terms(predictions, labels, tasks)
        except ValueError as error:
            raise ConfigError(f"{dotted(path)}: {str(error).removeprefix('coupling: ')}.") from error
        except ConfigError as error:
            raise ConfigError(f"{dotted(path)}{str(error).removeprefix('coupling')}") from error
    return coupled


def check_balancing(
    study: Study,
    cell: Cell,
    balancer: Balancer | None,
    network: MultiTaskNetwork,
    terms: Sequence[str] = (),
) -> None:
    """Starts a cell's balancer on its network, so that what it cannot do shows before anything is trained.

    Raises:
        ConfigError: With file and line: a task that is not there, too few tasks for the method, no shared
            feature where it works on one, or callbacks that may stop more tasks than it can do without.
    """
    path: KeyPath = ("cells", cell.entry, "balancing")
    if balancer is None:
        return
    try:
        balancer.with_terms(terms)
        balancer.start(network)
        check_stopping(balancer, build_callbacks(cell.callbacks), network.tasks)
    except ConfigError as error:
        message = str(error)
        entry = dotted(path[:2])
        message = message if message.startswith(entry) else f"{entry}: {message}"
        raise ConfigError(study.document.say(path, message)) from error


def _placed(document: Document, path: KeyPath, message: str) -> str:
    """A message about a section with its place: of the setting below the section that it begins with, if any.

    Example:
        >>> where = {("encoder",): 3, ("encoder", "hidden"): 5}
        >>> document = Document("a.yaml", {"encoder": {"name": "mlp", "hidden": "x"}}, where)
        >>> _placed(document, ("encoder",), "hidden must be a list.")
        'a.yaml:5: encoder.hidden must be a list.'
        >>> _placed(document, ("encoder",), "no stage is left.")
        'a.yaml:3: encoder: no stage is left.'
    """
    if message.startswith(dotted(path)):
        return document.say(path, message)
    below = leading_path(f"{dotted(path)}.{message}", document.value)
    if len(below) > len(path):
        return document.say(below, f"{dotted(path)}.{message}")
    return document.say(path, f"{dotted(path)}: {message}")


def _two_rows(dataset: TaskDataset) -> Batch:
    return dataset.__getitems__([0, len(dataset) - 1])


def check_losses(cell: str, predictions: Mapping[str, Tensor], labels: Labels, tasks: TaskSet) -> None:
    """Computes every task's loss once, so that heads and labels that do not fit show before training.

    Args:
        cell: Name of the cell, for the message.
        predictions: What the cell's network returned for some rows.
        labels: Labels of the same rows.
        tasks: The network's tasks.

    Raises:
        ConfigError: Names cell and task, and says what to do.
    """
    for name, output in predictions.items():
        if not isinstance(tasks[name], Binary | Multiclass) or name not in labels.values:
            continue
        labelled, predicted = labels.values[name].ndim == 2, output.ndim == 3
        if labelled and not predicted:
            raise ConfigError(
                f"cell {cell}, task {name}: its labels are per sample of a window, its head gives one output "
                "per window; set `head.per_sample: true`, or another `data.window.label_rule`."
            )
        if predicted and not labelled:
            raise ConfigError(
                f"cell {cell}, task {name}: `head.per_sample` gives an output per sample of a window, its "
                "labels are one per row; leave it out, or set `data.window.label_rule: per_sample`."
            )
    try:
        per_task(predictions, labels, tasks)
    except ValueError as error:
        raise ConfigError(
            f"cell {cell}: {error}; the encoder, `head` or `data.window` must be changed until they fit."
        ) from error


def check_devices(study: Study, cells: Sequence[Cell]) -> None:
    """Refuses a device, a number of devices or a precision that this machine does not have.

    Raises:
        ConfigError: With file and line.
    """
    for cell in {cell.training.model_dump_json(): cell for cell in reversed(cells)}.values():
        training = cell.training
        own = cell.entry >= 0 and "training" in study.config.cells[cell.entry]
        try:
            choose_device(training.device)
            if training.devices > 1 or training.precision != "32":
                make_fabric(training)
        except ConfigError as error:
            path: KeyPath = ("cells", cell.entry, "training") if own else ("training",)
            setting = str(error).removeprefix("training.")
            key = setting.partition(":")[0]
            raise ConfigError(study.document.say((*path, key), f"{dotted(path)}.{setting}")) from error
