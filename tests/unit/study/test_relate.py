"""`taskloom relate`: what is written and said of a table of labels and of a study, and its mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from _coupled_study import ANIMALS, PARTS, TABLE, TEXT, write_animals
from taskloom.cli import app
from taskloom.coupling import Relatedness, read_table
from taskloom.errors import ConfigError, DataError
from taskloom.study.relate import relate, side_by_side, write_related

NAMES = ("animal", *PARTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_animals(tmp_path, disjoint=False)
    (tmp_path / "animals.yaml").write_text(TEXT)
    return tmp_path


def test_counts_are_those_of_pandas(folder: Path) -> None:
    frame = pd.read_csv(folder / "animals.csv")
    frame.loc[::3, "fur"] = None
    frame.to_csv(folder / "animals.csv", index=False)
    related = relate(folder / "animals.csv", tasks=NAMES)
    files = write_related(related, folder / "out")
    assert [path.name for path in files] == ["relatedness.json", "relatedness.csv", "relatedness.png"]
    rows = pd.read_csv(folder / "out" / "relatedness.csv").set_index(["given", "follows"])
    assert len(rows) == 4 * 6
    for animal in ANIMALS:
        there = frame[(frame["animal"] == animal) & frame["fur"].notna()]
        entry = rows.loc[(animal, "fur")]
        assert (entry["count"], entry["support"]) == ((there["fur"] == "yes").sum(), len(there))
        assert entry["low"] <= entry["frequency"] <= entry["high"]
    assert Relatedness.load(folder / "out" / "relatedness.json") == related.table
    assert (folder / "out" / "relatedness.png").read_bytes()[:4] == b"\x89PNG"


def test_it_says_which_of_two_words_a_frequency_counts(folder: Path) -> None:
    frame = pd.read_csv(folder / "animals.csv")
    frame["fur"] = frame["fur"].map({"yes": "ja", "no": "nein"})  # `nein` is the second
    frame.to_csv(folder / "animals.csv", index=False)
    arguments = ["relate", str(folder / "animals.csv"), "--tasks", "animal,fur,wings"]
    said = CliRunner().invoke(app, arguments).output
    assert "fur means `nein` here, the second of its classes" in said
    assert "wings means" not in said  # of `no` and `yes` it is plain
    animal = ANIMALS[0]
    share = (frame[frame["animal"] == animal]["fur"] == "nein").mean()
    table = relate(folder / "animals.csv", tasks=("animal", "fur", "wings")).table
    assert table[animal, "fur"] == pytest.approx(share)


def test_a_study_shows_its_training_rows(folder: Path) -> None:
    study, stores = folder / "animals.yaml", folder / "stores"
    related = relate(study, data=folder, stores=stores, checked=str(folder / "table.csv"))
    assert related.rows == 300
    assert related.table.totals is not None
    assert related.table.totals[:, 0].sum() == 300
    assert related.comparison is not None
    assert not related.warnings
    some = relate(study, tasks=["fur", "wings"], data=folder, stores=stores, minimum_support=1)
    assert some.table.between == "attribute_attribute"
    assert some.table["fur", "wings"] == 0


def test_a_wrong_table_is_warned_of_entry_by_entry(folder: Path) -> None:
    arguments = ["relate", str(folder / "animals.csv"), "--tasks", ",".join(NAMES)]
    arguments += ["--out", str(folder / "out")]
    wrong = CliRunner().invoke(app, [*arguments, "--check", str(folder / "wrong.csv")])
    assert wrong.exit_code == 0, wrong.output
    assert "warning  fur given cat: table 0.00, data 1.00" in wrong.output
    assert "warning  relatedness wrong.csv contradicts the labels in 14 of 24 entries" in wrong.output
    checked = pd.read_csv(folder / "out" / "check.csv")
    contradicting = {(row.given, row.follows) for row in checked[checked["contradicts"]].itertuples()}
    wrongly = {(ANIMALS[row], PARTS[column]) for row, column in np.argwhere(TABLE[::-1] != TABLE)}
    assert contradicting == wrongly
    assert (folder / "out" / "check.png").stat().st_size > 0
    right = CliRunner().invoke(app, [*arguments, "--check", str(folder / "table.csv")])
    assert "table.csv: none of 24 entries contradicts the labels." in right.output


def test_side_by_side_as_the_papers_table_1(folder: Path) -> None:
    related = relate(folder / "animals.csv", tasks=NAMES, checked=str(folder / "wrong.csv"))
    assert related.comparison is not None
    lines = {line[0]: line[1:] for line in side_by_side(related.comparison)}
    assert lines["cat"][0] == "wings, legs, eggs"
    assert "fur (1.00)!" in lines["cat"][1]
    assert "legs (1.00)" in lines["cat"][1].split(", ")
    table = read_table(folder / "wrong.csv")
    assert set(lines) == set(table.classes)


def test_mistakes(folder: Path) -> None:
    with pytest.raises(ConfigError, match="name the label columns of the table with --tasks"):
        relate(folder / "animals.csv")
    with pytest.raises(DataError, match="furr"):
        relate(folder / "animals.csv", tasks=["animal", "furr"])
    with pytest.raises(ConfigError, match=r"--tasks: `furr` is not a task of .* Did you mean `fur`\?"):
        relate(folder / "animals.yaml", tasks=["furr"], data=folder, stores=folder / "stores")
    with pytest.raises(DataError, match="there is no such relatedness file"):
        relate(folder / "animals.csv", tasks=NAMES, checked="nothing.csv")
    with pytest.raises(ConfigError, match="does not follow from the cell's"):
        relate(folder / "animals.csv", tasks=["animal"])
    result = CliRunner().invoke(app, ["relate", str(folder / "animals.csv")])
    assert result.exit_code == 2
