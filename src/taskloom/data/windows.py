"""Windows over a recording store: index arithmetic on the memory map, gathered a whole batch at a time.

Overlap costs nothing: a window is the position of its first sample, and a batch is one indexed read through
an overlapping view of the map. Nothing is copied before a batch asks for it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.data.batch import Batch
from taskloom.data.grouping import chosen_grouping, group_names
from taskloom.data.label_rules import (
    LabelColumn,
    LabelRule,
    NullPolicy,
    check_choice,
    recording_column,
    track_column,
)
from taskloom.data.normalize import Normalizer
from taskloom.data.recordings import RecordingStore
from taskloom.data.window_starts import LastWindow, compute_window_starts, recording_window_starts
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.tasks import Labels, TaskSet

ShortRecording = Literal["error", "skip"]

__all__ = [
    "LastWindow",
    "ShortRecording",
    "WindowDataset",
    "compute_window_starts",
    "recording_window_starts",
]


class WindowDataset:
    """Windows of equal length over a recording store, with the labels of every task; a `TaskDataset`.

    A task's labels come from the track or the per-recording label of its name (or of the name that `sources`
    gives). It pickles by the store's path: loader processes share the pages of one file.

    Args:
        store: The store.
        tasks: What is predicted.
        window_samples: Length of a window.
        stride_samples: From one window's start to the next one's, in samples.
        label_rule: "majority", "last", "any" or "per_sample", for all tasks or per task; see `label_rules`.
        null: "keep", "drop" or "own_class", for all tasks or per task; see `label_rules`.
        last: "drop" or "shift"; see `compute_window_starts`.
        short: A recording without room for one window is an "error", or is left out ("skip") and listed in
            `skipped`.
        channels: Names of the channels to read, in this order; all of them where None. Neighbouring channels
            of the store cost least.
        sources: Track or label name per task, where it differs from the task's.
        group_by: "person", "trial", "session" or "recording": what `groups` are; "auto" takes the first of
            these that every recording has.

    Raises:
        DataError: A recording shorter than a window, no window at all, a task without a source, a label that
            is not a class of its task.
        ConfigError: An unknown rule or policy.

    Example:
        >>> import tempfile
        >>> from taskloom.data.recordings import RecordingWriter
        >>> folder = tempfile.mkdtemp() + "/store"
        >>> with RecordingWriter(folder, channels=["x"], rate_hz=30.0) as writer:
        ...     writer.add("S1", np.arange(6.0)[:, None], labels={"kind": "walk"})
        ...     writer.close(sources={}, reader="example", parameters={})
        >>> tasks = tl.TaskSet(tl.Binary("kind", ("rest", "walk")))
        >>> windows = WindowDataset(RecordingStore.open(folder), tasks, window_samples=4, stride_samples=1)
        >>> windows.__getitems__([2, 0]).inputs.squeeze(2)
        tensor([[2., 3., 4., 5.],
                [0., 1., 2., 3.]])
    """

    def __init__(
        self,
        store: RecordingStore,
        tasks: TaskSet,
        *,
        window_samples: int,
        stride_samples: int,
        label_rule: LabelRule | Mapping[str, LabelRule] = "majority",
        null: NullPolicy | Mapping[str, NullPolicy] = "keep",
        last: LastWindow = "drop",
        short: ShortRecording = "error",
        channels: Sequence[str] | None = None,
        sources: Mapping[str, str] | None = None,
        group_by: str = "auto",
    ) -> None:
        self.store = store
        self._tasks = tasks
        self.window_samples = window_samples
        self.stride_samples = stride_samples
        self.channels = store.channels if channels is None else tuple(channels)
        self._columns_read = _as_slice(store.channel_indices(self.channels))
        self.group_by = chosen_grouping(store, group_by)
        self.normalizer: Normalizer | None = None
        self.skipped: tuple[str, ...] = ()
        """Names of recordings without room for one window (with short="skip")."""
        self._view: Tensor | None = None
        self._recording_starts = np.array([recording.start for recording in store.recordings])
        starts = self._all_starts(last, short)
        rules = _per_task("label_rule", label_rule, tasks, "majority")
        policies = _per_task("null", null, tasks, "keep")
        self._labels: dict[str, LabelColumn] = {
            name: self._column(name, starts, rules[name], policies[name], sources or {}) for name in tasks
        }
        dropped = np.zeros(len(starts), dtype=bool)
        for column in self._labels.values():
            out = column.dropped(starts)
            if out is not None:
                dropped |= out
        self.num_dropped = int(dropped.sum())
        """Windows that the NULL policy "drop" left out."""
        if self.num_dropped == len(starts):
            raise DataError(
                f"{store.folder}: every one of the {len(starts)} windows is NULL for a task with "
                "`null: drop`; none is left."
            )
        self._starts = _compact(starts, store.num_samples)
        if self.num_dropped:
            self._keep(np.flatnonzero(~dropped))

    # -- what the protocol asks for

    @property
    def tasks(self) -> TaskSet:
        return self._tasks

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(window_samples, channels)"""
        return (self.window_samples, len(self.channels))

    @property
    def labels(self) -> Labels:
        """Labels of all windows; no sample is read. Computed anew at each call, from a few bytes a window."""
        return self._gather_labels(slice(None), self._starts)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Cluster of every window, [N], 0..G-1; see `group_by`."""
        index, _ = self.group_index(self.group_by)
        return np.unique(index, return_inverse=True)[1].astype(np.int64, copy=False)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = np.asarray(indices, dtype=np.int64)
        starts = self._starts[rows].astype(np.int64, copy=False)
        inputs = self._gather(starts)
        if self.normalizer is not None:
            self.normalizer.apply_(inputs, self._persons(starts))
        return Batch(inputs, self._gather_labels(rows, starts), torch.from_numpy(rows))

    def labels_of(self, rows: NDArray[np.int64]) -> Labels:
        """Labels of the windows at these positions; no sample is read."""
        return self._gather_labels(rows, self._starts[rows].astype(np.int64, copy=False))

    # -- parts and variants; none of them copies samples

    def subset(self, rows: NDArray[Any] | Sequence[int]) -> Self:
        """The windows at these positions, as a data set of its own."""
        part = copy.copy(self)
        part._view = None
        part._labels = dict(self._labels)
        part._keep(np.asarray(rows, dtype=np.int64))
        return part

    def with_normalizer(self, normalizer: Normalizer | None) -> Self:
        """The same windows, normalised when they are read."""
        if normalizer is not None and normalizer.num_channels != len(self.channels):
            raise DataError(
                f"a normaliser of {len(self.channels)} channels expected, found one of "
                f"{normalizer.num_channels}."
            )
        part = copy.copy(self)
        part.normalizer = normalizer
        return part

    def with_tasks(self, tasks: TaskSet) -> Self:
        """The same windows with tasks that are standardised, or fewer of them."""
        part = copy.copy(self)
        part._labels = {name: self._labels[name] for name in tasks}
        part._tasks = tasks
        return part

    # -- where the windows are

    @property
    def starts(self) -> NDArray[np.int64]:
        """Position in the store of every window's first sample, [N]."""
        return self._starts.astype(np.int64)

    @property
    def recording_index(self) -> NDArray[np.int64]:
        """Position in the store's recordings of every window's recording, [N]."""
        return self._recordings_of(self._starts)

    def group_index(self, by: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Group of every window, [N], and the groups' names, by one of `grouping.GROUPINGS` or a label."""
        names, index = np.unique(np.array(group_names(self.store, by)), return_inverse=True)
        return index.astype(np.int64)[self.recording_index], tuple(str(name) for name in names)

    def covered_ranges(self) -> list[tuple[int, int]]:
        """Ranges [start, stop) of the store's samples that some window covers, ascending, without overlap."""
        if not len(self):
            return []
        starts = np.sort(self.starts)
        stops = starts + self.window_samples
        breaks = np.flatnonzero(starts[1:] > stops[:-1])
        firsts = starts[np.concatenate(([0], breaks + 1))]
        lasts = stops[np.concatenate((breaks, [len(starts) - 1]))]
        # Windows of neighbouring recordings may touch in the store; they stay apart here.
        edges = self._recording_starts
        ranges = []
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            inner = edges[
                np.searchsorted(edges, first, "right") : np.searchsorted(edges, last, "left")
            ].tolist()
            ranges += list(zip([first, *inner], [*inner, last], strict=True))
        return ranges

    @property
    def channel_columns(self) -> slice | list[int]:
        """Columns of the store that are read: a slice where they are evenly spaced."""
        return self._columns_read

    def describe(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {
            "windows": len(self),
            "window_samples": self.window_samples,
            "stride_samples": self.stride_samples,
            "channels": len(self.channels),
            "skipped_recordings": list(self.skipped),
            "dropped_null_windows": self.num_dropped,
            "groups": self.group_by,
        }

    # -- inside

    def _all_starts(self, last: LastWindow, short: ShortRecording) -> NDArray[np.int64]:
        check_choice("short", short, get_args(ShortRecording))
        parts: list[NDArray[np.int64]] = []
        skipped = []
        for recording in self.store.recordings:
            starts = recording_window_starts(recording, self.window_samples, self.stride_samples, last)
            if len(starts):
                parts.append(starts)
                continue
            if short == "error":
                longest = max((stop - start for start, stop in recording.segments), default=0)
                raise DataError(
                    f"recording {recording.name}: a window takes {self.window_samples} samples, its "
                    f"longest stretch without a gap has {longest}; shorten the windows or "
                    "leave it out (`short: skip` in `window`)."
                )
            skipped.append(recording.name)
        self.skipped = tuple(skipped)
        if not parts:
            raise DataError(
                f"{self.store.folder}: no recording has room for a window of {self.window_samples} samples."
            )
        return np.concatenate(parts)

    def _column(
        self,
        task: str,
        starts: NDArray[np.int64],
        rule: LabelRule,
        null: NullPolicy,
        sources: Mapping[str, str],
    ) -> LabelColumn:
        source = sources.get(task, task)
        if source in self.store.track_tables:
            return track_column(
                self.store, source, self._tasks[task], starts, self.window_samples, rule, null
            )
        if source in self.store.label_names:
            return recording_column(self.store, source, self._tasks[task])
        known = [*self.store.track_tables, *self.store.label_names]
        where, named = (
            (f"tasks.{task}", "of that name") if source == task else (f"tasks.{task}.column", f"`{source}`")
        )
        raise DataError(
            f"{where}: no track or label {named}.{did_you_mean(source, known)} "
            f"Tracks: {', '.join(self.store.track_tables) or 'none'}; labels of recordings: "
            f"{', '.join(self.store.label_names) or 'none'}."
        )

    def _keep(self, rows: NDArray[np.int64]) -> None:
        self._starts = self._starts[rows]
        self._labels = {name: column.select(rows) for name, column in self._labels.items()}

    def _recordings_of(self, starts: NDArray[Any]) -> NDArray[np.int64]:
        return np.searchsorted(self._recording_starts, starts, side="right") - 1

    def _gather_labels(self, rows: NDArray[np.int64] | slice, starts: NDArray[Any]) -> Labels:
        pairs = {name: column.gather(rows, starts) for name, column in self._labels.items()}
        return Labels(
            {name: values for name, (values, _) in pairs.items()},
            {name: present for name, (_, present) in pairs.items()},
        )

    def check_persons(self) -> None:
        """Refuses people whom the normaliser does not know, before anything is trained.

        Raises:
            DataError: See `Normalizer.check_known`.
        """
        persons = self._persons(self.starts)
        if self.normalizer is not None and persons is not None:
            self.normalizer.check_known(persons)

    def _persons(self, starts: NDArray[np.int64]) -> list[str | None] | None:
        if self.normalizer is None or not self.normalizer.persons:
            return None
        return [self.store.recordings[index].person for index in self._recordings_of(starts)]

    def _gather(self, starts: NDArray[np.int64]) -> Tensor:
        """Windows [B, window_samples, channels] that begin at `starts`."""
        if self._view is None:
            self._view = _window_view(self.store.samples, self.window_samples, self._columns_read)
        # Measured in benchmarks/windows.py: with one thread, as in a loader process, NumPy copies the blocks
        # faster; with more, PyTorch shares the work between them.
        if torch.get_num_threads() == 1:
            windows = torch.from_numpy(np.ascontiguousarray(self._view.numpy()[starts]))
        else:
            # Into a block of NumPy's: aligned blocks of PyTorch's, one a batch, tear glibc's heap to pieces
            # and leave a dozen batches of memory behind.
            shape = (len(starts), *self._view.shape[1:])
            windows = torch.from_numpy(np.empty(shape, dtype=np.float32))
            torch.index_select(self._view, 0, torch.from_numpy(starts), out=windows)
        if not isinstance(self._columns_read, slice):
            windows = windows.index_select(2, torch.tensor(self._columns_read))
        return windows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_view": None}


def _window_view(samples: NDArray[np.float32], window_samples: int, columns: slice | list[int]) -> Tensor:
    """An overlapping view of the map with one window per position, [positions, window_samples, channels].

    Samples are time-major, so a window of all channels is one unbroken block of the file.
    """
    with warnings.catch_warnings():
        # The map is read-only and nothing writes to the view.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        everything = torch.from_numpy(np.asarray(samples))
    num_samples, num_channels = everything.shape
    chosen = columns if isinstance(columns, slice) else slice(0, num_channels, 1)
    width = len(range(chosen.start, chosen.stop, chosen.step))
    shape = (num_samples - window_samples + 1, window_samples, width)
    return everything.as_strided(shape, (num_channels, num_channels, chosen.step), chosen.start)


def _as_slice(columns: list[int]) -> slice | list[int]:
    """Evenly spaced ascending columns as a slice."""
    if not columns:
        raise DataError("channels: at least one channel expected, found none.")
    step = columns[1] - columns[0] if len(columns) > 1 else 1
    if step > 0 and columns == list(range(columns[0], columns[-1] + 1, step)):
        return slice(columns[0], columns[-1] + 1, step)
    return columns


def _compact(starts: NDArray[np.int64], num_samples: int) -> NDArray[np.int32] | NDArray[np.int64]:
    """Four bytes a window where they suffice: at stride 1 there are as many windows as samples."""
    return starts.astype(np.int32) if num_samples <= np.iinfo(np.int32).max else starts


def _per_task(setting: str, choice: Any, tasks: TaskSet, default: str) -> dict[str, Any]:
    """A choice for every task, from one for all or from a mapping that may leave tasks at the default."""
    if not isinstance(choice, Mapping):
        return dict.fromkeys(tasks, choice)
    for name in choice:
        if name not in tasks:
            raise ConfigError(
                f"{setting}.{name} is not a task.{did_you_mean(name, tasks)} Tasks: {', '.join(tasks)}."
            )
    return {name: choice.get(name, default) for name in tasks}
