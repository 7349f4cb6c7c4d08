"""The page asks nobody but its own server, and other sites' pages do not get an answer."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import taskloom as tl
from _predict import image_bundle
from _recording_bundles import trained
from _web import CPU, client, client_of, table_bundle
from taskloom.deploy import Bundle, load_bundle, web_app

ROWS = {"rows": [{"a": 1, "b": 2, "c": 3}]}


class _Page(HTMLParser):
    """What a page loads, runs and is labelled by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self.labelled: set[str] = set()
        self.fields: list[dict[str, str | None]] = []
        self._inside = ""
        self._in_label = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.loads += [str(given[name]) for name in ("src", "href", "action", "data") if name in given]
        self.handlers += [name for name in given if name.startswith("on") or name == "style"]
        self._inside = tag if tag == "script" and given.get("type") is None else ""
        if tag == "label":
            self._in_label = True
            self.labelled.add(str(given.get("for")))
        if tag == "input":
            self.fields.append({**given, "within": "label" if self._in_label else None})

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        self._in_label = self._in_label and tag != "label"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts.append(data)


@pytest.fixture(params=["table", "images", "recordings"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make = {"table": table_bundle, "images": image_bundle, "recordings": lambda f: trained(f, ".wav")[0]}
    return make[request.param](tmp_path)


def test_the_page_needs_nothing_from_elsewhere(bundle: Path) -> None:
    answer = client(bundle).get("/")
    page = _Page(answer.text)
    assert page.loads == ["data:,"]
    assert page.handlers == []
    assert not re.findall(r"(?<!as )https?://(?!localhost)", answer.text)
    assert not re.findall(r"@import|url\(", answer.text)
    # What it runs is what its policy lets run, and nothing else can be loaded or asked.
    (script,) = page.scripts
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'sha256-{digest}'"
    assert policy["connect-src"] == "'self'"
    assert not re.findall(r"https?:|\*|unsafe", answer.headers["content-security-policy"])


def test_every_field_of_the_page_has_a_label(bundle: Path) -> None:
    page = _Page(client(bundle).get("/").text)
    assert page.fields
    assert all(field["within"] or field.get("id") in page.labelled for field in page.fields)


def test_names_of_a_bundle_are_text_on_its_page() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    tasks = tl.TaskSet(tl.Binary(evil, (evil, "no")))
    network = tl.sharing.build("single_task", tl.encoders.mlp((2,), hidden=[3]), tasks)
    how = {"reader": "table", "features": [evil, '"b'], "packed_bits": None, "standardization": None}
    about = {"cell": evil, "data": {"sources": {"jane_doe.wav": ""}, "rows": {"train": 1203}}}
    app = web_app(Bundle(network.eval(), tasks, how, about, {"input_shape": [2]}, {evil: evil}), CPU)
    page = _Page(client_of(app).get("/").text)
    assert len(page.scripts) == 1
    assert page.loads == ["data:,"]
    assert page.handlers == []
    assert [field["name"] for field in page.fields if "name" in field] == [evil, '"b']
    assert client_of(app).get("/about").json()["name"] == evil
    # Names of the training's files may be people's.
    assert "trained on 1,203 rows" in client_of(app).get("/").text
    assert "jane_doe" not in client_of(app).get("/").text + client_of(app).get("/about").text


def test_a_page_of_categories_of_which_training_knew_none() -> None:
    tasks = tl.TaskSet(tl.Binary("ill", ("no", "yes")))
    network = tl.sharing.build("single_task", tl.encoders.mlp((3,), hidden=[3]), tasks)
    scaled = {"center": [2.5, 0.0, 0.0], "scale": [1.0, 1.0, 1.0], "fill": None}
    how = {"reader": "table", "packed_bits": None, "standardization": scaled}
    how |= {"features": ["a", "job=cook", "sex=F"], "categories": {"job": [None], "sex": ["F"]}}
    web = client_of(web_app(Bundle(network.eval(), tasks, how, {}, {"input_shape": [3]}, {}), CPU))
    inputs = web.get("/about").json()["inputs"]
    assert (inputs["features"], inputs["means"]) == (["a", "job", "sex"], [2.5])
    assert inputs["categories"] == {"job": [], "sex": ["F"]}
    assert '{"rows": [{"a": 1, "job": "", ...}]}' in web.get("/").text


def test_the_page_shows_what_the_bundle_was_judged_on(tmp_path: Path) -> None:
    path = table_bundle(tmp_path)
    described = json.loads((path / "bundle.json").read_text())
    described["about"]["test"] = {
        "age": {"mae": {"value": 5.614, "low": 5.2, "high": 6.01, "labels": 1203}},
        "sex": {"accuracy": {"value": None, "low": None, "high": None, "labels": 0}},
        "mood": {"accuracy": {"value": 0.5, "low": None, "high": None, "labels": 4}},
    }
    described["about"]["cell"] = "hard sharing 1"
    described["about"]["run"] = {"seed": 7}
    (path / "bundle.json").write_text(json.dumps(described))
    page = client(path).get("/").text
    for text in ("5.61 years MAE [5.20, 6.01]", "1,203", "50.0 % accuracy<", "hard sharing 1", "seed 7"):
        assert text in page
    reached = client(path).get("/about").json()["test"]
    assert [(one["task"], one["value"]) for one in reached] == [("age", 5.614), ("mood", 0.5)]


def test_only_names_of_this_server_are_answered(tmp_path: Path) -> None:
    web = client(table_bundle(tmp_path))
    own = ["localhost", "LOCALHOST:8000", "127.0.0.1", "192.168.4.7:80", "[::1]:8000", socket.gethostname()]
    for host in own:
        assert web.get("/about", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil", "[::1", "a@b"):
        for method, path in (("GET", "/"), ("GET", "/about"), ("POST", "/predict")):
            answer = web.request(method, path, headers={"Host": host})
            assert answer.status_code == 403, host
            assert set(answer.json()) == {"error"}
    named = client(tmp_path / "people.bundle", hosts=["faces.example"])
    assert named.get("/about", headers={"Host": "faces.example:8443"}).status_code == 200
    assert named.get("/about", headers={"Host": "evil.example"}).status_code == 403
    anyone = client(tmp_path / "people.bundle", hosts=["*"])
    assert anyone.get("/about", headers={"Host": "evil.example"}).status_code == 200


def test_pages_of_other_sites_get_no_prediction(tmp_path: Path) -> None:
    web = client(table_bundle(tmp_path))

    def status(**headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.post("/predict", json=ROWS, headers=sent).status_code

    assert status() == 200  # a program, not a browser
    assert status(Origin="http://localhost") == 200
    assert status(Origin="http://localhost:8000", Host="localhost:8000") == 200
    assert status(Sec_Fetch_Site="same-origin") == 200
    for origin in ("http://evil.example", "null", "http://localhost:9", "http://localhost.evil.example", ""):
        assert status(Origin=origin) == 403, origin
    for site in ("cross-site", "same-site"):
        assert status(Sec_Fetch_Site=site, Origin="http://localhost") == 403, site
    # behind a proxy, under a name that was given
    behind = client(tmp_path / "people.bundle", hosts=["faces.example"])
    given = {"Origin": "https://faces.example"}
    assert behind.post("/predict", json=ROWS, headers=given).status_code == 200


def test_no_answer_may_be_read_by_another_site(tmp_path: Path) -> None:
    web = client(table_bundle(tmp_path))
    from_elsewhere = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        web.options("/predict", headers=from_elsewhere),
        web.get("/about", headers=from_elsewhere),
        web.get("/", headers=from_elsewhere),
        web.post("/predict", json=ROWS),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_the_means_of_the_training_rows_stand_in_the_fields(tmp_path: Path) -> None:
    bundle = table_bundle(tmp_path)
    center = load_bundle(bundle).preprocessing["standardization"]["center"]
    rows = pd.read_csv(tmp_path / "people.csv")[["a", "b", "c"]]
    np.testing.assert_allclose(center, rows.mean(), atol=1)  # three fifths of the rows train
    web = client(bundle)
    assert web.get("/about").json()["inputs"]["means"] == center
    assert re.findall(r'placeholder="([^"]*)"', web.get("/").text) == [f"{mean:.4g}" for mean in center]
