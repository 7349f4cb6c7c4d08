"""One model, many tasks, holes in the labels, and evidence whether sharing helped."""

from taskloom.tasks import Binary, Labels, Landmarks, Multiclass, Multilabel, Regression, Task, TaskSet
from taskloom.version import __version__

__all__ = [
    "Binary",
    "Labels",
    "Landmarks",
    "Multiclass",
    "Multilabel",
    "Regression",
    "Task",
    "TaskSet",
    "__version__",
]
