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
        ("[single_task]", "animals.yaml:12: cells[0].teachers: single_task or settings by name expected"),
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
