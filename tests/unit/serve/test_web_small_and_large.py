"""Small requests that would take much memory, many at once, and what a network says where numbers end."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch import nn

from _predict import image_bundle
from _recording_bundles import trained, write_wav
from _web import CPU, client, form, table_bundle
from taskloom.deploy import load_bundle, web_app
from taskloom.errors import DataError
from taskloom.serve import app, predictors, uploads
from taskloom.serve.unpacked import check_picture, check_unpacked


def error_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


def test_small_files_that_hold_much(tmp_path: Path) -> None:
    pictures = client(image_bundle(tmp_path))
    whole = io.BytesIO()
    Image.new("1", (30000, 30000)).save(whole, "PNG")
    status, sentence = error_of(pictures.post("/predict", files=form(("big.png", whole.getvalue()))))
    assert status == 422
    assert sentence.startswith("big.png: ")
    assert "pixels" in sentence
    wide = io.BytesIO()
    ones = np.zeros(30_000_000, np.int8)
    pd.DataFrame({"a": ones, "b": ones, "c": ones}).to_parquet(wide)
    web = client(table_bundle(tmp_path))
    status, sentence = error_of(web.post("/predict", files=form(("wide.parquet", wide.getvalue()))))
    assert status == 422
    assert sentence.startswith("wide.parquet: holds 687 MB when it is unpacked")


def written(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, store_schema=False)
    return file.getvalue()


def test_a_long_text_counts_as_often_as_it_stands(tmp_path: Path) -> None:
    """Parquet holds it once: what is said of the file's size says nothing of it."""
    rows, long = 40_000, "y" * 20_000
    small = {name: np.ones(rows) for name in "abc"}
    web = client(table_bundle(tmp_path))
    for cells in ([long] * rows, [[long]] * rows, [{"in": long}] * rows, [[(long, long)]] * rows):
        kind = (
            pa.map_(pa.string(), pa.string()) if isinstance(cells[0], list) and cells[0][0] != long else None
        )
        content = written(pa.table({**small, "z": pa.array(cells, kind)}))
        assert len(content) < 20_000
        status, sentence = error_of(web.post("/predict", files=form(("new.parquet", content))))
        assert status == 422
        assert sentence.startswith("new.parquet: holds ")
    short = pa.table({**small, "z": pa.array(["y", None] * (rows // 2))})
    assert web.post("/predict?format=csv", files=form(("new.parquet", written(short)))).status_code == 200


def test_lists_count_by_what_they_hold(tmp_path: Path) -> None:
    cells = pa.ListArray.from_arrays(pa.array([0, 2_000_000]), pa.array(np.ones(2_000_000)))
    path = tmp_path / "new.parquet"
    path.write_bytes(written(pa.table({"a": [1.0], "z": cells})))
    assert path.stat().st_size < 100_000
    check_unpacked(path, "new.parquet", most=17_000_000)
    with pytest.raises(DataError, match=r"new\.parquet: holds 15 MB"):
        check_unpacked(path, "new.parquet", most=15_000_000)


def test_the_table_of_people_is_looked_at_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, _ = trained(tmp_path, ".wav")
    write_wav(tmp_path / "a" / "word.wav", 1)
    looked: list[str] = []
    monkeypatch.setattr(predictors, "check_unpacked", lambda _, name: looked.append(name))
    beside = ("people", ("who.csv", b"file,person\nword.wav,P\n"))
    client(bundle).post("/predict", files=[*form(tmp_path / "a" / "word.wav"), beside])
    assert looked == ["word.wav", "who.csv"]


def test_a_picture_of_unknown_size_is_not_decoded(tmp_path: Path) -> None:
    """OpenCV reads pictures of Radiance, whose runs make much of little; Pillow does not know them."""
    side = 2000
    runs = b"".join(bytes([128 + min(127, side - at), 1]) for at in range(0, side, 127))
    lines = (bytes([2, 2, side >> 8, side & 255]) + 4 * runs) * side
    content = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n" + f"-Y {side} +X {side}\n".encode() + lines
    web = client(image_bundle(tmp_path))
    for name in ("big.hdr", "big.png"):
        status, sentence = error_of(web.post("/predict", files=form((name, content))))
        assert status == 422
        assert sentence == (
            f"{name}: a picture expected whose size stands where it is looked for; save it as JPEG or PNG."
        )


def test_as_many_pixels_as_fit(tmp_path: Path) -> None:
    path = tmp_path / "me.png"
    Image.new("RGB", (20, 10)).save(path)
    check_picture(path, "me.png", most=600)
    with pytest.raises(DataError, match=r"me\.png: 20 x 10 pixels, at most 199 expected"):
        check_picture(path, "me.png", most=599)


def test_rows_of_different_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row has a cell of every name: some hundred thousand bytes would be many gigabytes."""
    web = client(table_bundle(tmp_path))
    rows = [{"a": 1, "b": 2, "c": 3, f"x{number}": 1} for number in range(7)]
    monkeypatch.setattr(uploads, "MOST_CELLS", 70)
    assert web.post("/predict", json={"rows": rows}).status_code == 200
    monkeypatch.setattr(uploads, "MOST_CELLS", 69)
    status, sentence = error_of(web.post("/predict", json={"rows": rows}))
    assert status == 422
    assert sentence.startswith("rows: at most 69 cells expected, found 7 rows of 10 names;")


def test_many_classes_make_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number, of two classes one and of three all: five values a row, and five columns."""
    web = client(table_bundle(tmp_path))
    rows = [{"a": number, "b": 2, "c": 3} for number in range(4)]
    for most, status in ((40, 200), (39, 422)):
        monkeypatch.setattr(app, "MOST_VALUES", most)
        assert web.post("/predict", json={"rows": rows}).status_code == status
    assert error_of(web.post("/predict", json={"rows": rows}))[1].startswith(
        "more than 3 rows of predictions are not held in memory; ask for the table, `predict?format=csv`, or"
    )
    assert len(web.post("/predict?format=csv", json={"rows": rows}).text.splitlines()) == 5


def test_rows_are_read_while_the_server_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}
    for room, name in ((uploads, "_rows"), (predictors, "rows_as_text")):
        plain = getattr(room, name)

        def told(given: Any, name: str = name, plain: Any = plain) -> Any:
            seen[name] = threading.get_ident()
            return plain(given)

        monkeypatch.setattr(room, name, told)
    served = client(table_bundle(tmp_path)).app
    loop: list[int] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        loop.append(threading.get_ident())
        await served(scope, receive, send)

    from starlette.testclient import TestClient

    web = TestClient(watched, base_url="http://localhost")
    assert web.post("/predict", json={"rows": [{"a": 1, "b": 2, "c": 3}]}).status_code == 200
    assert set(seen) == {"_rows", "rows_as_text"}
    assert not {*seen.values()} & {*loop}


class _Counts(nn.Module):
    """A network that says by how many requests at most it was used at once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.lock, self.inside, self.most = network, threading.Lock(), 0, 0

    def forward(self, inputs: torch.Tensor) -> Any:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.02)  # another thread would come in
        outputs = self.network(inputs)
        with self.lock:
            self.inside -= 1
        return outputs


def test_one_request_at_a_time_is_in_the_network(tmp_path: Path) -> None:
    """Networks and detectors of faces need not bear several threads."""
    bundle = load_bundle(table_bundle(tmp_path))
    counts = _Counts(bundle.model)
    served = web_app(dataclasses.replace(bundle, model=counts), CPU)  # type: ignore[arg-type]

    async def ask() -> list[int]:
        transport = httpx2.ASGITransport(app=served)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as web:
            one = {"rows": [{"a": 1, "b": 2, "c": 3}]}
            answers = await asyncio.gather(*(web.post("/predict", json=one) for _ in range(6)))
            return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [200] * 6
    assert counts.most == 1


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    """Browsers refuse an answer with NaN in it."""
    bundle = load_bundle(table_bundle(tmp_path))
    with torch.no_grad():
        for weights in bundle.model.parameters():
            weights.fill_(float("nan"))
    answer = client(dataclasses.replace(bundle)).post("/predict", json={"rows": [{"a": 1, "b": 2, "c": 3}]})

    def refuse(text: str) -> None:
        raise AssertionError(text)

    found = json.loads(answer.text, parse_constant=refuse)
    assert found["rows"][0]["age"] is None
    assert set(found["probabilities"][0]["mood"].values()) == {None}
