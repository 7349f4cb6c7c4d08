"""The study: a grid of cells to runs, a results store, and a summary with a verdict per task.

`config` reads the study file, `cells` expands it, `runner` runs what is missing, `results` keeps it,
`statistics` compares, `summary` writes what the report shows; `draft` writes a first study file.
"""

from taskloom.study.advice import what_would_help
from taskloom.study.cells import Cell, expand_cells
from taskloom.study.config import Study, StudyConfig, load_study
from taskloom.study.draft import Draft, draft_study
from taskloom.study.results import MetricValue, ResultsStore, RunRecord
from taskloom.study.runner import Outcome, Plan, plan_study, run_study
from taskloom.study.statistics import Gain, Scores, choose_on_validation, compare
from taskloom.study.summary import write_summary

__all__ = [
    "Cell",
    "Draft",
    "Gain",
    "MetricValue",
    "Outcome",
    "Plan",
    "ResultsStore",
    "RunRecord",
    "Scores",
    "Study",
    "StudyConfig",
    "choose_on_validation",
    "compare",
    "draft_study",
    "expand_cells",
    "load_study",
    "plan_study",
    "run_study",
    "what_would_help",
    "write_summary",
]
