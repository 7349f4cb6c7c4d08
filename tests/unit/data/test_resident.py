"""Windows gathered from a device's memory are, bit for bit, those that the store gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import taskloom as tl
from _recording_stores import write_store
from taskloom.data.normalize import Normalizer
from taskloom.data.resident import ResidentWindows, fits, placed, resident_bytes
from taskloom.data.windows import WindowDataset

TASKS = tl.TaskSet(tl.Multiclass("gait", ("stand", "walk", "lie")))
CPU = torch.device("cpu")


def _windows(folder: Path, **settings: Any) -> WindowDataset:
    people: list[dict[str, Any]] = [{"person": "A"}, {"person": "B", "gaps": [(20, 24)]}, {"person": "A"}]
    store = write_store(folder / "store", [40, 50, 33], channels=4, per_recording=people)
    return WindowDataset(store, TASKS, **{"window_samples": 8, "stride_samples": 3, **settings})


def _assert_same(windows: WindowDataset, rows: list[int]) -> None:
    expected, found = windows.__getitems__(rows), ResidentWindows(windows, CPU).__getitems__(rows)
    assert torch.equal(found.inputs, expected.inputs)
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.labels.values["gait"], expected.labels.values["gait"])
    assert torch.equal(found.labels.present["gait"], expected.labels.present["gait"])


@pytest.mark.parametrize(
    "settings",
    [{}, {"channels": ["c1", "c2"]}, {"channels": ["c0", "c2"]}, {"channels": ["c3", "c0", "c1"]}],
    ids=["all", "neighbours", "evenly spaced", "any order"],
)
@pytest.mark.parametrize("per", [None, "channel", "person"])
def test_equal_to_the_store(tmp_path: Path, settings: dict[str, Any], per: Any) -> None:
    windows = _windows(tmp_path, **settings)
    if per is not None:
        windows = windows.with_normalizer(Normalizer.fit(windows, per=per, clip=1.5))
    rows = np.random.default_rng(0).permutation(len(windows)).tolist()
    _assert_same(windows, rows)


def test_a_part_takes_the_memory_of_its_part(tmp_path: Path) -> None:
    windows = _windows(tmp_path)
    last = windows.subset(np.flatnonzero(windows.starts >= 90))
    _assert_same(last, list(range(len(last))))
    first, stop = int(last.starts.min()), int(last.starts.max()) + 8
    assert resident_bytes(last) == (stop - first) * 4 * 4 + 8 * len(last)
    assert resident_bytes(last) < resident_bytes(windows) / 2


def test_a_cpu_reads_the_store(tmp_path: Path) -> None:
    windows = _windows(tmp_path)
    assert not fits(windows, CPU)
    assert placed(windows, CPU) is windows


def test_a_gpu_holds_what_it_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = _windows(tmp_path)
    gpu = torch.device("cuda")
    for free, expected in [(resident_bytes(windows) * 4, True), (resident_bytes(windows) * 2, False)]:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert fits(windows, gpu) is expected
