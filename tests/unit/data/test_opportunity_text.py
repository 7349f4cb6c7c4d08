"""The quick way of reading OPPORTUNITY's text against the general one: same numbers, same sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from taskloom.data.readers import opportunity
from taskloom.data.readers.opportunity import OpportunityReader, fill_gaps
from taskloom.errors import DataError

COLUMNS = (1, 17, 133, 242)


def words(num_rows: int, seed: int = 0) -> list[list[str]]:
    """Rows with whole numbers, decimals, exponents and NaN, and labels stand and NULL."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(num_rows, 242)) * 10.0 ** rng.integers(-6, 7, size=(num_rows, 242))
    forms = rng.integers(4, size=values.shape)
    rows = []
    for row in range(num_rows):
        sensors = [
            (f"{value:.0f}", repr(float(value)), f"{value:.3e}", "NaN" if row else "1")[form]
            for value, form in zip(values[row], forms[row], strict=True)
        ]
        rows.append([str(33 * row), *sensors, "1", "0", "0", "0", "0", "0", "0"])
    return rows


def text_of(rows: list[list[str]]) -> bytes:
    return "".join(" ".join(row) + "\n" for row in rows).encode()


def outcome(path: Path) -> tuple[str, Any]:
    """What reading gives: the numbers, or the sentence."""
    try:
        recording = OpportunityReader(path.parent, channels=COLUMNS).read(path)
    except DataError as error:
        return "sentence", str(error)
    return "numbers", (recording.samples.tolist(), recording.tracks.tolist())


def both_ways(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[str, Any], tuple[str, Any]]:
    quick = outcome(path)
    with monkeypatch.context() as patch:
        patch.setattr(opportunity, "_read_single_spaced", lambda path: None)
        return quick, outcome(path)


def separators(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The separators that were tried, in order."""
    tried: list[str] = []
    read_table = opportunity._read_table

    def watched(path: Path, separator: str) -> pd.DataFrame:
        tried.append(separator)
        return read_table(path, separator)

    with monkeypatch.context() as patch:
        patch.setattr(opportunity, "_read_table", watched)
        outcome(path)
    return tried


def test_numbers_are_those_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = words(40)
    path = tmp_path / "S1-ADL1.dat"
    path.write_bytes(text_of(rows))
    assert separators(path, monkeypatch) == [" "]
    quick, general = both_ways(path, monkeypatch)
    assert quick == general
    expected = pd.DataFrame([[float(row[column]) for column in COLUMNS] for row in rows]).ffill()
    np.testing.assert_allclose(quick[1][0], expected.to_numpy(np.float32), rtol=2e-7)


@pytest.mark.parametrize(
    ("change", "tried"),
    [
        (lambda text: text.replace(b"\n", b"\r\n"), [" "]),
        (lambda text: text.replace(b" ", b"\t"), [r"\s+"]),
        (lambda text: text.replace(b"\n", b" \n"), [r"\s+"]),
        (lambda text: b"\n" + text, [r"\s+"]),
        (lambda text: text[:-1], [" "]),
        (lambda text: text[:-1] + b"  \n  \n", [" ", r"\s+"]),
        (lambda text: text.replace(b"\n33 ", b"\n33  "), [" ", r"\s+"]),
    ],
    ids=["crlf", "tabs", "space at the end", "blank line first", "no last line end", "blanks last", "double"],
)
def test_other_white_space_gives_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, tried: list[str]
) -> None:
    path = tmp_path / "S1-ADL1.dat"
    path.write_bytes(text_of(words(6)))
    expected = outcome(path)
    assert expected[0] == "numbers"
    path.write_bytes(change(path.read_bytes()))
    assert separators(path, monkeypatch) == tried
    quick, general = both_ways(path, monkeypatch)
    assert quick == general == expected


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_give_the_same_numbers_or_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    text = text_of(words(5, seed))
    path = tmp_path / "S1-ADL1.dat"
    bits = [
        b"",
        b" ",
        b"  ",
        b"\t",
        b"\n",
        b"\r",
        b"\n\n",
        b'"',
        b"x",
        b"NaN",
        b"nan",
        b"inf",
        b"-",
        b".",
        b"0",
    ]
    kinds = set()
    for _ in range(60):
        start = int(rng.integers(len(text)))
        stop = start + int(rng.integers(3))
        path.write_bytes(text[:start] + bits[rng.integers(len(bits))] + text[stop:])
        quick, general = both_ways(path, monkeypatch)
        assert quick == general, path.read_bytes()[max(start - 20, 0) : start + 20]
        kinds.add(quick[0])
    assert kinds == {"numbers", "sentence"}


@pytest.mark.parametrize(
    ("row", "column", "word", "message"),
    [
        (5000, 200, "1x2", r"S1-ADL1\.dat:5001: a number or NaN expected in column 200 .*, found `1x2`"),
        (4321, 249, "", r"S1-ADL1\.dat:4322: 249 columns, expected 250"),
        (4321, 249, "0 0", r"S1-ADL1\.dat:4322: 251 columns, expected 250"),
        (5100, 243, "3", r"S1-ADL1\.dat:5101: code 3 is not in the table of track Locomotion"),
    ],
)
def test_lines_are_counted_in_files_that_pandas_reads_in_parts(
    tmp_path: Path, row: int, column: int, word: str, message: str
) -> None:
    rows = [[str(33 * row), *(["1234"] * 242), "1", *("0" * 6)] for row in range(5200)]
    rows[row][column] = word
    path = tmp_path / "S1-ADL1.dat"
    path.write_bytes(b"\n".join(" ".join(words).strip().encode() for words in rows))
    assert path.stat().st_size > 5 * 1024 * 1024  # from there on pandas 3 reads parts side by side
    with pytest.raises(DataError, match=message):
        OpportunityReader(tmp_path).read(path)


def test_notes_are_those_of_the_recordings_that_were_given_out(tmp_path: Path) -> None:
    rows = words(4)
    rows[3][1:243] = ["NaN"] * 242
    for name in ("S1-ADL1.dat", "S1-ADL2.dat", "S1-ADL3.dat"):
        (tmp_path / name).write_bytes(text_of(rows))
    reader = OpportunityReader(tmp_path)
    recordings = reader.recordings()
    for number, name in enumerate(("S1-ADL1", "S1-ADL2", "S1-ADL3"), start=1):
        assert next(recordings).name == name
        assert [note.split(":")[0] for note in reader.notes] == [
            f"S1-ADL{note}.dat" for note in range(1, number + 1)
        ]


def test_a_bad_file_is_said_when_its_turn_comes(tmp_path: Path) -> None:
    (tmp_path / "S1-ADL1.dat").write_bytes(text_of(words(4)))
    (tmp_path / "S1-ADL2.dat").write_bytes(b"")
    recordings = OpportunityReader(tmp_path).recordings()
    assert next(recordings).name == "S1-ADL1"
    with pytest.raises(DataError, match=r"S1-ADL2\.dat: the file is empty"):
        next(recordings)


def test_runs_of_missing_values_at_every_edge() -> None:
    nan = np.nan
    samples = np.array(
        [
            [nan, 1, nan, nan, 5],
            [nan, nan, nan, nan, 6],
            [2, nan, nan, nan, 7],
            [nan, 3, nan, 4, nan],
            [nan, nan, nan, nan, nan],
        ],
        dtype=np.float32,
    )
    given = np.concatenate([samples, samples], axis=1)[:, 2:7]  # a view, as the reader's is
    filled = fill_gaps(samples)
    np.testing.assert_array_equal(
        filled,
        [[2, 1, nan, 4, 5], [2, 1, nan, 4, 6], [2, 1, nan, 4, 7], [2, 3, nan, 4, 7], [2, 3, nan, 4, 7]],
    )
    of_view = fill_gaps(given)
    np.testing.assert_array_equal(of_view, filled[:, [2, 3, 4, 0, 1]])
    assert of_view.flags.c_contiguous
    np.testing.assert_array_equal(samples[3], np.array([nan, 3, nan, 4, nan], dtype=np.float32))  # as it was
    np.testing.assert_array_equal(fill_gaps(np.empty((0, 3), np.float32)), np.empty((0, 3), np.float32))
