"""From native files to three datasets: reuse of stores, classes from the data, and no leak."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from taskloom.data import recording_source, signal_sources
from taskloom.data.batch import DataSplits, TaskDataset
from taskloom.data.readers.opportunity import OpportunityReader
from taskloom.data.recordings import RecordingStore
from taskloom.data.simulate import simulate_opportunity
from taskloom.data.sources import checksums, find_source, load, resolve_tasks
from taskloom.data.window_settings import WindowSettings
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Binary, Multiclass, TaskSet

REAL = Path(__file__).parents[4] / "shared" / "data" / "eegmat"
TASKS: dict[str, dict[str, Any]] = {
    "Locomotion": {"kind": "multiclass"},
    "gesture": {"kind": "multiclass", "column": "ML_Both_Arms"},
}
SETTINGS: dict[str, Any] = {"channels": "quickstart", "window": {"samples": 64, "stride": 16}}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "opportunity"
    return simulate_opportunity(folder, people=2, seconds_per_run=60, seed=0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


def load_simulated(folder: Path, stores: Path, **changes: Any) -> DataSplits:
    settings = {**SETTINGS, **changes.pop("settings", {})}
    split = changes.pop("split", {"by": "thesis"})
    tasks = changes.pop("tasks", TASKS)
    return load("opportunity", settings, tasks, split, folder=folder, stores=stores, **changes)


def test_what_is_beside_or_instead_of_the_thesis_split_is_named(simulated: Path, stores: Path) -> None:
    with pytest.raises(ConfigError, match=r"split\.test: `by: thesis` takes no fractions"):
        load_simulated(simulated, stores, split={"by": "thesis", "test": 0.2})
    sentence = r"split\.by: `thesiss` is not .*Did you mean `thesis`\? Rules: person, session, .*, thesis"
    with pytest.raises(ConfigError, match=sentence):
        load_simulated(simulated, stores, split={"by": "thesiss"})


def test_thesis_split_end_to_end(simulated: Path, stores: Path) -> None:
    data = load_simulated(simulated, stores)
    assert data.tasks["Locomotion"].class_names == ("NULL", "Stand", "Walk", "Sit", "Lie")
    assert data.tasks["gesture"].class_names[:2] == ("NULL", "Close Dishwasher")
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    runs = {
        part: {d.store.recordings[index].session for index in d.recording_index} for part, d in parts.items()
    }
    assert runs == {"train": {"Drill", "ADL1", "ADL2"}, "validation": {"ADL3"}, "test": {"ADL4", "ADL5"}}
    assert len(set(data.test.groups.tolist())) == 4  # 2 people x 2 runs
    for part in parts.values():
        assert isinstance(part, TaskDataset)
        assert part.input_shape == (64, 21)
    json.dumps([data.about, data.preprocessing])
    assert data.about["rows"] == {part: len(dataset) for part, dataset in parts.items()}
    assert set(data.about["sources"]) == {path.name for path in simulated.glob("*.dat")}


def test_normaliser_and_clipping_come_from_train_alone(simulated: Path, stores: Path) -> None:
    data = load_simulated(simulated, stores)
    store = data.train.store
    rows = np.zeros(store.num_samples, dtype=bool)
    for start in data.train.starts:
        rows[start : start + 64] = True
    train = store.samples[rows].astype(np.float64)
    fitted = data.preprocessing["normalizer"]
    np.testing.assert_allclose(fitted["mean"], train.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(fitted["scale"], train.std(axis=0), rtol=1e-6)
    for part in (data.train, data.test):
        batch = part.__getitems__([3, 0])
        raw = np.stack([store.samples[part.starts[i] : part.starts[i] + 64] for i in (3, 0)])
        low, high = train.mean(axis=0) - 10 * train.std(axis=0), train.mean(axis=0) + 10 * train.std(axis=0)
        expected = (np.clip(raw, low, high) - train.mean(axis=0)) / train.std(axis=0)
        np.testing.assert_allclose(batch.inputs.numpy(), expected, atol=1e-4)
    everything = load_simulated(simulated, stores, settings={"normalize": False})
    assert everything.preprocessing["normalizer"] is None
    assert float(everything.train.__getitems__([0]).inputs.abs().max()) > 100  # milli-g


def test_spikes_are_clipped(simulated: Path, stores: Path) -> None:
    inputs = load_simulated(simulated, stores, settings={"channels": "on_body"}).train
    largest = max(
        float(inputs.__getitems__(list(range(i, min(i + 256, len(inputs))))).inputs.abs().max())
        for i in range(0, len(inputs), 256)
    )
    assert largest == 10


def test_store_is_used_again_until_something_changes(simulated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(simulated, folder)
    first = load_simulated(folder, tmp_path / "stores")
    place = first.train.store.folder
    before = (place / "store.json").stat().st_mtime_ns
    again = load_simulated(folder, tmp_path / "stores")
    assert (place / "store.json").stat().st_mtime_ns == before
    assert again.about["notes"] == first.about["notes"]
    assert "lost packets cut" in again.about["notes"][0]
    # Other windows need no other store; other channels do.
    assert (
        load_simulated(folder, tmp_path / "stores", settings={"window": {"samples": 32}}).train.store.folder
        == place
    )
    assert (
        load_simulated(folder, tmp_path / "stores", settings={"channels": [1, 2]}).train.store.folder != place
    )
    # Another content of one file.
    lines = (folder / "S1-ADL1.dat").read_text().splitlines()
    (folder / "S1-ADL1.dat").write_text("\n".join(lines[:-1]) + "\n")
    changed = load_simulated(folder, tmp_path / "stores")
    assert changed.about["notes"][-1] == "The store was prepared again: source file S1-ADL1.dat changed."
    assert changed.train.store.folder == place
    assert (place / "store.json").stat().st_mtime_ns != before
    (folder / "S1-ADL1.dat").unlink()
    reason = recording_source._existing(
        place, {name: sum_ for name, sum_ in changed.about["sources"].items() if name != "S1-ADL1.dat"}, {}
    )[1]
    assert reason == "source file S1-ADL1.dat is gone"


def test_gaps_of_a_reader_reach_the_store(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = OpportunityReader(simulated, channels="quickstart")
    read = list(reader.recordings())
    read[1].gaps = [(100, 100), (200, 300)]
    monkeypatch.setattr(reader, "recordings", lambda: iter(read))
    store, _ = recording_source.prepare(reader, tmp_path)
    assert [recording.gaps for recording in store.recordings[:2]] == [(), ((100, 100), (200, 300))]
    assert store.recordings[1].segments == [(0, 100), (100, 200), (300, store.recordings[1].length)]


def test_a_limit_on_what_is_carried_forward_travels_with_the_model(simulated: Path, stores: Path) -> None:
    tasks = {"Locomotion": {"kind": "multiclass"}}
    usual = load_simulated(simulated, stores, tasks=tasks)
    limited = load_simulated(simulated, stores, tasks=tasks, settings={"carry_forward_seconds": 0.1})
    assert "signals" not in usual.preprocessing
    assert limited.preprocessing["signals"] == {"native_rate_hz": 30.0, "carry_forward_seconds": 0.1}
    assert usual.train.store.folder != limited.train.store.folder
    assert any("no window touches" in note for note in limited.about["notes"])
    gaps = [(r.start + a, r.start + b) for r in limited.train.store.recordings for a, b in r.gaps]
    assert gaps
    for part in (limited.train, limited.validation, limited.test):
        for start in part.starts.tolist():
            assert not any(start < stop and begin < start + 64 for begin, stop in gaps)
    assert sum(limited.about["rows"].values()) < sum(usual.about["rows"].values())


def test_store_of_another_version(simulated: Path, stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = load_simulated(simulated, stores).train.store.folder
    text = (place / "store.json").read_text()
    (place / "store.json").write_text(text.replace('"version": 1', '"version": 99'))
    data = load_simulated(simulated, stores)
    assert "format version 1 expected, found 99" in data.about["notes"][-1]
    RecordingStore.open(place)
    monkeypatch.setattr(recording_source, "__version__", "99.0")
    other = load_simulated(simulated, stores)
    assert other.train.store.parameters["prepared_by"] == "taskloom 99.0"


def test_a_broken_file_leaves_nothing_behind(simulated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(simulated, folder)
    path = folder / "S2-Drill.dat"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"S2-Drill\.dat:2700: 239 columns"):
        load_simulated(folder, tmp_path / "stores")
    assert not [entry for entry in (tmp_path / "stores").glob("**/*") if entry.is_file()]


def test_null_policies_and_classes(simulated: Path, stores: Path) -> None:
    data = load_simulated(
        simulated, stores, settings={"window": {"null": {"gesture": "keep", "default": "own_class"}}}
    )
    assert data.tasks["gesture"].width == 17
    assert data.tasks["Locomotion"].width == 5
    labels = data.train.labels
    assert bool(labels.present["Locomotion"].all())
    assert not bool(labels.present["gesture"].all())
    given = {"Locomotion": {"kind": "multiclass", "classes": ["Walk", "Stand", "Sit", "Lie", "NULL"]}}
    reordered = load_simulated(simulated, stores, tasks=given)
    codes = load_simulated(simulated, stores, tasks={"Locomotion": {"kind": "multiclass"}})
    translate = torch.tensor([4, 1, 0, 2, 3])
    assert torch.equal(
        translate[codes.test.labels.values["Locomotion"]], reordered.test.labels.values["Locomotion"]
    )


def test_a_task_set_is_taken_as_it_is(simulated: Path, stores: Path) -> None:
    tasks = TaskSet(Multiclass("Locomotion", ("NULL", "Stand", "Walk", "Sit", "Lie")))
    assert load_simulated(simulated, stores, tasks=tasks).tasks["Locomotion"] == tasks["Locomotion"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"chanels": "all"}}, "Did you mean `channels`"),
        ({"settings": {"window": {"sample": 3}}}, "Did you mean `samples`"),
        ({"settings": {"window": {"samples": 3, "seconds": 1}}}, "exclude each other"),
        ({"settings": {"window": {"samples": 0}}}, "above 0 expected, found 0"),
        ({"settings": {"window": {"samples": 2.5}}}, "whole number of samples above 0"),
        ({"settings": {"window": 64}}, "settings such as"),
        ({"settings": {"window": {"null": {"gestures": "keep"}}}}, "Did you mean `gesture`"),
        ({"settings": {"normalize": {"klip": 3}}}, "Did you mean `clip`"),
        ({"tasks": {"Locomotion": {"kind": "multiclas"}}}, "Did you mean `multiclass`"),
        ({"split": {"by": "files"}}, "files"),
    ],
)
def test_wrong_settings(simulated: Path, stores: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_simulated(simulated, stores, **changes)


def test_wrong_data(simulated: Path, stores: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_simulated(tmp_path / "nowhere", stores)
    with pytest.raises(DataError, match="Did you mean `Locomotion`"):
        load_simulated(simulated, stores, tasks={"Locomtion": {"kind": "multiclass", "classes": ["a", "b"]}})
    with pytest.raises(DataError, match="a window takes 5000 samples"):
        load_simulated(simulated, stores, settings={"window": {"samples": 5000}})


def test_registry_knows_its_readers() -> None:
    assert find_source("edf") is signal_sources.load_edf
    with pytest.raises(ConfigError, match="Did you mean `opportunity`"):
        find_source("oportunity")


def test_resolve_tasks() -> None:
    tasks = resolve_tasks(
        {"a": {"kind": "binary"}, "b": {"kind": "binary", "classes": ["x", "y"]}},
        {"a": ("n", "p"), "b": ("q", "r")},
    )
    assert (tasks["a"], tasks["b"]) == (Binary("a", ("n", "p")), Binary("b", ("x", "y")))
    unknown = resolve_tasks({"a": {"kind": "multiclass"}}, {})
    with pytest.raises(ConfigError, match=r"tasks\.a\.classes: not known yet"):
        unknown["a"].width  # noqa: B018  # the property raises


def test_checksums_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert checksums([tmp_path / "a"], tmp_path) == {
        "a": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }


def test_checksum_of_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        checksums([tmp_path], tmp_path)


def test_window_settings_in_seconds() -> None:
    usual = {"samples": 64, "stride": 32, "null": "own_class"}
    plain = WindowSettings.from_settings({}, usual)
    assert (plain.length_samples(30), plain.stride_samples(30), plain.null_of("x")) == (64, 32, "own_class")
    longer = WindowSettings.from_settings({"seconds": 3}, usual)
    assert (longer.length_samples(30), longer.stride_samples(30)) == (90, 90)
    half = WindowSettings.from_settings({"stride_seconds": 0.5}, usual)
    assert (half.length_samples(30), half.stride_samples(30)) == (64, 15)


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/eegmat is not here")
def test_eegmat_by_person(tmp_path: Path) -> None:
    tasks: dict[str, dict[str, Any]] = {
        "state": {"kind": "binary"},
        "count_quality": {"kind": "binary"},
        "gender": {"kind": "binary"},
        "age": {"kind": "regression", "unit": "years"},
    }
    data = load(
        "edf",
        {"layout": "eegmat", "resample_hz": 100, "window": {"seconds": 4}},
        tasks,
        {"by": "person", "test": 0.25, "validation": 0.15},
        seed=1,
        folder=REAL,
        stores=tmp_path,
    )
    persons = [
        {part.store.recordings[index].person for index in part.recording_index}
        for part in (data.train, data.validation, data.test)
    ]
    assert sum(map(len, persons)) == len(set.union(*persons)) == 36
    assert len(data.train.store) == 72
    ages = data.train.labels.values["age"].double()
    assert data.tasks["age"].center == pytest.approx(float(ages.mean()))
    assert data.tasks["age"].scale == pytest.approx(float(ages.std(correction=0)))
    assert data.tasks["state"].class_names == ("rest", "arithmetic")
    assert data.train.input_shape == (400, 8)
    # 182 s of rest and 62 s of arithmetic, in windows of 4 s.
    assert data.about["rows"]["test"] == len(persons[2]) * (45 + 15)
