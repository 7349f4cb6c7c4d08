"""Recordings through a bundle: equal to what evaluation sees of the same files, and files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from _recording_bundles import WORDS, trained, write_edf, write_wav
from taskloom.cli import app
from taskloom.deploy import load_bundle
from taskloom.errors import DataError
from taskloom.predict import predict_recordings
from taskloom.predict.windowing import ReadWindows

RUNNER = CliRunner()


def predicted(folder: Path, source: Path, bundle: Path) -> pd.DataFrame:
    predict_recordings(load_bundle(bundle), source, folder / "out.csv", device="cpu")
    return pd.read_csv(folder / "out.csv", dtype={"digit": str})


@pytest.mark.parametrize(
    ("suffix", "settings"), [(".wav", None), (".edf", None), (".csv", None), (".wav", WORDS)]
)
def test_windows_are_those_that_evaluation_sees(
    tmp_path: Path, suffix: str, settings: dict[str, Any] | None
) -> None:
    bundle, splits = trained(tmp_path, suffix, settings)
    rows = predicted(tmp_path, tmp_path / "data", bundle)
    loaded = load_bundle(bundle)
    windows = splits.test
    outputs = loaded.model(windows.__getitems__(range(len(windows))).inputs)
    chance = torch.sigmoid(outputs["digit"][:, 0]).detach().numpy()
    loudness = loaded.tasks["loudness"].decode(outputs["loudness"]).detach().numpy().reshape(-1)
    names_of = [windows.store.recordings[int(i)].name for i in windows.recording_index]  # type: ignore[attr-defined]
    assert sorted(set(names_of)) == ["3_0", "7_0"]
    for name in set(names_of):
        own = np.array([index for index, other in enumerate(names_of) if other == name])
        found = rows[rows.file == f"{name}{suffix}"]
        each = found[found.window.notna()]
        assert each.window.tolist() == list(range(len(own)))
        np.testing.assert_allclose(each.loudness, loudness[own], rtol=2e-5, atol=1e-5)
        np.testing.assert_allclose(each.digit_confidence, np.maximum(chance, 1 - chance)[own], rtol=2e-5)
        assert each.digit.tolist() == ["7" if p >= 0.5 else "3" for p in chance[own]]
        (whole,) = found[found.window.isna()].itertuples()
        np.testing.assert_allclose(whole.loudness, loudness[own].mean(), rtol=2e-5, atol=1e-5)
        mean = chance[own].mean()
        np.testing.assert_allclose(whole.digit_confidence, max(mean, 1 - mean), rtol=2e-5)
        starts = np.array([windows.starts[index] for index in own])  # type: ignore[attr-defined]
        record = next(one for one in windows.store.recordings if one.name == name)  # type: ignore[attr-defined]
        cropped = 0.1 if settings is WORDS else 0.0  # 0.7 s, of which the middle 0.5 s stay
        seconds = (starts - record.start) / windows.store.rate_hz + cropped  # type: ignore[attr-defined]
        np.testing.assert_allclose(each.start_s, seconds, rtol=1e-5)
        assert (each.end_s <= whole.end_s + 1e-9).all()


def test_overlapping_windows_are_cut_a_batch_at_a_time() -> None:
    samples = np.arange(40, dtype=np.float32).reshape(20, 2)
    starts = np.arange(0, 17, 2)  # nine windows of four samples, each sample in two of them
    recording = ReadWindows(samples, starts, 4, None, first_seconds=0.0, rate_hz=1.0, seconds=20.0)
    batches = list(recording.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    naive = np.stack([samples[start : start + 4] for start in starts])
    np.testing.assert_array_equal(torch.cat(batches).numpy(), naive)


def test_a_file_that_does_not_fit_is_a_row_with_its_problem(tmp_path: Path) -> None:
    bundle, _ = trained(tmp_path, ".wav")
    new = tmp_path / "new"
    write_wav(new / "a" / "good.wav", 1)
    write_wav(new / "short.wav", 2, length=90)
    write_wav(new / "fast.wav", 3, rate_hz=2000)
    (new / "empty.wav").write_bytes(b"")
    (new / "cut.wav").write_bytes((new / "fast.wav").read_bytes()[:30])
    (new / "notes.txt").write_text("not a recording")
    result = RUNNER.invoke(
        app, ["predict", str(bundle), str(new), "--out", str(tmp_path / "p.csv"), "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    assert "1 recording, 11 windows   device cpu" in result.output
    assert "left out 4 files; the first, cut.wav: " in result.output
    rows = pd.read_csv(tmp_path / "p.csv")
    problems = rows[rows.problem.notna()].set_index("file").problem
    assert list(problems.index) == ["cut.wav", "empty.wav", "fast.wav", "short.wav"]
    assert "the file is empty" in problems["empty.wav"]
    assert "1000 Hz expected as in the training, found 2000 Hz" in problems["fast.wav"]
    assert "0.09 s, shorter than a window of 0.1 s" in problems["short.wav"]
    assert set(rows[rows.problem.isna()].file) == {"a/good.wav"}


def test_a_single_file_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    bundle, _ = trained(tmp_path, ".edf")
    write_edf(tmp_path / "volts.edf", 1, unit="mV")
    write_edf(tmp_path / "slow.edf", 1, rate_hz=40)
    (tmp_path / "only").mkdir()
    for source, message in (
        (tmp_path / "volts.edf", "signal `Pz` is in mV, in the training in uV"),
        (tmp_path / "slow.edf", "50 Hz expected as in the training, found 40 Hz"),
        (tmp_path / "nothing.edf", r"a recording \(.edf\) or a folder of them expected, found nothing"),
        (tmp_path / "only", r"no recording \(.edf\) there"),
        (bundle / "bundle.json", r"a recording \(.edf\) expected, as this bundle was trained on"),
    ):
        with pytest.raises(DataError, match=message):
            predict_recordings(load_bundle(bundle), source, tmp_path / "out.csv")
        assert not list(tmp_path.glob("*out*"))


def test_bundles_that_cannot_know_say_so(tmp_path: Path) -> None:
    bundle, _ = trained(tmp_path, ".wav")
    loaded = load_bundle(bundle)
    write_wav(tmp_path / "new.wav", 1)
    loaded.preprocessing["reader"] = "combined"
    with pytest.raises(DataError, match="was trained by the reader `combined`"):
        predict_recordings(loaded, tmp_path / "new.wav", tmp_path / "out.csv")
    loaded = load_bundle(bundle)
    loaded.about.clear()
    with pytest.raises(DataError, match="does not say how its recordings were read"):
        predict_recordings(loaded, tmp_path / "new.wav", tmp_path / "out.csv")
