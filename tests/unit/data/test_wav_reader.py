"""The WAV reader: against SciPy and the standard library, and on files broken on purpose."""

from __future__ import annotations

import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import wavfile

from taskloom.data.readers.wav import WavReader
from taskloom.data.readers.wav_file import read_wav, read_wav_header
from taskloom.data.signals import SignalSteps
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError

FSDD = Path(__file__).parents[4] / "shared/data/fsdd"
PATTERN = r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)"
SPLIT = {"by": "column", "column": "index", "test": [0], "validation": [1]}


def tone(length: int, seed: int = 0, channels: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, size=(length, channels))


def write(path: Path, seed: int = 0, *, length: int = 800, rate_hz: int = 8000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.round(tone(length, seed, channels) * 32767).astype(np.int16)
    wavfile.write(path, rate_hz, values.squeeze())


def digits(folder: Path) -> Path:
    """Ten recordings of two digits by two speakers, and a table of the speakers."""
    for number, (digit, speaker, index) in enumerate(
        (digit, speaker, index) for digit in (3, 7) for speaker in ("ann", "bob") for index in range(3)
    ):
        write(folder / f"recordings/{digit}_{speaker}_{index}.wav", number, length=600 + 50 * number)
    (folder / "speakers.csv").write_text("speaker,accent\nann,north\nbob,south\n")
    return folder


def refused(folder: Path, **settings: Any) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        list(WavReader(folder, **settings).recordings())
    return str(caught.value)


class TestFile:
    @pytest.mark.parametrize("kind", ["u1", "<i2", "<i4", "<f4", "<f8"])
    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_equals_scipy(self, tmp_path: Path, kind: str, channels: int) -> None:
        dtype = np.dtype(kind)
        values = tone(100, 1, channels)
        scale, offset = {"u1": (128.0, 128), "<i2": (2.0**15, 0), "<i4": (2.0**31, 0)}.get(kind, (1.0, 0))
        stored = values if dtype.kind == "f" else np.floor(values * (scale - 1)) + offset
        wavfile.write(tmp_path / "a.wav", 8000, stored.astype(dtype))
        _, by_scipy = wavfile.read(tmp_path / "a.wav")
        expected = (by_scipy.reshape(100, channels).astype(np.float64) - offset) / scale
        header = read_wav_header(tmp_path / "a.wav")
        assert (header.rate_hz, header.num_channels, header.num_samples) == (8000, channels, 100)
        np.testing.assert_allclose(read_wav(header), expected, atol=1e-7)

    def test_24_bits_as_the_standard_library_writes_them(self, tmp_path: Path) -> None:
        numbers = [0, 1, -1, 2**23 - 1, -(2**23)]
        with wave.open(str(tmp_path / "a.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(3)
            file.setframerate(16000)
            file.writeframes(b"".join(number.to_bytes(3, "little", signed=True) for number in numbers))
        found = read_wav(read_wav_header(tmp_path / "a.wav"))[:, 0]
        np.testing.assert_array_equal(found, np.array(numbers, dtype=np.float32) / 2**23)

    def test_notes_of_other_programs_are_passed_over(self, tmp_path: Path) -> None:
        write(tmp_path / "a.wav")
        content = (tmp_path / "a.wav").read_bytes()
        note = b"LIST" + struct.pack("<I", 5) + b"hello\0"  # odd lengths are padded
        (tmp_path / "b.wav").write_bytes(content[:36] + note + content[36:] + note)
        both = [read_wav(read_wav_header(tmp_path / name)) for name in ("a.wav", "b.wav")]
        np.testing.assert_array_equal(*both)

    def test_broken_files_get_one_sentence(self, tmp_path: Path) -> None:
        write(tmp_path / "a.wav")
        whole = (tmp_path / "a.wav").read_bytes()
        broken = {
            b"": "the file is empty",
            b"RIFX" + whole[4:]: "not a WAV file; it should begin with RIFF and WAVE",
            whole[:30]: "the header is broken; 16 bytes or more expected in `fmt`, found 10",
            whole[:40]: "the header is broken; the WAV file has no `data` part",
            whole[:12] + whole[36:]: "the samples come before the `fmt` part",
            whole[
                :-10
            ]: "1,600 bytes of samples expected from its header, found 1,590. The file seems cut off",
            whole[:20] + b"\x06\0" + whole[22:]: "expected, found A-law; convert the file",
            whole[:32]
            + b"\x07\0"
            + whole[34:]: "1 channels of 16 bits at 8000 Hz do not make blocks of 7 bytes",
            whole[:40] + b"\xff\xff\xff\xff" + whole[44:]: "the header says no length",
            whole[:40] + b"\0\0\0\0": "the header says no samples",
            whole[:40]
            + struct.pack("<I", 1599)
            + whole[44:]: "1,599 bytes are no whole number of 2-byte blocks",
        }
        for content, words in broken.items():
            (tmp_path / "b.wav").write_bytes(content)
            with pytest.raises(DataError) as caught:
                read_wav_header(tmp_path / "b.wav")
            assert str(caught.value).startswith("b.wav: ")
            assert words in str(caught.value)


class TestReader:
    def test_a_table_of_file_names_needs_no_key(self, tmp_path: Path) -> None:
        for number, name in enumerate(("a", "b", "c")):
            write(tmp_path / f"{name}.wav", number)
        (tmp_path / "t.csv").write_text("file_name,mood,person\na.wav,calm,p1\nb.WAV,loud,p2\nc,,p1\n")
        found = list(WavReader(tmp_path, table="t.csv").recordings())
        assert [(each.name, each.labels["mood"], each.person) for each in found] == [
            ("a", "calm", "p1"),
            ("b", "loud", "p2"),
            ("c", None, "p1"),
        ]

    def test_labels_from_names_and_table(self, tmp_path: Path) -> None:
        reader = WavReader(
            digits(tmp_path),
            files="recordings/*.wav",
            file_pattern=PATTERN,
            table="speakers.csv",
            key={"speaker": "speaker"},
        )
        found = {recording.name: dict(recording.labels) for recording in reader.recordings()}
        assert len(found) == 12
        assert found["7_bob_2"] == {"digit": "7", "speaker": "bob", "index": "2", "accent": "south"}
        assert reader.label_classes["accent"] == ("north", "south")

    def test_the_layout_is_those_settings(self, tmp_path: Path) -> None:
        reader = WavReader(digits(tmp_path), layout="fsdd")
        assert {r.labels["accent"] for r in reader.recordings()} == {"north", "south"}

    def test_channels(self, tmp_path: Path) -> None:
        write(tmp_path / "a.wav", channels=2)
        _, both = wavfile.read(tmp_path / "a.wav")
        both = both / 2.0**15
        expected = {"all": both, "mix": both.mean(axis=1, keepdims=True), "right": both[:, 1:]}
        names = {"all": ("left", "right"), "mix": ("audio",), "right": ("right",)}
        for choice, values in expected.items():
            reader = WavReader(tmp_path, channels=[choice] if choice == "right" else choice)  # type: ignore[arg-type]
            assert reader.channels == names[choice]
            np.testing.assert_allclose(next(reader.recordings()).samples, values, atol=1e-7)

    def test_bad_input(self, tmp_path: Path) -> None:
        write(tmp_path / "a.wav")
        write(tmp_path / "b.wav", rate_hz=16000)
        assert "b.wav: 16000 Hz, a.wav has 8000 Hz; one rate for all recordings expected" in refused(tmp_path)
        write(tmp_path / "b.wav", channels=2)
        assert "b.wav: left, right found, audio expected as in a.wav" in refused(tmp_path)
        assert "`middle` is not a channel of a.wav" in refused(tmp_path, channels=["middle"])
        assert "the name does not match `data.file_pattern`" in refused(tmp_path, file_pattern=PATTERN)
        assert "files `*.wave` (.wav) expected, found a.wav, b.wav" in refused(tmp_path, files="*.wave")
        write(tmp_path / "more/a.wav")
        assert "a.wav: 2 files of this name" in refused(tmp_path, files="**/*.wav")
        assert "no such folder" in refused(tmp_path / "nowhere")


class TestLoading:
    def test_one_window_per_recording_where_lengths_are_made_equal(self, tmp_path: Path) -> None:
        settings = {"layout": "fsdd", "fit_seconds": 0.1, "normalize": False}
        tasks = {name: {"kind": "binary"} for name in ("digit", "speaker", "accent")}
        folder = digits(tmp_path / "data")
        splits = load("wav", settings, tasks, SPLIT, folder=folder, stores=tmp_path / "stores")
        assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [4, 4, 4]
        batch = splits.test.__getitems__([0])
        _, values = wavfile.read(folder / "recordings/3_ann_0.wav")
        expected = np.zeros(800)
        expected[:600] = values / 2.0**15
        np.testing.assert_allclose(batch.inputs[0, :, 0], expected, atol=1e-7)
        assert splits.test.labels.values["digit"].tolist() == [0, 0, 1, 1]
        assert splits.test.labels.values["accent"].tolist() == splits.test.labels.values["speaker"].tolist()
        assert splits.preprocessing["signals"]["fit_seconds"] == 0.1

    def test_frames_of_a_spectrogram(self, tmp_path: Path) -> None:
        steps = {"fit_seconds": 0.1, "spectrogram": {"window_seconds": 0.02, "mel_bands": 8}}
        splits = load(
            "wav",
            {"layout": "fsdd", **steps, "normalize": False},
            {"digit": {"kind": "binary"}},
            SPLIT,
            folder=digits(tmp_path / "data"),
            stores=tmp_path / "stores",
        )
        _, values = wavfile.read(tmp_path / "data/recordings/3_ann_1.wav")
        expected = SignalSteps.from_settings(steps).apply(values[:, None] / 2.0**15, 8000.0, "")
        assert splits.validation.input_shape == expected.shape == (9, 8)
        np.testing.assert_allclose(splits.validation.__getitems__([0]).inputs[0], expected, atol=1e-4)


@pytest.mark.skipif(not FSDD.is_dir(), reason="the spoken digits are not beside this checkout")
class TestSpokenDigits:
    def test_the_official_test_set(self, tmp_path: Path) -> None:
        reader = WavReader(FSDD, layout="fsdd")
        assert len(reader.files) == 3001
        assert reader.rate_hz == 8000
        assert reader.label_classes["accent"] == ("BEL/French", "DEU/German", "GRC/Greek", "USA/neutral")
        test = [path for path in reader.files if path.stem.rsplit("_", 1)[-1] in set("01234")]
        assert len(test) == 300
        for path in test[::50]:
            _, values = wavfile.read(path)
            recording = reader.read(path)
            np.testing.assert_allclose(recording.samples[:, 0], values / 2.0**15, atol=1e-7)
            assert recording.labels["digit"] == path.name[0]
