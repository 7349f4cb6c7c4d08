"""Labels per window, against a loop that looks at every window."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import taskloom as tl
from _recording_stores import GAIT, write_store
from taskloom.data import label_rules
from taskloom.data.label_rules import recording_column, track_column, window_codes
from taskloom.data.recordings import RecordingStore, RecordingWriter
from taskloom.errors import ConfigError, DataError


def _by_hand(codes: np.ndarray, start: int, window_samples: int, rule: str) -> int:
    window = codes[start : start + window_samples].tolist()
    if rule == "last":
        return window[-1]
    counts = Counter(code for code in window if rule == "majority" or code != 0)
    if not counts:
        return 0
    most = max(counts.values())
    return min(code for code, count in counts.items() if count == most)


@pytest.mark.parametrize("rule", ["majority", "last", "any"])
@pytest.mark.parametrize("window_samples", [1, 2, 7, 64])
def test_rules_equal_a_loop(rule: Any, window_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_rules, "_SPAN_SAMPLES", 50)  # several spans
    random = np.random.default_rng(window_samples)
    codes = random.choice([0, 1, 2, 406516], p=[0.6, 0.2, 0.1, 0.1], size=700)
    starts = np.flatnonzero(random.random(700 - window_samples + 1) < 0.4)
    expected = [_by_hand(codes, start, window_samples, rule) for start in starts]
    np.testing.assert_array_equal(window_codes(codes, starts, window_samples, rule), expected)


@pytest.mark.parametrize(
    ("codes", "majority", "last", "any_code"),
    [
        ([5, 5, 1, 1], 1, 1, 1),  # a tie goes to the smallest
        ([0, 0, 2, 1], 0, 1, 1),  # NULL in the majority; any: a tie among the others
        ([0, 5, 5, 0], 0, 0, 5),  # NULL wins a tie by its code, but not under any
        ([0, 0, 0, 0], 0, 0, 0),
        ([0, 0, 0, 2], 0, 2, 2),
        ([1, 2, 2, 0], 2, 0, 2),
    ],
)
def test_pinned_windows(codes: list[int], majority: int, last: int, any_code: int) -> None:
    for rule, expected in (("majority", majority), ("last", last), ("any", any_code)):
        assert window_codes(np.array(codes), np.array([0]), 4, rule).tolist() == [expected]  # type: ignore[arg-type]


def _store(folder: Path, codes: list[int]) -> RecordingStore:
    column = np.array(codes)[:, None]
    return write_store(folder, [len(codes)], channels=1, per_recording=[{"tracks": column}])


WALKS = tl.Multiclass("gait", ("walk", "stand", "lie"))  # not in code order: matched by name


def test_null_is_kept_as_missing_dropped_or_a_class_of_its_own(tmp_path: Path) -> None:
    store = _store(tmp_path / "store", [0, 0, 1, 2, 5])
    starts = np.arange(5)
    keep = track_column(store, "gait", WALKS, starts, 1, "majority", "keep")
    values, present = keep.gather(slice(None), starts)
    assert present.tolist() == [False, False, True, True, True]
    assert values.tolist() == [0, 0, 1, 0, 2]
    assert keep.dropped(starts) is None
    drop = track_column(store, "gait", WALKS, starts, 1, "majority", "drop")
    dropped = drop.dropped(starts)
    assert dropped is not None
    assert dropped.tolist() == [True, True, False, False, False]
    own = tl.Multiclass("gait", ("NULL", "stand", "walk", "lie"))
    values, present = track_column(store, "gait", own, starts, 1, "majority", "own_class").gather(
        slice(None), starts
    )
    assert values.tolist() == [0, 0, 1, 2, 3]
    assert present.all()


def test_null_can_lose_the_majority_only_by_count(tmp_path: Path) -> None:
    # "keep" does not mean that NULL samples are ignored: 2 of 3 samples are NULL, so the window is.
    store = _store(tmp_path / "store", [0, 0, 5])
    column = track_column(store, "gait", WALKS, np.array([0]), 3, "majority", "keep")
    assert not column.gather(slice(None), np.array([0]))[1].any()


def test_labels_per_sample(tmp_path: Path) -> None:
    store = _store(tmp_path / "store", [0, 1, 5, 0, 0, 0])
    starts = np.array([0, 1, 3])
    column = track_column(store, "gait", WALKS, starts, 3, "per_sample", "drop")
    values, present = column.gather(np.array([1, 0]), starts[[1, 0]])
    assert present.tolist() == [[True, True, False], [False, True, True]]
    assert values.tolist() == [[1, 2, 0], [0, 1, 2]]
    dropped = column.dropped(starts)
    assert dropped is not None
    assert dropped.tolist() == [False, False, True]


def test_classes_match_by_name_or_by_code(tmp_path: Path) -> None:
    store = _store(tmp_path / "store", [1, 2, 5])
    by_code = tl.Multiclass("gait", ("5", "2", "1"))
    starts = np.arange(3)
    values, _ = track_column(store, "gait", by_code, starts, 1, "last", "keep").gather(slice(None), starts)
    assert values.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("task", "rule", "null", "error", "sentence"),
    [
        (
            tl.Regression("gait"),
            "majority",
            "keep",
            DataError,
            "binary or multiclass task is expected, found reg",
        ),
        (WALKS, "most", "keep", ConfigError, r"`most` is not known\. Possible: majority, last"),
        (WALKS, "majority", "dropp", ConfigError, "Did you mean `drop`"),
        (WALKS, "majority", "own_class", ConfigError, "needs a class `NULL`"),
        (tl.Multiclass("gait", ("stand", "wolk")), "last", "keep", DataError, "`walk` .code 2.*`wolk`"),
    ],
)
def test_refuses(
    tmp_path: Path, task: tl.Task, rule: Any, null: Any, error: type[Exception], sentence: str
) -> None:
    store = _store(tmp_path / "store", [0, 1, 2])
    with pytest.raises(error, match=sentence):
        track_column(store, "gait", task, np.arange(3), 1, rule, null)


def test_a_class_that_no_window_has_may_be_left_out(tmp_path: Path) -> None:
    store = _store(tmp_path / "store", [1, 1, 1, 5, 1, 1])  # 5 never has the majority
    task = tl.Multiclass("gait", ("stand", "walk"))
    column = track_column(store, "gait", task, np.array([0, 3]), 3, "majority", "keep")
    assert column.gather(slice(None), np.zeros(2))[0].tolist() == [0, 0]


# -- labels of whole recordings


def _labelled(folder: Path, labels: list[dict[str, Any]]) -> RecordingStore:
    with RecordingWriter(folder, channels=["x"], rate_hz=1.0) as writer:
        for index, entry in enumerate(labels):
            writer.add(f"R{index}", np.zeros((2, 1)), labels=entry)
        writer.close(sources={}, reader="test", parameters={})
    return RecordingStore.open(folder)


def test_recording_labels_of_every_kind(tmp_path: Path) -> None:
    store = _labelled(
        tmp_path / "store",
        [
            {"sex": "F", "age": 31, "grade": 2.0, "pose": [0.5, 1.5], "tags": [1, None]},
            {"sex": None, "age": 40.5, "grade": 1, "pose": None, "tags": [0, True]},
            {"sex": "M"},
        ],
    )
    starts = np.array([4, 3, 0])  # recordings of two samples: R2, R1, R0

    def gathered(name: str, task: tl.Task) -> tuple[list[Any], list[Any]]:
        values, present = recording_column(store, name, task).gather(slice(None), starts)
        assert values.dtype == task.value_dtype
        return values.tolist(), present.tolist()

    assert gathered("sex", tl.Binary("sex", ("F", "M"))) == ([1, 0, 0], [True, False, True])
    assert gathered("age", tl.Regression("age")) == ([0.0, 40.5, 31.0], [False, True, True])
    assert gathered("grade", tl.Multiclass("grade", ("1", "2"))) == ([0, 0, 1], [False, True, True])
    pose = gathered("pose", tl.Regression("pose", size=2))
    assert pose == ([[0, 0], [0, 0], [0.5, 1.5]], [False, False, True])
    tags = gathered("tags", tl.Multilabel("tags", ("hat", "scarf")))
    assert tags == ([[0, 0], [0, 1], [1, 0]], [[False, False], [True, True], [True, False]])


@pytest.mark.parametrize(
    ("task", "value", "sentence"),
    [
        (tl.Binary("y", ("F", "M")), "W", "R0: label `y` is 'W', which is not a class of task y.*F, M"),
        (tl.Regression("y"), "old", "'old'; a number expected"),
        (tl.Regression("y", size=2), [1.0], "2 values expected for task y, found 1"),
        (tl.Multilabel("y", 3), [0, 1], "3 values expected"),
        (tl.Landmarks("y", 3), [0, 1], "no landmarks"),
    ],
)
def test_refuses_recording_labels_that_do_not_fit(
    tmp_path: Path, task: tl.Task, value: Any, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        recording_column(_labelled(tmp_path / "store", [{"y": value}]), "y", task)


def test_the_table_of_the_test_store_has_null() -> None:
    assert GAIT[label_rules.NULL_CODE] == "NULL"
    assert torch.int64 == WALKS.value_dtype
