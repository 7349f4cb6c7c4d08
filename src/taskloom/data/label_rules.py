"""From labels per sample or per recording to labels per window, without copying a window.

Rules, for the codes of one track within one window:

===============  =====================================================================================
`majority`       the most frequent code; ties go to the smallest code (DATA.md, OPPORTUNITY protocol)
`last`           the code of the last sample
`any`            the most frequent code that is not NULL, ties to the smallest; NULL where only NULL is
`per_sample`     every sample keeps its own code; the label has shape [window_samples]
===============  =====================================================================================

NULL policies, for windows (under `per_sample`: samples) whose code is NULL: `keep` marks the label missing
for that task; `drop` leaves the window out of the data set, for all tasks (under `per_sample`: where every
sample is NULL; other NULL samples are marked missing); `own_class` makes NULL a class like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.data.recordings import NULL_CODE, RecordingStore
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.tasks import Binary, Landmarks, Multiclass, Multilabel, Regression, Task

LabelRule = Literal["majority", "last", "any", "per_sample"]
NullPolicy = Literal["keep", "drop", "own_class"]

LABEL_RULES: tuple[str, ...] = get_args(LabelRule)
NULL_POLICIES: tuple[str, ...] = get_args(NullPolicy)

_ABSENT = -1
_SPAN_SAMPLES = 1 << 17  # counted at a time: a few megabytes per code, whatever the overlap


def window_codes(
    codes: NDArray[np.integer[Any]],
    starts: NDArray[np.integer[Any]],
    window_samples: int,
    rule: LabelRule,
    *,
    null_code: int = NULL_CODE,
) -> NDArray[np.int32]:
    """Applies a rule to every window of one track.

    Counts come from running sums over the track, so time grows with samples and windows and not with their
    product, and no window is materialised.

    Args:
        codes: Label codes of the track, [total_samples]; may be memory-mapped.
        starts: First sample of every window, [N], ascending.
        window_samples: Length of a window in samples.
        rule: "majority", "last" or "any"; see the module. ("per_sample" has no single code.)
        null_code: The code of NULL, for "any".

    Returns:
        Code of every window, [N] int32.

    Example:
        >>> window_codes(np.array([0, 0, 4, 4, 4, 1]), np.array([0, 2]), 4, "majority")
        array([0, 4], dtype=int32)
    """
    first_samples: NDArray[np.int64] = np.asarray(starts, dtype=np.int64)
    if rule == "last":
        return np.asarray(codes[first_samples + (window_samples - 1)], dtype=np.int32)
    if rule == "per_sample":
        raise ValueError("per_sample labels have no single code per window")
    result = np.empty(len(starts), dtype=np.int32)
    for rows in _spans(first_samples):
        inside = first_samples[rows] - first_samples[rows.start]
        begin = int(first_samples[rows.start])
        stretch = np.asarray(codes[begin : begin + int(inside[-1]) + window_samples])
        result[rows] = _most_frequent(stretch, inside, window_samples, rule, null_code)
    return result


def _spans(starts: NDArray[np.int64]) -> Iterator[slice]:
    """Runs of windows that begin within `_SPAN_SAMPLES` of each other."""
    row = 0
    while row < len(starts):
        stop = int(np.searchsorted(starts, starts[row] + _SPAN_SAMPLES, side="left"))
        yield slice(row, stop)
        row = stop


def _most_frequent(
    codes: NDArray[Any], starts: NDArray[np.int64], window_samples: int, rule: LabelRule, null_code: int
) -> NDArray[np.int32]:
    best_code = np.full(len(starts), null_code, dtype=np.int32)
    best_count = np.zeros(len(starts), dtype=np.int32)
    running = np.zeros(len(codes) + 1, dtype=np.int32)
    for code in np.unique(codes):  # ascending, so that a later code wins only with a larger count
        if rule == "any" and code == null_code:
            continue
        np.cumsum(codes == code, out=running[1:])
        count = running[starts + window_samples] - running[starts]
        better = count > best_count
        best_code[better] = code
        best_count[better] = count[better]
    return best_code


class LabelColumn(Protocol):
    """Labels of one task for all windows, stored compactly, expanded on demand."""

    def gather(self, rows: NDArray[Any] | slice, starts: NDArray[Any]) -> tuple[Tensor, Tensor]:
        """Values and presence of some windows.

        Args:
            rows: Their positions in the data set.
            starts: Their first samples in the store, [B].
        """
        ...

    def select(self, rows: NDArray[Any]) -> LabelColumn:
        """The column of a part of the data set."""
        ...

    def dropped(self, starts: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which windows the NULL policy leaves out, [N]; None where it leaves out none."""
        ...


@dataclass
class WindowColumn:
    """One class per window of a track; -1 where missing. `classes` is [N], two bytes a window."""

    classes: NDArray[np.int16]
    drops: bool = False

    def gather(
        self,
        rows: NDArray[Any] | slice,
        starts: NDArray[Any],  # noqa: ARG002  # the protocol's
    ) -> tuple[Tensor, Tensor]:
        return _values_and_presence(self.classes[rows])

    def select(self, rows: NDArray[Any]) -> WindowColumn:
        return WindowColumn(self.classes[rows])

    def dropped(self, starts: NDArray[np.int64]) -> NDArray[np.bool_] | None:  # noqa: ARG002
        return self.classes == _ABSENT if self.drops else None


@dataclass
class SampleColumn:
    """One class per sample of a track, [total_samples], shared by all windows, whose labels are [B, W]."""

    classes: NDArray[np.int16]
    window_samples: int
    drops: bool = False

    def gather(
        self,
        rows: NDArray[Any] | slice,  # noqa: ARG002
        starts: NDArray[Any],
    ) -> tuple[Tensor, Tensor]:
        windows = np.lib.stride_tricks.sliding_window_view(self.classes, self.window_samples)
        return _values_and_presence(windows[starts])

    def select(self, rows: NDArray[Any]) -> SampleColumn:  # noqa: ARG002
        return self

    def dropped(self, starts: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        if not self.drops:
            return None
        running = np.concatenate(([0], np.cumsum(self.classes != _ABSENT, dtype=np.int64)))
        return np.asarray(running[starts + self.window_samples] == running[starts])


@dataclass
class RecordingColumn:
    """One label per recording, [R, ...], the label of all its windows; `recording_starts` is [R]."""

    values: Tensor
    present: Tensor
    recording_starts: NDArray[np.int64]

    def gather(
        self,
        rows: NDArray[Any] | slice,  # noqa: ARG002
        starts: NDArray[Any],
    ) -> tuple[Tensor, Tensor]:
        index = torch.from_numpy(np.searchsorted(self.recording_starts, starts, side="right") - 1)
        return self.values[index], self.present[index]

    def select(self, rows: NDArray[Any]) -> RecordingColumn:  # noqa: ARG002
        return self

    def dropped(self, starts: NDArray[np.int64]) -> NDArray[np.bool_] | None:  # noqa: ARG002
        return None


def _values_and_presence(classes: NDArray[np.int16]) -> tuple[Tensor, Tensor]:
    values = np.maximum(classes, 0).astype(np.int64)
    return torch.from_numpy(values), torch.from_numpy(classes >= 0)


def track_column(
    store: RecordingStore,
    track: str,
    task: Task,
    starts: NDArray[np.integer[Any]],
    window_samples: int,
    rule: LabelRule,
    null: NullPolicy,
) -> WindowColumn | SampleColumn:
    """Labels of a binary or multiclass task from a track.

    Args:
        store: The store.
        track: The track's name.
        task: Its classes are matched with the track's class names, or with the codes as text.
        starts: First sample of every window, [N], ascending.
        window_samples: Length of a window in samples.
        rule, null: See the module.

    Raises:
        DataError: The task is neither binary nor multiclass; a label that occurs is not one of its classes.
        ConfigError: An unknown rule or policy; `own_class` where the task has no class for NULL.
    """
    check_choice(f"label rule of task {task.name}", rule, LABEL_RULES)
    check_choice(f"null policy of task {task.name}", null, NULL_POLICIES)
    if not isinstance(task, Binary | Multiclass):
        raise DataError(
            f"task {task.name}: a track holds classes, so a binary or multiclass task is expected, found "
            f"{task.kind}."
        )
    codes = store.tracks[:, store.track_index(track)]
    table = _class_of_code(store.track_tables[track], task, track, null)
    if rule == "per_sample":
        classes = np.empty(len(codes), dtype=np.int16)
        for start in range(0, len(codes), _SPAN_SAMPLES):
            stretch = slice(start, start + _SPAN_SAMPLES)
            classes[stretch] = _to_classes(np.asarray(codes[stretch]), table, task, track, store)
        return SampleColumn(classes, window_samples, drops=null == "drop")
    found = window_codes(codes, starts, window_samples, rule)
    return WindowColumn(_to_classes(found, table, task, track, store), drops=null == "drop")


def _class_of_code(
    names: Mapping[int, str], task: Binary | Multiclass, track: str, null: NullPolicy
) -> dict[int, int | None]:
    """Class of every code: its position, -1 for missing, None where the task has no such class."""
    position = {name: index for index, name in enumerate(task.class_names)}
    table: dict[int, int | None] = {}
    for code, name in names.items():
        if code == NULL_CODE and null != "own_class":
            table[code] = _ABSENT
        else:
            table[code] = position.get(name, position.get(str(code)))
    if null == "own_class" and NULL_CODE in table and table[NULL_CODE] is None:
        raise ConfigError(
            f"tasks.{task.name}.classes: `null: own_class` needs a class `{names[NULL_CODE]}` for track "
            f"`{track}`, found only {', '.join(task.class_names)}."
        )
    return table


def _to_classes(
    codes: NDArray[Any],
    table: Mapping[int, int | None],
    task: Task,
    track: str,
    store: RecordingStore,
) -> NDArray[np.int16]:
    known = np.array(sorted(table), dtype=np.int64)
    place = np.searchsorted(known, codes).clip(max=len(known) - 1)
    strange = known[place] != codes
    if strange.any():
        raise DataError(
            f"{store.folder}: track `{track}` holds code {codes[strange][0]}, which is not in its table; "
            "prepare the data again."
        )
    for index in np.unique(place):
        code = int(known[index])
        if table[code] is None:
            name = store.track_tables[track][code]
            raise DataError(
                f"task {task.name}: track `{track}` holds the class `{name}` (code {code}), which is not "
                f"one of the task's.{did_you_mean(name, task.class_names)} "
                f"Classes: {', '.join(task.class_names)}."
            )
    classes = [table[int(code)] for code in known]
    lookup = np.array([_ABSENT if index is None else index for index in classes], dtype=np.int16)
    return np.asarray(lookup[place])


def recording_column(store: RecordingStore, label: str, task: Task) -> RecordingColumn:
    """Labels of a task from the per-recording labels of a store.

    Binary and multiclass: the label as text is one of the classes. Regression: a number, or `size` numbers.
    Multilabel: K values 0/1, None where missing.

    Raises:
        DataError: A landmarks task, or a label that does not fit the task, naming the recording.
    """
    if isinstance(task, Landmarks):
        raise DataError(f"task {task.name}: recordings have no landmarks.")
    values = torch.zeros(len(store), *task.value_shape, dtype=task.value_dtype)
    present = torch.zeros(len(store), *task.presence_shape, dtype=torch.bool)
    for row, recording in enumerate(store.recordings):
        value = recording.labels.get(label)
        if value is None:
            continue
        where = f"recording {recording.name}: label `{label}`"
        if isinstance(task, Binary | Multiclass):
            values[row] = _class_index(task.class_names, value, where, task.name)
            present[row] = True
        elif isinstance(task, Regression):
            numbers = _numbers(value, task.size, where, task.name)
            values[row] = torch.tensor(numbers if task.size > 1 else numbers[0])
            present[row] = True
        elif isinstance(task, Multilabel):
            for column, element in enumerate(_elements(value, task.width, where, task.name)):
                if element is not None:
                    values[row, column] = _class_index(("0", "1"), int(element), where, task.name)
                    present[row, column] = True
    first_samples = np.array([recording.start for recording in store.recordings], dtype=np.int64)
    return RecordingColumn(values, present, first_samples)


def _class_index(classes: Sequence[str], value: Any, where: str, task: str) -> int:
    texts = [str(value)]
    if isinstance(value, float) and value.is_integer():
        texts.append(str(int(value)))  # a table with holes reads whole numbers as 1.0
    for text in texts:
        if text in classes:
            return list(classes).index(text)
    raise DataError(
        f"{where} is {value!r}, which is not a class of task {task}.{did_you_mean(texts[0], classes)} "
        f"Classes: {', '.join(classes)}."
    )


def _elements(value: Any, size: int, where: str, task: str) -> list[Any]:
    elements = value if isinstance(value, list) else [value]
    if len(elements) != size:
        raise DataError(f"{where}: {size} values expected for task {task}, found {len(elements)}.")
    return elements


def _numbers(value: Any, size: int, where: str, task: str) -> list[float]:
    elements = _elements(value, size, where, task)
    for element in elements:
        if isinstance(element, str) or element is None:
            raise DataError(f"{where} is {element!r}; a number expected for task {task}.")
    return [float(element) for element in elements]


def check_choice(setting: str, found: str, known: Sequence[str]) -> None:
    """Raises ConfigError where `found` is not one of `known`."""
    if found not in known:
        raise ConfigError(
            f"{setting}: `{found}` is not known.{did_you_mean(str(found), known)} "
            f"Possible: {', '.join(known)}."
        )
