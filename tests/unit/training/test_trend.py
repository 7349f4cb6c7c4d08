"""Zhang et al.'s criterion of task-wise early stopping against a table computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from _freezing import TRAIN, VALIDATION, network
from taskloom.errors import ConfigError
from taskloom.training import Callback, History, TaskStopping, TrainingState, fit
from taskloom.training.trend import generalisation_error, has_peaked, trend

# k = 2, threshold 1. Strip of gender, trend, generalisation error and their product after every epoch:
#   3: 4 2 2   4 / (8 - 4) = 1     (3.0 - 2) / 2 = 0.5   0.5
#   4: 2 2 2   4 / (6 - 4) = 2     (2.8 - 2) / 2 = 0.4   0.8
#   5: 2 2 1   4 / (5 - 4) = 4     (1.2 - 1) / 1 = 0.2   0.8
#   6: 2 1 1   2 / (4 - 2) = 1     (1.9 - 1) / 1 = 0.9   0.9
#   7: 1 1 1   2 / (3 - 2) = 2     (1.6 - 1) / 1 = 0.6   1.2   above 1: gender stops; validation was best in 5
TRAIN_LOSS = [4.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
VALIDATION_LOSS = [9.0, 4.0, 3.0, 2.8, 1.2, 1.9, 1.6, 1.6]
PRODUCTS = [None, None, 0.5, 0.8, 0.8, 0.9, 1.2, 1.2]


def test_the_two_factors_follow_the_table() -> None:
    for epoch, product in enumerate(PRODUCTS, start=1):
        if product is None:
            assert not has_peaked(
                TRAIN_LOSS[:epoch], VALIDATION_LOSS[epoch - 1], strip=2, threshold=1e-9, importance=1.0
            )
            continue
        found = trend(TRAIN_LOSS[epoch - 3 : epoch])
        found *= generalisation_error(VALIDATION_LOSS[epoch - 1], TRAIN_LOSS[:epoch], 1.0)
        assert found == pytest.approx(product)
        for threshold in (product - 1e-6, product + 1e-6):
            stops = has_peaked(
                TRAIN_LOSS[:epoch], VALIDATION_LOSS[epoch - 1], strip=2, threshold=threshold, importance=1.0
            )
            assert stops == (threshold < product)


def test_what_the_formula_leaves_open() -> None:
    # A loss that falls at the very end turns the denominator negative: the task goes on.
    assert trend([5.0, 5.0, 0.1]) > 0
    assert trend([5.0, 5.0, 5.0, 0.1, 0.1]) == 0.0
    assert trend([0.0, 0.0, 0.0]) == 2.0
    assert generalisation_error(0.1, [1.0, 0.0], 1.0) == math.inf
    assert generalisation_error(0.0, [1.0, 0.0], 1.0) == 0.0
    # A large importance lets a task learn longer; epochs without a label do not count.
    assert generalisation_error(3.0, [2.0], 4.0) == 0.125
    assert not has_peaked([1.0, None, 1.0], 9.0, strip=2, threshold=1.0, importance=1.0)
    assert has_peaked([1.0, None, 1.0, 1.0], 9.0, strip=2, threshold=1.0, importance=1.0)
    assert not has_peaked([1.0, 1.0, 1.0], None, strip=2, threshold=1.0, importance=1.0)


class BothLosses(Callback):
    """Puts the table's losses of gender in place of those measured; the others go on getting better."""

    def epoch_end(self, state: TrainingState) -> None:
        record = state.history.epochs[-1]
        falling = 100.0 / record.epoch
        record.validation_loss = dict.fromkeys(record.validation_loss, falling)
        record.train_loss = dict.fromkeys(record.train_loss, falling)
        record.train_loss["gender"] = TRAIN_LOSS[record.epoch - 1] if record.epoch < 8 else None
        record.validation_loss["gender"] = VALIDATION_LOSS[record.epoch - 1]


def run(**settings: Any) -> History:
    callbacks = [BothLosses(), TaskStopping(criterion="trend", strip=2, **settings)]
    model = network("hard sharing from the input")
    return fit(model, TRAIN, VALIDATION, epochs=8, batch=90, device="cpu", callbacks=callbacks)


def test_a_training_stops_the_task_where_the_table_says() -> None:
    ends = run(threshold=1.0).task_ends
    assert {task: (end.converged, end.stopped) for task, end in ends.items()} == {"gender": (5, 7)}
    assert run(threshold=0.7).task_ends["gender"].stopped == 4
    assert run(threshold=1.0, importance={"gender": 1.3}).task_ends == {}
    assert run(threshold=0.7, tasks=["age"]).task_ends == {}


def test_settings_of_the_two_criteria() -> None:
    trending = TaskStopping(criterion="trend", tasks=["age"], importance={"age": 2.0})
    assert trending.settings() == {
        "criterion": "trend",
        "strip": 5,
        "threshold": 1.0,
        "importance": {"age": 2.0},
        "tasks": ["age"],
    }
    assert TaskStopping().settings() == {"patience": 5, "min_delta": 0.0, "tasks": None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"criterion": "trends"}, r"task_stopping\.criterion: patience or trend expected, found 'trends'"),
        ({"criterion": "trend", "patience": 5}, r"patience: this is no setting of `criterion: trend`"),
        ({"strip": 3}, r"strip: this is no setting of `criterion: patience`"),
        ({"criterion": "trend", "strip": 0}, r"strip: a number of epochs from 1 expected, found 0"),
        ({"criterion": "trend", "threshold": 0}, r"threshold: a number above 0 expected, found 0"),
        ({"criterion": "trend", "importance": 2}, r"importance: a number per task expected, found 2"),
        ({"criterion": "trend", "importance": {"age": -1}}, r"importance\.age: a number above 0 .* -1"),
    ],
)
def test_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskStopping(**settings)


def test_refuses_the_importance_of_a_task_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"importance: there is no task `gendr`\. Did you mean `gender`\?"):
        run(importance={"gendr": 1.0})
