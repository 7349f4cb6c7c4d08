"""The leaking split of thesis 002 and the one by blocks: shares, seeds, and which samples are shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import taskloom as tl
from _recording_stores import write_store
from taskloom.data.shuffled_windows import BLOCK_WINDOWS, SHUFFLED_WINDOWS, split_by_blocks, split_shuffled
from taskloom.data.splits import Parts, SplitRule, split_windows
from taskloom.data.windows import WindowDataset
from taskloom.errors import ConfigError

TASKS = tl.TaskSet(tl.Multiclass("gait", ("NULL", "stand", "walk", "lie")))


@pytest.fixture
def windows(tmp_path: Path) -> WindowDataset:
    """Half-overlapping windows of 8 samples; some recordings are no whole number of blocks."""
    lengths = [400, 411, 80, 84, 500, 96, 700, 333]
    store = write_store(tmp_path / "store", lengths)
    return WindowDataset(store, TASKS, window_samples=8, stride_samples=4, null="own_class")


def owners(windows: WindowDataset, parts: Parts) -> list[set[int]]:
    """For every sample of the store, the parts that have it: by marking, window by window."""
    found: list[set[int]] = [set() for _ in range(windows.store.num_samples)]
    for part, (_, rows) in enumerate(parts.items()):
        for start in windows.starts[rows]:
            for sample in range(start, start + windows.window_samples):
                found[sample].add(part)
    return found


def test_shuffled_windows_are_every_window_once_at_the_asked_shares(windows: WindowDataset) -> None:
    parts = split_shuffled(windows, test=0.33, validation=0.1, seed=3)
    together = np.concatenate([rows for _, rows in parts.items()])
    assert sorted(together.tolist()) == list(range(len(windows)))
    assert parts.counts()["test"] == round(0.33 * len(windows))
    assert parts.counts()["validation"] == round(0.1 * len(windows))
    # Both neighbours elsewhere than in train has probability (1 - 0.57)^2: most test samples were trained on.
    shared = [owner for owner in owners(windows, parts) if 2 in owner]
    assert np.mean([0 in owner for owner in shared]) > 0.4


@pytest.mark.parametrize("seed", range(4))
def test_blocks_share_no_sample_and_lose_only_what_straddles(windows: WindowDataset, seed: int) -> None:
    parts = split_by_blocks(windows, test=0.33, validation=0.1, seed=seed)
    assert all(len(owner) <= 1 for owner in owners(windows, parts))
    kept = set(np.concatenate([rows for _, rows in parts.items()]).tolist())
    block = BLOCK_WINDOWS * windows.window_samples
    for row in set(range(len(windows))) - kept:
        begin = windows.starts[row] - windows.store.recordings[windows.recording_index[row]].start
        assert begin // block != (begin + windows.window_samples - 1) // block
    # Of 20 windows that begin in a block one straddles.
    assert len(kept) >= 0.93 * len(windows)
    assert abs(len(parts.test) / len(kept) - 0.33) < 0.1


def test_the_same_seed_draws_the_same_blocks(windows: WindowDataset) -> None:
    draws = [
        split_by_blocks(windows, test=0.3, validation=0.2, seed=seed).test.tolist() for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_the_name_is_known_to_its_source_only(windows: WindowDataset) -> None:
    rule = SplitRule.from_settings({"by": SHUFFLED_WINDOWS})
    with pytest.raises(ConfigError, match="`thesis-002-shuffled-windows` is not a rule for these recordings"):
        split_windows(windows, rule, seed=0)
    parts = split_windows(windows, rule, seed=0, named_rules=[SHUFFLED_WINDOWS])
    assert parts.counts()["test"] == round(0.33 * len(windows))  # the thesis' share where none is given


@pytest.mark.parametrize("by", [SHUFFLED_WINDOWS, "blocks"])
def test_settings_that_do_not_go_with_it(by: str) -> None:
    for settings, sentence in (
        ({"folds": 3, "fold": 0}, "split.folds"),
        ({"stratify": "gait"}, "split.stratify"),
        ({"column": "x"}, "split.column"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            SplitRule.from_settings({"by": by, **settings})
