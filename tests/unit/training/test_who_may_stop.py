"""Which tasks a callback may stop, and what a balancer that needs some of them makes of it."""

from __future__ import annotations

import pytest

import taskloom as tl
from taskloom.balancing import build
from taskloom.errors import ConfigError
from taskloom.training import CALLBACKS, Callback, EarlyFreeze, TaskStopping
from taskloom.training.checks import check_stopping

MAIN, PERSON, HAND = tl.Binary("mood"), *(tl.Binary(n, role="adversarial") for n in ("person", "hand"))
PAIR = tl.TaskSet(MAIN, PERSON)
MOST = tl.TaskSet(MAIN, tl.Binary("face"), tl.Binary("side", role="auxiliary"), PERSON, HAND)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, ("mood", "face", "side")),
        (["mood", "person"], ("mood", "person")),
        (["person"], ("person",)),
    ],
)
def test_adversarial_tasks_stop_only_where_they_are_named(
    named: list[str] | None, expected: tuple[str, ...]
) -> None:
    assert TaskStopping(tasks=named).may_stop(MOST) == expected
    assert EarlyFreeze(tasks=named).may_stop(MOST) == ()


def test_training_ends_with_the_last_main_task_so_that_nothing_is_missed() -> None:
    """PCD needs every task; of these two only the main one may stop, and then training ends."""
    check_stopping(build("pcd"), [TaskStopping()], PAIR)
    check_stopping(build("krum"), [TaskStopping()], tl.TaskSet(MAIN, PERSON, HAND))
    with pytest.raises(ConfigError, match=r"callbacks\.task_stopping may stop all but 1 of them"):
        check_stopping(build("pcd"), [TaskStopping(tasks=["person"])], PAIR)


@pytest.mark.parametrize(
    ("named", "left"), [(None, 3), (["face", "side"], 3), (["mood", "person"], 3), (["side"], 4)]
)
def test_the_fewest_that_go_on_together(named: list[str] | None, left: int) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"balancing\.pcd needs 5 of the 5 .* callbacks\.task_stopping may stop all but {left}",
    ):
        check_stopping(build("pcd"), [TaskStopping(tasks=named)], MOST)
    check_stopping(build("krum"), [TaskStopping(tasks=named)], MOST)  # 3 are enough for it


def test_a_task_without_weight_ends_nothing() -> None:
    tasks = tl.TaskSet(MAIN, tl.Binary("side", role="auxiliary", weight=0.0), PERSON)
    with pytest.raises(ConfigError, match="may stop all but 2"):
        check_stopping(build("krum"), [TaskStopping(tasks=["person"])], tasks)
    check_stopping(build("krum"), [TaskStopping(tasks=["mood"])], tasks)


def test_callbacks_are_called_as_in_a_study_file() -> None:
    class Mine(Callback): ...

    assert [CALLBACKS[name]().called for name in CALLBACKS] == list(CALLBACKS)
    assert Mine().called == "Mine"
