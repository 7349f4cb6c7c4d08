"""Inspection: counts by naive loops, joint holes, groups, leaks, and a page to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from taskloom.data.batch import DataSplits
from taskloom.data.feature_rows import FeatureRows
from taskloom.data.inspect import PARTS, Inspection, inspect_splits
from taskloom.data.inspect_text import render
from taskloom.data.recordings import RecordingStore, RecordingWriter
from taskloom.data.splits import Parts, verify_no_leak
from taskloom.data.table_source import load_table
from taskloom.data.tables import TableDataset
from taskloom.data.windows import WindowDataset
from taskloom.errors import DataError
from taskloom.tasks import Binary, Labels, Landmarks, Multiclass, Multilabel, Regression, Task, TaskSet

SHARED = Path(__file__).parents[4] / "shared" / "data"
TASKS = TaskSet(
    Regression("age", unit="years"),
    Binary("sex", ("F", "M")),
    Multilabel("tags", ("hat", "scarf")),
    Landmarks("face", ("nose", "chin")),
)
NUM_ROWS = 60


def labels_with_holes(tasks: TaskSet = TASKS, seed: int = 0) -> Labels:
    generator = torch.Generator().manual_seed(seed)
    values, present = {}, {}
    for name, task in tasks.items():
        drawn = torch.randint(0, 2, (NUM_ROWS, *task.value_shape), generator=generator)
        values[name] = drawn.to(task.value_dtype)
        present[name] = torch.rand(NUM_ROWS, *task.presence_shape, generator=generator) < 0.6
    return Labels(values, present)


def splits_of(
    parts: Sequence[Sequence[int]],
    features: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    tasks: TaskSet = TASKS,
) -> DataSplits:
    rows = np.arange(NUM_ROWS, dtype=np.float32)[:, None] if features is None else features.astype(np.float32)
    labels = labels_with_holes(tasks)
    datasets = [TableDataset(FeatureRows(rows), np.array(part), tasks, labels, groups) for part in parts]
    return DataSplits(*datasets, about={}, preprocessing={})


THIRDS = [range(30), range(30, 40), range(40, 60)]


def test_labels_are_counted_as_a_loop_counts_them() -> None:
    found = inspect_splits(splits_of(THIRDS))
    labels = labels_with_holes()
    assert found.rows == {"train": 30, "validation": 10, "test": 20}
    age, sex, tags, face = found.tasks
    for part, rows in zip(PARTS, THIRDS, strict=True):
        counted = {"F": 0, "M": 0, "hat": 0, "scarf": 0, "nose": 0, "chin": 0}
        ages = []
        for row in rows:
            if labels.present["age"][row]:
                ages.append(float(labels.values["age"][row]))
            if labels.present["sex"][row]:
                counted["FM"[int(labels.values["sex"][row])]] += 1
            for k in range(2):
                there, worn = labels.present["tags"][row, k], labels.values["tags"][row, k]
                counted[("hat", "scarf")[k]] += int(there and worn)
                counted[("nose", "chin")[k]] += int(labels.present["face"][row, k])
        assert age.parts[part].present == len(ages)
        assert age.parts[part].missing == len(rows) - len(ages)
        assert age.parts[part].mean == pytest.approx(np.mean(ages))
        assert age.parts[part].deviation == pytest.approx(np.std(ages))
        assert sex.parts[part].counts | tags.parts[part].counts | face.parts[part].counts == counted
        assert tags.parts[part].present + tags.parts[part].missing == 2 * len(rows)
    assert sex.missing_share == pytest.approx(1 - labels.counts()["sex"] / NUM_ROWS)


def test_joint_holes_count_rows_with_any_label_of_both_tasks() -> None:
    found = inspect_splits(splits_of(THIRDS))
    labels = labels_with_holes()
    per_row = [0] * (len(TASKS) + 1)
    for row in range(NUM_ROWS):
        per_row[sum(bool(labels.present[name][row].any()) for name in TASKS)] += 1
    assert list(found.labels_per_row) == per_row
    for i, first in enumerate(TASKS):
        for j, second in enumerate(TASKS):
            both = sum(
                bool(labels.present[first][row].any() and labels.present[second][row].any())
                for row in range(NUM_ROWS)
            )
            assert found.joint[i][j] == both


def test_a_task_without_an_entry_is_missing_everywhere() -> None:
    data = splits_of(THIRDS)
    for part in (data.train, data.validation, data.test):
        del part.labels.values["age"], part.labels.present["age"]
    found = inspect_splits(data)
    assert found.tasks[0].missing_share == 1.0
    assert found.joint[0] == (0, 0, 0, 0)
    assert "100.0 %" in render(found)


def test_a_group_on_two_sides_is_found() -> None:
    groups = [f"p{row // 6}" for row in range(NUM_ROWS)]
    clean = inspect_splits(splits_of(THIRDS, groups=[f"p{row // 10}" for row in range(NUM_ROWS)]))
    assert clean.leaks == ()
    assert clean.groups["train"].count == 3
    assert (clean.groups["train"].smallest, clean.groups["train"].largest) == (10, 10)
    found = inspect_splits(splits_of(THIRDS, groups=groups))
    assert [(leak.what, leak.parts, leak.examples) for leak in found.leaks] == [
        ("groups", ("validation", "test"), ("p6",))
    ]
    assert found.leaks[0].fatal
    assert "1 group stands in validation and in test: p6" in render(found)


def test_equal_inputs_across_parts_are_counted() -> None:
    features = np.random.default_rng(0).normal(size=(NUM_ROWS, 3))
    features[45] = features[2]
    features[46] = features[2]
    features[31] = features[7]
    features[8] = features[7]
    found = inspect_splits(splits_of(THIRDS, features))
    assert [(leak.what, leak.parts, leak.count, leak.examples) for leak in found.leaks] == [
        ("inputs", ("train", "validation"), 1, ("row 32",)),
        ("inputs", ("train", "test"), 2, ("row 46", "row 47")),
    ]
    assert not found.leaks[0].fatal


def windows_of(folder: Path, starts: Sequence[Sequence[int]]) -> DataSplits:
    """Windows of 4 samples at the given starts over two recordings of two people."""
    with RecordingWriter(
        folder / "store", channels=["x"], rate_hz=10.0, tracks={"gait": {0: "stand", 1: "walk"}}
    ) as writer:
        for person in ("a", "b"):
            track = (np.arange(20) // 4 % 2)[:, None]
            writer.add(person, np.random.default_rng(0).normal(size=(20, 1)), tracks=track, person=person)
        writer.close(sources={}, reader="test", parameters={})
    store = RecordingStore.open(folder / "store")
    windows = WindowDataset(
        store, TaskSet(Binary("gait", ("stand", "walk"))), window_samples=4, stride_samples=2
    )
    parts = [windows.subset(np.flatnonzero(np.isin(windows.starts, part))) for part in starts]
    return DataSplits(*parts, about={}, preprocessing={})


def test_windows_of_one_person_on_two_sides_are_found_by_name(tmp_path: Path) -> None:
    found = inspect_splits(windows_of(tmp_path, [[0, 4], [8, 12], [20, 24]]))
    groups = [leak for leak in found.leaks if leak.what == "groups"]
    assert [(leak.parts, leak.examples) for leak in groups] == [(("train", "validation"), ("a",))]
    assert not any(leak.what == "samples" for leak in found.leaks)


@pytest.mark.parametrize(
    "starts",
    [
        [[0, 4], [6, 12], [20, 24]],
        [[0, 4], [8, 12], [20, 24]],
        [[4], [2, 0, 8], [6, 10]],
        [[16, 36], [20], [22, 0]],
        [[10, 30], [20, 0], [8, 12, 28, 26]],
    ],
)
def test_windows_that_share_samples_are_counted_as_a_loop_counts_them(
    tmp_path: Path, starts: list[list[int]]
) -> None:
    data = windows_of(tmp_path, starts)
    found = {leak.parts: leak.count for leak in inspect_splits(data).leaks if leak.what == "samples"}
    expected = {}
    for i in range(3):
        for j in range(i + 1, 3):
            count = sum(any(abs(late - early) < 4 for early in starts[i]) for late in starts[j])
            if count:
                expected[PARTS[i], PARTS[j]] = count
    assert found == expected
    whole = WindowDataset(data.train.store, data.tasks, window_samples=4, stride_samples=2)  # type: ignore[attr-defined]
    rows = [np.flatnonzero(np.isin(whole.starts, part)) for part in starts]
    if expected:
        with pytest.raises(DataError, match="share"):
            verify_no_leak(whole, Parts(*rows))
    else:
        verify_no_leak(whole, Parts(*rows))


def test_the_page_names_every_task_class_and_part() -> None:
    page = render(inspect_splits(splits_of(THIRDS)))
    for words in (*TASKS.names, "hat", "scarf", "nose", "chin", "years", "train", "validation", "none found"):
        assert words in page
    assert max(map(len, page.splitlines())) <= 110
    assert "\x1b" not in page


def test_many_tasks_show_the_rarest_pairs_instead_of_a_matrix() -> None:
    tasks = TaskSet(*(_binary(number) for number in range(20)))
    found = inspect_splits(splits_of(THIRDS, tasks=tasks))
    page = render(found)
    assert "the rarest pairs" in page
    rarest = min(found.joint[i][j] for i in range(20) for j in range(i))
    section = page.split("the rarest pairs")[1].splitlines()
    assert section[2].split()[-1] == str(rarest)


def _binary(number: int) -> Task:
    return Binary(f"t{number}") if number % 2 else Multiclass(f"t{number}", 3)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_tox21_has_equal_fingerprints_of_different_molecules_but_no_molecule_twice() -> None:
    found: Inspection = inspect_splits(
        load_table(
            {
                "table": "tox21.csv",
                "features": {"npz": "morgan_r2_1024.npz", "array": "bits", "packed_bits": 1024},
            },
            {"NR-AR": {"kind": "binary"}, "SR-p53": {"kind": "binary"}},
            {"by": "smiles"},
            seed=0,
            folder=SHARED / "tox21",
            stores=SHARED,
        )
    )
    assert {leak.what for leak in found.leaks} == {"inputs"}
    assert 0.07 < found.tasks[0].missing_share < 0.08
    assert found.joint[0][0] == 7026
    assert sum(found.labels_per_row) == 7587
