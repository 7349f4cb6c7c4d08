"""Reading tables and gathering feature rows, checked against pandas and NumPy; every mistake is located."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from taskloom.data.batch import TaskDataset
from taskloom.data.feature_rows import FeatureRows, Standardization, check_values, read_features
from taskloom.data.row_dataset import group_codes
from taskloom.data.tables import Table, TableDataset, read_table
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Labels, Regression, TaskSet

SHARED = Path(__file__).parents[4] / "shared" / "data"
TASKS = TaskSet(Regression("age"))


def written(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.fixture
def people(tmp_path: Path) -> Table:
    """Twelve people; height is blank in the fourth row."""
    rows = [f"p{i},{i},{'' if i == 3 else 150 + i},{i * 0.5},7,{'F' if i % 2 else 'M'}" for i in range(12)]
    return read_table(written(tmp_path, "\n".join(["name,age,height,weight,constant,sex", *rows])))


@pytest.mark.parametrize(("separator", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab")])
def test_the_separator_is_found_in_the_header(tmp_path: Path, separator: str, name: str) -> None:
    frame = pd.DataFrame(
        {"a,b" if separator != "," else "a;b": [1, 2], "c": ["x;y,z", "w"], "d": [0.5, None]}
    )
    path = tmp_path / f"{name}.csv"
    frame.to_csv(path, sep=separator, index=False)
    table = read_table(path)
    assert table.separator == separator
    assert table.columns == tuple(frame.columns)
    assert table.text("c").tolist() == ["x;y,z", "w"]
    np.testing.assert_array_equal(table.numbers("d"), frame["d"].to_numpy())


def test_parquet_and_csv_of_the_same_frame_read_alike(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "code": ["007", "x y", None],
            "number": [1.5, None, -3e7],
            "whole": [1.0, None, 3.0],
            "yes": [True, False, True],
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    frame.astype({"yes": int}).to_csv(tmp_path / "a.csv", index=False)
    parquet, text = read_table(tmp_path / "a.parquet"), read_table(tmp_path / "a.csv")
    assert parquet.text("code").tolist() == text.text("code").tolist() == ["007", "x y", ""]
    assert parquet.text("whole").tolist() == ["1", "", "3"]
    assert parquet.text("yes").tolist() == text.text("yes").tolist() == ["1", "0", "1"]
    for column in ("number", "whole", "yes"):
        np.testing.assert_array_equal(parquet.numbers(column), frame[column].to_numpy(np.float64))
        np.testing.assert_array_equal(text.numbers(column), frame[column].to_numpy(np.float64))


def test_blank_cells_and_the_marks_given_are_missing(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1, \n NA ,2\n-5,3\n")
    table = read_table(path, missing=["NA", -5])
    np.testing.assert_array_equal(table.numbers("a"), [1, np.nan, np.nan])
    np.testing.assert_array_equal(table.numbers("b"), [np.nan, 2, 3])


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert read_table(written(tmp_path, "\ufeffa,b\n1,2\n")).columns == ("a", "b")


def test_lines_are_those_of_the_file_with_blank_lines_and_breaks_in_cells(tmp_path: Path) -> None:
    path = written(tmp_path, 'a,note\n1,"two\nlines"\n\n2,x\nthree,y\n')
    with pytest.raises(DataError, match=r"table\.csv:6: column `a`: a number expected, found `three`"):
        read_table(path).numbers("a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["table is empty"]),
        ("a,b\n", ["table is empty"]),
        ("a,b,a\n1,2,3\n", [":1:", "`a` stands twice", "1 and 3"]),
        ("a,b, a\n1,2,3\n", [":1:", "`a` stands twice"]),
        (",b\n1,2\nx,2\n", [":1:", "column 1 of 2 has no name"]),
        (",b\n1,2\n1,2\n", [":1:", "column 1 of 2 has no name"]),
        ('""\n1\n2\n', [":1:", "column 1 of 1 has no name"]),  # an index of nothing
        ("63.0,1.0,1.0\n67.0,1.0,4.0\n", [":1:", "looks like a row of data", "a name for each column"]),
        ("a,b\n1,2\n3\n", [":3:", "2 columns expected", "found 1", "comma"]),
        ("a;b\n1;2\n\n3;4;5\n", [":4:", "2 columns expected", "found 3", "semicolon"]),
        (b"a,b\n1,\xff\n", ["UTF-8"]),
        (b"a\xff,b\n1,2\n", ["UTF-8"]),
    ],
)
def test_a_broken_text_table_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_table(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_missing_files_folders_and_broken_parquet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.csv.*no such file"):
        read_table(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match=r"no such file; where it is in another folder.*--data DIR"):
        read_table("nothing.csv")
    with pytest.raises(DataError, match="found a folder"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"not a readable Parquet file.*; copy or write it again"):
        read_table(written(tmp_path, "a,b\n1,2\n", "text.parquet"))
    pd.DataFrame({"a": []}).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="table is empty"):
        read_table(tmp_path / "empty.parquet")


@pytest.mark.parametrize("cell", ["abc", "nan", "inf", "1,5", "0x1"])
def test_a_cell_that_is_no_number_is_quoted_with_its_place(tmp_path: Path, cell: str) -> None:
    table = read_table(written(tmp_path, f"a;b\n1;2\n;3\n{cell};4\n"))
    with pytest.raises(DataError, match=rf"table\.csv:4: column `a`: a number expected, found `{cell}`"):
        table.numbers("a")
    # A column that is numbers but for "inf" stays numeric, so that it is refused rather than left out.
    assert table.is_numeric("a") == (cell in ("nan", "inf"))
    assert table.is_numeric("b")


def test_parquet_places_are_rows(tmp_path: Path) -> None:
    pd.DataFrame({"a": ["1", "x"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: row 2, column `a`"):
        read_table(tmp_path / "t.parquet").numbers("a")


def test_rest_takes_every_numeric_column_that_nobody_else_has(people: Table) -> None:
    features = read_features(people, "rest", folder=Path(), taken=["age"], exclude=["const*"])
    assert features.names == ("height", "weight")
    assert features.gather(np.array([2]))[0].tolist() == [152.0, 1.0]


def test_rest_refuses_one_word_among_numbers_and_lists_what_it_leaves_out(tmp_path: Path) -> None:
    rows = [f"{row},name {row},{row},," for row in range(400)]
    table = read_table(written(tmp_path, "\n".join(["x,name,y,blank,z", *rows, "7,b,abc,,3"])))
    place = r"table\.csv:402: column `y`: a number expected, found `abc`; mend .* `exclude`"
    with pytest.raises(DataError, match=place):
        read_features(table, "rest", folder=Path(), taken=[])
    features = read_features(table, "rest", folder=Path(), taken=[], exclude=["y"])
    assert (features.names, features.left_out) == (("x", "z"), ("name", "blank"))
    # Half words is a column of text; a single word more than half of numbers is not.
    halves = read_table(written(tmp_path, "a,b\n1,1\nu,2\n3,3\nv,4\n"))
    assert read_features(halves, "rest", folder=Path(), taken=[]).left_out == ("a",)


def test_globs_follow_the_order_of_the_table_and_names_win_over_globs(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "x[1],x1,y,x2\n1,2,3,4\n5,6,7,8\n"))
    assert read_features(table, ["y", "x?"], folder=Path(), taken=["x2"]).names == ("x1", "y")
    assert read_features(table, ["x[1]"], folder=Path(), taken=[]).names == ("x[1]",)


def test_unknown_and_no_features_are_refused(people: Table) -> None:
    with pytest.raises(DataError, match=r"no column `hight`.*Did you mean `height`"):
        read_features(people, ["hight"], folder=Path(), taken=[])
    with pytest.raises(DataError, match="no feature column is left"):
        read_features(people, ["w*"], folder=Path(), taken=["weight"])
    with pytest.raises(DataError, match=r":2: column `sex`.*`M`"):
        read_features(people, ["sex"], folder=Path(), taken=[])
    with pytest.raises(ConfigError, match=r"data\.features\.arry.*Did you mean `array`"):
        read_features(people, {"npz": "a.npz", "arry": "x"}, folder=Path(), taken=[])
    with pytest.raises(ConfigError, match="either `npz`"):
        read_features(people, {"array": "x"}, folder=Path(), taken=[])


def test_packed_bits_unpack_to_the_bits_they_were(tmp_path: Path, people: Table) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (12, 13)).astype(np.uint8)
    np.savez(tmp_path / "bits.npz", bits=np.packbits(bits, axis=1), other=np.zeros(3))
    settings = {"npz": "bits.npz", "array": "bits", "packed_bits": 13}
    features = read_features(people, settings, folder=tmp_path, taken=[])
    assert features.array.nbytes == 24
    rows = np.array([5, 0, 5, 11])
    gathered = features.gather(rows)
    assert gathered.dtype == np.float32
    np.testing.assert_array_equal(gathered, bits[rows])


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, people: Table) -> None:
    np.savez(tmp_path / "a.npz", few=np.zeros((11, 2)), floats=np.zeros((12, 2)), words=np.full((12, 1), "x"))
    np.save(tmp_path / "a.npy", np.zeros((12, 2)))
    written(tmp_path, "no archive", "b.npz")
    for settings, words in [
        ({"npz": "c.npz", "array": "x"}, "c.npz: no such file"),
        ({"npz": "b.npz", "array": "x"}, "not a readable NumPy file"),
        ({"npz": "a.npz", "array": "flots"}, "no array `flots`. Did you mean `floats`?"),
        ({"npz": "a.npz", "array": "few"}, "array of 12 rows"),
        ({"npz": "a.npz", "array": "words"}, "numbers expected"),
        ({"npz": "a.npz", "array": "floats", "packed_bits": 9}, "uint8"),
        ({"npz": "a.npy", "array": "x"}, "use `npy`"),
        ({"npy": "a.npz"}, "use `npz`"),
    ]:
        with pytest.raises(DataError) as caught:
            read_features(people, settings, folder=tmp_path, taken=[])
        assert words in str(caught.value)


def test_an_npy_file_stays_on_disk_and_is_standardised_batch_by_batch(tmp_path: Path, people: Table) -> None:
    values = np.random.default_rng(1).normal(5, 3, (12, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    features = read_features(people, {"npy": "a.npy"}, folder=tmp_path, taken=[])
    assert isinstance(features.array, np.memmap)
    rows = np.arange(8)
    lazy = features.standardized(features.fit(rows, standardize=True, impute=None))
    eager = FeatureRows(values).standardized(features.fit(rows, standardize=True, impute=None))
    assert isinstance(lazy.array, np.memmap)
    np.testing.assert_array_equal(lazy.gather(rows), eager.gather(rows))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)


@pytest.mark.parametrize("impute", ["mean", "zero"])
def test_standardisation_and_imputation_are_fitted_on_the_training_rows_only(impute: str) -> None:
    values = np.random.default_rng(2).normal(50, 7, (40, 3)).astype(np.float32)
    values[::5, 1] = np.nan
    values[:, 2] = 0.1
    train = np.arange(20)
    features = FeatureRows(values)
    found = features.standardized(features.fit(train, standardize=True, impute=impute))  # type: ignore[arg-type]
    frame = pd.DataFrame(values.astype(np.float64))
    mean, deviation = frame[:20].mean(), frame[:20].std(ddof=0).where(lambda sd: sd > 1e-9, 1.0)
    expected = (frame.fillna(mean if impute == "mean" else 0.0) - mean) / deviation
    np.testing.assert_allclose(found.gather(np.arange(40)), expected.to_numpy(), atol=2e-6)
    assert not np.isnan(found.gather(np.arange(40))).any()


def test_the_blocks_of_fitting_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(1e4, 1, (50, 2)).astype(np.float32)
    monkeypatch.setattr("taskloom.data.feature_rows._FIT_ROWS", 7)
    fitted = FeatureRows(values).fit(np.arange(50), standardize=True, impute=None)
    np.testing.assert_allclose(fitted.center, values.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.scale, values.astype(np.float64).std(axis=0), rtol=1e-9)


def test_a_missing_or_infinite_feature_is_located(people: Table) -> None:
    features = read_features(people, ["age", "height"], folder=Path(), taken=[])
    rows = np.arange(12)
    with pytest.raises(DataError, match=r":5: column `height`: a feature value is missing; set `impute"):
        check_values(features, people, rows, impute=False)
    assert check_values(features, people, rows, impute=True) == 1
    assert check_values(features, people, np.array([0, 1, 2, 4]), impute=False) == 0
    infinite = FeatureRows(np.full((12, 1), np.inf, dtype=np.float32), ["z"])
    with pytest.raises(DataError, match=r":2: column `z`: a feature is infinite"):
        check_values(infinite, people, rows, impute=True)


def dataset(rows: list[int], groups: list[str] | None = None) -> TableDataset:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    ages = torch.arange(6, dtype=torch.float32) * 10
    labels = Labels({"age": ages}, {"age": torch.tensor([True, False, True, True, False, True])})
    return TableDataset(FeatureRows(values), np.array(rows, dtype=np.int64), TASKS, labels, groups)


def test_a_batch_holds_the_rows_asked_for_in_their_order() -> None:
    part = dataset([4, 1, 3, 0])
    assert isinstance(part, TaskDataset)
    batch = part.__getitems__([2, 0, 2])
    assert batch.inputs.tolist() == [[6.0, 7.0], [8.0, 9.0], [6.0, 7.0]]
    assert batch.labels.values["age"].tolist() == [30.0, 40.0, 30.0]
    assert batch.labels.present["age"].tolist() == [True, False, True]
    assert batch.index.tolist() == [2, 0, 2]
    assert part.input_shape == (2,)
    assert len(part) == 4


def test_a_batch_does_not_share_memory_with_the_table() -> None:
    part = dataset([0, 1])
    part.__getitems__([0, 1]).inputs.zero_()
    assert part.__getitems__([1]).inputs.tolist() == [[2.0, 3.0]]


def test_groups_are_those_of_the_part_by_name() -> None:
    part = dataset([5, 2, 3], ["b", "b", "c", "a", "a", "c"])
    assert part.group_names == ("a", "c")
    assert part.groups.tolist() == [1, 1, 0]
    assert dataset([3, 1]).groups.tolist() == [0, 1]
    assert group_codes(None, np.array([7, 9]))[0] == ("7", "9")


def test_equal_rows_have_equal_fingerprints() -> None:
    values = np.array([[1, 2], [1, 2], [2, 1]], dtype=np.float32)
    labels = Labels.empty(TASKS, 3)
    found = TableDataset(FeatureRows(values), np.arange(3), TASKS, labels).fingerprints()
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="rows outside"):
        dataset([6])
    with pytest.raises(ValueError, match="number of rows"):
        dataset([0], ["a"])
    with pytest.raises(ValueError, match="float32 expected"):
        FeatureRows(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="hold no 9 bits"):
        FeatureRows(np.zeros((2, 1), dtype=np.uint8), packed_bits=9)


def test_a_standardization_is_plain_values() -> None:
    fitted = Standardization(np.array([1.0]), np.array([2.0]))
    assert fitted.to_dict() == {"center": [1.0], "scale": [2.0], "fill": None}


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_parkinsons_reads_as_pandas_reads_it() -> None:
    path = SHARED / "parkinsons" / "parkinsons_updrs.csv"
    frame = pd.read_csv(path, sep="\t")
    table = read_table(path)
    assert table.separator == "\t"
    assert len(table) == len(frame) == 5875
    assert len(set(table.text("subject#"))) == 42
    features = read_features(
        table, ["Jitter*", "Shimmer*", "NHR", "HNR", "RPDE", "DFA", "PPE"], folder=Path(), taken=[]
    )
    assert features.num_features == 16
    expected = frame.loc[:, "Jitter(%)":"PPE"].to_numpy(np.float32)  # type: ignore[misc]
    np.testing.assert_array_equal(features.gather(np.arange(5875)), expected)


def test_numbers_of_a_parquet_file_are_those_of_their_texts(tmp_path: Path) -> None:
    """By the way through text, which a mark for missing values asks for."""
    rows = pd.DataFrame(
        {
            "double": [0.1, -0.0, 1e300, np.nan, 3.0],
            "whole": [1.0, 2.0, np.nan, -4.0, 2.0**60],
            "large": np.array([2**53 + 1, 2**62 + 3, -(2**53) - 1, 0, 7]),
            "unsigned": np.array([2**64 - 1, 0, 1, 2, 3], dtype=np.uint64),
            "holes": pd.array([1, None, 3, None, 5], dtype="Int64"),
            "single": np.array([0.1, 2.5, np.nan, 1e-7, 3], dtype=np.float32),
            "yes": [True, False, True, True, False],
        }
    )
    rows.to_parquet(tmp_path / "rows.parquet")
    direct = read_table(tmp_path / "rows.parquet")
    by_text = read_table(tmp_path / "rows.parquet", missing=["no such mark"])
    for name in rows:
        found = direct.numbers(name)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, by_text.numbers(name))
        np.testing.assert_array_equal(found, direct.numbers_or_none(name))
        assert direct.is_numeric(name) is by_text.is_numeric(name) is True
    assert direct.numbers("single")[0] == 0.1
    rows.loc[2, "double"] = np.inf
    rows.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"row 3, column `double`: a number expected, found `inf`"):
        read_table(tmp_path / "rows.parquet").numbers("double")
    pd.DataFrame({"none": np.array([np.nan] * 3)}).to_parquet(tmp_path / "none.parquet")
    assert read_table(tmp_path / "none.parquet").is_numeric("none") is False


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_header_of_twenty_thousand_names(tmp_path: Path, separator: str) -> None:
    """As tables of genes have; the csv module takes no cell of more than 131,072 letters."""
    names = [f"ENSG{number:011d}" for number in range(20_000)]
    path = tmp_path / "genes.csv"
    path.write_text(separator.join(names) + "\n" + separator.join("1" * len(names)) + "\n")
    table = read_table(path)
    assert (table.separator, list(table.columns)) == (separator, names)
    assert table.numbers(names[-1]).tolist() == [1.0]


def test_a_mark_that_is_not_closed_in_a_long_table(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text('age,"sex\n' + "31,f\n" * 50_000)
    with pytest.raises(DataError, match=r"people\.csv:1: .*quotation mark"):
        read_table(path)


@pytest.mark.parametrize("kind", ["int64", "int16", "float64", "float32"])
def test_marks_of_missing_values_among_the_numbers_of_a_parquet_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "people.parquet"
    pd.DataFrame({"age": np.array([31, -1, 47, -1], kind)}).to_parquet(path)
    np.testing.assert_array_equal(read_table(path, missing=["-1"]).numbers("age"), [31, np.nan, 47, np.nan])
    np.testing.assert_array_equal(read_table(path).numbers("age"), [31, -1, 47, -1])


def test_a_first_column_without_a_name_that_numbers_the_rows_is_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5, 3.5], "b": ["x", "y", "z"]}, index=[4, 0, 7])
    frame.to_csv(tmp_path / "index.csv")
    table = read_table(tmp_path / "index.csv")
    assert table.columns == ("a", "b")
    assert table.numbers("a").tolist() == frame.a.tolist()
    assert table.where(1, "b").endswith("index.csv:3: column `b`")
