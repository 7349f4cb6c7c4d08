"""What is predicted: task kinds, the ordered `TaskSet`, and `Labels` with holes.

A label is a value and a presence. Values of absent labels are zero and mean nothing; every consumer looks at
`present` first. Shapes, for N rows:

===========  ===================  =================  ==========================  ========================
kind         `values[name]`       dtype              `present[name]` (bool)      head output (`width`)
===========  ===================  =================  ==========================  ========================
binary       [N]                  int64, 0 or 1      [N]                         [N, 1] logit
multiclass   [N]                  int64, 0..C-1      [N]                         [N, C] logits
multilabel   [N, K]               int64, 0 or 1      [N, K]                      [N, K] logits
regression   [N] or [N, D]        float32, in unit   [N]                         [N, D] standardised
ordinal      [N]                  float32, in unit   [N]                         [N, K-1] or [N, K] logits
landmarks    [N, K, 2]            float32, pixels    [N, K]                      [N, 2K] standardised
===========  ===================  =================  ==========================  ========================

Labels per sample of a window (label rule "per-sample") add a last axis: binary and multiclass values and
presence are then [N, W] and the head output [N, width, W].
"""

from taskloom.tasks.kinds import (
    HIGHER_IS_BETTER,
    KINDS,
    Binary,
    Landmarks,
    Multiclass,
    Multilabel,
    Ordinal,
    Regression,
    Reversal,
    Role,
    Task,
    task_from_dict,
)
from taskloom.tasks.roles import StageOutput
from taskloom.tasks.sets import Labels, TaskSet

__all__ = [
    "HIGHER_IS_BETTER",
    "KINDS",
    "Binary",
    "Labels",
    "Landmarks",
    "Multiclass",
    "Multilabel",
    "Ordinal",
    "Regression",
    "Reversal",
    "Role",
    "StageOutput",
    "Task",
    "TaskSet",
    "task_from_dict",
]
