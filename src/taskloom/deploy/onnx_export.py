"""Bundle to ONNX: one file that ONNX Runtime, mobile and browser runtimes read without taskloom or PyTorch.

The graph begins where a prepared store ends (pixels, features or samples in their own units) and ends where
a person reads (probabilities, values in their unit, points in pixels), so that standardisation and decoding
cannot be forgotten or done twice. What comes before, in a bundle's `preprocessing`, travels as metadata.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from taskloom.deploy.bundle import Bundle
from taskloom.deploy.onnx_about import BATCH, described, meaning_of
from taskloom.deploy.onnx_half import halved
from taskloom.deploy.onnx_inputs import inputs_of
from taskloom.errors import ConfigError, DataError, MissingExtraError
from taskloom.training.checkpoints import write_atomically

OPSET = 20
Weights = Literal["float32", "float16"]
TOLERANCES: Mapping[Weights, float] = {"float32": 1e-4, "float16": 1e-2}
"""Largest difference from PyTorch, relative to the largest value of the task where that is above 1, by how
weights are stored."""
_CHECKED_ROWS = (1, 6)


@dataclass(frozen=True)
class OnnxExport:
    """What was written.

    Args:
        path: The file.
        num_bytes: Its size.
        input_name: Name of the input.
        input_shape: Its shape, the batch axis as "batch".
        input_type: "uint8" or "float32".
        input_meaning: What a row of it holds, for people.
        outputs: Per task what its output holds, for people.
        difference: Largest difference from PyTorch's predictions, relative as in `TOLERANCES`.
        rows: On how many random rows.
    """

    path: Path
    num_bytes: int
    input_name: str
    input_shape: tuple[int | str, ...]
    input_type: str
    input_meaning: str
    outputs: Mapping[str, str]
    difference: float
    rows: int


def export_onnx(bundle: Bundle, path: Path | str, *, weights: Weights = "float32") -> OnnxExport:
    """Writes a bundle's network as ONNX, with batches of any size, and compares it with PyTorch's.

    Inputs: `images` [batch, H, W, 3] uint8 RGB for bundles of images; `features` [batch, F] float32 in the
    table's own scale for tables (NaN for a missing value where training imputed); `windows` [batch, samples,
    channels] float32 for recordings, after the signal steps and before normalisation (after it, where that
    was done person by person); `inputs` for a network of one's own. Outputs: one per task, by its name, as
    `Task.decode` gives it; a row of features or windows with a value that is not finite (and not filled in)
    is NaN in all of them. The metadata is that of `onnx_about.described`.

    Args:
        bundle: The trained network; of several data sets choose one first (`predict.prepared_as`).
        path: The file; an existing one is replaced once the new one has passed the comparison.
        weights: How they lie in the file: "float32", or "float16" for half of the size; the graph computes in
            float32 either way.

    Returns:
        What was written, and how far it is from PyTorch.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        ConfigError: Another kind of weights.
        DataError: A bundle of several data sets; a network that cannot be exported, or whose ONNX
            predictions differ. Nothing is written then.
    """
    path = Path(path)
    if weights not in TOLERANCES:
        raise ConfigError(f"--weights: float32 or float16 expected, found `{weights}`.")
    runtime = _runtime()
    whole = _Whole(bundle)
    content = _exported(whole, path)
    content = halved(content) if weights == "float16" else content
    content = described(content, whole.prepare, whole.input_name, bundle, weights)
    difference = _difference(runtime, content, whole, path, TOLERANCES[weights])
    try:
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}).") from error
    return OnnxExport(
        path=path,
        num_bytes=len(content),
        input_name=whole.input_name,
        input_shape=(BATCH, *whole.prepare.shape),
        input_type=str(whole.prepare.dtype).removeprefix("torch."),
        input_meaning=whole.prepare.meaning,
        outputs={name: meaning_of(task) for name, task in bundle.tasks.items()},
        difference=difference,
        rows=sum(_CHECKED_ROWS),
    )


class _Whole(nn.Module):
    """A bundle's network with what comes directly before and after it."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.network, self.tasks = copy.deepcopy(bundle.model).cpu().eval(), bundle.tasks
        self.prepare = inputs_of(bundle)
        name = self.prepare.name  # inputs and outputs share one name space
        self.input_name = f"{name}.input" if name in self.tasks else name

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(self.prepare(inputs))
        decoded = tuple(task.decode(outputs[name]) for name, task in self.tasks.items())
        unusable = self.prepare.unusable(inputs)
        if unusable is None:
            return decoded
        return tuple(
            value.masked_fill(unusable.view(-1, *[1] * (value.ndim - 1)), math.nan) for value in decoded
        )


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(str(error.name).partition(".")[0], "onnx") from error
    return onnxruntime


def _exported(whole: _Whole, path: Path) -> bytes:
    example = whole.prepare.rows(3, np.random.default_rng(0))
    try:
        with _quiet(), torch.no_grad(), whole.network.decided():
            program = torch.export.export(
                whole, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
            )
            written = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[whole.input_name],
                output_names=list(whole.tasks),
                opset_version=OPSET,
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError, torch._dynamo.exc.UserError) as error:
        reason = str(error).strip().splitlines()
        raise DataError(
            f"{path}: PyTorch's exporter cannot follow this network ({type(error).__name__}: "
            f"{reason[0] if reason else 'no reason given'}); nothing was written. A stage of one's own "
            "must not read values of its tensors."
        ) from error
    assert written is not None
    content: bytes = written.model_proto.SerializeToString()
    return content


def _difference(runtime: Any, content: bytes, whole: _Whole, path: Path, tolerance: float) -> float:
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(1)
    largest = 0.0
    for number in _CHECKED_ROWS:
        rows = whole.prepare.rows(number, draw)
        with torch.no_grad():
            expected = whole(rows)
        found: list[NDArray[Any]] = session.run(list(whole.tasks), {whole.input_name: rows.numpy()})
        for name, ours, theirs in zip(whole.tasks, expected, found, strict=True):
            if tuple(ours.shape) != theirs.shape:
                raise DataError(
                    f"{path}: task {name} is {list(ours.shape)} in PyTorch and {list(theirs.shape)} in ONNX "
                    "Runtime; nothing was written."
                )
            unit = max(1.0, float(ours.abs().max()))
            difference = float((ours - torch.from_numpy(theirs)).abs().max()) / unit
            if not difference <= tolerance:
                raise DataError(
                    f"{path}: predictions of task {name} in ONNX Runtime differ from PyTorch's by "
                    f"{difference:.2g} of their largest value (at most {tolerance:g} expected); nothing was "
                    "written."
                )
            largest = max(largest, difference)
    return largest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's exporter says of itself: that torchvision is absent, what it deprecates."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
