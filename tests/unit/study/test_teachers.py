"""Students and teachers in a study: who teaches whom, what is kept, what is refused, and that it helps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from _coupled_study import read, write_animals
from _small_study import Watcher
from taskloom.errors import ConfigError
from taskloom.study.cells import expand_cells
from taskloom.study.results import ResultsStore, run_folder
from taskloom.study.runner import plan_study, run_study
from taskloom.study.teachers import read_teachers
from taskloom.training.teaching import SoftLabels

TEXT = """\
data: {table: animals.csv}
tasks:
  animal: {kind: multiclass}
  fur:    {kind: binary}
  wings:  {kind: binary}
split: {by: column, column: part}
encoder: {name: mlp, hidden: [8]}
training: {epochs: 6, batch: 64, optimizer: {adam: {lr: 0.02}}, device: cpu}
repeats: 1
cells:
  - hard_sharing: {stages: 1}
  - hard_sharing: {stages: 1}
    teachers: single_task
  - hard_sharing: {stages: 1}
    teachers: {from: single_task, weight: 0.5, temperature: 2}
"""


def test_teachers_are_the_baselines_of_the_same_repeat(tmp_path: Path) -> None:
    folder = write_animals(tmp_path)
    specs = plan_study(read("repeats=2", text=TEXT), folder / "out", data=folder).specs
    by_name = {(spec.cell.name, spec.repeat): spec for spec in specs}
    for repeat in range(2):
        student = next(spec for spec in specs if spec.cell.entry == 1 and spec.repeat == repeat)
        expected = [by_name[(f"{task} alone", repeat)].id for task in ("animal", "fur", "wings")]
        assert [teacher.id for teacher in student.teachers] == expected
        assert student.resolved["teachers"] == expected
    plain = by_name[("hard sharing 1", 0)]
    assert not plain.teachers
    assert "teachers" not in plain.resolved
    assert len({spec.id for spec in specs if spec.cell.entry >= 0}) == 6


def test_soft_labels_are_kept_with_who_gave_them(tmp_path: Path) -> None:
    folder = write_animals(tmp_path)
    out = folder / "out"
    study = read(text=TEXT)
    watcher = Watcher()
    outcome = run_study(study, out, watcher, data=folder)
    assert outcome.failed == 0
    specs = plan_study(study, out, data=folder).specs
    student = next(spec for spec in specs if spec.cell.entry == 1)
    soft = SoftLabels.load(run_folder(out, student.id) / "soft_labels.npz")
    # 24 of 300 training rows have the animal, the others the parts.
    assert soft.counts() == {"animal": 276, "fur": 24, "wings": 24}
    for teacher in student.teachers:
        (task,) = teacher.cell.tasks
        assert teacher.id[:16] in soft.teachers[task]
    assert torch.allclose(soft.values["animal"].sum(dim=1), torch.ones(300))
    with ResultsStore(out / "results.sqlite", read_only=True) as store:
        record = next(record for record in store.records() if record.id == student.id)
    assert record.details["teachers"]["soft_labels"] == soft.counts()
    plain = next(spec for spec in specs if spec.cell.entry == 0)
    assert not (run_folder(out, plain.id) / "soft_labels.npz").exists()


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ("singel_task", "animals.yaml:12: cells[0].teachers.from: single_task expected"),
        ("{temprature: 2}", "animals.yaml:12: cells[0].teachers.temprature is not a setting. Did you mean"),
        ("{temperature: 0}", "animals.yaml:12: cells[0].teachers.temperature: a number above 0 expected"),
        ("3", "animals.yaml:12: cells[0].teachers: single_task or settings by name expected"),
        (
            "[single_task, 3]",
            "animals.yaml:12: cells[0].teachers[1]: single_task or settings by name expected",
        ),
        ("[]", "animals.yaml:12: cells[0].teachers: an empty list"),
        ("{weight: []}", "animals.yaml:12: cells[0].teachers: an empty list"),
    ],
)
def test_refused_at_file_and_line(teachers: str, message: str) -> None:
    text = (
        TEXT[: TEXT.index("cells:")] + f"cells:\n  - hard_sharing: {{stages: 1}}\n    teachers: {teachers}\n"
    )
    with pytest.raises(ConfigError) as caught:
        expand_cells(read(text=text))
    assert message in str(caught.value)


def test_no_teachers_is_no_setting() -> None:
    assert read_teachers(None, ("teachers",)) is None
    assert read_teachers(False, ("teachers",)) is None
    assert read_teachers({"weight": 1.0}, ("teachers",)) == {"from": "single_task"}


def test_auxiliary_tasks_have_no_teacher_unless_trained_alone() -> None:
    text = TEXT.replace("wings:  {kind: binary}", "wings:  {kind: binary, role: auxiliary}")
    with pytest.raises(ConfigError, match=r"task wings is not judged and so not trained alone"):
        expand_cells(read(text=text))
    expand_cells(read("baseline.auxiliary=true", text=text))


def test_lists_multiply_and_stand_in_the_name() -> None:
    before = TEXT[: TEXT.index("cells:")] + "cells:\n  - hard_sharing: {stages: 1}\n"
    given = "    teachers: [false, single_task, {temperature: [2, 4], weight: [0.5, 1]}]\n"
    cells = [cell for cell in expand_cells(read(text=before + given)) if cell.entry >= 0]
    assert [cell.name for cell in cells] == [
        "hard sharing 1",
        "hard sharing 1 + teachers",
        "hard sharing 1 + teachers temperature 2 weight 0.5",
        "hard sharing 1 + teachers temperature 2 weight 1",
        "hard sharing 1 + teachers temperature 4 weight 0.5",
        "hard sharing 1 + teachers temperature 4 weight 1",
    ]
    assert [cell.teachers and cell.teachers.get("temperature", 1) for cell in cells] == [None, 1, 2, 2, 4, 4]
    assert [len(cell.taught_by) for cell in cells] == [0, 3, 3, 3, 3, 3]
    titled = [cell for cell in expand_cells(read(text=before + "    name: S-T\n" + given)) if cell.entry >= 0]
    assert [cell.name for cell in titled][:3] == [
        "S-T",
        "S-T teachers",
        "S-T teachers temperature 2 weight 0.5",
    ]
    # One cell written as a list of one, and as itself, is the same cell.
    once = [
        expand_cells(read(text=f"{before}    teachers: {one}\n"))[-1]
        for one in ("[single_task]", "single_task")
    ]
    assert once[0].id == once[1].id == cells[1].id


@pytest.mark.parametrize(
    ("beside", "training", "message"),
    [
        ("teachers: single_task", "accumulate: 2", "coupling and teachers add losses of the whole batch"),
        (
            "coupling: {relatedness: table.csv}",
            "augment: {mixup: {}}",
            "leave mixup, or the coupling, out",
        ),
        ("coupling: {relatedness: table.csv}", "accumulate: 2", "coupling and teachers add losses of"),
        (
            "balancing: weighted_sum",
            "augment: {affine: {}}",
            "augment.affine: inputs of shape [3, height, width]",
        ),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    tmp_path: Path, beside: str, training: str, message: str
) -> None:
    folder = write_animals(tmp_path)
    (folder / "table.csv").write_text("animal,fur,wings\nbee,0,1\nbird,0,1\ncat,1,0\nfish,0,0.1\n")
    text = TEXT[: TEXT.index("cells:")] + (
        f"cells:\n  - hard_sharing: {{stages: 1}}\n    training: {{{training}}}\n    {beside}\n"
    )
    with pytest.raises(ConfigError, match=r"^animals\.yaml:12: training\.") as caught:
        plan_study(read(text=text), folder / "out", data=folder)
    assert message in str(caught.value)
