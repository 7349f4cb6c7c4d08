"""What heads say, in three forms: numbers that can be averaged over frames, cells of a table, words.

A *state* is a task's predictions as numbers [K]: probabilities, values in the unit, points in pixels of the
cut face. Averages of states are states, so that smoothing knows nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from taskloom.registry import Registry
from taskloom.tasks import Binary, Landmarks, Multiclass, Multilabel, Ordinal, Regression, Task, TaskSet

CellKind = Literal["int", "float", "text", "bool"]
State = NDArray[np.float64]

_MOST_LABELS = 4


@dataclass(frozen=True)
class Column:
    """A column of the table of predictions."""

    name: str
    kind: CellKind


@dataclass(frozen=True)
class Reading:
    """How one task is read.

    Args:
        width: K, the number of numbers of its state.
        columns: Of the table.
        states: From head outputs [N, width of the head] to states [N, K].
        cells: From a state to the cells of `columns`; points are in pixels of the cut face.
        words: From a state to what is written beside a face; "" for nothing.
        points: Whether the state holds points, x and y in turn, in pixels of the cut face.
        chances: From a state to the probability of every class; nothing where the state holds none.
    """

    width: int
    columns: tuple[Column, ...]
    states: Callable[[Tensor], State]
    cells: Callable[[State], list[Any]]
    words: Callable[[State], str]
    points: bool = False
    chances: Callable[[State], dict[str, float]] = lambda _: {}


READINGS: Registry[Callable[[Any], Reading]] = Registry("kind of task")
"""How tasks are read, by kind."""


@READINGS.register("binary")
def _binary(task: Binary) -> Reading:
    def cells(state: State) -> list[Any]:
        second = bool(state[0] >= 0.5)
        return [task.class_names[second], digits(state[0] if second else 1 - state[0])]

    def chances(state: State) -> dict[str, float]:
        return dict(zip(task.class_names, (digits(1 - state[0]), digits(state[0])), strict=True))

    columns = _with_confidence(task.name, "text")
    return Reading(1, columns, _decoded(task), cells, _best_class(task, cells), chances=chances)


@READINGS.register("multiclass")
def _multiclass(task: Multiclass) -> Reading:
    def cells(state: State) -> list[Any]:
        best = int(state.argmax())
        return [task.class_names[best], digits(state[best])]

    return Reading(
        task.width,
        _with_confidence(task.name, "text"),
        _decoded(task),
        cells,
        _best_class(task, cells),
        chances=_by_class(task),
    )


@READINGS.register("multilabel")
def _multilabel(task: Multilabel) -> Reading:
    names = task.class_names
    columns = [column for name in names for column in _with_confidence(f"{task.name}_{name}", "bool")]

    def cells(state: State) -> list[Any]:
        return [cell for p in state for cell in (bool(p >= 0.5), digits(max(p, 1 - p)))]

    def words(state: State) -> str:
        sure = [index for index in np.argsort(-state) if state[index] >= 0.5]
        said = [f"{names[index]} {state[index]:.2f}" for index in sure[:_MOST_LABELS]]
        more = f" and {len(sure) - _MOST_LABELS} more" if len(sure) > _MOST_LABELS else ""
        return f"{task.name}: {', '.join(said) or 'none'}{more}"

    return Reading(task.width, tuple(columns), _decoded(task), cells, words, chances=_by_class(task))


@READINGS.register("regression")
def _regression(task: Regression) -> Reading:
    names = [task.name] if task.size == 1 else [f"{task.name}_{index}" for index in range(task.size)]

    def words(state: State) -> str:
        return f"{task.name} {', '.join(map(rounded, state))}{_unit(task)}"

    columns = tuple(Column(name, "float") for name in names)
    return Reading(task.size, columns, _decoded(task), lambda state: list(map(digits, state)), words)


@READINGS.register("ordinal")
def _ordinal(task: Ordinal) -> Reading:
    """Value, and the probability of the level that is predicted."""

    def states(output: Tensor) -> State:
        values = task.decode(output)
        chances = task.probabilities(output).double().numpy()
        if task.default_loss == "coral":  # of being above a level: the level itself lies between two of them
            ends = np.pad(chances, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
            chances = np.maximum(ends[:, :-1] - ends[:, 1:], 0)
        levels = task.codes(values).numpy()
        return np.stack([values.double().numpy(), chances[np.arange(len(levels)), levels]], axis=1)

    def words(state: State) -> str:
        return f"{task.name} {rounded(state[0])}{_unit(task)}"

    columns = _with_confidence(task.name, "float")
    return Reading(2, columns, states, lambda state: [digits(state[0]), digits(state[1])], words)


@READINGS.register("landmarks")
def _landmarks(task: Landmarks) -> Reading:
    columns = tuple(
        Column(f"{task.name}_{name}_{axis}", "float") for name in task.class_names for axis in "xy"
    )
    return Reading(
        task.width,
        columns,
        _decoded(task),
        lambda state: list(map(digits, state)),
        lambda _: "",
        points=True,
    )


class Readings:
    """How all tasks of a bundle are read, as one state per face.

    Args:
        tasks: The tasks.
        taken: Names of columns that the table has already; a task's column of such a name becomes
            `task.NAME`.

    Example:
        >>> tasks = TaskSet(Binary("gender", ("male", "female")), Regression("age", unit="years"))
        >>> readings = Readings(tasks)
        >>> readings.cells(np.array([0.9, 34.2])), readings.words(np.array([0.9, 34.2]))
        (['female', 0.9, 34.2], ['gender female 0.90', 'age 34 years'])
    """

    def __init__(self, tasks: TaskSet, taken: Sequence[str] = ()) -> None:
        self.by_task = {name: READINGS[task.kind](task) for name, task in tasks.items()}
        ends = np.cumsum([reading.width for reading in self.by_task.values()])
        self._parts = {
            name: slice(int(end) - reading.width, int(end))
            for (name, reading), end in zip(self.by_task.items(), ends, strict=True)
        }
        self.columns: tuple[Column, ...] = ()
        names = set(taken)
        for reading in self.by_task.values():
            for column in reading.columns:
                name = column.name
                while name in names:
                    name = f"task.{name}"
                names.add(name)
                self.columns += (Column(name, column.kind),)

    def states(self, outputs: Mapping[str, Tensor]) -> State:
        """States [N, K] of head outputs [N, width] per task, on the CPU."""
        found = [reading.states(outputs[name]) for name, reading in self.by_task.items()]
        return np.concatenate(found, axis=1)

    def in_picture(self, state: State, transform: NDArray[np.float64]) -> State:
        """The state with its points moved from the cut face into the picture.

        Args:
            state: [K].
            transform: The map from picture to cut face, [2, 3].
        """
        moved = state.copy()
        for name, reading in self.by_task.items():
            if reading.points:
                points = state[self._parts[name]].reshape(-1, 2) - transform[:, 2]
                moved[self._parts[name]] = np.linalg.solve(transform[:, :2], points.T).T.ravel()
        return moved

    def cells(self, state: State) -> list[Any]:
        """Cells of `columns` of a state [K]."""
        return [
            cell for name, reading in self.by_task.items() for cell in reading.cells(state[self._parts[name]])
        ]

    def chances(self, state: State) -> dict[str, dict[str, float]]:
        """Probability of every class of a state [K], of the tasks whose state holds them."""
        found = {name: reading.chances(state[self._parts[name]]) for name, reading in self.by_task.items()}
        return {name: chances for name, chances in found.items() if chances}

    def words(self, state: State) -> list[str]:
        """A line per task that has something to say."""
        said = [reading.words(state[self._parts[name]]) for name, reading in self.by_task.items()]
        return [line for line in said if line]

    def points(self, state: State) -> NDArray[np.float64]:
        """All points of a state, [P, 2]."""
        found = [state[self._parts[name]] for name, reading in self.by_task.items() if reading.points]
        return np.concatenate(found).reshape(-1, 2) if found else np.zeros((0, 2))


def digits(value: float) -> float:
    """Six significant digits: more say nothing, and make tables large."""
    return float(f"{value:.6g}")


def rounded(value: float) -> str:
    """A value for people: whole from 10 on, else three digits.

    Example:
        >>> rounded(34.2), rounded(0.1234), rounded(1234567.0)
        ('34', '0.123', '1234567')
    """
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.3g}"


def _decoded(task: Task) -> Callable[[Tensor], State]:
    def states(output: Tensor) -> State:
        values = task.decode(output).double().numpy()
        return np.asarray(values.reshape(len(values), -1))

    return states


def _with_confidence(name: str, kind: CellKind) -> tuple[Column, ...]:
    return Column(name, kind), Column(f"{name}_confidence", "float")


def _by_class(task: Task) -> Callable[[State], dict[str, float]]:
    return lambda state: dict(zip(task.class_names, map(digits, state), strict=True))


def _best_class(task: Task, cells: Callable[[State], list[Any]]) -> Callable[[State], str]:
    def words(state: State) -> str:
        name, confidence = cells(state)
        return f"{task.name} {name} {confidence:.2f}"

    return words


def _unit(task: Regression) -> str:
    return f" {task.unit}" if task.unit else ""
