"""What a task is judged by: metrics that keep groups apart, so that intervals can be clustered by them.

>>> task = tl.Binary("gender")
>>> outputs, values_ = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([1, 0, 0])
>>> accuracy = METRICS["accuracy"]
>>> summary = accuracy.summarize(task, outputs, values_, torch.ones(3).bool(), np.array([0, 1, 1]), 2)
>>> accuracy.evaluate(summary, np.array([[1.0, 0.0], [0.0, 1.0]]))  # the first group alone, the second alone
array([1. , 0.5])
"""

from taskloom.metrics import classification, landmarks, ranking, regression  # noqa: F401 - they register
from taskloom.metrics.base import METRICS, Metric, Summary
from taskloom.metrics.summaries import (
    Summaries,
    label_counts,
    load_summaries,
    merge_all,
    save_summaries,
    summarize_all,
    values,
)

__all__ = [
    "METRICS",
    "Metric",
    "Summaries",
    "Summary",
    "label_counts",
    "load_summaries",
    "merge_all",
    "save_summaries",
    "summarize_all",
    "values",
]
