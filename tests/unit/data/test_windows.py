"""Windows: where they are by a naive loop, what they read by slicing, and what they refuse."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import taskloom as tl
from _recording_stores import write_store
from taskloom.data.batch import TaskDataset, make_loader
from taskloom.data.normalize import Normalizer
from taskloom.data.recordings import RecordingStore, RecordingWriter
from taskloom.data.windows import WindowDataset, compute_window_starts, recording_window_starts
from taskloom.errors import ConfigError, DataError

TASKS = tl.TaskSet(tl.Multiclass("gait", ("stand", "walk", "lie")))
OWN_NULL = tl.TaskSet(tl.Multiclass("gait", ("NULL", "stand", "walk", "lie")))


def _windows(store: RecordingStore, tasks: tl.TaskSet = TASKS, **settings: Any) -> WindowDataset:
    return WindowDataset(store, tasks, **{"window_samples": 8, "stride_samples": 3, **settings})


# -- index arithmetic


@pytest.mark.parametrize("length", range(23))
@pytest.mark.parametrize("window", [1, 4, 7])
@pytest.mark.parametrize("stride", [1, 3, 9])
def test_starts_equal_a_loop(length: int, window: int, stride: int) -> None:
    expected, start = [], 0
    while start + window <= length:
        expected.append(start)
        start += stride
    assert compute_window_starts(length, window, stride).tolist() == expected
    shifted = compute_window_starts(length, window, stride, last="shift").tolist()
    assert shifted[: len(expected)] == expected
    if expected:
        assert shifted[-1] == length - window  # every sample at the end is used
        assert len(shifted) <= len(expected) + 1
    else:
        assert shifted == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((9, 0, 1), "window_samples: 1 sample or more expected, found 0"),
        ((9, 1, 0), "stride_samples"),
        ((9, 1, 1, "pad"), "last: `pad` is not known"),
    ],
)
def test_refuses_impossible_windows(arguments: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        compute_window_starts(*arguments)


def test_no_window_touches_a_gap_or_crosses_an_end(tmp_path: Path) -> None:
    gaps = [[(10, 12), (30, 30)], [], [(0, 5)]]
    store = write_store(tmp_path / "store", [50, 29, 40], per_recording=[{"gaps": gap} for gap in gaps])
    for last in ("drop", "shift"):
        windows = _windows(store, last=last)
        for start, index in zip(windows.starts, windows.recording_index, strict=True):
            recording = store.recordings[index]
            inside = start - recording.start
            assert 0 <= inside <= recording.length - 8
            for gap_start, gap_stop in recording.gaps:
                assert inside + 8 <= gap_start or inside >= gap_stop
    # by hand: segments of R0 are [0, 10), [12, 30), [30, 50)
    assert recording_window_starts(store.recordings[0], 8, 3).tolist() == [
        0,
        12,
        15,
        18,
        21,
        30,
        33,
        36,
        39,
        42,
    ]
    assert recording_window_starts(store.recordings[0], 8, 3, "shift").tolist() == [
        *(0, 2, 12, 15, 18, 21, 22),
        *(30, 33, 36, 39, 42),
    ]  # fmt: skip


# -- what is read


def test_a_batch_is_what_slicing_gives(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [50, 29])
    windows = _windows(store)
    assert isinstance(windows, TaskDataset)
    assert windows.input_shape == (8, 3)
    rows = np.random.default_rng(0).permutation(len(windows)).tolist()
    batch = windows.__getitems__(rows)
    expected = np.stack([store.samples[start : start + 8] for start in windows.starts[rows]])
    np.testing.assert_array_equal(batch.inputs.numpy(), expected)
    assert batch.inputs.is_contiguous()
    assert batch.inputs.dtype == torch.float32
    assert batch.index.tolist() == rows
    every = windows.labels
    assert torch.equal(batch.labels.values["gait"], every.values["gait"][rows])
    assert torch.equal(batch.labels.present["gait"], every.present["gait"][rows])


def test_a_batch_is_a_copy(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [50])
    windows = _windows(store)
    before = store.samples.copy()
    windows.__getitems__([0, 1]).inputs.zero_()
    np.testing.assert_array_equal(store.samples, before)
    assert windows.__getitems__([]).inputs.shape == (0, 8, 3)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    "names",
    [["c0"], ["c1", "c2"], ["c1", "c3", "c5"], ["c4", "c0"], ["c0", "c1", "c3"], [f"c{i}" for i in range(6)]],
)
def test_some_channels(tmp_path: Path, names: list[str], num_threads: int) -> None:
    store = write_store(tmp_path / "store", [50], channels=6)
    windows = _windows(store, channels=names)
    whole = _windows(store).__getitems__([2, 0, 7]).inputs
    columns = [int(name[1:]) for name in names]
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)  # decides who copies
    try:
        batch = windows.__getitems__([2, 0, 7]).inputs
        empty = windows.__getitems__([]).inputs
    finally:
        torch.set_num_threads(threads)
    assert empty.shape == (0, 8, len(names))
    torch.testing.assert_close(batch, whole[:, :, columns], rtol=0, atol=0)
    assert batch.is_contiguous()
    assert windows.input_shape == (8, len(names))


def test_a_window_as_long_as_the_store(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [8])
    np.testing.assert_array_equal(_windows(store).__getitems__([0]).inputs[0], store.samples)


def test_parts_and_variants(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [50, 29])
    windows = _windows(store)
    part = windows.subset([4, 9, 1])
    assert len(part) == 3
    assert torch.equal(part.__getitems__([1]).inputs, windows.__getitems__([9]).inputs)
    assert torch.equal(part.labels.values["gait"], windows.labels.values["gait"][[4, 9, 1]])
    assert part.__getitems__([2]).index.tolist() == [2]
    nested = part.subset(np.array([2]))
    assert nested.starts.tolist() == [windows.starts[1]]
    normalizer = Normalizer(np.ones(3), np.full(3, 2.0))
    torch.testing.assert_close(
        part.with_normalizer(normalizer).__getitems__([0, 1]).inputs,
        (part.__getitems__([0, 1]).inputs - 1) / 2,
    )
    assert part.normalizer is None
    with pytest.raises(DataError, match="3 channels expected, found one of 2"):
        part.with_normalizer(Normalizer(np.ones(2), np.ones(2)))


def test_tasks_can_be_replaced_by_standardised_ones(tmp_path: Path) -> None:
    labels = [{"labels": {"age": 30}}, {"labels": {"age": 50}}]
    store = write_store(tmp_path / "store", [8, 8], per_recording=labels)
    tasks = tl.TaskSet(TASKS["gait"], tl.Regression("age"))
    windows = _windows(store, tasks)
    fitted = windows.with_tasks(tasks.fit(windows.labels))
    assert fitted.tasks["age"].center == 40.0  # type: ignore[attr-defined]
    assert fitted.labels.values["age"].tolist() == [30.0, 50.0]
    assert list(windows.with_tasks(tasks.subset(["age"])).labels.values) == ["age"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_gives_every_window_once(tmp_path: Path, num_workers: int) -> None:
    store = write_store(tmp_path / "store", [80, 61])
    windows = _windows(store, label_rule="per_sample").with_normalizer(Normalizer(np.ones(3), np.ones(3)))
    seen = []
    for batch in make_loader(windows, 7, shuffle=True, seed=3, num_workers=num_workers):
        expected = windows.__getitems__(batch.index.tolist())
        assert torch.equal(batch.inputs, expected.inputs)
        assert torch.equal(batch.labels.values["gait"], expected.labels.values["gait"])
        seen += batch.index.tolist()
    assert sorted(seen) == list(range(len(windows)))


def test_pickles_without_samples(tmp_path: Path) -> None:
    windows = _windows(write_store(tmp_path / "store", [20_000]), stride_samples=100)
    windows.__getitems__([0])
    content = pickle.dumps(windows)
    assert len(content) < 20_000  # the samples are 240,000 bytes
    assert torch.equal(pickle.loads(content).__getitems__([5]).inputs, windows.__getitems__([5]).inputs)


# -- labels, NULL and groups


def test_dropping_null_leaves_the_other_windows_as_they_were(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [200])
    kept, dropped = _windows(store), _windows(store, null="drop")
    present = kept.labels.present["gait"]
    assert 0 < dropped.num_dropped == int((~present).sum())
    np.testing.assert_array_equal(dropped.starts, kept.starts[present.numpy()])
    assert dropped.labels.present["gait"].all()
    assert torch.equal(dropped.labels.values["gait"], kept.labels.values["gait"][present])


def test_rules_per_task(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [60])
    tasks = tl.TaskSet(*OWN_NULL.values(), tl.Multiclass("end", OWN_NULL["gait"].class_names))
    windows = _windows(store, tasks, sources={"end": "gait"}, label_rule={"end": "last"}, null="own_class")
    names = [store.track_tables["gait"][int(code)] for code in store.tracks[windows.starts + 7, 0]]
    found = windows.labels.values["end"]
    assert [tasks["end"].class_names[index] for index in found] == names
    majority = _windows(store, OWN_NULL, null="own_class").labels.values["gait"]
    assert torch.equal(windows.labels.values["gait"], majority)
    with pytest.raises(ConfigError, match=r"label_rule\.ende is not a task\. Did you mean `end`"):
        _windows(store, tasks, sources={"end": "gait"}, label_rule={"ende": "last"})


def test_groups(tmp_path: Path) -> None:
    about = [
        {"person": "B", "trial": "1"},
        {"person": "A", "trial": "1"},
        {"person": "B", "trial": "2"},
    ]
    store = write_store(tmp_path / "store", [8, 11, 8], per_recording=about)
    assert _windows(store).groups.tolist() == [1, 0, 0, 1]
    assert _windows(store, group_by="trial").groups.tolist() == [1, 0, 0, 2]  # trial 1 of A is not that of B
    assert _windows(store, group_by="recording").groups.tolist() == [0, 1, 1, 2]
    assert _windows(store).subset([0, 3]).groups.tolist() == [0, 0]
    assert _windows(store).group_index("trial")[1] == ("A/1", "B/1", "B/2")
    with pytest.raises(DataError, match="R0: no session is known"):
        _windows(store, group_by="session")
    with pytest.raises(DataError, match="Did you mean `person`"):
        _windows(store, group_by="persons")


def test_groups_fall_back_to_what_every_recording_has(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a", [8, 8], per_recording=[{"person": "A", "trial": 1}, {"trial": 1}])
    assert _windows(store).group_by == "trial"
    assert _windows(write_store(tmp_path / "b", [8, 8])).group_by == "recording"


def test_covered_ranges_mark_exactly_the_samples_of_some_window(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [40, 30, 40], per_recording=[{"gaps": [(20, 22)]}, {}, {}])
    for stride in (1, 5, 11):
        windows = _windows(store, stride_samples=stride).subset(np.arange(0, 12 // stride + 2))
        covered = np.zeros(store.num_samples, dtype=int)
        for start in windows.starts:
            covered[start : start + 8] = 1
        marked = np.zeros(store.num_samples, dtype=int)
        for start, stop in windows.covered_ranges():
            marked[start:stop] += 1
            assert (
                len({index for index, r in enumerate(store.recordings) if start < r.stop and stop > r.start})
                == 1
            )
        np.testing.assert_array_equal(marked, covered)
    assert windows.subset([]).covered_ranges() == []


# -- bad input


def test_refuses_short_recordings_or_skips_them(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [20, 7, 10], per_recording=[{}, {}, {"gaps": [(4, 5)]}])
    with pytest.raises(DataError, match=r"recording R1: a window takes 8 samples.* has 7"):
        _windows(store)
    windows = _windows(store, short="skip")
    assert windows.skipped == ("R1", "R2")
    assert windows.starts.tolist() == [0, 3, 6, 9, 12]
    with pytest.raises(DataError, match="no recording has room for a window of 21"):
        _windows(store, short="skip", window_samples=21)
    with pytest.raises(ConfigError, match="short: `ignore` is not known"):
        _windows(store, short="ignore")


def test_refuses_tasks_that_the_store_does_not_have(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [20], per_recording=[{"labels": {"age": 3}}])
    sentence = r"tasks\.gate: no track or label of that name\. Did you mean `gait`\? Tracks: gait; .*: age\."
    with pytest.raises(DataError, match=sentence):
        _windows(store, tl.TaskSet(tl.Multiclass("gate")))
    with pytest.raises(DataError, match=r"tasks\.gait\.column: no track or label `aeg`\. Did you mean `age`"):
        _windows(store, tl.TaskSet(tl.Binary("gait")), sources={"gait": "aeg"})


def test_refuses_to_drop_everything(tmp_path: Path) -> None:
    codes = np.zeros((20, 1), dtype=int)
    store = write_store(tmp_path / "store", [20], per_recording=[{"tracks": codes}])
    with pytest.raises(DataError, match="every one of the 5 windows is NULL"):
        _windows(store, null="drop")


def test_a_row_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    windows = _windows(write_store(tmp_path / "store", [20]))
    with pytest.raises(IndexError):
        windows.__getitems__([5])


def test_memory_of_the_index_is_a_few_bytes_a_window(tmp_path: Path) -> None:
    with RecordingWriter(
        tmp_path / "store", channels=["x"], rate_hz=1.0, tracks={"gait": {1: "stand"}}
    ) as writer:
        writer.add("A", np.zeros((50_000, 1)), np.ones((50_000, 1), dtype=int))
        writer.close(sources={}, reader="test", parameters={})
    windows = _windows(RecordingStore.open(tmp_path / "store"), stride_samples=1)
    assert len(pickle.dumps(windows)) < 7 * len(windows)  # 4 of the start, 2 of the label
