"""Splits: what is drawn, what stays together, and every refusal."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import taskloom as tl
from _recording_stores import write_store
from taskloom.data.splits import (
    Parts,
    SplitRule,
    check_classes,
    split_by_group,
    split_by_time,
    split_by_values,
    split_fold,
    split_rows,
    split_windows,
    split_within,
    verify_no_leak,
)
from taskloom.data.windows import WindowDataset
from taskloom.errors import ConfigError, DataError

TASKS = tl.TaskSet(tl.Multiclass("gait", ("NULL", "stand", "walk", "lie")))
PEOPLE, RUNS = "ABCDE", ("ADL1", "ADL2", "ADL3")


@pytest.fixture
def windows(tmp_path: Path) -> WindowDataset:
    """Three recordings of each of five people."""
    about = [
        {
            "name": f"{person}-{run}",
            "person": person,
            "trial": run,
            "labels": {
                "site": "north" if person in "AB" else "south",
                "side": "test" if person == "E" else "rest",
            },
        }
        for person, run in itertools.product(PEOPLE, RUNS)
    ]
    store = write_store(tmp_path / "store", [120 + 7 * index for index in range(15)], per_recording=about)
    return WindowDataset(store, TASKS, window_samples=8, stride_samples=3, null="own_class", last="shift")


def _split(windows: WindowDataset, seed: int = 0, **settings: Any) -> Parts:
    return split_windows(windows, SplitRule.from_settings(settings), seed=seed)


def _recordings(windows: WindowDataset, rows: np.ndarray) -> set[str]:
    return {windows.store.recordings[index].name for index in windows.recording_index[rows]}


def _share_samples(windows: WindowDataset, parts: Parts) -> bool:
    """By marking samples, one part at a time."""
    marks = np.zeros(windows.store.num_samples, dtype=int)
    for _, rows in parts.items():
        covered = np.zeros(len(marks), dtype=bool)
        for start in windows.starts[rows]:
            covered[start : start + windows.window_samples] = True
        marks += covered
    return bool((marks > 1).any())


# -- by group


@pytest.mark.parametrize("by", ["recording", "person", "trial"])
@pytest.mark.parametrize("seed", range(4))
def test_a_group_stays_on_one_side_and_every_window_is_used(
    windows: WindowDataset, by: str, seed: int
) -> None:
    parts = _split(windows, seed, by=by, test=0.2, validation=0.2)
    index, names = windows.group_index(by)
    groups = [set(index[rows].tolist()) for _, rows in parts.items()]
    assert sum(len(group) for group in groups) == len(set.union(*groups)) == len(names)
    assert len(groups[1]) == len(groups[2]) == round(0.2 * len(names))
    rows = np.concatenate([rows for _, rows in parts.items()])
    assert sorted(rows.tolist()) == list(range(len(windows)))
    assert all((np.diff(rows) > 0).all() for _, rows in parts.items())
    assert not _share_samples(windows, parts)


def test_the_same_seed_draws_the_same(windows: WindowDataset) -> None:
    first, second = _split(windows, 3, by="recording"), _split(windows, 3, by="recording")
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(first.items(), second.items(), strict=True))
    tests = {
        tuple(sorted(_recordings(windows, _split(windows, seed, by="recording").test))) for seed in range(8)
    }
    assert len(tests) > 4
    rule = SplitRule("recording", seed=9)
    own = [split_windows(windows, rule, seed=seed).test.tolist() for seed in range(3)]
    assert own[0] == own[1] == own[2]


def test_test_does_not_depend_on_validation() -> None:
    groups = np.arange(40)
    kept = [split_by_group(groups, test=0.25, validation=v, seed=1).test.tolist() for v in (0.1, 0.3, 0.5)]
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.parametrize(
    ("num_groups", "sizes"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (10, (7, 1, 2)), (36, (25, 4, 7))]
)
def test_fractions_are_of_groups(num_groups: int, sizes: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    groups = random.permutation(np.repeat(np.arange(num_groups), random.integers(1, 30, num_groups)))
    parts = split_by_group(groups, test=0.2, validation=0.1, seed=0)
    assert tuple(len(np.unique(groups[rows])) for _, rows in parts.items()) == sizes


def test_too_few_groups() -> None:
    with pytest.raises(DataError, match="at least 3 different values of person are needed, found 2"):
        split_by_group(["A", "B", "B"], test=0.2, validation=0.2, seed=0, noun="person")


def test_strata_are_spread_over_the_parts() -> None:
    groups = np.repeat(np.arange(36), 5)
    good = np.repeat(np.arange(36) < 24, 5)  # eegmat: 24 good, 12 bad
    for seed in range(5):
        parts = split_by_group(groups, test=0.25, validation=0.25, seed=seed, strata=good)
        for _, rows in parts.items():
            assert good[rows].mean() == pytest.approx(24 / 36)


def test_a_stratum_of_one_group_still_gives_exact_sizes() -> None:
    strata = np.array([0] * 9 + [1])
    for seed in range(10):
        counts = split_by_group(np.arange(10), test=0.3, validation=0.2, seed=seed, strata=strata).counts()
        assert counts == {"train": 5, "validation": 2, "test": 3}


@pytest.mark.parametrize("stratified", [False, True])
def test_folds_cover_every_group_once(stratified: bool) -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), random.integers(1, 9, 20))
    strata = groups % 4 == 0 if stratified else None
    tests = []
    for fold in range(4):
        parts = split_fold(groups, folds=4, fold=fold, validation=0.2, seed=5, strata=strata)
        sides = [set(groups[rows].tolist()) for _, rows in parts.items()]
        assert len(sides[0]) + len(sides[1]) + len(sides[2]) == 20
        assert len(sides[1]) == 4
        tests += list(sides[2])
        if stratified:
            assert sum(group % 4 == 0 for group in sides[2]) in (1, 2)
    assert sorted(tests) == list(range(20))


def test_folds_by_rule(windows: WindowDataset) -> None:
    people = [
        {name[0] for name in _recordings(windows, _split(windows, by="person", folds=5, fold=fold).test)}
        for fold in range(5)
    ]
    assert sorted("".join(*fold) for fold in people) == list(PEOPLE)


def test_within_person_puts_every_person_into_every_part(windows: WindowDataset) -> None:
    parts = _split(windows, by="within_person", test=0.3, validation=0.3)
    for _, rows in parts.items():
        assert sorted(name[0] for name in _recordings(windows, rows)) == list(PEOPLE)
    with pytest.raises(DataError, match="three recordings of every person, found 2 of P"):
        split_within([0, 0, 1], [0, 0, 0], test=0.3, validation=0.3, seed=0, outer_names=["P"])


# -- by time


@pytest.mark.parametrize("gap", [0, 10])
def test_time_cuts_leave_the_gap(windows: WindowDataset, gap: int) -> None:
    parts = _split(windows, by="time", test=0.25, validation=0.25, gap=gap)
    assert not _share_samples(windows, parts)
    for index, recording in enumerate(windows.store.recordings):
        begins = [
            windows.starts[rows][windows.recording_index[rows] == index] - recording.start
            for _, rows in parts.items()
        ]
        assert begins[1].min() - (begins[0].max() + 8) >= gap
        assert begins[2].min() - (begins[1].max() + 8) >= gap
        assert begins[0].min() == 0
        assert begins[2].max() + 8 == recording.length


def test_time_cuts_by_hand(tmp_path: Path) -> None:
    windows = WindowDataset(
        write_store(tmp_path / "s", [20]), TASKS, window_samples=2, stride_samples=1, null="own_class"
    )
    parts = split_by_time(windows, test=0.25, validation=0.25, gap_samples=1)
    assert parts.train.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]  # the last one ends at sample 10
    assert parts.validation.tolist() == [11, 12, 13]
    assert parts.test.tolist() == [16, 17, 18]


# -- as listed


def test_files(windows: WindowDataset) -> None:
    listed = {"test": ["*-ADL3"], "validation": "*-ADL2"}
    parts = _split(windows, by="files", files=listed)
    assert _recordings(windows, parts.test) == {f"{person}-ADL3" for person in PEOPLE}
    assert _recordings(windows, parts.validation) == {f"{person}-ADL2" for person in PEOPLE}
    assert _recordings(windows, parts.train) == {f"{person}-ADL1" for person in PEOPLE}
    parts = _split(windows, by="files", files={**listed, "train": ["A-ADL1", "B-*1"]})
    assert _recordings(windows, parts.train) == {"A-ADL1", "B-ADL1"}
    drawn = _split(windows, by="files", files={"test": ["*-ADL3"]}, validation=0.2)
    assert len(_recordings(windows, drawn.validation)) == 2
    assert not _share_samples(windows, drawn)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"test": ["*-ADL9"]}, r"split\.files\.test: no recording matches `\*-ADL9`.*There are 15"),
        ({"test": ["*-ADL3"], "validation": ["A-*"]}, "recording A-ADL3 stands in test and in validation"),
    ],
)
def test_files_refuse(windows: WindowDataset, files: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        _split(windows, by="files", files=files)


def test_column_of_a_store(windows: WindowDataset) -> None:
    parts = _split(windows, by="person", column="side", validation=0.25)
    assert {name[0] for name in _recordings(windows, parts.test)} == {"E"}
    assert len({name[0] for name in _recordings(windows, parts.validation)}) == 1
    with pytest.raises(
        DataError, match=r"split\.validation: column `side` has no value `validation`.*test, rest|rest, test"
    ):
        _split(windows, by="column", column="side")


def test_values_of_a_column() -> None:
    values = np.array([0, 1, 2, 0, 1, 0])  # CelebA: 0 train, 1 validation, 2 test
    parts = split_by_values(values, test=["2"], validation=["1"])
    assert (parts.train.tolist(), parts.validation.tolist(), parts.test.tolist()) == ([0, 3, 5], [1, 4], [2])
    drawn = split_by_values(values, test=["1"], validation=0.25, seed=1)
    assert drawn.counts() == {"train": 3, "validation": 1, "test": 2}
    with pytest.raises(DataError, match=r"no value `tset`\. Did you mean `test`"):
        split_by_values(["train", "test"], test=["tset"], validation=0.5)


# -- tables


def test_rows_of_a_table() -> None:
    people = np.repeat(["P1", "P2", "P3", "P4"], [5, 1, 2, 9])
    parts = split_rows(17, {"subject#": people}, SplitRule.from_settings({"by": "subject#"}), seed=0)
    assert sum(len(set(people[rows])) for _, rows in parts.items()) == 4
    random = split_rows(100, {}, SplitRule("rows", test=0.2, validation=0.1), seed=0)
    assert random.counts() == {"train": 70, "validation": 10, "test": 20}


def test_a_person_on_two_sides_is_named() -> None:
    people = ["P07"] * 5 + ["P08"] * 3
    side = ["train"] * 4 + ["test"] + ["validation"] * 3
    with pytest.raises(
        DataError,
        match=r"person P07 stands in train \(4 rows\) and test \(1\)\. `by: person` keeps a person on one "
        "side; person P07 has two values of `split`",
    ):
        split_rows(8, {"person": people, "split": side}, SplitRule("person", column="split"), seed=0)
    parts = split_rows(8, {"split": side}, SplitRule("column", column="split"), seed=0)
    assert parts.counts() == {"train": 4, "validation": 3, "test": 1}


@pytest.mark.parametrize("empty", [None, float("nan"), ""])
def test_an_empty_cell_in_the_groups_is_refused(empty: Any) -> None:
    with pytest.raises(DataError, match="column `person` is empty in row 2"):
        split_rows(4, {"person": ["A", "B", empty, "C"]}, SplitRule("person"), seed=0)


def test_tables_refuse_what_is_for_recordings_and_unknown_columns() -> None:
    with pytest.raises(ConfigError, match="`time` is for recordings"):
        split_rows(4, {}, SplitRule("time"), seed=0)
    with pytest.raises(DataError, match=r"no column `persn`\. Did you mean `person`"):
        split_rows(4, {"person": list("ABCD")}, SplitRule("persn"), seed=0)


# -- leaks and classes


def test_overlapping_windows_drawn_by_row_leak(windows: WindowDataset) -> None:
    with pytest.raises(
        DataError, match=r"in recording A-ADL1 the windows at samples \d+ .* share \d+ samples"
    ):
        _split(windows, by="rows")


def test_windows_that_do_not_overlap_may_be_drawn_by_row(windows: WindowDataset) -> None:
    apart = WindowDataset(windows.store, TASKS, window_samples=8, stride_samples=8, null="own_class")
    parts = _split(apart, by="rows")
    assert not _share_samples(apart, parts)


def test_leaks_are_found_exactly(windows: WindowDataset) -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(60):
        rows = random.permutation(len(windows))[: random.integers(3, 25)]
        parts = Parts(*np.array_split(rows, 3))
        found.append(_share_samples(windows, parts))
        if found[-1]:
            with pytest.raises(DataError, match="share"):
                verify_no_leak(windows, parts)
        else:
            verify_no_leak(windows, parts)
    assert any(found)
    assert not all(found)
    with pytest.raises(DataError, match="share 8 samples"):
        verify_no_leak(windows, Parts(np.array([0]), np.array([9]), np.array([0])))


def _labels(**columns: list[int | None]) -> tl.Labels:
    return tl.Labels(
        {name: torch.tensor([value or 0 for value in column]) for name, column in columns.items()},
        {name: torch.tensor([value is not None for value in column]) for name, column in columns.items()},
    )


HALVES = Parts(np.array([0, 1]), np.array([2]), np.array([3]))


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (
            [0, 1, 0, 2],
            r"split: task y: test .* `c`, which train never .* \(1 label in all\)\. Set `split\.stratify: y`",
        ),
        ([0, 1, 2, 0], "task y: validation has 1 label of class `c`"),
        ([1, 1, 1, 1], "task y: every label of train is `b`"),
        ([None, 1, 0, 0], "task y: every label of train is `b`"),
        ([None, None, 1, 0], "task y: none of the 2 rows of train has a label for it; leave"),
        ([None, None, None, None], "no other row has one either"),
    ],
)
def test_classes_that_cannot_be_learned(column: list[int | None], sentence: str) -> None:
    tasks = tl.TaskSet(tl.Multiclass("y", ("a", "b", "c")))
    with pytest.raises(DataError, match=sentence):
        check_classes(_labels(y=column), tasks, HALVES)


def test_holes_in_test_and_unused_classes_are_fine() -> None:
    tasks = tl.TaskSet(tl.Multiclass("y", ("a", "b", "c")), tl.Regression("z"))
    labels = _labels(y=[0, 1, None, None], z=[5, None, None, None])
    check_classes(labels, tasks, HALVES)
    with pytest.raises(DataError, match=r"tasks\.w: no row has a label"):
        check_classes(labels, tl.TaskSet(tl.Binary("w")), HALVES)


def test_a_split_by_rule_checks_classes(tmp_path: Path) -> None:
    codes = [[1] * 30, [2] * 30, [1, 2] * 15, [5] * 30]
    about = [{"tracks": np.array(column)[:, None]} for column in codes]
    store = write_store(tmp_path / "store", [30] * 4, per_recording=about)
    tasks = tl.TaskSet(tl.Multiclass("gait", ("stand", "walk", "lie")))
    windows = WindowDataset(store, tasks, window_samples=5, stride_samples=5)
    files = {"train": ["R0", "R1"], "validation": ["R2"], "test": ["R3"]}
    with pytest.raises(DataError, match="task gait: test has 6 labels of class `lie`"):
        _split(windows, by="files", files=files)


def test_an_empty_part_is_refused(windows: WindowDataset) -> None:
    with pytest.raises(
        DataError, match=r"`by: time` leaves validation without a row \(train \d+, validation 0"
    ):
        _split(windows, by="time", gap=60)


# -- settings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"by": "person", "tset": 0.2}, r"split\.tset is not a setting\. Did you mean `test`\?"),
        ({"test": 0.2}, r"split\.by is missing"),
        ({"by": "person", "test": 1.5}, "above 0 and below 1 expected, found 1.5"),
        ({"by": "person", "test": 0.5, "validation": 0.5}, "leave nothing to train on"),
        ({"by": "person", "test": "last"}, "a fraction expected, found 'last'"),
        ({"by": "person", "folds": 5}, "`folds` and `fold` go together"),
        ({"by": "person", "folds": 5, "fold": 5}, "found fold 5 of 5"),
        ({"by": "time", "folds": 5, "fold": 1}, "folds are of groups"),
        ({"by": "person", "folds": 5, "fold": 1, "test": 0.2}, "leave `test` out"),
        ({"by": "person", "gap": 3}, "only with `by: time`"),
        ({"by": "files"}, "`by: files` needs them"),
        ({"by": "files", "files": {"tests": "x"}}, "Did you mean `test`"),
        ({"by": "files", "files": {"train": "x"}}, r"split\.files\.test is missing"),
        ({"by": "files", "files": "x"}, "patterns per part"),
        ({"by": "column"}, "needs the column's name"),
        ({"by": "time", "column": "split"}, "does not go with `by: time`"),
        ({"by": "column", "column": "split", "test": 0.2}, "the values that mean test are expected"),
        ({"by": "time", "gap": "3 s"}, "gap: a whole number expected, found '3 s'"),
        ({"by": "person", "seed": True}, "seed: a whole number expected"),
        ({"by": "column", "column": 3}, "column: text expected, found 3"),
        ({"by": "time", "stratify": "y"}, "only where groups or rows are drawn"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        SplitRule.from_settings(settings)


def test_settings_survive_as_plain_values() -> None:
    settings = {"by": "column", "column": "split", "test": [1, 2], "validation": 0.1, "seed": 4}
    rule = SplitRule.from_settings(settings)
    assert rule.test == ("1", "2")
    assert SplitRule.from_settings(rule.to_dict()) == rule


def test_unknown_groups_suggest_the_nearest(windows: WindowDataset) -> None:
    sentence = r"split\.by: `persons` is not a rule .* Did you mean `person`\? Rules: .* within_person"
    with pytest.raises(ConfigError, match=sentence):
        _split(windows, by="persons")


def test_stratify_by_task_and_by_label(windows: WindowDataset) -> None:
    parts = _split(windows, by="recording", stratify="site", test=0.4, validation=0.2)
    north = [sum(name[0] in "AB" for name in _recordings(windows, rows)) for _, rows in parts.items()]
    assert north[2] in (2, 3)  # 6 of 15 recordings are north, 6 are drawn
    assert sum(north) == 6
    _split(windows, by="recording", stratify="gait")
    with pytest.raises(DataError, match="no `height` to group by"):
        _split(windows, by="recording", stratify="height")
