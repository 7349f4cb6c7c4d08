"""Requests at once, limits, names of files, mistakes, and what is left behind."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx2
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from torch import nn

import taskloom as tl
from _predict import image_bundle, picture_with
from _recording_bundles import trained, write_wav
from _web import CPU, client, client_of, form, table_bundle
from taskloom.deploy import load_bundle, web_app
from taskloom.errors import ConfigError, DataError, MissingExtraError
from taskloom.predict import PredictSettings
from taskloom.serve import app as serve_app
from taskloom.serve import uploads

ROW = {"a": 1, "b": 2.5, "c": -3}


def png(width: int = 40, height: int = 30) -> bytes:
    return cv2.imencode(".png", picture_with((4, 3), shape=(height, width)))[1].tobytes()


def error_of(answer: Any) -> tuple[int, str]:
    """Status and sentence of a refusal, which names no file by what it is called here."""
    assert set(answer.json()) == {"error"}, answer.text
    sentence = answer.json()["error"]
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert not re.search(r"[0-9a-f]{24}", sentence), sentence
    assert "taskloom-serve" not in sentence
    return answer.status_code, sentence


# -- requests at once


def at_once(app: FastAPI, requests: list[dict[str, Any]]) -> list[Any]:
    async def ask() -> list[Any]:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as web:
            return list(await asyncio.gather(*(web.post("/predict", **one) for one in requests)))

    return asyncio.run(ask())


def test_requests_at_once_get_their_own_answers(tmp_path: Path) -> None:
    bundle = load_bundle(table_bundle(tmp_path))
    rows = [{"a": number, "b": number / 3, "c": -number} for number in range(24)]
    features = torch.tensor([[row["a"], row["b"], row["c"]] for row in rows], dtype=torch.float32)
    fitted = bundle.preprocessing["standardization"]
    inputs = (features - torch.tensor(fitted["center"])) / torch.tensor(fitted["scale"])
    ages = bundle.predict(inputs.float())["age"].flatten()
    answers = at_once(web_app(bundle, CPU), [{"json": {"rows": [row]}} for row in rows])
    found = [answer.json()["rows"][0]["age"] for answer in answers]
    np.testing.assert_allclose(found, ages, rtol=1e-4)


def test_pictures_at_once_get_their_own_answers(tmp_path: Path) -> None:
    app = web_app(image_bundle(tmp_path), PredictSettings(detector="none", device="cpu"))
    draw = np.random.default_rng(0)
    pictures = [
        cv2.imencode(".png", draw.integers(0, 255, (20 + n, 30, 3), np.uint8))[1].tobytes() for n in range(8)
    ]
    one_by_one = [client_of(app).post("/predict", files=form(("p.png", one))).json() for one in pictures]
    together = at_once(app, [{"files": form(("p.png", one))} for one in pictures])
    assert [answer.json() for answer in together] == one_by_one
    assert [one["rows"][0]["height"] for one in one_by_one] == [20.0 + n for n in range(8)]


class _Waits(nn.Module):
    """A network that goes on when it is told."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.begun, self.go_on = network, threading.Event(), threading.Event()

    def forward(self, inputs: torch.Tensor) -> Any:
        self.begun.set()
        assert self.go_on.wait(20)
        return self.network(inputs)


def test_the_server_answers_while_a_network_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_app, "_MOST_WAITING", 1)
    bundle = load_bundle(table_bundle(tmp_path))
    waits = _Waits(bundle.model)
    app = web_app(dataclasses.replace(bundle, model=waits), CPU)  # type: ignore[arg-type]

    async def ask() -> list[int]:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as web:
            first = asyncio.create_task(web.post("/predict", json={"rows": [ROW]}))
            await asyncio.to_thread(waits.begun.wait, 20)
            healthy = await web.get("/health")
            second = await web.post("/predict", json={"rows": [ROW]})
            assert not first.done()
            waits.go_on.set()
            return [answer.status_code for answer in (healthy, second, await first)]

    assert asyncio.run(ask()) == [200, 503, 200]


# -- limits


def test_too_much_is_refused_before_and_while_it_is_read(tmp_path: Path) -> None:
    web = client(table_bundle(tmp_path), most_upload_bytes=2000)
    wide = ("new.csv", b"a,b,c\n" + b"1,2,3\n" * 400)
    status, sentence = error_of(web.post("/predict", files=form(wide)))
    assert status == 413
    assert "at most 0.00190735 MB a request" in sentence

    def unmeasured() -> Iterator[bytes]:
        yield b'{"rows": ['
        for _ in range(400):
            yield b'{"a": 1},'

    answer = web.post("/predict", content=unmeasured(), headers={"Content-Type": "application/json"})
    assert error_of(answer)[0] == 413
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n1\r\n'
        for _ in range(60)
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = web.post("/predict", content=iter([parts]), headers=kind)
    assert error_of(answer)[0] == 413
    assert web.post("/predict", json={"rows": [ROW]}).status_code == 200


def test_too_many_files_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST_FILES", 3)
    monkeypatch.setattr(serve_app, "MOST_ROWS", 5)
    web = client(table_bundle(tmp_path))
    status, sentence = error_of(web.post("/predict", files=form(*[(f"{n}.csv", b"a\n1") for n in range(4)])))
    assert status == 400
    assert "3" in sentence
    many = ("new.csv", b"a,b,c\n" + b"1,2,3\n" * 6)
    status, sentence = error_of(web.post("/predict", files=form(many)))
    assert status == 422
    assert "more than 5 rows" in sentence
    assert len(web.post("/predict?format=csv", files=form(many)).text.splitlines()) == 7


# -- names of files


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../../evil.csv", "evil.csv"),
        ("/etc/cron.d/evil.csv", "evil.csv"),
        ("C:\\Windows\\evil.csv", "evil.csv"),
        ("..", "upload"),
        ("x" * 3000 + ".csv", "x" * 196 + ".csv"),
        ("größe ☃ \u202e.csv", "größe ☃  .csv"),
        ("a\x00b\nc.csv", "a b c.csv"),
        ("%2e%2e%2fevil.csv", "%2e%2e%2fevil.csv"),
        ("<img src=x>.csv", "<img src=x>.csv"),
    ],
)
def test_names_of_files_are_no_paths(tmp_path: Path, temporary: Path, given: str, shown: str) -> None:
    assert uploads.shown_name(given) == shown
    bundle = table_bundle(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    web = client(bundle)
    answer = web.post("/predict", files=form((given, b"a,b,c\n1,2,3\n")))
    assert answer.status_code == 200, answer.text
    wrong = web.post("/predict", files=form((given, b"a,b,c\n1,2,\xff\n")))
    assert error_of(wrong)[0] == 422
    assert sorted(tmp_path.rglob("*")) == before


def test_recordings_of_one_name_are_two(tmp_path: Path) -> None:
    bundle, _ = trained(tmp_path, ".wav")
    write_wav(tmp_path / "a" / "word.wav", 1)
    write_wav(tmp_path / "b" / "word.wav", 2)
    web = client(bundle)
    files = form(tmp_path / "a" / "word.wav", tmp_path / "b" / "word.wav")
    rows = web.post("/predict", files=files).json()["rows"]
    first, second = (
        [{**row, "file": ""} for row in web.post("/predict", files=[one]).json()["rows"]] for one in files
    )
    assert [{**row, "file": ""} for row in rows if row["file"] == "word.wav"] == first
    assert [{**row, "file": ""} for row in rows if row["file"] == "word (2).wav"] == second


# -- mistakes


def test_mistakes_with_rows(tmp_path: Path) -> None:
    web = client(table_bundle(tmp_path, impute=None))
    for body, status, message in (
        ("{", 400, "JSON expected"),
        ("[" * 100_000, 400, "JSON expected"),
        ("[]", 400, "rows expected"),
        ('{"rows": []}', 400, "rows expected"),
        ('{"rows": [3]}', 400, "an object of feature and value expected as row 0"),
        ('{"rows": [{"a": [1]}]}', 400, "a number expected for `a` of row 0"),
        ('{"rows": [{"a": 1, "b": 2}]}', 422, "rows: column `c`, a feature of this bundle, is missing"),
        (
            '{"rows": [{"a": 1, "b": 2, "c": "x"}]}',
            422,
            "rows: row 1, column `c`: a number expected, found `x`",
        ),
        ('{"rows": [{"a": 1, "b": 2, "c": Infinity}]}', 422, "rows: row 1, column `c`: a number expected"),
        ('{"rows": [{"a": 1, "b": 2, "c": null}]}', 422, "rows: row 1, column `c`"),
        ('{"rows": [{"a": 1, "b": 2, "c": 3, " a": 4}]}', 422, "column `a` stands twice"),
        ('{"rows": [{"a": 1, "": 2}]}', 422, "a value without a name"),
        ('{"rows": [{"a": "\\ud800", "b": 2, "c": 3}]}', 422, "rows: text expected, found half a character"),
    ):
        answer = web.post("/predict", content=body, headers={"Content-Type": "application/json"})
        found, sentence = error_of(answer)
        assert (found, message in sentence) == (status, True), (body[:50], found, sentence)


def test_mistakes_with_files(tmp_path: Path) -> None:
    tables = client(table_bundle(tmp_path))
    pictures = client(image_bundle(tmp_path))
    words = client(trained(tmp_path / "words", ".wav")[0])
    for web, files, message in (
        (tables, [("new.csv", b"a,b\n1,2\n")], "new.csv: column `c`, a feature of this bundle, is missing"),
        (tables, [("new.csv", b"a,b,c\n1,2,x\n")], "new.csv:2: column `c`: a number expected, found `x`"),
        (tables, [("new.csv", b"")], "new.csv: the table is empty"),
        (tables, [("new.xlsx", b"PK")], "new.xlsx: a spreadsheet is not read"),
        (tables, [("new.parquet", b"PAR1")], "new.parquet: not a readable Parquet file"),
        (tables, [("a.csv", b"a"), ("b.csv", b"b")], "one table expected, found 2 files"),
        (tables, [("new.npy", b"x")], "new.npy: a table with the 3 features of this bundle"),
        (pictures, [("me.png", png()[:60])], "me.png: an image expected; the file is cut off"),
        (pictures, [("me.png", b"")], "me.png: an image expected; the file is empty"),
        (pictures, [("me.mp4", b"ftyp")], "me.mp4: a picture expected, found a video"),
        (words, [("w.wav", b"RIFF")], "w.wav: "),
        (words, [("w.mp3", b"ID3")], "w.mp3: a recording (.wav) expected"),
        (words, [("v.wav", b""), ("w.wav", b"")], "v.wav: none of the recordings can be predicted"),
    ):
        status, sentence = error_of(web.post("/predict", files=form(*files)))
        assert (status, sentence[: len(message)]) == (422, message)


def test_mistakes_with_requests(tmp_path: Path) -> None:
    tables = client(table_bundle(tmp_path))
    pictures = client(image_bundle(tmp_path))
    nothing = {"Content-Type": "multipart/form-data"}
    assert error_of(tables.post("/predict", content=b"x"))[0] == 415
    assert error_of(tables.post("/predict", content=b"x", headers=nothing))[0] == 400
    whole = {"Content-Type": "multipart/form-data; boundary=x"}
    assert error_of(tables.post("/predict", content=b"--y", headers=whole))[0] == 400
    other = tables.post("/predict", files=[("file", ("a.csv", b"a,b,c\n1,2,3"))])
    assert error_of(other) == (422, "form: no field `file` here. Did you mean `files`? Fields: files.")
    other = pictures.post("/predict", data={"person": "P"}, files=form(("a.png", png())))
    assert error_of(other) == (422, "form: no field `person` here. Fields: files.")
    text = tables.post("/predict", data={"files": "a,b"}, files=[("x", ("a", b"b"))])
    assert error_of(text)[0] == 400
    assert error_of(tables.post("/predict?format=xml", json={"rows": [ROW]}))[0] == 422
    assert error_of(tables.get("/predict"))[0] == 405
    assert error_of(tables.get("/docs"))[0] == 404
    status, sentence = error_of(pictures.post("/predict", json={"rows": [ROW]}))
    assert status == 422
    assert "rows go with bundles of tables" in sentence
    strange = {"Content-Type": 'multipart/form-data; boundary="\xff\xff"'.encode("latin-1")}
    assert error_of(tables.post("/predict", content=b"--x", headers=strange))[0] == 400


def test_whatever_bytes_come_it_is_said_in_a_sentence(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    bundles = {
        ".csv": table_bundle(tmp_path),
        ".png": image_bundle(tmp_path),
        ".wav": trained(tmp_path / "wav", ".wav")[0],
        ".edf": trained(tmp_path / "edf", ".edf")[0],
    }
    write_wav(tmp_path / "word.wav", 1)
    whole = {
        ".csv": b"a,b,c\n1,2,3\n4,5,6\n",
        ".png": png(),
        ".wav": (tmp_path / "word.wav").read_bytes(),
        ".edf": (tmp_path / "edf" / "data" / "3_0.edf").read_bytes(),
    }
    further = {".csv": [".parquet", ".tsv", ".npz", ""], ".png": [".jpg", ".webp", ".tif", ".gif", ".jp2"]}
    for suffix, bundle in bundles.items():
        web = client(bundle)
        good = whole[suffix]
        cut = [good[: len(good) * part // 7] for part in range(7)]
        for start in (0, 8, 30, 200):
            damaged = bytearray(good)
            damaged[start : start + 8] = draw.bytes(len(damaged[start : start + 8]))
            cut.append(bytes(damaged))
        marked = [b"\x89PNG" + draw.bytes(90) + b"IEND", b"RIFF" + draw.bytes(80)]
        noise = [draw.bytes(500), b"\x00" * 300, *marked]
        for content in (*cut, *noise):
            for other in (suffix, *further.get(suffix, [])):
                answer = web.post("/predict", files=form((f"x{other}", content)))
                if answer.status_code != 200:
                    assert error_of(answer)[0] == 422


def test_what_goes_wrong_inside_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = web_app(table_bundle(tmp_path), CPU)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("taskloom.serve.predictors.predict_table", fails)
    web = client_of(app)
    web._transport.raise_server_exceptions = False  # type: ignore[attr-defined]
    answer = web.post("/predict", json={"rows": [ROW]})
    assert error_of(answer) == (500, "the server failed; its terminal says why")


def test_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    app = web_app(table_bundle(tmp_path), CPU)
    reported = {name: value for name, value in app._telemetry.items() if isinstance(value, bool)}
    assert reported
    assert not any(reported.values())


def test_nothing_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    web = client(table_bundle(tmp_path))
    web.post("/predict", files=form(("secret.csv", b"a,b,c\n12345,2,3\n")))
    web.post("/predict", files=form(("secret.csv", b"a,b,c\n12345,2,x\n")))
    assert "secret" not in caplog.text
    assert "12345" not in caplog.text


# -- bundles and settings


def test_what_the_app_says_of_the_bundle(tmp_path: Path) -> None:
    path = table_bundle(tmp_path)
    about = client(path).get("/about").json()
    described = json.loads((path / "bundle.json").read_text())
    assert about["weights_sha256"] == described["weights"]["sha256"]
    assert about["versions"]["trained_with"] == described["versions"]
    assert about["inputs"]["features"] == ["a", "b", "c"]
    assert [(task["name"], task["unit"], task["classes"]) for task in about["tasks"]] == [
        ("age", "years", []),
        ("sex", "", ["F", "M"]),
        ("mood", "", ["calm", "glad", "sad"]),
    ]
    answer = client(path).post("/predict", json={"rows": [ROW]}).json()
    columns = ["row", *(column for task in about["tasks"] for column in task["columns"])]
    assert columns == [column["name"] for column in answer["columns"]]


def test_settings_are_those_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--detector: one of haar, dlib"):
        web_app(image_bundle(tmp_path), PredictSettings(detector="har"))
    tasks = tl.TaskSet(tl.Binary("ill"))
    network = tl.sharing.build("single_task", tl.encoders.mlp((2,), hidden=[3]), tasks)
    own = tl.deploy.Bundle(network.eval(), tasks, {}, {}, {"input_shape": [2]}, {})
    with pytest.raises(DataError, match="does not say what it has seen"):
        web_app(own)
    sets = {"near": {"reader": "table"}, "far": {"reader": "images"}}
    two = dataclasses.replace(own, preprocessing={"reader": "combined", "sets": sets})
    with pytest.raises(ConfigError, match="trained on several data sets"):
        web_app(two)


def test_without_its_packages_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MissingExtraError, match=r"fastapi is not installed.*pip install 'taskloom\[serve\]'"):
        tl.deploy.web_app("people.bundle")


def test_an_app_within_another(tmp_path: Path) -> None:
    mine = FastAPI()
    mine.mount("/people", web_app(table_bundle(tmp_path), CPU))
    web = client_of(mine)
    assert web.get("/people/health").json() == {"status": "ok"}
    answer = web.post("/people/predict", json={"rows": [ROW]})
    assert answer.json() == client(tmp_path / "people.bundle").post("/predict", json={"rows": [ROW]}).json()
    assert "people.bundle" in web.get("/people").text
