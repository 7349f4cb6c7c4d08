"""The normaliser, against NumPy over the covered samples and scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

import taskloom as tl
from _recording_stores import write_store
from taskloom.data import normalize
from taskloom.data.normalize import Normalizer
from taskloom.data.recordings import RecordingStore, RecordingWriter
from taskloom.data.windows import WindowDataset
from taskloom.errors import ConfigError, DataError

TASKS = tl.TaskSet(tl.Binary("y"))


def _store(
    folder: Path, recordings: list[np.ndarray], persons: list[str | None] | None = None
) -> RecordingStore:
    channels = [f"c{index}" for index in range(recordings[0].shape[1])]
    with RecordingWriter(folder, channels=channels, rate_hz=1.0) as writer:
        for index, samples in enumerate(recordings):
            person = persons[index] if persons else None
            writer.add(f"R{index}", samples, labels={"y": index % 2}, person=person)
        writer.close(sources={}, reader="test", parameters={})
    return RecordingStore.open(folder)


def _windows(store: RecordingStore, **settings: Any) -> WindowDataset:
    return WindowDataset(store, TASKS, **{"window_samples": 4, "stride_samples": 2, **settings})


def test_every_covered_sample_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalize, "_CHUNK_SAMPLES", 7)
    random = np.random.default_rng(0)
    recordings = [random.normal(3, 2, size=(length, 5)).astype(np.float32) for length in (50, 33, 21)]
    train = _windows(_store(tmp_path / "store", recordings)).subset(random.permutation(40)[:13])
    covered = sorted({start + step for start in train.starts.tolist() for step in range(4)})
    samples = np.concatenate(recordings).astype(np.float64)[covered]
    found = Normalizer.fit(train)
    reference = StandardScaler().fit(samples)
    np.testing.assert_allclose(found.mean, reference.mean_, rtol=1e-12)
    np.testing.assert_allclose(found.scale, reference.scale_, rtol=1e-12)


def test_test_windows_do_not_matter(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(20, 2)), random.normal(size=(20, 2))
    fits = []
    for name, other in (("a", second), ("b", second * 1e6)):
        windows = _windows(_store(tmp_path / name, [first, other]))
        fits.append(Normalizer.fit(windows.subset(np.flatnonzero(windows.recording_index == 0))))
    np.testing.assert_array_equal(fits[0].mean, fits[1].mean)
    np.testing.assert_array_equal(fits[0].scale, fits[1].scale)


def test_a_large_offset_costs_no_precision(tmp_path: Path) -> None:
    # 2**20 + {0, 1}: exact in float32; a naive sum of squares in float32 would lose the deviation of 0.5.
    samples = (2.0**20 + np.tile([0.0, 1.0], 20_000))[:, None]
    found = Normalizer.fit(_windows(_store(tmp_path / "store", [samples])))
    np.testing.assert_allclose([found.mean[0], found.scale[0]], [2.0**20 + 0.5, 0.5], rtol=1e-14)


def test_constant_channels_get_scale_one_and_are_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples = np.stack([random.normal(size=30_000), np.full(30_000, 0.1)], axis=1)
    found = Normalizer.fit(_windows(_store(tmp_path / "store", [samples]), stride_samples=4))
    assert found.constant_channels == ("c1",)
    assert found.scale[1] == 1.0
    assert found.mean[1] == np.float32(0.1)
    batch = _windows(_store(tmp_path / "again", [samples])).with_normalizer(found).__getitems__([0, 9])
    assert (batch.inputs[:, :, 1] == 0).all()


def test_clipping_is_at_so_many_standard_deviations(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(5, 3, size=(4_000, 1))
    samples[100] = 900.0
    windows = _windows(_store(tmp_path / "store", [samples]), stride_samples=1)
    found = Normalizer.fit(windows, clip=2.0)
    batch = windows.with_normalizer(found).__getitems__(range(len(windows)))
    stored = samples.astype(np.float32).astype(np.float64)[:, 0]
    low, high = stored.mean() - 2 * stored.std(), stored.mean() + 2 * stored.std()
    expected = (np.clip(stored, low, high) - stored.mean()) / stored.std()
    seen = np.concatenate([batch.inputs[:, 0, 0].numpy(), batch.inputs[-1, 1:, 0].numpy()])
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_only_the_channels_that_are_read(tmp_path: Path) -> None:
    store = _store(tmp_path / "store", [np.random.default_rng(0).normal(size=(40, 3))])
    whole = Normalizer.fit(_windows(store))
    some = Normalizer.fit(_windows(store, channels=["c2", "c0"]))
    np.testing.assert_array_equal(some.mean, whole.mean[[2, 0]])


def test_per_person(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    recordings = [random.normal(offset, scale, size=(40, 2)) for offset, scale in ((0, 1), (50, 9), (1, 1))]
    recordings[1][:, 1] = 7.0
    windows = _windows(_store(tmp_path / "store", recordings, ["B", "A", "B"]))
    found = Normalizer.fit(windows, per="person")
    assert found.persons == ("A", "B")
    assert found.constant_channels == ("A: c1",)
    of_b = np.concatenate([recordings[0], recordings[2]]).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(found.mean[1], of_b.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.scale[1], of_b.std(axis=0), rtol=1e-12)
    rows = [0, len(windows) - 1, 25]  # of B, B and A
    raw = windows.__getitems__(rows).inputs
    expected = (raw - torch.tensor(found.mean[[1, 1, 0], None])) / torch.tensor(found.scale[[1, 1, 0], None])
    torch.testing.assert_close(windows.with_normalizer(found).__getitems__(rows).inputs, expected.float())
    with pytest.raises(DataError, match="person C has no training window"):
        found.apply_(raw, ["A", "B", "C"])


def test_per_person_needs_persons(tmp_path: Path) -> None:
    windows = _windows(_store(tmp_path / "store", [np.zeros((9, 1))] * 2, ["A", None]))
    with pytest.raises(DataError, match="recording R1: its person is not known"):
        Normalizer.fit(windows, per="person")
    with pytest.raises(ConfigError, match="channel or person expected, found 'trial'"):
        Normalizer.fit(windows, per="trial")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one training window"):
        Normalizer.fit(windows.subset([]))


@pytest.mark.parametrize("per", ["channel", "person"])
def test_survives_json(tmp_path: Path, per: Any) -> None:
    random = np.random.default_rng(0)
    recordings = [random.normal(size=(9, 2)), random.normal(size=(9, 2))]
    recordings[0][:, 1] = 0.0
    windows = _windows(_store(tmp_path / "store", recordings, ["A", "B"]))
    found = Normalizer.fit(windows, per=per, clip=4.0)
    again = Normalizer.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict()
    rows = [0, len(windows) - 1]
    assert torch.equal(
        windows.with_normalizer(again).__getitems__(rows).inputs,
        windows.with_normalizer(found).__getitems__(rows).inputs,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([0.0], [0.0]), "scales above 0"),
        (([np.nan], [1.0]), "finite means"),
        (([0.0, 1.0], [1.0]), r"one shape \[channels\] expected, found \[2\] and \[1\]"),
        (([0.0], [1.0], 0.0), r"clip: a number above 0 expected, found 0\.0"),
        (([0.0], [1.0], None, ("A",)), r"\[persons, channels\]"),
    ],
)
def test_refuses_impossible_values(arguments: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Normalizer(*arguments)


def test_the_random_store_is_nearly_standard(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [20_000])
    tasks = tl.TaskSet(tl.Multiclass("gait", ("stand", "walk", "lie")))
    found = Normalizer.fit(WindowDataset(store, tasks, window_samples=64, stride_samples=64))
    np.testing.assert_allclose(found.mean, 0, atol=5 / np.sqrt(20_000))
    np.testing.assert_allclose(found.scale, 1, atol=5 / np.sqrt(40_000))
