"""A bundle: one folder that holds a trained network and everything that is needed to use it elsewhere.

`NAME.bundle/bundle.json` holds the resolved settings from which the network is built again, the tasks with
their units and scales, what was fitted to the training data (normalisation), versions, and whatever else the
caller wants to be known; `weights.safetensors` holds the weights. Nothing in a bundle is code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from taskloom import encoders, sharing
from taskloom.deploy.dropping import drop_tasks, not_for_use, unread
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.sharing import MultiTaskNetwork
from taskloom.sharing.changing import SelfChanging
from taskloom.tasks import TaskSet
from taskloom.training.checkpoints import write_atomically
from taskloom.training.reproducibility import environment

FORMAT = "taskloom bundle"
VERSION = 1
_SETTINGS, _WEIGHTS = "bundle.json", "weights.safetensors"
_DECIDES = ("settings", "tasks", "preprocessing")
"""Parts that predictions depend on. What else is said may be edited."""
_KINDS: Mapping[type, str] = {dict: "an object", list: "a list", int: "a whole number", str: "text"}
_PARTS: Mapping[tuple[str, ...], type] = {
    ("settings",): dict,
    ("settings", "input_shape"): list,
    ("settings", "encoder"): dict,
    ("settings", "sharing"): dict,
    ("tasks",): list,
    ("preprocessing",): dict,
    ("about",): dict,
    ("versions",): dict,
    ("weights",): dict,
    ("weights", "bytes"): int,
    ("weights", "sha256"): str,
}


@dataclass(frozen=True)
class Bundle:
    """A trained network, ready to predict.

    Args:
        model: The network, in evaluation mode, on the CPU.
        tasks: Its tasks; `Task.decode` turns outputs into predictions in the task's unit.
        preprocessing: What was fitted on training data and must be applied to inputs; see
            `DataSplits.preprocessing`.
        about: What the one who saved it wanted to be known: data with checksums, scores, notes.
        settings: What the network was built from: `input_shape`, `encoder`, `sharing`, `head`; and `without`
            where something was left out: all tasks that were trained, and modules that hold no weights.
        versions: Versions of taskloom, PyTorch and others that saved it.
    """

    model: MultiTaskNetwork
    tasks: TaskSet
    preprocessing: dict[str, Any]
    about: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]

    def predict(self, inputs: Tensor) -> dict[str, Tensor]:
        """Predicts every task from one pass, in its unit or as probabilities; see `Task.decode`.

        Args:
            inputs: Inputs [N, *input_shape], prepared as `preprocessing` says; `taskloom predict` and
                `taskloom.predict` prepare raw ones themselves.

        Raises:
            DataError: Inputs of another shape, or no tensor.
        """
        shape = self.settings.get("input_shape")
        found = list(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        if not isinstance(inputs, Tensor) or (shape is not None and found[1:] != list(shape)):
            expected = "".join(f", {size}" for size in shape or ())
            raise DataError(f"inputs: a tensor of shape [N{expected}] expected, found {found}.")
        with torch.inference_mode():
            outputs = self.model(inputs)
        return {name: task.decode(outputs[name]) for name, task in self.tasks.items()}


def save_bundle(
    path: Path | str,
    model: MultiTaskNetwork,
    *,
    input_shape: Sequence[int],
    encoder: Mapping[str, Any],
    sharing: Mapping[str, Any],
    head: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    keep_auxiliary: bool = False,
) -> Path:
    """Writes a bundle, whole or not at all; one that stands at `path` already is replaced.

    Auxiliary and adversarial tasks are left out, with the heads and stage copies that only they use, as are
    heads of deep supervision: predictions of the other tasks stay what they are.

    The network is built again from the settings before anything is written, so that a bundle that exists can
    be loaded.

    Args:
        path: Where; `.bundle` is added unless the name ends with it.
        model: The network.
        input_shape: Shape of one row's input, without the batch axis.
        encoder: `name` and the encoder's own settings, as in a study file.
        sharing: `name` and the architecture's own settings.
        head: Settings of the heads, or `{task: settings}`; linear read-outs where None.
        preprocessing: Plain values that must travel with the network.
        about: Plain values for people: data and their checksums, scores.
        keep_auxiliary: Whether the whole network goes in, as it was trained.

    Returns:
        The bundle's folder.

    Raises:
        ConfigError: An encoder or architecture without a registered name, settings that do not build this
            network, values that JSON cannot hold, or a folder at `path` that is not a bundle.
        DataError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> tasks = tl.TaskSet(tl.Binary("gender"))
        >>> how = dict(encoder={"name": "mlp", "hidden": [8]}, sharing={"name": "single_task"})
        >>> model = tl.sharing.build("single_task", tl.encoders.mlp((5,), hidden=[8]), tasks)
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = save_bundle(f"{folder.name}/faces", model, input_shape=(5,), **how)
        >>> path.name, load_bundle(path).predict(torch.zeros(2, 5))["gender"].shape
        ('faces.bundle', torch.Size([2]))
        >>> folder.cleanup()
    """
    path = Path(path)
    path = path if path.suffix == ".bundle" else path.with_name(path.name + ".bundle")
    settings = {
        "input_shape": list(input_shape),
        "encoder": dict(encoder),
        "sharing": dict(sharing),
        "head": dict(head) if head is not None else None,
    }
    weights = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()
    }
    _check_rebuilds(settings, model.tasks, weights)
    tasks = model.tasks
    if not keep_auxiliary:
        settings, tasks, weights = _for_use(settings, model, weights)
    content = safetensors.torch.save(weights)
    said = {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings,
        "tasks": tasks.to_dicts(),
        "preprocessing": dict(preprocessing or {}),
        "about": dict(about or {}),
        "versions": environment()["versions"],
        "weights": {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
    }
    text = _to_json({**said, "sha256": _checksum(json.loads(_to_json(said)))})
    if path.exists() and not (path / _SETTINGS).exists():
        raise ConfigError(f"{path} exists and is not a bundle; give the bundle another name.")
    try:
        _write_folder(path, {_WEIGHTS: content, _SETTINGS: text.encode()})
    except OSError as error:
        raise DataError(f"{path}: the bundle cannot be written ({error.strerror or error}).") from error
    return path


def load_bundle(path: Path | str) -> Bundle:
    """Builds the network of a bundle and gives it its weights.

    Raises:
        DataError: Not a bundle, one of another version, or one whose weights or description are cut off or
            changed.
        ConfigError: Its encoder or architecture is not registered here.
    """
    path = Path(path)
    described = _read_settings(path)
    weights = _read_weights(path, described["weights"])
    tasks = TaskSet.from_dicts(described["tasks"])
    model = build_network(described["settings"], tasks)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"{path}: the weights do not fit the network that {_SETTINGS} describes; the bundle was "
            "changed, or this version of taskloom builds it differently."
        ) from error
    return Bundle(
        model=model.eval(),
        tasks=tasks,
        preprocessing=described["preprocessing"],
        about=described["about"],
        settings=described["settings"],
        versions=described["versions"],
    )


def weights_checksum(bundle: Bundle) -> str:
    """SHA-256 of `weights.safetensors`, as `bundle.json` has it."""
    weights = {name: tensor.cpu().contiguous().clone() for name, tensor in bundle.model.state_dict().items()}
    return hashlib.sha256(safetensors.torch.save(weights)).hexdigest()


def build_network(settings: Mapping[str, Any], tasks: TaskSet) -> MultiTaskNetwork:
    """Builds a network from the settings of a bundle; the caller's random state is left as it was.

    Args:
        settings: `input_shape`, `encoder`, `sharing` and `head`, as `save_bundle` takes them.
        tasks: The tasks.

    Raises:
        ConfigError: A name that is not registered, or a setting that does not fit.
    """
    encoder, way = dict(settings["encoder"]), dict(settings["sharing"])
    encoder_name, way_name = str(encoder.pop("name", "")), str(way.pop("name", ""))
    for noun, name, known in (
        ("encoder", encoder_name, encoders.ENCODERS),
        ("way of sharing", way_name, sharing.ARCHITECTURES),
    ):
        if name not in known:
            raise _unknown(noun, name, known)
    without = settings.get("without")
    trained = TaskSet.from_dicts(without["tasks"]) if without else tasks
    # Pretrained weights are in the bundle, as the network was trained on from them.
    with torch.random.fork_rng(), encoders.without_weights():
        built = encoders.build(encoder_name, tuple(settings["input_shape"]), **encoder)
        network = sharing.build(way_name, built, trained, head=settings.get("head"), **way)
    if not without:
        return network
    return drop_tasks(network, [name for name in trained if name not in tasks], without["empty"])


def _unknown(noun: str, name: str, known: Iterable[str]) -> ConfigError:
    how = {
        "encoder": '@taskloom.encoders.ENCODERS.register("name")',
        "way of sharing": '@taskloom.sharing.register("name")',
    }
    return ConfigError(
        f"{noun} `{name}` is not registered, so a bundle cannot build it again.{did_you_mean(name, known)} "
        f"Put your own modules into a function under {how[noun]}, in a file that is imported before the "
        "bundle is saved and before it is loaded (on the command line: `taskloom --code FILE.py` before the "
        "command)."
    )


def _for_use(
    settings: dict[str, Any], model: MultiTaskNetwork, weights: dict[str, Tensor]
) -> tuple[dict[str, Any], TaskSet, dict[str, Tensor]]:
    """Settings, tasks and weights of the network without what only training needs."""
    names = not_for_use(model.tasks)
    if not names and not getattr(model, "deeply_supervised", False):
        return settings, model.tasks, weights
    empty = {name: list(shape) for name, shape in unread(model, names, settings["input_shape"]).items()}
    whole = build_network(settings, model.tasks)
    whole.load_state_dict(weights)
    left = drop_tasks(whole, names, empty)
    settings = {**settings, "without": {"tasks": model.tasks.to_dicts(), "empty": empty}}
    return settings, left.tasks, {name: value.contiguous() for name, value in left.state_dict().items()}


def _check_rebuilds(settings: Mapping[str, Any], tasks: TaskSet, weights: Mapping[str, Tensor]) -> None:
    network = build_network(settings, tasks)
    if isinstance(network, SelfChanging):  # what it has become stands in the weights
        network.take_structure(weights)
    built = network.state_dict()
    for name in [*weights, *(name for name in built if name not in weights)]:
        found = [list(side[name].shape) if name in side else "absent" for side in (weights, built)]
        if found[0] != found[1]:
            raise ConfigError(
                f"the settings do not build this network again: {name} is {found[0]} in the network and "
                f"{found[1]} in what encoder, sharing and head give; pass the settings it was built with."
            )


def _to_json(described: Mapping[str, Any]) -> str:
    try:
        return json.dumps(described, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"a bundle holds plain values only, and JSON cannot hold one of these: {error}."
        ) from error


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a temporary sibling folder and renames it; an older bundle is moved aside until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced")
    try:
        for name, content in files.items():
            write_atomically(unfinished / name, content)
        if path.exists():
            path.replace(replaced)
        try:
            unfinished.replace(path)
        except OSError:
            if replaced.exists():
                replaced.replace(path)
            raise
    finally:
        for leftover in (unfinished, replaced):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(leftover)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        described = json.loads((path / _SETTINGS).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: a bundle (a folder with {_SETTINGS} and {_WEIGHTS}) expected.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path / _SETTINGS} cannot be read ({error}); the bundle is damaged.") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise DataError(f"{path / _SETTINGS} does not describe a {FORMAT}; is this the right folder?")
    if described.get("version") != VERSION:
        raise DataError(
            f"{path}: a bundle of version {VERSION} expected, found version {described.get('version')}; "
            f"load it with taskloom {described.get('versions', {}).get('taskloom', 'of that time')}, "
            "or train again."
        )
    _check_parts(path / _SETTINGS, described)
    if _checksum(described) != described.get("sha256", _checksum(described)):  # absent in older ones
        raise DataError(
            f"{path / _SETTINGS}: settings, tasks or preprocessing were changed after the bundle was saved; "
            "copy it again."
        )
    return described


def _check_parts(place: Path, described: Mapping[str, Any]) -> None:
    """Refuses a description that lacks something, so that what follows needs not look."""
    for keys, kind in _PARTS.items():
        found: Any = described
        for key in keys:
            found = found.get(key)
        if not isinstance(found, kind):
            raise DataError(
                f"{place}: `{'.'.join(keys)}` should be {_KINDS[kind]}, found {str(found)[:40]}; "
                "the bundle is damaged."
            )
    if not described["tasks"] or not all(isinstance(task, dict) for task in described["tasks"]):
        raise DataError(f"{place}: `tasks` should be a list of tasks; the bundle is damaged.")


def _checksum(described: Mapping[str, Any]) -> str:
    """Of what predictions depend on, as JSON gives it back."""
    plain = json.dumps([described[part] for part in _DECIDES], sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def _read_weights(path: Path, expected: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        content = (path / _WEIGHTS).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path / _WEIGHTS} cannot be read ({error.strerror}); copy the whole folder."
        ) from error
    if len(content) != expected["bytes"]:
        raise DataError(
            f"{path / _WEIGHTS}: {expected['bytes']:,} bytes expected, found {len(content):,}; the file is "
            "cut off or belongs to another bundle."
        )
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise DataError(f"{path / _WEIGHTS} was changed after it was saved; copy the bundle again.")
    weights: dict[str, Tensor] = safetensors.torch.load(content)
    return weights
