"""What a summary says about coupled cells: consistency of predictions, gains by it, and its table.

A coupled cell is compared with its twin, the cell that differs in nothing but the coupling, and with the
tasks trained alone. Contradictions are counted on the decisions that every run leaves of its test rows, so
that the predictions of networks trained alone are held against the same table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.coupling import Consistency, Relatedness, measure_consistency
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.decisions import label_f1, load_decisions
from taskloom.study.gains import Gain
from taskloom.study.results import RunRecord, run_folder
from taskloom.study.statistics import corrected
from taskloom.study.verdicts import Groups, gain_between
from taskloom.study.written_out import written_out
from taskloom.tasks import Multilabel, TaskSet

Row = dict[str, Any]


def coupling_rows(folder: Path, tasks: TaskSet, facts: Mapping[str, Any], done: Groups) -> list[Row]:
    """Returns one row per coupled cell that has a finished run.

    Verdicts on a task are corrected over all coupled cells that have their like without coupling.

    Args:
        folder: The study's folder.
        tasks: The study's tasks.
        facts: See `study_facts` of `taskloom.study.prepare`.
        done: The finished runs.
    """
    runs = {cell["id"]: _runs_of(cell["id"], cell["tasks"][0], done) for cell in facts["cells"]}
    rows: list[Row] = []
    found: list[tuple[Row, Gain]] = []
    for cell in facts["cells"]:
        if runs[cell["id"]] and "coupling" in runs[cell["id"]][0].details:
            twin = next((other for other in runs if _is_twin(runs[cell["id"]], runs[other])), "")
            coupled = _Coupled(folder, tasks, facts, done, runs[cell["id"]], runs.get(twin, []))
            row, gains = _row(coupled), _gains(coupled)
            row["tasks"] = [_task_row(coupled, gain) for gain in gains]
            rows.append(row)
            found += list(zip(row["tasks"], gains, strict=True))
    for name in {gain.task for _, gain in found}:
        own = [(row, gain) for row, gain in found if gain.task == name]
        for (row, _), gain in zip(own, corrected([gain for _, gain in own]), strict=True):
            row["verdict"] = gain.verdict
    return rows


def _runs_of(cell: str, task: str, done: Groups) -> list[RunRecord]:
    return sorted(done.get((cell, task), []), key=lambda run: run.repeat)


def _is_twin(coupled: Sequence[RunRecord], other: Sequence[RunRecord]) -> bool:
    """Whether two cells differ by nothing but the coupling, which the second does not have."""
    if not other or "coupling" in other[0].resolved["cell"]:
        return False
    settings = {key: value for key, value in coupled[0].resolved["cell"].items() if key != "coupling"}
    return written_out(settings) == written_out(other[0].resolved["cell"])


@dataclass(frozen=True)
class _Coupled:
    """One coupled cell: its runs, and those of its twin ([] where the study has none)."""

    folder: Path
    tasks: TaskSet
    facts: Mapping[str, Any]
    done: Groups
    runs: list[RunRecord]
    twin: list[RunRecord]

    @property
    def details(self) -> Row:
        details: Row = self.runs[0].details["coupling"]
        return details

    @property
    def sides(self) -> Row:
        given = self.details["classes_given"]
        return {"classes": given or self.details["classes"], "attributes": self.details["attributes"]}

    @property
    def names(self) -> tuple[str, ...]:
        """Tasks of both sides, each once."""
        return tuple(dict.fromkeys((*self.details["classes"], *self.details["attributes"])))


def _row(coupled: _Coupled) -> Row:
    details, table = coupled.details, _table(coupled.folder, coupled.runs[0])
    low, high = table.intervals()
    alone = _consistencies(coupled, [_alone(coupled, run.repeat) for run in coupled.runs])
    without = _consistencies(coupled, [[_of_repeat(coupled.twin, run.repeat)] for run in coupled.runs])
    coupled_now = _consistencies(coupled, [[run] for run in coupled.runs])
    told = [text for run in coupled.runs for text in run.details["coupling"]["warnings"]]
    notes = [text for run in coupled.runs for text in run.details["coupling"]["notes"]]
    return {
        "cell": coupled.runs[0].cell,
        "twin": coupled.twin[0].cell if coupled.twin else "",
        "classes_side": details["classes"],
        "attributes_side": details["attributes"],
        "terms": [_term(term) for term in details["terms"]],
        "source": details["source"],
        "kind": details["kind"],
        "between": details["between"],
        "classes": list(table.classes),
        "attributes": list(table.attributes),
        "values": _rounded(table.values),
        "low": _rounded(low) if table.counts is not None else [],
        "high": _rounded(high) if table.counts is not None else [],
        "consistency": {"alone": alone, "without": without, "with": coupled_now},
        "tasks": [],  # follow when the gains of all coupled cells are known
        "labels": [row for name in coupled.names for row in _label_gains(coupled, name)],
        "compared": details["compared"],
        "agreement": details["agreement"],
        "contradictions": details["contradictions"],
        "num_contradictions": details["num_contradictions"],
        "warnings": list(dict.fromkeys(told)),
        "notes": list(dict.fromkeys(notes)),
    }


def _table(folder: Path, run: RunRecord) -> Relatedness:
    return Relatedness.load(run_folder(folder, run.id) / "relatedness.json")


def _term(term: Mapping[str, Any]) -> str:
    """ "matching to attributes, weight 0.5", with what differs from the paper."""
    weight = term["weight"]
    if isinstance(weight, Mapping):
        words = [f"weight {weight['weight']:g}"]
        if weight["start_epoch"] or weight["ramp_epochs"]:
            words.append(f"from epoch {weight['start_epoch'] + 1} over {weight['ramp_epochs']} epochs")
    else:
        words = [f"weight {weight:g}"]
    if term.get("direction", "printed") != "printed":
        words.append("soft targets from the table's side")
    if term.get("two_sided"):
        words.append("both sides")
    if term.get("stop_gradient", "none") != "none":
        words.append(f"{term['stop_gradient']} held fixed")
    return ", ".join([term["term"].replace("co_annotation", "co-annotation").replace("_", " "), *words])


# -- consistency


def _alone(coupled: _Coupled, repeat: int) -> list[RunRecord | None]:
    """The runs of one repeat that trained each of the coupled tasks alone."""
    return [_of_repeat(coupled.done.get((SINGLE_TASK, name), []), repeat) for name in coupled.names]


def _of_repeat(runs: Sequence[RunRecord], repeat: int) -> RunRecord | None:
    return next((run for run in runs if run.repeat == repeat), None)


def _consistencies(coupled: _Coupled, by_repeat: Sequence[Sequence[RunRecord | None]]) -> Row | None:
    """Shares of contradicting rows and pairs: means over repeats, and the range of the first.

    None where a run, or what it decided, is missing in every repeat.
    """
    found: list[Consistency] = []
    for run, parts in zip(coupled.runs, by_repeat, strict=True):
        outputs: dict[str, Any] = {}
        for part in parts:
            if part is not None:
                outputs |= load_decisions(run_folder(coupled.folder, part.id), coupled.tasks) or {}
        if all(name in outputs for name in coupled.names):
            table = _table(coupled.folder, run)
            found.append(measure_consistency(outputs, coupled.tasks, table, **coupled.sides))
    if not found:
        return None
    shares = [one.share for one in found]
    return {
        "share": float(np.mean(shares)),
        "least": min(shares),
        "most": max(shares),
        "pair_share": float(np.mean([one.pair_share for one in found])),
        "decided": sum(one.decided for one in found),
        "rows": sum(one.rows for one in found),
        "repeats": len(found),
    }


# -- gains


def _gains(coupled: _Coupled) -> list[Gain]:
    """Every task with coupling against without; none where there is no twin."""
    if not coupled.twin:
        return []
    cell = coupled.runs[0].cell
    found = [
        gain_between(coupled.folder, coupled.tasks[name], coupled.facts, coupled.twin, coupled.runs, cell)
        for name in coupled.names
    ]
    return [gain for gain in found if gain is not None]


def _task_row(coupled: _Coupled, gain: Gain) -> Row:
    """A task with coupling against without, and how it did alone."""
    name = gain.task
    metric = coupled.tasks[name].primary_metric
    alone = [
        value.value
        for run in coupled.done.get((SINGLE_TASK, name), [])
        for value in run.metrics
        if (value.task, value.part, value.metric) == (name, "test", metric)
    ]
    return {
        "name": name,
        "metric": metric,
        "alone": float(np.mean(alone)) if alone else None,
        "without": gain.baseline_value,
        "with": gain.cell_value,
        "gain": gain.gain,
        "low": gain.low,
        "high": gain.high,
        "verdict": gain.verdict,
    }


def _label_gains(coupled: _Coupled, name: str) -> list[Row]:
    """F1 of every label of a multilabel task, alone, without and with coupling; means over repeats."""
    task = coupled.tasks[name]
    if not isinstance(task, Multilabel):
        return []
    means = [
        _mean_f1(coupled, runs, name)
        for runs in (coupled.done.get((SINGLE_TASK, name), []), coupled.twin, coupled.runs)
    ]
    return [
        {"task": name, "label": label, "alone": alone, "without": without, "with": coupled_now}
        for label, alone, without, coupled_now in zip(task.class_names, *means, strict=True)
    ]


def _mean_f1(coupled: _Coupled, runs: Sequence[RunRecord], task: str) -> list[float | None]:
    found = [label_f1(run_folder(coupled.folder, run.id), task) for run in runs]
    there = np.array([scores for scores in found if scores is not None])
    if not len(there):
        return [None] * coupled.tasks[task].width
    counts, sums = (~np.isnan(there)).sum(axis=0), np.nansum(there, axis=0)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def _rounded(values: Any) -> list[list[float | None]]:
    """Numbers that a page and a person can read; null where unknown."""
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in values]
