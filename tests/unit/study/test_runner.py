"""Running a study: what is missing and nothing else, whatever stopped it before."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from _small_study import NUM_RUNS, TEXT, Watcher, read, run, values, write_table
from taskloom import encoders, sharing
from taskloom.errors import ConfigError, DataError
from taskloom.study import worker
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.lock import study_lock
from taskloom.study.progress import ConsoleProgress
from taskloom.study.results import STORE_FORMAT, ResultsStore, RunRecord
from taskloom.study.runner import plan_study
from taskloom.study.runs import RunSpec
from taskloom.training import Callback, TrainingState, evaluate, fit
from taskloom.training.reproducibility import reproducible, seed_everything


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_table(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nothing stopped; its runs have the same ids wherever the table is."""
    folder = write_table(tmp_path_factory.mktemp("whole"))
    run(folder)
    return folder / "out"


def test_every_run_is_done_once_and_nothing_is_done_again(folder: Path) -> None:
    first, second = Watcher(), Watcher()
    assert run(folder, progress=first).done == NUM_RUNS
    assert len({record.id for record in first.ended}) == NUM_RUNS
    # All cells of the first repeat come before the second repeat.
    assert [spec.repeat for spec in first.begun] == [0] * 4 + [1] * 4
    before = values(folder / "out")
    assert run(folder, progress=second).ran == 0
    assert second.begun == []
    assert values(folder / "out") == before
    kept = {path.name for path in (folder / "out" / "runs").glob("*/*")}
    assert kept == {"best.ckpt", "test_summary.npz", "validation_summary.npz", "test_decisions.npz"}
    parts = sorted(path.name for path in (folder / "out").iterdir())
    files = ["results.parquet", "results.sqlite", "runs", "study.lock", "study.yaml", "summary.json"]
    assert parts == [*files, "test_rows"]


def test_a_baseline_equals_training_that_task_alone_by_hand(folder: Path) -> None:
    run(folder)
    plan = plan_study(read(), folder / "out", data=folder)
    spec = next(s for s in plan.specs if s.cell.tasks == ("age",) and s.repeat == 1)
    splits = spec.data.load()
    with reproducible():
        seed_everything(1)
        encoder = encoders.build("mlp", (4,), hidden=[6, 5])
        network = sharing.build("single_task", encoder, splits.tasks.subset(["age"]))
    present = splits.train.labels.present["age"]
    assert not bool(present.all())
    kept = np.flatnonzero(present.numpy()).tolist()
    fit(network, _Rows(splits.train, kept), splits.validation, spec.cell.training, seed=1, progress=False)
    by_hand = evaluate(network, splits.test).values()["age"]
    stored = values(folder / "out")
    for metric, value in by_hand.items():
        assert stored[spec.id, "age", "test", metric] == value


class _Rows:
    """Some rows of a dataset, written as plainly as can be."""

    def __init__(self, dataset: object, rows: list[int]) -> None:
        self._dataset, self._rows = dataset, rows
        self.tasks, self.input_shape = dataset.tasks, dataset.input_shape
        self.labels, self.groups = dataset.labels[torch.tensor(rows)], dataset.groups[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, indices: list[int]) -> object:
        batch = self._dataset.__getitems__([self._rows[index] for index in indices])
        batch.index = torch.tensor(indices)
        return batch


def test_gains_are_paired_differences_of_stored_values(folder: Path) -> None:
    outcome = run(folder)
    table = pd.read_parquet(folder / "out" / "results.parquet")
    test = table[(table.part == "test") & (table.metric == "mae") & (table.task == "age")]
    by = test.set_index(["cell", "repeat"]).value
    for cell in outcome.summary["cells"]:
        paired = [by[SINGLE_TASK, repeat] - by[cell["id"], repeat] for repeat in range(2)]
        (gain,) = (g for g in outcome.summary["gains"] if (g["task"], g["cell"]) == ("age", cell["id"]))
        assert gain["gain"] == pytest.approx(np.mean(paired))
    validation = table[(table.part == "validation") & (table.metric == "mae") & (table.task == "age")]
    means = validation[validation.cell != SINGLE_TASK].groupby("cell").value.mean()
    chosen = next(task["chosen_cell"] for task in outcome.summary["tasks"] if task["name"] == "age")
    assert chosen == means.idxmin()


def test_few_repeats_say_in_the_design_that_there_are_no_verdicts(folder: Path) -> None:
    one, three = run(folder, "repeats=1").summary, run(folder, "repeats=3").summary
    assert "count 1 training seed and the choice" in one["design"]
    assert one["design"].endswith(
        "no verdicts are given: they need at least 3 repeats, and the study has one."
    )
    assert {gain["verdict"] for gain in one["gains"]} == {"no verdict"}
    assert "count 3 training seeds and" in three["design"]
    assert "verdicts at the 5 % level after Holm over 2 cells" in three["design"]


def test_cell_and_baseline_of_a_repeat_share_seed_and_split(folder: Path) -> None:
    specs = plan_study(read("split.redraw=true", "seed=5"), folder / "out", data=folder).specs
    for repeat in range(2):
        those = [spec for spec in specs if spec.repeat == repeat]
        assert {spec.seed for spec in those} == {5 + repeat}
        assert {spec.data.seed for spec in those} == {5 + repeat}
    groups = [sorted(set(specs[index].data.load().test.group_names)) for index in (0, len(specs) // 2)]
    assert groups[0] != groups[1]


def test_a_stopped_study_goes_on_where_it_was(folder: Path, whole: Path) -> None:
    after = 5
    stopped = Watcher()

    def stop(record: RunRecord) -> None:
        if len(stopped.ended) == after:
            raise KeyboardInterrupt

    stopped._after = stop
    with pytest.raises(KeyboardInterrupt):
        run(folder, progress=stopped)
    rest = Watcher()
    run(folder, progress=rest)
    done_first = {record.id for record in stopped.ended}
    assert {spec.id for spec in rest.begun}.isdisjoint(done_first)
    assert len(rest.begun) == NUM_RUNS - after
    assert values(folder / "out") == values(whole)


def test_a_run_stopped_in_the_middle_resumes_and_ends_the_same(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Callback):
        def epoch_start(self, state: TrainingState) -> None:
            if state.epoch == 3:
                raise KeyboardInterrupt

    class Quiet(Callback):  # a checkpoint agrees on its callbacks' names only
        pass

    Stop.__name__ = Quiet.__name__ = "Same"
    with monkeypatch.context() as patch:
        patch.setattr(worker, "fit", lambda *a, **k: fit(*a, **{**k, "callbacks": [Stop()]}))
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "fit", lambda *a, **k: fit(*a, **{**k, "callbacks": [Quiet()]}))
        run(folder)
    with ResultsStore(folder / "out" / "results.sqlite", read_only=True) as store:
        assert store.records()[0].history["resumed_after"] == [2]
    assert values(folder / "out") == values(whole)


def test_a_study_killed_for_good_goes_on_where_it_was(folder: Path) -> None:
    settings = ("training.epochs=12", "repeats=1")
    (folder / "people.yaml").write_text(
        TEXT.replace("epochs: 3", "epochs: 12").replace("repeats: 2", "repeats: 1")
    )
    out = folder / "out"
    command = [sys.executable, "-c", "from taskloom.cli import main; main()", "study", "people.yaml"]
    process = subprocess.Popen(
        [*command, "--data", ".", "--out", str(out)], cwd=folder, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while _num_done(out) < 1 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = _num_done(out)
    rest = Watcher()
    run(folder, *settings, progress=rest)
    assert len(rest.begun) == 4 - done
    run(folder, *settings, out="whole")
    assert values(out) == values(folder / "whole")


def _num_done(out: Path) -> int:
    try:
        connection = sqlite3.connect(f"file:{out / 'results.sqlite'}?mode=ro", uri=True)
        count = connection.execute("SELECT COUNT(*) FROM runs").fetchone()[0]
        connection.close()
    except sqlite3.OperationalError:
        return 0
    return int(count)


def test_several_processes_reach_the_same_and_survive_the_death_of_one(folder: Path, whole: Path) -> None:
    class Killer(Watcher):
        def started(self, spec: RunSpec) -> None:
            super().started(spec)
            if len(self.begun) == 3:  # the worker that is about to get this run, or the other one
                os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    outcome = run(folder, "repeats=1", progress=Killer(), jobs=2)
    assert (outcome.done, outcome.failed) == (3, 1)
    assert "signal 9" in outcome.summary["failed"][0]
    again = Watcher()
    assert run(folder, "repeats=1", progress=again, retry_failed=True).failed == 0
    assert len(again.begun) == 1
    assert values(folder / "out").items() <= values(whole).items()


def test_a_loss_that_is_not_a_number_fails_its_run_and_the_others_go_on(folder: Path) -> None:
    text = TEXT + "  - hard_sharing: {stages: 1}\n    training: {optimizer: {sgd: {lr: 1e30}}}\n"
    outcome = run(folder, text=text)
    assert (outcome.done, outcome.failed) == (NUM_RUNS, 2)
    for line in outcome.summary["failed"]:
        assert "step" in line
        assert line.count("run ") == 1  # it is named once, by whoever shows the record
    assert run(folder, text=text).ran == 0  # a failed run is not missing
    assert run(folder, text=text, retry_failed=True).ran == 2


def test_what_went_wrong_ends_with_a_full_stop_before_what_becomes_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.StringIO()
    progress = ConsoleProgress(Console(file=output, width=400))
    monkeypatch.setattr(worker, "fit", Mock(side_effect=IndexError("list index out of range")))
    run(folder, "repeats=1", progress=progress)
    told = [line for line in output.getvalue().splitlines() if "The run is marked failed" in line]
    assert len(told) == NUM_RUNS // 2
    assert all(
        re.search(r"out of range .*\)\. The run is marked failed; the others go on\.$", line) for line in told
    )


def test_a_log_says_what_has_ended_and_a_terminal_what_runs() -> None:
    output = io.StringIO()
    progress = ConsoleProgress(Console(file=output, width=400))
    specs = [Mock(), Mock(), Mock()]
    progress.begin(3, 0, 0, jobs=2)
    progress.started(specs[0])
    progress.started(specs[1])
    assert progress.line() == "runs 0/3  failed 0  running 2"
    # One ends, and the next begins only when its record is kept: "running 1" stood here with two jobs.
    progress.finished(Mock(status="done", cell_name="a", repeat=0, seconds_total=2.0))
    assert re.fullmatch(r"runs 1/3  failed 0  about \d+ s left   a, repeat 1: 2 s\n", output.getvalue())
    progress.started(specs[2])
    assert "  running 2  about" in progress.line()


def test_a_defect_in_one_run_is_told_and_the_others_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(network: object, *arguments: object, **options: object) -> object:
        if len(network.tasks) == 2:
            raise RuntimeError("out of\nmemory")
        return fit(network, *arguments, **options)

    monkeypatch.setattr(worker, "fit", broken)
    outcome = run(folder)
    assert (outcome.done, outcome.failed) == (4, 4)
    assert all("RuntimeError: out of memory" in line for line in outcome.summary["failed"])
    assert len(list((folder / "out" / "runs").glob("*/error.txt"))) == 4
    for line in outcome.summary["failed"]:
        named = line.partition("(traceback in ")[2].rstrip(")")
        assert "out of\nmemory" in (folder / "out" / named).read_text(encoding="utf-8")


def test_identity_changes_with_what_decides_the_result_and_with_nothing_else(folder: Path) -> None:
    def ids(*overrides: str, text: str = TEXT) -> list[str]:
        return [spec.id for spec in plan_study(read(*overrides, text=text), folder / "o", data=folder).specs]

    usual = ids()
    assert ids() == usual
    more = TEXT + "  - hard_sharing: {stages: 1}\n"
    assert set(usual) < set(ids(text=more))
    assert ids("repeats=1") == usual[: NUM_RUNS // 2]
    for same in (
        "cells.0.name=mine",
        "training.num_workers=1",
        "training.evaluation_batch=7",
        "training.drop_last=false",
        "training.schedule=none",
        "head.dropout=0.0",
    ):
        assert ids(same) == usual, same
    for override in (
        "seed=9",
        "training.batch=8",
        "training.drop_last=true",
        "training.optimizer=sgd",
        "training.optimizer.adam.betas=[0.8, 0.9]",
        "training.schedule=cosine",
        "training.threads=1",
        "training.device=auto",
        "training.precision=bf16-mixed",
        "encoder.hidden=[6, 4]",
        "head.hidden=[3]",
        "split.test=0.4",
        "tasks.age.loss=mae",
        "data.standardize=false",
    ):
        assert set(ids(override)).isdisjoint(usual), override
    table = (folder / "people.csv").read_text()
    (folder / "people.csv").write_text(table.replace("F", "W"))
    assert set(ids()).isdisjoint(usual)


def test_a_changed_file_adds_runs_and_keeps_old_ones_out_of_sight(folder: Path) -> None:
    run(folder)
    changed = TEXT.replace("  - cross_stitch: {per: layer}\n", "  - hard_sharing: {stages: 1}\n")
    outcome = run(folder, text=changed)
    assert outcome.ran == 2
    assert [cell["name"] for cell in outcome.summary["cells"]] == ["hard sharing 2", "hard sharing 1"]
    with ResultsStore(folder / "out" / "results.sqlite", read_only=True) as store:
        assert len(store.records(planned_only=False)) == NUM_RUNS + 2
    assert run(folder).ran == 0


def test_a_second_process_is_refused(folder: Path) -> None:
    (folder / "out").mkdir()
    with study_lock(folder / "out"), pytest.raises(DataError, match=f"process {os.getpid()} is running"):
        run(folder)
    assert run(folder).done == NUM_RUNS


def test_a_store_of_another_version_is_refused_before_anything_is_run(folder: Path) -> None:
    run(folder)
    with sqlite3.connect(folder / "out" / "results.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {STORE_FORMAT + 1}")
    connection.close()
    watcher = Watcher()
    with pytest.raises(DataError, match="another version"):
        run(folder, progress=watcher)
    assert watcher.begun == []


def test_a_full_disk_stops_with_one_sentence_and_finished_runs_are_kept(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = worker.save_summaries, []

    def full(path: Path, summaries: object) -> None:
        calls.append(path)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, summaries)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "save_summaries", full)
        with pytest.raises(DataError, match="the disk is full") as caught:
            run(folder)
    assert "\n" not in str(caught.value)
    rest = Watcher()
    run(folder, progress=rest)
    assert len(rest.begun) == NUM_RUNS - 2
    assert values(folder / "out") == values(whole)


def test_a_file_in_place_of_the_folder_is_one_sentence(folder: Path) -> None:
    (folder / "file").write_text("")
    for out in ("file", "file/out"):
        with pytest.raises(DataError, match="file"):
            run(folder, out=out)


def test_mistakes_show_before_anything_is_trained(folder: Path) -> None:
    watcher = Watcher()
    for override, expected in (
        ("cells.1.cross_stitch.after=[7]", r"--set cells\[1\].cross_stitch.after|people.yaml:11: cells\[1\]"),
        ("cells.0.hard_sharing.stages=9", r"cells\[0\]"),
        ("cells.0.balancing={weighted_sum: {weights: {aeg: 2}}}", r"cells\[0\].*aeg"),
        ("encoder.hidden=[0]", r"^--set encoder\.hidden must be a list"),
        ("tasks.age.kind=binary", "age"),
        ("split.by=nobody", "nobody"),
    ):
        with pytest.raises((ConfigError, DataError), match=expected):
            run(folder, override, progress=watcher)
    assert watcher.begun == []
