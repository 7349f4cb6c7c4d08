"""Windows whose samples lie in a device's memory: a batch is gathered there, nothing is copied to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.data.batch import Batch, TaskDataset
from taskloom.data.windows import WindowDataset
from taskloom.tasks import Labels, TaskSet

SHARE_OF_FREE_MEMORY = 0.3
"""The most that the samples of one part may take of what is free on a GPU, which a network needs too."""


def resident_bytes(windows: WindowDataset) -> int:
    """Memory that `ResidentWindows` takes, in bytes: every sample once, however much the windows overlap."""
    first, stop = _covered(windows)
    return (stop - first) * len(windows.channels) * 4 + 8 * len(windows)


def fits(windows: WindowDataset, device: torch.device) -> bool:
    """Whether a CUDA device has room for the samples; False for a CPU, which reads the mapped store."""
    if device.type != "cuda" or not len(windows):
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return resident_bytes(windows) <= SHARE_OF_FREE_MEMORY * free


def placed(dataset: TaskDataset, device: torch.device) -> TaskDataset:
    """The same rows, resident on the device where they are windows and fit; else as they are."""
    if isinstance(dataset, WindowDataset) and fits(dataset, device):
        return ResidentWindows(dataset, device)
    return dataset


class ResidentWindows:
    """The windows of a `WindowDataset`, with the same batches, gathered on a device.

    The samples are copied there once and normalised there, one person after the other where the normaliser is
    per person. What normalises is the same arithmetic on the same float32 values, so that a batch is the one
    that `WindowDataset` gives.

    Args:
        windows: The windows; they stay as they are.
        device: Where their samples go.

    Example:
        >>> import tempfile
        >>> from taskloom.data.recordings import RecordingStore, RecordingWriter
        >>> folder = tempfile.mkdtemp() + "/store"
        >>> with RecordingWriter(folder, channels=["x"], rate_hz=30.0) as writer:
        ...     writer.add("S1", np.arange(6.0)[:, None], labels={"kind": "walk"})
        ...     writer.close(sources={}, reader="example", parameters={})
        >>> tasks = tl.TaskSet(tl.Binary("kind", ("rest", "walk")))
        >>> windows = WindowDataset(RecordingStore.open(folder), tasks, window_samples=4, stride_samples=1)
        >>> ResidentWindows(windows, torch.device("cpu")).__getitems__([2, 0]).inputs.squeeze(2)
        tensor([[2., 3., 4., 5.],
                [0., 1., 2., 3.]])
    """

    def __init__(self, windows: WindowDataset, device: torch.device) -> None:
        self.windows, self.device = windows, device
        first, stop = _covered(windows)
        # Chosen channels come out column by column otherwise.
        copied = np.array(windows.store.samples[first:stop, windows.channel_columns], order="C")
        samples = torch.from_numpy(copied).to(device)
        _normalize(samples, windows, first)
        window, channels = windows.input_shape
        shape = (len(samples) - window + 1, window, channels)
        self._view: Tensor = samples.as_strided(shape, (channels, channels, 1))
        self._starts = torch.from_numpy(windows.starts - first).to(device)

    @property
    def tasks(self) -> TaskSet:
        return self.windows.tasks

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.windows.input_shape

    @property
    def labels(self) -> Labels:
        return self.windows.labels

    @property
    def groups(self) -> NDArray[np.int64]:
        return self.windows.groups

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        starts = self._starts.index_select(0, rows.to(self.device))
        return Batch(self._view.index_select(0, starts), self.windows.labels_of(rows.numpy()), rows)


def _covered(windows: WindowDataset) -> tuple[int, int]:
    """First sample of the first window and the end of the last one."""
    starts = windows.starts
    return int(starts.min()), int(starts.max()) + windows.window_samples


def _normalize(samples: Tensor, windows: WindowDataset, first: int) -> None:
    """Normalises in place what some window covers; `samples` begin at sample `first` of the store."""
    normalizer = windows.normalizer
    if normalizer is None:
        return
    recordings = windows.store.recordings
    edges = np.array([recording.start for recording in recordings])
    for start, stop in windows.covered_ranges():
        person = recordings[int(np.searchsorted(edges, start, "right")) - 1].person
        normalizer.apply_(samples[None, start - first : stop - first], [person])
