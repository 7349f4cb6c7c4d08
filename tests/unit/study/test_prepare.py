"""What is checked before any run: devices, labels against heads; and what is said about the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from _small_study import TEXT, Watcher, read, run, write_table
from taskloom.data.simulate import simulate_opportunity
from taskloom.errors import ConfigError
from taskloom.study.dry_build import check_losses
from taskloom.study.prepare import _clusters
from taskloom.study.runner import plan_study
from taskloom.study.single import train_cell
from taskloom.tasks import Labels, Multiclass, Regression, TaskSet

WINDOWS = """\
data: {reader: opportunity, channels: quickstart}
tasks: {Locomotion: {kind: multiclass}}
split: {by: time, test: 0.3, validation: 0.3}
encoder: {name: conv1d, filters: [4]}
training: {epochs: 1, device: cpu}
repeats: 1
cells: [{hard_sharing: {stages: 1}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_table(tmp_path)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("training.device=cuda", "--set training.device: cuda was asked for"),
        ("training.precision=16-mixed", "--set training.precision: 16-mixed needs a GPU"),
        (
            "cells.1.training={device: cuda}",
            r"--set cells\[1\].training: cells\[1\].training.device: cuda was",
        ),
    ],
)
def test_a_device_that_is_not_there_shows_before_the_data_are_read(
    tmp_path: Path, override: str, start: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{start}"):  # there is no table at all
        plan_study(read(override), tmp_path / "out", data=tmp_path)


@pytest.mark.usefixtures("no_cuda")
def test_a_device_of_the_file_is_named_with_its_line(folder: Path) -> None:
    study = read(text=TEXT.replace("device: cpu", "device: cuda"))
    with pytest.raises(ConfigError, match=r"^people.yaml:7: training.device: cuda was asked for"):
        plan_study(study, folder / "out", data=folder)
    with pytest.raises(ConfigError, match=r"^people.yaml:7: training.device: cuda was asked for"):
        train_cell(study, "age alone", data=folder, stores=folder / "stores")


def test_what_the_clusters_are_is_said_in_the_right_number() -> None:
    assert [_clusters(1, name) for name in (None, "person", "recording", "site")] == [
        "1 row",
        "1 person",
        "1 recording",
        "1 value of site",
    ]
    assert [_clusters(2000, name) for name in (None, "person", "site")] == [
        "2,000 rows",
        "2,000 people",
        "2,000 values of site",
    ]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opportunity")
    simulate_opportunity(folder, people=1, seconds_per_run=40)
    return folder


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.window={label_rule: per_sample}",
            "people.yaml: cell Locomotion alone, task Locomotion: its labels are per sample of a window, its "
            "head gives one output per window; set `head.per_sample: true`, or another "
            "`data.window.label_rule`.",
        ),
        (
            "head.per_sample=true",
            "people.yaml:4: encoder: head.per_sample: the encoder's last stage must give [N, F, W]",
        ),
        ("data.window={label_rule: majorty}", "--set data.window: data.window.label_rule: `majorty` is not"),
        ("data.window={null: {Locomotion: oops}}", "--set data.window: data.window.null.Locomotion: `oops`"),
    ],
)
def test_labels_and_heads_that_do_not_fit_are_one_sentence(
    recordings: Path, tmp_path: Path, override: str, message: str
) -> None:
    watcher = Watcher()
    with pytest.raises(ConfigError) as caught:
        run(recordings, override, text=WINDOWS, out=str(tmp_path / "out"), progress=watcher)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert watcher.begun == []


def test_a_wrong_rule_is_named_with_its_line(recordings: Path, tmp_path: Path) -> None:
    text = WINDOWS.replace("channels: quickstart}", "channels: quickstart,\n  window: {label_rule: majorty}}")
    with pytest.raises(ConfigError, match=r"^people.yaml:2: data.window.label_rule: `majorty` is not known"):
        plan_study(read(text=text), tmp_path / "out", data=recordings)


def test_losses_that_cannot_be_computed_name_cell_and_task() -> None:
    tasks = TaskSet(Regression("age", size=2))
    labels = Labels({"age": torch.zeros(2, 2)}, {"age": torch.ones(2, 2).bool()})
    with pytest.raises(ConfigError, match=r"^cell hard, x: task age \(regression\): outputs of shape"):
        check_losses("hard, x", {"age": torch.zeros(2, 3)}, labels, tasks)


def test_an_output_per_sample_and_a_label_per_row_do_not_fit() -> None:
    tasks = TaskSet(Multiclass("gait", 3))
    labels = Labels({"gait": torch.zeros(2).long()}, {"gait": torch.ones(2).bool()})
    with pytest.raises(
        ConfigError, match=r"^cell hard, task gait: `head\.per_sample` gives .* per_sample`\.$"
    ):
        check_losses("hard", {"gait": torch.zeros(2, 3, 8)}, labels, tasks)
    check_losses("hard", {"gait": torch.zeros(2, 3)}, labels, tasks)


def test_the_report_says_by_what_was_split_and_how_many_groups_stand_where(
    folder: Path, tmp_path: Path
) -> None:
    """30 people of four rows each, 0.3 and 0.2 of whom are held out."""
    (note, *_) = plan_study(read(), tmp_path / "out", data=folder).prepared.facts["data_notes"]
    expected = "Split by person: 15 people in train, 6 people in validation, 9 people in test."
    assert note == f"120 rows: 60 train, 24 validation, 36 test. {expected}"
    rows = TEXT.replace(", group: person", "").replace("by: person", "by: rows")
    (note, *_) = plan_study(read(text=rows), tmp_path / "rows", data=folder).prepared.facts["data_notes"]
    assert note == "120 rows: 60 train, 24 validation, 36 test. Split by rows."
