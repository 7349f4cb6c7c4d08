"""Data sets joined without common labels: rows, labels, groups, mixed batches, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from taskloom.data.batch import DataSplits, EpochBatchSampler
from taskloom.data.inspect import inspect_splits
from taskloom.data.mixing_batches import MixRule, RowMix
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError
from taskloom.study.config import check_study
from taskloom.study.views import labelled_rows
from taskloom.study.yaml_lines import parse_document
from taskloom.training.processes import FilledShares

TASKS: dict[str, Any] = {
    "age": {"kind": "regression"},
    "sex": {"kind": "binary"},
    "hair": {"kind": "multiclass"},
}
SETS: dict[str, Any] = {
    "large": {"table": "large.csv", "features": ["a", "b"], "tasks": ["age", "hair"]},
    "small": {"table": "small.csv", "features": ["a", "b"], "tasks": ["sex", "hair"], "group": "person"},
}


def write(
    folder: Path, name: str, num_rows: int, seed: int, hair: tuple[str, ...] = ("red", "brown")
) -> None:
    draw = np.random.default_rng(seed)
    table = pd.DataFrame(draw.normal(size=(num_rows, 3)), columns=list("abc"))
    table["age"] = draw.normal(30 + 20 * seed, 9, num_rows)
    table["sex"] = draw.choice(["F", "M"], num_rows)
    table["hair"] = draw.choice(hair, num_rows)
    table["person"] = [f"P{row // 2}" for row in range(num_rows)]
    table.to_csv(folder / f"{name}.csv", index=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "large", 300, 1)
    write(tmp_path, "small", 60, 2)
    return tmp_path


def read(folder: Path, sets: Any = None, tasks: Any = None, **settings: Any) -> DataSplits:
    return load(
        "combined",
        {"combined": SETS if sets is None else sets, **settings},
        TASKS if tasks is None else tasks,
        {"by": "person", "test": 0.3, "validation": 0.2},
        folder=folder,
        stores=folder,
    )


def alone(folder: Path, name: str) -> DataSplits:
    given = {key: value for key, value in SETS[name].items() if key != "tasks"}
    tasks = {task: TASKS[task] for task in SETS[name]["tasks"]}
    split = {"by": "person", "test": 0.3, "validation": 0.2}
    return load("table", given, tasks, split, folder=folder, stores=folder)


def test_rows_are_those_of_the_sets_one_after_the_other(folder: Path) -> None:
    joined, large, small = read(folder), alone(folder, "large"), alone(folder, "small")
    for part in ("train", "validation", "test"):
        rows, first, second = (getattr(one, part) for one in (joined, large, small))
        assert len(rows) == len(first) + len(second)
        order = np.random.default_rng(0).permutation(len(rows))
        batch = rows.__getitems__(order.tolist())
        inputs = torch.cat([one.__getitems__(range(len(one))).inputs for one in (first, second)])
        assert torch.equal(batch.inputs, inputs[torch.from_numpy(order)])
        assert torch.equal(batch.index, torch.from_numpy(order))
        of_large = torch.from_numpy(order < len(first))
        assert torch.equal(batch.labels.present["age"], of_large)
        assert torch.equal(batch.labels.present["sex"], ~of_large)
        assert batch.labels.present["hair"].all()
        assert torch.equal(rows.labels.values["hair"][: len(first)], first.labels.values["hair"])
    assert joined.tasks.names == ("age", "sex", "hair")
    assert joined.tasks["age"] == large.tasks["age"]  # only that set has ages


def test_a_common_regression_is_standardised_on_all_training_rows(folder: Path) -> None:
    sets = {name: {**given, "tasks": ["age"]} for name, given in SETS.items()}
    joined = read(folder, sets, {"age": TASKS["age"]})
    ages = joined.train.labels.values["age"]
    assert joined.tasks["age"].center == pytest.approx(float(ages.mean()), rel=1e-5)
    assert joined.tasks["age"].scale == pytest.approx(float(ages.std(correction=0)), rel=1e-4)
    assert joined.test.tasks["age"] == joined.tasks["age"]


def test_groups_of_two_sets_are_never_one(folder: Path) -> None:
    """Both sets have a person P0; they are two people."""
    joined, large, small = read(folder), alone(folder, "large"), alone(folder, "small")
    found = inspect_splits(joined)
    for part in ("train", "validation", "test"):
        expected = sum(len(np.unique(getattr(one, part).groups)) for one in (large, small))
        groups = getattr(joined, part).groups
        assert len(np.unique(groups)) == expected
        assert sorted(np.unique(groups)) == list(range(expected))
        assert found.groups[part].count == expected
    assert not found.leaks
    names = joined.train.group_names  # type: ignore[attr-defined]
    assert {name.partition(": ")[0] for name in names} == {"large", "small"}


def test_report_tells_of_each(folder: Path) -> None:
    about = read(folder, batches={"temperature": 2}).about
    assert about["rows"]["train"] == 150 + 30
    assert set(about["sources"]) == {"large", "small"}
    notes = " ".join(about["notes"])
    assert "large: 150 train, 60 validation, 90 test; tasks age, hair; split by person" in notes
    assert "small: 30 train, 12 validation, 18 test; tasks sex, hair" in notes
    assert "Batches are mixed from the data sets (temperature 2)." in notes


def mix(rule: MixRule, *sizes: int) -> RowMix:
    names = tuple("abc"[: len(sizes)])
    return RowMix(rule, names, np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (MixRule("equal"), {0: 20, 1: 20}),
        (MixRule("temperature", 2), {0: 30, 1: 10}),
        (MixRule("temperature", 1), {0: 36, 1: 4}),
        (MixRule("temperature", 1e6), {0: 20, 1: 20}),
        (MixRule("rows", rows={"a": 8, "b": 32}), {0: 8, 1: 32}),
        (MixRule("rows", rows={"a": 1, "b": 1000}), {0: 1, 1: 39}),
        (MixRule("proportional"), None),
    ],
)
def test_quotas(rule: MixRule, expected: Any) -> None:
    assert mix(rule, 900, 100).quotas(40) == expected


def test_quotas_fill_the_batch_whatever_the_sizes() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        sizes = draw.integers(1, 500, size=3)
        for rule in (MixRule("equal"), MixRule("temperature", 3)):
            quotas = mix(rule, *sizes).quotas(17)
            assert quotas is not None
            assert sum(quotas.values()) == 17
            assert min(quotas.values()) >= 1
    assert mix(MixRule("equal"), 5, 0, 5).quotas(4) == {0: 2, 2: 2}
    assert mix(MixRule("equal"), 0, 5).quotas(4) is None  # a single-task baseline sees one set alone
    with pytest.raises(ConfigError, match=r"training\.batch: a batch of 2 cannot hold a row of each of 3"):
        mix(MixRule("equal"), 5, 5, 5).quotas(2)


def sampler(rule: MixRule, **settings: Any) -> EpochBatchSampler:
    return EpochBatchSampler(100, 10, shuffle=True, seed=3, mix=mix(rule, 90, 10), **settings)


def batches(one: EpochBatchSampler, epoch: int) -> list[list[int]]:
    one.set_epoch(epoch)
    found = list(one)
    assert len(found) == len(one)
    return found


def test_an_epoch_is_as_many_rows_as_there_are_and_passes_go_on() -> None:
    one = sampler(MixRule("equal"))
    epochs = [batches(one, epoch) for epoch in range(1, 6)]
    for found in epochs:
        assert len(found) == 10
        assert all(sum(row >= 90 for row in batch) == 5 for batch in found)
    seen = Counter(row for found in epochs for batch in found for row in batch)
    large = [seen[row] for row in range(90)]
    # 250 rows of each set in five epochs, spread as evenly as passes can.
    assert sum(large) == 250
    assert max(large) - min(large) <= 2
    assert [seen[row] for row in range(90, 100)] == [25] * 10


def test_order_follows_from_seed_and_epoch_alone() -> None:
    straight, resumed = sampler(MixRule("temperature", 2)), sampler(MixRule("temperature", 2))
    for epoch in range(1, 5):
        expected = batches(straight, epoch)
        if epoch == 4:
            assert batches(resumed, 4) == expected
    assert batches(straight, 1) != batches(straight, 2)


def test_processes_share_the_joined_batches() -> None:
    whole = batches(sampler(MixRule("equal")), 2)
    ranks = [batches(sampler(MixRule("equal"), rank=rank, world_size=3), 2) for rank in range(3)]
    for number, batch in enumerate(whole):
        assert [rank[number] for rank in ranks] == [batch[rank::3] for rank in range(3)]
    assert FilledShares(object()).mix is None  # type: ignore[arg-type]


def test_proportional_is_one_pass_over_all_rows() -> None:
    plain = EpochBatchSampler(100, 10, shuffle=True, seed=3)
    assert batches(sampler(MixRule("proportional")), 1) == batches(plain, 1)


def test_views_of_some_tasks_keep_the_mix(folder: Path) -> None:
    joined = read(folder, batches="equal")
    rows = labelled_rows(joined.train, ["sex", "age"])
    quotas = rows.mix.quotas(8)  # type: ignore[attr-defined]
    assert quotas == {0: 4, 1: 4}
    assert labelled_rows(joined.train, ["sex"]).mix.quotas(8) is None  # type: ignore[attr-defined]
    assert len(labelled_rows(joined.train, ["sex"])) == 30


def test_a_list_of_sets_and_labels_removed_from_one(folder: Path) -> None:
    sets = [
        {**SETS["large"], "name": "first"},
        {**SETS["small"], "remove_labels": {"share": 0.5, "tasks": "sex"}},
    ]
    joined = read(folder, sets)
    assert joined.train.labels.counts() == {"age": 150, "sex": 15, "hair": 180}
    assert list(joined.train.parts) == ["first", "set 2"]  # type: ignore[attr-defined]


def test_reader_follows_from_the_section() -> None:
    text = (
        "data: {combined: {a: {table: a.csv}, b: {table: b.csv}}}\ntasks: {sex: {kind: binary}}\n"
        "encoder: {name: mlp}\ncells: [{hard_sharing: {stages: 1}}]\n"
    )
    assert check_study(parse_document(text, "two.yaml"), "two").reader == "combined"


def test_two_class_lists_are_refused_with_both(folder: Path) -> None:
    write(folder, "small", 60, 2, hair=("brown", "grey"))
    with pytest.raises(DataError) as caught:
        read(folder)
    assert (
        "task hair is not the same in two data sets: large has the classes brown, red, small has the classes "
        "brown, grey; declare the classes in tasks.hair, or make them two tasks."
    ) in str(caught.value)
    declared = {**TASKS, "hair": {"kind": "multiclass", "classes": ["brown", "grey", "red"]}}
    split = {"by": "rows", "test": 0.3, "validation": 0.2}
    sets = {name: {**given, "split": split} for name, given in SETS.items()}
    del sets["small"]["group"]
    assert read(folder, sets, declared).tasks["hair"].class_names == ("brown", "grey", "red")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"features": ["a", "b", "c"]},
            DataError,
            "inputs of one shape expected, found large [2], small [3]; set",
        ),
        (
            {"tasks": ["sxe"]},
            ConfigError,
            "data.combined.small.tasks: `sxe` is not a task of the study. Did you mean",
        ),
        ({"tasks": ["hair"]}, ConfigError, "no data set has task sex; name it in the `tasks` of one"),
        ({"tasks": []}, ConfigError, "data.combined.small.tasks: at least one task expected, found none"),
        ({"table": "smal.csv"}, DataError, "data.combined.small: "),
        ({"split": {"by": "persn"}}, DataError, "data.combined.small: split.by"),
        ({"reader": "combined"}, ConfigError, "found another combination"),
    ],
)
def test_refused_sets(folder: Path, change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        read(folder, {**SETS, "small": {**SETS["small"], **change}})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ("equall", "data.batches.mix: `equall` is not a way of mixing. Did you mean `equal`"),
        ({"mix": "temperature"}, "data.batches.temperature: goes with `mix: temperature`, and that needs it"),
        ({"temperature": 0.5}, "data.batches.temperature: a number of at least 1 expected, found 0.5"),
        ({"rows": {"large": 8}}, "every data set needs its rows; small has none"),
        ({"rows": {"larg": 8}}, "there is no data set `larg`. Did you mean `large`"),
        ({"rows": {"large": 8, "small": 0}}, "data.batches.rows.small: at least 1 row expected, found 0"),
        ({"temprature": 2}, "data.batches.temprature is not a setting. Did you mean `temperature`"),
        (3, "a way of mixing or settings by name expected, found 3"),
    ],
)
def test_refused_mixes(folder: Path, batches: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(folder, batches=batches)
    assert message in str(caught.value)


@pytest.mark.parametrize("sets", [{}, {"one": {"table": "large.csv"}}, "large", [3, 4]])
def test_refused_combinations(folder: Path, sets: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.combined"):
        read(folder, sets)
