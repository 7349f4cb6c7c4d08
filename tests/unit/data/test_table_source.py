"""The table source: splits by group, standardisation on train, settings, and two real tables by pandas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from taskloom.data import sources
from taskloom.data.batch import DataSplits, TaskDataset, make_loader
from taskloom.data.table_source import any_present, load_table, table
from taskloom.data.tables import TableDataset
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Binary, Labels, Multiclass, Regression, TaskSet

SHARED = Path(__file__).parents[4] / "shared" / "data"
TASKS: dict[str, dict[str, Any]] = {"age": {"kind": "regression"}, "sex": {"kind": "binary"}}
PARTS = ("train", "validation", "test")


@pytest.fixture
def frame() -> pd.DataFrame:
    """Sixty rows of twenty people; a quarter of the ages is missing, some weights are."""
    random = np.random.default_rng(0)
    data = pd.DataFrame(
        {
            "person": [f"p{row // 3}" for row in range(60)],
            "height": random.normal(170, 9, 60).round(1),
            "weight": random.normal(70, 9, 60).round(1),
            "note": "text",
            "age": random.integers(20, 60, 60).astype(float),
            "sex": random.choice(["F", "M"], 60),
            "part": ["train"] * 40 + ["validation"] * 8 + ["test"] * 12,
        }
    )
    data.loc[::4, "age"] = np.nan
    data.loc[5::11, "weight"] = np.nan
    return data


@pytest.fixture
def folder(tmp_path: Path, frame: pd.DataFrame) -> Path:
    frame.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path


def loaded(
    base: Path, split: dict[str, Any], tasks: Any = TASKS, seed: int = 0, **settings: Any
) -> DataSplits:
    settings = {"table": "people.csv", "impute": "mean", **settings}
    return load_table(settings, tasks, split, seed=seed, folder=base, stores=base)


def rows_of(data: DataSplits) -> dict[str, list[int]]:
    return {part: getattr(data, part).rows.tolist() for part in PARTS}


def test_a_task_set_without_classes_gets_what_a_study_file_gets(folder: Path, frame: pd.DataFrame) -> None:
    frame["smiling"] = ["yes", "no", ""] * 20
    frame.to_csv(folder / "people.csv", index=False)
    built = TaskSet(Binary("smiling"), Multiclass("part"), Binary("sex", ("M", "F")))
    kinds = {"smiling": "binary", "part": "multiclass", "sex": "binary"}
    declared = {name: {"kind": kind} for name, kind in kinds.items()}
    declared["sex"]["classes"] = ["M", "F"]  # type: ignore[assignment]
    first = table(folder / "people.csv", built, exclude=["note"], impute="mean")
    second = table(folder / "people.csv", declared, exclude=["note"], impute="mean")
    assert first.tasks == second.tasks
    assert first.tasks["smiling"].class_names == ("no", "yes")
    assert torch.equal(first.test.labels.values["smiling"], second.test.labels.values["smiling"])
    with pytest.raises(DataError, match="`no` is not a class of task `smiling`"):
        table(folder / "people.csv", TaskSet(Binary("smiling", ("0", "1"))), impute="mean")


def test_columns_that_rest_leaves_out_are_named_in_the_notes(folder: Path) -> None:
    notes = loaded(folder, {"by": "person"}).about["notes"]
    assert "Not used as features: note, part (text or blank)." in notes


def test_every_row_keeps_its_own_labels_and_features(folder: Path, frame: pd.DataFrame) -> None:
    data = loaded(folder, {"by": "person"}, features=["height"], standardize=False)
    rows = rows_of(data)
    assert sorted(row for part in rows.values() for row in part) == list(range(60))
    for part in PARTS:
        dataset = getattr(data, part)
        assert isinstance(dataset, TaskDataset)
        expected = frame.iloc[rows[part]]
        batch = dataset.__getitems__(range(len(dataset)))
        np.testing.assert_array_equal(batch.inputs[:, 0].numpy(), expected["height"].to_numpy(np.float32))
        np.testing.assert_array_equal(batch.labels.present["age"].numpy(), expected["age"].notna())
        present = batch.labels.present["age"]
        np.testing.assert_array_equal(batch.labels.values["age"][present].numpy(), expected["age"].dropna())
        np.testing.assert_array_equal(batch.labels.values["sex"].numpy(), expected["sex"] == "M")
        names = np.array(dataset.group_names)[dataset.groups]
        np.testing.assert_array_equal(names, expected["person"])


def test_no_person_stands_on_two_sides(folder: Path) -> None:
    for seed in range(5):
        data = loaded(folder, {"by": "person"}, seed=seed)
        people = [set(getattr(data, part).group_names) for part in PARTS]
        assert len(set.union(*people)) == sum(map(len, people)) == 20


def test_the_seed_decides_the_split(folder: Path) -> None:
    split = {"by": "person"}
    assert rows_of(loaded(folder, split, seed=3)) == rows_of(loaded(folder, split, seed=3))
    assert rows_of(loaded(folder, split, seed=3)) != rows_of(loaded(folder, split, seed=4))


def test_features_tasks_and_imputation_are_fitted_on_train_only(folder: Path, frame: pd.DataFrame) -> None:
    data = loaded(folder, {"by": "person"})
    train = frame.iloc[rows_of(data)["train"]]
    numbers, columns = frame[["height", "weight"]], ["height", "weight"]
    expected = (numbers.fillna(train[columns].mean()) - train[columns].mean()) / train[columns].std(ddof=0)
    for part in PARTS:
        dataset = getattr(data, part)
        inputs = dataset.__getitems__(range(len(dataset))).inputs.numpy()
        np.testing.assert_allclose(inputs, expected.iloc[rows_of(data)[part]].to_numpy(), atol=1e-5)
    task = data.tasks["age"]
    assert isinstance(task, Regression)
    assert task.center == pytest.approx(train["age"].mean())
    assert task.scale == pytest.approx(train["age"].std(ddof=0))
    fitted = data.preprocessing
    assert fitted["features"] == columns
    np.testing.assert_allclose(fitted["standardization"]["center"], train[columns].mean(), rtol=1e-6)


def test_a_column_may_say_the_parts(folder: Path, frame: pd.DataFrame) -> None:
    data = loaded(folder, {"by": "column", "column": "part"})
    for part in PARTS:
        assert rows_of(data)[part] == np.flatnonzero(frame["part"] == part).tolist()
    assert "part" not in data.preprocessing["features"]


def test_what_is_written_about_the_data_is_plain_and_right(folder: Path, frame: pd.DataFrame) -> None:
    data = loaded(folder, {"by": "person", "test": 0.25})
    about = json.loads(json.dumps(data.about))
    json.dumps(data.preprocessing)
    assert about["rows"]["table"] == 60
    assert about["split"]["test"] == 0.25
    for part in PARTS:
        expected = frame.iloc[rows_of(data)[part]]
        assert about["labels"]["age"][part] == expected["age"].notna().sum()
    assert len(about["sources"]["people.csv"]) == 64
    missing = int(frame["weight"].isna().sum())
    assert f"{missing} missing feature values were filled in" in " ".join(about["notes"])


@pytest.mark.parametrize("split", [{"by": "rows"}, {"by": "column", "column": "part"}])
def test_a_declared_group_on_two_sides_is_refused_or_warned_of(
    folder: Path, frame: pd.DataFrame, split: dict[str, Any]
) -> None:
    frame.loc[0, "part"] = "test"  # person p0 stands in train too
    frame.to_csv(folder / "people.csv", index=False)
    with pytest.raises(DataError, match=r"split: person p\d+ stands in train .* `shared_groups: allowed`"):
        loaded(folder, split, group="person")
    data = loaded(folder, {**split, "shared_groups": "allowed"}, group="person")
    assert isinstance(data.train, TableDataset)
    sides = pd.DataFrame({"person": frame["person"], "side": ""})
    for part, rows in rows_of(data).items():
        sides.loc[rows, "side"] = part
    shared = int((sides.groupby("person")["side"].nunique() > 1).sum())
    assert data.about["warnings"][0].startswith(f"{shared} of 20 values of the group column `person` stand")
    with pytest.raises(ConfigError, match=r"split\.shared_groups: refused or allowed expected"):
        loaded(folder, {**split, "shared_groups": "yes"}, group="person")


def test_a_shared_group_names_its_rows_per_part(folder: Path, frame: pd.DataFrame) -> None:
    frame.loc[0, "part"] = "test"
    frame.to_csv(folder / "people.csv", index=False)
    words = (
        "split: person p0 stands in train (2 rows) and test (1) (1 more likewise). `by: person` keeps a "
        "person on one side; person p0 has two values of `part`;"
    )
    with pytest.raises(DataError) as caught:
        loaded(folder, {"by": "column", "column": "part"}, group="person")
    assert words in str(caught.value)


def test_the_source_is_registered_and_the_loader_takes_it(folder: Path) -> None:
    data = sources.SOURCES["table"](
        {"table": "people.csv", "features": ["height"]},
        TASKS,
        {"by": "person"},
        seed=0,
        folder=folder,
        stores=folder,
    )
    seen = torch.cat([batch.index for batch in make_loader(data.train, 7, shuffle=True)])
    assert sorted(seen.tolist()) == list(range(len(data.train)))


def test_the_python_function_says_the_same_as_the_source(folder: Path) -> None:
    data = table(folder / "people.csv", TASKS, split_by="person", impute="mean", seed=2)
    assert rows_of(data) == rows_of(loaded(folder, {"by": "person"}, seed=2))
    by_group = table(folder / "people.csv", TASKS, group="person", impute="mean", seed=2)
    assert rows_of(by_group) == rows_of(data)
    task_set = TaskSet(Regression("years"))
    named = table(folder / "people.csv", task_set, columns={"years": "age"}, impute="mean")
    assert named.preprocessing["features"] == ["height", "weight"]


def test_any_present_looks_at_every_task_and_element() -> None:
    labels = Labels(
        {"a": torch.zeros(3), "b": torch.zeros(3, 2)},
        {
            "a": torch.tensor([True, False, False]),
            "b": torch.tensor([[False, False], [False, True], [False] * 2]),
        },
    )
    assert any_present(labels).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("settings", "split", "words"),
    [
        ({"tabel": "x"}, {"by": "rows"}, "data.tabel is not a setting. Did you mean `table`?"),
        ({"table": "none.csv"}, {"by": "rows"}, "none.csv"),
        ({"folder": "nowhere"}, {"by": "rows"}, "no such folder"),
        ({"impute": "median"}, {"by": "rows"}, "data.impute: mean or zero expected, found 'median'"),
        ({"impute": None}, {"by": "rows"}, "people.csv:7: column `weight`: a feature value is missing"),
        ({"standardize": "yes"}, {"by": "rows"}, "data.standardize: true or false"),
        (
            {"group": "persn"},
            {"by": "rows"},
            "no column `persn`, which data.group needs. Did you mean `person`?",
        ),
        ({}, {"by": "persons"}, "`person`"),
        ({"group": "age"}, {"by": "rows"}, "people.csv:2: column `age`: the cell is blank (15 in all)"),
        ({}, {"by": "age"}, "people.csv:2: column `age`: the cell is blank"),
    ],
)
def test_mistakes_are_named(folder: Path, settings: Any, split: Any, words: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        loaded(folder, split, **settings)
    assert words in str(caught.value)


def test_a_person_with_two_parts_is_refused(folder: Path, frame: pd.DataFrame) -> None:
    frame.loc[1, "part"] = "test"
    frame.to_csv(folder / "people.csv", index=False)
    with pytest.raises(DataError, match=r"person p0 stands in train .* and test"):
        loaded(folder, {"by": "person", "column": "part"})


def test_a_class_that_train_never_shows_is_refused(folder: Path, frame: pd.DataFrame) -> None:
    frame.loc[59, "sex"] = "X"
    frame.to_csv(folder / "people.csv", index=False)
    tasks = {"sex": {"kind": "multiclass"}}
    with pytest.raises(DataError, match=r"sex: test has .* `X`"):
        loaded(folder, {"by": "column", "column": "part"}, tasks)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_tox21_by_molecule() -> None:
    frame = pd.read_csv(SHARED / "tox21" / "tox21.csv")
    assays = list(frame.columns[:12])
    data = load_table(
        {
            "table": "tox21.csv",
            "features": {"npz": "morgan_r2_1024.npz", "array": "bits", "packed_bits": 1024},
            "group": "smiles",
        },
        {name: {"kind": "binary"} for name in assays},
        {"by": "smiles"},
        seed=0,
        folder=SHARED / "tox21",
        stores=SHARED,
    )
    assert sum(len(getattr(data, part).group_names) for part in PARTS) == 7302
    with np.load(SHARED / "tox21" / "morgan_r2_1024.npz") as archive:
        bits = np.unpackbits(archive["bits"], axis=1)
    for part in PARTS:
        dataset = getattr(data, part)
        expected = frame.iloc[dataset.rows]
        some = list(range(0, len(dataset), 97))
        batch = dataset.__getitems__(some)
        np.testing.assert_array_equal(batch.inputs.numpy(), bits[dataset.rows[some]])
        for name in assays:
            assert int(dataset.labels.present[name].sum()) == expected[name].notna().sum()
            positive = dataset.labels.values[name] * dataset.labels.present[name]
            assert int(positive.sum()) == expected[name].sum()
    assert data.preprocessing["standardization"] is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_parkinsons_by_person() -> None:
    path = SHARED / "parkinsons" / "parkinsons_updrs.csv"
    frame = pd.read_csv(path, sep="\t")
    data = table(
        path,
        {
            "motor_UPDRS": {"kind": "regression"},
            "total_UPDRS": {"kind": "regression"},
            "sex": {"kind": "binary"},
        },
        split_by="subject#",
        exclude=["age", "test_time"],
    )
    assert data.train.input_shape == (16,)
    assert [len(getattr(data, part).group_names) for part in PARTS] == [30, 4, 8]
    train = frame.iloc[data.train.rows]  # type: ignore[attr-defined]
    task = data.tasks["motor_UPDRS"]
    assert isinstance(task, Regression)
    assert task.center == pytest.approx(train["motor_UPDRS"].mean(), rel=1e-6)
    assert task.scale == pytest.approx(train["motor_UPDRS"].std(ddof=0), rel=1e-6)


def test_features_beside_the_table_are_among_the_checked_sources(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a\n" + "".join(f"{i % 2}\n" for i in range(40)))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    first = table(path, {"a": {"kind": "binary"}}, features={"npy": "x.npy"}).about["sources"]
    assert sorted(first) == ["t.csv", "x.npy"]
    np.save(tmp_path / "x.npy", np.zeros((40, 3), dtype=np.float32))
    second = table(path, {"a": {"kind": "binary"}}, features={"npy": "x.npy"}).about["sources"]
    assert first["t.csv"] == second["t.csv"]
    assert first["x.npy"] != second["x.npy"]


def test_an_infinite_feature_is_refused_by_its_place_not_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y,a\n" + "".join(f"{i},{'inf' if i == 3 else i},{i % 2}\n" for i in range(40)))
    with pytest.raises(DataError, match=r"t\.csv:5: column `y`: a number expected, found `inf`"):
        table(path, {"a": {"kind": "binary"}})


def test_by_group_means_the_column_that_data_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,a,who\n" + "".join(f"{i},{i % 2},P{i // 4}\n" for i in range(80)))
    one, other = (
        load_table(
            {"table": "t.csv", "group": "who"},
            {"a": {"kind": "binary"}},
            {"by": by},
            seed=1,
            folder=tmp_path,
            stores=tmp_path,
        )
        for by in ("group", "who")
    )
    assert one.test.rows.tolist() == other.test.rows.tolist()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"`group` means the column that data\.group names"):
        load_table(
            {"table": "t.csv"},
            {"a": {"kind": "binary"}},
            {"by": "group"},
            seed=1,
            folder=tmp_path,
            stores=tmp_path,
        )
