"""Warm start through studies: chains end to end, several jobs, resuming, failures, `taskloom train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from _small_study import TEXT, Watcher, read, run, values, write_table
from taskloom.errors import ConfigError, TrainingError
from taskloom.sharing import MultiTaskNetwork
from taskloom.study import worker
from taskloom.study.config import Study
from taskloom.study.results import ResultsStore, RunRecord, run_folder
from taskloom.study.runner import plan_study, run_study
from taskloom.study.runs import RunSpec
from taskloom.study.single import train_cell
from taskloom.study.warm_facts import warm_start_warnings
from taskloom.study.warm_start import started, weights_of_run
from taskloom.study.worker import DataCache, build_network
from taskloom.training.checkpoints import load_checkpoint

ENTRIES = """\
cells:
  - cross_stitch: {units: [1, 2], start: uniform}
    warm_start: previous
  - cross_stitch: {after: all}
    warm_start: single_task
"""
CHAIN = TEXT.partition("cells:")[0] + ENTRIES
NUM_RUNS = 2 * (2 + 3)


def study() -> Study:
    return read(text=CHAIN)


def records(out: Path) -> dict[tuple[str, int], RunRecord]:
    with ResultsStore(out / "results.sqlite", read_only=True) as store:
        return {(record.cell_name, record.repeat): record for record in store.records()}


def best(out: Path, record: RunRecord) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_checkpoint(run_folder(out, record.id) / "best.ckpt")["model"]
    return weights


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_table(tmp_path_factory.mktemp("warm"))
    outcome = run(folder, text=CHAIN)
    assert (outcome.planned, outcome.done, outcome.failed) == (NUM_RUNS, NUM_RUNS, 0)
    return folder


def start_of(folder: Path, name: str, repeat: int) -> tuple[RunSpec, MultiTaskNetwork]:
    """The network of a run as it starts, from the runs in the study's folder."""
    plan = plan_study(study(), folder / "out", data=folder)
    spec = next(spec for spec in plan.specs if (spec.cell.name, spec.repeat) == (name, repeat))
    network, _ = started(spec, DataCache().get(spec.data), build_network, weights_of_run)
    return spec, network


@pytest.mark.parametrize("repeat", [0, 1])
def test_columns_start_from_the_single_task_networks_of_their_repeat(done: Path, repeat: int) -> None:
    by_name = records(done / "out")
    _, network = start_of(done, "cross-stitch + warm start", repeat)
    inputs = torch.randn(6, 4)
    predictions = network.eval()(inputs)
    state = network.state_dict()
    for task in ("age", "sex"):
        weights = best(done / "out", by_name[f"{task} alone", repeat])
        other = best(done / "out", by_name[f"{task} alone", 1 - repeat])
        assert all(torch.equal(state[name], value) for name, value in weights.items())
        assert not any(torch.equal(state[name], value) for name, value in other.items())
        hidden = inputs
        for stage in ("dense_0", "dense_1"):
            layer = [value for name, value in weights.items() if name.startswith(f"stages.{stage}.")]
            hidden = torch.relu(torch.nn.functional.linear(hidden, *layer))
        head = [value for name, value in weights.items() if name.startswith("heads.")]
        # Units at the identity: the single-task predictions themselves.
        torch.testing.assert_close(predictions[task], torch.nn.functional.linear(hidden, *head))


def test_a_chain_goes_on_from_the_placement_before(done: Path) -> None:
    by_name = records(done / "out")
    first, second = (by_name[f"cross-stitch {units} + warm start", 1] for units in (1, 2))
    _, network = start_of(done, "cross-stitch 2 + warm start", 1)
    state, trained = network.state_dict(), best(done / "out", first)
    assert "mixing.dense_0.alpha" in trained
    assert all(torch.equal(state[name], value) for name, value in trained.items())
    assert set(state) - set(trained) == {"mixing.dense_1.alpha"}
    told = second.details["warm_start"]
    assert [source["run"] for source in told["from"]] == [first.id]
    assert [source["cell"] for source in told["from"]] == ["cross-stitch 1 + warm start"]
    assert told["fresh"] == ["mixing.dense_1"]
    assert "stages.dense_0.age" in told["copied"]
    assert second.resolved["starts"] == [first.id]
    assert first.resolved["starts"] == [by_name[f"{task} alone", 1].id for task in ("age", "sex")]
    assert "warm_start" not in by_name["age alone", 1].details


def test_two_jobs_and_a_stop_in_the_middle_give_the_same(done: Path, tmp_path: Path) -> None:
    write_table(tmp_path)

    class Stop(Exception):
        pass

    def stop(record: RunRecord) -> None:
        if record.cell_name == "age alone":
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path, "repeats=1", text=CHAIN, progress=Watcher(stop))
    watcher = Watcher()
    outcome = run(tmp_path, "repeats=1", text=CHAIN, jobs=2, progress=watcher)
    assert (outcome.failed, outcome.ran) == (0, 4)
    found = values(tmp_path / "out")
    assert len({run_id for run_id, *_ in found}) == 5
    assert found.items() <= values(done / "out").items()
    position = {record.id: index for index, record in enumerate(watcher.ended)}
    for spec in watcher.begun:
        assert all(position.get(start.id, -1) < position[spec.id] for start in spec.starts)


def test_what_starts_from_a_failed_run_fails_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path)
    plain = worker.fit

    def fit(model: MultiTaskNetwork, *arguments: Any, **settings: Any) -> Any:
        if model.tasks.names == ("sex",):
            raise TrainingError("the loss of task sex became nan.")
        return plain(model, *arguments, **settings)

    monkeypatch.setattr(worker, "fit", fit)
    outcome = run(tmp_path, "repeats=1", text=CHAIN)
    assert (outcome.done, outcome.failed) == (1, 4)
    told = {name: record.message for (name, _), record in records(tmp_path / "out").items()}
    assert "(sex alone, repeat 1) failed" in told["cross-stitch + warm start"]
    assert "--retry-failed" in told["cross-stitch + warm start"]
    assert "(cross-stitch 1 + warm start, repeat 1) failed" in told["cross-stitch 2 + warm start"]
    assert not any("\n" in message for message in told.values())
    monkeypatch.setattr(worker, "fit", plain)
    outcome = run(tmp_path, "repeats=1", text=CHAIN, retry_failed=True)
    assert (outcome.done, outcome.failed, outcome.ran) == (5, 0, 4)


def test_weights_that_are_gone_are_told(done: Path, tmp_path: Path) -> None:
    write_table(tmp_path)
    run(tmp_path, "repeats=1", "cells=[{hard_sharing: {stages: 1}}]", text=CHAIN)
    out = tmp_path / "out"
    (run_folder(out, records(out)["age alone", 0].id) / "best.ckpt").unlink()
    outcome = run(tmp_path, "repeats=1", text=CHAIN)
    assert outcome.failed == 3
    message = records(out)["cross-stitch + warm start", 0].message
    assert "(age alone, repeat 1) are no longer there" in message


def test_train_trains_the_whole_chain_and_agrees_with_the_study(done: Path) -> None:
    name = "cross-stitch 2 + warm start"
    trained = train_cell(study(), name, data=done, stores=done / "stores", progress=False)
    expected = best(done / "out", records(done / "out")[name, 0])
    found = trained.network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_start_without_counterpart_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    write_table(tmp_path)
    text = (
        TEXT.partition("cells:")[0] + "cells:\n  - hard_sharing: {stages: 2}\n    warm_start: single_task\n"
    )
    with pytest.raises(
        ConfigError, match=r"people.yaml:10: cells\[0\]: warm start: no stage of this network"
    ):
        run_study(read(text=text), tmp_path / "out", Watcher(), data=tmp_path)
    assert not (tmp_path / "out").exists()


def test_identity_follows_the_baselines_training(tmp_path: Path) -> None:
    write_table(tmp_path)

    def ids(*overrides: str) -> dict[str, str]:
        plan = plan_study(read(*overrides, text=CHAIN), tmp_path / "out", data=tmp_path)
        return {spec.cell.name: spec.id for spec in plan.specs if spec.repeat == 0}

    # The cells' own training is the same; what they start from is not.
    own = "{epochs: 3, batch: 16, optimizer: {adam: {lr: 0.01}}, device: cpu}"
    kept = [f"cells.{entry}.training={own}" for entry in (0, 1)]
    before, after = ids(*kept), ids(*kept, "training.epochs=4")
    assert not set(before.values()) & set(after.values())


def test_the_report_says_that_longer_training_may_be_the_gain(done: Path) -> None:
    # Alone 3 epochs; the second placement of the chain comes after one of 3 that came after those alone.
    with ResultsStore(done / "out" / "results.sqlite", read_only=True) as store:
        kept = store.records()
    assert warm_start_warnings(kept) == [
        "3 cells begin with trained networks (warm_start), with up to 9 epochs of training one after the "
        "other; networks alone have at most 3, so a gain may be that of longer training. "
        "`hard_sharing: {stages: 0}` with `training: {epochs: 9}` beside it trains alone as long."
    ]
    summary = json.loads((done / "out" / "summary.json").read_text())
    assert set(warm_start_warnings(kept)) <= set(summary["warnings"])
    assert warm_start_warnings([record for record in kept if not record.resolved.get("starts")]) == []
