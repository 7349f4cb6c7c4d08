"""Tasks of every kind with outputs, labels full of holes and groups, for the tests of metrics."""

import numpy as np
import torch
from numpy.typing import NDArray

import taskloom as tl

ROWS, GROUPS = 60, 7


def example(
    task: tl.Task, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, NDArray[np.int64]]:
    """Outputs that know something, values, presence with holes, groups."""
    generator = torch.Generator().manual_seed(seed)
    if task.value_dtype == torch.int64:
        classes = task.width if isinstance(task, tl.Multiclass) else 2
        values = torch.randint(classes, (ROWS, *task.value_shape), generator=generator)
        hint = (
            torch.nn.functional.one_hot(values, classes)
            if isinstance(task, tl.Multiclass)
            else 2 * values - 1
        )
        hint = hint.reshape(ROWS, task.width).float()
    else:
        values = torch.rand(ROWS, *task.value_shape, generator=generator) * 60 + 10
        hint = task.standardize(values).reshape(ROWS, task.width)
    outputs = hint + torch.randn(ROWS, task.width, generator=generator)
    # Rounding makes ties among scores.
    outputs = (outputs * 4).round() / 4
    present = torch.rand(ROWS, *task.presence_shape, generator=generator) < 0.7
    return outputs, values, present, np.random.default_rng(seed).integers(0, GROUPS, ROWS)


BINARY, MULTICLASS, MULTILABEL = tl.Binary("t"), tl.Multiclass("t", 5), tl.Multilabel("t", 4)
REGRESSION = tl.Regression("t", unit="years", center=30.0, scale=8.0)
VECTOR = tl.Regression("t", size=3, center=30.0, scale=8.0)
LANDMARKS = tl.Landmarks("t", 4, center=30.0, scale=10.0, reference=(0, 2), threshold=0.25)
TASKS = {
    "binary": BINARY,
    "multiclass": MULTICLASS,
    "multilabel": MULTILABEL,
    "regression": REGRESSION,
    "vector": VECTOR,
    "landmarks": LANDMARKS,
    "landmarks_box": tl.Landmarks("t", 4, center=30.0, scale=10.0),
    "landmarks_length": tl.Landmarks("t", 4, center=30.0, scale=10.0, reference=25.0),
}
CASES = [(name, metric) for name, task in TASKS.items() for metric in task.metrics]
