"""Relatedness: the paper's table, frequencies by loops and pandas, intervals by SciPy, bad input."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

import taskloom as tl
from taskloom.coupling import (
    Matching,
    Relatedness,
    RelatednessWarning,
    WeightSchedule,
    check,
    choose_relatedness,
    diff,
    draw_heatmap,
    expression_action_units,
    expression_action_units_aff_wild2,
    from_labels,
    from_predictions,
    measure_consistency,
    read_table,
    save_heatmap,
)
from taskloom.coupling.coupling import Coupling
from taskloom.errors import ConfigError, DataError

PRIOR = expression_action_units()
FACES = tl.TaskSet(tl.Multiclass("face", PRIOR.classes), tl.Multilabel("units", PRIOR.attributes))


def pets(rows: int = 400, missing: float = 0.3) -> tuple[tl.TaskSet, tl.Labels]:
    generator = torch.Generator().manual_seed(0)
    tasks = tl.TaskSet(
        tl.Multiclass("animal", ("cat", "bird", "fish")), tl.Binary("fur"), tl.Multilabel("has", 4)
    )
    labels = tl.Labels(
        {
            "animal": torch.randint(3, (rows,), generator=generator),
            "fur": torch.randint(2, (rows,), generator=generator),
            "has": torch.randint(2, (rows, 4), generator=generator),
        },
        {
            "animal": torch.rand(rows, generator=generator) > missing,
            "fur": torch.rand(rows, generator=generator) > missing,
            "has": torch.rand(rows, 4, generator=generator) > missing,
        },
    )
    return tasks, labels


def planted(table: Relatedness, rows: int, seed: int = 0) -> tl.Labels:
    """Labels whose attributes follow the table's values."""
    random = np.random.default_rng(seed)
    codes = random.integers(len(table.classes), size=rows)
    active = random.random((rows, len(table.attributes))) < table.values[codes]
    return tl.Labels(
        {"face": torch.from_numpy(codes), "units": torch.from_numpy(active).long()},
        {"face": torch.ones(rows).bool(), "units": torch.ones(rows, len(table.attributes)).bool()},
    )


# -- prior knowledge


def test_the_papers_table_has_its_rows() -> None:
    assert len(PRIOR.classes) == 6
    assert PRIOR.attributes == tuple(
        f"AU{n}" for n in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 15, 17, 20, 23, 24, 25, 26)
    )
    prototypical = {c: {a for a in PRIOR.attributes if PRIOR[c, a] == 1} for c in PRIOR.classes}
    assert prototypical == {
        "happiness": {"AU12", "AU25"},
        "sadness": {"AU4", "AU15"},
        "fear": {"AU1", "AU4", "AU20", "AU25"},
        "anger": {"AU4", "AU7", "AU24"},
        "surprise": {"AU1", "AU2", "AU25", "AU26"},
        "disgust": {"AU9", "AU10", "AU17"},
    }
    observational = {
        (c, a): PRIOR[c, a] for c in PRIOR.classes for a in PRIOR.attributes if 0 < PRIOR[c, a] < 1
    }
    assert len(observational) == 14
    assert observational["fear", "AU2"] == 0.57
    assert observational["sadness", "AU17"] == 0.67
    assert math.isclose(sum(observational.values()), 6.37)  # added by hand from the printed table
    wild = expression_action_units_aff_wild2()
    assert wild["surprise", "AU26"] == 0.3
    assert math.isclose(wild.values.sum(), 3.55 + 1.39 + 2.91 + 1.83 + 2.6 + 3.0)


def test_neutral_is_a_class_without_attributes_by_name_only() -> None:
    table = expression_action_units(neutral=True)
    assert table.classes[-1] == "neutral"
    assert table.empty_classes == ("neutral",)
    with pytest.raises(DataError, match="class c has no attribute"):
        Relatedness(("b", "c"), ("x",), np.array([[1.0], [0.0]]))
    with pytest.raises(DataError, match="named among the empty classes, but it has attributes"):
        Relatedness(("b",), ("x",), np.array([[1.0]]), empty_classes=("b",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"values": [[1.0, -0.5]]}, "from 0 to 1 expected, found -0.5 for class c, attribute y"),
        ({"values": [[1.0, 1.5]]}, "found 1.5"),
        ({"values": [[1.0, math.inf]]}, "found inf"),
        ({"values": [[1.0]]}, r"shape \[1, 2\].*found \[1, 1\]"),
        ({"attributes": ("x", "x")}, "`x` stands twice"),
        ({"kind": "frequency"}, "Did you mean `frequencies`"),
        ({"between": "class"}, "is none of class_attribute"),
        ({"counts": np.ones((1, 2))}, "counts and totals come together"),
    ],
)
def test_refuses_what_is_no_table(settings: dict[str, object], message: str) -> None:
    fields = {"classes": ("c",), "attributes": ("x", "y"), "values": [[1.0, 0.0]]} | settings
    with pytest.raises(DataError, match=message):
        Relatedness(**fields)  # type: ignore[arg-type]


def test_names_are_found_or_suggested() -> None:
    assert PRIOR.select(["fear"], ["AU2", "AU1"]).values.tolist() == [[0.57, 1.0]]
    with pytest.raises(DataError, match=r"no class `fera`. Did you mean `fear`"):
        PRIOR.select(["fera"])
    with pytest.raises(DataError, match="class sadness has no attribute"):
        PRIOR.select(attributes=["AU12"])
    assert PRIOR.renamed({"fear": "afraid"}).select(["afraid"], ["AU2"])["afraid", "AU2"] == 0.57


# -- files


def test_saved_and_loaded_tables_are_equal(tmp_path: Path) -> None:
    tasks, labels = pets()
    counted = from_labels(labels, tasks, classes=["fur", "has"], attributes=["fur", "has"])
    for table in (PRIOR, expression_action_units(neutral=True), counted):
        table.save(tmp_path / "table.json")
        assert Relatedness.load(tmp_path / "table.json") == table
        assert read_table(tmp_path / "table.json") == table
    assert list(tmp_path.iterdir()) == [tmp_path / "table.json"]
    assert counted != PRIOR


def test_csv_and_yaml_give_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("class,AU12,AU6,AU4\nhappy,1,0.51,\nsad,,?,1\n")
    (tmp_path / "t.yaml").write_text(
        "classes:\n  happy: {AU12: 1, AU6: 0.51}\n  sad: {AU6: '?', AU4: 1}\n  neutral: {}\n"
        "empty_classes: [neutral]\n"
    )
    first, second = read_table(tmp_path / "t.csv"), read_table(tmp_path / "t.yaml")
    np.testing.assert_array_equal(first.values, [[1, 0.51, 0], [0, math.nan, 1]])
    np.testing.assert_array_equal(second.select(["happy", "sad"]).values, first.values)
    assert second.empty_classes == ("neutral",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "class,a\nx,one\n", r"t.csv:2: column a: a number.*found `one`"),
        ("t.csv", "class,a,b\nx,1\n", "t.csv:2: 3 cells .* expected, found 2"),
        ("t.csv", "class,a\n", "a line per class expected"),
        ("t.csv", "class,a\nx,-1\n", "found -1 for class x"),
        ("t.yaml", "classes: {x: {a: 1}, x: {a: 0}}", "`x` stands twice"),
        ("t.yaml", "classes: [x]", "`classes: {class: {attribute: weight}}` expected"),
        ("t.yaml", "classes: {x: {a: 1}}\nkinds: weights", "`kinds` is no setting"),
        (
            "t.yaml",
            "classes: {x: {a: 1}}\nattributes: [b]",
            "attribute `a` of a class is not in `attributes`: b",
        ),
        ("t.json", "{", "JSON expected"),
        ("t.json", json.dumps({"format": 9}), "format 1 expected, found 9"),
        ("t.json", json.dumps({"format": 1, "classes": []}), "`attributes` is missing"),
        ("t.txt", "", "found `.txt`"),
    ],
)
def test_refuses_broken_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)
    with pytest.raises(DataError, match="there is no such"):
        read_table(tmp_path / "absent.csv")


# -- from labels


def test_frequencies_equal_a_loop_over_rows_with_both_labels() -> None:
    tasks, labels = pets()
    table = from_labels(labels, tasks, classes="animal", attributes=["fur", "has"])
    assert table.attributes == ("fur", "0", "1", "2", "3")
    assert table.counts is not None
    assert table.totals is not None
    for c, name in enumerate(table.classes):
        for a, attribute in enumerate(table.attributes):
            value = labels.values["fur"] if attribute == "fur" else labels.values["has"][:, int(attribute)]
            there = labels.present["fur"] if attribute == "fur" else labels.present["has"][:, int(attribute)]
            both = [
                int(value[n])
                for n in range(len(labels))
                if labels.present["animal"][n] and there[n] and labels.values["animal"][n] == c
            ]
            assert table[name, attribute] == pytest.approx(sum(both) / len(both))
            assert (table.counts[c, a], table.totals[c, a]) == (sum(both), len(both))
    smooth = from_labels(labels, tasks, classes="animal", attributes="fur", smoothing=2.0)
    np.testing.assert_allclose(smooth.values, (table.counts[:, :1] + 2) / (table.totals[:, :1] + 4))


def test_class_class_and_attribute_attribute_equal_pandas() -> None:
    tasks, labels = pets(missing=0.0)
    tasks = tl.TaskSet(*tasks.values(), tl.Multiclass("colour", ("red", "blue")))
    labels.values["colour"], labels.present["colour"] = labels.values["fur"], labels.present["fur"]
    frame = pd.DataFrame({"animal": labels.values["animal"].numpy(), "fur": labels.values["fur"].numpy()})
    table = from_labels(labels, tasks, classes="animal", attributes="colour")
    expected = pd.crosstab(frame["animal"], frame["fur"], normalize="index")
    np.testing.assert_allclose(table.values, expected.to_numpy())
    assert table.between == "class_class"

    pairs = from_labels(labels, tasks, classes=["fur", "has"], attributes=["fur", "has"])
    frame["third"] = labels.values["has"][:, 2].numpy()
    assert pairs["fur", "2"] == pytest.approx(frame[frame.fur == 1]["third"].mean())
    assert pairs["not fur", "2"] == pytest.approx(frame[frame.fur == 0]["third"].mean())
    assert math.isnan(pairs["fur", "fur"])
    assert math.isnan(pairs["not fur", "fur"])


def test_intervals_are_wilsons() -> None:
    tasks, labels = pets()
    table = from_labels(labels, tasks, classes="animal", attributes="has")
    assert table.counts is not None
    assert table.totals is not None
    low, high = table.intervals(0.9)
    for (row, column), count in np.ndenumerate(table.counts):
        interval = binomtest(int(count), int(table.totals[row, column])).proportion_ci(0.9, "wilson")
        assert (low[row, column], high[row, column]) == pytest.approx((interval.low, interval.high))
    assert np.isnan(PRIOR.intervals()[0]).all()
    with pytest.raises(ConfigError, match="between 0 and 1"):
        table.intervals(1.0)


def test_the_minimum_support_is_kept() -> None:
    tasks, labels = pets(40)
    with pytest.raises(DataError, match=r"1000 rows or more .* fewer for 3 of 3 \(fur given cat: "):
        from_labels(labels, tasks, classes="animal", attributes="fur", minimum_support=1000)
    labels.present["fur"][labels.values["animal"] == 0] = False
    with pytest.raises(DataError, match=r"fewer for 1 of 3 \(fur given cat: 0\)"):
        from_labels(labels, tasks, classes="animal", attributes="fur", minimum_support=2)
    table = from_labels(
        labels, tasks, classes="animal", attributes="fur", minimum_support=2, below_minimum="unknown"
    )
    assert np.isnan(table.values[:, 0]).tolist() == [True, False, False]
    for settings in ({"minimum_support": 0}, {"smoothing": -1.0}, {"below_minimum": "ignore"}):
        with pytest.raises(ConfigError, match="relatedness"):
            from_labels(labels, tasks, classes="animal", attributes="fur", **settings)  # type: ignore[arg-type]


def test_a_class_whose_attributes_never_occur_must_be_named() -> None:
    tasks, labels = pets()
    labels.values["fur"][labels.values["animal"] == 2] = 0
    with pytest.raises(DataError, match="class fish has no attribute in any of its rows"):
        from_labels(labels, tasks, classes="animal", attributes="fur")
    table = from_labels(labels, tasks, classes="animal", attributes="fur", empty_classes=["fish"])
    assert table.empty_classes == ("fish",)


def test_sure_predictions_give_what_labels_give() -> None:
    tasks, labels = pets(missing=0.0)
    outputs = {
        "animal": 200.0 * torch.nn.functional.one_hot(labels.values["animal"], 3),
        "has": 200.0 * (2.0 * labels.values["has"] - 1),
    }
    soft = from_predictions(outputs, tasks, classes="animal", attributes="has")
    np.testing.assert_allclose(
        soft.values, from_labels(labels, tasks, classes="animal", attributes="has").values
    )
    unsure = {name: output / 400 for name, output in outputs.items()}
    softer = from_predictions(unsure, tasks, classes="animal", attributes="has")
    p = unsure["animal"].softmax(1).numpy()
    a = unsure["has"].sigmoid().numpy()
    np.testing.assert_allclose(softer.values, (p.T @ a) / p.sum(0)[:, None], rtol=1e-5)


def test_labels_per_sample_count_sample_by_sample() -> None:
    tasks = tl.TaskSet(tl.Multiclass("activity", 2), tl.Binary("moving"))
    values = torch.tensor([[0, 0, 1], [1, 1, 0]])
    moving = torch.tensor([[1, 0, 1], [1, 1, 1]])
    there = torch.ones(2, 3).bool()
    labels = tl.Labels({"activity": values, "moving": moving}, {"activity": there, "moving": there})
    table = from_labels(labels, tasks, classes="activity", attributes="moving", minimum_support=1)
    assert table.values.ravel().tolist() == pytest.approx([2 / 3, 1.0])


def test_a_study_names_its_table(tmp_path: Path) -> None:
    tasks, labels = pets()
    sides = {"classes": "animal", "attributes": "has"}

    def chosen(source: object) -> Relatedness:
        return choose_relatedness(source, labels, tasks, folder=tmp_path, **sides)  # type: ignore[arg-type]

    assert chosen("expression_action_units") == PRIOR
    PRIOR.save(tmp_path / "mine.json")
    assert chosen("mine.json") == PRIOR
    np.testing.assert_array_equal(chosen("from_labels").values, from_labels(labels, tasks, **sides).values)
    smooth = chosen({"from_labels": {"smoothing": 5}})
    np.testing.assert_array_equal(smooth.values, from_labels(labels, tasks, smoothing=5, **sides).values)
    for source, message in (
        ("from_label", "neither a shipped table nor a file.* Did you mean `from_labels`"),
        ({"from_labels": {"smothing": 1}}, "smothing is not a setting. Did you mean `smoothing`"),
        ({"labels": {}}, "a name, a file or {from_labels: settings} expected"),
    ):
        with pytest.raises(ConfigError, match=message):
            chosen(source)


# -- compared


def test_a_true_table_agrees_and_a_wrong_one_is_warned_of() -> None:
    labels = planted(PRIOR, 3000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check(PRIOR, labels, FACES, classes="face", attributes="units")
    assert found.contradictions == []
    assert found.agreement == 1.0
    assert found.num_compared == 6 * 17
    turned = PRIOR.renamed(dict(zip(PRIOR.classes, (*PRIOR.classes[1:], PRIOR.classes[0]), strict=True)))
    with pytest.warns(RelatednessWarning, match=r"contradicts the labels in \d+ of 102 entries"):
        wrong = check(turned, labels, FACES, classes="face", attributes="units")
    assert wrong.agreement < 0.5
    worst = wrong.contradictions[0]
    assert abs(worst.prior - worst.observed) == 1.0


def test_one_wrong_entry_is_named() -> None:
    labels = planted(PRIOR, 3000)
    values = PRIOR.values.copy()
    values[0, PRIOR.attributes.index("AU9")] = 1.0  # happiness does not wrinkle the nose
    values[5, PRIOR.attributes.index("AU9")] = 0.0  # disgust does
    table = Relatedness(PRIOR.classes, PRIOR.attributes, values, source="mine")
    with pytest.warns(RelatednessWarning, match="relatedness mine contradicts the labels in 2 of 102"):
        found = check(table, labels, FACES, classes="face", attributes="units")
    assert {(entry.given, entry.follows) for entry in found.contradictions} == {
        ("happiness", "AU9"),
        ("disgust", "AU9"),
    }
    assert "AU9 given happiness: table 1.00, data 0.00 [0.00, 0.0" in " ".join(map(str, found.contradictions))


def test_frequencies_of_the_same_source_rarely_contradict_and_of_another_do() -> None:
    first, second = (
        from_labels(planted(PRIOR, 2000, seed), FACES, classes="face", attributes="units") for seed in (1, 2)
    )
    assert diff(first, second).contradictions == []
    assert diff(first, second).agreement > 0.95
    other = from_labels(
        planted(expression_action_units_aff_wild2(), 2000),
        tl.TaskSet(FACES["face"], tl.Multilabel("units", expression_action_units_aff_wild2().attributes)),
        classes="face",
        attributes="units",
    )
    found = diff(first, other)
    assert ("happiness", "AU7") in {(entry.given, entry.follows) for entry in found.contradictions}
    assert not found.compared[:, PRIOR.attributes.index("AU9")].any()  # only one of them has it
    assert len(found.differences) >= len(found.contradictions) > 0


def test_attribute_tables_are_compared_with_the_absence_of_the_label() -> None:
    random = np.random.default_rng(0)
    first = random.random(2000) < 0.4
    second = random.random(2000) < np.where(first, 0.8, 0.1)
    there = torch.ones(2000).bool()
    labels = tl.Labels(
        {"a": torch.from_numpy(first).long(), "b": torch.from_numpy(second).long()}, {"a": there, "b": there}
    )
    tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))
    data = from_labels(labels, tasks, classes=["a", "b"], attributes=["a", "b"])
    prior = Relatedness(
        ("a", "b"), ("a", "b"), np.array([[math.nan, 1], [1, math.nan]]), between="attribute_attribute"
    )
    found = diff(prior, data)
    assert found.contradictions == []
    assert found.elsewhere[0, 1] == pytest.approx(second[~first].mean())
    assert diff(data, data).agreement == 1.0


def test_only_tables_of_one_kind_with_common_names_are_compared() -> None:
    other = Relatedness(("x",), ("y",), np.array([[1.0]]))
    with pytest.raises(ConfigError, match="no known entry in common"):
        diff(PRIOR, other)
    with pytest.raises(ConfigError, match="only tables of one kind"):
        diff(PRIOR, Relatedness(("x",), ("y",), np.array([[1.0]]), between="class_class"))
    with pytest.raises(ConfigError, match="confidence between 0 and 1"):
        diff(PRIOR, PRIOR, confidence=1.0)


# -- drawn


def test_the_heatmap_shows_the_entries_and_crosses_contradictions(tmp_path: Path) -> None:
    figure = draw_heatmap(PRIOR)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == int((PRIOR.values > 0).sum())
    assert texts.count("1") == int((PRIOR.values == 1).sum())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(PRIOR.classes)
    sides = diff(PRIOR, expression_action_units_aff_wild2())
    drawn = draw_heatmap(sides)
    crosses = drawn.axes[1].lines[0].get_xydata()
    assert {(int(y), int(x)) for x, y in crosses} == set(map(tuple, np.argwhere(sides.contradicts).tolist()))
    save_heatmap(sides, tmp_path / "sides.png")
    assert (tmp_path / "sides.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match=r"found `\.bmp`"):
        save_heatmap(PRIOR, tmp_path / "sides.bmp")


# -- consistency


def test_consistency_counts_required_and_forbidden_attributes() -> None:
    logits = torch.full((5, 17), -4.0)
    happy = PRIOR.values[0]
    logits[0, torch.from_numpy(happy > 0)] = 4.0  # all three
    logits[1, torch.from_numpy(happy == 1)] = 4.0  # without the observational one: still consistent
    logits[2, PRIOR.attributes.index("AU12")] = 4.0  # AU25 is required
    logits[3, torch.from_numpy(happy > 0)] = 4.0
    logits[3, PRIOR.attributes.index("AU15")] = 4.0  # AU15 is forbidden
    outputs = {"face": torch.tensor([[9.0, 0, 0, 0, 0, 0]]).repeat(5, 1), "units": logits}
    found = measure_consistency(outputs, FACES, PRIOR, classes="face", attributes="units")
    assert (found.contradicting, found.rows) == (3, 5)
    assert found.contradictions == 1 + 1 + 2  # the last row lacks both prototypical ones
    assert found.decided == 5 * 16  # all but AU6
    assert (found + found).share == found.share == 3 / 5


def test_consistency_between_attributes_ignores_what_is_absent() -> None:
    tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))
    table = Relatedness(
        ("a", "b", "not a", "not b"),
        ("a", "b"),
        np.array([[math.nan, 0.99], [0.5, math.nan], [math.nan, 0.0], [0.0, math.nan]]),
        "frequencies",
        "attribute_attribute",
    )
    outputs = {"a": torch.tensor([[2.0], [2.0], [-2.0]]), "b": torch.tensor([[2.0], [-2.0], [2.0]])}
    found = measure_consistency(outputs, tasks, table, classes=["a", "b"], attributes=["a", "b"])
    assert (found.contradicting, found.rows) == (1, 3)
    with pytest.raises(ConfigError, match="0 <= excluded < required <= 1"):
        measure_consistency(outputs, tasks, table, classes="a", attributes="b", required=0.0)


# -- bad couplings


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"classes": "age", "attributes": "units"}, "task age is a regression; only binary, multiclass"),
        ({"classes": "face", "attributes": "age"}, "task age is a regression"),
        ({"classes": "face", "attributes": ["units", "units"]}, "the label `AU1` stands twice"),
        ({"classes": "face", "attributes": ["face", "units"]}, "the multiclass task face stands beside"),
        ({"classes": ["units"], "attributes": "face"}, "give the exclusive ones as `classes`"),
        ({"classes": ["units"], "attributes": "units"}, "class_attribute, but .* attribute_attribute"),
        ({"classes": "fcae", "attributes": "units"}, "Did you mean `face`"),
        ({"classes": "face", "attributes": []}, "at least one task expected"),
    ],
)
def test_refuses_tasks_that_cannot_be_coupled(sides: dict[str, object], message: str) -> None:
    tasks = tl.TaskSet(*FACES.values(), tl.Regression("age"))
    with pytest.raises(ConfigError, match=message):
        Coupling(PRIOR, **sides).check_tasks(tasks)  # type: ignore[arg-type]


def test_names_that_do_not_match_are_printed_side_by_side() -> None:
    tasks = tl.TaskSet(
        tl.Multiclass("face", ("hapiness", *PRIOR.classes[1:])), tl.Multilabel("units", PRIOR.attributes)
    )
    with pytest.raises(ConfigError) as caught:
        Coupling(PRIOR, classes="face", attributes="units").check_tasks(tasks)
    message = str(caught.value)
    assert "Table: happiness, sadness" in message
    assert "Tasks: hapiness, sadness" in message
    assert "`hapiness` is missing in the table. Did you mean `happiness`?" in message
    few = tl.TaskSet(FACES["face"], tl.Multilabel("units", PRIOR.attributes[1:]))
    with pytest.raises(ConfigError, match=r"its attributes do not match .* `AU1` is not in the tasks"):
        Coupling(PRIOR, classes="face", attributes="units").check_tasks(few)


# -- schedule


def test_schedules_rise_and_end() -> None:
    linear = WeightSchedule(1.0, start_epoch=2, ramp_epochs=3, end_epoch=8)
    assert [linear.at(e) for e in range(10)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 0, 0]
    step = WeightSchedule(2.0, ramp_epochs=2, shape="step")
    assert [step.at(e) for e in range(4)] == [0, 0, 2, 2]
    cosine = WeightSchedule(1.0, ramp_epochs=3, shape="cosine")
    assert cosine.at(1) == pytest.approx(0.5)
    assert cosine.at(0) + cosine.at(2) == pytest.approx(1.0)
    for settings in (
        {"weight": -1.0},
        {"weight": math.nan},
        {"ramp_epochs": -1},
        {"shape": "square"},
        {"start_epoch": 3, "end_epoch": 3},
    ):
        with pytest.raises(ConfigError, match="coupling"):
            WeightSchedule(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="weight of 0 or more"):
        Matching(weight=-0.5)
