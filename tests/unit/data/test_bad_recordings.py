"""Bad recordings through the command line: one sentence, the place in it, and nothing left behind."""

from __future__ import annotations

import os
import pickle
import re
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import taskloom.cli
from taskloom.data.readers.recordings_folder import RecordingsReader
from taskloom.data.readers.wav import WavReader
from taskloom.errors import DataError

TAIL = """
encoder: {name: conv1d, filters: [4]}
training: {epochs: 1, device: cpu}
repeats: 1
cells: [{hard_sharing: {stages: 1}}]
"""
OWN = """
data: {reader: recordings, files: 'rec/*.csv', table: files.csv, intervals: acts.csv, window: {samples: 16}}
tasks: {activity: {kind: multiclass}, age: {kind: regression}}
"""
BY_PERSON = "split: {by: person, test: 0.3, validation: 0.2}"
DEAP = "data: {reader: deap, trials: 1}\ntasks: {valence: {kind: binary}}"
WAV = "data: {reader: wav, table: table.csv, fit_seconds: 0.25}\ntasks: {kind: {kind: binary}}"
NUM_FILES = 6


def run(folder: Path, study: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, set[str]]:
    """The sentence that a study of these files ends with, and what it left in the folder."""
    (folder / "study.yaml").write_text(study + TAIL)
    before = set(folder.rglob("*"))
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(taskloom.cli.app, ["study", "study.yaml", "--data", "."])
    assert result.exit_code == 2, result.output
    assert result.stdout.strip() == ""
    return result.stderr.strip(), {path.name for path in set(folder.rglob("*")) - before}


# -- files that are right, to be damaged one at a time


def own_recordings(folder: Path) -> None:
    """Six files of 2 s at 50 Hz, their times, persons and activities."""
    (folder / "rec").mkdir()
    random = np.random.default_rng(0)
    for index in range(NUM_FILES):
        values = np.column_stack([np.arange(100) / 50, random.normal(size=(100, 2))])
        rows = "".join(",".join(f"{value:.4f}" for value in row) + "\n" for row in values)
        (folder / "rec" / f"r{index}.csv").write_text("time,x,y\n" + rows)
    persons = "".join(f"rec/r{index}.csv,P{index},{20 + index},train\n" for index in range(NUM_FILES))
    (folder / "files.csv").write_text("file,person,age,part\n" + persons)
    stretches = "".join(
        f"rec/r{index}.csv,0,1,walk\nrec/r{index}.csv,1,1.5,sit\n" for index in range(NUM_FILES)
    )
    (folder / "acts.csv").write_text("file,start_s,stop_s,activity\n" + stretches)


def sounds(folder: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(NUM_FILES):
        with wave.open(str(folder / f"w{index}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(1000)
            file.writeframes((random.normal(size=500) * 3000).astype("<i2").tobytes())
    rows = "".join(f"w{index}.wav,P{index},{'ab'[index % 2]}\n" for index in range(NUM_FILES))
    (folder / "table.csv").write_text("file,person,kind\n" + rows)


def people_of_deap(folder: Path) -> None:
    for number in range(1, 4):
        arrays = {"data": np.zeros((1, 40, 8064), np.float32), "labels": np.full((1, 4), 5.0)}
        (folder / f"s{number:02d}.dat").write_bytes(pickle.dumps(arrays, protocol=2))


class RunsCode:
    """Unpickled, it would make a folder."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("code_was_run",)


# -- one mistake each


def append(name: str, line: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(line + "\n")

    return damage


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return damage


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def times(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        lines = (folder / "rec" / "r4.csv").read_text().splitlines()
        seconds = change(np.arange(100) / 50)
        rows = [f"{time:.4f},{line.split(',', 1)[1]}" for time, line in zip(seconds, lines[1:], strict=True)]
        (folder / "rec" / "r4.csv").write_text("\n".join([lines[0], *rows]) + "\n")

    return damage


def leap(seconds: np.ndarray) -> np.ndarray:
    return seconds + np.where(np.arange(100) >= 50, 1e9, 0)


def swap(seconds: np.ndarray) -> np.ndarray:
    return seconds[[*range(40), 41, 40, *range(42, 100)]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            append("files.csv", "rec/r3.csv,P3,44,train"),
            "files.csv:8: column `file`: rec/r3.csv has a row already (files.csv:5: column `file`); one row "
            "per file expected.",
        ),
        (
            append("files.csv", "./rec/r3.csv,P3,23,train"),
            "files.csv:8: column `file`: ./rec/r3.csv has a row",
        ),
        (append("files.csv", "rec\\r3,P3,23,train"), "files.csv:8: column `file`: rec\\r3 has a row already"),
        (
            append("acts.csv", "rec/r2.csv,0.5,0.9,sit"),
            "acts.csv:14: column `start_s`: the interval",
        ),
        (
            append("acts.csv", "./rec/r2.csv,1.5,3,sit"),
            "acts.csv:14: column `start_s`: the interval 1.5 to 3 s leaves the recording rec/r2, which "
            "lasts 2 s.",
        ),
        (
            append("acts.csv", "rec/r2.csv,1.9,1.6,sit"),
            "acts.csv:14: column `start_s`: a start before",
        ),
        (times(lambda seconds: seconds * 2), "r4.csv: 25 Hz, 50 Hz expected as in r0.csv"),
        (times(swap), "r4.csv:43: time runs backwards, from 0.82 to 0.8 s"),
        (
            times(leap),
            "r4.csv:52: time leaps from 0.98 to 1000000001 s; of the 5e+10 samples that the times make, 100 "
            "are there. Correct the times, or make files of the parts.",
        ),
        (write("rec/r4.csv", b""), "r4.csv: the file is empty, a recording expected; leave it out."),
        (write("files.csv", b""), "files.csv: the table is empty"),
        (write("acts.csv", b""), "acts.csv: the table is empty"),
    ],
)
def test_own_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], message: str
) -> None:
    own_recordings(tmp_path)
    damage(tmp_path)
    sentence, left = run(tmp_path, OWN + BY_PERSON, monkeypatch)
    assert sentence.startswith(message), sentence
    assert "\n" not in sentence
    assert left == set()


def test_a_person_in_train_and_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_recordings(tmp_path)
    parts = ["train", "test", "validation", "train", "test", "validation"]
    rows = "".join(f"rec/r{index}.csv,P{index % 2},30,{part}\n" for index, part in enumerate(parts))
    (tmp_path / "files.csv").write_text("file,person,age,part\n" + rows)
    sentence, left = run(tmp_path, OWN + "split: {by: person, column: part}", monkeypatch)
    assert re.fullmatch(
        r"study\.yaml:\d+: split: person P0 stands in train \(6 windows\) .* and test \(6\) .*`by: person` "
        r"keeps a person on one side; person P0 has three values of `part`\.",
        sentence,
    )
    # The recordings were fine: their store is whole, for the study as it will be put right.
    assert {name for name in left if "." in name} == {"samples.npy", "tracks.npy", "store.json"}


def test_a_normaliser_per_person_beside_people_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known before the first run: every run failed after its training, when validation was read."""
    own_recordings(tmp_path)
    sentence, _ = run(tmp_path, OWN.replace("window:", "normalize: person, window:") + BY_PERSON, monkeypatch)
    assert re.search(r"normaliser: person P\d has no training window.*use `per: channel`", sentence), sentence


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda data: b"",
            "the file is empty, a WAV recording expected. Leave the file out, or get it again.",
        ),
        (
            lambda data: b"RIFX" + data[4:],
            "not a WAV file; it should begin with RIFF and WAVE. Leave the file",
        ),
        (lambda data: data[:30], "the header is broken; 16 bytes or more expected in `fmt`, found 10. Leave"),
        (
            lambda data: data[:22] + b"\0\0" + data[24:],
            "the header is broken; 1 channel or more expected, found 0",
        ),
        (
            lambda data: data[:24] + b"\0\0\0\0" + data[28:],
            "the header is broken; 1 sample per second or more",
        ),
        (
            lambda data: data[:22] + b"\2\0" + data[24:],
            "the header is broken; 2 channels of 16 bits at 1000 Hz do not make",
        ),
        (
            lambda data: data[:24] + struct.pack("<I", 2000) + data[28:],
            "2000 Hz, w0.wav has 1000 Hz; one rate",
        ),
        (
            lambda data: data[:-10],
            "1,000 bytes of samples expected from its header, found 990. The file seems cut",
        ),
    ],
)
def test_sounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes], message: str
) -> None:
    sounds(tmp_path)
    path = tmp_path / "w4.wav"
    path.write_bytes(damage(path.read_bytes()))
    sentence, left = run(tmp_path, WAV + "\n" + BY_PERSON, monkeypatch)
    assert sentence.startswith(f"w4.wav: {message}"), sentence
    assert left == set()


def test_two_rows_for_one_sound_even_if_they_agree(tmp_path: Path) -> None:
    sounds(tmp_path)
    append("table.csv", "w2.wav,P2,a")(tmp_path)
    with pytest.raises(
        DataError, match=r"table\.csv:8: column `file`: w2 has a row already \(.*table\.csv:4"
    ):
        WavReader(tmp_path, table="table.csv")
    # A table of persons may name one twice where the rows agree.
    rows = "".join(f"{index},{'ab'[index % 2]}\n" for index in (0, 1, 2, 2, 3, 4, 5))
    (tmp_path / "table.csv").write_text("number,kind\n" + rows)
    reader = WavReader(tmp_path, table="table.csv", file_pattern=r"w(?P<who>\d)", key={"who": "number"})
    assert [recording.labels["kind"] for recording in reader.recordings()] == ["a", "b"] * 3


def test_a_table_names_sounds_by_path_or_name(tmp_path: Path) -> None:
    sounds(tmp_path)
    texts = ["./w0.wav", "sounds/w1.wav", "sounds\\w2.WAV", "w3", "/data/w4", "w5.wav"]
    rows = "".join(f"{text},{kind}\n" for text, kind in zip(texts, "abcdef", strict=True))
    (tmp_path / "table.csv").write_text("file,kind\n" + rows)
    reader = WavReader(tmp_path, table="table.csv")
    assert [recording.labels["kind"] for recording in reader.recordings()] == list("abcdef")
    assert reader.notes == []


def test_a_table_of_other_sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds(tmp_path)
    (tmp_path / "table.csv").write_text("file,person,kind\nz1.wav,P1,a\nz2.wav,P2,b\n")
    sentence, left = run(tmp_path, WAV + "\n" + BY_PERSON, monkeypatch)
    assert sentence == (
        "table.csv: none of its 2 rows is of a recording that is there; it names z1, for example, where "
        "w0.wav asks for w0."
    )
    assert left == set()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            pickle.dumps({"data": RunsCode()}, protocol=2),
            r"the pickle asks for `\w+\.mkdir`; a pickle can run any",
        ),
        (
            pickle.dumps({"data": np.zeros((1, 32, 8064)), "labels": np.ones((1, 4))}),
            r"`data` of shape \[1, 40, 8064\] expected, found \[1, 32, 8064\]; is it one of DEAP's",
        ),
        (b"", "the file is empty, a pickle of arrays expected; get it again"),
        (
            pickle.dumps({"data": np.zeros(9)})[:-20],
            "not readable as a pickle of arrays .*; the file seems cut off",
        ),
    ],
)
def test_deap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str) -> None:
    people_of_deap(tmp_path)
    (tmp_path / "s03.dat").write_bytes(content)
    sentence, left = run(tmp_path, DEAP + "\n" + BY_PERSON, monkeypatch)
    assert re.match(rf"s03\.dat: {message}", sentence), sentence
    assert left == set()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_arrays_are_data_errors(tmp_path: Path, suffix: str) -> None:
    """Whatever byte is wrong: either the file still reads, or one sentence names it."""
    random = np.random.default_rng(0)
    path = tmp_path / f"a{suffix}"
    samples = random.normal(size=(20, 2))
    np.save(path, samples) if suffix == ".npy" else np.savez(path, samples=samples)
    whole = path.read_bytes()
    sentences = []
    for _ in range(150):
        content = bytearray(whole)
        position = int(random.integers(min(len(content), 140)))
        content[position : position + int(random.integers(3))] = bytes(random.integers(256, size=2).tolist())
        path.write_bytes(bytes(content))
        try:
            list(RecordingsReader(tmp_path, rate_hz=50).recordings())
        except DataError as error:
            sentences.append(str(error))
    assert len(sentences) > 50
    assert all(re.fullmatch(rf"a{re.escape(suffix)}: .*", sentence) for sentence in sentences)


def test_holes_up_to_ten_times_what_is_there_are_read(tmp_path: Path) -> None:
    seconds = np.concatenate(
        [np.arange(50) / 50, 8 + np.arange(50) / 50]
    )  # 450 samples of which 100 are there
    rows = "".join(f"{time:.2f},{position}\n" for position, time in enumerate(seconds))
    (tmp_path / "a.csv").write_text("time,x\n" + rows)
    with pytest.raises(DataError, match=r"has no value at 1 s; set `carry_forward_seconds`"):
        list(RecordingsReader(tmp_path).recordings())
