"""What `GET /openapi.json` says of the interface is what it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from _predict import image_bundle
from _recording_bundles import trained
from _web import client, table_bundle
from taskloom.predict import PredictSettings

_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def check(value: Any, schema: Mapping[str, Any], place: str = "answer") -> None:
    """Holds a value against a JSON schema (of the words that are used here)."""
    assert set(schema) <= {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "description",
    }
    if "enum" in schema:
        assert value in schema["enum"], place
        return
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    fits = [kind for kind in kinds if isinstance(value, _KINDS[kind])]
    assert fits, (place, value, kinds)
    assert not isinstance(value, bool) or "boolean" in kinds, place
    if isinstance(value, list):
        for number, entry in enumerate(value):
            check(entry, schema["items"], f"{place}[{number}]")
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value), place
        for name, entry in value.items():
            known = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            assert known is not None, f"{place}.{name}"
            check(entry, known, f"{place}.{name}")


@pytest.mark.parametrize("kind", ["images", "table", "recordings"])
def test_answers_are_what_the_description_says(tmp_path: Path, kind: str) -> None:
    files = []
    if kind == "images":
        web = client(image_bundle(tmp_path), PredictSettings(device="cpu", detector="none"))
        picture = cv2.imencode(".png", np.full((40, 40, 3), 90, np.uint8))[1].tobytes()
        files = [("files", ("face.png", picture)), ("files", ("none.png", b"no picture"))]
    elif kind == "table":
        web = client(table_bundle(tmp_path))
        files = [("files", ("new.csv", b"a,b,c\n1,2,3\n4,,6\n"))]
    else:
        bundle, *_ = trained(tmp_path, ".wav")
        web = client(bundle)
        sound = next(iter(sorted(tmp_path.rglob("*.wav")))).read_bytes()
        files = [("files", ("one.wav", sound)), ("files", ("none.wav", b"no sound"))]
    described = web.get("/openapi.json").json()
    predict = described["paths"]["/predict"]["post"]
    assert set(predict["responses"]) == {"200", "4XX", "5XX"}
    answer = web.post("/predict", files=files)
    assert answer.status_code == 200, answer.text
    schema = predict["responses"]["200"]["content"]["application/json"]["schema"]
    check(answer.json(), schema)
    if kind != "table":  # a row that could not be predicted is described, too
        assert any(row["problem"] for row in answer.json()["rows"])
    names = {column["name"] for column in answer.json()["columns"]}
    assert set(schema["properties"]["rows"]["items"]["required"]) < names
    mistake = predict["responses"]["4XX"]["content"]["application/json"]["schema"]
    for wrong in (web.post("/predict"), web.post("/predict?format=xml", files=files)):
        assert 400 <= wrong.status_code < 500
        check(wrong.json(), mistake)
    table = web.post("/predict?format=csv", files=files)
    assert table.headers["content-type"].partition(";")[0] in predict["responses"]["200"]["content"]
    assert "#/components" not in str(described["paths"])  # nothing that is answered by nobody
