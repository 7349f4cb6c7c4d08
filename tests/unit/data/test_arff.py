"""ARFF as Weka and Mulan write it: equal to SciPy's reading; mistakes are named by their line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import arff

from taskloom.data.tables import read_table
from taskloom.errors import DataError
from taskloom.study.draft import draft_study


def flowers(rows: int = 60) -> str:
    draw = np.random.default_rng(0)
    lines = ["@relation flowers", "@attribute 'leaf area' numeric", "@attribute length real"]
    lines += ["@attribute colour {red, blue, green}", "@attribute kind {a,b}", "@data", "% a remark"]
    for row in range(rows):
        area, length = draw.normal(size=2)
        colour = ("red", "blue", "green")[row % 3]
        lines.append(f"{area:.4f}, {length if row % 7 else '?'},{colour},{'ab'[int(area > 0)]}")
    return "\n".join(lines) + "\n"


def test_cells_are_those_that_scipy_reads(tmp_path: Path) -> None:
    path = tmp_path / "flowers.arff"
    path.write_text(flowers(), encoding="utf-8")
    expected, about = arff.loadarff(path)
    table = read_table(path)
    assert list(table.columns) == about.names()
    for name in ("leaf area", "length"):
        assert np.array_equal(table.numbers(name), expected[name], equal_nan=True)
    for name in ("colour", "kind"):
        assert table.text(name).tolist() == [text.decode() for text in expected[name]]
    draft = draft_study(path, ["kind", "length"])
    assert draft.settings["data"]["categories"] == ["colour"]


def test_a_row_may_quote_in_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "quoted.arff"
    rows = ("'x y',\"hello, w\", 1", '"it\'s",plain,?', "'it\\'s','say \"hi\"',''")
    path.write_text(
        "\n".join(["@relation q", *(f"@attribute {name} string" for name in "abc"), "@data", *rows])
    )
    table = read_table(path)
    assert table.text("a").tolist() == ["x y", "it's", "it's"]
    assert table.text("b").tolist() == ["hello, w", "plain", 'say "hi"']
    assert table.text("c").tolist() == ["1", "", ""]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@relation a\n@attribute b numeric\n", "no `@data`"),
        ("1,2\n", "no `@attribute`"),
        ("@attribute b numeric\n@data\n1,2\n", ":3: 1 values, one per attribute, expected, found 2"),
        ("@attribute b numeric\n@data\n{0 1}\n", ":3: sparse ARFF"),
        ("@attribute b relational\n@data\n", ":1: an attribute that is a relation"),
        ("@attribute b\n@data\n", ":1: `@attribute NAME KIND` expected"),
        ("@attribute b numeric\n@attribute b numeric\n@data\n1,2\n", "`b` stands twice"),
    ],
)
def test_bad_input(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.arff"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.arff") as caught:
        read_table(path)
    assert words in str(caught.value)
