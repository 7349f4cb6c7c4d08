"""The report's section on coupled cells, as plain text ready to print."""

from __future__ import annotations

import math
from dataclasses import dataclass

from taskloom.report import plots, words
from taskloom.report.coupling_model import Agreement, CoupledTask, CouplingRow
from taskloom.report.model import GainRow, ReportData


@dataclass(frozen=True)
class CouplingView:
    """One coupled cell.

    Args:
        title: Name of the cell.
        intro: What is coupled with what, by which table and which losses.
        sentences: What came of it: consistency, gains, negative transfer, in this order.
        consistency: Lines of (who, rows that contradict, their range, pairs that contradict).
        tasks: Lines of (task, metric, alone, without, with, gain, css class).
        labels: Lines of (task, label, alone, without, with).
        heatmap: SVG.
        warnings, notes, contradictions: See `CouplingRow`.
    """

    title: str
    intro: str
    sentences: list[str]
    consistency: list[tuple[str, str, str, str]]
    tasks: list[tuple[str, str, str, str, str, str, str]]
    labels: list[tuple[str, str, str, str, str]]
    heatmap: str
    warnings: list[str]
    notes: list[str]
    contradictions: list[str]


def coupling_view(data: ReportData, entry: CouplingRow) -> CouplingView:
    """Says what the coupling of one cell rests on and did."""
    cell = data.cell(entry.cell)
    both = list(dict.fromkeys((*entry.classes_side, *entry.attributes_side)))
    same = list(entry.classes_side) == list(entry.attributes_side)
    sides = (
        f"{_named(both)} with each other"
        if same
        else f"{_named(list(entry.classes_side))} with {_named(list(entry.attributes_side))}"
    )
    intro = (
        f"Couples {sides}. Relatedness: {entry.source} ({entry.kind}, "
        f"{entry.between.replace('_', ' to ')}). Losses: {'; '.join(entry.terms)}."
    )
    return CouplingView(
        title=cell.name if cell else entry.cell,
        intro=intro,
        sentences=[_consistency_sentence(entry), *_gain_sentences(entry), *_transfer_sentences(data, entry)],
        consistency=[
            _consistency_line(who, found)
            for who, found in (
                ("each task alone", entry.alone),
                ("without coupling", entry.without),
                ("with coupling", entry.coupled),
            )
        ],
        tasks=[_task_line(task) for task in entry.tasks],
        labels=[
            (one.task, one.label, _f1(one.alone), _f1(one.without), _f1(one.coupled)) for one in entry.labels
        ],
        heatmap=plots.relatedness(entry),
        warnings=list(entry.warnings),
        notes=[*entry.notes, *_checked(entry)],
        contradictions=list(entry.contradictions),
    )


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _share(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{100 * value:.1f} %"


def _f1(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.3f}"


def _consistency_line(who: str, found: Agreement | None) -> tuple[str, str, str, str]:
    if found is None:
        return who, "–", "–", "–"
    between = f"{_share(found.least)} to {_share(found.most)}" if found.repeats > 1 else "one repeat"
    return who, _share(found.share), between, _share(found.pair_share)


def _consistency_sentence(entry: CouplingRow) -> str:
    now, before = entry.coupled, entry.without
    if now is None:
        return "What the runs predicted for the test rows is not known, so consistency cannot be said."
    if now.decided == 0 and (before is None or before.decided == 0):
        return (
            "The table requires or excludes nothing (no entry of 0.95 or more, or of 0.05 or less, is met), "
            "so no prediction can contradict it."
        )
    text = (
        f"Of {now.rows // now.repeats:,} test rows, {_share(now.share)} have predictions that contradict it"
    )
    if before is None:
        return f"{text}; the study has no cell that differs by nothing but the coupling."
    if now.share == before.share:
        return f"{text}, as without coupling."
    change = "fewer" if now.share < before.share else "more"
    return f"{text}, {change} than the {_share(before.share)} without coupling."


def _gain_sentences(entry: CouplingRow) -> list[str]:
    shown = {
        verdict: [task.name for task in entry.tasks if task.verdict == verdict]
        for verdict in ("helped", "hurt")
    }
    if not entry.tasks:
        return []
    if not shown["helped"] and not shown["hurt"]:
        return ["Against the same cell without coupling, no difference was shown for any coupled task."]
    parts = [f"{verdict} {_named(names)}" for verdict, names in shown.items() if names]
    return [f"Against the same cell without coupling, it {' and '.join(parts)}."]


def _transfer_sentences(data: ReportData, entry: CouplingRow) -> list[str]:
    """Negative transfer against training alone, without and with coupling."""
    if not entry.twin:
        return []
    both = dict.fromkeys((*entry.classes_side, *entry.attributes_side))
    hurt = {
        cell: [name for name in both if (gain := data.gain(name, cell)) and gain.verdict == "hurt"]
        for cell in (entry.twin, entry.cell)
    }
    if not hurt[entry.twin] and not hurt[entry.cell]:
        return ["Negative transfer (worse than alone) was shown neither without nor with coupling."]
    said = [_named(names) if names else "no task" for names in (hurt[entry.twin], hurt[entry.cell])]
    return [f"Negative transfer (worse than alone): {said[0]} without coupling, {said[1]} with it."]


def _task_line(task: CoupledTask) -> tuple[str, str, str, str, str, str, str]:
    row = GainRow(
        task.name, "", task.without, task.coupled, task.gain, task.low, task.high, math.nan, task.verdict
    )
    values = [
        "–" if not math.isfinite(value) else words.number(value, task.metric)
        for value in (task.alone, task.without, task.coupled)
    ]
    css = {"helped": "helped", "hurt": "hurt"}.get(task.verdict, "unclear")
    name = words.metric_name(task.metric)
    return task.name, name, values[0], values[1], values[2], words.interval(row, task.metric), css


def _checked(entry: CouplingRow) -> list[str]:
    if not entry.compared or entry.num_contradictions or entry.agreement < 0.5:
        return []
    agreement = f", agreement {entry.agreement:.2f} (0.5 is chance)" if math.isfinite(entry.agreement) else ""
    return [
        f"{entry.compared} of its entries were held against the training labels: none contradicts{agreement}."
    ]
