"""What is said of every kind of task: cells, confidences, words, points in the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskloom import Binary, Landmarks, Multiclass, Multilabel, Ordinal, Regression, TaskSet
from taskloom.predict.readings import READINGS, Readings
from taskloom.tasks.kinds import KINDS

PROBABILITY = 0.7
LOGIT = float(np.log(PROBABILITY / (1 - PROBABILITY)))


def cells_of(task, output: list[float]):  # type: ignore[no-untyped-def]
    readings = Readings(TaskSet(task))
    state = readings.states({task.name: torch.tensor([output], dtype=torch.float64)})[0]
    found = dict(zip([column.name for column in readings.columns], readings.cells(state), strict=True))
    return found, readings.words(state)


def test_every_kind_of_task_can_be_read() -> None:
    assert set(READINGS) == set(KINDS)


def test_a_binary_task_gives_the_likelier_class_and_its_probability() -> None:
    task = Binary("gender", ("male", "female"))
    found, words = cells_of(task, [LOGIT])
    assert found == {"gender": "female", "gender_confidence": pytest.approx(0.7)}
    assert words == ["gender female 0.70"]
    found, _ = cells_of(task, [-LOGIT])
    assert found == {"gender": "male", "gender_confidence": pytest.approx(0.7)}


def test_a_multiclass_task_gives_the_likeliest_class() -> None:
    found, words = cells_of(Multiclass("mood", ("glad", "sad", "calm")), np.log([0.2, 0.5, 0.3]).tolist())
    assert found == {"mood": "sad", "mood_confidence": pytest.approx(0.5)}
    assert words == ["mood sad 0.50"]


def test_a_multilabel_task_gives_every_label_and_names_the_present_ones() -> None:
    found, words = cells_of(Multilabel("wears", ("hat", "scarf")), [LOGIT, -LOGIT])
    assert found == {
        "wears_hat": True,
        "wears_hat_confidence": pytest.approx(0.7),
        "wears_scarf": False,
        "wears_scarf_confidence": pytest.approx(0.7),
    }
    assert words == ["wears: hat 0.70"]
    assert cells_of(Multilabel("has", 9), [LOGIT] * 9)[1][0].endswith("and 5 more")
    assert cells_of(Multilabel("has", 2), [-LOGIT] * 2)[1] == ["has: none"]


def test_a_regression_is_in_its_unit_and_has_no_confidence() -> None:
    found, words = cells_of(Regression("age", unit="years", center=40, scale=10), [-0.55])
    assert found == {"age": pytest.approx(34.5)}
    assert words == ["age 34 years"]
    assert list(cells_of(Regression("gaze", size=2), [1.0, 2.0])[0].values()) == [1.0, 2.0]


def test_an_ordinal_task_gives_its_level_and_the_probability_of_it() -> None:
    above = np.array([0.9, 0.6, 0.2])  # of being above levels 20, 21, 22
    found, words = cells_of(
        Ordinal("age", range=(20, 23), unit="years"), np.log(above / (1 - above)).tolist()
    )
    assert found == {"age": 22.0, "age_confidence": pytest.approx(0.6 - 0.2)}
    assert words == ["age 22 years"]
    chances = np.array([0.05, 0.2, 0.7, 0.05])
    found, _ = cells_of(Ordinal("age", range=(20, 23), loss="dex"), np.log(chances).tolist())
    expected = float(chances @ [20, 21, 22, 23])
    assert found == {"age": pytest.approx(expected), "age_confidence": pytest.approx(0.7)}


def test_landmarks_go_back_to_where_the_cut_took_them_from() -> None:
    task = Landmarks("face", ("eye", "nose"), reference=10.0)
    readings = Readings(TaskSet(Regression("age"), task))
    turn = np.array([[0.4, -0.3, 7.0], [0.3, 0.4, -2.0]])
    inside = np.array([[50.0, 60.0], [70.0, 65.0]])
    cut = (turn[:, :2] @ inside.T).T + turn[:, 2]
    state = readings.in_picture(np.array([33.0, *cut.ravel()]), turn)
    np.testing.assert_allclose(state, [33.0, *inside.ravel()])
    np.testing.assert_allclose(readings.points(state), inside)
    assert [column.name for column in readings.columns][1:] == [
        "face_eye_x",
        "face_eye_y",
        "face_nose_x",
        "face_nose_y",
    ]


def test_a_task_with_the_name_of_a_column_of_the_table_has_another_column() -> None:
    readings = Readings(TaskSet(Regression("x"), Regression("x_y")), taken=["x"])
    assert [column.name for column in readings.columns] == ["task.x", "x_y"]
