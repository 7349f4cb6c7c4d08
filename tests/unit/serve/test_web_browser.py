"""The page in a browser: what a person fills in and chooses is answered with what `POST /predict` says."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx2
import numpy as np
import pytest

from _browser import CHROMIUM, Browser, browser
from _predict import image_bundle
from _web import table_bundle

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")


@contextmanager
def page_of(bundle: Path, folder: Path, *options: str) -> Iterator[tuple[str, Browser]]:
    """A bundle behind `taskloom serve`, and its page in a browser."""
    words = [
        sys.executable,
        "-m",
        "taskloom",
        "serve",
        str(bundle),
        "--port",
        "0",
        "--device",
        "cpu",
        *options,
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            said = iter(server.stdout.readline, "")
            address = next(found[0] for line in said if (found := re.findall(r"http://\S+", line)))
            with browser(folder / "profile") as window:
                window.open(address)
                yield address, window
                assert window.complaints == []
                own = (address, "data:", "blob:", "about:")
                assert [asked for asked in window.asked if not asked.startswith(own)] == []
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(20) == 0


def answer_to(address: str, rows: list[dict[str, Any]]) -> Any:
    with httpx2.Client(base_url=address, trust_env=False) as web:
        return web.post("/predict", json={"rows": rows}).json()


def test_a_row_and_a_table(tmp_path: Path) -> None:
    bundle = table_bundle(tmp_path)
    with page_of(bundle, tmp_path) as (address, window):
        expected = answer_to(address, [{"a": 5.5, "b": None, "c": 2}])
        fill = """(() => {
            document.querySelector("#row [name=a]").value = "5.5";
            document.querySelector("#row [name=c]").value = "2";
            document.getElementById("row").requestSubmit();
        })()"""
        window.value(fill)
        text = window.until("document.getElementById('row_answer').innerText.trim()")
        (row,), (chances,) = expected["rows"], expected["probabilities"]
        assert f"{row['age']:.4g} years" in text
        for task in ("sex", "mood"):
            for name, chance in chances[task].items():
                assert re.search(rf"{name}\s+{100 * chance:.1f} %", text), (name, text)
        window.value('document.querySelector("#row [name=a]").value = "tall"')
        window.value('document.getElementById("row").requestSubmit()')
        assert "tall" in window.until("document.getElementById('error').innerText")
        window.complaints.clear()  # the browser says that it was answered with 422
        window.choose("#files", tmp_path / "people.csv")
        shown = window.until(
            "document.querySelector('#results table') && document.getElementById('results').innerText"
        )
        assert "60 rows" in shown or len(shown.splitlines()) > 60


def test_a_picture_and_what_is_none(tmp_path: Path) -> None:
    bundle = image_bundle(tmp_path)
    cv2.imwrite(
        str(tmp_path / "face.png"), np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    )
    (tmp_path / "none.png").write_text("no picture")
    with page_of(bundle, tmp_path, "--detector", "none") as (_, window):
        window.choose("#files", tmp_path / "face.png")
        window.until("document.querySelectorAll('#results .face').length === 1")
        text = window.value("document.querySelector('#results .face').innerText")
        assert re.search(r"age\s+\S+ years", text)
        assert re.search(r"male\s+[\d.]+ %", text)
        drawn = """(() => {
            const canvas = document.querySelector("#results canvas");
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return [canvas.width, canvas.height, new Set(pixels).size];
        })()"""
        width, height, shades = window.value(drawn)
        assert (width, height) == (60, 40)
        assert shades > 20
        window.choose("#files", tmp_path / "none.png")
        assert "none.png" in window.until("document.getElementById('error').innerText")
        window.complaints.clear()
