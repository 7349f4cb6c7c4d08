"""`taskloom serve` as a user types it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from _predict import image_bundle
from _web import table_bundle
from taskloom.cli import app
from taskloom.serve.server import _stoppable

RUNNER = CliRunner()


def test_it_serves_until_ctrl_c_and_says_nothing_of_what_it_saw(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "taskloom", "serve", str(table_bundle(tmp_path)), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert server.stdout is not None
        first, second = server.stdout.readline(), server.stdout.readline()
        assert first.split() == ["people.bundle", "age,", "sex,", "mood", "device", "cpu"]
        assert second.startswith("page     http://127.0.0.1:")
        with httpx2.Client(base_url=second.split()[1], trust_env=False) as web:
            files = [("files", ("secret.csv", b"a,b,c\n12345,2,3\n"))]
            assert web.post("/predict", files=files).json()["rows"][0]["row"] == 0
            wrong = [("files", ("secret.csv", b"a,b\n12345,2\n"))]
            assert web.post("/predict", files=wrong).status_code == 422
            assert web.get("/health").json() == {"status": "ok"}
        server.send_signal(signal.SIGINT)
        output, errors = server.communicate(timeout=30)
    finally:
        server.kill()
    assert (server.returncode, output, errors) == (0, "Stopped.\n", "")
    assert list(temporary.iterdir()) == []


def test_a_request_that_the_end_cuts_off_is_told_so() -> None:
    sent: list[dict[str, Any]] = []

    async def never_ends(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    async def take(message: dict[str, Any]) -> None:
        sent.append(message)

    async def cut_off() -> None:
        scope = {"type": "http", "method": "POST", "headers": []}
        request = asyncio.create_task(_stoppable(never_ends)(scope, None, take))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        request.cancel()
        await request  # raises nothing, of which a traceback would be printed

    asyncio.run(cut_off())
    assert sent[0]["status"] == 503
    assert sent[1]["body"] == b'{"error":"the server was stopped"}'


@pytest.fixture
def not_run(monkeypatch: pytest.MonkeyPatch) -> list[FastAPI]:
    """The apps that would have been run."""
    apps: list[FastAPI] = []
    monkeypatch.setattr("taskloom.serve.server.run", lambda app, taken: apps.append(app))
    return apps


def invoked(*arguments: object) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["serve", *map(str, arguments), "--device", "cpu"])
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.usefixtures("not_run")
def test_what_it_says_before(tmp_path: Path) -> None:
    bundle = table_bundle(tmp_path)
    note = "note everybody in this network can open it"
    code, output = invoked(bundle, "--port", 0)
    assert (code, note in output) == (0, False)
    code, output = invoked(bundle, "--port", 0, "--host", "0.0.0.0")
    assert (code, note in output) == (0, True)
    assert "page http://127.0.0.1:" in output
    code, output = invoked(image_bundle(tmp_path), "--port", 0, "--margin", 0.3)
    assert code == 0
    assert "note the network was trained on faces that no detector had cut" in output


def test_its_options_reach_the_app(tmp_path: Path, not_run: list[FastAPI]) -> None:
    given = ("--port", 0, "--max-upload", 0.5, "--allow-host", "one.example", "--allow-host", "two.example")
    assert invoked(image_bundle(tmp_path), *given, "--margin", 0.25, "--detect-side", 300)[0] == 0
    (found,) = not_run
    about = TestClient(found, base_url="http://two.example").get("/about").json()
    assert about["most_upload_bytes"] == 2**19
    assert about["inputs"]["faces"] == "detector haar, in pictures of at most 300 pixels; margin 0.25"
    assert TestClient(found, base_url="http://three.example").get("/about").status_code == 403


@pytest.mark.usefixtures("not_run")
def test_what_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = table_bundle(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert invoked(bundle, "--port", port) == (
            2,
            f"--port {port}: another program has this port; name another one, or 0 for any that is free.",
        )
    code, output = invoked(bundle, "--port", 0, "--host", "192.0.2.1")  # of nobody
    assert (code, output.startswith("--host 192.0.2.1: an address of this machine expected")) == (2, True)
    code, output = invoked(bundle, "--port", 0, "--choose", "some")
    assert (code, output) == (2, "--choose: all or largest expected, found `some`.")
    code, output = invoked(tmp_path / "no.bundle", "--port", 0)
    assert (code, "a bundle (a folder with bundle.json" in output) == (2, True)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert invoked(bundle) == (
        2,
        "uvicorn is not installed; it comes with an extra: pip install 'taskloom[serve]'.",
    )
