"""What tests of ONNX files share: bundles of any architecture and encoder, and how a file is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import torch
from numpy.typing import NDArray

import taskloom as tl
from _bundles import ENCODER_SETTINGS, SETTINGS
from taskloom.deploy import Bundle

TASKS = tl.TaskSet(
    tl.Regression("age", unit="years", center=40.25, scale=9.5, range=(0, 116)),
    tl.Binary("gender", ("F", "M")),
    tl.Multiclass("mood", ("sad", "glad", "none", "both", "lost")),
    tl.Multilabel("worn", ("hat", "scarf")),
    tl.Ordinal("grade", range=(1, 4)),
    tl.Landmarks("face", 2, reference=(0, 1), center=16.0, scale=4.0),
)
IMAGES = {
    "reader": "images",
    "size": 32,
    "standardization": {"mean": [0.5, 0.4, 0.3], "deviation": [0.2, 0.25, 0.3]},
}


def bundle_of(
    encoder: str = "mlp",
    sharing: str = "hard_sharing",
    preprocessing: dict[str, Any] | None = None,
    tasks: tl.TaskSet = TASKS,
) -> Bundle:
    """An untrained network whose weights, batch statistics among them, are not those of its start."""
    shape, settings = ENCODER_SETTINGS[encoder]
    torch.manual_seed(3)
    built = tl.encoders.build(encoder, shape, **settings)
    way = {"stages": 1} if sharing == "hard_sharing" else SETTINGS[sharing]
    model = tl.sharing.build(sharing, built, tasks, **way)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.add_(0.1 * (torch.rand_like(value) - 0.5))  # not all one way: outputs stay apart
    return Bundle(
        model.eval(), tasks, preprocessing or {}, {}, {"input_shape": list(shape)}, {"taskloom": "here"}
    )


def run(path: Path, name: str, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, {name: rows}), strict=True))
