"""The OPPORTUNITY reader, on files written line by line here and on simulated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from taskloom.data.readers.opportunity import OpportunityReader, fill_gaps
from taskloom.data.readers.opportunity_codes import CHANNEL_SETS, COLUMN_NAMES, TRACKS, channel_columns
from taskloom.data.simulate import simulate_opportunity
from taskloom.errors import ConfigError, DataError


def lines(num_rows: int = 6) -> list[list[str]]:
    """Rows of a small file: column c of row r holds 1000 r + c, labels are stand and NULL."""
    rows = []
    for row in range(num_rows):
        sensors = [str(1000 * row + column) for column in range(1, 243)]
        rows.append([str(round(row * 1000 / 30)), *sensors, "1", "0", "0", "0", "0", "0", "0"])
    return rows


def write(folder: Path, rows: list[list[str]], name: str = "S2-ADL3.dat") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(" ".join(row) + "\n" for row in rows))
    return path


def read(folder: Path, **settings: object) -> object:
    return next(OpportunityReader(folder, **settings).recordings())  # type: ignore[arg-type]


# -- tables of columns and codes


def test_names_of_columns() -> None:
    assert len(COLUMN_NAMES) == 250
    assert len(set(COLUMN_NAMES)) == 250
    # Positions that column_names.txt of the data set gives (there 1-based).
    known = {
        1: "Accelerometer RKN^ accX", 16: "Accelerometer BACK accX", 37: "InertialMeasurementUnit BACK accX",
        101: "InertialMeasurementUnit LLA Quaternion4", 102: "InertialMeasurementUnit L-SHOE EuX",
        133: "InertialMeasurementUnit R-SHOE Compass", 134: "Accelerometer CUP accX",
        194: "REED SWITCH DISHWASHER S1", 207: "Accelerometer DOOR1 accX", 242: "LOCATION TAG4 Z",
        243: "Locomotion", 249: "ML_Both_Arms",
    }  # fmt: skip
    assert {column: COLUMN_NAMES[column] for column in known} == known


def test_channels_of_the_thesis() -> None:
    ranges = [(1, 12), (16, 33), (37, 45), (50, 58), (63, 71), (76, 84), (89, 97), (102, 133)]
    assert list(CHANNEL_SETS["thesis"]) == [c for first, last in ranges for c in range(first, last + 1)]
    assert len(CHANNEL_SETS["thesis"]) == 107
    assert not any("Quaternion" in COLUMN_NAMES[column] for column in CHANNEL_SETS["thesis"])
    assert set(CHANNEL_SETS["quickstart"]) < set(CHANNEL_SETS["thesis"])


def test_codes_of_the_tracks() -> None:
    sizes = [len(table) for table in TRACKS.values()]
    assert sizes == [5, 6, 14, 24, 14, 24, 18]
    assert all(list(table) == sorted(table) and table[0] == "NULL" for table in TRACKS.values())
    # The mid-level codes are made of the right arm's verb and object.
    for code, name in list(TRACKS["ML_Both_Arms"].items())[1:]:
        verb = TRACKS["LL_Right_Arm"][code // 1000]
        thing = TRACKS["LL_Right_Arm_Object"][code % 1000].split(" ")[0]
        if verb in ("open", "close"):
            assert name.lower().replace(" ", "").startswith(verb + thing.lower()), (code, name)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ("tesis", "Did you mean `thesis`"),
        ([0], "1-242 expected"),
        ([243], "1-242 expected"),
        ([True], "1-242 expected"),
        ([5, 5], "stands twice"),
        ([], "at least one channel"),
        (["Accelerometer HIP accQ"], "Did you mean `Accelerometer HIP acc"),
        (5, "a name or a list"),
    ],
)
def test_wrong_channels(channels: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        channel_columns(channels)  # type: ignore[arg-type]


# -- reading


def test_values_codes_and_identity(tmp_path: Path) -> None:
    rows = lines()
    rows[4][243:] = ["2", "105", "213", "323", "401", "523", "408512"]
    write(tmp_path, rows)
    recording = read(tmp_path, channels=[4, 242, 1])
    np.testing.assert_array_equal(recording.samples, [[1000 * r + c for c in (4, 242, 1)] for r in range(6)])
    assert recording.tracks[4].tolist() == [2, 105, 213, 323, 401, 523, 408512]
    assert recording.tracks[3].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert (recording.name, recording.person, recording.session) == ("S2-ADL3", "S2", "ADL3")


def test_trailing_loss_is_cut_and_gaps_carry_forward(tmp_path: Path) -> None:
    rows = lines(8)
    for row in (6, 7):  # trailing: all chosen channels lost, others still there
        for column in (1, 2, 3):
            rows[row][column] = "NaN"
    rows[0][2] = rows[1][2] = "NaN"  # leading
    rows[3][1] = rows[4][1] = "NaN"  # inside
    rows[5][3] = "NaN"  # last kept row, one channel only
    write(tmp_path, rows)
    reader = OpportunityReader(tmp_path, channels=[1, 2, 3])
    recording = next(reader.recordings())
    assert recording.samples[:, 0].tolist() == [1, 1001, 2001, 2001, 2001, 5001]
    assert recording.samples[:, 1].tolist() == [2002, 2002, 2002, 3002, 4002, 5002]
    assert recording.samples[:, 2].tolist() == [3, 1003, 2003, 3003, 4003, 4003]
    assert recording.tracks.shape == (6, 7)
    assert reader.notes == [
        "S2-ADL3.dat: 2 lost packets cut at the end, 27.8% of the values before carried forward."
    ]


def test_no_window_touches_what_is_missing_beyond_the_limit(tmp_path: Path) -> None:
    rows = lines(12)
    for row in (2, 3, 4, 5):  # with 3 samples of limit, row 5 has no value
        rows[row][1] = "NaN"
    rows[7][2] = rows[8][2] = "NaN"
    write(tmp_path, rows)
    reader = OpportunityReader(tmp_path, channels=[1, 2], carry_forward_seconds=0.1)
    recording = next(reader.recordings())
    assert recording.gaps == [(5, 6)]
    frame = pd.DataFrame(np.array(rows)[:, 1:3].astype(np.float32))
    beyond = frame.ffill(limit=3).isna().any(axis=1)
    assert np.flatnonzero(beyond).tolist() == [5]
    within = ~beyond.to_numpy()
    np.testing.assert_array_equal(recording.samples[within], frame.ffill(limit=3).to_numpy()[within])
    assert np.isfinite(recording.samples).all()
    assert reader.notes[-1] == (
        "S2-ADL3.dat: no window touches 0.0 s in 1 stretches where a channel has no value within "
        "`carry_forward_seconds` 0.1."
    )
    unlimited = OpportunityReader(tmp_path, channels=[1, 2])
    assert next(unlimited.recordings()).gaps == []
    assert reader.parameters == {**unlimited.parameters, "carry_forward_seconds": 0.1}
    with pytest.raises(ConfigError, match=r"data\.carry_forward_seconds: a number above 0"):
        OpportunityReader(tmp_path, carry_forward_seconds=-1)


def test_fill_gaps_as_pandas_does() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(200, 9)).astype(np.float32)
    samples[rng.random(samples.shape) < 0.3] = np.nan
    np.testing.assert_array_equal(fill_gaps(samples), pd.DataFrame(samples).ffill().bfill().to_numpy())


def test_other_white_space_and_blank_lines(tmp_path: Path) -> None:
    text = "\n".join("  ".join(row[:10]) + "\t" + " ".join(row[10:]) + " " for row in lines())
    (tmp_path / "S1-Drill.dat").write_text(text + "\n\n")
    assert read(tmp_path, channels=[1]).samples[:, 0].tolist() == [1000 * r + 1 for r in range(6)]


# -- what is wrong is said, with the place


def test_missing_and_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        OpportunityReader(tmp_path / "nowhere")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"expected, found dataset, notes\.txt\. Did you mean .*dataset\?"):
        OpportunityReader(tmp_path)


def test_cut_off_file(tmp_path: Path) -> None:
    rows = lines()
    rows[-1] = rows[-1][:-1]
    write(tmp_path, rows)
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert str(error.value) == (
        "S2-ADL3.dat:6: 249 columns, expected 250 (time, 242 sensors, 7 labels). The file seems cut off; "
        "nothing was written."
    )


@pytest.mark.parametrize("number", [249, 251])
@pytest.mark.parametrize("row", [0, 3])
def test_row_of_another_length(tmp_path: Path, number: int, row: int) -> None:
    rows = lines()
    rows[row] = (rows[row] + ["0"])[:number]
    write(tmp_path, rows)
    with pytest.raises(DataError, match=rf"S2-ADL3\.dat:{row + 1}: {number} columns, expected 250"):
        read(tmp_path)


def test_every_row_too_short(tmp_path: Path) -> None:
    write(tmp_path, [row[:-1] for row in lines()])
    with pytest.raises(DataError, match=r":1: 249 columns"):
        read(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    write(tmp_path, [])
    with pytest.raises(DataError, match="the file is empty"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("row", "column", "word", "message"),
    [
        (
            2,
            243,
            "3",
            r":3: code 3 is not in the table of track Locomotion \(column 243\); known: 0, 1, 2, 4, 5",
        ),
        (4, 249, "406518", r":5: code 406518 is not in the table of track ML_Both_Arms"),
        (4, 249, "4065", r":5: code 4065 is not in the table of track ML_Both_Arms"),
        (1, 246, "0.5", r":2: code 0.5 is not in the table of track LL_Left_Arm_Object"),
        (1, 249, "NaN", r":2: a number expected in column 249 \(ML_Both_Arms\), found NaN"),
        (1, 244, "NaN", r":2: a number expected in column 244 \(HL_Activity\), found NaN"),
        (3, 0, "10", r":4: time runs backwards, from 67 to 10 ms"),
        (5, 17, "12a", r":6: a number or NaN expected in column 17 \(Accelerometer BACK accY\), found `12a`"),
    ],
)
def test_wrong_cell(tmp_path: Path, row: int, column: int, word: str, message: str) -> None:
    rows = lines()
    rows[row][column] = word
    write(tmp_path, rows)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    rows = lines()
    rows[2][243] = "3"
    rows.insert(1, [])
    write(tmp_path, rows)
    with pytest.raises(DataError, match=r"S2-ADL3\.dat:4: code 3"):
        read(tmp_path)


def test_channel_without_a_value(tmp_path: Path) -> None:
    rows = lines()
    for row in rows:
        row[5] = "NaN"
    write(tmp_path, rows)
    assert read(tmp_path, channels=[4, 6]).samples.shape == (6, 2)
    with pytest.raises(DataError, match=r"channel 5 \(Accelerometer HIP accY\) has no value .* leave it out"):
        read(tmp_path, channels=[4, 5])
    reader = OpportunityReader(tmp_path, channels=[4, 5], all_nan="zero")
    assert next(reader.recordings()).samples[:, 1].tolist() == [0] * 6
    assert "filled with zeros" in reader.notes[0]
    with pytest.raises(DataError, match="every packet is lost"):
        read(tmp_path, channels=[5])
    with pytest.raises(ConfigError, match="all_nan"):
        OpportunityReader(tmp_path, all_nan="none")  # type: ignore[arg-type]


def test_simulated_files_as_pandas_reads_them(tmp_path: Path) -> None:
    folder = simulate_opportunity(tmp_path / "opp", people=1, seconds_per_run=6, seed=3)
    columns = list(channel_columns("thesis"))
    for recording in OpportunityReader(folder).recordings():
        table = pd.read_csv(folder / f"{recording.name}.dat", sep=" ", header=None)
        sensors = table[columns]
        kept = np.flatnonzero(sensors.notna().any(axis=1))[-1] + 1
        expected = sensors[:kept].ffill().bfill()
        np.testing.assert_array_equal(recording.samples, expected.to_numpy(np.float32))
        np.testing.assert_array_equal(recording.tracks, table[list(range(243, 250))][:kept].to_numpy())
