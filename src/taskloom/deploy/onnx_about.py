"""What an ONNX file says of itself: what goes in, how its outputs are read, whose weights it holds."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from taskloom.deploy.bundle import Bundle, weights_checksum
from taskloom.deploy.onnx_inputs import Inputs
from taskloom.errors import DataError
from taskloom.tasks import Binary, Landmarks, Multiclass, Multilabel, Ordinal, Task
from taskloom.version import __version__

BATCH = "batch"
"""Name of the axis that may have any size."""
_FORMAT = 1
_UNSIGNED = b"0" * 64


def described(content: bytes, prepare: Inputs, input_name: str, bundle: Bundle, weights: str) -> bytes:
    """The file with its metadata: `taskloom` (JSON) and `sha256`, the SHA-256 of the whole file with these 64
    digits as zeros, so that whoever has the file alone can tell whether it is as it was written.

    Args:
        content: The graph.
        prepare: What goes in.
        input_name: What the input is called.
        bundle: Whose network it is.
        weights: How they are stored.

    Raises:
        DataError: The bundle's `preprocessing` cannot be written as JSON.
    """
    import onnx

    model = onnx.load_from_string(content)
    _name_batch(model)
    meaning = {input_name: prepare.meaning} | {name: meaning_of(task) for name, task in bundle.tasks.items()}
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = meaning[value.name]
    model.producer_name, model.producer_version = "taskloom", __version__
    about = {
        "format": _FORMAT,
        "tasks": bundle.tasks.to_dicts(),
        "input": {
            "name": input_name,
            "meaning": prepare.meaning,
            "shape": [BATCH, *prepare.shape],
            "type": str(prepare.dtype).removeprefix("torch."),
            "normalization": prepare.normalization,
        },
        "outputs": {name: _output(task) for name, task in bundle.tasks.items()},
        "preprocessing": bundle.preprocessing,
        "framing": bundle.about.get("framing"),
        "weights": weights,
        "weights_sha256": weights_checksum(bundle),
        "versions": bundle.versions,
    }
    try:
        text = json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the bundle's `preprocessing` holds what JSON cannot ({error}); nothing was written."
        ) from error
    onnx.helper.set_model_props(model, {"taskloom": text, "sha256": _UNSIGNED.decode()})
    unsigned: bytes = model.SerializeToString(deterministic=True)
    before, _, after = unsigned.rpartition(_UNSIGNED)  # metadata stands behind the graph
    return before + hashlib.sha256(unsigned).hexdigest().encode() + after


def meaning_of(task: Task) -> str:
    """What a task's output holds, for people."""
    if isinstance(task, Binary):
        return f"probability of {task.class_names[1]}"
    if isinstance(task, Multiclass):
        return f"probabilities of {_few(task.class_names)}"
    if isinstance(task, Multilabel):
        return f"probability of each of {_few(task.class_names)}"
    if isinstance(task, Landmarks):
        return f"pixels x, y of {_few(task.class_names)}"
    unit = getattr(task, "unit", None)
    return f"{'level' if isinstance(task, Ordinal) else 'value'}{f' in {unit}' if unit else ''}"


def _output(task: Task) -> dict[str, Any]:
    """The same for programs."""
    return {
        "kind": task.kind,
        "meaning": meaning_of(task),
        "classes": list(task.class_names),
        "unit": str(getattr(task, "unit", "") or ""),
    }


def _name_batch(model: Any) -> None:
    """Calls the axis of any size `batch` wherever the exporter has made a name up (`s77`)."""
    (made_up,) = {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == made_up:
                axis.dim_param = BATCH


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
